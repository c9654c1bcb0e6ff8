"""The samples of runs side by side, as the data of a page: texts, values of each sample, labels, entities. No HTML.

Runs stand beside each other when they answered the same task on the same data. Texts are shown as they were scored,
through the task's normalisation. Never torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxrbench.artifacts import FOLDER
from cxrbench.config import Config
from cxrbench.data.chexpert import LABELS
from cxrbench.data.samples import clusters_of
from cxrbench.data.text import normalise
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.hashed_ids import hashed_id, reference_key
from cxrbench.metrics.base import SCORED
from cxrbench.report.explorer_marks import Entity, Stored, entities, stored_annotations
from cxrbench.scores import is_dummy, load_scores
from cxrbench.scoring import Scored
from cxrbench.spec import FORMS, KEPT_APART
from cxrbench.store import RunFolder, differences
from cxrbench.tables import read_samples
from cxrbench.types import Access, Prediction, Sample

MOST = 4
"""Runs that a page can show beside the reference."""

Column = tuple[str, bool | None]
"""`metric:preset/value` and whether higher is better."""


@dataclass(frozen=True, slots=True)
class Side:
    """One run: its name on the page, its answers, the values of each sample by column."""

    run: RunFolder
    name: str
    predictions: Mapping[str, Prediction]
    values: Mapping[str, Mapping[str, float | None]]
    columns: tuple[Column, ...]
    text: str
    """The task's normalisation."""
    judged: tuple[Scored, ...] = ()
    """What judges gave."""

    def answered(self, sample_id: str) -> bool:
        """Whether there is a report, be it empty."""
        row = self.predictions.get(sample_id)
        return row is not None and not row.failed

    def said(self, sample_id: str) -> str:
        """The report as it was scored; empty where there is none."""
        return normalise(self.text, self.predictions[sample_id].text or "") if self.answered(sample_id) else ""


@dataclass(frozen=True, slots=True)
class Laid:
    """Runs laid side by side over the samples that each of them was to answer, in data-set order."""

    sides: tuple[Side, ...]
    samples: tuple[Sample, ...]
    keys: tuple[str, ...]
    """A name of each sample that only holders of the data can link back: for links and files that travel."""
    patients: tuple[str, ...]
    access: Access
    task: Mapping[str, Any]
    left_out: int

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return str(self.task["dataset"]["name"])


def lay(runs: Sequence[RunFolder]) -> Laid:
    """Lay runs side by side.

    Raises:
        CxrbenchError: no run or too many, one twice, random weights, other tasks or data, or no sample in common.
    """
    _check(runs)
    manifests = [run.manifest() for run in runs]
    stored = [read_samples(run.samples_file) for run in runs]
    chosen = [{sample.sample_id for sample in each.chosen} for each in stored]
    common = set.intersection(*chosen)
    samples = tuple(sample for sample in stored[0].chosen if sample.sample_id in common)
    if not samples:
        raise CxrbenchError("the runs have no sample in common", where=_where(runs), code=Exit.UNDECIDED)
    key = reference_key(stored[0].samples)
    return Laid(
        sides=tuple(_side(run, name) for run, name in zip(runs, names(runs), strict=True)),
        samples=samples,
        keys=tuple(hashed_id(key, "sample", sample.sample_id) for sample in samples),
        patients=tuple(hashed_id(key, "patient", cluster) for cluster in clusters_of(samples)),
        access="open" if all(each.access == "open" for each in manifests) else "credentialed",
        task=manifests[0].task,
        left_out=len(set.union(*chosen)) - len(common),
    )


def _where(runs: Sequence[RunFolder]) -> str:
    return " and ".join(str(run.path) for run in runs)


def _check(runs: Sequence[RunFolder]) -> None:
    if not 1 <= len(runs) <= MOST:
        raise CxrbenchError(f"{len(runs)} runs were given, a page shows 1 to {MOST}", where="the command line")
    places = [run.path.resolve() for run in runs]
    if len(set(places)) < len(places):
        raise CxrbenchError("a run is named twice", where=_where(runs), fix="name each run once")
    first = runs[0].manifest().identity
    for run in runs:
        manifest = run.manifest()
        if is_dummy(manifest):
            raise CxrbenchError("the reports of a model with random weights say nothing", where=str(run.path))
        form = FORMS.get(manifest.task["kind"], "text")
        if form in KEPT_APART:
            raise CxrbenchError(
                f"the page lays texts side by side, and the answers of this run are {form}",
                where=str(run.path),
                fix=f"they are files in {run.path / FOLDER}, named in its predictions; "
                f"cxrbench compare RUN RUN has the numbers",
            )
        shared = ("task", "data")
        changed = differences({k: first.get(k) for k in shared}, {k: manifest.identity.get(k) for k in shared})
        if changed:
            raise CxrbenchError(
                "the runs did not answer the same samples, they differ in:\n    " + "\n    ".join(changed),
                where=f"{runs[0].path} and {run.path}",
                fix="name runs of one task on the same data",
                code=Exit.UNDECIDED,
            )


def names(runs: Sequence[RunFolder]) -> list[str]:
    """The model of each run; with its folder's name where two are of the same model."""
    models = [str(run.manifest().identity["model"].get("name") or run.path.name) for run in runs]
    twice = {name for name, count in Counter(models).items() if count > 1}
    named = [
        f"{model} ({run.path.resolve().name})" if model in twice else model
        for model, run in zip(models, runs, strict=True)
    ]
    if len(set(named)) < len(named):
        return [f"{model} ({number})" for number, model in enumerate(models, start=1)]
    return named


