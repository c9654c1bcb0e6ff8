"""`cxrbench compare`: two or more runs side by side, with intervals of the difference."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cxrbench.cli import options as opt
from cxrbench.errors import Exit


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; the first is the baseline.")],
    metrics: opt.Metrics = None,
    replicates: Annotated[int, typer.Option("--replicates", min=100, help="Bootstrap replicates and swaps.")] = 10_000,
    json_output: opt.Json = False,
) -> None:
    """Compare runs of one task, paired by sample, clustered by patient.

    cxrbench compare runs/demo-findings/always-normal-* runs/demo-findings/nearest-image-*
    """
    from cxrbench.compare import compare as compare_runs
    from cxrbench.store import find_run
    from cxrbench.summary import Confidence

    found = [find_run(str(path)) for path in runs]
    result = compare_runs(found, opt.metric_names(metrics), Confidence(replicates=replicates))
    if json_output:
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        _show(result)
    if result["missing"]:
        typer.echo(f"incomplete: required by the task, not compared: {', '.join(result['missing'])}", err=True)
        raise typer.Exit(Exit.UNDECIDED)


def _show(result: Mapping[str, Any]) -> None:
    from cxrbench.cli.show import (
        ARROWS,
        clusters_line,
        console,
        counted,
        figure,
        interval,
        many,
        signed,
        table,
        whole,
    )

    out = console()
    compared = f"{result['n']} of {result['n_expected']} samples compared"
    out.print(f"{result['task']} · {compared}, {clusters_line(result)}", style="bold")
    for pair in result["comparisons"]:
        out.print()
        for side in ("baseline", "candidate"):
            out.print(f"{side:<10} {Path(pair[side]).name}")
            for line in counted({"excluded": {}, **pair["runs"][side]}):
                out.print(f"{'':<10}   {line}")
        out.print()
        heads = ["metric", "baseline", "candidate", "Δ", f"{result['ci_level']:.0%} interval", "p", "p Holm", "MDE"]
        made = table(heads, right=range(1, 8), gap=0)
        for key, body in pair["metrics"].items():
            for name in rows_of_primary(body["values"]):
                value = body["values"][name]
                made.add_row(
                    f"{key} {name} {ARROWS[value['higher_is_better']]}",
                    figure(value["baseline"]),
                    figure(value["candidate"]),
                    signed(value["difference"]),
                    interval(value.get("ci")),
                    _p(value.get("p")),
                    _p(value.get("p_holm")),
                    figure(value.get("mde")),
                )
        out.print(whole(made, names=False))
        if pair["left_out"]:
            out.print(f"scored in one run only, so not compared: {', '.join(pair['left_out'])}")
        for line in _cautions(pair["metrics"]):
            out.print(line)
        for key, body in pair["metrics"].items():
            lost = body["only_baseline"] + body["only_candidate"]
            if lost:
                out.print(f"{key}: {lost} samples scored in one run only are left out of the pair")
    out.print(
        f"\nΔ = candidate - baseline; p from {'patient' if result['cluster_unit'] == 'patient' else 'sample'} swaps; "
        f"p Holm adjusts the {many(result['tests'], 'primary test')} together;\n"
        "MDE = smallest difference this many samples can show."
    )


def _cautions(metrics: Mapping[str, Any]) -> list[str]:
    """What a reader must know of an interval or of a detectable difference, once per note."""
    noted: dict[str, list[str]] = {}
    for key, body in metrics.items():
        for name in rows_of_primary(body["values"]):
            for what, note in body["values"][name].get("notes", {}).items():
                noted.setdefault(f"{what}: {note}", []).append(f"{key} {name}")
    total = sum(len(rows_of_primary(body["values"])) for body in metrics.values())
    return [f"{note} ({'all' if len(where) == total else ', '.join(where)})" for note, where in noted.items()]


def rows_of_primary(values: Mapping[str, Any]) -> list[str]:
    """Names of the values that have a row in the table."""
    from cxrbench.cli.show import rows_of

    return [name for name in rows_of(values) if values[name]["primary"] or "ci" in values[name]]


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else "<0.001"
