"""Two runs within subgroups: who gains, who loses, and how far each group is from everybody else. No torch, no texts.

subgroups.py says which samples are in which group, small_cells.py which cells are hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from cxrbench.compare import Paired, Shared
from cxrbench.group_values import NO_SUM
from cxrbench.small_cells import hidden_on_any, patients_of
from cxrbench.spec import FEWEST
from cxrbench.stats import Interval, bootstrap, difference, point
from cxrbench.stats_tests import holm, paired_randomisation
from cxrbench.subgroups import Groups, gap_table, groups_of, only, rests_on
from cxrbench.summary import Confidence, number

NO_DIRECTION = "no primary value that has an interval and a better side"


def compare_groups(
    paired: Paired, columns: Sequence[str], confidence: Confidence, fewest: int | None = None
) -> dict[str, Any]:
    """Column -> metric -> value -> {groups: {name: numbers}, spread}; p-values of a call are adjusted together.

    Per group: n, clusters, both values, the difference with its interval and p, and the gap of each run (the group
    minus all other samples) with its interval. `spread`: largest minus smallest value of the groups, per run.
    Intervals are percentile ones: a table of subgroups is for orientation. Only primary values with a direction, of
    metrics that are functions of sums. Cells of fewer than `fewest` patients (by default as the task says, or `FEWEST`)
    are {hidden: True}, and further ones that would tell of them, of all columns together. `groups_left_out`: metrics
    that are not told by groups, and why.
    """
    left_out: dict[str, str] = {}
    out: dict[str, Any] = {column: {} for column in columns}
    tested: dict[str, float] = {}
    made = {column: groups_of(paired.samples, column) for column in columns}
    fewest = fewest if fewest is not None else _fewest(paired)
    for each in paired.shared:
        names = [name for name, value in each.metric.values.items() if value.primary and value.interval]
        names = [name for name in names if each.metric.values[name].higher_is_better is not None]
        if not names or not each.metric.additive:
            left_out[each.metric.key] = NO_SUM if not each.metric.additive else NO_DIRECTION
            continue
        both = {column: {name: mask & each.both for name, mask in groups.items()} for column, groups in made.items()}
        parts = [part & each.both for table in (each.one, each.two) for part in rests_on(each.metric, table.rows)]
        hidden = hidden_on_any(made, [each.both, *parts], paired.clusters, fewest)
        for column, groups in both.items():
            scored = {name: mask for name, mask in groups.items() if mask.any()}
            out[column][each.metric.key] = _of_metric(
                each, scored, hidden[column], names, paired.clusters, confidence, fewest
            )
    for where, body in _cells(out):
        if body.get("p") is not None:
            tested["\0".join(where)] = body["p"]
    adjusted = holm(tested)
    for where, body in _cells(out):
        if not body["hidden"]:
            body["p_holm"] = number(adjusted.get("\0".join(where), float("nan")))
    return {"groups": out, "groups_left_out": left_out, "group_tests": len(tested), "fewest": fewest}


def _fewest(paired: Paired) -> int:
    """What the task of the runs hides, if it names groups."""
    asked = [run.manifest().task.get("groups") or {} for run in (paired.baseline, paired.candidate)]
    return max(int(part.get("min_patients", FEWEST)) for part in asked)


def _cells(out: Mapping[str, Any]) -> list[tuple[tuple[str, str, str, str], dict[str, Any]]]:
    return [
        ((column, key, name, group), cell)
        for column, metrics in out.items()
        for key, values in metrics.items()
        for name, body in values.items()
        for group, cell in body["groups"].items()
    ]


def _of_metric(
    shared: Shared, groups: Groups, hidden: Set[str], names: Sequence[str], clusters: Sequence[str],
    confidence: Confidence, fewest: int,
) -> dict[str, Any]:  # fmt: skip
    """Numbers of one metric in all groups of one column: value name -> {groups, spread}."""
    both = {name: mask for name, mask in groups.items() if name not in hidden}
    settings: dict[str, Any] = {"level": confidence.level, "replicates": confidence.replicates, "seed": confidence.seed}
    pairs = {group: (only(shared.one, mask), only(shared.two, mask)) for group, mask in both.items()}
    joined = {group: difference(*pair) for group, pair in pairs.items()}
    changes = bootstrap(joined, clusters, method="percentile", **settings) if joined else {}
    tests = paired_randomisation(pairs, clusters, permutations=confidence.replicates, seed=confidence.seed)
    gaps = _gaps(shared, both, clusters, settings, fewest)
    out: dict[str, Any] = {}
    for name in names:
        cells: dict[str, Any] = {group: {"hidden": True} for group in groups}
        for group, mask in both.items():
            first, second = (point(table.take(mask))[name] for table in (shared.one, shared.two))
            change = changes[group][name]
            cells[group] = {
                "hidden": False,
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
    shared: Shared, groups: Groups, clusters: Sequence[str], settings: Mapping[str, Any], fewest: int
) -> dict[str, dict[str, Interval]]:
    """Gaps of all groups in both runs, from the same resampled patients; none where too few are outside a group."""
    tables = {}
    for group, mask in groups.items():
        if len(patients_of(shared.both & ~mask, clusters)) >= fewest:
            for side, table in (("baseline", shared.one), ("candidate", shared.two)):
                tables[f"{side}\0{group}"] = gap_table(only(table, shared.both), mask)
    return bootstrap(tables, clusters, method="percentile", **settings) if tables else {}


def _gap_entry(gaps: Mapping[str, Mapping[str, Interval]], group: str, side: str, name: str) -> dict[str, Any] | None:
    found = gaps.get(f"{side}\0{group}")
    return None if found is None else {"value": number(found[name].value), "ci": _ends(found[name])}


def _ends(interval: Interval) -> list[float] | None:
    return None if interval.low is None or interval.high is None else [interval.low, interval.high]


def _spread(cells: Mapping[str, Mapping[str, Any]], side: str) -> float | None:
    known = [cell[side] for cell in cells.values() if cell.get(side) is not None]
    return max(known) - min(known) if len(known) > 1 else None
