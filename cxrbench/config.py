"""cxrbench.toml: where data and assets lie, what was prepared, which endpoints are trusted. Touches types, errors only.

Two files are read, the nearer one wins key by key: `cxrbench.toml` in the working directory, and the user's own
(`$XDG_CONFIG_HOME/cxrbench/cxrbench.toml`, by default under ~/.config). `--config FILE` reads that file alone.
Relative paths start at the folder of the file they stand in. Which endpoints are trusted is the user's to say: a file
that came with a folder (a clone, an archive) may not.
"""

from __future__ import annotations

import os
import reprlib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.reading import SMALL, read_regular

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

NAME = "cxrbench.toml"


@dataclass(frozen=True, slots=True)
class DataEntry:
    """What `cxrbench data add` and `prepare` remembered of a data set."""

    roots: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    prepared: Path | None = None
    image_cache: Path | None = None


MODEL_PLACES: Mapping[str, str] = {
    "path": "its checkpoint",
    "base": "the language model its weights are differences to",
    "clip": "OpenAI's CLIP, whose image tower it uses",
}
"""What `cxrbench models add` remembers of a model: folders by what lies there."""


@dataclass(frozen=True, slots=True)
class AssetPlaces:
    """Where fetched assets go (None: the cache folder), and where the user's own copies of single ones lie."""

    folder: Path | None = None
    paths: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Config:
    """The merged settings. `trusted_endpoints` maps a host to the agreement that allows it. `file` is written to."""

    file: Path
    data: Mapping[str, DataEntry] = field(default_factory=dict)
    trusted_endpoints: Mapping[str, str] = field(default_factory=dict)
    assets: AssetPlaces = field(default_factory=AssetPlaces)
    models: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    """Folders of each model, by `MODEL_PLACES`."""
    model_sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Where folders of a model were fetched from, `ORG/NAME@COMMIT`, by `MODEL_PLACES`."""


def user_file() -> Path:
    """The user's own settings file."""
    return _base("XDG_CONFIG_HOME", ".config") / NAME


def cache_dir() -> Path:
    """Where prepared indexes and caches go by default (`$XDG_CACHE_HOME/cxrbench`)."""
    return _base("XDG_CACHE_HOME", ".cache")


def _base(variable: str, default: str) -> Path:
    """A base folder of the user; as the XDG rules have it, a relative one counts as not given."""
    given = Path(os.environ.get(variable, ""))
    return (given if given.is_absolute() else Path.home() / default) / "cxrbench"


def plain(path: Path) -> Path:
    """The absolute path without `..`. A path without `..` keeps its links: they may be the user's way to move data."""
    return path.resolve() if ".." in path.parts else path.absolute()


def _files(file: Path | None) -> list[Path]:
    """The files that are read, the nearest last: that of `--config` alone, or the user's and the folder's."""
    if file is not None:
        return [plain(file)]
    user, local = user_file(), Path.cwd() / NAME
    return [user] if user.resolve() == local.resolve() else [user, local]


def _read(file: Path) -> dict[str, Any] | None:
    """The file's content; None where there is no such file."""
    try:
        text = read_regular(file, SMALL).decode("utf-8")
        if any(line.count(".") > _MOST_DOTS for line in text.splitlines()):
            raise CxrbenchError(f"a line has more than {_MOST_DOTS} dots", where=str(file), fix="put lists on lines")
        return tomllib.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except tomllib.TOMLDecodeError as error:
        raise CxrbenchError(f"not valid TOML: {error}", where=str(file), fix="correct the line named") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CxrbenchError(
            f"the settings cannot be read: {error}", where=str(file), code=Exit.INFRASTRUCTURE
        ) from error
    except (ValueError, RecursionError) as error:
        what = "nested too deeply, or with a number of thousands of digits"
        raise CxrbenchError(f"not valid TOML: {what}", where=str(file), fix="correct the file") from error


_ROOTS = ("reports", "images", "tables", "annotations", "demographics")
_FOLDERS = ("prepared", "image_cache")
_TABLES = ("data", "models", "assets", "trusted_endpoints")
_MOST_DOTS = 200
"""In one line: a key of n parts costs the reader n * n."""

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 80
"""Values in messages: cut, and never followed into the depth of a table."""
_TABLES_FIX = "[data.NAME], [models.NAME], [assets] or [trusted_endpoints]"


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CxrbenchError(f"expected a table, found {_brief.repr(value)}", where=where, fix=_TABLES_FIX)
    return value


def _paths(value: Any, base: Path, where: str) -> tuple[Path, ...]:
    values = [value] if isinstance(value, str) else value
    if (
        not isinstance(values, list)
        or not values
        or not all(isinstance(v, str) and v and "\0" not in v for v in values)
    ):
        raise CxrbenchError(f"expected a path or a list of paths, found {_brief.repr(value)}", where=where)
    try:
        return tuple(plain(base / Path(item).expanduser()) for item in values)
    except RuntimeError as error:
        raise CxrbenchError("the home folder of a path is not known", where=where, fix="write it in full") from error


