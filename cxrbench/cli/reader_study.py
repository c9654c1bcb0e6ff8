"""`cxrbench reader-study`: reports judged by people, blinded; create makes the form, analyze joins what comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxrbench.cli import options as opt
from cxrbench.cli.explore import PagePictures, PictureChoice
from cxrbench.errors import CxrbenchError, Exit

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(
    help="Reports judged by readers: create a form, analyze answers.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("create")
def create(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one task, up to four.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="The form to write (HTML).", show_default=False)],
    n: Annotated[int, typer.Option("--n", min=1, help="Cases, one of each patient while there are patients.")] = 100,
    repeats: Annotated[
        int | None,
        typer.Option(
            "--repeats", min=0, help="Cases asked again, sides swapped (default a tenth).", show_default=False
        ),
    ] = None,
    ask: Annotated[str | None, typer.Option("--ask", help="ratings,errors,preferences", show_default="all")] = None,
    reference: Annotated[str, typer.Option("--reference", help="shown, hidden, or rated as a report.")] = "shown",
    pictures: PagePictures = PictureChoice.ALL,
    key: Annotated[
        Path | None, typer.Option("--key", help="Where the key goes (default FILE.key.json).", show_default=False)
    ] = None,
    seed: opt.Seed = 0,
    reports: opt.Reports = None,
    images: opt.Images = None,
    tables: opt.Tables = None,
    annotations: opt.Annotations = None,
    config: opt.ConfigFile = None,
) -> None:
    """Write a blinded form for readers, and apart from it the key: which report was whose.

    cxrbench reader-study create runs/demo-findings/demo-* --n 20 -o form.html
    """
    from cxrbench.cli.progress import stages
    from cxrbench.report.reader_study import Asked, write_study
    from cxrbench.report.reader_study import create as make_study
    from cxrbench.store import find_run

    folders = [find_run(str(path)) for path in runs]
    parts = _parts(ask, several=len(runs) + (reference == "rated") > 1)
    if reference not in ("shown", "hidden", "rated"):
        raise CxrbenchError(f"--reference cannot be {reference!r}", fix="shown, hidden or rated")
    again = repeats if repeats is not None else (n // 10 if "preferences" in parts else 0)
    asked = Asked(n, again, parts, reference, seed, pictures.value)  # type: ignore[arg-type]
    roots = opt.roots(reports, images, tables, annotations, None)
    with stages("cases") as report:
        study = make_study(folders, asked, opt.load_config(config), roots, report)
    place = key if key is not None else output.with_name(f"{output.name}.key.json")
    write_study(study, output, place)
    for note in study.notes:
        typer.echo(f"note: {note}", err=True)
    if study.left_out:
        typer.echo(f"note: {study.left_out} samples were not drawn from: a run has no report of them", err=True)
    typer.echo(
        f"{output}: {study.cases} cases and {study.repeats} repeats, {len(study.html) / 1e6:.1f} MB, for readers"
    )
    typer.echo(f"{place}: the key, for you alone: whoever has it is not blinded")


def _parts(ask: str | None, *, several: bool) -> tuple[Any, ...]:
    """What is asked: everything that can be, unless it is named."""
    from cxrbench.report.reader_study import PARTS

    if ask is None:
        return PARTS if several else PARTS[:2]
    named = opt.metric_names(ask)
    wrong = [part for part in named if part not in PARTS]
    if wrong or not named:
        raise CxrbenchError(f"--ask cannot be {ask!r}", fix=f"some of: {','.join(PARTS)}")
    return tuple(part for part in PARTS if part in named)


@app.command("analyze")
def analyze(
    responses: Annotated[list[Path], typer.Argument(help="What readers exported, a file each.", show_default=False)],
    key: Annotated[Path, typer.Option("--key", help="The key made with the form.", show_default=False)],
    replicates: Annotated[int, typer.Option("--replicates", min=100, help="Bootstrap replicates.")] = 10_000,
    seed: opt.Seed = 0,
    json_output: opt.Json = False,
) -> None:
    """Join readers: means with intervals, win rates, agreement. Exit code 3 where cases are not answered yet.

    cxrbench reader-study analyze answers-*.json --key form.html.key.json
    """
    from cxrbench.report.reader_study_analysis import analyse, unanswered
    from cxrbench.report.reader_study_files import read_key, read_responses
    from cxrbench.summary import Confidence

    known = read_key(key)
    result = analyse(known, read_responses(responses, known), Confidence(replicates=replicates, seed=seed))
    if json_output:
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        _show(result)
    missing = unanswered(result)
    if missing:
        typer.echo(f"incomplete: {'; '.join(missing)}", err=True)
        raise typer.Exit(Exit.UNDECIDED)


def _show(result: Mapping[str, Any]) -> None:
    from cxrbench.cli.layout import console, table
    from cxrbench.cli.show import clusters_line
    from cxrbench.report.leaderboard import visible

    out = console()
    readers = ", ".join(visible(reader) for reader in result["readers"])
    out.print(f"{result['task']} · {result['n']} of {result['n_expected']} cases, {clusters_line(result)} · {readers}")
    level = f"{result['ci_level']:.0%} interval"
    means = table(["", "system", "mean", level, "n"], right=range(2, 5), gap=1)
    for system, body in result["systems"].items():
        for scale, value in body["ratings"].items():
            _row(means, scale, system, value, "mean")
        for significance, errors in body["errors"].items():
            _row(means, f"{significance} errors per report", system, errors["total"], "mean")
    out.print(means)
    wins = table(["preferred", "to", "win rate", level, "n", "won/equal/lost"], right=range(2, 6), gap=1)
    for pair in result["preferences"]:
        if pair["n"]:
            wins.add_row(
                pair["a"], pair["b"], *_numbers(pair, "win_rate"), f"{pair['wins']}/{pair['ties']}/{pair['losses']}"
            )
    if wins.row_count:
        out.print(wins)
        _show_sides(out.print, result)
    agreed = table(["agreement", "Krippendorff α", "mean weighted κ", "units"], right=range(1, 4), gap=1)
    for what, body in result["agreement"].items():
        if body["units"]:
            agreed.add_row(
                what.replace("_", " "), _figure(body["alpha"]), _figure(body.get("kappa_mean")), str(body["units"])
            )
    if agreed.row_count:
        out.print(agreed)
    else:
        out.print("no agreement: no case was read by two readers")


def _show_sides(say: Any, result: Mapping[str, Any]) -> None:
    from cxrbench.report.leaderboard import visible

    rate, low_high, n = _numbers(result["sides"], "first_side_rate")
    say(f"the report on the first side was preferred in {rate} {low_high} of {n} answers, ties as half")
    for reader, body in result["repeats"].items():
        if body["n"]:
            kept = f"{body['same']} of {body['n']} cases"
            say(f"reader {visible(reader)}: the same preference with the sides swapped in {kept}")


def _row(made: Table, what: str, system: str, value: Mapping[str, Any], name: str) -> None:
    if value["n"]:
        made.add_row(what, system, *_numbers(value, name))


def _numbers(value: Mapping[str, Any], name: str) -> tuple[str, str, str]:
    ci = value["ci"]
    between = f"[{_figure(ci[0])}, {_figure(ci[1])}]" if ci else "–"
    return _figure(value[name]), between, str(value["n"])


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
