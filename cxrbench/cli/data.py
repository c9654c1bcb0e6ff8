"""`cxrbench data`: say once where data lie, look at what is there, build an index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError, Exit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cxrbench.config import DataEntry
    from cxrbench.data.base import Check, Dataset
    from cxrbench.data.load import TaskData
    from cxrbench.spec import TaskSpec
    from cxrbench.types import Sample

app = typer.Typer(help="Where data lie: add, check, prepare, list.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="A data set; `cxrbench list datasets`.")]


def _entry(name: str, config: Path | None) -> tuple[Dataset, DataEntry]:
    from cxrbench.config import DataEntry
    from cxrbench.data.load import open_dataset

    dataset = open_dataset(name)
    return dataset, opt.load_config(config).data.get(name, DataEntry())


@app.command("add")
def add(
    name: Name,
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Paths to sort by what they look like.", show_default=False)
    ] = None,
    reports: opt.Reports = None,
    images: opt.Images = None,
    tables: opt.Tables = None,
    annotations: opt.Annotations = None,
    demographics: opt.DemographicsRoot = None,
    here: Annotated[bool, typer.Option("--here", help="Write ./cxrbench.toml instead of the user's file.")] = False,
    config: opt.ConfigFile = None,
) -> None:
    """Remember where a data set lies, and look at it. What is given replaces what was remembered for that root.

    Exit 1 when something is wrong with what is there; it is remembered all the same. What is not given yet is no error.

    cxrbench data add mimic-cxr --reports FILES --images JPG --tables CSVS
    """
    from cxrbench.config import NAME, DataEntry, load_config, own_entry, plain, remember
    from cxrbench.data.load import open_dataset

    dataset = open_dataset(name)
    given = opt.roots(reports, images, tables, annotations, demographics)
    for path in paths or ():
        if not path.exists():
            raise CxrbenchError("there is no such file or folder", where=str(path))
        path = plain(path)
        root = dataset.recognise(path)
        if root is None:
            raise CxrbenchError(
                f"{name} does not recognise this path", where=str(path), fix=f"name its root: {_root_options(dataset)}"
            )
        given[root] = (*given.get(root, ()), path)
    unknown = set(given) - set(dataset.roots)
    if unknown or not given:
        raise CxrbenchError(
            f"{name} has no root {sorted(unknown)[0]!r}" if unknown else "no root was given",
            fix=f"{_root_options(dataset)}" if dataset.roots else f"{name} needs none",
        )
    settings = load_config(config, may_be_new=True)
    target = Path.cwd() / NAME if here else settings.file
    old = own_entry(target, name)
    remember(target, name, DataEntry({**old.roots, **given}, prepared=None, image_cache=old.image_cache))
    checks = dataset.check(_entry(name, config)[1].roots)
    _show_checks(checks)
    _remembered(target, checks)


def _remembered(target: Path, checks: Sequence[Check]) -> None:
    """The last line of a command, and exit 1 when something is wrong; what is only missing may still come."""
    wrong = any(line.status == "problem" for line in checks)
    typer.echo(f"remembered {'all the same ' if wrong else ''}in {target}")
    if wrong:
        raise typer.Exit(Exit.REGRESSION)


def _root_options(dataset: Dataset) -> str:
    return "; ".join(f"--{root} ({about.help})" for root, about in dataset.roots.items())


def _show_checks(checks: Sequence[Check]) -> None:
    """Print what a check found, then what to do, a line each that nothing wraps: it is there to be copied."""
    from cxrbench.cli.layout import console, table

    made = table(["", "what", "found"])
    fixes: dict[str, list[str]] = {}
    for line in checks:
        made.add_row(line.status, line.item, line.found)
        if line.fix:
            fixes.setdefault(line.fix, []).append(line.item)
    console().print(made)
    for fix, items in fixes.items():
        typer.echo(f"to do ({', '.join(dict.fromkeys(items))}): {fix}")


def _fine(checks: Sequence[Check]) -> bool:
    return all(line.status in ("ok", "note") for line in checks)


@app.command("check")
def check(
    name: Name,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the lines as JSON: item, status, found, fix.")
    ] = False,
    config: opt.ConfigFile = None,
) -> None:
    """Look at a data set: what is there, what is missing, what to do.

    Exit 1 when sources contradict each other, are damaged or double, when a root is wrong, or when no task could run.
    A form that you do not have is a note.
    """
    dataset, entry = _entry(name, config)
    checks = [*dataset.check(entry.roots), *_index(name, dataset, entry)]
    if json_output:
        rows = [{"item": c.item, "status": c.status, "found": c.found, "fix": c.fix} for c in checks]
        typer.echo(json.dumps(rows, indent=2))
    else:
        _show_checks(checks)
    if not _fine(checks):
        raise typer.Exit(Exit.REGRESSION)


@app.command("prepare")
def prepare(
    name: Name,
    out: Annotated[Path | None, typer.Option("--out", help="Where the index goes.", show_default=False)] = None,
    image_cache: Annotated[
        str | None,
        typer.Option("--image-cache", help="full, or the short side in pixels (changes pixels).", show_default=False),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", "-t", help="Cache the images of this task.", show_default=False)
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Threads that decode images.")] = 2,
    config: opt.ConfigFile = None,
) -> None:
    """Build an index, so that later runs need not walk the folders again. --image-cache: decoded images, too.

    The folder must be new, empty, or one that `prepare` made: `cxrbench cache purge` deletes it whole. Exit 1 when
    something is wrong with the data; the index is there and remembered all the same.

    cxrbench data prepare mimic-cxr

    cxrbench data prepare mimic-cxr --image-cache full --task mimic-findings
    """
    from dataclasses import replace

    from cxrbench.cli.progress import progress
    from cxrbench.config import cache_dir, own_entry, remember
    from cxrbench.privacy import claiming

    dataset, entry = _entry(name, config)
    short_side = _short_side(image_cache, task)
    specs = _tasks_on(name, task or [])
    target = opt.load_config(config).file
    with claiming(out.absolute() if out is not None else cache_dir() / "data" / name) as folder:
        with progress(f"preparing {name}", "studies") as report:
            checks = dataset.prepare(entry.roots, folder, report)
        _note(folder, checks)
        _show_checks(checks)
        own = replace(own_entry(target, name), prepared=folder)
        remember(target, name, own)
    if image_cache is not None:  # what is decoded before a failure stays: the same command goes on from there
        pixels = folder / f"images-{image_cache}"
        _cache_images(specs, pixels, short_side, workers, config)
        remember(target, name, replace(own, image_cache=pixels))
    _remembered(target, checks)


_NOTE = "prepared.json"
"""What `prepare` leaves for `check` in the folder: when it was built and what it found."""


def _note(folder: Path, checks: Sequence[Check]) -> None:
    from datetime import UTC, datetime

    from cxrbench.atomic import write_atomic

    found = [line.found for line in checks if line.item == "index" and line.status == "ok"]
    built = datetime.now(UTC).isoformat(timespec="minutes")
    write_atomic(folder / _NOTE, json.dumps({"built": built, "index": found[0] if found else None}).encode())


def _index(name: str, dataset: Dataset, entry: DataEntry) -> list[Check]:
    """The line of `check` about the index that was prepared: how old it is, and whether it is used."""
    from cxrbench.data.base import Check, Indexed

    again = f"cxrbench data prepare {name}"
    if entry.prepared is None:
        return []
    try:
        note = json.loads((entry.prepared / _NOTE).read_text(encoding="utf-8"))
        built, found = note["built"], note["index"]
    except (OSError, ValueError, KeyError, TypeError):
        return [Check("index", "problem", f"there is none in {entry.prepared}: the data are read directly", again)]
    if found is None:
        return []
    try:
        used = not isinstance(dataset, Indexed) or dataset.index_in_use(entry.roots, entry.prepared)
    except CxrbenchError as error:
        return [Check("index", "problem", f"built {built}, {error.what}", error.fix)]
    if not used:
        return [Check("index", "note", f"built {built} from other files: not used, the data are read directly", again)]
    noticed = f"a later change of single files may go unnoticed: after one, `{again}`"
    return [Check("index", "ok", f"built {built}, {found}; in use; {noticed}")]


def _short_side(image_cache: str | None, task: list[str] | None) -> int | None:
    """What `--image-cache` says: None keeps every pixel.

    Raises:
        CxrbenchError: it is neither `full` nor a number of pixels, or no task says which images are meant.
    """
    if image_cache is None:
        return None
    if not task:
        raise CxrbenchError("--image-cache needs to know which images", fix="--task TASK, as often as wanted")
    if image_cache == "full":
        return None
    if not image_cache.isdecimal() or int(image_cache) < 32:
        raise CxrbenchError(
            f"--image-cache cannot be {image_cache!r}", fix="full, or a short side of at least 32 pixels"
        )
    return int(image_cache)


def _tasks_on(name: str, tasks: Sequence[str]) -> list[TaskSpec]:
    """The tasks named.

    Raises:
        CxrbenchError: there is no such task, or it is one on another data set.
    """
    from cxrbench.spec import find_task

    specs = [find_task(text) for text in tasks]
    for spec, text in zip(specs, tasks, strict=True):
        if spec.dataset.name != name:
            raise CxrbenchError(f"{spec.name} is a task on {spec.dataset.name}, not on {name}", where=f"--task {text}")
    return specs


def _cache_images(
    specs: Sequence[TaskSpec], folder: Path, short_side: int | None, workers: int, config: Path | None
) -> None:
    """Decode the images that tasks offer, train split included, into a cache folder."""
    from cxrbench.cli.layout import size
    from cxrbench.cli.progress import progress
    from cxrbench.data.image_cache import build
    from cxrbench.data.load import TaskData

    paths: dict[str, None] = {}
    for spec in specs:
        data = TaskData.find(spec, opt.load_config(config))
        samples = (*data.samples.samples, *_pool(data))
        paths |= dict.fromkeys(image.path for sample in samples for image in sample.images)
    with progress("decoding images", "images") as report:
        built = build(paths, folder, short_side, workers, report, len(paths))
    failed = "".join(f", {count} {outcome}" for outcome, count in built.failed.items())
    typer.echo(f"images: {built.written} decoded, {built.kept} there before, {size(built.size)} written{failed}")


def _pool(data: TaskData) -> Sequence[Sample]:
    """The train split, where there is one: runs whose model and metrics learn nothing do without."""
    if not data.has_pool:
        return ()
    try:
        return data.pool
    except CxrbenchError as error:
        typer.echo(f"note: {data.spec.name}: no image of the train split is cached: {error}", err=True)
        return ()


@app.command("list")
def list_data(config: opt.ConfigFile = None) -> None:
    """List the data sets and where they lie on this machine."""
    from cxrbench import registry
    from cxrbench.cli.layout import console, table
    from cxrbench.config import DataEntry
    from cxrbench.data.load import open_dataset

    known = opt.load_config(config).data
    made = table(["data set", "access", "here"])
    for name in registry.entries("datasets"):
        dataset = open_dataset(name)
        entry = known.get(name, DataEntry())
        lines = [f"{root}: {path}" for root, paths in entry.roots.items() for path in paths]
        lines += [f"prepared: {entry.prepared}"] if entry.prepared else []
        lines += [f"image cache: {entry.image_cache}"] if entry.image_cache else []
        here = "\n".join(lines) or ("made on the spot" if not dataset.roots else "not added")
        made.add_row(name, dataset.access, here)
    console().print(made)
