"""`cxrbench reproduce PAPER`: a paper's figures, what must be run for each, and what came out where it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxrbench.cli import options as opt
from cxrbench.cli import verify_model as beside_runs
from cxrbench.errors import Exit

if TYPE_CHECKING:
    from cxrbench.model_verification import Beside
    from cxrbench.papers import Paper
    from cxrbench.report.published import Published


def reproduce(
    paper: Annotated[str | None, typer.Argument(help="A paper's name; without one all are listed.")] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Where to look for runs.")] = beside_runs.RUNS,
    assume: Annotated[
        str | None,
        typer.Option("--assume", help="Take as given: secondary,convention,samples.", show_default=False),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    config: opt.ConfigFile = None,
) -> None:
    """Put a paper's tables beside the runs here, and say what is still to be typed.

    Exit 0: what can be compared agrees; 1: something differs; 3: nothing could be compared yet.

    cxrbench reproduce slava-cxr --assume secondary,convention
    """
    from cxrbench.papers import read_paper

    if paper is None:
        _list()
        return
    known = read_paper(paper)
    found, to_do = _found(known, runs, beside_runs.assumed(assume), config)
    verdicts = [figure.verdict for rows in found.values() for _, each in rows for figure in each.figures]
    if json_output:
        tables = {table: [{"model": m, **asdict(each)} for m, each in rows] for table, rows in found.items()}
        body: dict[str, Any] = {"paper": known.name, "tables": tables, "to_do": to_do, "not_found": known.not_found}
        typer.echo(json.dumps(body, indent=2, ensure_ascii=False))
    else:
        _show(known, found, to_do, verdicts)
    code = Exit.REGRESSION if "differs" in verdicts else Exit.OK if "agrees" in verdicts else Exit.UNDECIDED
    if code:
        raise typer.Exit(code)


def _list() -> None:
    from cxrbench.cli.layout import console, table, whole
    from cxrbench.papers import paper_files, read_paper

    made = table(["paper", "tables", "title"], right=(1,))
    for name in paper_files():
        paper = read_paper(name)
        made.add_row(name, str(len(paper.tables)), f"{paper.title} ({paper.citation})")
    console().print(whole(made))


def _found(
    paper: Paper, runs: Path, assume: Sequence[str], config: Path | None
) -> tuple[dict[str, list[tuple[str, Beside]]], list[str]]:
    """Table -> (model, its row beside the nearest run), and the commands that are still to be typed."""
    from cxrbench.anchors import read_anchors
    from cxrbench.model_verification import commands
    from cxrbench.papers import rows_here

    out: dict[str, list[tuple[str, Beside]]] = {}
    to_do: dict[str, None] = {}
    held: dict[str, list[Beside]] = {}
    here: dict[str, beside_runs.Here] = {}
    for table, rows in rows_here(paper).items():
        out[table] = []
        for model, anchor in rows:
            if model not in held:
                known = read_anchors(model)
                here[model] = beside_runs.look_here(known, opt.load_config(config), {})[0]
                held[model] = beside_runs.beside_all(known, here[model], None, runs, assume)
            out[table] += [(model, each) for each in held[model] if each.anchor == anchor.name]
    for model, each_held in held.items():
        wanted = [each for each in each_held if each.anchor.partition("/")[0] in paper.tables]
        to_do.update(dict.fromkeys(commands(model, wanted, here[model].settings)))
    return out, list(to_do)


def _show(
    paper: Paper, found: dict[str, list[tuple[str, Beside]]], to_do: Sequence[str], verdicts: Sequence[str]
) -> None:
    from cxrbench.report.published import published_table

    typer.echo(f"{paper.title}\n{paper.citation}")
    for name, rows in found.items():
        table = published_table(name)
        typer.echo("")
        beside_runs.wrapped(name, f"{table.title}; beside the task {table.task}; {table.evidence} evidence")
        if not rows:
            _show_alone(table)
        for _, each in rows:
            beside_runs.show_anchor(each)
        others = [
            row.model for row in table.rows if row.model not in {each.anchor.partition("/")[2] for _, each in rows}
        ]
        if rows and others:
            beside_runs.wrapped("  further rows, of no model that is held against them here", ", ".join(others))
    typer.echo("")
    beside_runs.wrapped("not found", paper.not_found)
    for line in to_do:
        typer.echo(f"to do: {line}")
    counts = [f"{verdicts.count(word)} {word}" for word in ("agrees", "differs", "cannot be compared")]
    if verdicts:
        typer.echo(f"{len(verdicts)} figures: {', '.join(counts)}")


def _show_alone(table: Published) -> None:
    """A table none of whose rows a model of ours is held against: its figures, and what keeps them apart."""
    from cxrbench.cli.layout import console, whole
    from cxrbench.cli.layout import table as new_table

    columns = [column.name for column in table.columns]
    made = new_table(["model", *columns, "note"], right=range(1, len(columns) + 1))
    for row in table.rows:
        made.add_row(row.model, *("-" if value is None else f"{value:g}" for value in row.values), row.note)
    console().print(whole(made))
    beside_runs.wrapped("  not compared", table.differs)
    typer.echo(f"  nearest task: cxrbench run --model MODEL --task {table.task}")
