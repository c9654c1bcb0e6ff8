"""Score what a run folder or a predictions file holds, and keep the statistics beside it.

Everything scoring needs is in the run folder. What a metric learns from the train split is learnt once, when the data
are at hand, and kept in contexts/, so that a run can be scored again on a machine that has no data.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cxrbench import __version__, registry
from cxrbench.atomic import write_atomic
from cxrbench.config import cache_dir
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.base import device_kind
from cxrbench.features.store import Store
from cxrbench.features.weights import fits
from cxrbench.metrics.base import ALONE, Context, Corpus, Resources, comparable, short_hash
from cxrbench.scoring import Chosen, Progress, Scored, choose, make_metric, score, texts_hash
from cxrbench.store import RunFolder
from cxrbench.summary import Confidence, speed_entry, summarise
from cxrbench.tables import Scores, StoredSamples, read_samples, read_scores, write_scores
from cxrbench.types import Access, Manifest, Prediction, Sample
from cxrbench.verified import scored_on


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a metric may learn from besides the references: the train split's texts, and a word list."""

    train: Callable[[], Sequence[str]] | None = None
    vocabulary: frozenset[str] | None = None
    at_hand: bool = False
    """The data are being read anyway: learn anew instead of taking what an earlier scoring learnt."""
    resources: Resources = ALONE
    """What features may use: the settings, the device; the store is that of the data set."""


def with_store(resources: Resources, dataset: str | None) -> Resources:
    """The same resources with the feature store of a data set (of bare files together, where there is none)."""
    if resources.config is None:
        return resources
    judge = resources.judge.at(cache_dir() / "judges" / (dataset or BARE)) if resources.judge is not None else None
    return replace(resources, store=Store(cache_dir() / "features" / (dataset or BARE)), judge=judge)


BARE = "files"
"""The feature store of files that name no task."""


def _noted(scored: Scored, sources: Sources) -> Scored:
    """A metric that learnt from a given word list, or was judged, says so wherever its score stands."""
    if scored.metric.judge and scored.statistics is not None and sources.resources.judge is not None:
        return replace(scored, notes=tuple(sources.resources.judge.told(scored.context.data["rubrics"])))
    if sources.vocabulary is None or "vocabulary" not in scored.context.data:
        return scored
    return replace(scored, notes=(f"{scored.metric.key}: a given vocabulary of {len(sources.vocabulary)} words",))


def notes_of(results: Sequence[Scored]) -> list[str]:
    """What a reader must know of how the metrics came about."""
    return [note for each in results for note in each.notes]


def embedded_notes(results: Sequence[Scored]) -> list[str]:
    """Numbers that the tiny embedded annotators made must not stand beside published ones."""
    keys = [each.metric.key for each in results if each.statistics is not None and "embedded-" in each.signature]
    said = "read by the embedded annotators, which know phantom only: not comparable with published values"
    return [f"{', '.join(keys)}: {said}"] if keys else []


def _unkept(results: Sequence[Scored], sources: Sources, dataset: str | None) -> list[str]:
    """Annotations that could not be kept cost the next scoring the same time again, so it is said."""
    store = with_store(sources.resources, dataset).store
    read = any(each.statistics is not None and "|verified:" in each.signature for each in results)
    if store is None or not read or store.usable():
        return []
    return [f"annotations were not kept, the next scoring makes them again: {store.file.parent} cannot be written"]


def _file_name(key: str) -> str:
    return key.replace(":", ".").replace("/", "_")


def score_file(run: RunFolder, scored: Scored) -> Path:
    """scores/<metric>@<sig8>.parquet; the same whether or not the weights were verified meanwhile."""
    return run.path / "scores" / f"{_file_name(scored.metric.key)}@{short_hash(comparable(scored.signature))}.parquet"


def _context_file(run: RunFolder, key: str) -> Path:
    return run.path / "contexts" / f"{_file_name(key)}.json"


def stored_contexts(
    run: RunFolder, chosen: Sequence[Chosen], sources: Sources, dataset: str | None
) -> dict[str, Context]:
    """Contexts of an earlier scoring, unless the data are at hand or a word list is given for this time.

    One that was made at another precision is not among them.
    """
    found: dict[str, Context] = {}
    for each in chosen:
        file = _context_file(run, each.metric.key)
        asked_anew = each.metric.judge and sources.resources.judge is not None
        if sources.vocabulary is None and not sources.at_hand and not asked_anew and file.exists():
            version, context = _read_context(file)
            if version == each.metric.version and fits(context.data, dataset, sources.resources.precision):
                found[each.metric.key] = context
    return found


def _read_context(file: Path) -> tuple[int, Context]:
    """Version of the metric that learnt it, and the context, whose hash must be that of its data."""
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        version, context = body["version"], Context.of(body["data"])
        if context.hash == body["hash"]:
            return version, context
    except (ValueError, KeyError, TypeError):
        pass
    raise CxrbenchError(
        "a stored context is damaged",
        where=str(file),
        fix=f"delete {file.name} and score again",
        code=Exit.INFRASTRUCTURE,
    )


