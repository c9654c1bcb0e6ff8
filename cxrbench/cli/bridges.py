"""`cxrbench lm-eval`, `cxrbench export` and `cxrbench import`: to other people's systems and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxrbench.errors import CxrbenchError

export = typer.Typer(help="Tasks and runs for other systems.", no_args_is_help=True)
bring = typer.Typer(help="Other systems' outputs as predictions files.", no_args_is_help=True)

LM_EVAL = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""How `lm-eval` is declared: every word is lm-eval's own, `--help` too."""


def _need(package: str, extra: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise CxrbenchError(f"{package} is not installed", fix=f"pip install 'cxrbench[{extra}]'")


def lm_eval(context: typer.Context) -> None:
    """Run lm-eval with cxrbench's models and tasks known to it. All options are lm-eval's.

    Example: cxrbench lm-eval run --model cxrbench --model_args model=demo --tasks cxrbench_demo-findings
    """
    _need("lm_eval", "lm-eval")
    from cxrbench.bridges.lm_eval_export import launch

    launch(context.args)


@export.command("lm-eval")
def export_lm_eval(
    folder: Annotated[Path, typer.Argument(help="Where the task folder goes.", show_default=False)],
    task: Annotated[list[str], typer.Option("--task", "-t", help="Task; may be repeated.", show_default=False)],
    images: Annotated[str, typer.Option("--images", help="key (one image) or all.")] = "key",
    values: Annotated[str, typer.Option("--values", help="primary numbers of each metric, or all.")] = "primary",
    max_side: Annotated[
        int | None, typer.Option("--max-side", min=32, help="Reduce images to so many pixels.", show_default=False)
    ] = None,
) -> None:
    """Write tasks as lm-eval reads them. Then: `lm_eval --include_path FOLDER --tasks cxrbench_NAME`."""
    for option, value, known in (("--images", images, ("key", "all")), ("--values", values, ("primary", "all"))):
        if value not in known:
            raise CxrbenchError(f"{option} cannot be {value!r}", fix=f"one of: {', '.join(known)}")
    from cxrbench.bridges.lm_eval_export import export_task
    from cxrbench.bridges.lm_eval_task import TaskView

    for name in task:
        view = TaskView.find(name, images=images, values=values, max_side=max_side)
        for file in export_task(view, folder):
            typer.echo(str(file))


@bring.command("lm-eval")
def import_lm_eval(
    log: Annotated[Path, typer.Argument(help="samples_*.jsonl of lm-eval.", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="Predictions file to write.", show_default=False)],
    id_key: Annotated[
        str | None, typer.Option("--id-key", help="Key of the document that is the sample's id.", show_default=False)
    ] = None,
) -> None:
    """Make a predictions file of lm-eval's sample log. `run --model replay:FILE` then makes it a run."""
    from cxrbench.bridges.lm_eval_export import import_log

    rows, left = import_log(log, out, id_key)
    without = f", {left} without an answer left out" if left else ""
    typer.echo(f"{rows} predictions{without}: {out}\nnext: cxrbench run --model replay:{out} --task TASK")


@export.command("run")
def export_run(
    run: Annotated[str, typer.Argument(help="A run folder.", show_default=False)],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="FILE.csv, FILE.parquet, or a folder for datasets.", show_default=False)
    ],
) -> None:
    """Write a run as a table: a row per sample with its texts, outcome, counts, numbers."""
    from cxrbench.bridges.run_tables import write_table
    from cxrbench.store import find_run

    kind = {".csv": "csv", ".parquet": "parquet", "": "datasets"}.get(out.suffix.lower())
    if kind is None:
        raise CxrbenchError(
            f"the form is told from the ending, and {out.suffix!r} is none", where=f"-o {out}",
            fix="FILE.csv, FILE.parquet, or a folder's name",
        )  # fmt: skip
    if kind == "datasets":
        _need("datasets", "evaluate")
    rows = write_table(find_run(run), out, kind)
    typer.echo(f"{rows} rows: {out}")


@export.command("rexrank")
def export_rexrank(
    run: Annotated[str, typer.Argument(help="A run folder.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="Submission file to write.", show_default=False)],
    records: Annotated[
        Path | None,
        typer.Option(
            "--records", help="ReXrank's own input file, whose records are kept.", exists=True, dir_okay=False
        ),
    ] = None,
) -> None:
    """Write a run as ReXrank's submission JSON."""
    from cxrbench.bridges import run_tables
    from cxrbench.store import find_run

    given, left, other = run_tables.export_rexrank(find_run(run), out, records)
    typer.echo(f"{given} studies with a prediction, {left} without: {out}")
    if other:
        typer.echo(f"left out: {other} predictions of studies that {records} does not hold")


@bring.command("rexrank")
def import_rexrank(
    file: Annotated[Path, typer.Argument(help="A submission: study id -> record.", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="Predictions file to write.", show_default=False)],
    reference: Annotated[
        str | None,
        typer.Option("--reference", help="Take the reference along: findings, impression, report.", show_default=False),
    ] = None,
) -> None:
    """Make a predictions file of ReXrank's submission JSON. `run --model replay:FILE` then makes it a run."""
    from cxrbench.bridges import run_tables

    if reference is not None and reference not in run_tables.TEXTS:
        raise CxrbenchError(f"--reference cannot be {reference!r}", fix=f"one of: {', '.join(run_tables.TEXTS)}")
    rows, left, bare = run_tables.import_rexrank(file, out, reference)
    typer.echo(f"{rows} predictions, {left} records without one: {out}")
    if bare:
        typer.echo(f"left out: {bare} predictions whose record has no {reference} to be compared with")
    typer.echo(f"next: cxrbench run --model replay:{out} --task TASK")
