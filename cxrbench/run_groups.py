"""One run within subgroups: the fairness, robustness and length tables. No torch, no texts.

Per group a value and its interval, and the gap: the group minus all other samples, or minus one group that is named
(`original`, say, where groups are variants of the same studies: patients are resampled, so pairs stay together). Cells
of few scored patients are hidden, and further ones until the hidden are two and together of enough patients: what is
shown, the gaps and the total tell of all hidden cells together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxrbench.compare_groups import Groups, Mask, gap_table, groups_of
from cxrbench.data.samples import clusters_of
from cxrbench.errors import CxrbenchError, Exit, suggest
from cxrbench.scores import load_scores
from cxrbench.scoring import Scored
from cxrbench.stats import Interval, Table, bootstrap, point
from cxrbench.store import RunFolder
from cxrbench.summary import Confidence, number
from cxrbench.tables import read_samples

FEWEST = 10
"""Patients below which a cell is hidden unless told otherwise."""


def run_groups(
    run: RunFolder,
    columns: Sequence[str],
    confidence: Confidence,
    *,
    metrics: Sequence[str] = (),
    against: str | None = None,
    fewest: int = FEWEST,
) -> dict[str, Any]:
    """Column -> metric -> value -> group -> {n, clusters, value, ci, gap, gap_ci, hidden}.

    Args:
        run: a scored run.
        columns: subgroup columns, or `label` and `length`, which every task has.
        confidence: of percentile intervals; a table of groups is for orientation.
        metrics: metric keys; all that were scored by default.
        against: a group that gaps are measured against; all other samples by default.
        fewest: a cell of fewer patients is hidden.

    Raises:
        CxrbenchError: no such column, group or metric, or nothing was scored.
    """
    stored = read_samples(run.samples_file).chosen
    clusters = clusters_of(stored)
    found = load_scores(run, metrics)
    scored = [each for each in found if each.statistics is not None and each.metric.additive and _primary(each)]
    if not scored:
        raise CxrbenchError(
            "no metric was scored that can be told by groups", where=str(run.path), fix="cxrbench score RUN",
            code=Exit.UNDECIDED,
        )  # fmt: skip
    out: dict[str, Any] = {}
    for column in columns:
        groups = groups_of(stored, column)
        if against is not None and against not in groups:
            raise CxrbenchError(
                f"{column!r} has no group {against!r}{suggest(against, groups)}",
                where="--against", fix=f"one of: {', '.join(groups)}",
            )  # fmt: skip
        out[column] = {each.metric.key: _values(each, groups, fewest, clusters, confidence, against) for each in scored}
    return {
        "task": run.manifest().identity["task"]["name"],
        "model": run.manifest().identity["model"].get("name", ""),
        "n": len(stored),
        "clusters": len(set(clusters)),
        "ci_level": confidence.level,
        "against": against,
        "fewest": fewest,
        "groups": out,
    }


def _primary(scored: Scored) -> list[str]:
    return [name for name, value in scored.metric.values.items() if value.primary and value.interval]


def _hidden(groups: Groups, clusters: Sequence[str], fewest: int) -> frozenset[str]:
    """Groups of fewer patients, and the next smallest until what is hidden is no single cell and of enough patients."""
    members = {name: _patients(mask, clusters) for name, mask in groups.items()}
    by_size = sorted((name for name in groups if members[name]), key=lambda name: (len(members[name]), name))
    few: list[str] = []
    together: set[str] = set()
    for name in by_size:
        if len(members[name]) < fewest or (few and (len(few) == 1 or len(together) < fewest)):
            few.append(name)
            together |= members[name]
    return frozenset(few)


def _patients(mask: Mask, clusters: Sequence[str]) -> set[str]:
    return {clusters[int(i)] for i in np.flatnonzero(mask)}


def _values(
    scored: Scored,
    groups: Groups,
    fewest: int,
    clusters: Sequence[str],
    confidence: Confidence,
    against: str | None,
) -> dict[str, Any]:
    table = Table(scored.rows(), scored.metric)
    settings: dict[str, Any] = {
        "level": confidence.level,
        "replicates": confidence.replicates,
        "seed": confidence.seed,
        "method": "percentile",
    }
    held = {name: mask & table.scored for name, mask in groups.items()}
    hidden = _hidden(held, clusters, fewest)
    shown = {name: mask for name, mask in held.items() if name not in hidden and mask.any()}
    alone = {name: _only(table, mask) for name, mask in shown.items()}
    if against is None:  # what a group is held against must be of enough patients, as a group must
        rests = {name: table.scored & ~groups[name] for name in shown}
        rests = {name: rest for name, rest in rests.items() if len(_patients(rest, clusters)) >= fewest}
    else:
        rests = {} if against in hidden else {name: held[against] for name in shown if name != against}
    gaps = {name: gap_table(_only(table, shown[name] | rest), shown[name]) for name, rest in rests.items()}
    intervals: Mapping[str, Mapping[str, Interval]] = {}
    gap_intervals: Mapping[str, Mapping[str, Interval]] = {}
    if confidence.replicates and alone:
        intervals = bootstrap(alone, clusters, **settings)
        gap_intervals = bootstrap(gaps, clusters, **settings) if gaps else {}
    out: dict[str, Any] = {}
    for value in _primary(scored):
        cells: dict[str, Any] = {}
        for name in groups:
            if name in hidden:
                cells[name] = {"hidden": True}
            elif name in shown:
                cells[name] = {
                    "hidden": False,
                    "n": int(shown[name].sum()),
                    "clusters": len(_patients(shown[name], clusters)),
                    "value": number(point(table.take(shown[name]))[value]),
                    "ci": _ends(intervals, name, value),
                    "gap": number(point(gaps[name])[value]) if name in gaps else None,
                    "gap_ci": _ends(gap_intervals, name, value),
                }
        known = [cell["value"] for cell in cells.values() if not cell["hidden"] and cell["value"] is not None]
        out[value] = {
            "higher_is_better": scored.metric.values[value].higher_is_better,
            "groups": cells,
            "spread": max(known) - min(known) if len(known) > 1 else None,
        }
    return out


def _only(table: Table, mask: Mask) -> Table:
    return Table(np.where(mask[:, None], table.rows, 0.0), table.metric)


def _ends(found: Mapping[str, Mapping[str, Interval]], name: str, value: str) -> list[float] | None:
    interval = found.get(name, {}).get(value)
    return None if interval is None or interval.low is None or interval.high is None else [interval.low, interval.high]