def _keep(run: RunFolder, scored: Scored, texts: str, sources: Sources) -> None:
    """Store statistics, and the context unless it comes from a word list of this one call."""
    if scored.statistics is None:
        return
    if scored.context.hash and sources.vocabulary is None:
        body = {"version": scored.metric.version, "hash": scored.context.hash, "data": scored.context.data}
        write_atomic(_context_file(run, scored.metric.key), json.dumps(body, ensure_ascii=False).encode())
    about = {
        "metric": scored.metric.name,
        "preset": scored.metric.preset,
        "signature": scored.signature,
        "texts": texts,
        "notes": list(scored.notes),
    }
    write_scores(score_file(run, scored), Scores(scored.sample_ids, scored.statistics, about))


def _known(run: RunFolder, scored: Scored, sample_ids: tuple[str, ...], texts: str) -> Scored | None:
    """The stored statistics of an earlier scoring of exactly these texts, if there are any."""
    file = score_file(run, scored)
    if not file.exists():
        return None
    scores = read_scores(file)
    if scores.about.get("texts") != texts or scores.sample_ids != sample_ids:
        return None
    if comparable(scores.about.get("signature", "")) != comparable(scored.signature):
        return None
    notes = tuple(scores.about.get("notes", ()))
    return replace(scored, statistics=scores.statistics, sample_ids=sample_ids, notes=notes)


def load_scores(run: RunFolder, metric_keys: Sequence[str] = ()) -> list[Scored]:
    """All stored statistics of a run (or those named), without reading a text.

    Raises:
        CxrbenchError: a metric that was named has not been scored.
    """
    summary = read_summary(run)
    texts = texts_hash(read_samples(run.samples_file).chosen, run.predictions())
    signatures = {key: next(iter(values.values()))["signature"] for key, values in summary["metrics"].items() if values}
    found = []
    for key in [make_metric(name).key for name in metric_keys] or signatures:
        if key not in signatures:
            raise CxrbenchError(
                f"{key} has not been scored", where=str(run.path), fix=f"cxrbench score {run.path} --metrics {key}"
            )
        metric = make_metric(key)
        wanted = Scored(metric, True, Context(), signatures[key], None)
        scores = read_scores(score_file(run, wanted))
        if scores.about.get("texts") != texts or not _same_version(wanted):
            raise CxrbenchError(
                f"the scores of {key} are of other texts, or of another version of the metric",
                where=str(run.path),
                fix=f"cxrbench score {run.path}",
                code=Exit.UNDECIDED,
            )
        found.append(replace(wanted, statistics=scores.statistics, sample_ids=scores.sample_ids))
    return found


def _same_version(scored: Scored) -> bool:
    """Whether a stored signature was made by this version of its metric, so that its columns mean what they did."""
    return scored.metric.reads(scored.signature)


