"""Intervals for stored statistics: resample patients, never samples. Touches numpy, stats_tables and errors only.

The tests built on the same sums (randomisation, non-inferiority, ...) are in `stats_tests`; docs/statistics.md has the
reasons, the formulas and their sources.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from cxrbench.errors import CxrbenchError
from cxrbench.stats_tables import (
    Clusters,
    Floats,
    Table,
    Valued,
    Values,
    by_scored,
    check_tables,
    chunks,
    cluster_sums,
    coins,
    difference,
    jackknife,
    point,
    replicate,
    resample_weights,
)

__all__ = [
    "Clusters", "Floats", "Interval", "Method", "Table", "Valued", "Values", "bootstrap", "by_scored", "check_tables",
    "chunks", "cluster_sums", "coins", "difference", "interval", "jackknife", "point", "replicate", "resample_weights",
]  # fmt: skip

Method = Literal["bca", "percentile"]

MAX_UNDEFINED = 0.01
"""No interval when more than this share of replicates is 0/0: leaving out a share u can move an end by u of the
distribution. A label that five patients have is missing from 0.7 % of replicates (exp(-5)), one that four have from
1.8 %."""

FEW_CLUSTERS = 10
"""Below this many clusters an interval is given with a warning in its note: it covers less than it says."""

JACKKNIFE_LIMIT = 5_000
"""A metric that is no function of sums is not jackknifed over more clusters than this (quadratic in them)."""

_SAME = 1e-12


@dataclass(frozen=True, slots=True)
class Interval:
    """A number and where it may lie. `low` and `high` are None when there is no interval; `note` then says why.

    `method` is the one used, which may be "percentile" where BCa was asked for; `note` says why. `undefined` is the
    share of replicates that were 0/0. `clusters` counts clusters with a scored sample: only these are resampled.
    """

    value: float
    low: float | None
    high: float | None
    method: Literal["bca", "percentile", "none"]
    level: float
    replicates: int
    clusters: int
    undefined: float = 0.0
    note: str = ""


def bootstrap(
    tables: Mapping[str, Table],
    clusters: Sequence[Hashable],
    *,
    method: Method = "bca",
    level: float = 0.95,
    replicates: int = 10_000,
    seed: int = 0,
    max_undefined: float = MAX_UNDEFINED,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, Interval]]:
    """Cluster-bootstrap intervals of all values of all tables, from the same resamples of the clusters scored.

    Args:
        tables: metric key -> statistics; all over the same n samples in the same order.
        clusters: n cluster ids (patients).
        method: "bca" (bias-corrected and accelerated) or "percentile".
        level: two-sided coverage.
        replicates: number of resamples; at least 100.
        seed: of the random stream; equal seeds and clusters give equal resamples in every call.
        max_undefined: no interval when more than this share of replicates is 0/0.
        progress: called with the number of replicates that are done, and of all; tables that were scored on different
            samples have replicates of their own.

    Raises:
        CxrbenchError: a setting makes no sense, or statistics hold NaN or infinity.
    """
    _check_settings(level, replicates)
    check_tables(tables, clusters)
    parts = by_scored(tables, clusters)
    out: dict[str, dict[str, Interval]] = {}
    for number, (kept, groups) in enumerate(parts):
        weights = resample_weights(groups.count, replicates, seed)
        if progress is not None:
            weights = _watched(weights, number * replicates, len(parts) * replicates, progress)
        draws = replicate(kept, groups, weights)
        for name, table in kept.items():
            out[name] = _intervals(table, groups, draws[name], method, level, max_undefined)
    return {name: out[name] for name in tables}


def _intervals(
    table: Table, groups: Clusters, draws: Values, method: Method, level: float, max_undefined: float
) -> dict[str, Interval]:
    """Intervals of all values of one table, every sample of which was scored."""
    left_out, why = _left_out(table, groups) if method == "bca" and groups.count > 1 else (None, "")
    return {
        value: interval(
            number, draws[value], left_out[value] if left_out else None, level, groups.count, max_undefined, why
        )
        for value, number in point(table).items()
    }


def _watched(
    weights: Iterable[Floats], done: int, total: int, progress: Callable[[int, int], None]
) -> Iterator[Floats]:
    """Hand on blocks of weights and say how many of all replicates are worked off."""
    for block in weights:
        progress(done, total)
        yield block
        done += len(block)
    progress(done, total)


def interval(
    value: float,
    draws: Floats,
    left_out: Floats | None,
    level: float,
    clusters: int,
    max_undefined: float = MAX_UNDEFINED,
    why: str = "",
) -> Interval:
    """Make an interval of a value from its replicates and, for BCa, its jackknife values (None: percentile).

    `why` is the reason why there are no jackknife values although BCa was asked for.
    """
    total, undefined = len(draws), float(np.mean(np.isnan(draws)))

    def none(note: str) -> Interval:
        return Interval(value, None, None, "none", level, total, clusters, undefined, note)

    if np.isnan(value):
        return none("the value is undefined (0/0)")
    if clusters < 2:
        return none("needs at least two clusters")
    if undefined > max_undefined:
        return none(f"undefined (0/0) in {undefined:.1%} of replicates, more than {max_undefined:.1%}")
    draws = draws[~np.isnan(draws)]
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    adjusted, reason = (None, why) if left_out is None else _bca_tails(value, draws, left_out, tails)
    low, high = np.quantile(draws, tails if adjusted is None else adjusted)
    notes = [reason] if reason else []
    if clusters < FEW_CLUSTERS:
        notes.append(f"only {clusters} clusters: covers less than stated")
    used: Method = "percentile" if adjusted is None else "bca"
    return Interval(value, float(low), float(high), used, level, total, clusters, undefined, "; ".join(notes))


def _check_settings(level: float, replicates: int) -> None:
    if not 0.5 <= level < 1:
        raise CxrbenchError(f"a confidence level of {level} makes no sense", fix="give a level from 0.5 to 0.999")
    if replicates < 100:
        raise CxrbenchError(f"{replicates} replicates cannot carry an interval", fix="give at least 100, or 10000")


def _left_out(table: Table, clusters: Clusters) -> tuple[Values | None, str]:
    if not table.metric.additive and clusters.count > JACKKNIFE_LIMIT:
        return None, f"percentile: no jackknife of this metric over more than {JACKKNIFE_LIMIT} clusters"
    return jackknife(table, clusters), ""


def _bca_tails(value: float, draws: Floats, left_out: Floats, tails: Floats) -> tuple[Floats | None, str]:
    """Tail probabilities of the BCa interval (Efron 1987), or None and the reason why there are none."""
    slack = _SAME * abs(value)
    if np.isnan(left_out).any():
        return None, "percentile: the value is undefined (0/0) without one of the clusters"
    centred = left_out.mean() - left_out
    if np.abs(centred).max() <= slack:
        return None, "percentile: the value does not change when a cluster is left out"
    below = np.mean((draws < value - slack) + 0.5 * (np.abs(draws - value) <= slack))
    if not 0 < below < 1:
        return None, "percentile: all replicates lie on one side of the value"
    normal = NormalDist()
    bias = normal.inv_cdf(float(below))
    acceleration = float((centred**3).sum() / (6 * (centred**2).sum() ** 1.5))
    reach = bias + np.array([normal.inv_cdf(float(tail)) for tail in tails])
    scale = 1 - acceleration * reach
    if (scale <= 0).any():
        return None, "percentile: the acceleration is too large for BCa"
    return np.array([normal.cdf(float(z)) for z in bias + reach / scale]), ""
