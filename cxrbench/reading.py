"""Opening files that someone else made: never waits on a pipe, never reads a device, never more than a bound.

What is wrong is an `OSError` whose `strerror` says so, as if the system itself had refused, so that a caller has one
handler for all of it. Touches the standard library only.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

SMALL = 1 << 20
"""Bytes that settings, task files, rubrics and policies may have; the largest that travels with cxrbench has 20 kB."""


def open_regular(path: Path | str) -> BinaryIO:
    """Open a file, or what a link to it points to, for reading bytes.

    Raises:
        OSError: it is not there, cannot be opened, or is a pipe, a device, a socket or a folder.
    """
    return _opened(path, 0)


def open_own(path: Path | str, owners: Collection[int]) -> BinaryIO:
    """Open a file for reading bytes that nobody but these users (by their numbers) can have put there; no link.

    Raises:
        OSError: as `open_regular`, or it is a link, or another user's.
    """
    try:
        file = _opened(path, os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link", str(path)) from None
        raise
    if os.fstat(file.fileno()).st_uid not in owners:
        file.close()
        raise OSError(errno.EPERM, "it belongs to another user", str(path))
    return file


def _opened(path: Path | str, further: int) -> BinaryIO:
    # Without O_NONBLOCK a named pipe would be waited for before anybody could ask what it is.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | further)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def read_regular(path: Path | str, largest: int) -> bytes:
    """The content of a file of at most so many bytes.

    Raises:
        OSError: as `open_regular`, or it has more bytes.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1) if size <= largest else b""  # one more: a file may have grown
    _refuse_larger(max(size, len(data)), largest, path)
    return data


def regular_lines(path: Path | str, largest: int) -> Iterator[bytes]:
    """The lines of a file of at most so many bytes, one at a time, each with its end; cut at line feeds alone.

    Raises:
        OSError: as `read_regular`.
    """
    with open_regular(path) as file:
        _refuse_larger(os.fstat(file.fileno()).st_size, largest, path)
        done = 0
        while line := file.readline(largest + 1):
            done += len(line)
            _refuse_larger(done, largest, path)
            yield line


def _refuse_larger(size: int, largest: int, path: Path | str) -> None:
    if size > largest:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, and {largest:,} are the limit", str(path))
