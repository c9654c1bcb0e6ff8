"""`cxrbench verify`: are the numbers here those that were published, and those of the reference package?"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxrbench.cli import options as opt
from cxrbench.cli.verify_model import model
from cxrbench.errors import CxrbenchError, Exit

if TYPE_CHECKING:
    from cxrbench.verdicts import Check, Comparison, Verdict

app = typer.Typer(
    help="Compare with published figures and reference packages.", no_args_is_help=True, rich_markup_mode=None
)
app.command("model")(model)


@app.callback()
def verify() -> None:
    """Compare with published figures and reference packages."""


@app.command("metric")
def metric(
    name: Annotated[str, typer.Argument(help="name[:preset]; `cxrbench list metrics` shows all.")],
    python: Annotated[
        Path | None,
        typer.Option("--python", help="An environment with the reference package.", show_default=False),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option("--texts", help="Own texts, too: a file with prediction and reference.", show_default=False),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="Of annotators: auto, cpu, cuda, cuda:N. The package stays on the CPU.")
    ] = "auto",
    limit: Annotated[float, typer.Option("--limit", min=1, help="Seconds that the package may take.")] = 3600,
    json_output: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show what the package prints, which may quote texts, and tracebacks.")
    ] = False,
    config: opt.ConfigFile = None,
) -> None:
    """Run the published cases of a metric, and compare with its reference package. Prints a verdict for an issue.

    With real weights only; exit 0 passed, 1 failed or the package said nothing, 3 not verified. The verdict holds no
    text and no path.

    cxrbench verify metric radgraph-f1

    cxrbench verify metric chexbert-f1 --python ~/oracle --texts predictions.csv
    """
    from cxrbench import verification
    from cxrbench.reference_runs import interpreter

    if texts is not None and python is None:
        raise CxrbenchError(
            "--texts are compared with what a package says of them", where="--texts", fix="--python ENV"
        )
    resources = opt.resources(config, device, "fp32")
    settings = opt.load_config(config)
    keys = verification.keys_of(name)
    given = _read(texts) if texts is not None else None
    env = interpreter(python) if python is not None else None
    asked = verification.Asked(env, given, debug, resources.device, limit)
    verification.require(keys, settings)
    verdicts: list[Verdict] = []
    try:
        for key in keys:
            verdicts.append(verification.verify(key, asked, settings))
            if not json_output:
                typer.echo("\n".join(_markdown(verdicts[-1])))
    finally:  # what is finished is told, whatever becomes of the rest
        if json_output and verdicts:
            typer.echo(json.dumps(_finite([_data(each) for each in verdicts]), indent=2, allow_nan=False))
    if any(each.outcome == "failed" or (each.comparison and not each.comparison.passed) for each in verdicts):
        raise typer.Exit(Exit.REGRESSION)
    if any(each.outcome == "not verified" for each in verdicts):
        raise typer.Exit(Exit.UNDECIDED)


def _read(file: Path) -> list[tuple[str, str]]:
    """The pairs of a predictions file; rows without a reference are left out.

    Raises:
        CxrbenchError: the file cannot be read, or has no reference at all.
    """
    from cxrbench.predictions_file import read_predictions

    given = read_predictions(file)
    both = [(row.prediction, row.reference) for row in given.rows if row.reference]
    if not both:
        raise CxrbenchError("the file has no references", where=str(file), fix="add a column `reference`")
    if len(both) < len(given.rows):
        typer.echo(f"{len(given.rows) - len(both)} rows without a reference are left out", err=True)
    return both


def _finite(value: Any) -> Any:
    """The same with None for what is not a finite number, which JSON cannot say."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _data(verdict: Verdict) -> dict[str, Any]:
    checks = [{**asdict(each), "passed": each.passed} for each in verdict.checks]
    comparison = verdict.comparison
    compared = None if comparison is None else {**asdict(comparison), "passed": comparison.passed}
    return {**asdict(verdict), "outcome": verdict.outcome, "checks": checks, "comparison": compared}


def _markdown(verdict: Verdict) -> Iterator[str]:
    """The verdict as a block to paste."""
    machine, device = verdict.machine, verdict.device
    yield f"### cxrbench verify metric {verdict.metric}: {verdict.outcome}"
    yield ""
    yield f"- signature: `{verdict.signature}`"
    if verdict.weights:
        yield f"- weights: {', '.join(f'{name} `{digest}`' for name, digest in verdict.weights.items())}"
    yield (
        f"- cxrbench {machine['cxrbench']}, Python {machine['python']}, torch {machine['torch']}, "
        f"transformers {machine['transformers']}, {machine['platform']}{f', read on {device}' if device else ''}"
    )
    if verdict.checks:
        yield ""
        yield from _table(verdict.checks)
    for case, why in verdict.not_run.items():
        yield f"\n- not run: {case}: {why}"
    if verdict.comparison is not None:
        yield ""
        yield from _compared(verdict.comparison)
    yield from _last(verdict)
    yield ""


def _last(verdict: Verdict) -> Iterator[str]:
    """What it means for signatures, and why not."""
    compared = verdict.comparison
    if compared is not None and not compared.said:
        yield "\nThe package gave nothing to compare: no pass, and nothing is remembered."
    elif verdict.outcome == "not verified":
        yield "\nNothing was checked: no published case can be run here. `--python ENV` compares with the package."
    if verdict.device is not None and compared is not None and compared.passed and not compared.telling:
        yield "\nThe package's agreement is not remembered: too few distinct pairs, or it says the same of all of them."
    if verdict.remembered:
        yield f"\nRemembered on this machine: `verified:` in signatures of scores made on {verdict.device} tells of it."


def _table(checks: Sequence[Check]) -> Iterator[str]:
    yield "| published case | metric | value | evidence | expected | measured | tolerance | |"
    yield "|---|---|---|---|---|---|---|---|"
    for each in checks:
        numbers = (_numbers(each.expected), _numbers(each.measured))
        told = "passed" if each.passed else f"**failed** by {each.difference:.3g}"
        row = (each.case, each.metric, each.value, each.evidence, *numbers, f"{each.tolerance:g}", told)
        yield f"| {' | '.join(row)} |"


def _numbers(given: Sequence[float]) -> str:
    return ", ".join(f"{each:.6g}" for each in given)


def _compared(found: Comparison) -> Iterator[str]:
    versions = ", ".join(f"{name} {number}" for name, number in found.versions.items())
    left = f", {found.left_out} left out ({found.why})" if found.left_out else ""
    yield f"Compared with {versions}, Python {found.python}, on {found.n} pairs{left}: {found.texts}."
    yield ""
    yield "| what | n | differ | largest difference | tolerance | |"
    yield "|---|---|---|---|---|---|"
    for line in found.lines:
        largest = "" if line.largest is None else f"{line.largest:.2g}"
        told = "**differs**" if line.differ else "equal" if line.n else "nothing"
        yield f"| {line.what} | {line.n} | {line.differ} | {largest} | {line.tolerance:g} | {told} |"
    if found.hint and not found.passed:
        yield f"\nHint: {found.hint}."
