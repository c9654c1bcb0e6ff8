"""Run folders of one task become one aggregate summary: numbers, subgroups, speeds, and every two runs tested.

Reads stored statistics and what each sample's answer says of its inputs; no text leaves the run folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from cxrbench import __version__
from cxrbench.compare import SHARED, compare_pair, pair_runs
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.metrics.base import comparable
from cxrbench.report.aggregate import Cell, Group, Paired, Run, Summary, Task
from cxrbench.report.gather_slices import hidden_of, slices_of
from cxrbench.scores import is_dummy, read_summary
from cxrbench.store import RunFolder, differences, identity_hash
from cxrbench.summary import Confidence, unanswered
from cxrbench.types import Manifest

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how far it is, and of how many."""

QUESTION = tuple(key for key in SHARED if key not in ("task", "inputs"))
"""Parts of an identity that all runs of a summary share; the input policy is a column of the board."""

REPORTED_SPEED = (
    "reports", "seconds", "reports_per_s", "words_per_s", "tokens_per_s", "tokens_per_report", "latency_p50",
    "latency_p90", "peak_rss", "peak_device_memory",
)  # fmt: skip


def unwatched(what: str, done: int, of: int) -> None:
    """Watch nothing."""


def gather(runs: Sequence[RunFolder], confidence: Confidence, progress: Progress = unwatched) -> Summary:
    """Summarise scored runs of one task, with the paired test of every two that are complete and saw the same inputs.

    The randomisation test makes at least 40 exchanges per pair of runs, so that after Holm's correction the smallest
    possible p is below 0.05 however many runs there are.

    Raises:
        CxrbenchError: no run; a run is not scored, of random weights, or answers another question; two are the same.
    """
    if not runs:
        raise CxrbenchError("there is no run to summarise", fix="cxrbench leaderboard summarize RUN ... -o FILE")
    manifests = [_checked(run) for run in runs]
    first = manifests[0]
    for run, manifest in zip(runs, manifests, strict=True):
        _same_question(first, manifest, f"{runs[0].path} and {run.path}")
    ids = [identity_hash(manifest.identity) for manifest in manifests]
    if len(set(ids)) < len(ids):
        raise CxrbenchError("one run is named twice", where=", ".join(str(run.path) for run in runs))
    entries, sliced = [], []
    for at, (run, manifest) in enumerate(zip(runs, manifests, strict=True)):
        progress("runs", at, len(runs))
        sliced.append(slices_of(run, read_summary(run), confidence))
        entries.append(_entry(run, manifest, sliced[-1].cells))
    by_id = dict(zip(ids, runs, strict=True))
    testable = [(a, b) for a, b in combinations(entries, 2) if _testable(a, b)]
    exchanges = max(confidence.replicates, 40 * len(testable))
    pairs = []
    for at, (a, b) in enumerate(testable):
        progress("paired tests", at, len(testable))
        pairs.append(_paired(by_id, a, b, replace(confidence, replicates=exchanges)))
    return Summary(
        cxrbench=__version__,
        task=_task(first),
        question={key: first.identity.get(key) for key in QUESTION},
        exchanges=exchanges,
        hides=hidden_of(sliced),
        runs=tuple(entries),
        pairs=tuple(pairs),
    )


def _checked(run: RunFolder) -> Manifest:
    manifest = run.manifest()
    if is_dummy(manifest):
        raise CxrbenchError(
            "a run of random weights is never ranked", where=str(run.path), fix="run the model with its own weights"
        )
    read_summary(run)
    return manifest


def _same_question(one: Manifest, other: Manifest, where: str) -> None:
    keys = ("task", *QUESTION)
    first, second = ({key: each.identity.get(key) for key in keys} for each in (one, other))
    # A model that reads no images records no image rules; that is a matter of its inputs.
    if not first["images"] or not second["images"]:
        first["images"] = second["images"] = None
    changed = differences(first, second)
    if changed:
        raise CxrbenchError(
            "the runs do not answer the same question, they differ in:\n    " + "\n    ".join(changed),
            where=where,
            fix="name runs of one question only; the others need a summary and a board of their own",
            code=Exit.UNDECIDED,
        )


