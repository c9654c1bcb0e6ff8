"""What metrics fetch from elsewhere: the table of assets, where they lie, what is missing. No network, ever.

An asset is a folder, by default `$XDG_CACHE_HOME/cxrbench/assets/NAME/`, with its files and a lock record beside them
(cxrbench-asset.json: commit, sizes, SHA-256, date). `[assets]` in cxrbench.toml names another place for all of them, or
the user's own copy of one. What each asset is stands in assets.toml. Fetching is in assets_fetch, carrying archives
across an air gap in assets_pack. Touches types, errors, config and the standard library.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from cxrbench.assets_lock import RECORD, Record, read_record, wrong_sizes
from cxrbench.config import Config, cache_dir, load_config
from cxrbench.errors import CxrbenchError, Exit, suggest

TABLE = Path(__file__).resolve().with_name("assets.toml")

Kind = Literal["metric weights", "tokenizer", "encoder", "jar", "model"]
_NOUNS: Mapping[str, str] = {
    "metric weights": "the weights of",
    "tokenizer": "the tokenizer of",
    "encoder": "the encoder",
    "jar": "the Java archive",
    "model": "the model",
}


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a file before it is first fetched; `megabytes` is rounded and only shown."""

    megabytes: float | None = None
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Asset:
    """One table of assets.toml, which explains the fields."""

    name: str
    title: str
    kind: Kind
    about: str
    repository: str
    revision: str
    files: tuple[str, ...]
    licence: str
    terms: str
    used_by: tuple[str, ...]
    also: tuple[str, ...] = ()
    one_of: tuple[tuple[str, ...], ...] = ()
    if_there: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    known: Mapping[str, Known] = field(default_factory=dict)

    @property
    def phrase(self) -> str:
        """What an error calls it: `the weights of CheXbert`."""
        return f"{_NOUNS[self.kind]} {self.title}"

    @property
    def archived(self) -> bool:
        """Whether its files are archives that are unpacked after fetching."""
        return bool(self.holds)

    @property
    def megabytes(self) -> float | None:
        """The size of its files as far as it is known before they are fetched."""
        known = [entry.megabytes for entry in self.known.values() if entry.megabytes]
        return sum(known) if known else None

    def lacking(self, there: Iterable[str]) -> str | None:
        """The first file without which the asset is not whole, given the names of those in its folder."""
        names = set(there)
        groups = [(name,) for name in self.holds or self.files] + ([] if self.holds else list(self.one_of))
        return next((" or ".join(group) for group in groups if not names & set(group)), None)


@dataclass(frozen=True, slots=True)
class State:
    """Whether an asset is at its place.

    `here`: the files of the lock record, by name and size. `damaged`: one of them, or the record, is not as it was.
    `own`: the user's own files, without a record, as many as are needed; `foreign`: not as many. `reason` says what is
    wrong where something is. `named`: the place is one that [assets.paths] names.
    """

    folder: Path
    status: Literal["here", "damaged", "own", "foreign", "missing"]
    named: bool = False
    record: Record | None = None
    reason: str = ""

    @property
    def usable(self) -> bool:
        return self.status in ("here", "own")


# The table


def _asset(name: str, body: Mapping[str, Any]) -> Asset:
    rest = dict(body)
    known = {file: Known(**entry) for file, entry in rest.pop("known", {}).items()}
    companions = tuple(rest.pop("with", ()))
    groups = tuple(tuple(group) for group in rest.pop("one_of", ()))
    lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in rest.items()}
    return Asset(name=name, companions=companions, one_of=groups, known=known, **lists)


@functools.cache
def table() -> Mapping[str, Asset]:
    """All assets by name, in the order of assets.toml."""
    return {name: _asset(name, body) for name, body in tomllib.loads(TABLE.read_text(encoding="utf-8")).items()}


def find(name: str) -> Asset:
    """The asset called `name`.

    Raises:
        CxrbenchError: there is none; suggests the nearest name.
    """
    if name not in table():
        raise CxrbenchError(f"there is no asset called {name!r}{suggest(name, table())}", fix="cxrbench assets list")
    return table()[name]


def expand(names: Iterable[str]) -> list[Asset]:
    """The assets, each followed by those it cannot do without; none twice.

    >>> [asset.name for asset in expand(["chexbert"])]
    ['chexbert', 'bert-base-uncased']
    """
    found: dict[str, Asset] = {}
    waiting = list(names)
    while waiting:
        asset = find(waiting.pop(0))
        if asset.name not in found:
            found[asset.name] = asset
            waiting[:0] = asset.companions
    return list(found.values())


