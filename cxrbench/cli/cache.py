"""`cxrbench cache`: what cxrbench keeps outside run folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError, Exit

if TYPE_CHECKING:
    from cxrbench.config import Config

app = typer.Typer(help="What is kept outside run folders: purge.", no_args_is_help=True, rich_markup_mode=None)


@app.command("purge")
def purge(
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Only what was kept of this data set.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: opt.ConfigFile = None,
) -> None:
    """Delete prepared indexes, image caches, feature stores and judges' answers. Run folders and original data stay.

    A folder is deleted when it holds the file CXRBENCH_CACHE, which cxrbench writes into the folders it makes. Other
    folders are named and left alone; the exit code is then 3.
    """
    from cxrbench.cli.layout import size
    from cxrbench.config import forget
    from cxrbench.privacy import MARKER

    mine, others = _folders(dataset, opt.load_config(config))
    for folder, why in others.items():
        typer.echo(f"left alone: {folder}: {why.format(marker=MARKER)}", err=True)
    for folder in mine:
        used = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        typer.echo(f"{folder}  {size(used)}")
    if mine:
        if not yes and not typer.confirm("delete these?"):
            raise typer.Exit(Exit.USAGE)
        for folder in mine:
            _delete(folder)
            forget(config, [folder])
        typer.echo("deleted")
    elif not others:
        typer.echo("nothing is kept")
    if others:
        raise typer.Exit(Exit.UNDECIDED)


def _delete(folder: Path) -> None:
    try:
        shutil.rmtree(folder.resolve())
        if folder.is_symlink():
            folder.unlink()
    except OSError as error:
        raise CxrbenchError(
            f"a folder cannot be deleted: {error.strerror}", where=str(folder), code=Exit.INFRASTRUCTURE
        ) from error


def _folders(dataset: str | None, settings: Config) -> tuple[list[Path], dict[Path, str]]:
    """The folders to delete, and those that are left alone with the reason why."""
    from cxrbench.config import cache_dir
    from cxrbench.privacy import is_claimed

    data = settings.data
    if dataset is not None:
        from cxrbench import registry
        from cxrbench.scores import BARE

        if dataset != BARE:
            registry.find("datasets", dataset)
        data = {name: entry for name, entry in data.items() if name == dataset}
    named = {path for entry in data.values() for path in (entry.prepared, entry.image_cache) if path is not None}
    for kind in ("data", "features", "judges", "metrics"):
        kept = cache_dir() / kind
        named |= {kept / dataset} if dataset is not None else set(kept.glob("*"))
    roots = [path for entry in settings.data.values() for given in entry.roots.values() for path in given]
    mine, others = [], {}
    for folder in sorted(path.absolute() for path in named if path.is_dir()):
        if not is_claimed(folder):
            others[folder] = "it holds no {marker}, so cxrbench did not make it"
        elif _holds(folder, roots):
            others[folder] = "original data that the settings name lie in it"
        else:
            mine.append(folder)
    return [path for path in mine if not any(other in path.parents for other in mine)], others


def _holds(folder: Path, roots: Iterable[Path]) -> bool:
    place = folder.resolve()
    return any(place in (path.resolve(), *path.resolve().parents) for path in roots)
