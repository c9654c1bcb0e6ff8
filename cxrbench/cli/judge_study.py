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
        str | None, typer.Option("--format", help="radpref, rexval, radevalx or table (CSV).", show_default=False)
    ] = None,
    blank: Annotated[
        float | None, typer.Option("--blank", min=0, help="What RadEvalX's empty counts are taken for.")
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
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the sensitivity profile here (SVG).", show_default=False)
    ] = None,
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
    """Hold metrics against radiologists' ratings, or against errors that are planted.

    cxrbench judge-study radpref.json --format radpref --metrics bleu:raw,rouge-l:raw --access open

    cxrbench judge-study --metrics bleu:raw,label-f1,radgraph-f1     (planted errors)
    """
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
    _refuse_unused(data, form, blank, plot)
    with stages() as report:
        if data is None:
            found = planted_study(studies, named, resources, replicates=replicates, seed=seed, progress=report)
        else:
            rated, told = _load(data, form, blank)
            found = study(rated, named, resources, replicates=replicates, seed=seed, progress=report)
            found["notes"] = [*told, *found["notes"]]
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    _write(found, text, out, plot)
    if json_output:
        typer.echo(text, nl=False)
    else:
        _show(found, markdown=markdown, intervals=replicates > 0)
    for key, reason in found["not_scored"].items():
        typer.echo(f"incomplete: {key}: {reason}", err=True)
    for key, count in found["not_judged"].items():
        typer.echo(f"incomplete: {count} reports are not judged yet by {key}; repeat the command", err=True)
    if found["not_scored"] or found["not_judged"]:
        raise typer.Exit(Exit.UNDECIDED)


def _refuse_unused(data: Path | None, form: str | None, blank: float | None, plot: Path | None) -> None:
    """Raise for an option that would do nothing: of a file without one, or of planted errors with one."""
    if data is None and (form is not None or blank is not None):
        flag = "--format" if form is not None else "--blank"
        raise CxrbenchError(f"{flag} is of a file", where=flag, fix="name the file")
    if data is not None and plot is not None:
        raise CxrbenchError("--plot draws planted errors, not ratings", where="--plot", fix="leave the file out")


def _write(found: Mapping[str, Any], text: str, out: Path | None, plot: Path | None) -> None:
    from cxrbench.atomic import write_atomic

    if out is not None:
        write_atomic(out, text.encode())
    if plot is not None:
        from cxrbench.report.sensitivity import draw

        write_atomic(plot, draw(found).encode())


def _load(data: Path, form: str | None, blank: float | None) -> tuple[list[Any], list[str]]:
    from cxrbench.judge_study_data import FORMATS, read

    if form not in FORMATS:
        raise CxrbenchError(
            f"{form!r} is no format" if form else "the format of the ratings is not named",
            where="--format",
            fix=f"one of: {', '.join(FORMATS)}",
        )
    return read(form, data, blank)


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None or found.get("value") is None:
        return "-"
    ci = found.get("ci")
    return f"{found['value']:.3f}" + (f"\n[{ci[0]:.3f}, {ci[1]:.3f}]" if ci else "")


def _show(found: Mapping[str, Any], *, markdown: bool, intervals: bool) -> None:
    how = f"intervals {found['ci_level']:.0%}, cases resampled" if intervals else "no intervals"
    typer.echo(f"{found['n']} reports of {found['cases']} cases; {how}")
    from cxrbench.cli.layout import console, wrapped

    for note in found["notes"]:
        typer.echo("\n".join(wrapped(note, console().width, "  ")))
    if "profile" in found:
        typer.echo("\nLoss by planted change (positive: the metric calls it worse; share of reports moved)")
        typer.echo(profile_table(found, markdown=markdown), nl=False)
    typer.echo("\nAgreement (1 is perfect, whichever way either side runs)")
    rows = [
        [_lines(key), target, str(each["n"]), *(_cell(each.get(name)) for name in ("tau_b", "pearson", "ranking"))]
        for key, body in found["metrics"].items()
        for target, each in body["targets"].items()
    ]
    heads = ["metric", "against", "n", "Kendall tau-b", "Pearson r", "ranking accuracy"]
    typer.echo(_table(heads, rows, markdown=markdown, gap=0), nl=False)
    if found.get("per_category"):
        typer.echo("\nper category: kind against the same kind (the judge's count, people's count)")
        typer.echo(_categories(found["per_category"], markdown=markdown), nl=False)


def _categories(found: Mapping[str, Mapping[str, Any]], *, markdown: bool) -> str:
    """A row per judge and kind: mean counts per report of both, and how far they go together."""
    rows = [
        [key if number == 0 or markdown else "", target.removeprefix("errors:"), str(each["n"]),
         *("-" if each[name] is None else f"{each[name]:.2f}" for name in ("judge_mean", "human_mean")),
         *(_cell(each.get(name)) for name in ("tau_b", "pearson"))]
        for key, kinds in found.items()
        for number, (target, each) in enumerate(kinds.items())
    ]  # fmt: skip
    heads = ["metric", "kind", "n", "judge\nmean", "human\nmean", "Kendall tau-b", "Pearson r"]
    return _table(heads, rows, markdown=markdown, gap=2)


def profile_table(found: Mapping[str, Any], *, markdown: bool) -> str:
    """The losses of `planted_study` as a table; docs/judges.md has it in Markdown (tools/judge_profile.py)."""
    heads = ["metric", *(_lines(kind) for kind in found["kinds"])]
    rows = [[_lines(key), *(_loss(kinds[kind]) for kind in found["kinds"])] for key, kinds in found["profile"].items()]
    return _table(heads, rows, markdown=markdown, gap=1)


def _lines(name: str) -> str:
    """A metric and its value, or a change of two words, one above the other: eight columns fit into 100."""
    return name.replace(" ", "\n", 1)


def _loss(found: Mapping[str, Any]) -> str:
    return "-" if found["loss"] is None else f"{found['loss']:+.3f}\n({found['moved']:.0%})"


def _table(heads: list[str], rows: list[list[str]], *, markdown: bool, gap: int) -> str:
    if markdown:
        lines = (" | ".join(row).replace("\n", " ") for row in (heads, ["---"] * len(heads), *rows))
        return "".join(f"| {line} |\n" for line in lines)
    from cxrbench.cli.layout import console, table, whole

    made = table(heads, right=range(1, len(heads)), gap=gap)
    for row in rows:
        made.add_row(*row)
    screen = console()
    with screen.capture() as captured:
        screen.print(whole(made), soft_wrap=True)
    return captured.get()
