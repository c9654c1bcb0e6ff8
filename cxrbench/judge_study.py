"""Does a metric agree with people, and with what is known to be wrong? One table for all metrics at once.

Agreement: Kendall's tau-b and Pearson's r between a metric's value of each report and what people said of it, with
intervals that resample cases, and the share of pairs of candidates of one case that the metric puts in their order. All
three are oriented: 1 is perfect agreement, whether more or less is better on either side.

Per category: errors of one kind as a judge counts them against errors of the same kind as people counted them.

Sensitivity: how far each planted error moves a metric from its value of the untouched report. Touches everything
scoring touches; never torch by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbench import planted
from cxrbench.data.phantom import Phantom
from cxrbench.data.text import normalise
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.judge_study_data import REXVAL_KINDS, Rated, better_is_higher
from cxrbench.judges.formulas import ERRORS
from cxrbench.metrics.base import ALONE, SCORED, Corpus, Floats, Resources
from cxrbench.scores import with_store
from cxrbench.scoring import Progress, Scored, choose, score, unwatched
from cxrbench.stats import Clusters, resample_weights
from cxrbench.types import OK, Prediction, Sample

TEXT = "whitespace:v1"
"""Normalisation of both texts."""

ORDERED = 1e-9
"""Two numbers closer than this are a tie."""

_REXVAL_KINDS = dict(zip(REXVAL_KINDS, ERRORS, strict=True))
"""The same six in the same order: categories 1-6 of ReXVal and RadEvalX, a-f of GREEN, A-F of CheXprompt."""

KINDS: Mapping[str, tuple[str, ...]] = {
    **{f"errors:{human}": (f"significant_{own}", f"insignificant_{own}") for human, own in _REXVAL_KINDS.items()},
    "errors:false": ("false_findings",),
    "errors:missing": ("missing_findings",),
    "errors:attribute": ("attribute_errors",),
}
"""What people counted -> values of a judged metric that count the same, summed: ReXVal's kinds, significant or not, by
`chexprompt` and `green`; RadPref's by `crimson`, whose kinds they are. RadEvalX's kinds 7 and 8 no judge counts."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A primary value of a metric for every report: `values` (n,), not a number where there is none.

    `kinds` are a judge's own counts by the human target of `KINDS` they are of, each (n,) as well.
    """

    metric: str
    name: str
    signature: str
    higher_is_better: bool
    values: Floats
    kinds: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def quality(self) -> Floats:
        """The values with more meaning better."""
        return self.values if self.higher_is_better else -self.values


def tau_b(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Kendall's tau-b of x and y (n,), for each row of weights (b, n) that say how often each item counts: (b,).

    Pairs of one item with itself are ties on both sides and count nowhere. 0/0: not a number.

    >>> tau_b(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]), np.ones((1, 3))).round(4)
    array([0.3333])
    """
    one, two = (np.sign(v[:, None] - v[None, :]) * (np.abs(v[:, None] - v[None, :]) > ORDERED) for v in (x, y))

    def total(matrix: Floats) -> Floats:
        return np.asarray(((weights @ matrix) * weights).sum(axis=1))

    with np.errstate(invalid="ignore", divide="ignore"):
        return total(one * two) / np.sqrt(total(np.abs(one)) * total(np.abs(two)))


