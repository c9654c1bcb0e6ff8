"""From predictions to statistics: choose metrics, fit, compute features once, walk the pairs in chunks.

Scoring needs a run folder (or a predictions file with references) and nothing else: no model, no images. A metric
that cannot run is named with its reason; a sample that cannot be scored is counted with its reason.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cxrbench import registry
from cxrbench.data.text import normalise
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.base import device_kind
from cxrbench.features.weights import fits
from cxrbench.judges.ask import PENDING
from cxrbench.metrics import base
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
    as_bytes,
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
        return np.asarray(self.kept_rows(), np.float64)

    def kept_rows(self) -> Floats:
        """The same as they are kept, which may be as whole numbers of a byte: to be summed, not to be reckoned with."""
        if self.statistics is None:
            raise CxrbenchError(f"{self.metric.key} was not scored: {self.reason}", code=Exit.UNDECIDED)
        rows = self.statistics.rows
        return rows[:, 0] if rows.shape[1] == 1 else np.asarray(rows.mean(axis=1))


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
    """16 hex digits over every (id, outcome, prediction, reference, labels): scores of equal ones may be kept.

    A prediction is its text, or the name of its artifact, which is that of its content.
    """
    digest = hashlib.sha256()
    for sample in samples:
        row = predictions.get(sample.sample_id)
        scores = map(str, row.option_logprobs or ()) if row else ()
        said = (row.outcome, row.text or row.artifact or "", *scores) if row else ("", "")
        parts = (sample.sample_id, *said, sample.target, json.dumps(sample.labels, sort_keys=True))
        digest.update(hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()[:16]


def _scorable(
    samples: Sequence[Sample], predictions: Mapping[str, Prediction]
) -> tuple[Sequence[int], tuple[str, ...]]:
    """Places of the samples that have an answer to score, and for every sample why it has none ("" if it has)."""
    index = array("q")
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
    return index, tuple(reasons)


def _pairs_of(
    samples: Sequence[Sample], predictions: Mapping[str, Prediction], text: str, index: Sequence[int]
) -> Pairs:
    """The samples at some places. Their predictions go through the same named normalisation as the references did."""
    chosen = [samples[i] for i in index]
    rows = [predictions[sample.sample_id] for sample in chosen]
    return Pairs(
        sample_ids=[s.sample_id for s in chosen],
        predictions=[normalise(text, row.text or "") for row in rows],
        references=[s.target for s in chosen],
        labels=[s.labels for s in chosen],
        artifacts=[row.artifact or "" for row in rows],
        choices=[_choices(row) for row in rows],
    )


def _choices(row: Prediction) -> tuple[tuple[float, ...], tuple[int, ...]]:
    return row.option_logprobs or (), row.option_tokens or ()


def prepare(
    chosen: Sequence[Chosen], corpus: Corpus, stored: Mapping[str, Context], text: str, progress: Progress
) -> list[Scored]:
    """Fit every metric that can run; a reason instead of a context for those that cannot."""
    ready: list[Scored] = []
    for number, each in enumerate(chosen):
        progress("fitting metrics", number, len(chosen))
        metric = each.metric
        reason = _another_form(metric, corpus.form) or metric.ready()
        context, broken, signature = Context(), False, metric.signature(Context(), text)
        if reason is None:
            try:
                known = stored.get(metric.key)
                usable = known is not None and fits(known.data, corpus.dataset, corpus.precision)
                context = known if known is not None and usable else metric.fit(corpus)
                reason, signature = _begun(metric, context, text, stored=context is known)
            except CxrbenchError as error:
                reason, broken = reason_of(error), error.code == Exit.INFRASTRUCTURE
        ready.append(Scored(metric, each.required, context, signature, None, reason or "", broken=broken))
    return ready


def _begun(metric: Metric, context: Context, text: str, *, stored: bool) -> tuple[str | None, str]:
    """Why a metric cannot run with what it learnt, or None; and its signature."""
    try:
        return _features_ready(metric.needs(context)), metric.signature(context, text)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if not stored:
            raise
        raise CxrbenchError(
            "what an earlier scoring learnt is damaged",
            fix=f"delete contexts/{metric.key.replace(':', '.')}* in the run folder and score again",
            code=Exit.INFRASTRUCTURE,
        ) from error


READS = {
    "text": "texts",
    "choices": "scores of options (tasks of kind choice)",
    "vectors": "vectors (tasks of kind retrieval)",
    "pictures": "pictures (image-generation)",
}
"""What metrics of a form read, in words."""


def _another_form(metric: Metric, form: str) -> str | None:
    """Why a metric has nothing to read in a task whose answers are of this form; None where it has."""
    return None if metric.form == form else f"reads {READS[metric.form]}, and the answers of this task are {form}"


def reason_of(error: CxrbenchError) -> str:
    """An error as the reason why a metric was not scored."""
    return f"{error.what}{f' ({error.fix})' if error.fix else ''}"


def _features_ready(requests: Iterable[FeatureRequest]) -> str | None:
    for request in requests:
        reason: str | None = registry.load("features", request.name)().ready(dict(request.settings))
        if reason is not None:
            return reason
    return None


@dataclass(frozen=True, slots=True)
class Ahead:
    """What is about to be scored: the features that each metric needs, and the pairs they are computed of.

    `needs` are those of the metrics that can run, by key; `pairs` begins a walk over all pairs, a chunk at a time.
    """

    needs: Mapping[str, tuple[FeatureRequest, ...]]
    pairs: Callable[[], Iterator[Pairs]]
    resources: Resources


def ahead_of(
    prepared: Sequence[Scored], samples: Sequence[Sample], predictions: Mapping[str, Prediction], text: str,
    resources: Resources,
) -> Ahead:  # fmt: skip
    """What is about to be scored, of metrics that were prepared."""
    index, _ = _scorable(samples, predictions)

    def pairs() -> Iterator[Pairs]:
        for start in range(0, len(index), CHUNK):
            yield _pairs_of(samples, predictions, text, index[start : start + CHUNK])

    needs = {each.metric.key: each.metric.needs(each.context) for each in prepared if not each.reason}
    return Ahead(needs, pairs, resources)


def score(
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    chosen: Sequence[Chosen],
    corpus: Corpus,
    text: str,
    progress: Progress = unwatched,
    stored: Mapping[str, Context] | None = None,
    resources: Resources = ALONE,
    annotate: Callable[[Ahead, Progress], Resources] | None = None,
) -> list[Scored]:
    """Compute the statistics of every chosen metric over `samples`; rows in = rows out, in sample order.

    `text` is the task's normalisation; `stored` are contexts of an earlier scoring by metric key; `resources` is what
    features may use. `annotate` has workers fill the stores before the walk, and returns the resources to go on with.
    """
    if resources.judge is not None:
        resources = replace(resources, judge=resources.judge.watched(progress))
    with scored_on(lambda: device_kind(resources)):
        prepared = prepare(chosen, corpus, stored or {}, text, progress)
    if annotate is not None:
        resources = annotate(ahead_of(prepared, samples, predictions, text, resources), progress)
    index, reasons = _scorable(samples, predictions)
    filled = {each.metric.key: _Filled(reasons) for each in prepared}
    stopped = {each.metric.key: each.reason for each in prepared if each.reason}
    broken = {each.metric.key for each in prepared if each.broken}
    progress("scoring pairs", 0, len(index))
    for start in range(0, max(len(index), 1), CHUNK):
        places = index[start : start + CHUNK]
        chunk = _pairs_of(samples, predictions, text, places)
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
                filled[each.metric.key].put(places, result)
        progress("scoring pairs", min(start + CHUNK, len(index)), len(index))
    ids = corpus.sample_ids if len(corpus.sample_ids) == len(samples) else [each.sample_id for each in samples]
    ids = tuple(ids)
    return [
        replace(each, reason=stopped[each.metric.key], broken=each.metric.key in broken)
        if each.metric.key in stopped
        else replace(each, statistics=filled[each.metric.key].statistics(), sample_ids=ids)
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


class _Filled:
    """Statistics of all samples, filled chunk by chunk; who is not scored is zero, skipped, with its reason.

    Of many samples, numbers that are all whole and small (counts of labels, say) take a byte instead of eight.
    """

    def __init__(self, reasons: Sequence[str]) -> None:
        self._reasons = list(reasons)
        self._rows: NDArray[np.float64] | NDArray[np.uint8] | None = None
        self._status: NDArray[np.uint8] | None = None

    def put(self, places: Sequence[int], part: Statistics) -> None:
        """Add the rows of the samples at some places."""
        shape = (len(self._reasons), *part.rows.shape[1:])
        small = as_bytes(part.rows) if 8 * int(np.prod(shape)) > base.LARGE else None
        if self._rows is None or self._status is None:
            self._rows = np.zeros(shape, np.float64 if small is None else np.uint8)
            self._status = np.full((len(self._reasons), part.status.shape[1]), SKIPPED, np.uint8)
        if self._rows.dtype == np.uint8 and small is None:
            self._rows = self._rows.astype(np.float64)
        self._rows[places] = part.rows if small is None else small
        self._status[places] = part.status
        for place, reason in zip(places, part.reasons, strict=True):
            self._reasons[place] = reason

    def statistics(self) -> Statistics:
        """All of them."""
        assert self._rows is not None, "there is always a chunk, if an empty one"
        assert self._status is not None
        return Statistics(self._rows, self._status, tuple(self._reasons))  # type: ignore[arg-type]  # see Statistics
