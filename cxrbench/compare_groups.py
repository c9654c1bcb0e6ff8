"""Two runs within subgroups: who gains, who loses, and how far each group is from everybody else. No torch, no texts.

Groups are columns of the samples (sex, race, age, view, abnormal, seen-in-train, a data set's own), and two that are
made here: `label` (which findings the reference has; groups overlap) and `length` (thirds by words of the reference).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbench.compare import Paired, Shared
from cxrbench.data.samples import UNKNOWN
from cxrbench.errors import CxrbenchError, suggest
from cxrbench.stats import Floats, Interval, Table, Valued, Values, bootstrap, difference, point
from cxrbench.stats_tests import holm, paired_randomisation
from cxrbench.summary import Confidence, number
from cxrbench.types import Sample

MADE = ("label", "length")
"""Columns that every task has, made here."""

Mask = NDArray[np.bool_]
Groups = dict[str, Mask]


@dataclass(frozen=True, slots=True)
class _Gap:
    """Rows are a count, the columns of those in a group (zero for others), then the columns of all others."""

    metric: Valued
    width: int

    @property
    def additive(self) -> bool:
        return True

    def value(self, sums: Floats) -> Values:
        inside = self.metric.value(sums[..., 1 : 1 + self.width])
        outside = self.metric.value(sums[..., 1 + self.width :])
        return {name: inside[name] - outside[name] for name in inside}

    def value_weighted(self, rows: Floats, weights: Floats) -> Values:
        return self.value(weights @ rows)


def gap_table(table: Table, inside: Mask) -> Table:
    """The table whose values are those of a group minus those of all other samples."""
    group, rest = (np.where(mask[:, None], table.rows, 0.0) for mask in (inside, ~inside))
    count = (table.rows[:, :1] > 0).astype(np.float64)
    return Table(np.hstack([count, group, rest]), _Gap(table.metric, table.rows.shape[1]))


def groups_of(samples: Sequence[Sample], column: str) -> Groups:
    """Group name -> which samples are in it.

    Raises:
        CxrbenchError: there is no such column, or it says nothing about any sample.
    """
    if column == "label":
        found = _labels(samples)
    elif column == "length":
        found = _thirds(samples)
    else:
        found = _column(samples, column)
    if set(found) <= {UNKNOWN}:
        raise CxrbenchError(
            f"nothing is known of {column!r} for these samples", where=f"--by {column}", fix="another column"
        )
    return found


def columns_of(samples: Sequence[Sample]) -> list[str]:
    """Columns that can be asked for."""
    return sorted({name for sample in samples for name in sample.subgroups} | set(MADE))


def _column(samples: Sequence[Sample], column: str) -> Groups:
    known = columns_of(samples)
    if column not in known:
        raise CxrbenchError(
            f"the samples have no column {column!r}{suggest(column, known)}",
            where=f"--by {column}",
            fix=f"one of: {', '.join(known)}",
        )
    members: dict[str, list[bool]] = {}
    values = [sample.subgroups.get(column, UNKNOWN) for sample in samples]
    for name in sorted(set(values)):
        members[name] = [value == name for value in values]
    return {name: np.array(mask) for name, mask in members.items()}


def _labels(samples: Sequence[Sample]) -> Groups:
    """Samples whose reference has a label (present) by any source that the data set ships."""
    members: dict[str, set[int]] = defaultdict(set)
    for i, sample in enumerate(samples):
        for labels in sample.labels.values():
            for label, state in labels.items():
                if state == 1:
                    members[label].add(i)
    return {label: np.isin(np.arange(len(samples)), sorted(inside)) for label, inside in sorted(members.items())}


def _thirds(samples: Sequence[Sample]) -> Groups:
    words = np.array([len(sample.target.split()) for sample in samples])
    edges = [int(edge) for edge in np.quantile(words, [1 / 3, 2 / 3], method="lower")]
    bounds = [(0, edges[0]), (edges[0] + 1, edges[1]), (edges[1] + 1, int(words.max()))]
    groups = {
        f"{max(low, int(words.min()))}-{high} words": (words >= low) & (words <= high)
        for low, high in bounds
        if low <= high
    }
    return {name: mask for name, mask in groups.items() if mask.any()}


def compare_groups(paired: Paired, columns: Sequence[str], confidence: Confidence) -> dict[str, Any]:
    """Column -> metric -> value -> {groups: {name: numbers}, spread}; p-values of a call are adjusted together.

    Per group: n, clusters, both values, the difference with its interval and p, and the gap of each run (the group
    minus all other samples) with its interval. `spread`: largest minus smallest value of the groups, per run.
    Intervals are percentile ones: a table of subgroups is for orientation. Only primary values with a direction, of
    metrics that are functions of sums.
    """
    out: dict[str, Any] = {}
    tested: dict[str, float] = {}
    for column in columns:
        groups = groups_of(paired.samples, column)
        out[column] = {}
        for each in paired.shared:
            names = [name for name, value in each.metric.values.items() if value.primary and value.interval]
            names = [name for name in names if each.metric.values[name].higher_is_better is not None]
            if names and each.metric.additive:
                out[column][each.metric.key] = _of_metric(each, groups, names, paired.clusters, confidence)
    for where, body in _cells(out):
        if body["p"] is not None:
            tested["\0".join(where)] = body["p"]
    adjusted = holm(tested)
    for where, body in _cells(out):
        body["p_holm"] = number(adjusted.get("\0".join(where), float("nan")))
    return {"groups": out, "group_tests": len(tested)}


def _cells(out: Mapping[str, Any]) -> list[tuple[tuple[str, str, str, str], dict[str, Any]]]:
    return [
        ((column, key, name, group), cell)
        for column, metrics in out.items()
        for key, values in metrics.items()
        for name, body in values.items()
        for group, cell in body["groups"].items()
    ]


def _of_metric(
    shared: Shared, groups: Groups, names: Sequence[str], clusters: Sequence[str], confidence: Confidence
) -> dict[str, Any]:
    """Numbers of one metric in all groups of one column: value name -> {groups, spread}."""
    both = {name: mask & shared.both for name, mask in groups.items()}
    both = {name: mask for name, mask in both.items() if mask.any()}
    settings: dict[str, Any] = {"level": confidence.level, "replicates": confidence.replicates, "seed": confidence.seed}
    pairs = {group: (_only(shared.one, mask), _only(shared.two, mask)) for group, mask in both.items()}
    joined = {group: difference(*pair) for group, pair in pairs.items()}
    changes = bootstrap(joined, clusters, method="percentile", **settings)
    tests = paired_randomisation(pairs, clusters, permutations=confidence.replicates, seed=confidence.seed)
    gaps = _gaps(shared, both, clusters, settings)
    out: dict[str, Any] = {}
    for name in names:
        cells: dict[str, Any] = {}
        for group, mask in both.items():
            first, second = (point(table.take(mask))[name] for table in (shared.one, shared.two))
            change = changes[group][name]
            cells[group] = {
                "n": int(mask.sum()),
                "clusters": change.clusters,
                "baseline": number(first),
                "candidate": number(second),
                "difference": number(second - first),
                "ci": _ends(change),
                "p": number(tests[group][name].p),
                "gap": {side: _gap_entry(gaps, group, side, name) for side in ("baseline", "candidate")},
                "note": change.note,
            }
        out[name] = {
            "higher_is_better": shared.metric.values[name].higher_is_better,
            "groups": cells,
            "spread": {side: _spread(cells, side) for side in ("baseline", "candidate")},
        }
    return out


def _only(table: Table, mask: Mask) -> Table:
    return Table(np.where(mask[:, None], table.rows, 0.0), table.metric)


def _gaps(
    shared: Shared, groups: Groups, clusters: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, dict[str, Interval]]:
    """Gaps of all groups in both runs, from the same resampled patients; none where nobody is outside a group."""
    tables = {}
    for group, mask in groups.items():
        if (shared.both & ~mask).any():
            for side, table in (("baseline", shared.one), ("candidate", shared.two)):
                tables[f"{side}\0{group}"] = gap_table(_only(table, shared.both), mask)
    return bootstrap(tables, clusters, method="percentile", **settings) if tables else {}


def _gap_entry(gaps: Mapping[str, Mapping[str, Interval]], group: str, side: str, name: str) -> dict[str, Any] | None:
    found = gaps.get(f"{side}\0{group}")
    return None if found is None else {"value": number(found[name].value), "ci": _ends(found[name])}


def _ends(interval: Interval) -> list[float] | None:
    return None if interval.low is None or interval.high is None else [interval.low, interval.high]


def _spread(cells: Mapping[str, Mapping[str, Any]], side: str) -> float | None:
    known = [cell[side] for cell in cells.values() if cell[side] is not None]
    return max(known) - min(known) if len(known) > 1 else None