def read_summary(run: RunFolder) -> dict[str, Any]:
    """summary.json of a scored run."""
    file = run.path / "summary.json"
    if not file.exists():
        raise CxrbenchError("the run has not been scored", where=str(run.path), fix=f"cxrbench score {run.path}")
    try:
        summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if all(key in summary for key in ("metrics", "n_expected", "outcomes", "slices", "task")):
            return summary
    except (ValueError, TypeError):
        pass
    raise CxrbenchError(
        "the summary is damaged", where=str(file), fix=f"cxrbench score {run.path}", code=Exit.INFRASTRUCTURE
    )


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
        results = _score_stored(run, manifest, stored, predictions, chosen, sources, progress)
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
                slices=manifest.task.get("slices", ()),
                confidence=confidence,
                progress=progress,
            ),
            **_still_missing(manifest, results, before),
            "n_task": len(stored.samples),
            "n_full": manifest.task["expected"]["n"],
            "limit": manifest.identity["limit"],
            "excluded": dict(manifest.excluded),
            "notes": [
                *manifest.task.get("run_notes", ()),
                *_gallery_notes(manifest),
                *notes_of(results),
                *_changed(results, before),
                *(f"{key}: left out, its rubric is not there" for key in _without_rubric(before.get("metrics", {}))),
                *embedded_notes(results),
                *_unkept(results, sources, manifest.task["dataset"]["name"]),
            ],
            "speed": _speed(
                run, manifest, [predictions[s.sample_id] for s in stored.chosen if s.sample_id in predictions]
            ),
        }
        write_atomic(run.path / "summary.json", (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode())
    return summary


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


def _changed(results: Sequence[Scored], before: Mapping[str, Any]) -> list[str]:
    """A number that is made in another way than at the last scoring says so."""
    then = {
        key: next(iter(values.values()))["signature"] for key, values in before.get("metrics", {}).items() if values
    }
    ways: dict[str, list[str]] = {}
    for each in results:
        key = each.metric.key
        if each.statistics is not None and comparable(then.get(key, each.signature)) != comparable(each.signature):
            ways.setdefault(_differences(then[key], each.signature), []).append(key)
    return [
        f"{', '.join(keys)} {'is' if len(keys) == 1 else 'are'} made in another way than at the last scoring: {how}"
        for how, keys in ways.items()
    ]


def _differences(before: str, now: str) -> str:
    """The parts in which two signatures differ: `weights:1a2b3c4d before, weights:5e6f7a8b now`."""
    first, second = (comparable(each).split("|") for each in (before, now))
    gone = [f"{part} before" for part in first if part not in second]
    return ", ".join([*gone, *(f"{part} now" for part in second if part not in first)])


def speed_summary(run: RunFolder) -> dict[str, Any]:
    """What a run of random weights came to: how many samples were answered, and how fast. Nothing is scored."""
    manifest, predictions = run.manifest(), run.predictions()
    stored = read_samples(run.samples_file)
    answered = [predictions[s.sample_id] for s in stored.chosen if s.sample_id in predictions]
    cut = [row for row in answered if row.finish_reason in ("stop", "length")]
    return {
        "task": manifest.identity["task"]["name"],
        "model": manifest.identity["model"].get("name", ""),
        "run": str(run.path),
        "n": sum(not row.failed for row in answered),
        "n_expected": manifest.n_expected,
        "outcomes": dict(sorted(Counter(row.outcome for row in answered).items())),
        "truncated_share": sum(row.finish_reason == "length" for row in cut) / len(cut) if cut else None,
        "notes": ["random weights: speed only, never scored"],
        "speed": _speed(run, manifest, answered),
    }


def _speed(run: RunFolder, manifest: Manifest, answered: Sequence[Prediction]) -> dict[str, Any]:
    """The speed of a run; empty where a model says that its times mean nothing (`timed: false`)."""
    machine = manifest.circumstances[-1] if manifest.circumstances else {}
    return speed_entry(answered, run.batches(), machine) if machine.get("timed", True) else {}


def _gallery_notes(manifest: Manifest) -> list[str]:
    """How many train images a retrieval model could look at."""
    machine = manifest.circumstances[-1] if manifest.circumstances else {}
    if "gallery" not in machine:
        return []
    left_out = ", ".join(f"{count} {why}" for why, count in machine.get("gallery_left_out", {}).items())
    return [f"gallery: {machine['gallery']} train images" + (f" ({left_out})" if left_out else "")]


def is_dummy(manifest: Manifest) -> bool:
    """Whether the texts come from random weights (`--load-format dummy`): for speed, never for scores."""
    return bool(manifest.identity["model"].get("load_format") == "dummy")


def _score_stored(
    run: RunFolder,
    manifest: Manifest,
    stored: StoredSamples,
    predictions: Mapping[str, Prediction],
    chosen: Sequence[Chosen],
    sources: Sources,
    progress: Progress,
) -> list[Scored]:
    samples, texts = stored.chosen, texts_hash(stored.chosen, predictions)
    ids = tuple(sample.sample_id for sample in samples)
    corpus = Corpus(
        references=[sample.target for sample in stored.samples],
        train=sources.train,
        vocabulary=sources.vocabulary,
        dataset=manifest.task["dataset"]["name"],
        config=sources.resources.config,
        precision=sources.resources.precision,
        judge=sources.resources.judge,
    )
    contexts = stored_contexts(run, chosen, sources, corpus.dataset)
    text = manifest.task["text"]
    known = {}
    for each in chosen:
        with scored_on(lambda: device_kind(sources.resources)):
            blank = _blank(each, contexts.get(each.metric.key, Context()), text)
        before = _known(run, blank, ids, texts) if blank is not None else None
        if before is not None:
            known[each.metric.key] = before
    open_ = [each for each in chosen if each.metric.key not in known]
    resources = with_store(sources.resources, corpus.dataset)
    scored = score(samples, predictions, open_, corpus, text, progress, contexts, resources)
    fresh = {each.metric.key: each for each in scored}
    fresh = {key: _noted(result, sources) for key, result in fresh.items()}
    for result in fresh.values():
        _keep(run, result, texts, sources)
    results = [known.get(each.metric.key) or fresh[each.metric.key] for each in chosen]
    results = [_or_earlier(run, each, ids, texts) for each in results]
    asked = {each.metric.key for each in chosen}
    earlier = [_known(run, blank, ids, texts) for blank in _scored_earlier(run, asked) if _same_version(blank)]
    return [*results, *(each for each in earlier if each is not None)]


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
    found = _known(run, blank, ids, texts) if _same_version(blank) else None
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
        if key not in named and values and key not in _without_rubric(metrics)
        if key.partition(":")[0] in registry.entries("metrics")
    ]


def _without_rubric(keys: Collection[str]) -> list[str]:
    """Metrics `judge:FILE` whose file is gone: what their columns mean is not known any more."""
    return [key for key in keys if key.startswith("judge:") and not Path(key.partition(":")[2]).is_file()]


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
    results = [_noted(each, sources) for each in scored]
    summary = summarise(
        samples,
        predictions,
        results,
        access=access,
        slices=slices,
        confidence=confidence,
        progress=progress,
    )
    return {**summary, "notes": [*notes_of(results), *embedded_notes(results), *_unkept(results, sources, dataset)]}


DEFAULT_METRICS = ("bleu:raw", "rouge-l:raw", "cider:raw", "length", "distinct")
"""What a bare file is scored with when no metrics are named; every signature says what was done."""
