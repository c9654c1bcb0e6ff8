"""Who holds a run folder: the system's lock, and a sign of life for machines that this lock does not reach.

    lock    a `Holder`, renewed (the file's time) as long as it lives

On one machine the system's lock is exact, and a process that dies gives it back. Over a network file system it may be
too weak (mounted with `nolock`, every machine has locks of its own) or too strong (of a machine that was switched off,
NFS version 3 keeps the locks until it is back, version 4 for its lease). So between machines it counts whether the sign
is renewed while one looks, whatever clocks and locks say. What must be right does not rest on it: see claims.py.
Touches errors, reading, atomic and claims.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from cxrbench.atomic import disk_error
from cxrbench.claims import BEAT, EXACT, Place, this_machine
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.reading import open_regular

LENGTH = 4096
"""Bytes of the file, whoever holds it: a reader never finds a part of a sign, nor none."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a folder, or held it last.

    `shared`: one of several that hold it so. `ended`: it gave the folder back. `strangers`: somebody on another machine
    held the folder before, and nobody saw it end.
    """

    __pydantic_config__: ClassVar[ConfigDict] = EXACT
    place: Place
    shared: bool
    ended: bool
    strangers: bool

    @property
    def here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.place.machine == this_machine()


class OccupiedError(CxrbenchError):
    """Another process holds the lock of a run folder."""


@contextmanager
def holding(file: Path, *, shared: bool) -> Iterator[bool]:
    """Hold a folder by its lock file; yield whether somebody on another machine may still be writing in it.

    `shared`: beside others that hold it so too.

    Raises:
        CxrbenchError: another process holds it; the file cannot be written.
    """
    try:
        # A folder may come from somebody else: what a link points to is not written over.
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise disk_error(error, file) from error
    try:
        found, kept = _take(file, handle, shared)
        sign = Holder(Place.here(), shared, ended=False, strangers=not kept or _strangers(found))
        try:
            _write(handle, sign)
        except OSError as error:
            raise disk_error(error, file) from error
        try:
            with _renewing(handle):
                yield sign.strangers
        finally:
            _end(file, handle, sign)
    finally:
        os.close(handle)


def _end(file: Path, handle: int, sign: Holder) -> None:
    """Say that it is given back, unless another's sign stands there; else the next one looks whether this one lives."""
    with suppress(OSError):
        if last_holder(file) == sign:
            _write(handle, replace(sign, ended=True))


def _take(file: Path, handle: int, shared: bool) -> tuple[Holder | None, bool]:
    """Take the lock; returns who held it last, and False where it was not to be had though nobody renews its sign."""
    locked = _lock(file, handle, shared)
    found = last_holder(file)
    if locked is False and (pid := holder_here(file)) is not None:
        raise _occupied(file, f"pid {pid}")
    if locked is not False and (found is None or found.ended or (found.shared and shared)):
        return found, True
    if locked is not False and found is not None and found.here:
        if locked is None and found.place.alive():
            raise _occupied(file, f"pid {found.place.pid}")
        return found, True
    # Somebody on another machine, as far as can be told.
    before = sign_of_life(file)
    for _ in looks():
        now, last = sign_of_life(file), last_holder(file)
        if now != before and (last is None or last == found or not last.ended):
            raise _occupied(file, f"pid {last.place.pid} on {last.place.host}" if last is not None else "unknown")
        if locked is False and _lock(file, handle, shared):
            return last_holder(file), True
        found, before = last, now
    return found, locked is not False


def _lock(file: Path, handle: int, shared: bool) -> bool | None:
    """Whether the system's lock was to be had; None where there are no locks."""
    import fcntl

    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            return None
        raise disk_error(error, file) from error
    return True


def _strangers(found: Holder | None) -> bool:
    return found is not None and (found.strangers or not (found.here or found.ended or found.shared))


def _occupied(file: Path, who: str) -> CxrbenchError:
    return OccupiedError(
        f"another process ({who}) is writing this run",
        where=str(file.parent),
        fix="wait for it, or stop it and repeat the command",
        code=Exit.INFRASTRUCTURE,
    )


def looks() -> Iterator[None]:
    """Three heartbeats' time of looks, counted: a server that stands still meanwhile only makes it longer."""
    for _ in range(max(1, round(3 * BEAT / LOOK))):
        time.sleep(LOOK)
        yield


LOOK = 0.2
"""Seconds between two looks for a sign of life."""


def sign_of_life(file: Path) -> tuple[int, int] | None:
    """What changes as long as a holder lives; None where there is no such file."""
    # Opened, because a network file system need not tell what is new before.
    try:
        with open_regular(file) as opened:
            found = os.fstat(opened.fileno())
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def last_holder(file: Path) -> Holder | None:
    """Who holds a folder or held it last; None where nobody did, or nobody says so as this version does."""
    try:
        with open_regular(file) as opened:
            return _adapter().validate_json(opened.read(LENGTH))
    except (OSError, ValidationError):
        return None


@cache
def _adapter() -> TypeAdapter[Holder]:
    return TypeAdapter(Holder)


def holder_here(file: Path) -> int | None:
    """A process of this machine that holds the system's lock; None without one, or where the system does not tell."""
    try:
        inode = file.stat().st_ino
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
                return int(words[4])
    except (OSError, IndexError, ValueError):
        return None
    return None


def holder_elsewhere(file: Path) -> Holder | None:
    """A process of another machine that holds the folder alone, found by looking for some seconds; None without one."""
    found, before = last_holder(file), sign_of_life(file)
    if found is None or found.here or found.ended or found.shared:
        return None
    return found if any(sign_of_life(file) != before for _ in looks()) else None


def _write(handle: int, sign: Holder) -> None:
    """One write of the same length, forced out: a network file system would keep it to itself for a while."""
    os.pwrite(handle, json.dumps(asdict(sign)).encode().ljust(LENGTH), 0)
    os.fsync(handle)


@contextmanager
def _renewing(handle: int) -> Iterator[None]:
    ended = threading.Event()

    def keep_on() -> None:
        while not ended.wait(BEAT):
            with suppress(OSError):  # a disk that refuses it will refuse the rows, which says it better
                os.utime(handle)

    thread = threading.Thread(target=keep_on, name="cxrbench-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
