"""A board as data: what the charts and downloads of its page are made of, and what page and data say in one way."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cxrbench import __version__
from cxrbench.metrics.base import comparable
from cxrbench.report.aggregate import FEW, Cell, Group
from cxrbench.report.leaderboard import Board, ColumnAbout, Entry, TaskBoard, visible
from cxrbench.spec import QUESTIONS
from cxrbench.types import CLUSTERS, COUNTED

_SIGNS = 4
"""Significant digits of charts and tests in the page; values and intervals are unrounded."""

WHOLE = 4000
"""Characters of a signature or a note: one that is cut short cannot be copied or compared."""


def short(value: float | None) -> float | None:
    """A number with as many digits as a chart can show."""
    return None if value is None else float(f"{value:.{_SIGNS}g}")


def inputs_text(entry: Entry) -> str:
    """What a run used, and which inputs it was given where that is not the task's own choice."""
    consumed = ", ".join(entry.run.consumed) or "nothing"
    return visible(consumed if entry.run.policy == "task" else f"{consumed} (--inputs {entry.run.policy})")


def what_is_written(task: TaskBoard) -> str:
    """What the models of a task write."""
    kind = task.summaries[0].task.kind if task.summaries else ""
    return "answers" if kind in QUESTIONS else "reports"


def board_data(board: Board) -> dict[str, Any]:
    """What charts and downloads are made of."""
    return {
        "name": board.spec.name,
        "mode": board.mode,
        "alpha": board.spec.alpha,
        "cxrbench": __version__,
        "few": FEW,
        "tasks": [_task_data(task) for task in board.tasks],
    }


def _task_data(task: TaskBoard) -> dict[str, Any]:
    keys = [column.key for column in task.columns]
    at = {entry.run.id: i for i, entry in enumerate(task.entries)}
    return {
        "name": task.part.task,
        "columns": [
            {
                "key": column.key,
                "better": column.higher_is_better,
                "whole": column.unit in COUNTED,
                "signature": column.signature,
            }
            for column in task.columns
        ],
        "runs": [_run_data(task, entry) for entry in task.entries],
        "pairs": _pairs_data(task, keys, at),
        "baseline": next((i for i, entry in enumerate(task.entries) if entry.label == task.part.baseline), 0),
        "labels": _labels(task),
        "slices": _slices(task, keys),
        "by": [visible(name) for name in _sliced(task)],
        "written": what_is_written(task),
        "clusters": CLUSTERS[task.entries[0].run.cluster_unit if task.entries else "patient"],
        "reported": [
            {
                "table": table.name,
                "model": visible(row.model),
                "column": column.name,
                "here": column.here,
                "value": value,
                "evidence": row.evidence or table.evidence,
                "source": row.source or table.source,
            }
            for table in task.published
            for row in table.rows
            for column, value in zip(table.columns, row.values, strict=True)
            if value is not None
        ],
    }


def _run_data(task: TaskBoard, entry: Entry) -> dict[str, Any]:
    run = entry.run
    return {
        "id": run.id,
        "model": visible(entry.label),
        "inputs": inputs_text(entry),
        "n": run.n,
        "n_expected": run.n_expected,
        "truncated_share": run.truncated_share,
        "values": [
            _value_data(run.values.get(column.key), task.places.get((run.id, column.key)), column)
            for column in task.columns
        ],
        "speed": run.speed,
        "machine": ", ".join(f"{key} {visible(value)}" for key, value in sorted(run.machine.items())),
        "about": {key: visible(value) for key, value in run.about.items()},
    }


def _value_data(cell: Cell | None, place: tuple[int, int, int] | None, column: ColumnAbout) -> list[Any] | None:
    """Value, low, high, samples behind it, failed, first and last place, of how many, signature if not the column's."""
    if cell is None:
        return None
    low, high = cell.ci or (None, None)
    made = comparable(cell.signature)
    other = None if made == column.signature else visible(made, WHOLE)
    rests = cell.n if cell.rests_on is None else cell.rests_on
    return [cell.value, low, high, rests, cell.failed, *(place or (None, None, None)), other]


def _pairs_data(task: TaskBoard, keys: Sequence[str], at: Mapping[str, int]) -> dict[str, list[Any]]:
    """Column -> rows (run, run, difference, low, high, p after Holm)."""
    adjusted: dict[str, dict[tuple[str, str], float]] = {}
    for (key, _), ranks in task.ranks.items():
        adjusted.setdefault(key, {}).update(ranks.adjusted)
    out: dict[str, list[Any]] = {}
    for (a, b), values in task.pairs.items():
        for key in keys:
            found = values.get(key)
            if found is not None and (a, b) in adjusted.get(key, {}):
                row = [at[a], at[b], *(short(number) for number in found[:3]), short(adjusted[key][a, b])]
                out.setdefault(key, []).append(row)
    return out


def _labels(task: TaskBoard) -> dict[str, Any] | None:
    """F1 per label of the metric the board names: label names, and a row of values per run."""
    metric = task.part.labels
    if metric is None:
        return None
    prefix = f"{metric}/f1_"
    found = sorted({key for entry in task.entries for key in entry.run.values if key.startswith(prefix)})
    # A metric may publish averages under the same stem; a label has no digits and is no average.
    found = [key for key in found if not re.search(r"_\d+$", key)]
    rows = [[_short_value(entry.run.values.get(key)) for key in found] for entry in task.entries]
    kept = [i for i in range(len(found)) if any(row[i] is not None for row in rows)]
    return {
        "metric": visible(metric),
        "names": [visible(found[i].removeprefix(prefix).replace("_", " ")) for i in kept],
        "rows": [[row[i] for i in kept] for row in rows],
    }


def _short_value(cell: Cell | None) -> float | None:
    return short(cell.value) if cell is not None else None


def _sliced(task: TaskBoard) -> list[str]:
    """The columns of subgroups, in the task's order."""
    return list(dict.fromkeys(name for entry in task.entries for name in entry.run.slices))


def _slices(task: TaskBoard, keys: Sequence[str]) -> dict[str, Any]:
    """Slice -> groups, and per run and group [n, patients, {column: [value, low, high, gap, low, high]}]."""
    at = {key: str(i) for i, key in enumerate(keys)}
    out: dict[str, Any] = {}
    for name in _sliced(task):
        groups = sorted({group for entry in task.entries for group in entry.run.slices.get(name, {})})
        rows = [
            [_group_data(entry.run.slices.get(name, {}).get(group), at) for group in groups] for entry in task.entries
        ]
        out[visible(name)] = {"groups": [visible(group) for group in groups], "rows": rows}
    return out


def _group_data(group: Group | None, at: Mapping[str, str]) -> list[Any] | None:
    if group is None or group.n is None:
        return None
    values = {
        at[key]: [short(number) for number in (*value, *group.gaps.get(key, (None, None, None)))]
        for key, value in group.values.items()
        if key in at
    }
    return [group.n, group.clusters, values]
