"""The aggregate summary: what a leaderboard knows of the runs of one task, as one JSON file without texts or ids.

Values with intervals, subgroups, speeds, and the paired tests of every two runs, so that a board can rank them without
the run folders. Nothing in it is about a single sample. What `suppress` returns may be published: subgroup cells of
fewer than 10 patients are gone, and so is what would give them away by subtraction, over all columns together.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
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
    """An aggregate summary. `question`: data fingerprint, limit and image rules, equal for all runs in it.

    `hides`: column -> groups that `suppress` takes out. It was known where the patients were; None: it no longer is (a
    public summary has nothing left to hide) or never was (an older cxrbench made it).
    """

    format: Literal[1] = 1
    what: Literal["cxrbench leaderboard summary"] = WHAT
    cxrbench: str
    public: bool = False
    task: Task
    question: dict[str, Any]
    exchanges: int
    hides: dict[str, tuple[str, ...]] | None = None
    runs: tuple[Run, ...]
    pairs: tuple[Paired, ...] = ()


def suppress(summary: Summary, beside: Iterable[Summary] = ()) -> Summary:
    """The summary as it may be published.

    Args:
        summary: to be published.
        beside: what is shown with it, of the same samples: what one of them hides, no other may show.

    Raises:
        CxrbenchError: a run of credentialed data rests on fewer than 10 patients, or a summary that is not public does
            not say what has to be hidden.
    """
    for run in summary.runs:
        if summary.task.access == "credentialed" and run.clusters < FEW:
            who = f"{run.clusters} {CLUSTERS[run.cluster_unit]}"
            raise CxrbenchError(
                f"a run of credentialed data on {who} is not published (fewer than {FEW})",
                where=f"{summary.task.name}, {run.model}",
                fix="--private, for a file that stays with the data",
            )
    hidden = _hidden((summary, *beside))
    runs = tuple(
        run.model_copy(
            update={
                "slices": {name: _without(groups, hidden[name]) for name, groups in run.slices.items()},
                "folder": "",
            }
        )
        for run in summary.runs
    )
    return summary.model_copy(update={"runs": runs, "public": True, "hides": None})


def _hidden(summaries: Iterable[Summary]) -> dict[str, set[str]]:
    """Column -> groups that are hidden: what each summary says, and what a look at each column alone asks for.

    Runs of these summaries share their samples: what one of them hides, no other may show.
    """
    told: dict[str, set[str]] = defaultdict(set)
    columns: list[tuple[str, Mapping[str, Group]]] = []
    for summary in summaries:
        columns += [each for run in summary.runs for each in run.slices.items()]
        for name, groups in _said(summary).items():
            told[name] |= set(groups)
    hidden = defaultdict(set, {name: set(groups) for name, groups in told.items()})
    for name, cells in columns:
        hidden[name] |= _alone(cells, told[name])
    return hidden


def _said(summary: Summary) -> Mapping[str, Sequence[str]]:
    if summary.hides is not None or summary.public or not any(run.slices for run in summary.runs):
        return summary.hides or {}
    raise CxrbenchError(
        "the private summary does not say which cells a public page has to hide: an older cxrbench made it",
        where=f"{summary.task.name}, {', '.join(run.model for run in summary.runs)}",
        fix="make it again: cxrbench leaderboard summarize RUN ... -o FILE",
    )


def _alone(groups: Mapping[str, Group], told: Container[str]) -> set[str]:
    """What one column asks for by its numbers alone, which is all that an older public summary was looked at for.

    Small cells, and further ones until what is hidden cannot be had by subtracting the rest from the whole. Together
    they must hold ten patients. Groups may share patients (views, ages at two studies), so only the largest of them
    counts: patients of several cells may be the same ones. Cells that are hidden already, in `told` or because they
    are gone, were hidden by this rule or by that over all columns.
    """
    hidden = {name for name, group in groups.items() if group.clusters is None or name in told}
    known = sorted(
        (group.clusters, name) for name, group in groups.items() if group.clusters is not None and name not in hidden
    )
    taken = FEW if hidden else 0
    for count, name in known:
        if count >= FEW and (not hidden or (len(hidden) > 1 and taken >= FEW)):
            break
        hidden.add(name)
        taken = max(taken, count)
    return hidden


def _without(groups: Mapping[str, Group], hidden: Container[str]) -> dict[str, Group]:
    return {name: Group(n=None, clusters=None) if name in hidden else group for name, group in groups.items()}


def summary_bytes(summary: Summary) -> bytes:
    """A summary as it stands in its file: one line of JSON."""
    body = summary.model_dump(mode="json", exclude={"hides"} if summary.hides is None else None)
    return (json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n").encode()


def write_summary(summary: Summary, file: Path) -> None:
    """Write a summary; a public one may be read by everybody, another by its owner alone."""
    write_atomic(file, summary_bytes(summary))
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