def metrics() -> list[str]:
    """The metrics that need an asset, as the table names them."""
    return sorted({use for asset in table().values() for use in asset.used_by})


def needed_by(metric: str) -> list[Asset]:
    """Assets of a metric, `name` or `name:preset`; [] where it needs none.

    A preset that no asset names has those of the bare name; a bare name that none names has those of every preset.

    >>> [asset.name for asset in needed_by("semb-score")]
    ['chexbert', 'bert-base-uncased']
    """
    name = metric.partition(":")[0]
    uses = metrics()
    presets = [use for use in uses if ":" in use and fnmatchcase(metric, use)]
    every = [use for use in uses if use.startswith(f"{name}:")] if metric == name else []
    of_name = [name] if name in uses else every
    meant = presets or of_name
    return [asset for asset in table().values() if set(meant) & set(asset.used_by)]


# Where they lie


def root(config: Config) -> Path:
    """The folder of fetched assets."""
    return config.assets.folder if config.assets.folder is not None else cache_dir() / "assets"


def state(name: str, config: Config) -> State:
    """What is at an asset's place: names and sizes are looked at, contents are not (`assets_lock.damage` does)."""
    _check_paths(config)
    asset, named = find(name), config.assets.paths.get(name)
    folder = root(config) / name if named is None else named
    if named is not None and named.name in (asset.holds or asset.files) and named.is_file():
        folder = named.parent
    names = _names(folder)
    lacking = asset.lacking(names)
    if not names and named is None:
        return State(folder, "missing")
    if named is not None or RECORD not in names:
        return State(
            folder,
            "foreign" if lacking else "own",
            named is not None,
            reason=f"{lacking} is missing" if lacking else "",
        )
    try:
        record = read_record(folder)
    except CxrbenchError as error:
        return State(folder, "damaged", reason=error.what)
    lines = [*wrong_sizes(folder, record), *([f"{lacking} is missing"] if lacking else [])]
    if record.asset != name:
        lines.insert(0, f"its lock record is that of {record.asset}")
    return State(folder, "damaged" if lines else "here", record=record, reason=lines[0] if lines else "")


def _check_paths(config: Config) -> None:
    for name in config.assets.paths:
        if name not in table():
            raise CxrbenchError(
                f"there is no asset called {name!r}{suggest(name, table())}",
                where="cxrbench.toml, assets.paths",
                fix="cxrbench assets list",
            )


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def locate(name: str, config: Config) -> Path:
    """The folder with an asset's files, ready to be read.

    Raises:
        CxrbenchError: it is not here; the fix is the command that fetches it.
    """
    found = state(name, config)
    if not found.usable:
        what, fix = _problem(find(name), found)
        raise CxrbenchError(what, where=str(found.folder), fix=fix, code=Exit.UNDECIDED)
    return found.folder


def missing(*names: str, config: Config | None = None) -> str | None:
    """None where the assets and those they cannot do without are here, else one sentence with the command to type.

    In the manner of `Metric.ready`: "needs the weights of CheXbert: cxrbench assets fetch chexbert".
    """
    settings = config if config is not None else load_config()
    states = {asset.name: state(asset.name, settings) for asset in expand(names)}
    broken = [(find(name), found) for name, found in states.items() if not found.usable]
    other = next((pair for pair in broken if pair[1].status != "missing"), None)
    if other is not None:
        return ": ".join(_problem(*other))
    names_of = " ".join(asset.name for asset, _ in broken)
    return f"needs {' and '.join(a.phrase for a, _ in broken)}: cxrbench assets fetch {names_of}" if broken else None


def _problem(asset: Asset, found: State) -> tuple[str, str]:
    """What is wrong with an asset that cannot be used, and what to do."""
    fetch = f"cxrbench assets fetch {asset.name}"
    what = f"needs {asset.phrase}"
    if found.status == "missing":
        return what, fetch
    if found.named:
        return f"{what}; {found.reason} in the folder [assets.paths] names", f"correct {found.folder} in cxrbench.toml"
    if found.status == "foreign":
        return f"{what}; {found.reason} among the files in its folder", f"move {found.folder} away, then {fetch}"
    return f"{what}; its copy is damaged ({found.reason})", fetch
