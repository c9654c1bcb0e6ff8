"""`cxrbench models`: say once where a model's checkpoint lies, look at it, convert it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError

if TYPE_CHECKING:
    from collections.abc import Mapping

app = typer.Typer(help="Where checkpoints lie: add, convert, list.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="A model; `cxrbench list models`.")]
PathOption = Annotated[
    Path | None, typer.Option("--path", help="The checkpoint, original or converted.", show_default=False)
]
Base = Annotated[
    Path | None,
    typer.Option("--base", help="The language model its weights are differences to.", show_default=False),
]
Clip = Annotated[
    Path | None, typer.Option("--clip", help="OpenAI's CLIP, whose image tower it uses.", show_default=False)
]


def _adapter(name: str) -> Any:
    """The adapter class of a published checkpoint.

    Raises:
        CxrbenchError: no such model, or one that has no checkpoint of its own to remember.
    """
    from cxrbench import registry

    made = registry.load("models", name)
    if not hasattr(made, "places"):
        known = [entry.name for entry in registry.entries("models").values() if hasattr(entry.load(), "places")]
        raise CxrbenchError(
            f"{name} has no published checkpoint to remember", fix=f"one of: {', '.join(known)}; or hf:DIR in --model"
        )
    return made


def _given(adapter: Any, path: Path | None, base: Path | None, clip: Path | None) -> dict[str, Path]:
    """The folders given, as absolute paths; one the model has no use for is refused."""
    from cxrbench.config import plain

    given = {key: folder for key, folder in (("path", path), ("base", base), ("clip", clip)) if folder is not None}
    for key, folder in given.items():
        if key not in adapter.places:
            raise CxrbenchError(
                f"{adapter.name} takes no --{key}",
                fix="; ".join(f"--{each}: {what}" for each, what in _places(adapter)),
            )
        if not folder.is_dir():
            raise CxrbenchError(
                "there is no such folder",
                where=f"--{key} {folder}",
                fix="fetch a checkpoint with `hf download REPO --local-dir DIR`",
            )
    return {key: plain(folder) for key, folder in given.items()}


def _places(adapter: Any) -> list[tuple[str, str]]:
    return [(str(key), str(what)) for key, what in adapter.places.items()]


def _open(adapter: Any, places: Mapping[str, Path], settings: Mapping[str, str]) -> Any:
    from cxrbench.models.base import ModelOptions

    return adapter(ModelOptions(places=places, extra=settings))


@app.command("add")
def add(
    name: Name,
    path: PathOption = None,
    base: Base = None,
    clip: Clip = None,
    here: Annotated[bool, typer.Option("--here", help="Write ./cxrbench.toml instead of the user's file.")] = False,
    config: opt.ConfigFile = None,
) -> None:
    """Remember where a model's checkpoint lies, after a look at it: names and shapes, no weights.

    What is given replaces what was remembered for that folder. A checkpoint that does not fit is not remembered.

    cxrbench models add slava --path DIR
    """
    from cxrbench.config import NAME, load_config, plain, remember_model

    adapter = _adapter(name)
    given = _given(adapter, path, base, clip)
    if not given:
        raise CxrbenchError(
            "no folder was given", fix="; ".join(f"--{each}: {what}" for each, what in _places(adapter))
        )
    known = load_config(config, may_be_new=True)
    places = {**known.models.get(name, {}), **given}
    if "path" in places:
        _tell(*_open(adapter, places, adapter.trial(places)).check())
    else:
        typer.echo(f"note: {name} has no --path yet", err=True)
    target = plain(Path.cwd() / NAME) if here else known.file
    remember_model(target, name, places)
    typer.echo(f"remembered in {target}")


def _tell(plan: Any, parameters: int) -> None:
    """What a look at the checkpoint found."""
    if plan is not None:
        typer.echo(f"{len(plan.steps)} weights fit, {parameters:,} parameters")
        for why, count in plan.told().items():
            typer.echo(f"left out: {count} ({why})")


@app.command("convert")
def convert(
    name: Name,
    out: Annotated[Path, typer.Option("--out", help="A new folder for the converted form.")],
    path: PathOption = None,
    base: Base = None,
    clip: Clip = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value for the model (tower=...).", show_default=False)
    ] = None,
    config: opt.ConfigFile = None,
) -> None:
    """Write a checkpoint in stock layout: config.json, safetensors, tokenizer files.

    Folders that are not given are the remembered ones. The converted form needs neither base nor CLIP and gives the
    same texts.

    cxrbench models convert llava-rad --out DIR
    """
    from cxrbench.cli.progress import progress

    adapter = _adapter(name)
    places = {**opt.load_config(config).models.get(name, {}), **_given(adapter, path, base, clip)}
    model = _open(adapter, places, opt.key_values(settings))
    with progress(f"converting {name}", "weights") as report:
        plan = model.convert(out, report)
    typer.echo(f"{sum(len(step.targets) for step in plan.steps)} weights written to {out}")
    for why, count in plan.told().items():
        typer.echo(f"left out: {count} ({why})")
    for file in sorted(set(plan.kept.values())):
        typer.echo(f"kept beside them: {file}")
    typer.echo(f"to use it: cxrbench models add {name} --path {out}")


@app.command("list")
def list_models(config: opt.ConfigFile = None) -> None:
    """List the models that have a published checkpoint, and where it lies on this machine."""
    from cxrbench import registry
    from cxrbench.cli.show import console, table

    known = opt.load_config(config).models
    made = table(["model", "takes", "here"])
    for entry in registry.entries("models").values():
        adapter = entry.load()
        if hasattr(adapter, "places"):
            takes = "\n".join(f"--{key}: {what}" for key, what in _places(adapter))
            here = "\n".join(f"{key}: {folder}" for key, folder in known.get(entry.name, {}).items()) or "not added"
            made.add_row(entry.name, takes, here)
    console().print(made)