def _task(manifest: Manifest) -> Task:
    task, identity = manifest.task, manifest.identity["task"]
    return Task(
        name=identity["name"],
        version=identity["version"],
        hash=identity["hash"],
        title=task["title"],
        kind=task["kind"],
        access=manifest.access,
        dataset=task["dataset"]["name"],
        citation=task["citation"],
        n_full=task["expected"]["n"],
    )


def _entry(run: RunFolder, manifest: Manifest, slices: dict[str, dict[str, Group]]) -> Run:
    summary = read_summary(run)
    identity = manifest.identity
    speed = summary.get("speed", {})
    return Run(
        id=identity_hash(identity),
        model=summary["model"],
        about=_about(identity),
        policy=identity["inputs"],
        consumed=_consumed(run, identity),
        n=summary["n"],
        n_expected=summary["n_expected"],
        clusters=summary["clusters"],
        cluster_unit=summary["cluster_unit"],
        unfinished=tuple(unanswered(summary)),
        outcomes=summary["outcomes"],
        truncated_share=summary["truncated_share"],
        distinct={} if summary.get("kind") == "choice" else summary["distinct"],  # options say nothing of a model
        values=_cells(summary),
        not_scored={key: why["reason"] for key, why in summary["not_scored"].items()},
        slices=slices,
        speed={key: float(speed[key]) for key in REPORTED_SPEED if speed.get(key) is not None},
        machine={
            key: str(value)
            for key, value in {**speed.get("machine", {}), **speed.get("measured", {})}.items()
            if key not in ("packages", "scope", "readers")
        },
        notes=tuple(summary.get("notes", ())),
        ci_level=summary["ci_level"],
        ci_method=summary["ci_method"],
        folder=str(run.path),
    )


def _about(identity: Mapping[str, Any]) -> dict[str, str]:
    """What the model was, as far as it says so."""
    model = identity["model"]
    preset = model.get("preset", {})
    about = {key: model.get(key) for key in ("revision", "weights", "engine", "dtype", "attention", "file_sha256")}
    about["preset"] = f"{preset['name']} v{preset['version']} ({preset['source']})" if preset else None
    about["seed"] = identity.get("seed")
    return {key: str(value) for key, value in about.items() if value not in (None, "")}


def _consumed(run: RunFolder, identity: Mapping[str, Any]) -> tuple[str, ...]:
    """What the model used at least once: the most images of a sample, then sections; a file's inputs are not known."""
    if identity["model"].get("name") == "replay":
        return ("not recorded",)
    images, sections = 0, set[str]()
    for row in run.predictions().values():
        found = [name for name in row.inputs if name.startswith("image")]
        images = max(images, len(found))
        sections |= {name.removeprefix("section:") for name in row.inputs if name not in found}
    seen = [f"{images} image{'s' if images > 1 else ''}"] if images else []
    return (*seen, *sorted(sections))


def _cells(summary: Mapping[str, Any]) -> dict[str, Cell]:
    return {
        f"{key}/{name}": Cell(
            value=body["value"],
            ci=body["ci"],
            n=body["n"],
            rests_on=body.get("rests_on"),
            failed=body["failed"],
            signature=body["signature"],
            higher_is_better=body["higher_is_better"],
            primary=body["primary"],
            unit=body["unit"],
            note=body.get("note", ""),
        )
        for key, values in summary["metrics"].items()
        for name, body in values.items()
    }


def _shared_metrics(a: Run, b: Run) -> list[str]:
    """Metrics that both runs have, made in the same way; others cannot be paired."""
    signatures = [
        {key.partition("/")[0]: comparable(cell.signature) for key, cell in run.values.items()} for run in (a, b)
    ]
    return [key for key, made in signatures[0].items() if signatures[1].get(key) == made]


def _testable(a: Run, b: Run) -> bool:
    return not a.unfinished and not b.unfinished and a.policy == b.policy and bool(_shared_metrics(a, b))


def _paired(runs: Mapping[str, RunFolder], a: Run, b: Run, confidence: Confidence) -> Paired:
    found = compare_pair(pair_runs(runs[a.id], runs[b.id], _shared_metrics(a, b)), confidence)
    values = {
        f"{key}/{name}": (value["difference"], *(value["ci"] or (None, None)), value["p"], metric["n"])
        for key, metric in found["metrics"].items()
        for name, value in metric["values"].items()
        if value["higher_is_better"] is not None and "p" in value
    }
    return Paired(a=a.id, b=b.id, values=values)
