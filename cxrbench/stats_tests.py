"""Tests on stored statistics: is the difference real, is it small enough, could it have been seen at all.

Holm, non-inferiority, minimum detectable effect and the A/A check on the per-sample statistics and patient clusters of
`stats`; the paired randomisation test has a room of its own. Touches numpy, stats and errors only.

A difference is always candidate minus baseline.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from cxrbench.errors import CxrbenchError
from cxrbench.stats import (
    Clusters,
    Floats,
    Interval,
    Method,
    Table,
    bootstrap,
    by_scored,
    chunks,
    coins,
    difference,
    jackknife,
    replicate,
)
from cxrbench.stats_randomisation import Pair as Pair
from cxrbench.stats_randomisation import Randomisation as Randomisation
from cxrbench.stats_randomisation import paired_randomisation as paired_randomisation
from cxrbench.types import CLUSTERS, ClusterUnit

Sides = Literal[1, 2]
"""Whether a test looks for a difference in one direction, or in either."""


@dataclass(frozen=True, slots=True)
class NonInferiority:
    """Verdict on one value, with the sentence that goes into reports."""

    status: Literal["pass", "fail", "undecided"]
    reason: str
    margin: float
    difference: Interval


@dataclass(frozen=True, slots=True)
class Detectable:
    """The smallest true difference that a test of `alpha` and `sides` would find with probability `power`.

    `effect` is None, with a note, where it is unknown.

    `design_effect`: how many times the variance is larger than if samples were independent.
    """

    effect: float | None
    standard_error: float
    design_effect: float
    samples: int
    clusters: int
    alpha: float
    sides: Sides
    power: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class AaCheck:
    """How often a test cries wolf when patients are split at random: should be `alpha`.

    `clustered` uses the variance between patients, `naive` treats samples as independent.
    """

    clustered: float
    naive: float
    alpha: float
    splits: int
    design_effect: float
    clusters: int


def paired_bootstrap(
    pairs: Mapping[str, Pair],
    clusters: Sequence[Hashable],
    *,
    method: Method = "bca",
    level: float = 0.95,
    replicates: int = 10_000,
    seed: int = 0,
) -> dict[str, dict[str, Interval]]:
    """Intervals of candidate minus baseline; both systems see the same resampled patients."""
    tables = {name: difference(*pair) for name, pair in pairs.items()}
    return bootstrap(tables, clusters, method=method, level=level, replicates=replicates, seed=seed)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment: the chance of any false claim among all stays below alpha (Holm 1979).

    A p-value that is NaN belongs to a test that could not be made: it stays NaN and is not counted among the tests.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    made = {name: p for name, p in p_values.items() if not np.isnan(p)}
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, (name, p) in enumerate(sorted(made.items(), key=lambda item: item[1])):
        if not 0 <= p <= 1:
            raise ValueError(f"{name}: {p} is no p-value")
        highest = max(highest, min(1.0, p * (len(made) - rank)))
        adjusted[name] = highest
    return {name: adjusted.get(name, float("nan")) for name in p_values}


def non_inferiority(interval: Interval, margin: float, *, higher_is_better: bool = True) -> NonInferiority:
    """Judge an interval of candidate minus baseline against a margin.

    Null hypothesis: worse by at least the margin. Pass: the confidence bound on the bad side is within the margin.
    Fail: not passed, and even the bound on the good side is worse than no change. Undecided otherwise: absence of
    significance is not a pass. An interval of level 0.90 gives one-sided 95 %.

    Raises:
        CxrbenchError: the margin is not a positive number.
    """
    if not (margin > 0 and np.isfinite(margin)):
        raise CxrbenchError(
            f"a non-inferiority margin of {margin} makes no sense",
            fix="give a positive margin; for a claim of improvement use the randomisation test",
        )
    if interval.low is None or interval.high is None:
        return NonInferiority("undecided", f"no interval: {interval.note}", margin, interval)
    worst, best = (interval.low, interval.high) if higher_is_better else (-interval.high, -interval.low)
    sure = f"one-sided {(1 + interval.level) / 2:.1%} confidence"
    if worst > -margin:
        note = "worse, but within the margin" if best < 0 else "not worse than the margin allows"
        return NonInferiority("pass", f"{note}, with {sure}", margin, interval)
    if best < 0:
        return NonInferiority("fail", f"worse, with {sure}, and maybe by more than the margin", margin, interval)
    return NonInferiority("undecided", f"worse by more than the margin is not ruled out, with {sure}", margin, interval)


def detectable(
    sd: float,
    samples: int,
    design_effect: float = 1.0,
    *,
    alpha: float = 0.05,
    sides: Sides = 1,
    power: float = 0.8,
) -> float:
    """Smallest detectable true difference for a mean of paired differences with standard deviation `sd`.

    (z_{1 - alpha / sides} + z_{power}) sd sqrt(design effect / n). One-sided as a gate is, unless `sides` is 2: then
    the effect belongs beside a two-sided p-value.

    >>> round(detectable(0.15, 2347), 3), round(detectable(0.15, 2347, sides=2), 3)
    (0.008, 0.009)

    Raises:
        CxrbenchError: `sides` is not 1 or 2, or `alpha` or `power` is no probability between 0 and 1.
    """
    if sides not in (1, 2) or not (0 < alpha < 1 and 0 < power < 1):
        raise CxrbenchError(
            f"a test with {sides} side(s), alpha {alpha} and power {power} makes no sense",
            fix="give 1 or 2 sides, and alpha and power between 0 and 1",
        )
    normal = NormalDist()
    return float((normal.inv_cdf(1 - alpha / sides) + normal.inv_cdf(power)) * sd * np.sqrt(design_effect / samples))


def minimum_detectable_effect(
    table: Table, clusters: Sequence[Hashable], *, alpha: float = 0.05, sides: Sides = 1, power: float = 0.8
) -> dict[str, Detectable]:
    """Smallest true difference a test of this size (one- or two-sided) would find with probability `power`.

    `table` is a `difference`; its standard error comes from leaving out one patient at a time, which serves means
    and corpus metrics alike, and from leaving out one sample for the design effect. Normal quantiles: a little
    optimistic below 30 clusters, and the note says so.
    """
    kept, groups = _scored(table, clusters)
    samples = len(kept.rows)
    out: dict[str, Detectable] = {}
    for name, (error, naive) in _standard_errors(kept, groups).items():
        effect: float | None = None
        note = ""
        if np.isnan(error):
            note = "needs at least two clusters and a value that is defined without any of them"
        else:
            effect = detectable(error, 1, alpha=alpha, sides=sides, power=power)
            note = f"only {groups.count} clusters: optimistic" if groups.count < 30 else ""
        design = _design_effect(error, naive)
        out[name] = Detectable(effect, error, design, samples, groups.count, alpha, sides, power, note)
    return out


FEW_PATIENTS = 3
"""A margin worth fewer patients than this is not ruled out by runs that differ on none: exp(-3) is 5 %."""


def patient_worth(
    table: Table, clusters: Sequence[Hashable], higher_is_better: Mapping[str, bool]
) -> dict[str, float | None]:
    """How much a value falls when one cluster is lost: when its own value becomes the worst that a cluster has.

    Lost to zero where all clusters that have a value of their own (a label some of them have) are alike. None for a
    metric that is no function of sums: it has no value of a cluster.
    """
    kept, groups = _scored(table, clusters)
    if not kept.metric.additive:
        return dict.fromkeys(higher_is_better)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = kept.metric.value(groups.sums(kept.rows))
    out: dict[str, float | None] = {}
    for name, better in higher_is_better.items():
        own = values[name][np.isfinite(values[name])]
        out[name] = _worth(own, better) if len(own) else None
    return out


def _worth(own: Floats, higher_is_better: bool) -> float:
    alike = float(np.ptp(own)) < 1e-12
    worst = 0.0 if alike else float(own.min() if higher_is_better else own.max())
    return float(np.abs(own - worst).mean() / len(own))


def few_patients(margin: float, worth: float | None, unit: ClusterUnit) -> str:
    """What must be said of a margin that is worth few patients; empty where it is worth enough, or nobody knows."""
    if not worth or margin >= FEW_PATIENTS * worth:
        return ""
    return (
        f"the margin is worth {margin / worth:.2g} {CLUSTERS[unit]}, fewer than {FEW_PATIENTS}: "
        "a run that is worse by it may differ on none here and pass"
    )


def aa_check(
    table: Table, clusters: Sequence[Hashable], *, splits: int = 2_000, alpha: float = 0.05, seed: int = 0
) -> dict[str, AaCheck]:
    """Split one run's patients in two at random, many times, and count how often a test finds a difference.

    There is none, so a sound test alarms in a share `alpha` of splits. Run on a model's own statistics (or on a
    `difference`) this shows what treating reports of one patient as independent would cost. Both tests are two-sided
    z tests with leave-one-out standard errors of the whole run, scaled to the sizes of the halves.
    """
    kept, groups = _scored(table, clusters)
    samples = len(kept.rows)
    per_cluster = np.bincount(groups.index, minlength=groups.count).astype(np.float64)
    heads = np.vstack([*coins(groups.count, splits, seed)])
    first = replicate({"": kept}, groups, _blocks(heads, samples))[""]
    second = replicate({"": kept}, groups, _blocks(1 - heads, samples))[""]
    sizes = heads @ per_cluster
    spread = np.sqrt(samples**2 / np.maximum(sizes * (samples - sizes), 1e-9))
    limit = NormalDist().inv_cdf(1 - alpha / 2)
    out: dict[str, AaCheck] = {}
    for name, (error, naive) in _standard_errors(kept, groups).items():
        gap = np.abs(first[name] - second[name]) / spread
        gap = gap[~np.isnan(gap)]
        clustered, uncorrected = (
            float(np.mean(gap > limit * size)) if len(gap) else float("nan") for size in (error, naive)
        )
        out[name] = AaCheck(clustered, uncorrected, alpha, len(gap), _design_effect(error, naive), groups.count)
    return out


def _scored(table: Table, clusters: Sequence[Hashable]) -> tuple[Table, Clusters]:
    """One table over its scored samples, with their clusters."""
    ((kept, groups),) = by_scored({"": table}, clusters)
    return kept[""], groups


def _blocks(weights: Floats, width: int) -> Iterator[Floats]:
    start = 0
    for size in chunks(len(weights), width):
        yield weights[start : start + size]
        start += size


def _standard_errors(table: Table, groups: Clusters) -> dict[str, tuple[float, float]]:
    """Delete-one jackknife standard errors by cluster and by sample: name -> (clustered, naive)."""
    by_cluster, by_sample = jackknife(table, groups), jackknife(table, Clusters.singles(len(table.rows)))
    return {name: (_spread(by_cluster[name]), _spread(by_sample[name])) for name in by_cluster}


def _spread(left_out: Floats) -> float:
    count = len(left_out)
    if count < 2:
        return float("nan")
    return float(np.sqrt((count - 1) / count * ((left_out - left_out.mean()) ** 2).sum()))


def _design_effect(clustered: float, naive: float) -> float:
    return (clustered / naive) ** 2 if naive > 0 else float("nan")
