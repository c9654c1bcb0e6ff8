"""`cxrbench judge-study`: metrics and judges against what people said, or against errors that were planted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cxrbench.cli import judging
from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError, Exit


def judge_study(
    data: Annotated[
        Path | None, typer.Argument(help="File or folder of ratings; none: planted errors.", show_default=False)
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="radpref, rexval or table (CSV).", show_default=False)
    ] = None,
    metrics: opt.Metrics = None,
    studies: Annotated[int, typer.Option("--studies", min=5, help="Phantom studies to plant errors into.")] = 100,
    seed: opt.Seed = 0,
    replicates: opt.Replicates = 1000,
    access: Annotated[str, typer.Option("--access", help="open, or credentialed: what the ratings count as.")] = (
        "credentialed"
    ),
    device: Annotated[str, typer.Option("--device", help="Of annotators: auto, cpu, cuda, cuda:N.")] = "auto",
    precision: opt.Precision = "fp32",
    out: Annotated[Path | None, typer.Option("--out", help="Write the JSON here too.", show_default=False)] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print tables in Markdown.")] = False,
    json_output: opt.Json = False,
    judge: judging.JudgeName = None,
    judge_url: judging.JudgeUrl = None,
    judge_repeats: judging.JudgeRepeats = 1,
    judge_set: judging.JudgeSet = None,
    rubric: judging.Rubrics = None,
    max_requests: judging.MaxRequests = None,
    max_cost: judging.MaxCost = None,
    config: opt.ConfigFile = None,
) -> None:
    """Does a metric agree with radiologists? Examples:

    cxrbench judge-study radpref.json --format radpref --metrics bleu:raw,rouge-l:raw --access open

    cxrbench judge-study --metrics bleu:raw,label-f1,radgraph-f1            (planted errors, a sensitivity profile)
    """  # noqa: D415  (examples follow)
    from cxrbench.cli.progress import stages
    from cxrbench.judge_study import planted_study, study

    named = opt.metric_names(metrics)
    if not named:
        raise CxrbenchError("no metric is named", where="--metrics", fix="--metrics bleu:raw,rouge-l:raw,...")
    if access not in ("open", "credentialed"):
        raise CxrbenchError(f"--access cannot be {access!r}", fix="open or credentialed")
    opt.check_scoring(named, replicates)
    wish = judging.wish_of(judge, judge_url, judge_repeats, rubric, max_requests, max_cost, judge_set)
    # Planted errors stand in phantom reports, which are nobody's.
    of: Any = access if data is not None else "open"
    resources = judging.with_judge(opt.resources(config, device, precision), wish, of)
    with stages() as report:
        if data is None:
            if form is not None:
                raise CxrbenchError("--format is of a file", where=f"--format {form}", fix="name the file")
            found = planted_study(studies, named, resources, replicates=replicates, seed=seed, progress=report)
        else:
            rated = _load(data, form)
            found = study(rated, named, resources, replicates=replicates, seed=seed, progress=report)
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    if out is not None:
        from cxrbench.atomic import write_atomic

        write_atomic(out, text.encode())
    if json_output:
        typer.echo(text, nl=False)
    else:
        _show(found, markdown=markdown)
    for key, reason in found["not_scored"].items():
        typer.echo(f"incomplete: {key}: {reason}", err=True)
    if found["not_scored"]:
        raise typer.Exit(Exit.UNDECIDED)


def _load(data: Path, form: str | None) -> list[Any]:
    from cxrbench.judge_study_data import LOADERS

    if form not in LOADERS:
        raise CxrbenchError(
            f"{form!r} is no format" if form else "the format of the ratings is not named",
            where="--format",
            fix=f"one of: {', '.join(LOADERS)}",
        )
    return LOADERS[form](data)


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None or found.get("value") is None:
        return "-"
    ci = found.get("ci")
    return f"{found['value']:.3f}" + (f" [{ci[0]:.3f}, {ci[1]:.3f}]" if ci else "")


def _show(found: Mapping[str, Any], *, markdown: bool) -> None:
    typer.echo(f"{found['n']} reports of {found['cases']} cases; intervals {found['ci_level']:.0%}, cases resampled")
    for note in found["notes"]:
        typer.echo(f"  {note}")
    if "profile" in found:
        typer.echo("\nLoss by planted change (positive: the metric calls it worse; share of reports moved)")
        heads = ["metric", *found["kinds"]]
        losses = [[key, *(_loss(kinds[kind]) for kind in found["kinds"])] for key, kinds in found["profile"].items()]
        _table(heads, losses, markdown=markdown)
    typer.echo("\nAgreement (1 is perfect, whichever way either side runs)")
    rows = [
        [key, target, str(each["n"]), *(_cell(each.get(name)) for name in ("tau_b", "pearson", "ranking"))]
        for key, body in found["metrics"].items()
        for target, each in body["targets"].items()
    ]
    _table(["metric", "against", "n", "Kendall tau-b", "Pearson r", "ranking accuracy"], rows, markdown=markdown)


def _loss(found: Mapping[str, Any]) -> str:
    return "-" if found["loss"] is None else f"{found['loss']:+.3f} ({found['moved']:.0%})"


def _table(heads: list[str], rows: list[list[str]], *, markdown: bool) -> None:
    if markdown:
        for row in (heads, ["---"] * len(heads), *rows):
            typer.echo(f"| {' | '.join(row)} |")
        return
    from cxrbench.cli.show import console, table, whole

    made = table(heads, right=range(1, len(heads)))
    for row in rows:
        made.add_row(*row)
    console().print(whole(made), soft_wrap=True)
