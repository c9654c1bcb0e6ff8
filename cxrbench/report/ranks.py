"""Rank ranges: which places a run can have, given which differences are real. Standard library and Holm only.

A run's best place is one behind those that are better with a significant paired test, its last place one before those
that are worse so. Runs that no test tells apart share places: a tie is shown as a tie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxrbench.stats_tests import holm


@dataclass(frozen=True, slots=True)
class Ranks:
    """Places by run id, (first, last), of `of` runs; pairs tested, and pairs nobody tested (they count as ties).

    `adjusted` holds the p-value of each tested pair after Holm's correction over all of them.
    """

    places: Mapping[str, tuple[int, int]]
    of: int
    tested: int
    untested: int
    adjusted: Mapping[tuple[str, str], float]


def rank(
    runs: Sequence[str],
    differences: Mapping[tuple[str, str], tuple[float, float]],
    *,
    higher_is_better: bool,
    alpha: float,
) -> Ranks:
    """Places of runs under one number.

    Args:
        runs: ids of the runs that have the number.
        differences: (a, b) -> (value of b minus value of a, two-sided p); one order per pair.
        higher_is_better: the direction of the number.
        alpha: a difference counts when its p, after Holm over all pairs given, is at most this.

    >>> found = rank("abc", {("a", "b"): (0.2, 0.01), ("a", "c"): (0.1, 0.02), ("b", "c"): (-0.1, 0.9)},
    ...              higher_is_better=True, alpha=0.05)
    >>> found.places
    {'a': (3, 3), 'b': (1, 2), 'c': (1, 2)}
    """
    members = set(runs)
    asked = {pair: found for pair, found in differences.items() if members.issuperset(pair)}
    adjusted = holm({"\0".join(pair): p for pair, (_, p) in asked.items()})
    better, worse = dict.fromkeys(runs, 0), dict.fromkeys(runs, 0)
    for (a, b), (change, _) in asked.items():
        if adjusted["\0".join((a, b))] <= alpha and change != 0:
            above, below = (b, a) if (change > 0) == higher_is_better else (a, b)
            worse[above] += 1
            better[below] += 1
    count = len(runs)
    return Ranks(
        places={run: (1 + better[run], count - worse[run]) for run in runs},
        of=count,
        tested=len(asked),
        untested=count * (count - 1) // 2 - len(asked),
        adjusted={pair: adjusted["\0".join(pair)] for pair in asked},
    )
