"""A board as data: its spec, aggregate summaries and published figures become what the page shows. No HTML here.

Runs are ranked only where it is fair: the same task and data, the same inputs (unless the board asks otherwise), the
same signature, every sample answered; by paired tests, so that runs which no test tells apart share a range of ranks.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cxrbench.errors import CxrbenchError, Exit, suggest
from cxrbench.metrics.base import comparable, short_hash
from cxrbench.report.aggregate import Run, Summary, read_summary_file, suppress
from cxrbench.report.board_spec import BoardSpec, Source, TaskPart
from cxrbench.report.gather import Progress, gather, unwatched
from cxrbench.report.published import Published, read_published
from cxrbench.report.ranks import Ranks, rank
from cxrbench.scores import is_dummy
from cxrbench.store import RunFolder, identity_hash, list_runs
from cxrbench.summary import Confidence

Mode = Literal["public", "private"]

DEFAULT = Confidence()

LIMIT = 200
"""Characters of a name that a page shows."""


def visible(text: str, limit: int = LIMIT) -> str:
    """A name as it can be shown: control and direction characters become their code point, long ones end in dots.

    >>> visible("a" + chr(0) + "b" + chr(0x202E) + "c")
    'a<U+0000>b<U+202E>c'
    """
    shown = "".join(
        f"<U+{ord(char):04X}>" if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") else char
        for char in text
    )
    return shown if len(shown) <= limit else f"{shown[:limit]}... ({len(text)} characters)"


@dataclass(frozen=True, slots=True)
class Entry:
    """One run on a board: `label` is its name there, `group` those it is ranked with (None: it is not, `why`)."""

    run: Run
    label: str
    group: str | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class ColumnAbout:
    """One number of a board: `signature` is that of most runs, `mixed` whether others made it in another way."""

    key: str
    higher_is_better: bool | None
    unit: str
    signature: str
    mixed: bool


@dataclass(frozen=True, slots=True)
class TaskBoard:
    """One task of a board, ready to be shown."""

    part: TaskPart
    summaries: tuple[Summary, ...]
    entries: tuple[Entry, ...]
    columns: tuple[ColumnAbout, ...]
    ranks: Mapping[tuple[str, str], Ranks]
    """(column, group and signature) -> ranks."""
    places: Mapping[tuple[str, str], tuple[int, int, int]]
    """(run id, column) -> first and last place, of how many."""
    published: tuple[Published, ...]
    left_out: tuple[str, ...] = ()

    @property
    def pairs(self) -> Mapping[tuple[str, str], Mapping[str, tuple[float | None, ...]]]:
        """(a, b) -> column -> difference b minus a, interval, p, n."""
        return {(pair.a, pair.b): pair.values for each in self.summaries for pair in each.pairs}


@dataclass(frozen=True, slots=True)
class Board:
    """A whole board."""

    spec: BoardSpec
    mode: Mode
    tasks: tuple[TaskBoard, ...]


def make_board(
    spec: BoardSpec, file: Path, mode: Mode, confidence: Confidence = DEFAULT, progress: Progress = unwatched
) -> Board:
    """Read everything a board names and rank it.

    Raises:
        CxrbenchError: a source cannot be read or is no aggregate, runs answer different questions, a column is unknown,
            or something would become public that may not.
    """
    tasks = tuple(_task(spec, part, file, mode, confidence, progress) for part in spec.tasks)
    return Board(spec, mode, tasks)


def _task(
    spec: BoardSpec, part: TaskPart, file: Path, mode: Mode, confidence: Confidence, progress: Progress
) -> TaskBoard:
    where = f"{file}, task {part.task}"
    summaries, names, left_out = _read(part, file, confidence, progress)
    _one_question(part, summaries, where)
    if mode == "public":
        summaries = [suppress(each, summaries) for each in summaries]
    runs = [run for each in summaries for run in each.runs]
    entries = tuple(_entries(spec, runs, names, where))
    columns = tuple(_columns(part, entries, where))
    published = tuple(read_published(name, part.task) for name in part.published)
    if part.baseline is not None and part.baseline not in {entry.label for entry in entries}:
        labels = [entry.label for entry in entries]
        raise CxrbenchError(
            f"the baseline {part.baseline!r} is no run of this task{suggest(part.baseline, labels)}", where=where,
            fix=f"one of: {', '.join(map(visible, labels))}" if labels else "name runs",
        )  # fmt: skip
    ranks, places = _ranked(spec, summaries, entries, columns)
    return TaskBoard(part, tuple(summaries), entries, columns, ranks, places, published, tuple(left_out))


def _read(
    part: TaskPart, file: Path, confidence: Confidence, progress: Progress
) -> tuple[list[Summary], dict[str, str], list[str]]:
    """Summaries of all sources, labels given by run id, and what was left out of folders of runs, with the reason."""
    summaries: list[Summary] = []
    folders: list[RunFolder] = []
    names: dict[str, str] = {}
    left_out: list[str] = []
    for source in part.runs:
        path = file.parent / source.path
        if path.is_dir():
            found, without = _run_folders(path, part.task, source)
            left_out += without
            folders += found
            ids = [identity_hash(run.manifest().identity) for run in found]
        else:
            summaries.append(read_summary_file(path))
            ids = [run.id for run in summaries[-1].runs]
        if source.label is not None:
            if len(ids) != 1:
                raise CxrbenchError(
                    f"label stands beside {len(ids)} runs", where=f"{file}, {source.path}", fix="name one run with it"
                )
            names[ids[0]] = source.label
    if folders:
        summaries.append(gather(folders, confidence, progress))
    return summaries, names, left_out


def _run_folders(path: Path, task: str, source: Source) -> tuple[list[RunFolder], list[str]]:
    """The run at a path, or all runs of the task below it that can be shown; the others with the reason.

    Runs of a part of the task (`--limit`) are left out beside runs of all of it; where there are only such, those of
    one limit stay and different limits are refused.
    """
    if RunFolder(path).exists():
        return [RunFolder(path)], []
    found, left_out = [], []
    for run in list_runs(path):
        manifest = run.manifest()
        if manifest.identity["task"]["name"] != task:
            continue
        if is_dummy(manifest):
            left_out.append(f"{run.path.name}: random weights")
        elif not (run.path / "summary.json").exists():
            left_out.append(f"{run.path.name}: not scored")
        else:
            found.append(run)
    if not found:
        raise CxrbenchError(
            f"there is no scored run of {task} in this folder", where=source.path, fix=f"cxrbench run --task {task} ..."
        )
    limits = {run.path: run.manifest().identity.get("limit") for run in found}
    if None in limits.values():
        left_out += [
            f"{each.name}: a part of the task, --limit {limit}" for each, limit in limits.items() if limit is not None
        ]
        found = [run for run in found if limits[run.path] is None]
    elif len(set(limits.values())) > 1:
        raise CxrbenchError(
            f"the runs of {task} in this folder are of different parts of the task, and none of all of it: "
            + ", ".join(f"{each.name} (--limit {limit})" for each, limit in limits.items()),
            where=source.path,
            fix="under `runs`, name one by one those of one limit in place of the folder, or delete the others",
            code=Exit.UNDECIDED,
        )
    return found, left_out


def _one_question(part: TaskPart, summaries: Sequence[Summary], where: str) -> None:
    for each in summaries:
        if each.task.name != part.task:
            raise CxrbenchError(f"a summary is of the task {each.task.name}", where=where, fix="put it under its task")
        first = summaries[0]
        asked = [(one.task.version, one.task.hash, one.question.get("data"), one.question.get("limit"))
                 for one in (first, each)]  # fmt: skip
        if asked[0] != asked[1]:
            raise CxrbenchError(
                "summaries of one task answer different questions (version, hash, data, limit): "
                f"{asked[0]} and {asked[1]}",
                where=where,
                fix="repeat the older runs, or make two boards",
                code=Exit.UNDECIDED,
            )


def _entries(spec: BoardSpec, runs: Sequence[Run], names: Mapping[str, str], where: str) -> list[Entry]:
    if len({run.id for run in runs}) < len(runs):
        raise CxrbenchError("one run comes from two sources", where=where, fix="name it once")
    labels = [names.get(run.id, run.model) for run in runs]
    count = Counter(labels)
    unique = [label if count[label] == 1 else f"{label} ({run.id})" for label, run in zip(labels, runs, strict=True)]
    out = []
    for run, label in zip(runs, unique, strict=True):
        why = f"not ranked: {run.unfinished[0]}" if run.unfinished else ""
        together = "" if spec.rank_across_inputs else ", ".join(run.consumed) or "nothing"
        group = None if why else f"{run.policy}|{together}"
        out.append(Entry(run, label, group, why))
    return out


def _columns(part: TaskPart, entries: Sequence[Entry], where: str) -> list[ColumnAbout]:
    """The numbers to show, in the order asked for.

    Raises:
        CxrbenchError: no run has a column that is asked for.
    """
    known: dict[str, list[Any]] = {}
    for entry in entries:
        for key, cell in entry.run.values.items():
            known.setdefault(key, []).append(cell)
    wanted = list(part.columns) or [
        key for key, cells in known.items() if cells[0].primary and cells[0].higher_is_better is not None
    ]
    out = []
    for key in wanted:
        if entries and key not in known:
            raise CxrbenchError(
                f"no run has the number {key}{suggest(key, known)}",
                where=f"{where}, columns",
                fix=f"score the runs with {key.partition('/')[0]}, or leave the column out",
            )
        cells = known.get(key, [])
        made = Counter(comparable(cell.signature) for cell in cells)
        signature = max(made, key=lambda each: (made[each], each)) if made else ""
        about = cells[0] if cells else None
        out.append(
            ColumnAbout(
                key,
                about.higher_is_better if about else None,
                about.unit if about else "",
                signature,
                len(made) > 1,
            )
        )
    return out


def _ranked(
    spec: BoardSpec, summaries: Sequence[Summary], entries: Sequence[Entry], columns: Sequence[ColumnAbout]
) -> tuple[dict[tuple[str, str], Ranks], dict[tuple[str, str], tuple[int, int, int]]]:
    ranks: dict[tuple[str, str], Ranks] = {}
    places: dict[tuple[str, str], tuple[int, int, int]] = {}
    for column in columns:
        if column.higher_is_better is None:
            continue
        groups: dict[str, list[str]] = {}
        for entry in entries:
            cell = entry.run.values.get(column.key)
            if entry.group is not None and cell is not None and cell.value is not None:
                groups.setdefault(f"{entry.group}|{short_hash(comparable(cell.signature))}", []).append(entry.run.id)
        for group, ids in groups.items():
            found = rank(
                ids,
                _differences(summaries, column.key),
                higher_is_better=column.higher_is_better,
                alpha=spec.alpha,
            )
            ranks[column.key, group] = found
            if found.of > 1:  # to be the first of one says nothing
                places |= {(run, column.key): (*place, found.of) for run, place in found.places.items()}
    return ranks, places


def _differences(summaries: Sequence[Summary], column: str) -> dict[tuple[str, str], tuple[float, float]]:
    out = {}
    for each in summaries:
        for pair in each.pairs:
            found = pair.values.get(column)
            if found is not None and found[0] is not None and found[3] is not None:
                out[pair.a, pair.b] = (found[0], found[3])
    return out
