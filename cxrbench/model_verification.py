"""`cxrbench verify model`: runs beside the figures that a model's authors published.

A figure is compared only with a run of the task, the preset and the settings that it belongs to, on as many samples.
What is not known of the source (who transcribed it, which convention, which samples) stands between the two as well,
unless the user says to assume it; then the verdict says so, too. docs/verify.md has the rules. No torch.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cxrbench.anchors import Anchor, Figure, evidence, find_row, reported
from cxrbench.errors import CxrbenchError
from cxrbench.models.generation import Preset, resolve
from cxrbench.scores import read_summary
from cxrbench.store import RunFolder, list_runs
from cxrbench.types import Generation, Manifest

Answer = Literal["agrees", "differs", "cannot be compared"]

ASSUMPTIONS: Mapping[str, str] = {
    "secondary": "only secondary evidence",
    "convention": "how the source made the figure is not known",
    "samples": "whether the source has the same samples is not known",
}
"""What `--assume` may take as given."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A published figure and ours, both in the source's units; `inside`: it lies in our interval.

    `assumed` are keys of `ASSUMPTIONS` that the verdict rests on; `reasons` say why there is none.
    """

    figure: str
    published: float | None
    metric: str
    here: float | None
    interval: tuple[float, float] | None
    tolerance: float
    verdict: Answer
    reasons: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    @property
    def inside(self) -> bool | None:
        """Whether the published figure lies in our interval; None without one."""
        if self.interval is None or self.published is None:
            return None
        return self.interval[0] <= self.published <= self.interval[1]


@dataclass(frozen=True, slots=True)
class Beside:
    """One anchor: where its figures stand, the run they are compared with, and what that run lacks.

    `wants_run`: a run that they could be compared with is still to be made; `lacks`: metrics still to be scored.
    """

    anchor: str
    title: str
    citation: str
    source: str
    evidence: str
    task: str
    preset: str
    of: str
    samples: str
    run: str | None
    n: int | None
    clusters: int | None
    figures: tuple[Compared, ...]
    metrics: tuple[str, ...] = ()
    wants_run: bool = False
    lacks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def runs_of(model: str, root: Path) -> list[RunFolder]:
    """Runs under a folder whose model has this name; what cannot be read is no run of it."""
    return [run for run in list_runs(root) if _model_of(run) == model]


def _model_of(run: RunFolder) -> str:
    try:
        return str(run.manifest().identity["model"].get("name", ""))
    except (CxrbenchError, KeyError, AttributeError):  # another run's damage is told by `cxrbench runs list`
        return ""


def beside(
    anchor: Anchor,
    runs: Sequence[RunFolder],
    preset: Preset,
    assume: Collection[str] = (),
    weights: Collection[str] = (),
) -> Beside:
    """An anchor beside the run that has fewest reasons against it.

    Args:
        anchor: the figures.
        runs: runs of the model, of any task.
        preset: the authors' settings.
        assume: keys of `ASSUMPTIONS` to take as given.
        weights: hashes of the checkpoint that is here; empty where none is.
    """
    table, row = find_row(anchor.name)
    candidates = [(run, run_reasons(anchor, run, preset, weights)) for run in runs if _task_of(run) == anchor.task]
    run, reasons = min(candidates, key=lambda each: len(each[1]), default=(None, ["there is no run of it yet"]))
    summary = _summary(run)
    missing = [metric for metric in anchor.metrics if metric not in summary.get("metrics", {})]
    possible = not anchor.cannot and anchor.samples.are != "other"
    known = evidence(table, row)
    figures = tuple(
        _compare(anchor, each, reported(table, row, each.column), known, reasons, summary, assume)
        for each in anchor.figures
    )
    return Beside(
        anchor=anchor.name,
        title=table.title,
        citation=table.citation,
        source=table.source if row.source is None else f"{row.source} (of the table: {table.source})",
        evidence=known,
        task=anchor.task,
        preset=anchor.preset,
        of=anchor.of,
        samples=anchor.samples.about,
        run=str(run.path) if run is not None else None,
        n=summary.get("n"),
        clusters=summary.get("clusters"),
        figures=figures,
        metrics=tuple(anchor.metrics),
        wants_run=bool(reasons) and possible,
        lacks=tuple(missing) if possible else (),
        notes=tuple(note for note in (row.note, table.differs) if note),
    )


def _task_of(run: RunFolder) -> str:
    return str(run.manifest().identity["task"]["name"])


def _summary(run: RunFolder | None) -> Mapping[str, Any]:
    return read_summary(run) if run is not None and (run.path / "summary.json").exists() else {}


def commands(model: str, found: Sequence[Beside], settings: Mapping[str, str]) -> Iterator[str]:
    """What is still to be typed: one run for each task and preset, and what finished runs are not scored with yet.

    Nothing is named for figures that no run can be compared with. `settings` are those of `--set`.
    """
    changes = "".join(f" --set {shlex.quote(f'{key}={value}')}" for key, value in settings.items())
    made: dict[str, dict[str, None]] = {}
    for each in found:
        if each.wants_run:
            begin = f"cxrbench run --model {model} --task {each.task} --preset {each.preset}{changes}"
            made.setdefault(begin, {}).update(dict.fromkeys(each.metrics))
        elif each.lacks:
            made.setdefault(f"cxrbench score {shlex.quote(str(each.run))}", {}).update(dict.fromkeys(each.lacks))
    for begin, metrics in made.items():
        yield begin + (f" --metrics {','.join(metrics)}" if metrics else "")


def run_reasons(anchor: Anchor, run: RunFolder, preset: Preset, weights: Collection[str]) -> list[str]:
    """Why a run is not the one the figures belong to; empty where it is."""
    manifest = run.manifest()
    identity, summary = manifest.identity, _summary(run)
    model = identity["model"]
    found = [
        *_preset_reasons(anchor, manifest, preset),
        *(["random weights"] if model.get("load_format") == "dummy" else []),
        *([f"a part of the samples (--limit {identity['limit']})"] if identity["limit"] is not None else []),
        *(["other inputs (--inputs image)"] if identity["inputs"] != "task" else []),
    ]
    if weights and model.get("weights") not in weights:
        found.append(f"other weights than those that are here ({model.get('weights')})")
    if not summary:
        return [*found, "the run is not scored yet"]
    if summary["n"] != summary["n_expected"]:
        found.append(f"{summary['n']} of {summary['n_expected']} samples have a report")
    if anchor.samples.n is not None and summary["n_expected"] != anchor.samples.n:
        found.append(f"{summary['n_expected']} samples, and the source has {anchor.samples.n}")
    return found


def _preset_reasons(anchor: Anchor, manifest: Manifest, preset: Preset) -> list[str]:
    used = manifest.identity["model"].get("preset") or {}
    if used.get("name") != anchor.preset:
        return [f"another preset ({used.get('name', 'none')}, not {anchor.preset})"]
    if used.get("version") != preset.version:
        return [f"another version of the preset ({used.get('version')}, not {preset.version})"]
    task = {key: value for key, value in manifest.task.get("generation", {}).items() if value is not None}
    wanted = asdict(resolve(task, preset, {}))
    made = {**asdict(Generation()), **manifest.identity["generation"]}
    return [f"{key} is {made[key]}, not {value}" for key, value in wanted.items() if made[key] != value]


def _compare(
    anchor: Anchor,
    figure: Figure,
    published: float | None,
    known: str,
    reasons: Sequence[str],
    summary: Mapping[str, Any],
    assume: Collection[str],
) -> Compared:
    entry = summary.get("metrics", {}).get(figure.metric, {}).get(figure.value)
    here, interval = _in_their_units(entry, figure.scale)
    doubts = _doubts(anchor, figure, known)
    against = [*_against(anchor, figure, published), *reasons]
    against += [told for key, told in doubts.items() if key not in assume]
    if not against and here is None:
        against.append(f"{figure.metric} was not scored")
    if not against and "samples" in doubts and interval is None:
        against.append("the run has no interval (--replicates)")
    verdict: Answer = "cannot be compared"
    if not against and published is not None and here is not None:
        verdict = "agrees" if _near(published, here, interval if "samples" in doubts else None, figure) else "differs"
    assumed = tuple(key for key in doubts if key in assume) if verdict != "cannot be compared" else ()
    return Compared(
        figure.column, published, figure.here or "", here, interval, figure.tolerance, verdict, tuple(against), assumed
    )


def _against(anchor: Anchor, figure: Figure, published: float | None) -> Iterator[str]:
    """What nobody may assume away."""
    if published is None:
        yield "the source has no figure"
    if figure.here is None:
        yield f"no value of ours: {figure.why}"
    if anchor.cannot:
        yield anchor.cannot
    if anchor.samples.are == "other":
        yield f"other samples: {anchor.samples.about}"


def _doubts(anchor: Anchor, figure: Figure, known: str) -> dict[str, str]:
    """What is not known of the source, by keys of `ASSUMPTIONS`, with the particulars."""
    found = {}
    if known == "secondary":
        found["secondary"] = ASSUMPTIONS["secondary"]
    if figure.here is not None and figure.convention == "unknown":
        found["convention"] = f"{ASSUMPTIONS['convention']}: {figure.why}"
    if anchor.samples.are == "unknown":
        found["samples"] = f"{ASSUMPTIONS['samples']}: {anchor.samples.about}"
    return found


def _in_their_units(entry: Mapping[str, Any] | None, scale: float) -> tuple[float | None, tuple[float, float] | None]:
    if entry is None or entry["value"] is None:
        return None, None
    ci = entry.get("ci")
    return entry["value"] / scale, (ci[0] / scale, ci[1] / scale) if ci is not None else None


def _near(published: float, here: float, interval: tuple[float, float] | None, figure: Figure) -> bool:
    """On the same samples: the difference is at most the tolerance. On others: it lies in our interval so widened.

    A difference that is not a number is never near.
    """
    if interval is None:
        return not math.isnan(here) and abs(here - published) <= figure.tolerance * (1 + 1e-9)
    return interval[0] - figure.tolerance <= published <= interval[1] + figure.tolerance
