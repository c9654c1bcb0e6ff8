"""`cxrbench models`: say once where a model's checkpoint lies, look at it, convert it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError, Exit, suggest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cxrbench.assets_fetch import Remote
    from cxrbench.config import Config

app = typer.Typer(help="Where checkpoints lie: add, convert, list.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="A model; `cxrbench list models`.")]
PathOption = Annotated[
    str | None,
    typer.Option("--path", help="The checkpoint: a folder, or ORG/NAME[@REVISION] of the hub.", show_default=False),
]
Base = Annotated[
    str | None,
    typer.Option("--base", help="The language model its weights are differences to.", show_default=False),
]
Clip = Annotated[
    str | None, typer.Option("--clip", help="OpenAI's CLIP, whose image tower it uses.", show_default=False)
]
Offline = Annotated[bool, typer.Option("--offline", help="Ask the hub for nothing: take what was fetched before.")]
Accept = Annotated[
    bool, typer.Option("--accept-licence", "--yes", help="Accept the licence that is printed; do not ask.")
]


@dataclass(frozen=True, slots=True)
class Places:
    """Folders by what lies there, and the hub ids of those that were fetched."""

    folders: Mapping[str, Path]
    sources: Mapping[str, str]


def _adapter(name: str) -> Any:
    """The adapter class of a published checkpoint.

    Raises:
        CxrbenchError: no such model, or one that has no checkpoint of its own to remember.
    """
    from cxrbench import registry

    made = registry.load("models", name)
    if not getattr(made, "places", None):
        known = [entry.name for entry in registry.entries("models").values() if getattr(entry.load(), "places", None)]
        raise CxrbenchError(
            f"{name} has no published checkpoint to remember", fix=f"one of: {', '.join(known)}; or hf:DIR in --model"
        )
    return made


def _given(
    adapter: Any, texts: Mapping[str, str | None], settings: Config, *, no_network: bool, accept: bool
) -> Places:
    """The folders given; those of the hub are fetched. What the model has no use for is refused before that.

    Raises:
        CxrbenchError: no such folder, or the hub has no such checkpoint or may not be asked.
        typer.Exit: the licence was not accepted.
    """
    from cxrbench.assets_models import origin

    given = {key: text for key, text in texts.items() if text is not None}
    for key in given:
        if key not in adapter.places:
            raise CxrbenchError(
                f"{adapter.name} takes no --{key}",
                fix="; ".join(f"--{each}: {what}" for each, what in _places(adapter)),
            )
    found = {key: _place(adapter, key, text, settings, no_network=no_network) for key, text in given.items()}
    wanted = {key: each for key, each in found.items() if not isinstance(each, Path)}
    _ask(adapter, wanted, accept)
    folders = {key: each if isinstance(each, Path) else _download(each, settings) for key, each in found.items()}
    sources = {key: origin(folder) for key, folder in folders.items()}
    return Places(folders, {key: came for key, came in sources.items() if came is not None})


def _place(adapter: Any, key: str, text: str, settings: Config, *, no_network: bool) -> Path | Remote:
    """A folder that is here, or what has to be fetched."""
    from cxrbench.assets_models import HubId, resolve
    from cxrbench.config import plain
    from cxrbench.models.checkpoint import named_folder

    folder = named_folder(text)
    if not text.strip():
        raise CxrbenchError(f"--{key} is empty", where=f"--{key}", fix="name a folder, or ORG/NAME[@REVISION]")
    if folder.is_dir():
        return plain(folder)
    hub = None if folder.exists() else HubId.of(text)
    if hub is None:
        raise CxrbenchError(
            "this is a file, not a folder" if folder.exists() else "there is no such folder",
            where=f"--{key} {text}",
            fix="name the folder of the checkpoint, or a repository of the hub: ORG/NAME[@REVISION]",
        )
    try:
        return resolve(
            hub,
            settings,
            str(adapter.CARD.licence),
            weights=getattr(adapter, "weight_files", ()) if key == "path" else (),
            pickles=getattr(adapter, "pickles", False),
            no_network=no_network,
        )
    except CxrbenchError as error:
        raise CxrbenchError(error.what, where=f"--{key} {text}", fix=error.fix, code=error.code) from error


def _ask(adapter: Any, wanted: Mapping[str, Remote], accept: bool) -> None:
    """Say what would be downloaded under which terms, and ask.

    Raises:
        typer.Exit: the answer is no.
    """
    for key, remote in wanted.items():
        size = "size not listed" if remote.size is None else f"{remote.size / 1e6:,.1f} MB"
        typer.echo(f"--{key}: {remote.asset.repository}, commit {remote.commit}, {len(remote.files)} files, {size}")
    if wanted:
        typer.echo(f"  licence  {adapter.CARD.licence} (the card of {adapter.name}; the hub pages have the last word)")
        names = ", ".join(remote.asset.repository for remote in wanted.values())
        if not accept and not typer.confirm(f"fetch {names} under these terms?"):
            raise typer.Exit(Exit.USAGE)


def _download(remote: Remote, settings: Config) -> Path:
    from cxrbench.assets_models import download
    from cxrbench.cli.progress import stages

    with stages("MB") as bar:
        return download(
            remote,
            settings,
            lambda what, done, total: bar(what, done // 1_000_000, None if total is None else total // 1_000_000),
        )


def _places(adapter: Any) -> list[tuple[str, str]]:
    return [(str(key), str(what)) for key, what in adapter.places.items()]


def _open(adapter: Any, places: Mapping[str, Path], settings: Mapping[str, str]) -> Any:
    from cxrbench.models.base import ModelOptions

    for key in settings:
        if key not in adapter.settings:
            raise CxrbenchError(
                f"{adapter.name} has no setting {key!r}{suggest(key, adapter.settings)}",
                where="--set",
                fix=f"one of: {', '.join(adapter.settings)}",
            )
    return adapter(ModelOptions(places=places, extra=settings))


@app.command("add")
def add(
    name: Name,
    path: PathOption = None,
    base: Base = None,
    clip: Clip = None,
    offline: Offline = False,
    accept: Accept = False,
    here: Annotated[bool, typer.Option("--here", help="Write ./cxrbench.toml instead of the user's file.")] = False,
    config: opt.ConfigFile = None,
) -> None:
    """Remember where a model's checkpoint lies, after a look at it. Names, shapes, tokenizer are read, no weights.

    What is given replaces what was remembered for that folder. A checkpoint that does not fit is not remembered. A
    repository of the hub is fetched first and remembered with its commit.

    cxrbench models add slava --path DIR

    cxrbench models add slava --path bluesky333/SLaVA-CXR@main
    """
    from cxrbench.config import NAME, load_config, plain, remember_model

    adapter = _adapter(name)
    known = load_config(config, may_be_new=True)
    given = _given(adapter, {"path": path, "base": base, "clip": clip}, known, no_network=offline, accept=accept)
    if not given.folders:
        raise CxrbenchError(
            "no folder was given", fix="; ".join(f"--{each}: {what}" for each, what in _places(adapter))
        )
    places = {**known.models.get(name, {}), **given.folders}
    kept = {key: came for key, came in known.model_sources.get(name, {}).items() if key not in given.folders}
    if "path" in places:
        _look(adapter, places, given)
    else:
        typer.echo(f"note: {name} has no --path yet", err=True)
    target = plain(Path.cwd() / NAME) if here else known.file
    remember_model(target, name, places, {**kept, **given.sources})
    for key, came in given.sources.items():
        typer.echo(f"--{key}: {came}")
    typer.echo(f"remembered in {target}")


def _look(adapter: Any, places: Mapping[str, Path], given: Places) -> None:
    """Look at a checkpoint and tell what was found; one that was fetched in vain is named, for it takes room."""
    try:
        model = _open(adapter, places, adapter.trial(places))
        found = model.check()
        if hasattr(model, "check_words"):
            model.check_words()
        _tell(*found)
    except CxrbenchError:
        for key in given.sources:
            typer.echo(f"note: what was fetched for --{key} stays in {given.folders[key]}", err=True)
        raise


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
    offline: Offline = False,
    accept: Accept = False,
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
    known = opt.load_config(config)
    given = _given(adapter, {"path": path, "base": base, "clip": clip}, known, no_network=offline, accept=accept)
    places = {**known.models.get(name, {}), **given.folders}
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
    from cxrbench.cli.layout import console, table

    settings = opt.load_config(config)
    made = table(["model", "takes", "here"])
    for entry in registry.entries("models").values():
        adapter = entry.load()
        if getattr(adapter, "places", None):
            takes = "\n".join(f"--{key}: {what}" for key, what in _places(adapter))
            folders, sources = settings.models.get(entry.name, {}), settings.model_sources.get(entry.name, {})
            here = "\n".join(_lies(key, folder, sources.get(key)) for key, folder in folders.items()) or "not added"
            made.add_row(entry.name, takes, here)
    console().print(made)


def _lies(key: str, folder: Path, came: str | None) -> str:
    """A remembered folder, what it was fetched from, and whether it is still there."""
    told = f"{key}: {came if came is not None else folder}"
    return told if folder.is_dir() else f"{told} (gone)"
