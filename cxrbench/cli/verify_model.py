"""`cxrbench verify model`: is what came out here what the model's authors published?"""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError, Exit, suggest

if TYPE_CHECKING:
    from cxrbench.anchors import Anchor, Anchors
    from cxrbench.config import Config
    from cxrbench.model_sanity import Finding
    from cxrbench.model_verification import Beside
    from cxrbench.models.generation import Preset
    from cxrbench.store import RunFolder

RUNS = Path("runs")


@dataclass(frozen=True, slots=True)
class Here:
    """What of the model is on this machine: its adapter class, its folders, how to open it; `opened` is None else."""

    kind: Any
    folders: Mapping[str, Path]
    settings: Mapping[str, str]
    opened: Any = None
    count: int | None = None

    def open(self, further: Mapping[str, str]) -> Any:
        """The adapter over the folders.

        Raises:
            CxrbenchError: a folder is missing, or is another model's.
        """
        from cxrbench.models.base import ModelOptions

        extra = {**self.kind.trial(self.folders), **self.settings, **further}
        return self.kind(ModelOptions(places=self.folders, extra=extra))


def model(
    name: Annotated[str, typer.Argument(help="A published model; `cxrbench models list` shows them.")],
    run: Annotated[
        Path | None, typer.Option("--run", help="Compare with this run folder alone.", show_default=False)
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Where to look for runs.")] = RUNS,
    assume: Annotated[
        str | None,
        typer.Option("--assume", help="Take as given: secondary,convention,samples.", show_default=False),
    ] = None,
    run_now: Annotated[bool, typer.Option("--run-now", help="Type the commands that are still to do.")] = False,
    checkpoint_only: Annotated[
        bool, typer.Option("--checkpoint-only", help="What needs no data: names, counts, prompts.")
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value for the model (tower=...).", show_default=False)
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    config: opt.ConfigFile = None,
) -> None:
    """Hold a checkpoint against what is known of it, and its runs against published figures.

    Exit 0: what can be compared agrees; 1: something differs; 3: nothing could be compared (each figure says why).

    cxrbench verify model llava-rad --assume secondary,convention
    """
    from cxrbench.anchors import read_anchors
    from cxrbench.model_verification import commands

    known = read_anchors(name)
    taken = assumed(assume)
    if run_now and (run is not None or runs != RUNS or checkpoint_only):
        raise CxrbenchError(
            "--run-now makes new runs under runs/",
            where="--run-now",
            fix="leave --run, --runs and --checkpoint-only out",
        )
    here, findings = look_here(known, opt.load_config(config), opt.key_values(settings))
    found = [] if checkpoint_only else beside_all(known, here, run, runs, taken)
    if run_now and _type_in(list(commands(name, found, here.settings)), config):
        found = beside_all(known, here, run, runs, taken)
    code = _code(findings, found, checkpoint_only=checkpoint_only)
    if json_output:
        data = {**_data(known, findings, found, code), "to_do": list(commands(name, found, here.settings))}
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        _show(known, here, findings, found, checkpoint_only=checkpoint_only)
    if code:
        raise typer.Exit(code)


def assumed(text: str | None) -> list[str]:
    """What `--assume` names, checked."""
    from cxrbench.model_verification import ASSUMPTIONS

    names = opt.metric_names(text)
    for each in names:
        if each not in ASSUMPTIONS:
            raise CxrbenchError(
                f"{each!r} cannot be assumed{suggest(each, ASSUMPTIONS)}",
                where="--assume",
                fix="; ".join(f"{key}: {about}" for key, about in ASSUMPTIONS.items()),
            )
    return names


def look_here(known: Anchors, config: Config, settings: Mapping[str, str]) -> tuple[Here, list[Finding]]:
    """What is on this machine, and what its checks say; no findings where nothing was added."""
    from cxrbench import registry
    from cxrbench.model_sanity import look

    here = Here(registry.load("models", known.name), config.models.get(known.name, {}), settings)
    for key in settings:
        if key not in here.kind.settings:
            raise CxrbenchError(
                f"{known.name} has no setting {key!r}{suggest(key, here.kind.settings)}",
                where="--set",
                fix=f"one of: {', '.join(here.kind.settings)}",
            )
    if "path" not in here.folders:
        return here, []
    findings = list(look(known, here.folders, here.open))
    try:
        opened = here.open({})
        count = opened.check()[1]
    except CxrbenchError:
        return here, findings  # `look` has told it
    return Here(here.kind, here.folders, settings, opened, count), findings


def beside_all(known: Anchors, here: Here, run: Path | None, runs: Path, assume: Sequence[str]) -> list[Beside]:
    """Every anchor of a model beside the run that comes nearest."""
    from cxrbench.model_sanity import variant
    from cxrbench.model_verification import beside, runs_of

    candidates = [_named(run, known.name)] if run is not None else runs_of(known.name, runs)
    this = variant(known, here.count)
    several = {each.of for each in known.parameters}
    wanted = [each for each in known.anchors if not this or each.of not in several or each.of == this]
    weights = _hashes(here)
    return [beside(each, candidates, _preset(each, here), assume, weights) for each in wanted]


def _named(run: Path, name: str) -> RunFolder:
    from cxrbench.store import find_run

    found = find_run(str(run))
    other = found.manifest().identity["model"].get("name", "")
    if other != name:
        raise CxrbenchError(f"the run is one of {other}, not of {name}", where=str(run), fix=f"a run of {name}")
    return found


def _preset(anchor: Anchor, here: Here) -> Preset:
    """The authors' settings as the checkpoint that is here has them, else as the adapter knows them."""
    from cxrbench.spec import find_task

    target = find_task(anchor.task).target
    own: Preset = here.kind.reference(target if target in here.kind.targets else here.kind.targets[0])
    if here.opened is None or target not in here.kind.targets:
        return own
    found: Preset = here.open({"target": target}).presets.get(anchor.preset, own)
    return found


def _hashes(here: Here) -> list[str]:
    """Names of the weights that are here: their hash, and for a converted form that of the original."""
    if here.opened is None:
        return []
    from cxrbench.models.converted import read_card

    card = read_card(here.folders["path"]) or {}
    return [str(each) for each in (here.opened.identity()["weights"], card.get("made_from")) if each]


def _type_in(commands: Sequence[str], config: Path | None) -> bool:
    """Run the commands one after another; whether there were any."""
    from typer.main import get_command

    from cxrbench.cli.main import app

    for line in commands:
        typer.echo(line, err=True)
        words = [*shlex.split(line)[1:], *(["--config", str(config)] if config is not None else [])]
        get_command(app).main(words, prog_name="cxrbench", standalone_mode=False)
    return bool(commands)


def _code(findings: Sequence[Finding], found: Sequence[Beside], *, checkpoint_only: bool) -> Exit:
    verdicts = [figure.verdict for each in found for figure in each.figures]
    if "differs" in verdicts or any(each.verdict == "differs" for each in findings):
        return Exit.REGRESSION
    done = bool(findings) if checkpoint_only else "agrees" in verdicts
    return Exit.OK if done else Exit.UNDECIDED


def _data(known: Anchors, findings: Sequence[Finding], found: Sequence[Beside], code: Exit) -> dict[str, Any]:
    words = {Exit.OK: "agrees", Exit.REGRESSION: "differs"}
    return {
        "model": known.name,
        "verdict": words.get(code, "not compared"),
        "checkpoint": [asdict(each) for each in findings],
        "anchors": [asdict(each) for each in found],
        "not_found": known.not_found,
    }


# What is printed


def _show(
    known: Anchors, here: Here, findings: Sequence[Finding], found: Sequence[Beside], *, checkpoint_only: bool
) -> None:
    from cxrbench.model_verification import commands

    typer.echo(f"{known.name}: {here.kind.CARD.about}\n")
    if findings:
        _table(["checkpoint", "", "what was found"], [(each.what, each.verdict, each.told) for each in findings])
    else:
        typer.echo(f"checkpoint: not here; to do: cxrbench models add {known.name} --path DIR")
    if checkpoint_only:
        return
    for each in found:
        show_anchor(each)
    typer.echo("")
    if not found:
        typer.echo("figures: none")
    wrapped("not found", known.not_found)
    for line in commands(known.name, found, here.settings):
        typer.echo(f"to do: {line}")
    verdicts = [figure.verdict for each in found for figure in each.figures]
    counts = [f"{verdicts.count(word)} {word}" for word in ("agrees", "differs", "cannot be compared")]
    if verdicts:
        typer.echo(f"{len(verdicts)} figures: {', '.join(counts)}")


def show_anchor(each: Beside) -> None:
    """Print one anchor: figures, ours, verdicts, and why not."""
    typer.echo(f"\n{each.anchor}: {each.title}")
    if each.of:
        wrapped("  of", each.of)
    wrapped("  source", f"{each.source} ({each.evidence}); {each.citation}")
    what = f"task {each.task}, preset {each.preset}"
    if each.run is None:
        typer.echo(f"  run: none of {what}")
    else:
        wrapped("  run", f"{each.run}, {each.n} samples, {each.clusters} clusters; wanted: {what}")
    rows = [
        (
            figure.figure,
            _number(figure.published),
            _number(figure.here),
            "-" if figure.interval is None else f"[{_number(figure.interval[0])}, {_number(figure.interval[1])}]",
            f"{figure.tolerance:g}" if figure.tolerance else "-",
            figure.verdict + (f", if {' and '.join(figure.assumed)}" if figure.assumed else ""),
        )
        for figure in each.figures
    ]
    _table(["figure", "published", "here", "95 % interval", "tolerance", "verdict"], rows, right=(1, 2, 4))
    for reason, figures in _by_reason(each).items():
        of = "" if len(figures) == len(each.figures) else f" ({', '.join(figures)})"
        wrapped("  why not", f"{reason}{of}")
    for note in each.notes:
        wrapped("  note", note)


def _by_reason(each: Beside) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for figure in each.figures:
        for reason in figure.reasons:
            found.setdefault(reason, []).append(figure.figure)
    return found


def _number(value: float | None) -> str:
    """A figure as papers print it.

    >>> _number(39.5), _number(0.036), _number(None)
    ('39.50', '0.0360', '-')
    """
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}"


def _table(headings: list[str], rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()) -> None:
    from cxrbench.cli.layout import console, table, whole

    made = table(headings, right=right)
    for row in rows:
        made.add_row(*row)
    console().print(whole(made))


def wrapped(label: str, text: str) -> None:
    """Print `label: text`, wrapped."""
    from cxrbench.cli.model_card import WIDTH

    typer.echo("\n".join(textwrap.wrap(f"{label}: {text}", WIDTH, subsequent_indent="    ", drop_whitespace=True)))
