"""The folder of an asset: its lock record, checksums, and how one folder takes the place of another.

cxrbench-asset.json lies beside the files: which commit was fetched when, sizes and SHA-256. Touches errors and the
standard library.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxrbench.errors import CxrbenchError, Exit

RECORD = "cxrbench-asset.json"
FORMAT = 1
ELSEWHERE = 'make room, or name another folder in cxrbench.toml: [assets] folder = "PATH"'

Report = Callable[[str, int, int | None], None]
"""Progress: called with (what is worked on, bytes done, bytes in all or None)."""


@dataclass(frozen=True, slots=True)
class Sum:
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Record:
    """The lock record: which commit was fetched when, and the sums of its files.

    `downloads` are files as the hub has them, `files` those in the folder by relative path; they differ where archives
    were unpacked. `licence` is what was printed when it was fetched.
    """

    asset: str
    repository: str
    revision: str
    commit: str
    endpoint: str
    fetched: str
    licence: str
    terms: str
    downloads: Mapping[str, Sum]
    files: Mapping[str, Sum]

    @property
    def size(self) -> int:
        """Bytes of all files in the folder."""
        return sum(entry.size for entry in self.files.values())


def read_record(folder: Path) -> Record:
    """The lock record of an asset's folder.

    Raises:
        CxrbenchError: there is none that can be read.
    """
    try:
        body = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if body.pop("format") != FORMAT:
            raise ValueError("another format")
        both = ("downloads", "files")
        sums: dict[str, Any] = {key: {name: Sum(**each) for name, each in body.pop(key).items()} for key in both}
        return Record(**body, **sums)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CxrbenchError("its lock record cannot be read", where=str(folder / RECORD)) from error


def write_record(folder: Path, record: Record) -> None:
    """Write the lock record beside the files it is about."""
    text = json.dumps({"format": FORMAT, **asdict(record)}, indent=2, ensure_ascii=False) + "\n"
    (folder / RECORD).write_text(text, encoding="utf-8")


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hex digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def wrong_sizes(folder: Path, record: Record) -> Iterator[str]:
    """A line per file of a record that is not there or has another size."""
    for name, entry in record.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError:
            yield f"{name} is missing"
        else:
            if size != entry.size:
                yield f"{name} has {size} bytes, not {entry.size}"


def damage(folder: Path, record: Record, report: Report) -> list[str]:
    """Read every file of a record; a line per file that is not what was recorded."""
    lines, done = list(wrong_sizes(folder, record)), 0
    if lines:
        return lines
    for name, entry in record.files.items():
        report(f"reading {record.asset}", done, record.size)
        done += entry.size
        if sha256(folder / name) != entry.sha256:
            lines.append(f"{name} has another SHA-256 than was recorded")
    return lines


@contextmanager
def one_writer(place: Path) -> Iterator[None]:
    """Make the folder of assets if need be and keep it for one process that fetches or unpacks.

    Raises:
        CxrbenchError: another process does, or the folder cannot be written.
    """
    import fcntl

    try:
        place.mkdir(parents=True, exist_ok=True)
        file = (place / ".lock").open("ab")
    except OSError as error:
        raise disk_error(error, place) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CxrbenchError(
                "another process is fetching or unpacking assets",
                where=str(place),
                fix="wait for it, then repeat the command",
                code=Exit.INFRASTRUCTURE,
            ) from error
        _put_back(place)
        yield


def _put_back(place: Path) -> None:
    """A process that was killed within `install` left the old folder beside its place."""
    for old in place.glob(".*.old"):
        folder = old.with_name(old.name.removeprefix(".").removesuffix(".old"))
        if not folder.exists():
            old.rename(folder)


def install(made: Path, folder: Path) -> None:
    """Put a complete folder in the place of another; a reader finds the old one or the new one, never a mixture."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        made.rename(folder)
    except OSError:
        _put_back(folder.parent)
        raise
    shutil.rmtree(old, ignore_errors=True)


def check_room(place: Path, wanted: int) -> None:
    """Refuse before anything is written what the disk has no room for.

    Raises:
        CxrbenchError: fewer than `wanted` bytes are free.
    """
    free = shutil.disk_usage(place).free
    if free < wanted:
        raise CxrbenchError(
            f"{wanted / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free",
            where=str(place),
            fix=ELSEWHERE,
            code=Exit.INFRASTRUCTURE,
        )


def disk_error(error: OSError, path: Path, fix: str = ELSEWHERE) -> CxrbenchError:
    """One sentence for what the file system refused."""
    return CxrbenchError(
        f"a file cannot be written or read: {error.strerror or error}",
        where=str(error.filename or path),
        fix=fix,
        code=Exit.INFRASTRUCTURE,
    )
