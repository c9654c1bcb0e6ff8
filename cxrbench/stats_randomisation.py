"""The paired randomisation test: exchange two systems' outputs patient by patient. Touches numpy, stats_tables, errors.

Where few patients differ, the difference takes few values, and many exchanges tie with what was observed. Counting all
ties against the claim wastes most of the level (a nominal 5 % can be 2 %), so ties are ordered by a second statistic
that an exchange turns round as well: the sum over patients of the differences of their own values. Any such order of
all exchanges gives an exact test, so the level is never exceeded. What still ties counts against the claim.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrbench.errors import CxrbenchError
from cxrbench.stats_tables import (
    Clusters,
    Floats,
    Table,
    Values,
    by_scored,
    check_tables,
    coins,
    difference,
    point,
)

Pair = tuple[Table, Table]
"""Baseline and candidate, over the same samples in the same order."""

_TIES = 1e-11
"""Relative rounding of a sum over thousands of samples; differences closer than this count as equal."""


@dataclass(frozen=True, slots=True)
class Randomisation:
    """Outcome of a paired randomisation test.

    `p` is two-sided; `p_greater` and `p_less` are for "the candidate's value is greater" and "is less". `exact`: all
    2^clusters exchanges were looked at. `undefined`: share of exchanges whose value was 0/0; they count against every
    alternative.

    `discordant`: clusters whose exchange alone changes the difference; the test rests on these. `size`: how often a
    one-sided test at `alpha` claims something when the systems are interchangeable, given these clusters. It is at
    most `alpha`, and 0 where no exchange whatever reaches `alpha` (four discordant clusters: no p below 1/16).
    """

    difference: float
    p: float
    p_greater: float
    p_less: float
    permutations: int
    exact: bool
    clusters: int
    undefined: float = 0.0
    discordant: int = 0
    size: float = float("nan")


def paired_randomisation(
    pairs: Mapping[str, Pair],
    clusters: Sequence[Hashable],
    *,
    permutations: int = 10_000,
    seed: int = 0,
    alpha: float = 0.05,
) -> dict[str, dict[str, Randomisation]]:
    """Exchange the two systems' outputs patient by patient, and see how often the difference is as large.

    Under the null hypothesis a patient's outputs of both systems could be swapped. All exchanges of all metrics are
    one matrix product. Only clusters with a scored sample count. With 2^clusters <= `permutations` every exchange is
    looked at and p is exact; otherwise p = (b + 1) / (m + 1), which is never 0 (Phipson & Smyth 2010). `alpha` is that
    of `size` alone: no p depends on it.

    Raises:
        CxrbenchError: the runs were not scored on the same samples, or there are fewer than 100 permutations.
    """
    if permutations < 100:
        raise CxrbenchError(f"{permutations} permutations cannot carry a p-value", fix="give at least 100, or 10000")
    joined = {name: difference(*pair) for name, pair in pairs.items()}
    check_tables(joined, clusters)
    out: dict[str, dict[str, Randomisation]] = {}
    for kept, groups in by_scored(joined, clusters):
        exact = groups.count < 63 and 2**groups.count <= permutations
        swaps = _all_swaps(groups.count) if exact else coins(groups.count, permutations, seed)
        sides = {name: _take(pairs[name], joined[name].scored) for name in kept}
        found = _exchanged(sides, kept, groups, swaps)
        for name, pair in sides.items():
            first, second, observed = point(pair[0]), point(pair[1]), point(kept[name])
            slack = {value: _TIES * (abs(first[value]) + abs(second[value])) for value in observed}
            out[name] = {
                value: _outcome(number, found[name][value], slack[value], alpha, exact=exact, clusters=groups.count)
                for value, number in observed.items()
            }
    return {name: out[name] for name in pairs}


def _take(pair: Pair, mask: NDArray[np.bool_]) -> Pair:
    return pair[0].take(mask), pair[1].take(mask)


def _all_swaps(width: int) -> Iterator[Floats]:
    for start in range(0, 2**width, 1 << 12):
        numbers = np.arange(start, min(start + (1 << 12), 2**width))
        yield ((numbers[:, None] >> np.arange(width)) & 1).astype(np.float64)


@dataclass(frozen=True, slots=True)
class _Exchanges:
    """One value under m exchanges: the differences, `change` (m,), and what orders ties, `second` (m,).

    `own`: what orders ties, without an exchange; `reach`: how large it could be. `alone` (G,): the difference when one
    cluster is exchanged; None for a metric that is no function of sums. `differing`: clusters with other statistics.
    """

    change: Floats
    second: Floats
    own: float
    reach: float
    alone: Floats | None
    differing: int


def _exchanged(
    pairs: Mapping[str, Pair], joined: Mapping[str, Table], groups: Clusters, swaps: Iterable[Floats]
) -> dict[str, dict[str, _Exchanges]]:
    """Every value after exchanging the systems in the clusters marked 1: table -> value name -> m exchanges."""
    sums = {name: groups.sums(table.rows) for name, table in joined.items() if table.metric.additive}
    own = {name: _finite(_valued(joined[name], part)) for name, part in sums.items()}
    turned = [np.roll(part, part.shape[1] // 2, axis=1) - part for part in sums.values()]
    columns = [*turned, *(np.stack([*each.values()], axis=1) for each in own.values())]
    stacked = np.hstack(columns) if columns else np.zeros((groups.count, 0))
    moved: list[Floats] = []
    blocks: dict[str, list[Values]] = {name: [] for name in pairs if name not in sums}
    for block in swaps:
        moved.append(block @ stacked)
        for name, parts in blocks.items():
            parts.append(_exchanged_rows(pairs[name], block[:, groups.index]))
    shifts = np.vstack(moved)
    pieces = np.split(shifts, np.cumsum([part.shape[1] for part in columns])[:-1], axis=1)
    none = np.zeros(len(shifts))
    out: dict[str, dict[str, _Exchanges]] = {}
    for at, (name, part) in enumerate(sums.items()):
        change, alone = (_valued(joined[name], part.sum(axis=0) + each) for each in (pieces[at], turned[at]))
        seconds, differing = pieces[len(sums) + at], int(turned[at].any(axis=1).sum())
        out[name] = {
            value: _Exchanges(
                change[value], each.sum() - 2 * seconds[:, i], float(each.sum()), float(np.abs(each).sum()),
                alone[value], differing,
            )
            for i, (value, each) in enumerate(own[name].items())
        }  # fmt: skip
    for name, drawn in blocks.items():
        differing = len(np.unique(groups.index[(pairs[name][0].rows != pairs[name][1].rows).any(axis=1)]))
        out[name] = {
            value: _Exchanges(np.concatenate([part[value] for part in drawn]), none, 0.0, 0.0, None, differing)
            for value in drawn[0]
        }
    return out


def _finite(values: Values) -> Values:
    """Zero where a cluster has no value of its own in one of the runs: it settles no tie."""
    return {name: np.where(np.isfinite(value), value, 0.0) for name, value in values.items()}


def _valued(joined: Table, sums: Floats) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        return joined.metric.value(sums)


def _exchanged_rows(pair: Pair, swapped: Floats) -> Values:
    """For a metric that is no function of sums: both systems' rows one above the other, exchanged by weights."""
    rows = np.vstack([pair[0].rows, pair[1].rows])
    stay = 1 - swapped
    with np.errstate(divide="ignore", invalid="ignore"):
        first = pair[0].metric.value_weighted(rows, np.hstack([stay, swapped]))
        second = pair[0].metric.value_weighted(rows, np.hstack([swapped, stay]))
    return {name: second[name] - first[name] for name in first}


