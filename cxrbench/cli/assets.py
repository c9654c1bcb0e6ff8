"""`cxrbench assets`: the weights, tokenizers and encoders that metrics need, fetched only when asked to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxrbench.cli import options as opt
from cxrbench.errors import CxrbenchError, Exit, suggest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.table import Table

    from cxrbench.assets import Asset, State
    from cxrbench.assets_fetch import Remote
    from cxrbench.config import Config

app = typer.Typer(
    help="Weights that metrics need: plan, list, fetch, verify, pack, unpack.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Names = Annotated[list[str], typer.Argument(help="Assets; `cxrbench assets list` shows all.", show_default=False)]
Archive = Annotated[Path, typer.Argument(help="A tar file.", show_default=False)]
Update = Annotated[bool, typer.Option("--update", help="Replace what is recorded by another commit.")]


# plan and list


@app.command("plan")
def plan(
    model: Annotated[str | None, typer.Option("--model", "-m", help="A model.", show_default=False)] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="A task.", show_default=False)] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", help="Metrics, added to those of the task.", show_default=False)
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    config: opt.ConfigFile = None,
) -> None:
    """Show what a run would need: size, licence, revision, here or missing. Nothing is fetched.

    cxrbench assets plan --task mimic-findings --metrics chexbert-f1,bertscore:rexrank
    """
    settings = opt.load_config(config)
    if model is None and task is None and metrics is None:
        raise CxrbenchError("a plan is for a run", fix="cxrbench assets plan --task TASK [--metrics a,b] [--model M]")
    _check_model(model)
    why: dict[str, list[str]] = {}
    assets: dict[str, Asset] = {}
    for asset, metric in _users(task, opt.metric_names(metrics)):
        assets[asset.name] = asset
        why.setdefault(asset.name, []).append(metric)
    states = _states(assets.values(), settings)
    if json_output:
        rows = [{**_row(asset, states[asset.name]), "for": why[asset.name]} for asset in assets.values()]
        typer.echo(json.dumps(rows, indent=2))
        return
    if not assets:
        typer.echo("nothing has to be fetched")
        return
    _show(list(assets.values()), states, why)
    lost = [asset for asset in assets.values() if states[asset.name].status in ("missing", "damaged")]
    if lost:
        sizes = [_known_bytes(asset, states[asset.name]) for asset in lost]
        known = [size for size in sizes if size is not None]
        said = [f"{_mb(sum(known))} MB"] if known else []
        said += [f"{sizes.count(None)} of unknown size"] if None in sizes else []
        typer.echo(f"to fetch: {', and '.join(said)}")
        typer.echo(f"to do: cxrbench assets fetch {' '.join(asset.name for asset in lost)}")
    elif all(found.usable for found in states.values()):
        typer.echo("everything is here")


def _check_model(model: str | None) -> None:
    """Models that are known need no assets: they are built in, or folders the user names."""
    if model is not None:
        from cxrbench import registry

        registry.find("models", model.partition(":")[0])


def _users(task: str | None, metrics: list[str]) -> list[tuple[Asset, str]]:
    """(asset, metric) for the metrics of a task and those named."""
    from cxrbench.assets import needed_by
    from cxrbench.data.phantom import Phantom

    keys = list(metrics)
    if task is not None:
        from cxrbench.spec import find_task

        spec = find_task(task)
        if spec.dataset.name == Phantom.name:
            return []  # what reads phantom travels in the package
        keys = [*spec.metrics.required, *spec.metrics.optional, *keys]
    return [(asset, key) for key in dict.fromkeys(map(_key, keys)) for asset in needed_by(key)]


def _key(metric: str) -> str:
    """The metric with its preset, where one was left out and the metric has a default.

    Raises:
        CxrbenchError: neither a metric nor a user of an asset has this name.
    """
    from cxrbench import registry
    from cxrbench.assets import metrics, needed_by

    name, colon, _ = metric.partition(":")
    known = registry.entries("metrics")
    if name in known:
        return metric if colon else f"{metric}:{known[name].load().default_preset}"
    if not needed_by(metric):
        every = {*known, *(use.partition(":")[0] for use in metrics())}
        raise CxrbenchError(
            f"there is no metric called {name!r}{suggest(name, every)}", where="--metrics", fix="cxrbench list metrics"
        )
    return metric


@app.command("list")
def list_assets(
    json_output: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
    config: opt.ConfigFile = None,
) -> None:
    """List all assets, which metrics use them, and which are here."""
    from cxrbench.assets import root, table

    settings = opt.load_config(config)
    assets = list(table().values())
    states = _states(assets, settings)
    if json_output:
        typer.echo(json.dumps([_row(asset, states[asset.name]) for asset in assets], indent=2))
        return
    _show(assets, states, {asset.name: asset.used_by for asset in assets})
    typer.echo(f"folder: {root(settings)}")


def _states(assets: Iterable[Asset], settings: Config) -> dict[str, State]:
    from cxrbench.assets import state

    return {asset.name: state(asset.name, settings) for asset in assets}


def _row(asset: Asset, found: State) -> dict[str, object]:
    record = found.record
    return {
        "name": asset.name,
        "kind": asset.kind,
        "about": asset.about,
        "repository": asset.repository,
        "revision": record.commit if record else asset.revision,
        "bytes": record.size if record else None,
        "megabytes_known": asset.megabytes,
        "licence": asset.licence,
        "terms": asset.terms,
        "used_by": list(asset.used_by),
        "status": found.status,
        "reason": found.reason,
        "folder": str(found.folder),
    }


_HERE = {"here": "here", "own": "here (own)", "missing": "missing", "damaged": "damaged", "foreign": "not whole"}


def _show(assets: Sequence[Asset], states: dict[str, State], why: Mapping[str, Sequence[str]]) -> None:
    """One row per asset; licences are long, so each stands once, below."""
    from cxrbench.cli.layout import console, table, whole

    made = table(["asset", "kind", "MB", "revision", "", "for"], right=(2,))
    for asset in assets:
        found = states[asset.name]
        revision = found.record.commit[:12] if found.record else asset.revision
        uses = ", ".join(why[asset.name])
        made.add_row(asset.name, asset.kind, _mb(_known_bytes(asset, found)), revision, _HERE[found.status], uses)
    out = console()
    for each in (whole(made), _licences(assets)):
        out.print(each)
        out.print()
    for name, found in states.items():
        if found.reason:
            out.print(f"{name}: {found.reason}")
    if any(_known_bytes(asset, states[asset.name]) is None for asset in assets):
        out.print("?: not known before the first fetch, which records it")


def _licences(assets: Iterable[Asset]) -> Table:
    """One row per licence, with the assets that have it."""
    from cxrbench.cli.layout import table

    found: dict[str, list[str]] = {}
    for asset in assets:
        found.setdefault(f"{asset.licence}; {asset.terms}", []).append(asset.name)
    made = table(["licence and terms", "of"])
    for licence, names in found.items():
        made.add_row(licence, ", ".join(names))
    return made


def _known_bytes(asset: Asset, found: State) -> float | None:
    if found.record is not None:
        return found.record.size
    return asset.megabytes * 1e6 if asset.megabytes is not None else None


def _mb(size: float | None) -> str:
    """Megabytes for a table.

    >>> _mb(1_253_500_000), _mb(26_000), _mb(None)
    ('1,253.5', '<0.1', '?')
    """
    if size is None:
        return "?"
    return f"{size / 1e6:,.1f}" if size >= 50_000 else "<0.1"


# fetch and verify


@app.command("fetch")
def fetch(
    names: Names,
    accept: Annotated[
        bool, typer.Option("--accept-licence", "--yes", help="Accept the licences that are printed; do not ask.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", help="A commit, tag or branch, for one asset.", show_default=False)
    ] = None,
    update: Update = False,
    config: opt.ConfigFile = None,
) -> None:
    """Download assets from the Hugging Face hub. Nothing else but `models` does; broken downloads go on.

    What an asset cannot do without is fetched along. The first fetch records commit and checksums; later ones stay at
    that commit unless --update is given. HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are heeded.

    cxrbench assets fetch chexbert
    """
    from cxrbench.assets import expand
    from cxrbench.assets_fetch import encoder_note, resolve
    from cxrbench.assets_fetch import fetch as fetch_one
    from cxrbench.cli.progress import stages

    settings = opt.load_config(config)
    if revision is not None and len(names) != 1:
        raise CxrbenchError("--revision is for one asset", where=f"--revision {revision}", fix="fetch them one by one")
    wanted: list[Remote] = []
    for asset in expand(names):
        pinned = revision if asset.name in names else None
        remote = resolve(asset.name, settings, revision=pinned, update=update and asset.name in names)
        if remote is None:
            typer.echo(f"{asset.name}: here already")
        else:
            wanted.append(remote)
    _ask(wanted, accept)
    for remote in wanted:
        with stages("MB") as bar:
            record = fetch_one(remote, settings, lambda what, done, total: bar(what, *_in_mb(done, total)))
        typer.echo(f"{remote.asset.name}: fetched, commit {record.commit}, {_mb(record.size)} MB")
        note = encoder_note(remote.asset, _states([remote.asset], settings)[remote.asset.name].folder)
        if note:
            typer.echo(f"note: {note}", err=True)


def _in_mb(done: int, total: int | None) -> tuple[int, int | None]:
    return done // 1_000_000, None if total is None else total // 1_000_000


def _ask(wanted: Sequence[Remote], accept: bool) -> None:
    """Print licences and terms, and ask for what was not fetched before under them.

    Raises:
        typer.Exit: the answer is no.
    """
    new = []
    for remote in wanted:
        asset, size = remote.asset, remote.size
        megabytes = f"{_mb(size)} MB" if size is not None else "size not listed"
        typer.echo(f"{asset.name}: {asset.about}")
        typer.echo(f"  from     {asset.repository}, commit {remote.commit[:12]}, {megabytes}")
        typer.echo(f"  licence  {asset.licence}")
        typer.echo(f"  terms    {asset.terms}")
        before = remote.before
        if before is None or (before.licence, before.terms) != (asset.licence, asset.terms):
            new.append(asset.name)
    if new and not accept and not typer.confirm(f"fetch {', '.join(new)} under these terms?"):
        raise typer.Exit(Exit.USAGE)


@app.command("verify")
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Assets; default: all that are here.", show_default=False)
    ] = None,
    config: opt.ConfigFile = None,
) -> None:
    """Read every file of assets and compare it with its lock record.

    Exit 1 when a file is damaged, 3 when a named asset cannot be checked (missing, or your own files without a record).
    """
    from cxrbench.assets import expand, table
    from cxrbench.assets_lock import damage
    from cxrbench.cli.progress import stages

    settings = opt.load_config(config)
    states = _states(expand(names) if names else table().values(), settings)
    code = Exit.OK
    for name, found in states.items():
        if found.status == "missing" and not names:
            continue
        if found.record is not None:
            with stages("MB") as bar:
                lines = damage(found.folder, found.record, lambda what, done, total: bar(what, *_in_mb(done, total)))
            lines = lines or ([found.reason] if found.reason else [])
        else:
            lines = [found.reason] if found.status == "damaged" else []
        if lines:
            code = Exit.REGRESSION
            typer.echo(f"{name}: damaged: {'; '.join(lines)}")
            typer.echo(f"  to do: cxrbench assets fetch {name}")
        elif found.status == "here" and found.record is not None:
            count = len(found.record.files)
            typer.echo(f"{name}: ok, {count} {'file' if count == 1 else 'files'}, commit {found.record.commit[:12]}")
        else:
            said = "missing" if found.status == "missing" else "your own files, no lock record to compare with"
            typer.echo(f"{name}: not checked: {said}")
            code = max(code, Exit.UNDECIDED) if names and code == Exit.OK else code
    if not any(found.status != "missing" for found in states.values()) and not names:
        typer.echo("no asset is here")
    if code:
        raise typer.Exit(code)


# pack and unpack


@app.command("pack")
def pack(file: Archive, names: Names, config: opt.ConfigFile = None) -> None:
    """Write assets into one tar file, to carry them to a machine without a network.

    What an asset cannot do without is packed along. The licences printed go with the archive.

    cxrbench assets pack assets.tar chexbert radgraph
    """
    from cxrbench.assets import expand
    from cxrbench.assets_pack import pack as pack_all
    from cxrbench.cli.layout import console
    from cxrbench.cli.progress import stages

    settings = opt.load_config(config)
    assets = expand(names)
    with stages("MB") as bar:
        digest = pack_all(file, assets, settings, lambda what, done, total: bar(what, *_in_mb(done, total)))
    typer.echo(f"{file}: {', '.join(asset.name for asset in assets)}, {_mb(file.stat().st_size)} MB")
    typer.echo(f"SHA-256 {digest}")
    console().print(_licences(assets))


@app.command("unpack")
def unpack(file: Archive, update: Update = False, config: opt.ConfigFile = None) -> None:
    """Install the assets of a tar file that `pack` wrote, after checking every file of it.

    The checks find damage, not forgery: compare the SHA-256 that `pack` printed with `sha256sum FILE` first.
    """
    from cxrbench.assets import root
    from cxrbench.assets_pack import unpack as unpack_all
    from cxrbench.cli.progress import stages

    if not file.is_file():
        raise CxrbenchError("there is no such file", where=str(file), fix="check the path")
    settings = opt.load_config(config)
    with stages("MB") as bar:
        outcomes = unpack_all(file, settings, lambda what, done, total: bar(what, *_in_mb(done, total)), update=update)
    for name, outcome in outcomes.items():
        typer.echo(f"{name}: {outcome}")
    typer.echo(f"folder: {root(settings)}")