def _side(run: RunFolder, name: str) -> Side:
    values: dict[str, Mapping[str, float | None]] = {}
    columns: list[Column] = []
    stored = load_scores(run) if (run.path / "summary.json").exists() else []
    for scored in stored:
        if not scored.metric.additive or scored.statistics is None:
            continue  # a number that is no function of sums has no value of a single sample
        with np.errstate(divide="ignore", invalid="ignore"):
            found = scored.metric.value(scored.rows())
        done = (scored.statistics.status == SCORED).all(axis=1)
        for value, about in scored.metric.values.items():
            if about.primary and value in found:
                key = f"{scored.metric.key}/{value}"
                columns.append((key, about.higher_is_better))
                pairs = zip(scored.sample_ids, found[value], done, strict=True)
                values[key] = {name: _number(float(number)) if ok else None for name, number, ok in pairs}
    judged = tuple(scored for scored in stored if scored.metric.judge)
    return Side(run, name, run.predictions(), values, tuple(columns), str(run.manifest().task["text"]), judged)


def _number(value: float) -> float | None:
    """Four digits, enough to look at; None for 0/0."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Marked:
    """Stored annotations of all texts of a page, by annotator."""

    labels: Stored
    entities: Stored


def marked(laid: Laid, config: Config) -> Marked:
    """Read what is stored of every text of the page, of the run of which most is stored."""
    texts = sorted(
        {s.target for s in laid.samples} | {side.said(s.sample_id) for side in laid.sides for s in laid.samples}
    )
    best = {}
    for feature in ("chexbert", "radgraph"):
        merged: dict[str, Any] = {}
        weights = ""
        for side in laid.sides:
            found = stored_annotations(side.run, feature, texts, config)
            if weights in ("", found.weights):  # what two annotators say is never mixed
                weights, merged = found.weights, merged | dict(found.by_text)
        best[feature] = Stored(weights, merged)
    return Marked(best["chexbert"], best["radgraph"])


def coverage(laid: Laid, found: Marked) -> dict[str, dict[str, Any]]:
    """How many of the texts have a stored annotation, by annotator, and whose."""
    texts = [s.target for s in laid.samples]
    texts += [side.said(s.sample_id) for side in laid.sides for s in laid.samples if side.answered(s.sample_id)]
    return {
        name: {"weights": each.weights, "stored": sum(text in each.by_text for text in texts), "texts": len(texts)}
        for name, each in (("chexbert", found.labels), ("radgraph", found.entities))
    }


def page_columns(laid: Laid) -> tuple[Column, ...]:
    """The columns of any run, in the order in which they first come."""
    return tuple(dict.fromkeys(column for side in laid.sides for column in side.columns))


def page_samples(laid: Laid, found: Marked) -> tuple[list[dict[str, Any]], list[str]]:
    """One object per sample, and the names of RadGraph's labels that their entities refer to by number.

    Entities are [start, end, label number, bits] (-1, -1 where the words are not found in the text): for an entity of
    the reference, bit i says that run i has it; for one of a run, 1 says that the reference has it. Labels are 14
    digits, CheXbert's classes in the order of LABELS.
    """
    columns = [key for key, _ in page_columns(laid)]
    kinds: dict[str, int] = {}
    rows = [_row(laid, found, columns, kinds, at) for at in range(len(laid.samples))]
    return rows, list(kinds)


def _row(laid: Laid, found: Marked, columns: list[str], kinds: dict[str, int], at: int) -> dict[str, Any]:
    sample = laid.samples[at]
    reference = _entities(found, sample.target)
    name = sample.sample_id
    sides = [_entities(found, side.said(name)) if side.answered(name) else None for side in laid.sides]
    said = [{each.element for each in some} if some is not None else set() for some in sides]
    true = {each.element for each in reference or ()}
    runs = []
    for side, some in zip(laid.sides, sides, strict=True):
        marks = _marks(some, kinds, lambda element: int(element in true)) if reference is not None else None
        runs.append(_answer(side, sample, found, columns, marks))
    return {
        "id": sample.sample_id,
        "key": laid.keys[at],
        "groups": {name: value for name, value in sorted(sample.subgroups.items()) if len(value) <= 60},
        "sections": dict(sample.sections),
        "text": sample.target,
        "labels": _labels(found, sample.target),
        "marks": _marks(reference, kinds, lambda element: sum((element in each) << i for i, each in enumerate(said))),
        "runs": runs,
    }


def _answer(side: Side, sample: Sample, found: Marked, columns: list[str], marks: Any) -> dict[str, Any]:
    row = side.predictions.get(sample.sample_id)
    text = side.said(sample.sample_id)
    return {
        "text": text,
        "outcome": row.outcome if row is not None else "not answered yet",
        "failed": not side.answered(sample.sample_id),
        "cut": row is not None and row.finish_reason == "length",
        "values": [side.values.get(key, {}).get(sample.sample_id) for key in columns],
        "labels": _labels(found, text) if side.answered(sample.sample_id) else None,
        "marks": marks,
    }


def _labels(found: Marked, text: str) -> str | None:
    stored = found.labels.by_text.get(text)
    return None if stored is None else "".join(str(int(each)) for each in stored.classes[: len(LABELS)])


def _entities(found: Marked, text: str) -> list[Entity] | None:
    stored = found.entities.by_text.get(text)
    return None if stored is None else entities(text, stored)


def _marks(some: list[Entity] | None, kinds: dict[str, int], bits: Any) -> list[list[int]] | None:
    if some is None:
        return None
    return [
        [*each.span, kinds.setdefault(each.label, len(kinds)), bits(each.element)]
        for each in some
        if each.span is not None
    ]
