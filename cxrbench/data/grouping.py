"""The groups a task names under `groups.by`: cut points become bands, recorded values become groups. Never torch.

A sample's subgroup column holds the group; the age itself is not kept in a run folder.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from cxrbench.spec import MEASURED, NO_GROUPS

if TYPE_CHECKING:
    from cxrbench.spec import Grouping, GroupsPart

UNKNOWN, UNLISTED, CONFLICTING = NO_GROUPS

SEVERAL = " | "
"""Between the values of a cell that has several: what was recorded on several occasions."""

VERBOSITY = "verbosity"
"""The one grouping that needs predictions: made when a run is scored."""


def band_names(column: str, cuts: Sequence[float]) -> list[str]:
    """The bands between cut points, in order.

    >>> band_names("age", [40, 60]), band_names("verbosity", [0.8, 1.25])
    (['0-39', '40-59', '60+'], ['under 0.8', '0.8 to 1.25', '1.25 and over'])
    >>> band_names("reference-length", [20])
    ['0-19 words', '20+ words']
    """
    if column == VERBOSITY:
        between = [f"{low:g} to {high:g}" for low, high in pairwise(cuts)]
        return [f"under {cuts[0]:g}", *between, f"{cuts[-1]:g} and over"]
    unit = " words" if column == "reference-length" else ""
    lows = [0, *(int(cut) for cut in cuts)]
    return [f"{low}-{high - 1}{unit}" for low, high in pairwise(lows)] + [f"{lows[-1]}+{unit}"]


def band(column: str, cuts: Sequence[float], value: float | None) -> str:
    """The band a value is in: its lower cut point belongs to it.

    >>> band("age", [40, 60], 59.9), band("age", [40, 60], 60), band("age", [40, 60], None)
    ('40-59', '60+', 'unknown')
    """
    return UNKNOWN if value is None else band_names(column, cuts)[bisect_right(cuts, value)]


def named_groups(column: str, grouping: Grouping) -> list[str]:
    """The groups a task names, in its order; empty where values are taken as recorded."""
    return band_names(column, grouping.cuts) if grouping.cuts else list(grouping.values)


def group_of(recorded: str, values: Mapping[str, Sequence[str]]) -> str:
    """The group of what was recorded.

    >>> white = {"white": ["WHITE", "WHITE - RUSSIAN"], "asian": ["ASIAN"]}
    >>> [group_of(each, white) for each in ("WHITE | WHITE - RUSSIAN", "ASIAN | WHITE", "OTHER", "unknown")]
    ['white', 'conflicting', 'unlisted', 'unknown']
    """
    if recorded in (UNKNOWN, CONFLICTING):
        return recorded
    if not values:
        return recorded if SEVERAL not in recorded else CONFLICTING
    listed = {value: group for group, members in values.items() for value in members}
    found = {listed.get(each, UNLISTED) for each in recorded.split(SEVERAL)}
    return found.pop() if len(found) == 1 else CONFLICTING


def regrouped(groups: GroupsPart, columns: Mapping[str, str], age: float | None, target: str) -> dict[str, str]:
    """A sample's subgroup columns with those that a task groups anew; what needs predictions is left out."""
    made = dict(columns)
    for name, grouping in groups.by.items():
        if name == VERBOSITY:
            continue
        if name in MEASURED:
            value = age if name == "age" else float(len(target.split()))
            made[name] = band(name, grouping.cuts, value)
        else:
            made[name] = group_of(columns.get(grouping.of or name, UNKNOWN), grouping.values)
    return made
