"""Files and folders that are whole or not there: written beside their place, forced to disk, then renamed.

Touches errors and privacy.
"""

from __future__ import annotations

import errno
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.privacy import hold, private_file, private_folder, remove_left


def disk_error(error: OSError, path: Path) -> CxrbenchError:
    """One sentence for what a file system refused."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what, fix = "the disk is full; everything written so far is kept", "free space and repeat the same command"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        what = "the folder cannot be written"
        fix = "write elsewhere (`run --out DIR`, `-o FILE`), or copy the run into a folder that can be written"
    elif error.errno == errno.ELOOP:
        what, fix = "a link stands where a file is written", f"remove the link {Path(error.filename or path).name}"
    else:
        what, fix = f"a file cannot be written: {error.strerror}", "cxrbench doctor"
    return CxrbenchError(what, where=str(path), fix=fix, code=Exit.INFRASTRUCTURE)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to disk: without that a power loss takes back a rename or a new file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot sync folders
            raise
    finally:
        os.close(handle)


def look_again(*folders: Path) -> None:
    """Have a network file system ask for the names in folders: others may have made or removed some.

    Opening a folder asks. Looking for a name does not, for half a minute, where it was there or missing before.
    """
    for folder in folders:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


_LOCAL = frozenset(["btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"])
"""File systems that one machine alone writes."""


def on_local_disk(path: Path) -> bool:
    """Whether processes of one machine alone see a file; where the system does not tell, it is taken for so."""
    kind, _ = _mounted(path)
    return kind in _LOCAL or not kind


def locks_reach_all(path: Path) -> bool:
    """Whether a lock on a file keeps out all that see it: NFS may be mounted with locks of each machine's own."""
    kind, options = _mounted(path)
    return kind in _LOCAL or not kind or "local_lock=none" in options


def _mounted(path: Path) -> tuple[str, list[str]]:
    """The kind and the options of the file system that a file is on; both empty where the system does not tell."""
    try:
        device = path.stat().st_dev
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "", []
    numbers = f"{os.major(device)}:{os.minor(device)}"
    # Each line: number, parent, major:minor, ..., " - ", kind, source, options
    found = [line.partition(" - ")[2].split() for line in mounts if line.split()[2] == numbers]
    return (found[-1][0], found[-1][-1].split(",")) if found else ("", [])


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends: a reader sees the old one or the new one, whole.

    It is its owner's alone. Until then it has a name of its own in the same folder, and goes if the block fails; one
    that a killed process left goes with the next write of the same file.

    Raises:
        CxrbenchError: the disk is full or refuses; `path` is as it was.
    """
    part = path
    try:
        private_folder(path.parent)
        # Without locks between machines, what another one is writing looks like a leftover; then they stay.
        for left in unfinished(path):
            if locks_reach_all(path.parent):
                remove_left(left)
        part, file = _begin(path)
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        if part != path:
            with suppress(OSError):  # on a disk gone read-only the first error is the one to tell
                part.unlink()
        if isinstance(error, OSError):
            raise disk_error(error, path) from error
        raise


_NAME, _UNIQUE = 50, 16
"""Of the name of an unfinished file: characters of the name it will have (they fit, whatever they are), and hex digits
that make it its own."""


def unfinished(path: Path) -> list[Path]:
    """What `replacing` and `replacing_folder` have begun for `path`, by processes at work or killed."""
    return list(path.parent.glob(f".{glob.escape(path.name[:_NAME])}.cxrbench-{'[0-9a-f]' * _UNIQUE}.part"))


def _unused(path: Path) -> Path:
    """A name in the folder of `path` that nothing else has."""
    return path.with_name(f".{path.name[:_NAME]}.cxrbench-{secrets.token_hex(_UNIQUE // 2)}.part")


def _begin(path: Path) -> tuple[Path, BinaryIO]:
    """A new file in the folder of `path`, held so that nobody takes it for a leftover."""
    while True:
        part = _unused(path)
        file = open(part, "xb", opener=private_file)  # noqa: SIM115 - closed by `replacing`
        hold(file.fileno())
        if os.fstat(file.fileno()).st_nlink:
            return part, file
        file.close()  # in the moment before it was held, another process took it for a leftover


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A folder that becomes `path`, which is not there or empty, when the block ends; it goes if the block fails.

    As `replacing`, with a name of its own that nobody else's folder has; files in it are the caller's to force to disk.

    Raises:
        OSError: the disk is full or refuses; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in unfinished(path):
        remove_left(left)
    part = _unused(path)
    part.mkdir()
    handle = os.open(part, os.O_RDONLY)
    try:
        hold(handle)
        yield part
        if path.exists():
            path.rmdir()
        part.rename(path)
        sync_folder(path.parent)
    finally:
        os.close(handle)
        shutil.rmtree(part, ignore_errors=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it; see `replacing`."""
    with replacing(path) as file:
        file.write(data)
