"""What a gate knows of a run: statistics without text, ids as HMACs. A baseline file is that, written down.

The ids are keyed by a hash of the reference texts, so only holders of the data can link them. Statistics inherit the
access of their data (they hold its labels): files are their owner's alone, and those of credentialed data are refused
wherever something becomes public. No torch, no texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbench.atomic import replacing
from cxrbench.data.samples import cluster_unit, clusters_of
from cxrbench.errors import CxrbenchError, Exit, suggest
from cxrbench.gate_policy import gates_folder
from cxrbench.hashed_ids import hashed_id, reference_key
from cxrbench.metrics.base import FAILED, Floats, Metric
from cxrbench.scores import is_dummy, load_scores, metrics_here, read_summary
from cxrbench.scoring import Scored
from cxrbench.stats import Table
from cxrbench.store import RunFolder, canonical, identity_hash
from cxrbench.summary import unanswered
from cxrbench.tables import read_samples
from cxrbench.types import CLUSTERS, BatchTiming

FORMAT = 1
SUFFIX = ".parquet"
NO_FIGURES = ("machine", "measured")
"""What of a speed says where and how it was measured."""
_META = b"cxrbench-gate"


@dataclass(frozen=True, slots=True)
class Column:
    """One metric of a run: its signature, rows (n, k) with repeats averaged, and which samples it could not score."""

    metric: Metric
    signature: str
    rows: Floats
    failed: NDArray[np.bool_]

    @property
    def table(self) -> Table:
        """What the statistics work on."""
        return Table(self.rows, self.metric)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A run as a gate sees it.

    `ids` and `clusters` are HMACs of the n samples and their patients, in one order; `columns` are metrics by key.
    `about` holds task, data fingerprint, inputs, limit, access, model, run (identity hash), n, n_expected,
    cluster_unit, outcomes, truncated_share, speed, machine, batches, required and the version of cxrbench.
    `where` is for messages.
    """

    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    columns: Mapping[str, Column]
    about: Mapping[str, Any]
    where: str

    @property
    def public(self) -> bool:
        """Whether its statistics may be published."""
        return bool(self.about["access"] == "open")


def evidence_of(run: RunFolder) -> Evidence:
    """What a gate needs of a scored run: every metric that has a number with an interval.

    Raises:
        CxrbenchError: it is not scored, its model had random weights, or samples are not answered.
    """
    manifest = run.manifest()
    if is_dummy(manifest):
        raise CxrbenchError(
            "a run of random weights is never gated", where=str(run.path), fix="run the model with its own weights"
        )
    summary = read_summary(run)
    missing = unanswered(summary)
    if missing:
        raise CxrbenchError(
            f"the run is not complete: {missing[0]}", where=str(run.path), fix="repeat its command, then ask the gate",
            code=Exit.UNDECIDED,
        )  # fmt: skip
    stored = read_samples(run.samples_file)
    key = reference_key(stored.samples)
    chosen = stored.chosen
    scored = [each for each in load_scores(run) if any(value.interval for value in each.metric.values.values())]
    identity = manifest.identity
    return Evidence(
        ids=tuple(hashed_id(key, "sample", sample.sample_id) for sample in chosen),
        clusters=tuple(hashed_id(key, "cluster", cluster) for cluster in clusters_of(chosen)),
        columns={each.metric.key: _column(each) for each in scored},
        about={
            "task": dict(identity["task"]),
            "data": identity["data"],
            "inputs": identity["inputs"],
            "limit": identity["limit"],
            "images": identity.get("images"),
            "access": manifest.access,
            "model": identity["model"].get("name", ""),
            "run": identity_hash(identity),
            "cluster_unit": cluster_unit(chosen, manifest.cluster_unit),
            **{name: summary.get(name) for name in ("n", "n_expected", "outcomes", "truncated_share", "cxrbench")},
            "required": list(summary["required"]),
            "speed": {name: value for name, value in summary.get("speed", {}).items() if name not in NO_FIGURES},
            "machine": _machine(manifest.circumstances, manifest.batch_size),
            "batches": _batches(run.batches()) if summary.get("speed") else [],
        },
        where=str(run.path),
    )


def _column(scored: Scored) -> Column:
    statistics = scored.statistics
    assert statistics is not None, "load_scores returns scored metrics only"
    return Column(scored.metric, scored.signature, scored.rows(), (statistics.status == FAILED).any(axis=1))


_SAME_MACHINE = ("device", "gpu", "gpu_memory", "cpus", "threads")


def _machine(circumstances: Sequence[Mapping[str, Any]], batch_size: int) -> dict[str, Any]:
    """What must be equal for two speeds to be comparable; a run made in parts on several machines has no machine.

    A GPU is known by its name and memory, a processor by its host (hashed: the name tells where data lie).
    """
    made_on = [_made_on(part) for part in circumstances]
    if not made_on or any(each != made_on[0] for each in made_on):
        return {}
    return {**made_on[0], "batch_size": batch_size}


def _made_on(part: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: part[name] for name in _SAME_MACHINE if part.get(name) is not None}
    if "gpu" not in known:
        known["host"] = hashed_id(b"cxrbench host", "host", f"{part.get('host')} {part.get('platform')}")
    return known


def _batches(timings: Sequence[BatchTiming]) -> list[list[float]]:
    """[number, reports, seconds of the window that belong to it] of each batch.

    Batches of a segment follow each other, so the seconds from the end of one to the end of the next, reading of images
    included, add up to the window of docs/speed.md.
    """
    out: list[list[float]] = []
    before: dict[int, float] = {}
    for timing in timings:
        ended = timing.ended or 0.0
        out.append([timing.batch, timing.size, ended - before.get(timing.segment, 0.0)])
        before[timing.segment] = ended
    return out