def _outcome(
    observed: float, found: _Exchanges, slack: float, alpha: float, *, exact: bool, clusters: int
) -> Randomisation:
    change = found.change
    undefined = np.isnan(change)
    share = float(undefined.mean())
    if np.isnan(observed):
        nan = float("nan")
        return Randomisation(nan, nan, nan, nan, len(change), exact, clusters, share)
    loose = _TIES * found.reach

    def p(as_large: NDArray[np.bool_]) -> float:
        count = int(np.count_nonzero(as_large | undefined))
        return count / len(change) if exact else (count + 1) / (len(change) + 1)

    tied = np.abs(change - observed) <= slack
    greater = np.where(tied, found.second >= found.own - loose, change > observed)
    less = np.where(tied, found.second <= found.own + loose, change < observed)
    # Two-sided: by size, ties by the second statistic seen in the direction of the difference.
    tied = np.abs(np.abs(change) - abs(observed)) <= slack
    along = np.sign(change) * found.second >= np.sign(observed) * found.own - loose
    either = np.where(tied & (abs(observed) > slack), along, np.abs(change) >= abs(observed) - slack)
    return Randomisation(
        observed,
        p(either),
        p(greater),
        p(less),
        len(change),
        exact,
        clusters,
        share,
        found.differing if found.alone is None else int(np.count_nonzero(~(np.abs(found.alone - observed) <= slack))),
        _size(change[~undefined], found.second[~undefined], (slack, loose), alpha, share),
    )


def _size(change: Floats, second: Floats, slack: tuple[float, float], alpha: float, undefined: float) -> float:
    """The largest p, at most alpha, that one of the exchanges has; 0 where none has. Both directions together.

    An exchange of all clusters mirrors the difference, so all that was looked at is looked at from both sides.
    """
    change, second = np.concatenate([change, -change]), np.concatenate([second, -second])
    if not len(change):
        return 0.0
    order = np.argsort(change, kind="stable")
    level = np.empty(len(change), np.intp)
    level[order] = _steps(change[order], slack[0])
    order = np.lexsort((second, level))
    new = np.diff(level[order]) > 0
    new |= np.diff(second[order]) > slack[1]
    last = np.append(np.flatnonzero(new) + 1, len(change))
    reached = last / len(change) * (1 - undefined) + undefined
    reached = reached[reached <= alpha + 1e-12]
    return float(reached[-1]) if len(reached) else 0.0


def _steps(ordered: Floats, slack: float) -> NDArray[np.intp]:
    """Numbers of the groups of equal values in an ascending array."""
    return np.concatenate([[0], np.cumsum(np.diff(ordered) > slack)]).astype(np.intp)
