"""`cxrbench groups`: one run within subgroups, with gaps and intervals."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError


def groups(
    run: Annotated[str, typer.Argument(help="A scored run folder.", show_default=False)],
    by: Annotated[
        str, typer.Option("--by", help="Columns: sex,race,age,view,label,length,variant,...", show_default=False)
    ],
    metrics: opt.Metrics = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Gaps against this group, not all others.", show_default=False)
    ] = None,
    fewest: Annotated[int, typer.Option("--min-patients", min=1, help="Hide cells of fewer patients.")] = 10,
    replicates: opt.Replicates = 2000,
    json_output: opt.Json = False,
) -> None:
    """Values, intervals and gaps of subgroups: fairness, robustness (--by variant --against original), length.

    Example: cxrbench groups RUN --by sex,race,age --metrics label-f1:phantom
    """
    from cxrbench.run_groups import run_groups
    from cxrbench.store import find_run
    from cxrbench.summary import Confidence

    columns = opt.metric_names(by)
    if not columns:
        raise CxrbenchError("no column is named", where="--by", fix="--by sex,race,age")
    if 0 < replicates < 100:
        raise CxrbenchError(f"{replicates} replicates cannot carry an interval", where="--replicates", fix="0, or 100")
    keys = [_key(name) for name in opt.metric_names(metrics)]
    found = run_groups(
        find_run(run), columns, Confidence(replicates=replicates), metrics=keys, against=against, fewest=fewest
    )
    if json_output:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    _show(found)


def _key(name: str) -> str:
    from cxrbench.scoring import make_metric

    return make_metric(name).key


def _show(found: dict[str, Any]) -> None:
    from cxrbench.cli.show import ARROWS, console, figure, interval, many, signed, table, whole

    out = console()
    who = f"{many(found['n'], 'sample')} of {many(found['clusters'], 'patient')}"
    out.print(f"{found['model']} on {found['task']} · {who}", style="bold")
    level = f"{found['ci_level']:.0%} interval"
    for column, by_metric in found["groups"].items():
        for key, values in by_metric.items():
            for name, body in values.items():
                out.print(f"\n{key} {name} {ARROWS[body['higher_is_better']]} by {column}", style="bold")
                made = table([column, "n", "patients", "value", level, "gap", level], right=range(1, 7), gap=1)
                for group, cell in body["groups"].items():
                    if cell["hidden"]:
                        made.add_row(group, "hidden", *[""] * 5)
                        continue
                    made.add_row(
                        group, str(cell["n"]), str(cell["clusters"]), figure(cell["value"]), interval(cell["ci"]),
                        signed(cell["gap"]), interval(cell["gap_ci"]),
                    )  # fmt: skip
                out.print(whole(made))
                if body["spread"] is not None:
                    out.print(f"largest minus smallest group: {figure(body['spread'])}")
    other = "all other samples" if found["against"] is None else f"the group {found['against']}"
    out.print(f"\ngap = the group minus {other}; percentile intervals over patients, not adjusted for their number")
    if any(
        c["hidden"]
        for m in found["groups"].values()
        for v in m.values()
        for b in v.values()
        for c in b["groups"].values()
    ):
        out.print(f"hidden: fewer than {found['fewest']} patients, or what would tell of such a cell")