def aligned(baseline: Evidence, candidate: Evidence) -> list[int]:
    """Where each sample of the baseline stands in the candidate.

    Raises:
        CxrbenchError: other samples, or the same ones of other patients.
    """
    place = {name: number for number, name in enumerate(candidate.ids)}
    same = len(baseline.ids) == len(candidate.ids) and all(name in place for name in baseline.ids)
    order = [place[name] for name in baseline.ids] if same else []
    if not same or baseline.clusters != tuple(candidate.clusters[number] for number in order):
        raise CxrbenchError(
            "the run and the baseline do not hold the same samples of the same patients",
            where=f"{baseline.where} and {candidate.where}",
            fix="make the baseline again from a run on these data: cxrbench gate baseline RUN -o FILE",
            code=Exit.UNDECIDED,
        )
    return order


def reordered(evidence: Evidence, order: Sequence[int]) -> Evidence:
    """The same evidence with its samples in another order."""
    at = np.asarray(order, np.intp)
    return replace(
        evidence,
        ids=tuple(evidence.ids[number] for number in order),
        clusters=tuple(evidence.clusters[number] for number in order),
        columns={
            key: replace(column, rows=column.rows[at], failed=column.failed[at])
            for key, column in evidence.columns.items()
        },
    )


def write_baseline(evidence: Evidence, file: Path, *, public: bool = False) -> None:
    """Write a baseline file, for its owner alone; `public` lets everybody read it.

    Raises:
        CxrbenchError: it should be public and its data are credentialed.
    """
    import pyarrow
    import pyarrow.parquet as pq

    if public:
        refuse_public(evidence, f"{file}")
    columns: dict[str, Any] = {"id": list(evidence.ids), "cluster": list(evidence.clusters)}
    metrics = {}
    for key, column in sorted(evidence.columns.items()):
        metrics[key] = {"signature": column.signature, "width": column.rows.shape[1]}
        columns[f"{key}/failed"] = column.failed
        columns |= {f"{key}/{number}": column.rows[:, number] for number in range(column.rows.shape[1])}
    meta = canonical({"format": FORMAT, "about": evidence.about, "metrics": metrics})
    table = pyarrow.table(columns).replace_schema_metadata({_META: meta})
    with replacing(file) as handle:
        pq.write_table(table, handle, compression="zstd")
    if public:
        file.chmod(0o644)


def refuse_public(evidence: Evidence, sink: str) -> None:
    """The guard of everything public: statistics per sample of credentialed data never go there.

    Raises:
        CxrbenchError: the evidence is of credentialed data.
    """
    if not evidence.public:
        raise CxrbenchError(
            "a baseline of credentialed data stays private: its statistics hold the labels of its reports",
            where=sink,
            fix="leave out --public, and keep the file where the data are kept",
        )


def read_baseline(file: Path) -> Evidence:
    """Read what `write_baseline` wrote.

    Raises:
        CxrbenchError: it is no baseline, of another format, or damaged.
    """
    import pyarrow
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (OSError, pyarrow.ArrowException, ValueError) as error:
        raise _no_baseline(file) from error
    raw = (table.schema.metadata or {}).get(_META)
    if raw is None:
        raise _no_baseline(file)
    try:
        return _evidence(table, json.loads(raw), file)
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError, pyarrow.ArrowException) as error:
        raise _no_baseline(file) from error


def _evidence(table: Any, meta: Any, file: Path) -> Evidence:
    if meta.get("format") != FORMAT:
        raise CxrbenchError(
            f"the baseline has format {meta.get('format')}, this cxrbench reads format {FORMAT}",
            where=str(file),
            fix="make it again: cxrbench gate baseline RUN -o FILE",
        )
    columns = {}
    for metric in metrics_here(meta["metrics"], str(file)):
        key, body = metric.key, meta["metrics"][metric.key]
        rows = np.stack([table[f"{key}/{number}"].to_numpy() for number in range(body["width"])], axis=1)
        failed = table[f"{key}/failed"].to_numpy().astype(bool)
        columns[key] = Column(metric, body["signature"], rows, failed)
    ids, clusters = (tuple(table[name].to_pylist()) for name in ("id", "cluster"))
    if meta["about"]["cluster_unit"] not in CLUSTERS:
        raise ValueError("clusters of a kind that is not known")
    return Evidence(ids, clusters, columns, meta["about"], str(file))


def _no_baseline(file: Path) -> CxrbenchError:
    return CxrbenchError(
        "the file is no baseline of a gate, or it is damaged", where=str(file), fix="cxrbench gate baseline RUN -o FILE"
    )


def shipped_baselines() -> dict[str, Path]:
    """Baselines of open tasks that travel with cxrbench, by name."""
    return {file.stem: file for file in sorted(gates_folder().glob(f"*{SUFFIX}"))}


def find_baseline(text: str) -> tuple[Evidence, str | None]:
    """A baseline by its file, a run folder, or the name of a shipped one; with that name in the last case.

    Raises:
        CxrbenchError: there is no such thing.
    """
    path = Path(text)
    if path.is_dir():
        run = RunFolder(path)
        if run.exists():
            return evidence_of(run), None
    elif path.is_file():
        return read_baseline(path), None
    known = shipped_baselines()
    if text in known:
        return read_baseline(known[text]), text
    raise CxrbenchError(
        f"there is no baseline {text!r}{suggest(text, known)}",
        where="--baseline",
        fix=f"a file of `cxrbench gate baseline RUN -o FILE`, a run folder, or one of: {', '.join(known) or 'none'}",
    )
