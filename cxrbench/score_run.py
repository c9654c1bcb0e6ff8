"""Score what a run folder or a predictions file holds, and keep the statistics beside it.

Everything scoring needs is in the run folder. What a metric learns from the train split is learnt once, when the data
are at hand, and kept in contexts/, so that a run can be scored again on a machine that has no data.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cxrbench import __version__, registry
from cxrbench.artifacts import Answered
from cxrbench.atomic import write_atomic
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.base import device_kind
from cxrbench.group_values import task_tables
from cxrbench.metrics.base import Context, Corpus, Resources
from cxrbench.score_notes import changed, embedded_notes, gallery_notes, noted, notes_of, unkept, without_rubric
from cxrbench.scores import (
    Sources,
    is_dummy,
    keep_scores,
    kept_scores,
    read_summary,
    same_version,
    stored_contexts,
    with_store,
)
from cxrbench.scoring import Ahead, Chosen, Progress, Scored, ahead_of, choose, make_metric, prepare, score, texts_hash
from cxrbench.spec import FORMS, KEPT_APART, GroupsPart
from cxrbench.spool import Passing
from cxrbench.store import RunFolder
from cxrbench.summary import Confidence, answered_rows, measured_entry, speed_entry, summarise, truncated_share
from cxrbench.tables import StoredSamples, read_samples
from cxrbench.types import Access, ClusterUnit, Manifest, Prediction, Sample
from cxrbench.verified import scored_on
from cxrbench.workers.annotate import came_to_its_end, take_over


def score_run(
    run: RunFolder, named: Sequence[str], sources: Sources, confidence: Confidence, progress: Progress
) -> dict[str, Any]:
    """Score a run: statistics into scores/, the summary into summary.json; returns the summary.

    Statistics of equal texts and signature are taken from the folder. Metrics scored earlier and not named now stay in
    the summary, as long as they belong to the same texts, with intervals of no fewer replicates than they had; what
    the task requires and could not be scored then stays named as missing.
    """
    manifest = run.manifest()
    if is_dummy(manifest):
        raise CxrbenchError(
            "the run is not scored: its model had random weights",
            where=str(run.path),
            fix="runs with --load-format dummy measure speed",
        )
    stored = read_samples(run.samples_file)
    predictions = run.predictions()
    chosen = choose(named, manifest.task["metrics"]["required"], manifest.task["metrics"]["optional"])
    with run.writing():
        before = _summary_before(run)
        opened = _opened(run, manifest, stored, predictions, chosen, sources)
        results = _score_stored(run, manifest, stored, predictions, chosen, opened, sources, progress)
        kept = [each for each in results if each.metric.key not in {wanted.metric.key for wanted in chosen}]
        if kept:
            confidence = replace(confidence, replicates=max(confidence.replicates, before.get("replicates", 0)))
        summary = {
            "task": manifest.identity["task"]["name"],
            "model": manifest.identity["model"].get("name", ""),
            "run": str(run.path),
            "cxrbench": __version__,
            **summarise(
                stored.chosen,
                predictions,
                results,
                access=manifest.access,
                kind=manifest.task["kind"],
                named=manifest.cluster_unit,
                slices=manifest.task.get("slices", ()),
                confidence=confidence,
                progress=progress,
            ),
            **_still_missing(manifest, results, before),
            **_groups(manifest, stored, results, confidence),
            "n_task": len(stored.samples),
            "n_full": manifest.task["expected"]["n"],
            "limit": manifest.identity["limit"],
            "excluded": dict(manifest.excluded),
            "notes": [
                *manifest.task.get("run_notes", ()),
                *gallery_notes(manifest),
                *notes_of(results),
                *changed(results, before),
                *(f"{key}: left out, its rubric is not there" for key in without_rubric(before.get("metrics", {}))),
                *embedded_notes(results),
                *unkept(results, sources, manifest.task["dataset"]["name"]),
            ],
            "speed": _speed(run, manifest, answered_rows(stored.chosen, predictions)),
        }
        write_atomic(run.path / "summary.json", (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode())
        came_to_its_end(run, opened.resources, _name_of_scoring(opened, chosen))
    return summary


def _groups(
    manifest: Manifest, stored: StoredSamples, results: Sequence[Scored], confidence: Confidence
) -> dict[str, Any]:
    """`groups`, where the task names any: values and gaps within them (docs/groups.md)."""
    part = manifest.task.get("groups")
    if not part:
        return {}
    return {"groups": task_tables(stored.chosen, results, GroupsPart.model_validate(part), confidence)}


def _summary_before(run: RunFolder) -> dict[str, Any]:
    """The summary of an earlier scoring; empty where there is none, or a damaged one that is about to be replaced."""
    try:
        return read_summary(run)
    except CxrbenchError:
        return {}


def _still_missing(manifest: Manifest, results: Sequence[Scored], before: Mapping[str, Any]) -> dict[str, Any]:
    """`required` and `not_scored` of the whole run: a scoring of some metrics does not make the others complete."""
    wanted = [make_metric(name).key for name in manifest.task["metrics"]["required"]]
    now = {each.metric.key: each for each in results}
    not_scored = {key: why for key, why in before.get("not_scored", {}).items() if key not in now}
    for key in wanted:
        if key not in now and key not in not_scored:
            not_scored[key] = {"reason": "not scored yet", "required": True, "broken": False}
    for key, each in now.items():
        if each.reason:
            not_scored[key] = {"reason": each.reason, "required": key in wanted, "broken": each.broken}
    return {"not_scored": not_scored, "required": wanted}


def speed_summary(run: RunFolder) -> dict[str, Any]:
    """What a run of random weights came to: how many samples were answered, and how fast. Nothing is scored."""
    manifest, predictions = run.manifest(), run.predictions()
    stored = read_samples(run.samples_file)
    answered = answered_rows(stored.chosen, predictions)
    return {
        "task": manifest.identity["task"]["name"],
        "model": manifest.identity["model"].get("name", ""),
        "run": str(run.path),
        "n": sum(not row.failed for row in answered),
        "n_expected": manifest.n_expected,
        "outcomes": dict(sorted(Counter(row.outcome for row in answered).items())),
        "truncated_share": truncated_share(Counter(row.finish_reason for row in answered)),
        "notes": ["random weights: speed only, never scored"],
        "speed": _speed(run, manifest, answered),
    }


def _speed(run: RunFolder, manifest: Manifest, answered: Sequence[Prediction]) -> dict[str, Any]:
    """The speed of a run; empty where a model says that its times mean nothing (`timed: false`)."""
    machine = manifest.circumstances[-1] if manifest.circumstances else {}
    if not machine.get("timed", True):
        return {}
    batches = run.batches()
    return speed_entry(answered, batches, machine, measured_entry(manifest, batches))


@dataclass(frozen=True, slots=True)
class _Opened:
    """What scoring a run begins with: what is `known` of an earlier one (by metric key), what is `open`, with what."""

    corpus: Corpus
    contexts: Mapping[str, Context]
    known: Mapping[str, Scored]
    open: Sequence[Chosen]
    resources: Resources
    ids: tuple[str, ...]
    texts: str


def _opened(
    run: RunFolder,
    manifest: Manifest,
    stored: StoredSamples,
    predictions: Mapping[str, Prediction],
    chosen: Sequence[Chosen],
    sources: Sources,
) -> _Opened:
    samples, texts = stored.chosen, texts_hash(stored.chosen, predictions)
    ids = tuple(sample.sample_id for sample in samples)
    corpus = Corpus(
        references=Passing(stored.samples, lambda sample: sample.target),
        train=sources.train,
        vocabulary=sources.vocabulary,
        dataset=manifest.task["dataset"]["name"],
        config=sources.resources.config,
        precision=sources.resources.precision,
        judge=sources.resources.judge,
        form=FORMS.get(manifest.task["kind"], "text"),
        sample_ids=ids if len(ids) == len(stored.samples) else [sample.sample_id for sample in stored.samples],
        pictures=sources.pictures,
    )
    contexts = stored_contexts(run, chosen, sources, corpus.dataset)
    known = {}
    for each in chosen:
        with scored_on(lambda: device_kind(sources.resources)):
            blank = _blank(each, contexts.get(each.metric.key, Context()), manifest.task["text"])
        before = kept_scores(run, blank, ids, texts) if blank is not None else None
        if before is not None:
            known[each.metric.key] = before
    open_ = [each for each in chosen if each.metric.key not in known]
    resources = replace(
        with_store(sources.resources, corpus.dataset), answered=_answered(run, stored, predictions, corpus.form)
    )
    return _Opened(corpus, contexts, known, open_, resources, ids, texts)


def share_of_scoring(run: RunFolder, named: Sequence[str], sources: Sources, progress: Progress) -> tuple[Ahead, str]:
    """What workers of a scoring share, and the name of that scoring: 16 hex digits, the same for all of them.

    Writes nothing and needs no lock.

    Raises:
        CxrbenchError: as `score_run`.
    """
    manifest, stored, predictions = run.manifest(), read_samples(run.samples_file), run.predictions()
    chosen = choose(named, manifest.task["metrics"]["required"], manifest.task["metrics"]["optional"])
    opened = _opened(run, manifest, stored, predictions, chosen, sources)
    text, resources = manifest.task["text"], opened.resources
    with scored_on(lambda: device_kind(resources)):
        prepared = prepare(opened.open, opened.corpus, opened.contexts, text, progress)
    return ahead_of(prepared, stored.chosen, predictions, text, resources), _name_of_scoring(opened, chosen)


def _name_of_scoring(opened: _Opened, chosen: Sequence[Chosen]) -> str:
    """16 hex digits over all that is asked for."""
    judge, keys = opened.resources.judge, sorted(each.metric.key for each in chosen)
    asked = json.dumps(dict(judge.asker.identity()), sort_keys=True) if judge is not None else ""
    said = [opened.texts, opened.resources.precision, asked, *keys]
    return hashlib.sha256("\0".join(said).encode()).hexdigest()[:16]


def _score_stored(
    run: RunFolder,
    manifest: Manifest,
    stored: StoredSamples,
    predictions: Mapping[str, Prediction],
    chosen: Sequence[Chosen],
    opened: _Opened,
    sources: Sources,
    progress: Progress,
) -> list[Scored]:
    known, ids, texts = opened.known, opened.ids, opened.texts
    if sources.annotate is None:
        take_over(run, opened.resources)  # what workers of a scoring that was killed have handed over
    scored = score(
        stored.chosen, predictions, opened.open, opened.corpus, manifest.task["text"], progress, opened.contexts,
        opened.resources, sources.annotate,
    )  # fmt: skip
    fresh = {each.metric.key: each for each in scored}
    fresh = {key: noted(result, sources) for key, result in fresh.items()}
    for result in fresh.values():
        keep_scores(run, result, texts, sources)
    results = [known.get(each.metric.key) or fresh[each.metric.key] for each in chosen]
    results = [_or_earlier(run, each, ids, texts) for each in results]
    asked = {each.metric.key for each in chosen}
    earlier = [kept_scores(run, blank, ids, texts) for blank in _scored_earlier(run, asked) if same_version(blank)]
    return [*results, *(each for each in earlier if each is not None)]


def _answered(
    run: RunFolder, stored: StoredSamples, predictions: Mapping[str, Prediction], form: str
) -> Answered | None:
    """The pictures or vectors of a run; None where its answers are texts."""
    if form not in KEPT_APART:
        return None
    found = {name: row.artifact for name, row in predictions.items() if row.artifact is not None}
    selected = frozenset(stored.selected)
    return Answered(run.path, found, selected, selected - predictions.keys())


def _blank(chosen: Chosen, context: Context, text: str) -> Scored | None:
    """A metric before it is scored; None where it cannot be signed, which scoring then gives as the reason."""
    try:
        return Scored(chosen.metric, chosen.required, context, chosen.metric.signature(context, text), None)
    except CxrbenchError:
        return None


def _or_earlier(run: RunFolder, result: Scored, ids: tuple[str, ...], texts: str) -> Scored:
    """A number of an earlier scoring of the same texts, where it cannot be made again now (weights that are gone)."""
    values = _summary_before(run).get("metrics", {}).get(result.metric.key)
    if not result.reason or not values:
        return result
    signature = next(iter(values.values()))["signature"]
    blank = Scored(result.metric, result.required, Context(), signature, None)
    found = kept_scores(run, blank, ids, texts) if same_version(blank) else None
    if found is None:
        return result
    return replace(
        found, notes=(*found.notes, f"{result.metric.key}: kept from an earlier scoring; now it {result.reason}")
    )


def _scored_earlier(run: RunFolder, named: Collection[str]) -> list[Scored]:
    """The metrics in the summary of an earlier scoring that are not named now, with their signatures of then."""
    metrics = _summary_before(run).get("metrics", {})
    return [
        Scored(make_metric(key), False, Context(), next(iter(values.values()))["signature"], None)
        for key, values in metrics.items()
        if key not in named and values and key not in without_rubric(metrics)
        if key.partition(":")[0] in registry.entries("metrics")
    ]


def score_pairs(
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    named: Sequence[str],
    sources: Sources,
    confidence: Confidence,
    progress: Progress,
    *,
    access: Access,
    dataset: str | None,
    text: str,
    kind: str = "",
    named_clusters: ClusterUnit = "patient",
    optional: Sequence[str] = (),
    slices: Sequence[str] = (),
) -> dict[str, Any]:
    """Score texts that are in no run folder (`cxrbench score FILE`)."""
    if not samples:
        raise CxrbenchError("there is nothing to score: the file has no rows", code=Exit.USAGE)
    corpus = Corpus(
        [s.target for s in samples],
        sources.train,
        sources.vocabulary,
        dataset,
        sources.resources.config,
        sources.resources.precision,
        sources.resources.judge,
    )
    chosen = choose((), named or DEFAULT_METRICS, optional)
    resources = with_store(sources.resources, dataset)
    scored = score(samples, predictions, chosen, corpus, text, progress, resources=resources)
    results = [noted(each, sources) for each in scored]
    summary = summarise(
        samples,
        predictions,
        results,
        access=access,
        kind=kind,
        named=named_clusters,
        slices=slices,
        confidence=confidence,
        progress=progress,
    )
    return {**summary, "notes": [*notes_of(results), *embedded_notes(results), *unkept(results, sources, dataset)]}


DEFAULT_METRICS = ("bleu:raw", "rouge-l:raw", "cider:raw", "length", "distinct")
"""What a bare file is scored with when no metrics are named; every signature says what was done."""
