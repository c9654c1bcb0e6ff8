"""leaderboards/*.yaml: which runs, which numbers, which order. An error names file, line and key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from cxrbench.errors import CxrbenchError, suggest
from cxrbench.shipped import shipped
from cxrbench.yaml_file import read_yaml

_EVERY_KEY = "docs/leaderboard.md of the repository explains every key; leaderboards/demo.yaml is an example"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Part):
    """Where runs come from: a summary file, a run folder, or a folder of run folders; `label` renames a single run."""

    path: str
    label: str | None = Field(default=None, min_length=1, max_length=120)


def _source(value: Any) -> Any:
    """`- path` stands for `- {path: path}`."""
    return {"path": value} if isinstance(value, str) else value


class TaskPart(_Part):
    """One task of a board.

    `columns` are `metric:preset/value` (the first is the default order; empty: every primary number that a run has);
    `baseline` is the label of the run that others are drawn against; `labels` the metric whose per-label F1 is shown;
    `published` names files of baselines/published/.
    """

    task: str
    title: str | None = None
    runs: tuple[Annotated[Source, BeforeValidator(_source)], ...] = ()
    columns: tuple[Annotated[str, Field(pattern=r"^[^/\s]+:[^/\s]+/[^/\s]+$")], ...] = ()
    baseline: str | None = None
    labels: str | None = None
    published: tuple[str, ...] = ()


class BoardSpec(_Part):
    """A leaderboard. `rank_across_inputs` ranks models that saw different inputs together, and the page says so."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    about: str = ""
    alpha: float = Field(default=0.05, gt=0, le=0.2)
    rank_across_inputs: bool = False
    tasks: tuple[TaskPart, ...] = Field(min_length=1)


def shipped_boards() -> dict[str, Path]:
    """Boards that travel with cxrbench, by name."""
    return {file.stem: file for file in sorted(shipped("leaderboards").glob("*.yaml"))}


def find_board(text: str) -> tuple[BoardSpec, Path]:
    """A board by its file, or by the name of a shipped one (`demo`, `leaderboards/demo.yaml`); with its file.

    Raises:
        CxrbenchError: there is no such file or board, or it is wrong.
    """
    file, known = Path(text), shipped_boards()
    if not file.is_file():
        name = file.stem if text in (file.stem, f"leaderboards/{file.name}") else ""
        if name not in known:
            raise CxrbenchError(
                f"there is no board {text!r}{suggest(file.stem, known)}",
                where="the command line",
                fix=f"a YAML file, or one of: {', '.join(known) or 'none'}",
            )
        file = known[name]
    spec = read_yaml(file, BoardSpec, "a leaderboard", _EVERY_KEY)
    names = [part.task for part in spec.tasks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CxrbenchError(f"the task {twice} stands twice", where=str(file), fix="one entry for each task")
    return spec, file
