"""`cxrbench runs`: what was run."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError, Exit

if TYPE_CHECKING:
    from cxrbench.store import RunFolder

app = typer.Typer(help="What was run: list, show.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_all(
    root: Annotated[Path, typer.Argument(help="Folder to look under.")] = Path("runs"),
) -> None:
    """List the runs under a folder, each by the path that score and compare take: how far it is, its first scores."""
    from cxrbench.store import list_runs

    if not root.is_dir() and root != Path("runs"):
        raise CxrbenchError("there is no such folder", where=str(root))
    found = list_runs(root)
    if not found:
        typer.echo(f"no runs under {root}")
        return
    for run in found:
        typer.echo(_shortest(run.path))
        typer.echo(f"    {_line(run)}")


def _shortest(path: Path) -> str:
    """The path as one would type it here: relative where it lies below the working directory."""
    here, there = Path.cwd(), path.absolute()
    return os.path.relpath(there, here) if here in there.parents or here == there else str(there)


def _line(run: RunFolder) -> str:
    """Task, how many samples are answered and scored, the first primary scores, distinct reports; or the damage."""
    from cxrbench.cli.show import distinct_line, figure
    from cxrbench.score_run import read_summary

    try:
        manifest = run.manifest()
        limit = manifest.identity["limit"]
        head = f"{manifest.identity['task']['name']}  {answered(run)}/{manifest.n_expected} answered"
        head += f" (--limit {limit})" if limit is not None else ""
        if not (run.path / "summary.json").exists():
            return f"{head}  not scored"
        summary = read_summary(run)
        order = [*summary["required"], *summary["metrics"]]  # the task's own first, so that rows can be compared
        primary = [
            f"{key} {name} {figure(entry['value'])}"
            for key in dict.fromkeys(order)
            for name, entry in summary["metrics"].get(key, {}).items()
            if entry["primary"]
        ]
        scored = f"scored {summary['n']} of {summary['n_expected']}"
        return "  ".join([head, scored, ", ".join(primary[:3]), distinct_line(summary).partition(",")[0]]).rstrip()
    except CxrbenchError as error:  # one damaged run does not hide the others
        return f"{error.what}: {error.where}"
    except (KeyError, TypeError, AttributeError, OSError) as error:
        return f"the manifest or the summary is damaged ({type(error).__name__})"


_SAMPLE = re.compile(rb'\{"sample_id": ("(?:[^"\\]|\\.)*")')


def answered(run: RunFolder) -> int:
    """How many samples have a row. Only the id at the start of each complete row is looked at.

    Raises:
        CxrbenchError: a row does not begin as cxrbench writes it.
    """
    seen: set[bytes] = set()
    for file in sorted((run.path / "predictions").glob("*.jsonl")):
        with file.open("rb") as handle:
            for number, line in enumerate(handle, start=1):
                match = _SAMPLE.match(line)
                if not line.endswith(b"\n"):
                    break
                if match is None:
                    raise CxrbenchError("a row is damaged", where=f"{file}, line {number}", code=Exit.INFRASTRUCTURE)
                seen.add(match[1])
    return len(seen)


@app.command("show")
def show(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    json_output: opt.Json = False,
) -> None:
    """Show a run: what it is, on what it was made, and its scores when it has any."""
    from cxrbench.cli.show import console, show_speed, show_summary, table
    from cxrbench.score_run import is_dummy, read_summary, speed_summary
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
        typer.echo(f"{answered(folder)} of {manifest.n_expected} samples answered, not scored")


def _flat(body: dict[str, object], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in body.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        elif value is not None:
            rows.append((f"{prefix}{key}", str(value)))
    return rows