def pearson(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Pearson's r of x and y (n,), for each row of weights (b, n): (b,); not a number where one is constant."""
    whole = weights.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x, mean_y = weights @ x / whole, weights @ y / whole
        xy = weights @ (x * y) / whole - mean_x * mean_y
        xx, yy = weights @ (x * x) / whole - mean_x**2, weights @ (y * y) / whole - mean_y**2
        bound = (
            1e-12 * max(float(np.square(x).max(initial=0.0)), 1.0),
            1e-12 * max(float(np.square(y).max(initial=0)), 1.0),
        )
        return np.where((xx > bound[0]) & (yy > bound[1]), xy / np.sqrt(xx * yy), np.nan)


def ranking(x: Floats, y: Floats, cases: Sequence[str]) -> tuple[Floats, Floats]:
    """Per case, over pairs of its candidates that people (y) tell apart: pairs in the right order by x, and pairs.

    A tie of x is half right. Both (cases,), in sorted order of the cases.
    """
    clusters = Clusters.of(cases)
    right, pairs = np.zeros(clusters.count), np.zeros(clusters.count)
    for case in range(clusters.count):
        items = np.flatnonzero(clusters.index == case)
        for i, first in enumerate(items):
            for second in items[i + 1 :]:
                human, own = y[first] - y[second], x[first] - x[second]
                if abs(human) > ORDERED:
                    pairs[case] += 1
                    right[case] += 0.5 if abs(own) <= ORDERED else float((own > 0) == (human > 0))
    return right, pairs


def agreement(
    x: Floats, y: Floats, cases: Sequence[str], *, replicates: int, seed: int, level: float
) -> dict[str, Any]:
    """The three numbers with percentile intervals over resampled cases; items where x is no number are left out."""
    known = np.isfinite(x)
    x, y, cases = x[known], y[known], [case for case, keep in zip(cases, known, strict=True) if keep]
    if len(x) < 3:
        return {"n": len(x), "cases": len(set(cases))}
    ones = np.ones((1, len(x)))
    right, pairs = ranking(x, y, cases)
    found: dict[str, list[Floats]] = {"tau_b": [], "pearson": [], "ranking": []}
    clusters = Clusters.of(cases)
    for drawn in resample_weights(clusters.count, replicates, seed) if replicates else ():
        weights = drawn[:, clusters.index]
        found["tau_b"].append(tau_b(x, y, weights))
        found["pearson"].append(pearson(x, y, weights))
        with np.errstate(invalid="ignore"):
            found["ranking"].append((drawn @ right) / (drawn @ pairs))
    values = {
        "tau_b": float(tau_b(x, y, ones)[0]),
        "pearson": float(pearson(x, y, ones)[0]),
        "ranking": float(right.sum() / pairs.sum()) if pairs.sum() else float("nan"),
    }
    return {"n": len(x), "cases": clusters.count, "pairs": int(pairs.sum())} | {
        name: {"value": _number(value), "ci": _interval(found[name], level)} for name, value in values.items()
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _interval(parts: Sequence[Floats], level: float) -> list[float] | None:
    """Percentile interval; none where more than 1 in 100 resamples is 0/0."""
    draws = np.concatenate(parts) if parts else np.zeros(0)
    known = draws[np.isfinite(draws)]
    if not len(draws) or len(known) < 0.99 * len(draws):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def measure(
    samples: Sequence[Sample],
    texts: Sequence[str],
    named: Sequence[str],
    resources: Resources = ALONE,
    dataset: str | None = None,
    progress: Progress = unwatched,
) -> tuple[list[Measured], dict[str, str], dict[str, int], list[str]]:
    """Every metric's primary values of every report; those that cannot be had with the reason; open ones; notes.

    Open are reports that a judge has still to answer for, by metric. Contexts are learnt from the study's references.
    """
    predictions = {s.sample_id: Prediction(s.sample_id, OK, text) for s, text in zip(samples, texts, strict=True)}
    resources = with_store(resources, dataset)
    corpus = Corpus(
        list(dict.fromkeys(s.target for s in samples)),
        dataset=dataset,
        config=resources.config,
        precision=resources.precision,
        judge=resources.judge,
    )
    results = score(samples, predictions, choose(named, (), ()), corpus, TEXT, progress, resources=resources)
    found: list[Measured] = []
    left: dict[str, str] = {}
    for each in results:
        own = _primary(each)
        if own:
            found += own
        else:
            left[each.metric.key] = each.reason or "it has no value of a single report, or no direction"
    judge = resources.judge
    scored = [each for each in results if each.metric.judge and each.statistics is not None]
    tags = dict.fromkeys(each.context.data["rubrics"] for each in scored)
    notes = [line for tag in tags for line in judge.told(tag)]
    if len({int(np.isfinite(each.values).sum()) for each in found}) > 1:
        notes.append(
            "where a row has another number of reports behind it (n), it is of other reports: failures are not missing"
            " at random, so such rows are not compared"
        )
    return found, left, {each.metric.key: each.pending for each in results if each.pending}, notes


def _primary(scored: Scored) -> list[Measured]:
    metric = scored.metric
    if scored.statistics is None or not metric.additive:
        return []
    rows = scored.rows()
    with np.errstate(divide="ignore", invalid="ignore"):
        values = metric.value(rows)
    used = (scored.statistics.status == SCORED).all(axis=1)
    values = {name: np.where(used, found, np.nan) for name, found in values.items()}
    counted = {target: names for target, names in KINDS.items() if metric.judge and set(names) <= set(values)}
    kinds = {target: np.sum([values[name] for name in names], axis=0) for target, names in counted.items()}
    return [
        Measured(metric.key, name, scored.signature, about.higher_is_better, values[name], kinds)
        for name, about in metric.values.items()
        if about.primary and about.higher_is_better is not None
    ]


def per_category(
    found: Sequence[Measured], targets: Mapping[str, Floats], cases: Sequence[str], **how: Any
) -> dict[str, dict[str, Any]]:
    """Each judge's count of a kind against people's count of the same kind, by metric and target, where both have it.

    `agreement` with the mean counts of both, over the reports the judge answered for; `how` as there. What a judge or
    nobody ever counts has no correlation.
    """
    out: dict[str, dict[str, Any]] = {}
    for each in found:
        for target, count in each.kinds.items():
            if target in targets:
                known = np.isfinite(count)
                means = {"judge_mean": count[known], "human_mean": targets[target][known]}
                about = {name: float(part.mean()) if len(part) else None for name, part in means.items()}
                out.setdefault(each.metric, {})[target] = agreement(count, targets[target], cases, **how) | about
    return out


def study(
    rated: Sequence[Rated],
    named: Sequence[str],
    resources: Resources = ALONE,
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    progress: Progress = unwatched,
) -> dict[str, Any]:
    """Agreement of every metric with every target of a reader study.

    Raises:
        CxrbenchError: two rows are one report of one case, or not one metric has a value.
    """
    samples = [Sample(each.sample_id, each.sample_id, each.case, normalise(TEXT, each.reference)) for each in rated]
    _check_ids(samples)
    found, left, open_, notes = measure(samples, [each.candidate for each in rated], named, resources, None, progress)
    _check_any(found, left)
    cases = [each.case for each in rated]
    targets = {name: np.array([each.human[name] for each in rated]) for name in rated[0].human}
    metrics = {
        f"{each.metric} {each.name}": {
            "signature": each.signature,
            "higher_is_better": each.higher_is_better,
            "targets": {
                name: agreement(
                    each.quality, human if better_is_higher(name) else -human, cases,
                    replicates=replicates, seed=seed, level=level,
                )
                for name, human in targets.items()
            },
        }
        for each in found
    }  # fmt: skip
    kinds = per_category(found, targets, cases, replicates=replicates, seed=seed, level=level)
    return {"n": len(rated), "cases": len(set(cases)), "ci_level": level, "metrics": metrics, "per_category": kinds,
            "not_scored": left, "not_judged": open_, "notes": notes}  # fmt: skip


def planted_study(
    count: int, named: Sequence[str], resources: Resources = ALONE, *, replicates: int = 1000, seed: int = 0,
    level: float = 0.95, progress: Progress = unwatched,
) -> dict[str, Any]:  # fmt: skip
    """Sensitivity profile and agreement with the number of planted errors, over `count` phantom studies.

    `profile[metric][kind]`: n, mean loss of quality against the untouched report (in the metric's own unit, positive:
    worse), its interval (patients resampled), and `moved`, the share of reports whose value changed at all. The last
    kind is another patient's report in its place.
    """
    items = planted.profile_items(count, seed=seed)
    graded = planted.graded_items(count, seed=seed)
    together = [*items, *graded]
    samples = [
        Sample(f"{i}", each.study.study_id, each.study.patient_id, normalise(TEXT, each.study.sections["findings"]),
               labels=each.study.labels)
        for i, each in enumerate(together)
    ]  # fmt: skip
    texts = [each.text for each in together]
    found, left, open_, notes = measure(samples, texts, named, resources, Phantom.name, progress)
    _check_any(found, left)
    patients = [each.study.patient_id or each.study.study_id for each in items]
    profile = {
        f"{each.metric} {each.name}": _profile(
            each.quality[: len(items)], items, patients, replicates=replicates, seed=seed, level=level
        )
        for each in found
    }
    errors = -np.array([float(each.errors) for each in graded])
    who = [each.study.patient_id or each.study.study_id for each in graded]
    metrics = {
        f"{each.metric} {each.name}": {
            "signature": each.signature,
            "higher_is_better": each.higher_is_better,
            "targets": {
                "errors:planted": agreement(
                    each.quality[len(items) :], errors, who, replicates=replicates, seed=seed, level=level
                )
            },
        }
        for each in found
    }
    return {
        "n": len(together), "cases": len(set(patients)), "ci_level": level,
        "kinds": [*planted.KINDS, planted.STRANGER], "profile": profile, "metrics": metrics, "not_scored": left,
        "not_judged": open_, "notes": notes,
    }  # fmt: skip


def _profile(
    quality: Floats,
    items: Sequence[planted.Planted],
    patients: Sequence[str],
    *,
    replicates: int,
    seed: int,
    level: float,
) -> dict[str, Any]:
    untouched = {each.study.study_id: quality[i] for i, each in enumerate(items) if not each.kind}
    out: dict[str, Any] = {}
    for kind in (*planted.KINDS, planted.STRANGER):
        chosen = [i for i, each in enumerate(items) if each.kind == kind]
        loss = np.array([untouched[items[i].study.study_id] - quality[i] for i in chosen])
        known = np.isfinite(loss)
        loss, who = loss[known], [patients[i] for i, keep in zip(chosen, known, strict=True) if keep]
        if not len(loss):
            out[kind] = {"n": 0, "loss": None, "ci": None, "moved": None}
            continue
        clusters = Clusters.of(who)
        sums, counts = (clusters.sums(v[:, None])[:, 0] for v in (loss, np.ones_like(loss)))
        draws: list[NDArray[np.float64]] = [
            (drawn @ sums) / (drawn @ counts)
            for drawn in (resample_weights(clusters.count, replicates, seed) if replicates else ())
        ]
        out[kind] = {
            "n": len(loss),
            "loss": float(loss.mean()),
            "ci": _interval(draws, level),
            "moved": float((np.abs(loss) > ORDERED).mean()),
        }
    return out


def _check_ids(samples: Sequence[Sample]) -> None:
    ids = [sample.sample_id for sample in samples]
    if len(set(ids)) < len(ids):
        twice = next(each for each in ids if ids.count(each) > 1)
        raise CxrbenchError("two rows are the same candidate of a case", where=twice, fix="give each a name of its own")


def _check_any(found: Sequence[Measured], left: Mapping[str, str]) -> None:
    if not found:
        why = "; ".join(f"{key}: {reason}" for key, reason in left.items())
        raise CxrbenchError(f"not one metric has a value of every report ({why})", code=Exit.UNDECIDED)
