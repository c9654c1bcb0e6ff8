"""From predictions to statistics: choose metrics, fit, compute features once, walk the pairs in chunks.

Scoring needs a run folder (or a predictions file with references) and nothing else: no model, no images. A metric
that cannot run is named with its reason; a sample that cannot be scored is counted with its reason.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cxrbench import registry
from cxrbench.data.text import normalise
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.base import device_kind
from cxrbench.features.weights import fits
from cxrbench.judges.ask import PENDING
from cxrbench.metrics.base import (
    ALONE,
    FAILED,
    SCORED,
    SKIPPED,
    Context,
    Corpus,
    FeatureRequest,
    Floats,
    Metric,
    Pairs,
    Resources,
    Statistics,
)
from cxrbench.types import FAILURES, Prediction, Sample
from cxrbench.verified import scored_on

CHUNK = 10_000
"""Pairs scored at a time: large enough for the vectorised metrics, small enough to keep memory flat."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def unwatched(stage: str, done: int, total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A metric to compute and whether a missing number makes the result incomplete."""

    metric: Metric
    required: bool


@dataclass(frozen=True, slots=True)
class Scored:
    """One metric over the samples of a run, in the order of `sample_ids`.

    `statistics` is None when it was not scored; `reason` says why, and `broken` that it was the machine and not the
    input. `notes` are for the reader of the score.
    """

    metric: Metric
    required: bool
    context: Context
    signature: str
    statistics: Statistics | None
    reason: str = ""
    sample_ids: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    broken: bool = False

    @property
    def n(self) -> int:
        """Samples with a score."""
        return 0 if self.statistics is None else int((self.statistics.status == SCORED).all(axis=1).sum())

    @property
    def failed(self) -> int:
        """Samples the metric tried and could not score."""
        return 0 if self.statistics is None else int((self.statistics.status == FAILED).any(axis=1).sum())

    @property
    def pending(self) -> int:
        """Samples a judge did not answer for: the same command asks for them again."""
        if not self.metric.judge or self.statistics is None:
            return 0
        return sum(reason.startswith(PENDING) for reason in self.statistics.reasons)

    def rows(self) -> Floats:
        """(n samples, k) statistics, repeats averaged."""
        if self.statistics is None:
            raise CxrbenchError(f"{self.metric.key} was not scored: {self.reason}", code=Exit.UNDECIDED)
        return np.asarray(self.statistics.rows.mean(axis=1))


def make_metric(text: str) -> Metric:
    """`name` or `name:preset` -> the metric."""
    name, _, preset = text.partition(":")
    metric: Metric = registry.load("metrics", name.strip())(preset.strip() or None)
    return metric


def choose(named: Sequence[str], required: Sequence[str], optional: Sequence[str]) -> list[Chosen]:
    """The metrics to compute: those named by the user (all required), else the task's.

    Raises:
        CxrbenchError: a metric is named twice, or not known.
    """
    wanted = (
        [(text, True) for text in named] if named else [*((t, True) for t in required), *((t, False) for t in optional)]
    )
    chosen = [Chosen(make_metric(text), needed) for text, needed in wanted]
    twice = [key for key, count in Counter(each.metric.key for each in chosen).items() if count > 1]
    if twice:
        raise CxrbenchError(f"{twice[0]} is named twice", where="--metrics")
    return chosen


