"""`cxrbench gate`: may this run replace that one? Exit code 0 pass, 1 fail, 3 undecided."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.types import CLUSTERS

if TYPE_CHECKING:
    from rich.table import Table

    from cxrbench.gate import Gate
    from cxrbench.gate_evidence import Evidence
    from cxrbench.gate_metrics import Finding
    from cxrbench.gate_plan import Chances, Plan
    from cxrbench.gate_policy import Policy

app = typer.Typer(
    help="May this run replace that one: check, plan, baseline.", no_args_is_help=True, rich_markup_mode=None
)

Against = Annotated[
    str, typer.Option("--baseline", help="A baseline file, a run folder, or a shipped one: demo-findings.")
]
PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", help="What blocks and by which margins (YAML); else the default.", show_default=False),
]
Out = Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML here.", show_default=False)]
MarkdownFile = Annotated[
    Path | None, typer.Option("--markdown", help="Write a step summary (Markdown) here.", show_default=False)
]


@app.command("check")
def check(
    run: Annotated[Path, typer.Argument(help="The scored run that may replace the baseline.")],
    baseline: Against,
    policy: PolicyFile = None,
    junit: Out = None,
    markdown: MarkdownFile = None,
    annotations: Annotated[bool, typer.Option("--annotations", help="Print GitHub workflow annotations too.")] = False,
    replicates: Annotated[int, typer.Option("--replicates", min=100, help="Resamples and exchanges.")] = 10_000,
    seed: opt.Seed = 0,
    json_output: opt.Json = False,
) -> None:
    """Hold a run against a baseline: exit code 0 pass, 1 fail, 3 undecided.

    cxrbench gate check runs/demo-findings/demo-* --baseline demo-findings
    """
    from cxrbench import gate_report
    from cxrbench.gate_evidence import find_baseline
    from cxrbench.gate_policy import find_policy
    from cxrbench.store import find_run

    folder = find_run(str(run))
    against, shipped_name = find_baseline(baseline)
    asked, source = find_policy(policy, shipped_name)
    found, error = _judged(str(folder.path), against, asked, replicates, seed)
    for file, made in ((junit, gate_report.junit), (markdown, gate_report.markdown)):
        if file is not None:
            _write(file, made(found))
    if json_output:
        typer.echo(json.dumps(gate_report.as_json(found) | {"policy_source": source}, indent=2, ensure_ascii=False))
    else:
        _show(found, source, told=error is not None)
    if annotations:
        for line in gate_report.workflow_commands(found):
            typer.echo(line)
    if error is not None:
        raise error
    if found.exit:
        raise typer.Exit(found.exit)


def _judged(
    run: str, against: Evidence, asked: Policy, replicates: int, seed: int
) -> tuple[Gate, CxrbenchError | None]:
    """The gate; where the runs cannot be held against each other, an undecided one and the reason as an error.

    So a pipeline finds its report in every case but a wrong call or a broken machine.
    """
    from cxrbench.gate import check as check_gate
    from cxrbench.gate import refused
    from cxrbench.gate_evidence import evidence_of
    from cxrbench.store import find_run

    candidate = None
    try:
        candidate = evidence_of(find_run(run))
        return check_gate(against, candidate, asked, replicates=replicates, seed=seed), None
    except CxrbenchError as error:
        if error.code != Exit.UNDECIDED:
            raise
        return refused(asked, error.what, against, candidate, replicates, seed), error


def _write(file: Path, text: str) -> None:
    from cxrbench.atomic import write_atomic

    write_atomic(file, text.encode())


@app.command("baseline")
def baseline(
    run: Annotated[Path, typer.Argument(help="The scored run that later ones are held against.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The baseline file to write.")],
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody read the file; refused for credentialed data.")
    ] = False,
) -> None:
    """Write what later runs are held against: statistics, no text, hashed ids.

    cxrbench gate baseline RUN -o baseline.parquet
    """
    from cxrbench.gate_evidence import evidence_of, write_baseline
    from cxrbench.store import find_run

    evidence = evidence_of(find_run(str(run)))
    write_baseline(evidence, output, public=public)
    kept = "everybody may read it" if public else "yours alone"
    if not evidence.public:
        kept += "; keep it where the data are kept: statistics hold the labels of the reports"
    typer.echo(
        f"{output}: {len(evidence.columns)} metrics over {len(evidence.ids)} samples of "
        f"{len(set(evidence.clusters))} {_unit(evidence)}, {output.stat().st_size / 1024:.0f} KiB; {kept}"
    )


def _unit(evidence: Evidence) -> str:
    unit = CLUSTERS[evidence.about["cluster_unit"]]
    return unit if unit == "patients" else f"clusters ({unit})"


@app.command("plan")
def plan(
    task: Annotated[str, typer.Option("--task", help="Task by name, or a YAML file.")],
    baseline: Against,
    policy: PolicyFile = None,
    pilot: Annotated[
        Path | None,
        typer.Option("--pilot", help="A second run of the task: its differences tell the noise.", show_default=False),
    ] = None,
    seed: opt.Seed = 0,
    json_output: opt.Json = False,
) -> None:
    """Before GPU time is spent: which margins can so many samples decide?

    cxrbench gate plan --task demo-findings --baseline demo-findings
    """
    from cxrbench.gate_evidence import evidence_of, find_baseline
    from cxrbench.gate_plan import as_json
    from cxrbench.gate_plan import plan as make_plan
    from cxrbench.gate_policy import find_policy
    from cxrbench.spec import find_task
    from cxrbench.store import find_run

    spec = find_task(task)
    against, shipped_name = find_baseline(baseline)
    _same_task({"name": spec.name, "version": spec.version, "hash": spec.hash}, against)
    asked, source = find_policy(policy, shipped_name)
    second = evidence_of(find_run(str(pilot))) if pilot is not None else None
    plans = make_plan(against, asked, second, seed)
    if json_output:
        typer.echo(json.dumps(as_json(plans, against, asked) | {"policy_source": source}, indent=2))
        return
    _show_plans(plans, against, asked, source)


def _same_task(task: dict[str, object], against: Evidence) -> None:
    from cxrbench.store import differences

    changed = differences(against.about["task"], task)
    if changed:
        raise CxrbenchError(
            "the baseline is of another task:\n    " + "\n    ".join(changed),
            where=against.where,
            fix="--task with the baseline's task, or a baseline of a run of this one",
            code=Exit.UNDECIDED,
        )


def _show(gate: Gate, source: str, *, told: bool) -> None:
    """Print a gate; `told`: the reasons follow as an error, and are not said twice."""
    from cxrbench.cli.layout import console, whole, wrapped

    out = console()
    about = gate.candidate or gate.baseline
    task = about.get("task", {}).get("name", "")
    out.print(f"{gate.verdict.status.upper()} · {task} · policy {gate.policy.name} ({source})", style="bold")
    for side, body in (("baseline", gate.baseline), ("candidate", gate.candidate)):
        if body:
            out.print(f"{side:<10} {body['model']} ({body['run']}), {body['n']} of {body['n_expected']} samples")
    for reason in gate.verdict.reasons if not (gate.findings or told) else ():
        out.print(reason)
    if not gate.findings:
        return
    out.print()
    out.print(whole(_table(gate), names=False))
    for each in gate.findings:
        said = f"{each.name}{'' if each.blocking else ' (advisory)'}: {each.reason}"
        out.print("\n".join(wrapped(said, out.width)), soft_wrap=True)
    sure = 1 - gate.policy.alpha
    out.print(
        f"\nchange = after - before (limit: the margin), for guards after / before; bounds one-sided at {sure:.0%};\n"
        "p Holm of 'worse' over all blocking metrics (advisory: p by itself);\n"
        "MDE = smallest drop so many samples can show."
    )


def _table(gate: Gate) -> Table:
    from cxrbench.cli.layout import table

    heads = ["check", "", "before", "after", "change", "bounds", "limit", "p Holm", "MDE"]
    made = table(heads, right=range(2, 9), gap=0)
    for each, name in zip(gate.findings, _labels(made, [each.name for each in gate.findings], 25), strict=True):
        lower = " ↓" if each.higher_is_better is False else ""
        made.add_row(f"{name}{lower}", each.status, *_cells(each))
    return made


def _labels(made: Table, names: list[str], width: int) -> Iterator[str]:
    """The first cell of each row; where a name is too wide, its metric gets a row of its own before."""
    above = ""
    for name in names:
        key, _, value = name.partition(" ")
        if len(name) <= width or ":" not in key:
            above = ""
            yield name
            continue
        if key != above:
            made.add_row(key, *[""] * (len(made.columns) - 1))
        above = key
        yield f"  {value}"


def _cells(each: Finding) -> list[str]:
    from cxrbench.cli.layout import figure, interval, signed

    guard = each.kind != "metric"
    change = "-" if each.change is None else f"x{each.change:.3f}" if guard else signed(each.change)
    bounds = None if each.low is None or each.high is None else (each.low, each.high)
    return [
        _brief(each.baseline, guard),
        _brief(each.candidate, guard),
        change,
        interval(bounds),
        "-" if each.limit is None else f"{each.limit:g}",
        "-" if each.p_holm is None else f"{each.p_holm:.3f}" if each.p_holm >= 0.001 else "<0.001",
        figure(each.mde),
    ]


def _brief(value: float | None, guard: bool) -> str:
    from cxrbench.cli.layout import figure

    if value is None or not guard:
        return figure(value)
    return f"{value:.3g}" if value < 10_000 else f"{value / 2**20:.0f} MiB"


def _show_plans(plans: list[Plan], against: Evidence, asked: Policy, source: str) -> None:
    from cxrbench.cli.layout import console, table, whole, wrapped
    from cxrbench.gate_plan import advice, too_fine

    out = console()
    counted = f"{len(against.ids)} samples, {len(set(against.clusters))} {_unit(against)}"
    out.print(f"{against.about['task']['name']} · {counted} · policy {asked.name} ({source})", style="bold")
    for each in plans:
        out.print(f"\nnoise: {each.noise}")
        heads = ["", "limit", "decidable", "P(pass)", "P(undecided)", "P(fail)", "", "P(pass)", "P(fail)"]
        made = table(heads, right=(1, 2, 3, 4, 5, 7, 8), gap=1)
        made.add_row("", "", "", "no change", "", "", "", "drop of", "the margin")
        for check_, name in zip(each.checks, _labels(made, [one.name for one in each.checks], 21), strict=True):
            made.add_row(
                name, f"{check_.margin:g}", f"{check_.mde:.4f}", *_percents(check_.unchanged), "",
                f"{check_.dropped.passed:.1%}", f"{check_.dropped.failed:.1%}",
            )  # fmt: skip
        made.add_row("whole verdict", "", "", *_percents(each.unchanged), "all", *_two(each.dropped))
        made.add_row("", "", "", "", "", "", "one", *_two(each.one_dropped))
        out.print(whole(made, names=False))
        for line in advice(each):
            out.print("\n".join(wrapped(line, out.width)), soft_wrap=True)
    for line in too_fine(plans, against):
        out.print("\n" + "\n".join(wrapped(line, out.width)), soft_wrap=True)
    out.print(
        "\ndecidable: the smallest margin that an unchanged model passes, and the smallest drop that one\n"
        "test shows, with probability 0.8. all: every metric drops by its margin; one: only the one\n"
        "that is hardest to see. Length, speed and memory are not planned."
    )


def _percents(chances: Chances) -> list[str]:
    return [f"{value:.1%}" for value in (chances.passed, chances.undecided, chances.failed)]


def _two(chances: Chances) -> list[str]:
    return [f"{chances.passed:.1%}", f"{chances.failed:.1%}"]
