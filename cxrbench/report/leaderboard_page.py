"""A board becomes one HTML file: rows and cells as text. leaderboard_data.py has the same for charts and downloads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cxrbench import __version__
from cxrbench.metrics.base import comparable
from cxrbench.report import page
from cxrbench.report.aggregate import FEW
from cxrbench.report.leaderboard import Board, ColumnAbout, Entry, TaskBoard, visible
from cxrbench.report.leaderboard_data import WHOLE, board_data, inputs_text, what_is_written
from cxrbench.report.published import Published
from cxrbench.types import CLUSTERS, COUNTED


def figure(value: float | None, unit: str = "") -> str:
    """A number as the page shows it.

    >>> figure(0.13352), figure(12.345), figure(1234.5), figure(None), figure(117.0, "questions")
    ('0.134', '12.3', '1234', '–', '117')
    """
    if value is None:
        return "–"
    if unit in COUNTED:
        return f"{value:.0f}"
    size = abs(value)
    return f"{value:.3f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:.0f}"


def places_text(place: tuple[int, int, int]) -> str:
    """Ranks as the page shows them: `#2`, or `#1–3` for a tie.

    >>> places_text((1, 3, 6)), places_text((2, 2, 6))
    ('#1–3', '#2')
    """
    first, last, _ = place
    return f"#{first}" if first == last else f"#{first}–{last}"


def html(board: Board) -> str:
    """The page. The same board gives the same bytes."""
    app, chart = page.text_of("leaderboard.js"), page.plotly()
    return page.render(
        "leaderboard.html.j2",
        policy=page.policy(app, chart),
        style=page.own(page.text_of("page.css") + page.text_of("leaderboard.css")),
        app=page.own(app),
        plotly=page.own(page.packed_plotly()),
        data=page.data_json(board_data(board)),
        board=board,
        tasks=[_task_view(board, task, at) for at, task in enumerate(board.tasks)],
        few=FEW,
        version=__version__,
        visible=visible,
        figure=figure,
    )


def _task_view(board: Board, task: TaskBoard, at: int) -> dict[str, Any]:
    """What the template needs of one task."""
    about = task.summaries[0].task if task.summaries else None
    inputs = sorted({inputs_text(entry) for entry in task.entries})
    rows = [_row(task, entry) for entry in task.entries]
    return {
        "at": at,
        "name": task.part.task,
        "title": task.part.title or (about.title if about else task.part.task),
        "about": about,
        "facts": _facts(task),
        "columns": [_column_view(column) for column in task.columns],
        "rows": rows,
        "empty": [name for name in ("truncated", "distinct") if all(row[name] is None for row in rows)],
        "inputs": inputs,
        "mixed": len(inputs) > 1,
        "ranking": _ranking(board, task),
        "reported": [row for table in task.published for row in _reported_here(table, task.columns)],
        "tables": [_reported_table(table) for table in task.published],
        "left_out": [visible(line) for line in task.left_out],
        "notes": _notes(task),
        "measured": bool(task.entries),
        "timed": any("reports_per_s" in entry.run.speed for entry in task.entries),
        "written": what_is_written(task),
    }


def _facts(task: TaskBoard) -> list[tuple[str, str]]:
    """What stands at the head of a task: term and text."""
    if not task.summaries:
        return []
    about, run = task.summaries[0].task, task.entries[0].run if task.entries else None
    facts = [
        ("task", f"{about.name}, version {about.version}, hash {about.hash}"),
        ("data", f"{about.dataset}, {about.access}"),
    ]
    if run is not None:
        level = f"{run.ci_level:.0%} " if run.ci_level else ""
        facts.append(("samples", f"{run.n_expected} of {run.clusters} {CLUSTERS[run.cluster_unit]}"))
        facts.append(("intervals", f"{level}{run.ci_method}"))
    exchanges = sorted({each.exchanges for each in task.summaries if each.pairs})
    if exchanges:
        counted = ", ".join(f"{count:,}" for count in exchanges)
        whole = CLUSTERS[run.cluster_unit if run is not None else "patient"]
        facts.append(("tests", f"paired randomisation of whole {whole}, {counted} exchanges"))
    return [*facts, ("cite", about.citation)]


def _ranking(board: Board, task: TaskBoard) -> str:
    """How ranks came about, in words."""
    untested = sum(found.untested for found in task.ranks.values())
    text = (
        f"#1–3 is a range of ranks: the places a run can have when a difference counts only if its paired test says so "
        f"(p ≤ {board.spec.alpha:g} after Holm over all pairs of that column). Runs that share a range are tied."
    )
    if board.spec.rank_across_inputs:
        text += " This board ranks runs that saw different inputs together, because its definition asks for it."
    else:
        text += " Runs that saw different inputs are ranked apart."
    if untested:
        text += f" {untested} pairs were never tested (their runs come from different summaries) and count as ties."
    return text


def _column_view(column: ColumnAbout) -> dict[str, Any]:
    metric, _, value = column.key.partition("/")
    better = {True: "↑", False: "↓", None: ""}[column.higher_is_better]
    words = {True: "higher is better", False: "lower is better", None: "no direction"}[column.higher_is_better]
    return {
        "key": column.key,
        "metric": visible(metric),
        "value": visible(value),
        "arrow": better,
        "words": words,
        "better": {True: "high", False: "low", None: ""}[column.higher_is_better],
        "signature": visible(column.signature, WHOLE),
        "mixed": column.mixed,
    }


def _row(task: TaskBoard, entry: Entry) -> dict[str, Any]:
    run = entry.run
    about = [f"{key} {value}" for key, value in sorted(run.about.items())]
    return {
        "id": run.id,
        "label": visible(entry.label),
        "about": visible(" · ".join([run.id, *about])),
        "folder": visible(run.folder),
        "inputs": inputs_text(entry),
        "n": f"{run.n} of {run.n_expected}",
        "share": run.n / run.n_expected if run.n_expected else 0.0,
        "why": visible(entry.why),
        "truncated": run.truncated_share,
        "distinct": run.distinct["distinct"] / run.distinct["reports"] if run.distinct.get("reports") else None,
        "speed": run.speed.get("reports_per_s"),
        "cells": [_cell(task, entry, column) for column in task.columns],
    }


def _cell(task: TaskBoard, entry: Entry, column: ColumnAbout) -> dict[str, Any]:
    cell = entry.run.values.get(column.key)
    if cell is None:
        why = visible(entry.run.not_scored.get(column.key.partition("/")[0], "not scored"))
        return {
            "value": None, "text": "–", "whole": False, "ci": "", "place": "", "of": 0, "n": None, "rests_on": None,
            "why": why, "other": False,
        }  # fmt: skip
    place = task.places.get((entry.run.id, column.key))
    return {
        "value": cell.value,
        "text": figure(cell.value, cell.unit),
        "whole": cell.unit in COUNTED,
        "ci": f"{figure(cell.ci[0])} to {figure(cell.ci[1])}" if cell.ci else "",
        "place": places_text(place) if place else "",
        "of": place[2] if place else 0,
        "n": cell.n if cell.n != entry.run.n else None,
        "rests_on": cell.rests_on,
        "why": visible(cell.note),
        "other": comparable(cell.signature) != column.signature,
        "signature": visible(cell.signature, WHOLE),
    }


def _reported_here(table: Published, columns: Sequence[ColumnAbout]) -> list[dict[str, Any]]:
    """Rows for the main table: reported numbers made by the convention of one of its columns."""
    at = {column.here: i for i, column in enumerate(table.columns) if column.here is not None}
    shared = [at.get(column.key) for column in columns]
    if all(index is None for index in shared):
        return []
    rows = []
    for row in table.rows:
        values = [_scaled(table, row.values, index) for index in shared]
        if any(value is not None for value in values):
            rows.append(
                {
                    "label": visible(row.model),
                    "evidence": row.evidence or table.evidence,
                    "source": row.source or table.source,
                    "note": row.note,
                    "cells": [{"value": value, "text": figure(value)} for value in values],
                }
            )
    return rows


def _scaled(table: Published, values: Sequence[float | None], index: int | None) -> float | None:
    if index is None or values[index] is None:
        return None
    value = values[index]
    return None if value is None else float(f"{value * table.columns[index].scale:.12g}")


def _reported_table(table: Published) -> dict[str, Any]:
    return {
        "name": table.name,
        "title": table.title,
        "citation": table.citation,
        "source": table.source,
        "evidence": table.evidence,
        "differs": table.differs,
        "columns": [
            {"name": column.name, "arrow": "↑" if column.higher_is_better else "↓"} for column in table.columns
        ],
        "rows": [
            {
                "label": visible(row.model),
                "values": ["–" if value is None else f"{value:g}" for value in row.values],
                "evidence": row.evidence or table.evidence,
                "source": row.source or "",
                "note": row.note,
            }
            for row in table.rows
        ],
    }


def _notes(task: TaskBoard) -> list[str]:
    """What a reader must know of how numbers came about, each said once with the runs it is true of."""
    said: dict[str, list[str]] = {}
    for entry in task.entries:
        for note in entry.run.notes:
            said.setdefault(note, []).append(entry.label)
    whole = len(task.entries)
    return [
        visible(note if len(labels) == whole else f"{', '.join(labels)}: {note}", WHOLE)
        for note, labels in said.items()
    ]