def _entry(name: str, body: Any, file: Path) -> DataEntry:
    where = f"{file}, data.{name}"
    unknown = set(_table(body, where)) - {*_ROOTS, *_FOLDERS}
    if unknown:
        raise CxrbenchError(
            f"the key {sorted(unknown)[0]!r} is not known",
            where=where,
            fix=f"one of: {', '.join((*_ROOTS, *_FOLDERS))}",
        )
    paths = {key: _paths(value, file.parent, f"{where}.{key}") for key, value in body.items()}
    for key in _FOLDERS:
        if len(paths.get(key, "x")) != 1:
            raise CxrbenchError("expected one path", where=f"{where}.{key}")
    return DataEntry(
        roots={key: paths[key] for key in _ROOTS if key in paths},
        prepared=paths["prepared"][0] if "prepared" in paths else None,
        image_cache=paths["image_cache"][0] if "image_cache" in paths else None,
    )


def _entries(body: Mapping[str, Any], file: Path) -> dict[str, DataEntry]:
    for key in body:
        if key not in _TABLES:
            raise CxrbenchError(f"the table {key!r} is not known", where=str(file), fix=_TABLES_FIX)
    table = _table(body.get("data", {}), f"{file}, data")
    return {name: _entry(name, value, file) for name, value in table.items()}


def _asset_places(body: Mapping[str, Any], file: Path) -> AssetPlaces:
    where = f"{file}, assets"
    table = _table(body.get("assets", {}), where)
    unknown = set(table) - {"folder", "paths"}
    if unknown:
        raise CxrbenchError(
            f"the key {sorted(unknown)[0]!r} is not known",
            where=where,
            fix='folder = "PATH", or a table [assets.paths] with NAME = "PATH"',
        )
    named = {f"paths.{name}": value for name, value in _table(table.get("paths", {}), f"{where}.paths").items()}
    if "folder" in table:
        named["folder"] = table["folder"]
    found = {}
    for key, value in named.items():
        paths = _paths(value, file.parent, f"{where}.{key}")
        if len(paths) != 1:
            raise CxrbenchError("expected one path", where=f"{where}.{key}")
        found[key] = paths[0]
    folder = found.pop("folder", None)
    return AssetPlaces(folder, {key.removeprefix("paths."): path for key, path in found.items()})


_FROM = "_from"
"""`path_from = "ORG/NAME@COMMIT"` says where the folder of `path` was fetched from."""


def _models(body: Mapping[str, Any], file: Path) -> tuple[dict[str, dict[str, Path]], dict[str, dict[str, str]]]:
    """Folders of models, and where they came from."""
    found: dict[str, dict[str, Path]] = {}
    sources: dict[str, dict[str, str]] = {}
    for name, entry in _table(body.get("models", {}), f"{file}, models").items():
        where = f"{file}, models.{name}"
        for key, value in _table(entry, where).items():
            place = key.removesuffix(_FROM)
            if place not in MODEL_PLACES:
                raise CxrbenchError(
                    f"the key {key!r} is not known", where=where, fix=f"one of: {', '.join(MODEL_PLACES)}"
                )
            paths = _paths(value, file.parent, f"{where}.{key}")
            if not isinstance(value, str) or len(paths) != 1:
                raise CxrbenchError("expected one path", where=f"{where}.{key}")
            if place == key:
                found.setdefault(name, {})[key] = paths[0]
            else:
                sources.setdefault(name, {})[place] = value
    return found, sources


def _trusted(body: Mapping[str, Any], file: Path) -> dict[str, str]:
    table = _table(body.get("trusted_endpoints", {}), f"{file}, trusted_endpoints")
    for host, agreement in table.items():
        if not isinstance(agreement, str) or not agreement.strip():
            raise CxrbenchError(
                f"expected the agreement that allows {host}, in words", where=f"{file}, trusted_endpoints"
            )
    return table


def _over(old: DataEntry, new: DataEntry) -> DataEntry:
    return DataEntry({**old.roots, **new.roots}, new.prepared or old.prepared, new.image_cache or old.image_cache)


