"""Carrying assets across an air gap: one tar file with lock records and a manifest, checked when it is unpacked.

    cxrbench-assets.json    first: names, commits, licences, and per file size and SHA-256
    NAME/FILE               the files of each asset with its lock record

The same assets give the same bytes, so that the SHA-256 of the whole archive can be compared over the telephone. The
manifest finds damage, not forgery: whoever hands over an archive is trusted with what it holds. Touches assets and the
standard library.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from cxrbench.assets import Asset, State, find, root, state, table
from cxrbench.assets_lock import (
    RECORD,
    Report,
    Sum,
    check_room,
    disk_error,
    install,
    one_writer,
    read_record,
    sha256,
)
from cxrbench.assets_tar import copy, files, opened, refused, safe_name
from cxrbench.config import Config
from cxrbench.errors import CxrbenchError, Exit

MANIFEST = "cxrbench-assets.json"
FORMAT = 1
LARGEST_MANIFEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Packed:
    """What the manifest says of one asset; `files` includes the lock record."""

    commit: str
    licence: str
    terms: str
    files: Mapping[str, Sum]


class _Hashed:
    """A file that is written, with the SHA-256 of what was."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)


class _Read:
    """A file that is read into an archive, with the SHA-256 of what was."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


def pack(file: Path, assets: Iterable[Asset], config: Config, report: Report) -> str:
    """Write assets into a new archive; returns its SHA-256. Every file is compared with its lock record on the way.

    Raises:
        CxrbenchError: an asset is not here, has no lock record or is damaged; the archive is there already, or cannot
            be written.
    """
    found = {asset.name: _packable(asset, state(asset.name, config)) for asset in assets}
    if file.exists():
        raise CxrbenchError("there is a file of that name already", where=str(file), fix="name another, or delete it")
    manifest = {name: _packed(each) for name, each in found.items()}
    total = sum(entry.size for packed in manifest.values() for entry in packed.files.values())
    part = file.with_name(file.name + ".part")
    try:
        with part.open("wb") as raw:
            out = _Hashed(raw)
            with tarfile.open(mode="w|", fileobj=out) as tar:  # type: ignore[call-overload]  # needs `write` alone
                _add_manifest(tar, manifest)
                done = 0
                for name, packed in manifest.items():
                    for path, entry in sorted(packed.files.items()):
                        report(f"packing {name}", done, total)
                        _add(tar, found[name].folder / path, f"{name}/{path}", entry)
                        done += entry.size
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(file)
    except OSError as error:
        raise disk_error(error, file, "name a file in a folder that can be written and has room") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return out.digest.hexdigest()


def _packable(asset: Asset, found: State) -> State:
    if found.status == "here":
        return found
    if found.status in ("own", "foreign"):
        what, fix = f"{asset.name} are your own files, without a lock record", f"carry {found.folder} yourself"
    else:
        what, fix = f"{asset.name} is {found.status}", f"cxrbench assets fetch {asset.name}"
    raise CxrbenchError(what, where=str(found.folder), fix=fix, code=Exit.UNDECIDED)


def _packed(found: State) -> Packed:
    record = found.record
    assert record is not None  # an asset that is here has one
    lock = found.folder / RECORD
    sums = {**record.files, RECORD: Sum(lock.stat().st_size, sha256(lock))}
    return Packed(record.commit, record.licence, record.terms, sums)


def _add_manifest(tar: tarfile.TarFile, manifest: Mapping[str, Packed]) -> None:
    body = {"format": FORMAT, "assets": {name: asdict(packed) for name, packed in manifest.items()}}
    text = (json.dumps(body, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()
    tar.addfile(_member(MANIFEST, len(text)), io.BytesIO(text))


def _member(name: str, size: int) -> tarfile.TarInfo:
    """A member without owner, date or the mode of this machine."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def _add(tar: tarfile.TarFile, path: Path, name: str, entry: Sum) -> None:
    with path.open("rb") as opened_file:
        source = _Read(opened_file)
        tar.addfile(_member(name, entry.size), source)
    if source.digest.hexdigest() != entry.sha256:
        asset = name.partition("/")[0]
        raise CxrbenchError(
            f"{name} is damaged: it has another SHA-256 than was recorded",
            where=str(path),
            fix=f"cxrbench assets fetch {asset}",
            code=Exit.REGRESSION,
        )


# Unpacking

Outcome = Literal["installed", "here already", "left alone: your own files"]


def contents(file: Path) -> dict[str, Packed]:
    """What the manifest of an archive says, without unpacking anything.

    Raises:
        CxrbenchError: the file is no archive of `cxrbench assets pack`, or names assets that are not known here.
    """
    with opened(file, "r:") as tar:
        return _manifest(tar, file)