def texts_hash(samples: Sequence[Sample], predictions: Mapping[str, Prediction]) -> str:
    """16 hex digits over every (id, outcome, prediction, reference, labels): scores of equal ones may be kept."""
    digest = hashlib.sha256()
    for sample in samples:
        row = predictions.get(sample.sample_id)
        said = (row.outcome, row.text or "") if row else ("", "")
        parts = (sample.sample_id, *said, sample.target, json.dumps(sample.labels, sort_keys=True))
        digest.update(hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()[:16]


def make_pairs(
    samples: Sequence[Sample], predictions: Mapping[str, Prediction], text: str
) -> tuple[Pairs, list[int], tuple[str, ...]]:
    """Texts to score, the index of each in `samples`, and for every sample why it is not scored ("" if it is).

    The prediction goes through the same named normalisation as the reference did.
    """
    index: list[int] = []
    reasons: list[str] = []
    for i, sample in enumerate(samples):
        row = predictions.get(sample.sample_id)
        if row is None:
            reasons.append("not answered yet")
        elif row.failed:
            reasons.append(f"{row.outcome}: {FAILURES.get(row.outcome, 'the model failed')}")
        else:
            reasons.append("")
            index.append(i)
    chosen = [samples[i] for i in index]
    pairs = Pairs(
        sample_ids=[s.sample_id for s in chosen],
        predictions=[normalise(text, predictions[s.sample_id].text or "") for s in chosen],
        references=[s.target for s in chosen],
        labels=[s.labels for s in chosen],
    )
    return pairs, index, tuple(reasons)


def _slice(pairs: Pairs, start: int, stop: int) -> Pairs:
    return Pairs(
        pairs.sample_ids[start:stop],
        pairs.predictions[start:stop],
        pairs.references[start:stop],
        pairs.labels[start:stop],
    )


def _prepare(
    chosen: Sequence[Chosen], corpus: Corpus, stored: Mapping[str, Context], text: str, progress: Progress
) -> list[Scored]:
    """Fit every metric that can run; a reason instead of a context for those that cannot."""
    ready: list[Scored] = []
    for number, each in enumerate(chosen):
        progress("fitting metrics", number, len(chosen))
        metric = each.metric
        reason = metric.ready()
        context, broken, signature = Context(), False, metric.signature(Context(), text)
        if reason is None:
            try:
                known = stored.get(metric.key)
                usable = known is not None and fits(known.data, corpus.dataset, corpus.precision)
                context = known if known is not None and usable else metric.fit(corpus)
                reason = _features_ready(metric.needs(context))
                signature = metric.signature(context, text)
            except CxrbenchError as error:
                reason, broken = reason_of(error), error.code == Exit.INFRASTRUCTURE
        ready.append(Scored(metric, each.required, context, signature, None, reason or "", broken=broken))
    return ready


def reason_of(error: CxrbenchError) -> str:
    """An error as the reason why a metric was not scored."""
    return f"{error.what}{f' ({error.fix})' if error.fix else ''}"


def _features_ready(requests: Iterable[FeatureRequest]) -> str | None:
    for request in requests:
        reason: str | None = registry.load("features", request.name)().ready(dict(request.settings))
        if reason is not None:
            return reason
    return None


def score(
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    chosen: Sequence[Chosen],
    corpus: Corpus,
    text: str,
    progress: Progress = unwatched,
    stored: Mapping[str, Context] | None = None,
    resources: Resources = ALONE,
) -> list[Scored]:
    """Compute the statistics of every chosen metric over `samples`; rows in = rows out, in sample order.

    `text` is the task's normalisation; `stored` are contexts of an earlier scoring by metric key; `resources` is what
    features may use.
    """
    if resources.judge is not None:
        resources = replace(resources, judge=resources.judge.watched(progress))
    with scored_on(lambda: device_kind(resources)):
        prepared = _prepare(chosen, corpus, stored or {}, text, progress)
    pairs, index, reasons = make_pairs(samples, predictions, text)
    parts: dict[str, list[Statistics]] = {each.metric.key: [] for each in prepared}
    stopped = {each.metric.key: each.reason for each in prepared if each.reason}
    broken = {each.metric.key for each in prepared if each.broken}
    progress("scoring pairs", 0, len(pairs))
    for start in range(0, max(len(pairs), 1), CHUNK):
        chunk = _slice(pairs, start, start + CHUNK)
        features: dict[FeatureRequest, object] = {}
        for each in prepared:
            if each.metric.key not in stopped:
                try:
                    result = _statistics(each, chunk, features, resources)
                except CxrbenchError as error:  # one metric that breaks takes none of the others with it
                    stopped[each.metric.key] = reason_of(error)
                    broken |= {each.metric.key} if error.code == Exit.INFRASTRUCTURE else set()
                    continue
                if len(result.rows) != len(chunk):
                    raise CxrbenchError(
                        f"{each.metric.key}: {len(chunk)} pairs went in, {len(result.rows)} rows came out",
                        code=Exit.INFRASTRUCTURE,
                    )
                parts[each.metric.key].append(result)
        progress("scoring pairs", min(start + CHUNK, len(pairs)), len(pairs))
    ids = tuple(sample.sample_id for sample in samples)
    return [
        replace(each, reason=stopped[each.metric.key], broken=each.metric.key in broken)
        if each.metric.key in stopped
        else replace(each, statistics=_spread(parts[each.metric.key], index, reasons), sample_ids=ids)
        for each in prepared
    ]


def _statistics(
    scored: Scored, chunk: Pairs, features: dict[FeatureRequest, object], resources: Resources
) -> Statistics:
    """One metric over one chunk; features are computed once and kept in `features` for the other metrics."""
    for request in scored.metric.needs(scored.context):
        if request not in features:
            feature = registry.load("features", request.name)()
            features[request] = feature.extract(chunk, dict(request.settings), resources)
    return scored.metric.statistics(chunk, features, scored.context)


def _spread(parts: Sequence[Statistics], index: Sequence[int], reasons: Sequence[str]) -> Statistics:
    """Put the rows of the scored pairs back among all samples; the others are zero, skipped, with their reason."""
    rows = np.concatenate([part.rows for part in parts])
    status = np.concatenate([part.status for part in parts])
    said = [reason for part in parts for reason in part.reasons]
    full = np.zeros((len(reasons), *rows.shape[1:]))
    full_status = np.full((len(reasons), status.shape[1]), SKIPPED, np.uint8)
    full_reasons = list(reasons)
    full[index] = rows
    full_status[index] = status
    for position, reason in zip(index, said, strict=True):
        full_reasons[position] = reason
    return Statistics(full, full_status, tuple(full_reasons))
