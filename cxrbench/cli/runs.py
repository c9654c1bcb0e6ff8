"""`cxrbench runs`: what was run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError

if TYPE_CHECKING:
    from cxrbench.store import RunFolder

app = typer.Typer(help="What was run: list, show.", no_args_is_help=True, rich_markup_mode=None)

INDENT = "    "
"""Before what is said of a run, below its path."""


@app.command("list")
def list_all(
    root: Annotated[Path, typer.Argument(help="Folder to look under.")] = Path("runs"),
    json_output: Annotated[bool, typer.Option("--json", help="Print a list of objects, values unrounded.")] = False,
) -> None:
    """List the runs under a folder: how far each is, its first scores. By the path that score and compare take."""
    from cxrbench.cli.layout import console
    from cxrbench.store import list_runs

    if not root.is_dir() and root != Path("runs"):
        raise CxrbenchError("there is no such folder", where=str(root))
    found = list_runs(root)
    if json_output:
        typer.echo(json.dumps([{"run": _shortest(run.path), **_entry(run)} for run in found], indent=2))
        return
    if not found:
        typer.echo(f"no runs under {root}")
        return
    for run in found:
        typer.echo(_shortest(run.path))
        for line in _lines(_entry(run), console().width - len(INDENT)):
            typer.echo(f"{INDENT}{line}")


def _shortest(path: Path) -> str:
    """The path as one would type it here: relative where it lies below the working directory."""
    here, there = Path.cwd(), path.absolute()
    return os.path.relpath(there, here) if here in there.parents or here == there else str(there)


def _entry(run: RunFolder) -> dict[str, Any]:
    """Task, model, how many samples are answered and scored, primary scores, distinct reports; or the damage.

    `scored` is the number of the metric that scored fewest, `scored_by` that of each.
    """
    from cxrbench.scores import read_summary
    from cxrbench.summary import scored_of

    try:
        manifest = run.manifest()
        identity = manifest.identity
        entry: dict[str, Any] = {
            "task": identity["task"]["name"],
            "model": identity["model"].get("name", ""),
            "limit": identity["limit"],
            "answered": len(run.answered_ids()),
            "n_expected": manifest.n_expected,
            "scored": None,
        }
        if (run.path / "summary.json").exists():
            summary = read_summary(run)
            entry |= {key: summary.get(key) for key in ("distinct", "kind")}
            counts = scored_of(summary)
            entry |= {"scored": min(counts.values(), default=0), "scored_by": counts, "primary": _primary(summary)}
        return entry
    except CxrbenchError as error:  # one damaged run does not hide the others
        return {"error": f"{error.what}: {error.where}"}
    except (KeyError, TypeError, AttributeError, OSError) as error:
        return {"error": f"the manifest or the summary is damaged ({type(error).__name__})"}


def _primary(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """`metric value-name` -> value of the primary scores, the task's own first, so that runs can be compared."""
    return {
        f"{key} {name}": entry["value"]
        for key in dict.fromkeys([*summary["required"], *summary["metrics"]])
        for name, entry in summary["metrics"].get(key, {}).items()
        if entry["primary"]
    }


def _lines(entry: Mapping[str, Any], width: int) -> list[str]:
    """What `_entry` found: how far the run is, and below it the first scores."""
    from cxrbench.cli.layout import figure, flowing, wrapped
    from cxrbench.cli.show import distinct_line, scored_line

    if "error" in entry:
        return wrapped(entry["error"], width)
    total = entry["n_expected"]
    head = [entry["task"], f"{entry['answered']}/{total} answered"]
    head[-1] += f" (--limit {entry['limit']})" if entry["limit"] is not None else ""
    if entry["scored"] is None:
        return wrapped("  ".join([*head, "not scored"]), width)
    head += [f"scored {scored_line(entry['scored_by'].values(), total)}", distinct_line(entry).partition(",")[0]]
    scores = [f"{name} {figure(value)}" for name, value in list(entry["primary"].items())[:3]]
    return wrapped("  ".join(head).rstrip(), width) + (flowing("scores:", scores, width) if scores else [])


@app.command("show")
def show(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    json_output: opt.Json = False,
) -> None:
    """Show a run: what it is, on what it was made, and its scores when it has any."""
    from cxrbench.cli.layout import console, table
    from cxrbench.cli.show import show_speed, show_summary
    from cxrbench.score_run import speed_summary
    from cxrbench.scores import is_dummy, read_summary
    from cxrbench.store import find_run

    folder = find_run(str(run))
    manifest = folder.manifest()
    scored = (folder.path / "summary.json").exists()
    if json_output:
        body = {"identity": manifest.identity, "circumstances": list(manifest.circumstances)}
        summary = speed_summary(folder) if is_dummy(manifest) else read_summary(folder) if scored else None
        typer.echo(json.dumps({**body, "summary": summary}, indent=2))
        return
    made = table(["identity", ""])
    for key, value in _flat(dict(manifest.identity)):
        made.add_row(key, value)
    console().print(made)
    for number, segment in enumerate(manifest.circumstances, start=1):
        device = segment.get("device", "cpu")
        typer.echo(f"part {number}: {segment.get('started', '')} on {device}, {segment.get('cpus')} processors")
    typer.echo("")
    if is_dummy(manifest):
        show_speed(speed_summary(folder))
    elif scored:
        show_summary(read_summary(folder))
    else:
        typer.echo(f"{len(folder.answered_ids())} of {manifest.n_expected} samples answered, not scored")


def _flat(body: dict[str, object], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in body.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        elif value is not None:
            rows.append((f"{prefix}{key}", str(value)))
    return rows
