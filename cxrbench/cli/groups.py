"""`cxrbench groups`: one run within subgroups, with gaps and intervals."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError


def groups(
    run: Annotated[str, typer.Argument(help="A scored run folder.", show_default=False)],
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            help="Columns: sex,race,age,view,label,length,verbosity,... By default the task's.",
            show_default=False,
        ),
    ] = None,
    metrics: opt.Metrics = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Gaps against this group, not all others.", show_default=False)
    ] = None,
    fewest: Annotated[
        int | None,
        typer.Option(
            "--min-patients",
            min=1,
            help="Hide cells of fewer patients (the task's number, or 10).",
            show_default=False,
        ),
    ] = None,
    replicates: opt.Replicates = 2000,
    json_output: opt.Json = False,
) -> None:
    """Values, intervals and gaps within subgroups: fairness, robustness, length.

    cxrbench groups RUN --by sex,race,age --metrics label-f1:phantom

    cxrbench groups RUN --by variant --against original     (a task with variants)
    """
    from cxrbench.run_groups import run_groups
    from cxrbench.store import find_run
    from cxrbench.summary import Confidence

    columns = opt.metric_names(by)
    if by is not None and not columns:
        raise CxrbenchError("no column is named", where="--by", fix="--by sex,race,age")
    if 0 < replicates < 100:
        raise CxrbenchError(f"{replicates} replicates cannot carry an interval", where="--replicates", fix="0, or 100")
    keys = opt.metric_names(metrics)
    found = run_groups(
        find_run(run), columns, Confidence(replicates=replicates), metrics=keys, against=against, fewest=fewest
    )
    if json_output:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    from cxrbench.cli.layout import console, many
    from cxrbench.cli.show import clusters_line, clusters_name
    from cxrbench.cli.show_groups import show_groups

    out = console()
    who = f"{many(found['n'], 'sample')}, {clusters_line(found)}"
    out.print(f"{found['model']} on {found['task']} · {who}", style="bold")
    show_groups(out, found, clusters_name(found))
