"""What a run came to, as one JSON object: `--json` prints it, summary.json is the same, tables are drawn from it.

Values are unrounded. Beside every score stands how many of how many samples it rests on; beside every speed, how it
was measured. No torch.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cxrbench.data.samples import cluster_unit, clusters_of
from cxrbench.scoring import unwatched
from cxrbench.spool import LIMIT, Each, Ids
from cxrbench.stats import Interval, Table, bootstrap, point
from cxrbench.types import MISSING, Access, BatchTiming, ClusterUnit, Manifest, Prediction, Sample

if TYPE_CHECKING:
    from cxrbench.scoring import Progress, Scored


@dataclass(frozen=True, slots=True)
class Confidence:
    """How intervals are made. `replicates` 0: none are made."""

    level: float = 0.95
    method: str = "bca"
    replicates: int = 10_000
    seed: int = 0


def number(value: float) -> float | None:
    """JSON has no NaN: a value that is 0/0 becomes null."""
    return None if math.isnan(value) else value


def metric_entry(scored: Scored, intervals: Mapping[str, Interval], values: Mapping[str, float]) -> dict[str, Any]:
    """The numbers of one metric: value name -> value, interval, n, failed, signature, direction.

    `rests_on` stands beside a value that rests on a part of the n scored samples: how many that is.
    """
    out = {}
    for name, value in values.items():
        about = scored.metric.values.get(name)
        found = intervals.get(name)
        with_interval = found is not None and found.low is not None and (about is None or about.interval)
        out[name] = {
            "value": number(value),
            "ci": [found.low, found.high] if with_interval and found is not None else None,
            "ci_method": found.method if with_interval and found is not None else "none",
            "n": scored.n,
            "failed": scored.failed,
            "signature": scored.signature,
            "higher_is_better": about.higher_is_better if about is not None else None,
            "unit": about.unit if about is not None else "",
            "primary": about.primary if about is not None else False,
        }
        if about is not None and about.counted_by:
            out[name]["rests_on"] = round(values[about.counted_by])
        if found is not None and found.note:
            out[name]["note"] = found.note
        if scored.pending:
            out[name]["pending"] = scored.pending
    return out


def metric_entries(
    results: Sequence[Scored], clusters: Sequence[str], confidence: Confidence, progress: Progress = unwatched
) -> dict[str, dict[str, Any]]:
    """Numbers and intervals of all metrics that were scored, from the same resampled patients."""
    tables = {each.metric.key: Table(each.kept_rows(), each.metric) for each in results if each.statistics is not None}
    by_key = {each.metric.key: each for each in results}
    resampled = {
        key: table for key, table in tables.items() if any(v.interval for v in by_key[key].metric.values.values())
    }
    intervals: dict[str, dict[str, Interval]] = {}
    if confidence.replicates and resampled:
        method: Any = confidence.method
        intervals = bootstrap(
            resampled, clusters, method=method, level=confidence.level, replicates=confidence.replicates,
            seed=confidence.seed, progress=partial(progress, "resampling"),
        )  # fmt: skip
    entries = {}
    for key, table in tables.items():
        scored = table.scored
        scored_only = table if scored.all() else table.take(scored)
        entries[key] = metric_entry(by_key[key], intervals.get(key, {}), point(scored_only))
    return entries


def distinct_entry(samples: Sequence[Sample], predictions: Mapping[str, Prediction]) -> dict[str, int]:
    """How many different texts there are among the reports (equal but for whitespace), and among their references.

    A constant report can score well on words, so these counts stand beside every score, whatever was scored.
    """
    count, reports, references = 0, bytearray(), bytearray()
    for sample in samples:
        row = predictions.get(sample.sample_id)
        if row is not None and not row.failed and row.artifact is None:
            count += 1
            reports += _words_hash(row.text or "")
            references += _words_hash(sample.target)
    return {"reports": count, "distinct": _distinct(reports), "reference_distinct": _distinct(references)}


def _distinct(hashes: bytearray) -> int:
    """How many different hashes of `_words_hash` stand in a row."""
    found = np.frombuffer(hashes, f"S{_HASH}")
    found.sort()  # in place: there may be hundreds of thousands
    return len(found) and 1 + int(np.count_nonzero(found[1:] != found[:-1]))


_HASH = 16
"""Bytes of a hash: of a million texts two have the same with a chance of 1e-27."""


def _words_hash(text: str) -> bytes:
    """Bytes for the words of a text: hundreds of thousands of texts are not kept to count them."""
    words = " ".join(text.split())
    return hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=_HASH).digest()


def answered_rows(samples: Sequence[Sample], predictions: Mapping[str, Prediction]) -> Sequence[Prediction]:
    """The predictions of samples that have one, in their order; of many, each is read when it is its turn."""
    ids = Ids(sample.sample_id for sample in samples if sample.sample_id in predictions)
    if len(ids) > LIMIT:
        return Each(len(ids), lambda place: predictions[ids.at(place)])
    return tuple(predictions[each] for each in ids)


def slice_entries(
    samples: Sequence[Sample],
    results: Sequence[Scored],
    slices: Sequence[str],
    confidence: Confidence,
    progress: Progress = unwatched,
) -> dict[str, dict[str, Any]]:
    """The primary numbers within each subgroup the task tabulates: slice -> group -> n, clusters, metrics."""
    out: dict[str, dict[str, Any]] = {}
    scored = [each for each in results if each.statistics is not None]
    clusters = clusters_of(samples) if slices else ()
    for position, name in enumerate(slices):
        progress("slices", position, len(slices))
        groups: dict[str, list[int]] = defaultdict(list)
        for i, sample in enumerate(samples):
            groups[sample.subgroups.get(name, "unknown")].append(i)
        out[name] = {
            group: _slice_entry([clusters[i] for i in index], scored, index, confidence)
            for group, index in sorted(groups.items())
        }
    return out


def _slice_entry(
    clusters: Sequence[str], scored: Sequence[Scored], index: Sequence[int], confidence: Confidence
) -> dict[str, Any]:
    tables = {each.metric.key: Table(each.rows()[list(index)], each.metric) for each in scored}
    intervals = {}
    if confidence.replicates:
        # Percentile and a tenth of the replicates: a table of subgroups is for orientation, not for a verdict.
        additive = {key: table for key, table in tables.items() if table.metric.additive}
        intervals = bootstrap(
            additive, clusters, method="percentile", level=confidence.level,
            replicates=max(100, confidence.replicates // 10), seed=confidence.seed,
        )  # fmt: skip
    metrics: dict[str, dict[str, Any]] = {}
    for each in scored:
        table = tables[each.metric.key]
        values = point(table.take(table.scored))
        metrics[each.metric.key] = {}
        for name, about in each.metric.values.items():
            if about.primary and name in values:
                found = intervals.get(each.metric.key, {}).get(name)
                given = found if found is not None and found.low is not None and about.interval else None
                metrics[each.metric.key][name] = {
                    "value": number(values[name]),
                    "ci": [given.low, given.high] if given is not None else None,
                    "ci_method": given.method if given is not None else "none",
                    "replicates": given.replicates if given is not None else 0,
                    "n": int(table.scored.sum()),
                } | ({"note": found.note} if found is not None and found.note else {})
    return {"n": len(index), "clusters": len(set(clusters)), "metrics": metrics}


def measured_entry(manifest: Manifest, batches: Sequence[BatchTiming]) -> dict[str, str]:
    """How the speed of a run was measured, in words: what stands beside reports_per_s wherever it is shown.

    What differs between the parts of a run is named for each of them.
    """
    model, parts = manifest.identity["model"], len({batch.segment for batch in batches})
    slots = sorted({batch.slots for batch in batches if batch.slots is not None})

    def over(*keys: str) -> str:
        found = ([str(part[key]) for key in keys if key in part][:1] for part in manifest.circumstances)
        return ", ".join(dict.fromkeys(value for values in found for value in values))

    worlds = [str(each) for each in dict.fromkeys(part.get("world", 1) for part in manifest.circumstances)]
    several = bool(set(worlds) - {"1"})
    made = {
        "scope": "end to end: first image read to last text written; engine_reports_per_s without reading"
        + (", per worker" if several else ""),
        "engine": str(model.get("engine", "")),
        "dtype": str(model.get("dtype", "")),
        "device": over("gpu", "device"),
        "cpus": over("cpus"),
        "workers": ", ".join(worlds) if several else "",
        "batch": str(manifest.batch_size),
        "slots": " to ".join(str(each) for each in dict.fromkeys((*slots[:1], *slots[-1:]))),
        "readers": over("readers"),
        "lengths": "natural",
        "warm_up": "included: the first batch counts; loading the model does not",
        "parts": str(parts) if parts < 2 else f"{parts}: interrupted and resumed, each with its own warm-up",
    }
    return {key: value for key, value in made.items() if value}


@dataclass(slots=True)
class _Measured:
    """What the rows of a run say about its speed, gathered in one pass."""

    reports: int = 0
    words: int = 0
    tokens: array[int] = field(default_factory=lambda: array("q"))
    latencies: array[float] = field(default_factory=lambda: array("d"))
    stages: dict[str, array[float]] = field(
        default_factory=lambda: {"image_read": array("d"), "preprocess": array("d")}
    )

    @classmethod
    def of(cls, predictions: Iterable[Prediction], timed: Collection[int]) -> _Measured:
        """Gather; reports count when their batch has a time."""
        found = cls()
        for row in predictions:
            for stage, known in found.stages.items():
                if stage in row.times:
                    known.append(row.times[stage])
            if row.failed or row.batch not in timed:
                continue
            found.reports += 1
            found.words += len((row.text or "").split())
            if row.output_tokens is not None:
                found.tokens.append(row.output_tokens)
            if "latency" in row.times:
                found.latencies.append(row.times["latency"])
        return found


def speed_entry(
    predictions: Sequence[Prediction],
    batches: Sequence[BatchTiming],
    machine: Mapping[str, Any],
    measured: Mapping[str, str],
) -> dict[str, Any]:
    """Speed of the run by the definitions of docs/speed.md; stages that overlap are never summed.

    reports_per_s = reports / wall time of the measured windows, a window running from the first image read of a
    segment to the last text decoded in it; reports of a batch without a time do not count. Latencies are per sample,
    as the model measured them. engine_reports_per_s = reports / wall time of the batches, so where several workers
    answered beside each other it is the rate of one of them. Stage times are wall seconds of all batches together
    (encode, prefill, decode), or means per sample (image_read, preprocess). `measured` says how (`measured_entry`).
    """
    windows: dict[int, float] = {}
    # A batch none of whose rows is there (a file that was cut) lends no time to the rows of the others.
    answered = {row.batch for row in predictions}
    batches = [batch for batch in batches if batch.batch in answered]
    for batch in batches:
        windows[batch.segment] = max(windows.get(batch.segment, 0.0), batch.ended or 0.0)
    seconds = sum(windows.values())
    # A process killed between writing the rows of a batch and its time leaves reports whose time nobody knows.
    timed = {batch.batch for batch in batches}
    found = _Measured.of(predictions, timed)
    entry: dict[str, Any] = {"reports": found.reports, "seconds": seconds, "segments": len(windows)}
    if seconds > 0:
        entry |= {"reports_per_s": found.reports / seconds, "words_per_s": found.words / seconds}
        engine = sum(batch.wall for batch in batches)
        entry |= {"engine_reports_per_s": found.reports / engine} if engine > 0 else {}
        tokens = found.tokens
        if tokens:
            entry |= {"tokens_per_s": sum(tokens) / seconds, "tokens_per_report": sum(tokens) / len(tokens)}
    latencies = np.sort(np.asarray(found.latencies))
    if len(latencies):
        entry["latency_p50"] = float(np.quantile(latencies, 0.5))
        if len(latencies) >= 100:
            entry["latency_p90"] = float(np.quantile(latencies, 0.9))
    for stage, known in found.stages.items():
        if known:
            entry[f"{stage}_mean"] = sum(known) / len(known)
    for stage in ("encode", "prefill", "decode"):
        wall = [getattr(batch, stage) for batch in batches if getattr(batch, stage) is not None]
        if wall:
            entry[f"{stage}_seconds"] = sum(wall)
    entry["peak_rss"] = max((batch.peak_rss or 0 for batch in batches), default=0) or None
    entry["peak_device_memory"] = max((batch.peak_memory or 0 for batch in batches), default=0) or None
    entry["measured"] = dict(measured)
    entry["machine"] = {
        key: machine[key] for key in ("cpus", "device", "dtype", "engine", "packages") if key in machine
    }
    return entry


def truncated_share(ends: Mapping[str, int]) -> float | None:
    """The share of texts that the length limit cut, by how often each finish reason occurred."""
    cut, stopped = ends.get("length", 0), ends.get("stop", 0)
    return cut / (cut + stopped) if cut + stopped else None


def summarise(
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    results: Sequence[Scored],
    *,
    access: Access,
    kind: str = "",
    named: ClusterUnit = "patient",
    slices: Sequence[str] = (),
    confidence: Confidence = Confidence(),
    progress: Progress = unwatched,
) -> dict[str, Any]:
    """The summary without what only a run folder knows (task, model, speed): see `score_run`.

    `kind` is the task's, `named` what the data set's patient ids are (`types.ClusterUnit`).
    """
    clusters = clusters_of(samples)
    outcomes, ends = Counter[str](), Counter[str]()
    reported, patients = 0, set[str]()
    for sample, cluster in zip(samples, clusters, strict=True):
        row = predictions.get(sample.sample_id)
        if row is None:
            continue
        outcomes[row.outcome] += 1
        ends[row.finish_reason] += 1
        if not row.failed:
            reported += 1
            patients.add(cluster)
    return {
        "n": reported,
        "n_expected": len(samples),
        "clusters": len(patients),
        "cluster_unit": cluster_unit(samples, named),
        "kind": kind,
        "access": access,
        "ci_level": confidence.level if confidence.replicates else None,
        "ci_method": f"{confidence.method}, cluster bootstrap" if confidence.replicates else "none",
        "replicates": confidence.replicates,
        "outcomes": dict(sorted(outcomes.items())),
        "truncated_share": truncated_share(ends),
        "distinct": distinct_entry(samples, predictions),
        "metrics": metric_entries(results, clusters, confidence, progress),
        "not_scored": {
            each.metric.key: {"reason": each.reason, "required": each.required, "broken": each.broken}
            for each in results
            if each.reason
        },
        "required": [each.metric.key for each in results if each.required],
        "slices": slice_entries(samples, results, slices, confidence, progress),
    }


def scored_of(summary: Mapping[str, Any]) -> dict[str, int]:
    """How many samples each metric scored: fewer than were answered where it failed, or does not tell of some."""
    return {key: int(next(iter(values.values()))["n"]) for key, values in summary["metrics"].items() if values}


def unanswered(summary: Mapping[str, Any]) -> list[str]:
    """Samples of the task that nobody answered: a run that was stopped, a file without a row for each."""
    lines = []
    missing = summary["n_expected"] - sum(summary["outcomes"].values())
    if missing:
        lines.append(f"{missing} of {summary['n_expected']} samples are not answered yet")
    absent = summary["outcomes"].get(MISSING, 0)
    if absent:
        lines.append(f"{absent} of {summary['n_expected']} samples have no row in the predictions file")
    return lines


def incomplete(summary: Mapping[str, Any], named: Collection[str] = ()) -> list[str]:
    """Why the result is not complete: required metrics without a score, samples without an answer.

    `named`: keys of the metrics that were asked for; then only these can be missing, not those the task requires.
    """
    required = list(named or summary["required"])
    lines = [f"{key}: {why['reason']}" for key, why in summary["not_scored"].items() if key in required]
    if summary["n_expected"]:
        for key in required:
            values = summary["metrics"].get(key, {})
            if values and not any(entry["n"] for entry in values.values()):
                lines.append(f"{key}: not one of {summary['n_expected']} samples could be scored")
            pending = max((entry.get("pending", 0) for entry in values.values()), default=0)
            if pending:
                lines.append(
                    f"{key}: {pending} of {summary['n_expected']} samples are not judged yet; repeat the command"
                )
    return [*lines, *unanswered(summary)]
