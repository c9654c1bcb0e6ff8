"""baselines/papers/NAME.yaml: the published tables of a paper, and what of it nobody here could read. No torch."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from cxrbench.anchors import Anchor, anchor_files, read_anchors
from cxrbench.errors import CxrbenchError, suggest
from cxrbench.report.published import published_table
from cxrbench.shipped import shipped
from cxrbench.yaml_file import read_yaml


class Paper(BaseModel):
    """A paper: its tables are those of baselines/published/, `not_found` is what stands in none of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    citation: str
    tables: tuple[str, ...] = Field(min_length=1)
    not_found: str


def paper_files() -> dict[str, Path]:
    """The papers that travel with cxrbench, by name."""
    return {file.stem: file for file in sorted((shipped("baselines") / "papers").glob("*.yaml"))}


def read_paper(name: str) -> Paper:
    """The paper called `name`.

    Raises:
        CxrbenchError: there is none, its file is wrong, or it names a table that is not there.
    """
    files = paper_files()
    if name not in files:
        raise CxrbenchError(
            f"nothing is kept of a paper called {name!r}{suggest(name, files)}",
            where=f"cxrbench reproduce {name}",
            fix=f"one of: {', '.join(files)}",
        )
    found = read_yaml(files[name], Paper, "what is kept of a paper", "baselines/README.md explains the keys")
    for table in found.tables:
        published_table(table)
    return found


def rows_here(paper: Paper) -> dict[str, list[tuple[str, Anchor]]]:
    """Table -> (model of ours, its anchor) for every row of the paper that a model of ours is held against."""
    found: dict[str, list[tuple[str, Anchor]]] = {table: [] for table in paper.tables}
    for model in anchor_files():
        for anchor in read_anchors(model).anchors:
            if anchor.table in found:
                found[anchor.table].append((model, anchor))
    return found