def load_config(file: Path | None = None, *, may_be_new: bool = False) -> Config:
    """Read the settings; a file that does not exist counts as empty, unless it was named by `--config`.

    `may_be_new`: the command writes to the settings, so that the file named may be one to be made.

    Raises:
        CxrbenchError: a file is damaged, a value is of the wrong kind, or the working directory's file names
            endpoints to be trusted.
    """
    data: dict[str, DataEntry] = {}
    trusted: dict[str, str] = {}
    assets = AssetPlaces()
    models: dict[str, dict[str, Path]] = {}
    sources: dict[str, dict[str, str]] = {}
    own = _files(file)[0]
    for each in _files(file):
        body = _read(each)
        if body is None and file is not None and not may_be_new:
            fix = f"check --config; cxrbench data add NAME ... --config {file} makes one"
            raise CxrbenchError("there is no such settings file", where=str(file), fix=fix)
        for name, entry in _entries(body or {}, each).items():
            data[name] = _over(data.get(name, DataEntry()), entry)
        places, came = _models(body or {}, each)
        for name in {**places, **came}:
            folders = places.get(name, {})
            models[name] = {**models.get(name, {}), **folders}
            kept = {key: value for key, value in sources.get(name, {}).items() if key not in folders}
            sources[name] = {**kept, **came.get(name, {})}
        nearer = _asset_places(body or {}, each)
        assets = AssetPlaces(nearer.folder or assets.folder, {**assets.paths, **nearer.paths})
        if each == own:
            trusted = _trusted(body or {}, each)
        elif "trusted_endpoints" in (body or {}):
            raise CxrbenchError(
                "trusted_endpoints is not read from the working directory, whose file may have come with the folder",
                where=str(each),
                fix=f"move it to {own}, or name the file: --config {NAME}",
            )
    nearest = _files(file)[-1]
    target = nearest if nearest.exists() else own
    return Config(
        file=target, data=data, trusted_endpoints=trusted, assets=assets, models=models, model_sources=sources
    )


def own_entry(file: Path, name: str) -> DataEntry:
    """What one settings file itself says of a data set, without any other file."""
    return _entries(_read(file) or {}, file).get(name, DataEntry())


def remember(file: Path, name: str, entry: DataEntry) -> None:
    """Write what is known of data set `name`; comments, and keys whose value is the same, stay as they are."""
    import tomlkit

    file = file.absolute()
    document = _document(file)
    data = document.setdefault("data", tomlkit.table(is_super_table=True))
    table = data.setdefault(name, tomlkit.table())
    old, new = _flat(own_entry(file, name)), _flat(entry)
    for key in (*_ROOTS, *_FOLDERS):
        if key not in new:
            table.pop(key, None)
        elif new[key] != old.get(key):
            values = [str(plain(path)) for path in new[key]]
            table[key] = values[0] if key in _FOLDERS else values
    _write(file, document)


def remember_model(file: Path, name: str, places: Mapping[str, Path], sources: Mapping[str, str] | None = None) -> None:
    """Write where the folders of model `name` lie, in place of all that was written before; comments stay.

    `sources` are the hub ids (`ORG/NAME@COMMIT`) of those that were fetched.
    """
    import tomlkit

    file = file.absolute()
    document = _document(file)
    models = document.setdefault("models", tomlkit.table(is_super_table=True))
    table = models.setdefault(name, tomlkit.table())
    for key in MODEL_PLACES:
        values = {key: str(plain(places[key])) if key in places else None, f"{key}{_FROM}": (sources or {}).get(key)}
        for each, value in values.items():
            if value is None:
                table.pop(each, None)
            else:
                table[each] = value
    _write(file, document)


def forget(file: Path | None, folders: Iterable[Path]) -> None:
    """Take the prepared indexes and image caches that lay in deleted `folders` out of the settings.

    `file` is that of `--config`; without it, the user's file and the working directory's are both gone through.
    """
    gone = {folder.absolute() for folder in folders}
    for each in _files(file):
        document = _document(each)
        changed = False
        for name, entry in _entries(_read(each) or {}, each).items():
            for key, (path,) in ((key, paths) for key, paths in _flat(entry).items() if key in _FOLDERS):
                if gone & {path.absolute(), *path.absolute().parents}:
                    document["data"][name].pop(key)
                    changed = True
        if changed:
            _write(each, document)


def _flat(entry: DataEntry) -> dict[str, tuple[Path, ...]]:
    folders = {"prepared": entry.prepared, "image_cache": entry.image_cache}
    return {**entry.roots, **{key: (path,) for key, path in folders.items() if path is not None}}


def _document(file: Path) -> TOMLDocument:
    """The file with its comments; empty where there is none."""
    import tomlkit

    return tomlkit.parse(file.read_text(encoding="utf-8") if _read(file) is not None else "")


def _for_its_owner(path: str, flags: int) -> int:
    """An `opener`: the settings say where credentialed data lie, so a new file is its owner's alone."""
    return os.open(path, flags, 0o600)


def _write(file: Path, document: TOMLDocument) -> None:
    import tomlkit

    file = file.resolve()  # settings that are a link (dotfiles) stay one
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.part")
        part.unlink(missing_ok=True)
        with open(part, "w", encoding="utf-8", opener=_for_its_owner) as handle:
            handle.write(tomlkit.dumps(document))
        if file.exists():
            part.chmod(file.stat().st_mode & 0o777)
        part.replace(file)
    except OSError as error:
        raise CxrbenchError(
            f"the settings cannot be written: {error.strerror}",
            where=str(file),
            fix="--config FILE in a writable folder",
            code=Exit.INFRASTRUCTURE,
        ) from error
