"""`cxrbench compare`: two or more runs side by side, with intervals of the difference."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxrbench.cli import judging
from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError, Exit

if TYPE_CHECKING:
    from cxrbench.compare import Paired
    from cxrbench.judges.engine import Judge
    from cxrbench.summary import Confidence
    from cxrbench.types import Access


def compare(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders; the first is the baseline.", show_default=False)
    ] = None,
    metrics: opt.Metrics = None,
    by: Annotated[
        str | None,
        typer.Option("--by", help="Subgroups: sex,race,age,view,label,length,... (columns).", show_default=False),
    ] = None,
    fewest: Annotated[
        int | None,
        typer.Option(
            "--min-patients",
            min=1,
            help="With --by: hide cells of fewer patients (the task's number, or 10).",
            show_default=False,
        ),
    ] = None,
    moved: Annotated[int, typer.Option("--moved", min=0, help="Show so many samples that lost and gained most.")] = 0,
    suite: Annotated[
        Path | None, typer.Option("--suite", help="Several tasks at once: a YAML file.", show_default=False)
    ] = None,
    replicates: Annotated[int, typer.Option("--replicates", min=100, help="Bootstrap replicates and swaps.")] = 10_000,
    json_output: opt.Json = False,
    judge: judging.JudgeName = None,
    judge_url: judging.JudgeUrl = None,
    judge_repeats: judging.JudgeRepeats = 1,
    judge_set: judging.JudgeSet = None,
    rubric: judging.Rubrics = None,
    max_requests: judging.MaxRequests = None,
    max_cost: judging.MaxCost = None,
    device: Annotated[str, typer.Option("--device", help="Of a local judge: auto, cpu, cuda, cuda:N.")] = "auto",
    config: opt.ConfigFile = None,
) -> None:
    """Compare runs of one task, paired by sample, clustered by patient. Several tasks at once: --suite.

    cxrbench compare runs/demo-findings/always-normal-* runs/demo-findings/nearest-image-*

    cxrbench compare RUN RUN --judge local:DIR     (which report is better)
    """
    from cxrbench.summary import Confidence

    confidence = Confidence(replicates=replicates)
    wish = judging.wish_of(judge, judge_url, judge_repeats, rubric, max_requests, max_cost, judge_set)
    if suite is not None:
        _refuse_beside_suite(runs, metrics, by, moved, judge)
        _compare_suite(suite, confidence, json_output)
        return
    from cxrbench.compare import compare as compare_runs
    from cxrbench.store import find_run

    found = [find_run(str(path)) for path in runs or ()]
    access: Access = "open" if all(run.manifest().access == "open" for run in found) else "credentialed"
    judged = judging.judge_of(wish, access, opt.resources(config, device, "fp32")) if wish is not None else None
    result = compare_runs(found, opt.metric_names(metrics), confidence, _further(by, fewest, moved, confidence, judged))
    if json_output:
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        from cxrbench.cli.show_compare import show_comparison

        show_comparison(result)
    failed = sum(pair.get("pairwise", {}).get("failed", 0) for pair in result["comparisons"])
    if failed:
        typer.echo(f"incomplete: {failed} pairs of reports are not judged yet; repeat the command", err=True)
    if result["missing"]:
        typer.echo(f"incomplete: required by the task, not compared: {', '.join(result['missing'])}", err=True)
    if failed or result["missing"]:
        raise typer.Exit(Exit.UNDECIDED)


def _refuse_beside_suite(
    runs: list[Path] | None, metrics: str | None, by: str | None, moved: int, judge: str | None
) -> None:
    """A suite names its runs and metrics itself."""
    options = (("RUN", runs), ("--metrics", metrics), ("--by", by), ("--moved", moved), ("--judge", judge))
    given = [name for name, value in options if value]
    if given:
        raise CxrbenchError(
            f"{' and '.join(given)} cannot stand beside --suite",
            where="the command line",
            fix="the suite file names runs and metrics; subgroups are shown for one pair of runs",
        )


def _compare_suite(file: Path, confidence: Confidence, json_output: bool) -> None:
    from cxrbench.cli.show_compare import show_suite
    from cxrbench.compare_suite import compare_suite

    result = compare_suite(file, confidence)
    if json_output:
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        show_suite(result)
    if result["missing"]:
        typer.echo(f"incomplete: not scored in both runs: {', '.join(result['missing'])}", err=True)
        raise typer.Exit(Exit.UNDECIDED)


def _further(
    by: str | None, fewest: int | None, count: int, confidence: Confidence, judge: Judge | None
) -> Callable[[Paired], dict[str, Any]]:
    """What is added to each comparison, as far as asked for: subgroups, samples that moved, a judge's verdict."""
    from cxrbench.compare_groups import compare_groups
    from cxrbench.compare_judged import judged
    from cxrbench.compare_moved import moved

    columns = opt.metric_names(by)

    def add(paired: Paired) -> dict[str, Any]:
        groups = compare_groups(paired, columns, confidence, fewest) if columns else {}
        further = moved(paired, count) if count else {}
        return groups | further | (judged(paired, judge, confidence) if judge is not None else {})

    return add
