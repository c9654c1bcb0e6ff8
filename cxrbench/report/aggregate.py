"""The aggregate summary: what a leaderboard knows of the runs of one task, as one JSON file without texts or ids.

Values with intervals, subgroups, speeds, and the paired tests of every two runs, so that a board can rank them without
the run folders. Nothing in it is about a single sample. What `suppress` returns may be published: subgroup cells of
fewer than 10 patients are gone, and so is what would give them away by subtraction.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxrbench.atomic import write_atomic
from cxrbench.errors import CxrbenchError
from cxrbench.types import CLUSTERS, Access, ClusterUnit

FORMAT = 1
WHAT: Literal["cxrbench leaderboard summary"] = "cxrbench leaderboard summary"
FEW = 10
"""Patients (samples where a data set has no patients) below which a subgroup cell is not published."""

Triple = tuple[float | None, float | None, float | None]
"""A number and the ends of its interval; None where there is none."""

Chance = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cell(_Part):
    """One number of one run: `value` None where it is 0/0, `n` samples scored, `failed` those that could not be.

    `rests_on`: how many of the n it rests on, where its metric says that these are not all (open questions, say).
    """

    value: float | None
    ci: tuple[float, float] | None
    n: int
    rests_on: int | None = None
    failed: int = 0
    signature: str
    higher_is_better: bool | None
    primary: bool = False
    unit: str = ""
    note: str = ""


class Group(_Part):
    """One subgroup of one run; all None and empty where it is suppressed.

    `clusters`: patients that each of its values rests on, at least; none of it is told where these are few.
    `values` and `gaps` (the group minus all other samples) are by column, `metric:preset/value`.
    """

    n: int | None
    clusters: int | None
    values: dict[str, Triple] = {}
    gaps: dict[str, Triple] = {}


class Run(_Part):
    """One run: who, with which inputs, how much of it was answered, its numbers, its speed.

    `about` says what the model was (weights, preset, engine, dtype). `policy` is what the task let models see,
    `consumed` what this one used, `unfinished` why the run is not complete (empty: it is).
    """

    id: str
    model: str
    about: dict[str, str]
    policy: str
    consumed: tuple[str, ...]
    n: int
    n_expected: int
    clusters: int
    cluster_unit: ClusterUnit
    unfinished: tuple[str, ...] = ()
    outcomes: dict[str, int]
    truncated_share: float | None
    distinct: dict[str, int]
    values: dict[str, Cell]
    not_scored: dict[str, str] = {}
    slices: dict[str, dict[str, Group]] = {}
    speed: dict[str, float] = {}
    machine: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    ci_level: float | None
    ci_method: str
    folder: str = ""


class Paired(_Part):
    """Run `b` minus run `a`, per column: difference, interval, two-sided p of the randomisation test, samples."""

    a: str
    b: str
    values: dict[str, tuple[float | None, float | None, float | None, Chance | None, int]]


class Task(_Part):
    """The task as its runs were asked it."""

    name: str
    version: int
    hash: str
    title: str
    kind: str
    access: Access
    dataset: str
    citation: str
    n_full: int | None


class Summary(_Part):
    """An aggregate summary. `question`: data fingerprint, limit and image rules, equal for all runs in it."""

    format: Literal[1] = 1
    what: Literal["cxrbench leaderboard summary"] = WHAT
    cxrbench: str
    public: bool = False
    task: Task
    question: dict[str, Any]
    exchanges: int
    runs: tuple[Run, ...]
    pairs: tuple[Paired, ...] = ()


def suppress(summary: Summary) -> Summary:
    """The summary as it may be published.

    Raises:
        CxrbenchError: a run of credentialed data rests on fewer than 10 patients.
    """
    for run in summary.runs:
        if summary.task.access == "credentialed" and run.clusters < FEW:
            who = f"{run.clusters} {CLUSTERS[run.cluster_unit]}"
            raise CxrbenchError(
                f"a run of credentialed data on {who} is not published (fewer than {FEW})",
                where=f"{summary.task.name}, {run.model}",
                fix="--private, for a file that stays with the data",
            )
    # Runs of one summary share their samples: what one of them hides, no other may show.
    hidden: dict[str, set[str]] = defaultdict(set)
    for run in summary.runs:
        for name, groups in run.slices.items():
            hidden[name] |= _hidden(groups)
    runs = tuple(
        run.model_copy(
            update={
                "slices": {name: _without(groups, hidden[name]) for name, groups in run.slices.items()},
                "folder": "",
            }
        )
        for run in summary.runs
    )
    return summary.model_copy(update={"runs": runs, "public": True})


def _hidden(groups: Mapping[str, Group]) -> set[str]:
    """Small cells, and further ones until what is hidden cannot be had by subtracting the rest from the whole.

    Together they must hold ten patients. Groups may share patients (views, ages at two studies), so only the largest
    of them counts: patients of several cells may be the same ones. Cells that were hidden before stay hidden, and were
    hidden by this rule.
    """
    hidden = {name for name, group in groups.items() if group.clusters is None}
    known = sorted((group.clusters, name) for name, group in groups.items() if group.clusters is not None)
    taken = FEW if hidden else 0
    for count, name in known:
        if count >= FEW and (not hidden or (len(hidden) > 1 and taken >= FEW)):
            break
        hidden.add(name)
        taken = max(taken, count)
    return hidden


def _without(groups: Mapping[str, Group], hidden: Container[str]) -> dict[str, Group]:
    return {name: Group(n=None, clusters=None) if name in hidden else group for name, group in groups.items()}


def write_summary(summary: Summary, file: Path) -> None:
    """Write a summary; a public one may be read by everybody, another by its owner alone."""
    body = summary.model_dump(mode="json")
    write_atomic(file, (json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n").encode())
    if summary.public:
        file.chmod(0o644)


def read_summary_file(file: Path) -> Summary:
    """Read what `write_summary` wrote.

    Raises:
        CxrbenchError: it is none, of another format, or damaged; what is in it is not repeated.
    """
    try:
        body = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise CxrbenchError(f"the summary cannot be read: {error.strerror}", where=str(file)) from error
    except (ValueError, RecursionError) as error:
        raise _no_summary(file) from error
    if not isinstance(body, dict) or body.get("what") != WHAT:
        raise _no_summary(file)
    if body.get("format") != FORMAT:
        raise CxrbenchError(
            f"the summary has format {body.get('format')}, this cxrbench reads format {FORMAT}",
            where=str(file),
            fix="make it again: cxrbench leaderboard summarize RUN ... -o FILE",
        )
    try:
        return _consistent(Summary.model_validate(body), file)
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise CxrbenchError(f"the summary is damaged: {error.errors()[0]['msg']}", where=f"{file}, {place}") from error


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _consistent(summary: Summary, file: Path) -> Summary:
    ids = [run.id for run in summary.runs]
    known = set(ids)
    if len(known) < len(ids) or any({pair.a, pair.b} - known for pair in summary.pairs):
        raise CxrbenchError("the summary is damaged: its runs and pairs do not fit together", where=str(file))
    return summary


def _no_summary(file: Path) -> CxrbenchError:
    return CxrbenchError(
        "the file is no aggregate summary",
        where=str(file),
        fix="boards are made of run folders and of files of `cxrbench leaderboard summarize RUN ... -o FILE`",
    )
