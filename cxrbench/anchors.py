"""baselines/anchors/NAME.yaml: which published figures a model should reach, and how to ask it for them.

The figures themselves stand in baselines/published/ and nowhere else; an anchor names a table, a row and its columns,
the task and preset that come nearest, and what keeps the two from being comparable. Beside them stands what can be
checked without data: numbers of parameters, image tokens, exact prompts. docs/verify.md is the user's page. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cxrbench.errors import CxrbenchError, suggest
from cxrbench.report.published import Published, Row, published_files, published_table
from cxrbench.shipped import shipped
from cxrbench.yaml_file import read_yaml


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Count(_Part):
    """How many parameters the published checkpoint `of` has, and who says so."""

    of: str
    count: int = Field(gt=0)
    source: str


class Prompt(_Part):
    """The exact prompt for a made-up sample with these views and sections; `settings` are those of `--set`."""

    target: str
    prompt: str
    source: str
    settings: Mapping[str, str] = Field(default_factory=dict)
    views: tuple[str, ...] = ("PA",)
    sections: Mapping[str, str] = Field(default_factory=dict)


class Samples(_Part):
    """Whether the figures are of the task's own samples, how many these are where that is known, and why one thinks so.

    `other` samples are never compared; `unknown` ones only by who assumes that they are alike.
    """

    are: Literal["same", "unknown", "other"]
    about: str
    n: int | None = Field(default=None, gt=0)


class Figure(_Part):
    """One column of the table: `here` is the value of ours that comes nearest (metric:preset/value), if one does.

    `convention` says whether both are made alike. `tolerance` is in the table's units, `scale` brings these to ours.
    """

    column: str
    here: str | None = Field(default=None, pattern=r"^[^/\s]+:[^/\s]+/[^/\s]+$")
    scale: float = Field(default=1.0, gt=0)
    tolerance: float = Field(default=0.0, ge=0)
    convention: Literal["same", "unknown"] = "unknown"
    why: str = ""

    @model_validator(mode="after")
    def _reasons(self) -> Figure:
        if (self.here is None or self.convention == "unknown") and not self.why:
            raise ValueError(f"figures: {self.column}: say why, where the convention is not ours")
        if self.here is not None and not self.tolerance:
            raise ValueError(f"figures: {self.column}: a tolerance must be stated")
        return self

    @property
    def metric(self) -> str:
        """`metric:preset`, '' where nothing of ours is near."""
        return self.here.partition("/")[0] if self.here else ""

    @property
    def value(self) -> str:
        """The value's name."""
        return self.here.partition("/")[2] if self.here else ""


class Anchor(_Part):
    """Figures of one row of a published table, and the run that comes nearest to them.

    `of` names the checkpoint they belong to (see `Count`), where there are several of one model; `cannot` is why they
    are not comparable whatever is run.
    """

    table: str
    row: str
    task: str
    preset: str
    samples: Samples
    figures: tuple[Figure, ...] = Field(min_length=1)
    of: str = ""
    cannot: str = ""

    @property
    def name(self) -> str:
        """How cards refer to it."""
        return f"{self.table}/{self.row}"

    @property
    def metrics(self) -> list[str]:
        """The metrics to score, each once."""
        return list(dict.fromkeys(each.metric for each in self.figures if each.metric))


class Anchors(_Part):
    """What is known of a model to hold it against; `not_found` says what nobody here could read."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    parameters: tuple[Count, ...]
    image_tokens: int = Field(ge=0)
    prompts: tuple[Prompt, ...] = Field(min_length=1)
    anchors: tuple[Anchor, ...]
    not_found: str


def anchor_files() -> dict[str, Path]:
    """The files that travel with cxrbench, by model."""
    return {file.stem: file for file in sorted((shipped("baselines") / "anchors").glob("*.yaml"))}


def read_anchors(name: str) -> Anchors:
    """The anchors of a model.

    Raises:
        CxrbenchError: there are none for it, the file is wrong, or it names a table, row or column that is not there.
    """
    files = anchor_files()
    if name not in files:
        raise CxrbenchError(
            f"nothing published is kept for a model called {name!r}{suggest(name, files)}",
            where=f"cxrbench verify model {name}",
            fix=f"one of: {', '.join(files)}",
        )
    found = read_yaml(files[name], Anchors, "the anchors of a model", "baselines/README.md explains the keys")
    for each in found.anchors:
        table, _ = find_row(each.name)
        columns = [column.name for column in table.columns]
        for figure in each.figures:
            if figure.column not in columns:
                raise CxrbenchError(
                    f"{each.table} has no column {figure.column!r}{suggest(figure.column, columns)}",
                    where=str(files[name]),
                    fix=f"one of: {', '.join(columns)}",
                )
    return found


def find_row(name: str) -> tuple[Published, Row]:
    """The table and the row of `table/row`.

    Raises:
        CxrbenchError: there is no such table or row.
    """
    table, _, wanted = name.partition("/")
    found = published_table(table)
    rows = {row.model: row for row in found.rows}
    if wanted not in rows:
        raise CxrbenchError(
            f"{table} has no row {wanted!r}{suggest(wanted, rows)}",
            where=str(published_files()[table]),
            fix=f"one of: {', '.join(rows)}",
        )
    return found, rows[wanted]


def reported(table: Published, row: Row, column: str) -> float | None:
    """The figure of a row, in the table's units; None where the source has none."""
    return row.values[[each.name for each in table.columns].index(column)]


def evidence(table: Published, row: Row) -> str:
    """`primary` or `secondary`."""
    return row.evidence or table.evidence
