"""Two runs within subgroups: who gains, who loses, and how far each group is from everybody else. No torch, no texts.

subgroups.py says which samples are in which group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cxrbench.compare import Paired, Shared
from cxrbench.stats import Interval, bootstrap, difference, point
from cxrbench.stats_tests import holm, paired_randomisation
from cxrbench.subgroups import Groups, gap_table, groups_of, only
from cxrbench.summary import Confidence, number


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
    pairs = {group: (only(shared.one, mask), only(shared.two, mask)) for group, mask in both.items()}
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


def _gaps(
    shared: Shared, groups: Groups, clusters: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, dict[str, Interval]]:
    """Gaps of all groups in both runs, from the same resampled patients; none where nobody is outside a group."""
    tables = {}
    for group, mask in groups.items():
        if (shared.both & ~mask).any():
            for side, table in (("baseline", shared.one), ("candidate", shared.two)):
                tables[f"{side}\0{group}"] = gap_table(only(table, shared.both), mask)
    return bootstrap(tables, clusters, method="percentile", **settings) if tables else {}


def _gap_entry(gaps: Mapping[str, Mapping[str, Interval]], group: str, side: str, name: str) -> dict[str, Any] | None:
    found = gaps.get(f"{side}\0{group}")
    return None if found is None else {"value": number(found[name].value), "ci": _ends(found[name])}


def _ends(interval: Interval) -> list[float] | None:
    return None if interval.low is None or interval.high is None else [interval.low, interval.high]


def _spread(cells: Mapping[str, Mapping[str, Any]], side: str) -> float | None:
    known = [cell[side] for cell in cells.values() if cell[side] is not None]
    return max(known) - min(known) if len(known) > 1 else None
