"""Reading tar archives that someone else made: plain files under plain relative names, and nothing else.

Links, devices, absolute names, `..`, files that come twice and archives that were cut short are refused, whatever the
archive's own owner and mode fields say. Used for archives of the hub and for those of `cxrbench assets pack`. Touches
errors and the standard library.
"""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cxrbench.assets_lock import RECORD, Report, Sum, check_room, disk_error
from cxrbench.errors import CxrbenchError, Exit

CHUNK = 1 << 20
LONGEST = 255
"""Characters of a member's name; what people pack has far shorter ones."""


def refused(what: str, file: Path) -> CxrbenchError:
    """An archive that is not what it should be; nothing of it was installed."""
    return CxrbenchError(
        what,
        where=str(file),
        fix="nothing was installed; get the archive again from whom you trust",
        code=Exit.REGRESSION,
    )


def safe_name(name: str, file: Path) -> str:
    """A member's name as a relative path without detours; empty for the archive's top folder.

    Raises:
        CxrbenchError: the name leads out of the folder, or is none that a file of an asset has.

    >>> safe_name("./vocabulary/labels.txt", Path("a.tar"))
    'vocabulary/labels.txt'
    """
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        raise refused("the archive holds a name that leads out of its folder", file)
    if "\\" in name or not name.isprintable() or len(name) > LONGEST:
        raise refused("the archive holds a name with characters, or of a length, that no file of an asset has", file)
    return "/".join(part for part in parts if part not in ("", "."))


@contextmanager
def opened(file: Path, mode: str) -> Iterator[tarfile.TarFile]:
    """A tar archive for reading, `r:` or `r:gz`; whatever is wrong with it becomes one error.

    Raises:
        CxrbenchError: it is no tar archive, is damaged or cut short, or cannot be read.
    """
    try:
        with tarfile.open(file, mode) as tar:  # type: ignore[call-overload]  # the mode is a text here
            yield tar
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise refused("this is no whole tar archive: it is damaged or was cut short", file) from error
    except OSError as error:
        raise disk_error(error, file, "check the path and the room on the disk") from error


def files(tar: tarfile.TarFile, file: Path) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """The plain files of an archive by safe name, folders left out.

    Raises:
        CxrbenchError: a member is neither file nor folder, has an unsafe name, or comes twice.
    """
    seen: set[str] = set()
    for member in tar:
        name = safe_name(member.name, file)
        if member.isdir():
            continue
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise refused("the archive holds a link, a device or another thing that is no plain file", file)
        if not name or name in seen:
            raise refused(f"the archive holds {name or 'its top folder'} twice", file)
        seen.add(name)
        yield name, member


def copy(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, step: Callable[[int], None]) -> Sum:
    """Write one file of an archive, which must not be there yet, and return its sum. Owner and mode are not taken."""
    source: IO[bytes] | None = tar.extractfile(member)
    assert source is not None  # only folders and devices have none
    digest, size = hashlib.sha256(), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, target.open("xb") as out:
        while chunk := source.read(CHUNK):
            out.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            step(len(chunk))
    if size != member.size:
        raise tarfile.ReadError("cut short")
    return Sum(size, digest.hexdigest())


def unpack(file: Path, target: Path, report: Report) -> dict[str, Sum]:
    """Unpack an archive (.tar.gz) into a folder; returns the sums of its files by relative path.

    Raises:
        CxrbenchError: something in it is refused, it is damaged, or there is no room for it.
    """
    sums: dict[str, Sum] = {}
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        report(f"unpacking {file.name}", done, None)

    with opened(file, "r:gz") as tar:
        for name, member in files(tar, file):
            if name == RECORD:
                raise refused("the archive brings a lock record of its own", file)
            check_room(target, member.size)
            sums[name] = copy(tar, member, target / name, step)
    return sums
