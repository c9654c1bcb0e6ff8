"""Values, intervals and gaps within subgroups: what `cxrbench groups` and tasks with `groups` tell. No torch, no texts.

Per group a value and its interval, and the gap: the group minus all other samples, or minus one group that is named
(`original`, say, where groups are variants of the same studies: patients are resampled, so pairs stay together).
small_cells.py says which cells are hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cxrbench.data.grouping import VERBOSITY, band, band_names, named_groups
from cxrbench.data.samples import UNKNOWN, clusters_of
from cxrbench.errors import CxrbenchError
from cxrbench.scoring import Scored
from cxrbench.small_cells import hidden_on_any, patients_of
from cxrbench.spec import FEWEST, NO_GROUPS, GroupsPart
from cxrbench.stats import Interval, Table, bootstrap, point
from cxrbench.subgroups import Groups, gap_table, groups_of, only, rests_on
from cxrbench.summary import Confidence, number
from cxrbench.types import Sample

LENGTH_KEY = "length:words"
VERBOSITY_CUTS = (0.5, 0.8, 1.25, 2.0)
"""Words written per word of the reference, where a task names no cut points of its own."""

ORIENTING = 2000
"""Resamples for a table of groups: percentile intervals, for orientation."""


def told(scored: Scored) -> list[str]:
    """The values of a metric that are told by groups; none where the metric is no function of sums."""
    if scored.statistics is None or not scored.metric.additive:
        return []
    return [name for name, value in scored.metric.values.items() if value.primary and value.interval]


NO_SUM = "no function of sums over samples"
NO_PRIMARY = "no primary value that has an interval"


def not_told(found: Sequence[Scored]) -> dict[str, str]:
    """Scored metrics that are left out of tables of groups, and why."""
    return {
        each.metric.key: NO_PRIMARY if each.metric.additive else NO_SUM
        for each in found
        if each.statistics is not None and not told(each)
    }


def columns_of_task(samples: Sequence[Sample], found: Sequence[Scored], part: GroupsPart) -> dict[str, Groups]:
    """The groups a task names, in its order, then the samples that are in none of them."""
    columns = {}
    for name, grouping in part.by.items():
        made = verbosity(found, grouping.cuts) if name == VERBOSITY else groups_of(samples, name)
        order = [each for each in named_groups(name, grouping) if each in made]
        columns[name] = {each: made[each] for each in (*order, *(left for left in made if left not in order))}
    return columns


def verbosity(found: Sequence[Scored], cuts: Sequence[float] = ()) -> Groups:
    """Samples by words written per word of the reference: quality against length. Needs `length` among the scored.

    Raises:
        CxrbenchError: it is not.
    """
    length = next((each for each in found if each.metric.key == LENGTH_KEY and each.statistics is not None), None)
    if length is None:
        raise CxrbenchError(
            "verbosity is words over words, and the metric length was not scored",
            where=f"groups by {VERBOSITY}",
            fix="cxrbench score RUN --metrics length",
        )
    cuts = tuple(cuts) or VERBOSITY_CUTS
    rows = length.rows()
    known = (rows[:, 0] > 0) & (rows[:, 2] > 0)
    ratios = np.divide(rows[:, 1], rows[:, 2], out=np.zeros(len(rows)), where=known)
    names = np.array([band(VERBOSITY, cuts, float(r)) if k else UNKNOWN for r, k in zip(ratios, known, strict=True)])
    groups = {name: names == name for name in (*band_names(VERBOSITY, cuts), UNKNOWN)}
    return {name: mask for name, mask in groups.items() if mask.any()}


def group_tables(
    samples: Sequence[Sample],
    found: Sequence[Scored],
    columns: Mapping[str, Groups],
    confidence: Confidence,
    *,
    against: Mapping[str, str],
    fewest: int,
) -> dict[str, Any]:
    """`group_values` with how it was made: {ci_level, replicates, against, fewest, left_out, groups}.

    `left_out`: metrics that are not told by groups, and why.
    """
    made = replace(confidence, replicates=min(confidence.replicates, ORIENTING))
    return {
        "ci_level": made.level if made.replicates else None,
        "replicates": made.replicates,
        "against": dict(against),
        "fewest": fewest,
        "left_out": not_told(found),
        "groups": group_values(samples, found, columns, made, against=against, fewest=fewest),
    }


def task_tables(
    samples: Sequence[Sample], found: Sequence[Scored], part: GroupsPart, confidence: Confidence
) -> dict[str, Any]:
    """What a task with `groups` tells of a run; a grouping that lacks its metric says so in `not_told`."""
    columns: dict[str, Groups] = {}
    lacking: dict[str, str] = {}
    for name in part.by:
        try:
            columns |= columns_of_task(samples, found, GroupsPart(by={name: part.by[name]}))
        except CxrbenchError as error:
            lacking[name] = error.what
    made = group_tables(samples, found, columns, confidence, against=part.against, fewest=part.min_patients)
    return {**made, "not_told": lacking}


def group_values(
    samples: Sequence[Sample],
    found: Sequence[Scored],
    columns: Mapping[str, Groups],
    confidence: Confidence,
    *,
    against: Mapping[str, str] | None = None,
    fewest: int = FEWEST,
) -> dict[str, Any]:
    """Column -> metric -> value -> {higher_is_better, groups: {group: cell}, spread}.

    A cell is {hidden, n, clusters, value, ci, gap, gap_ci}, or {hidden: True} alone.

    Args:
        samples: of the run, in the order of the statistics.
        found: scored metrics; those that cannot be told by groups are left out.
        columns: column -> group -> which samples are in it.
        confidence: of percentile intervals.
        against: column -> the group that gaps are measured against (none are told where it is not there or hidden);
            all other samples by default.
        fewest: patients below which a cell is hidden.
    """
    against = against or {}
    clusters = clusters_of(samples)
    out: dict[str, Any] = {column: {} for column in columns}
    for each in found:
        if told(each):
            made = _of_metric(each, columns, clusters, confidence, against, fewest)
            for column, values in made.items():
                out[column][each.metric.key] = values
    return out


def _of_metric(
    scored: Scored,
    columns: Mapping[str, Groups],
    clusters: Sequence[str],
    confidence: Confidence,
    against: Mapping[str, str],
    fewest: int,
) -> dict[str, Any]:
    """Column -> value -> groups and spread, of one metric; hidden cells are those of all columns together."""
    rows = scored.rows()
    table = Table(rows, scored.metric)
    hidden = hidden_on_any(columns, rests_on(scored.metric, rows), clusters, fewest)
    held = {c: {name: mask & table.scored for name, mask in groups.items()} for c, groups in columns.items()}
    return {
        column: _of_column(scored, table, groups, hidden[column], clusters, confidence, against.get(column), fewest)
        for column, groups in held.items()
    }


def _of_column(
    scored: Scored,
    table: Table,
    held: Groups,
    hidden: frozenset[str],
    clusters: Sequence[str],
    confidence: Confidence,
    against: str | None,
    fewest: int,
) -> dict[str, Any]:
    shown = {name: mask for name, mask in held.items() if name not in hidden and mask.any()}
    alone = {name: only(table, mask) for name, mask in shown.items()}
    rests = _rests(table, held, shown, clusters, against, fewest)
    gaps = {name: gap_table(only(table, shown[name] | rest), shown[name]) for name, rest in rests.items()}
    intervals, gap_intervals = (_intervals(tables, clusters, confidence) for tables in (alone, gaps))
    out: dict[str, Any] = {}
    for value in told(scored):
        cells: dict[str, Any] = {}
        for name in held:
            if name in hidden:
                cells[name] = {"hidden": True}
            elif name in shown:
                cells[name] = {
                    "hidden": False,
                    "n": int(shown[name].sum()),
                    "clusters": len(patients_of(shown[name], clusters)),
                    "value": number(point(table.take(shown[name]))[value]),
                    "ci": _ends(intervals, name, value),
                    "gap": number(point(gaps[name])[value]) if name in gaps else None,
                    "gap_ci": _ends(gap_intervals, name, value),
                }
        known = [
            cell["value"]
            for name, cell in cells.items()
            if not cell["hidden"] and cell["value"] is not None and name not in NO_GROUPS
        ]
        out[value] = {
            "higher_is_better": scored.metric.values[value].higher_is_better,
            "groups": cells,
            "spread": max(known) - min(known) if len(known) > 1 else None,
        }
    return out


def _rests(
    table: Table, held: Groups, shown: Groups, clusters: Sequence[str], against: str | None, fewest: int
) -> Groups:
    """What each shown group is held against; it must be of enough patients, as a group must."""
    if against is not None:
        return {name: held[against] for name in shown if name != against} if against in shown else {}
    rests = {name: table.scored & ~held[name] for name in shown}
    return {name: rest for name, rest in rests.items() if len(patients_of(rest, clusters)) >= fewest}


def _intervals(
    tables: Mapping[str, Table], clusters: Sequence[str], confidence: Confidence
) -> Mapping[str, Mapping[str, Interval]]:
    if not confidence.replicates or not tables:
        return {}
    return bootstrap(
        tables, clusters, method="percentile", level=confidence.level, replicates=confidence.replicates,
        seed=confidence.seed,
    )  # fmt: skip


def _ends(found: Mapping[str, Mapping[str, Interval]], name: str, value: str) -> list[float] | None:
    interval = found.get(name, {}).get(value)
    return None if interval is None or interval.low is None or interval.high is None else [interval.low, interval.high]
