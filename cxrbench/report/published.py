"""baselines/published/*.yaml: figures that papers and their authors report, each with where it was read and how well.

Such figures are shown beside measured ones and never among them: not measured here, not ranked, no interval.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cxrbench.errors import CxrbenchError, suggest
from cxrbench.shipped import shipped
from cxrbench.yaml_file import read_yaml


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Part):
    """One reported number: its name in the source, and `here`, the column of ours made by the same convention, if any.

    `scale` brings a reported value to ours (0.01 for percent).
    """

    name: str
    higher_is_better: bool = True
    here: str | None = Field(default=None, pattern=r"^[^/\s]+:[^/\s]+/[^/\s]+$")
    scale: float = Field(default=1.0, gt=0)


class Row(_Part):
    """One system: its figures in the order of the columns, null where the source has none."""

    model: str
    values: tuple[float | None, ...]
    evidence: Literal["primary", "secondary"] | None = None
    source: str | None = None
    note: str = ""


class Published(_Part):
    """A table of a source.

    `evidence`: "primary" was read in the authors' own table or files, "secondary" in somebody else's transcription.
    `differs` says what keeps the figures from being comparable with the task they stand beside.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    task: str
    citation: str
    source: str
    evidence: Literal["primary", "secondary"]
    differs: str
    columns: tuple[Column, ...] = Field(min_length=1)
    rows: tuple[Row, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _every_row_has_every_column(self) -> Published:
        for row in self.rows:
            if len(row.values) != len(self.columns):
                raise ValueError(f"rows: {row.model} has {len(row.values)} values for {len(self.columns)} columns")
        return self


def published_files() -> dict[str, Path]:
    """Published tables that travel with cxrbench, by name."""
    return {file.stem: file for file in sorted((shipped("baselines") / "published").glob("*.yaml"))}


def published_table(name: str) -> Published:
    """The published table called `name`.

    Raises:
        CxrbenchError: there is none, or it is wrong.
    """
    files = published_files()
    if name not in files:
        raise CxrbenchError(
            f"there are no published figures called {name!r}{suggest(name, files)}",
            fix=f"one of: {', '.join(files) or 'none'}",
        )
    return read_yaml(files[name], Published, "a table of published figures", "baselines/README.md explains the keys")


def read_published(name: str, task: str) -> Published:
    """The published table called `name`, for a task.

    Raises:
        CxrbenchError: there is none, it is wrong, or it stands beside another task.
    """
    found = published_table(name)
    if found.task != task:
        raise CxrbenchError(
            f"the figures {name} belong beside {found.task}, not {task}", fix=f"published of the task {found.task}"
        )
    return found
