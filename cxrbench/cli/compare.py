"""`cxrbench compare`: two or more runs side by side, with intervals of the difference."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cxrbench.cli import options as opt


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


def _show(result: Mapping[str, Any]) -> None:
    from cxrbench.cli.show import ARROWS, console, figure, interval, rows_of, signed, table, whole

    out = console()
    who = (
        f"{result['clusters']} patients"
        if result["cluster_unit"] == "patient"
        else "no patient ids: samples are the clusters"
    )
    out.print(f"{result['task']} · {result['n']} samples, {who}", style="bold")
    for pair in result["comparisons"]:
        out.print(f"\nbaseline   {Path(pair['baseline']).name}\ncandidate  {Path(pair['candidate']).name}\n")
        heads = ["metric", "baseline", "candidate", "Δ", f"{result['ci_level']:.0%} interval", "p", "p Holm", "MDE"]
        made = table(heads, right=range(1, 8), gap=0)
        for key, body in pair["metrics"].items():
            for name in rows_of(body["values"]):
                value = body["values"][name]
                if value["primary"] or "ci" in value:
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
        for key, body in pair["metrics"].items():
            lost = body["only_baseline"] + body["only_candidate"]
            if lost:
                out.print(f"{key}: {lost} samples scored in one run only are left out of the pair")
    out.print(
        f"\nΔ = candidate - baseline; p from {'patient' if result['cluster_unit'] == 'patient' else 'sample'} swaps; "
        f"p Holm adjusts the {result['tests']} primary tests together;\n"
        "MDE = smallest difference this many samples can show."
    )


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else "<0.001"
