"""Subgroups of a run for a board: values, gaps to all other samples, and which cells a public page does not show.

Only here is it known which patients are in which group, so what is hidden is decided here, over all columns together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxrbench.data.samples import UNKNOWN, clusters_of
from cxrbench.report.aggregate import FEW, Group, Triple
from cxrbench.scores import load_scores
from cxrbench.scoring import Scored
from cxrbench.small_cells import hidden_on_any
from cxrbench.stats import Table, bootstrap
from cxrbench.store import RunFolder
from cxrbench.subgroups import Groups, Mask, gap_table, groups_of, rests_on
from cxrbench.summary import Confidence, number
from cxrbench.tables import read_samples


@dataclass(frozen=True, slots=True)
class Slices:
    """Subgroups of one run: `cells` are column -> group -> cell, small ones too.

    The rest is who is behind them, in the order of sample ids: `columns` says which samples are in which group, `bases`
    which ones the numbers rest on, `clusters` whose they are.
    """

    cells: dict[str, dict[str, Group]]
    columns: dict[str, Groups]
    bases: tuple[Mask, ...]
    clusters: tuple[str, ...]


def slices_of(run: RunFolder, summary: Mapping[str, Any], confidence: Confidence) -> Slices:
    """The subgroups a task tabulates: values as scored, and the gap of each group to all others with its interval.

    A metric that is not here any more tells nothing of groups: only itself can say which samples its values rest on.
    """
    tabulated = {name: groups for name, groups in summary["slices"].items() if not set(groups) <= {UNKNOWN}}
    if not tabulated:
        return Slices({}, {}, (), ())
    samples = read_samples(run.samples_file).chosen
    clusters = clusters_of(samples)
    scored = load_scores(run)
    columns = {name: groups_of(samples, name) for name in tabulated}
    told = [mask for each in scored for mask in rests_on(each.metric, each.rows())]
    here = {each.metric.key for each in scored}
    out: dict[str, dict[str, Group]] = {}
    for name, groups in tabulated.items():
        gaps = _gaps(scored, columns[name], clusters, confidence)
        out[name] = {
            group: _group(body, group, here, gaps, fewest_behind(told, columns[name][group], clusters))
            for group, body in groups.items()
        }
    order = sorted(range(len(samples)), key=lambda place: samples[place].sample_id)
    return Slices(
        out,
        {name: {group: mask[order] for group, mask in groups.items()} for name, groups in columns.items()},
        (np.ones(len(samples), bool), *(mask[order] for mask in told)),
        tuple(clusters[place] for place in order),
    )


def hidden_of(runs: Sequence[Slices]) -> dict[str, tuple[str, ...]]:
    """Column -> groups that a public page does not show of any of these runs, which are of the same samples.

    One run may tell of columns that another does not have, or have grouped one anew: whoever sees both pages sees all.
    """
    sliced = [each for each in runs if each.columns]
    if not sliced:
        return {}
    columns: dict[str, Groups] = {}
    for each in sliced:
        for name, groups in each.columns.items():
            if not any(_name(known) == name and _same(groups, other) for known, other in columns.items()):
                columns[f"{name}\0{len(columns)}"] = groups
    found = hidden_on_any(columns, (mask for each in sliced for mask in each.bases), sliced[0].clusters, FEW)
    hidden: dict[str, set[str]] = {}
    for known, names in found.items():
        hidden.setdefault(_name(known), set()).update(names)
    return {name: tuple(sorted(names)) for name, names in hidden.items() if names}


def _name(known: str) -> str:
    return known.rpartition("\0")[0]


def _same(one: Groups, other: Groups) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(mask, other[name]) for name, mask in one.items())


def _gaps(
    scored: Sequence[Scored], members: Groups, clusters: Sequence[str], confidence: Confidence
) -> Mapping[str, Any]:
    """`metric NUL group` -> the intervals of its gaps."""
    gaps = {
        f"{each.metric.key}\0{group}": gap_table(Table(each.rows(), each.metric), mask)
        for each in scored
        if each.metric.additive and any(value.primary and value.interval for value in each.metric.values.values())
        for group, mask in members.items()
        if not mask.all()
    }
    if not gaps or not confidence.replicates:
        return {}
    # A tenth of the replicates, as for the values: a table of subgroups is for orientation.
    return bootstrap(
        gaps, clusters, method="percentile", level=confidence.level, replicates=max(100, confidence.replicates // 10),
        seed=confidence.seed,
    )  # fmt: skip


def fewest_behind(told: Sequence[Mask], group: Mask, clusters: Sequence[str]) -> int:
    """The fewest patients that a value of a group rests on: of many in it, a metric may have scored few.

    `told`: which samples a number rests on (`rests_on`); one that rests on nobody of the group tells nothing of it.
    """
    patients = np.unique(clusters, return_inverse=True)[1]
    masks = [group & scored for scored in told if (group & scored).any()]
    return min(int(np.count_nonzero(np.bincount(patients[mask]))) for mask in (group, *masks))


def _group(body: Mapping[str, Any], group: str, here: Set[str], gaps: Mapping[str, Any], patients: int) -> Group:
    """A cell of the metrics that are here, of the entry of a group in a summary."""
    values: dict[str, Triple] = {}
    differences: dict[str, Triple] = {}
    metrics = {key: metric for key, metric in body["metrics"].items() if key in here}
    for key, metric in metrics.items():
        for name, value in metric.items():
            column = f"{key}/{name}"
            values[column] = (value["value"], *(value["ci"] or (None, None)))
            gap = gaps.get(f"{key}\0{group}", {}).get(name)
            if gap is not None:
                differences[column] = (number(gap.value), gap.low, gap.high)
    return Group(n=body["n"], clusters=patients, values=values, gaps=differences)