def _manifest(tar: tarfile.TarFile, file: Path) -> dict[str, Packed]:
    first = tar.next()
    if first is None or first.name != MANIFEST or not first.isreg() or first.size > LARGEST_MANIFEST:
        raise refused("this is no archive of `cxrbench assets pack`: the manifest is not its first file", file)
    source = tar.extractfile(first)
    assert source is not None  # a plain file
    try:
        body = json.loads(source.read())
        if body["format"] != FORMAT:
            raise ValueError("another format")
        found = {name: _read_packed(entry, file) for name, entry in body["assets"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise refused("the manifest of the archive cannot be read", file) from error
    unknown = sorted(set(found) - set(table()))
    if unknown:
        raise CxrbenchError(
            f"the archive holds {unknown[0]!r}, which this cxrbench does not know",
            where=str(file),
            fix="unpack with the version of cxrbench that packed it",
        )
    return found


def _read_packed(body: Mapping[str, Any], file: Path) -> Packed:
    sums = {}
    for name, entry in body["files"].items():
        size, digest = entry["size"], entry["sha256"]
        if type(size) is not int or size < 0 or type(digest) is not str or safe_name(name, file) != name:
            raise ValueError(name)
        sums[name] = Sum(size, digest)
    return Packed(str(body["commit"]), str(body["licence"]), str(body["terms"]), sums)


def unpack(file: Path, config: Config, report: Report, *, update: bool = False) -> dict[str, Outcome]:
    """Install the assets of an archive; what became of each, by name.

    Everything is unpacked beside its place and checked before the first asset is moved there.

    Raises:
        CxrbenchError: the archive is refused, or an asset is here at another commit and `update` is not given.
    """
    with one_writer(root(config)):
        place = root(config)
        stage = place / ".unpacking"
        shutil.rmtree(stage, ignore_errors=True)
        try:
            with opened(file, "r:") as tar:
                manifest = _manifest(tar, file)
                outcomes = {name: _outcome(name, packed, config, update) for name, packed in manifest.items()}
                check_room(place, sum(entry.size for packed in manifest.values() for entry in packed.files.values()))
                _unpack_files(tar, file, stage, manifest, report)
            for name, packed in manifest.items():
                _check(stage / name, name, packed, file)
            for name, outcome in outcomes.items():
                if outcome == "installed":
                    install(stage / name, place / name)
        except OSError as error:
            raise disk_error(error, place) from error
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    return outcomes


def _outcome(name: str, packed: Packed, config: Config, update: bool) -> Outcome:
    found = state(name, config)
    if found.named or found.status in ("own", "foreign"):
        return "left alone: your own files"
    old = found.record
    if old is None:
        return "installed"
    same = old.commit == packed.commit and all(packed.files.get(path, sums) == sums for path, sums in old.files.items())
    if same:
        return "here already" if found.status == "here" else "installed"
    if not update:
        raise CxrbenchError(
            f"{name} is recorded here at commit {old.commit[:12]}, the archive holds other files"
            f" (commit {packed.commit[:12]})",
            where=str(found.folder),
            fix="--update replaces it; scores made with other weights cannot be compared",
        )
    return "installed"


def _unpack_files(
    tar: tarfile.TarFile, file: Path, stage: Path, manifest: Mapping[str, Packed], report: Report
) -> None:
    wanted = {f"{name}/{path}": entry for name, packed in manifest.items() for path, entry in packed.files.items()}
    total, done = sum(entry.size for entry in wanted.values()), 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        report(f"unpacking {file.name}", done, total)

    for name, member in files(tar, file):
        if name == MANIFEST:
            continue
        entry = wanted.pop(name, None)
        if entry is None or member.size != entry.size:
            raise refused(f"{name} in the archive is not what its manifest says", file)
        if copy(tar, member, stage / name, step) != entry:
            raise refused(f"{name} in the archive is damaged: another SHA-256 than in the manifest", file)
    if wanted:
        raise refused(f"the archive was cut short: {min(wanted)} is missing", file)


def _check(folder: Path, name: str, packed: Packed, file: Path) -> None:
    """Whether an unpacked asset is whole and its lock record is about these very files."""
    try:
        record = read_record(folder)
    except CxrbenchError as error:
        raise refused(f"the lock record of {name} in the archive cannot be read", file) from error
    sums = {path: entry for path, entry in packed.files.items() if path != RECORD}
    if record.asset != name or record.commit != packed.commit or dict(record.files) != sums:
        raise refused(f"the lock record of {name} in the archive is about other files", file)
    asset = find(name)
    lacking = asset.lacking(sums)
    if lacking:
        raise refused(f"{name} in the archive has no {lacking}", file)
    for path, known in asset.known.items():
        if known.sha256 is not None and path in sums and sums[path].sha256 != known.sha256:
            raise refused(f"{path} of {name} is not the file that cxrbench knows under this name", file)
