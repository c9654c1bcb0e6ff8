"""What the workers of one scoring hand over: annotations and judges' answers, one append-only file per process.

    features/DATASET/scoring/RUN/r0003-1a2b3c4d.part   rows of one process; nobody else ever opens it for writing
    features/DATASET/scoring/RUN/plan.json             which keys are whose
    features/DATASET/scoring/RUN/r0003.sign            how far the worker of share 3 is
    features/DATASET/scoring/RUN/r0003-of-8-9f8e.done  a rank without a coordinator has ended its share of this scoring

They lie in the cache beside the feature store and never in the run folder: a run folder may come from somebody else,
and what is merged into the store decides later scores. So nothing is read there that may be another user's. JSON lines
and not SQLite, because they may lie on a network file system. A row is the system's once `put` returns, so a killed
process loses none. Touches rows, shares, reading and privacy.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from cxrbench.atomic import disk_error, look_again, unfinished, write_atomic
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.privacy import claim_folder, remove_left
from cxrbench.reading import open_own
from cxrbench.rows import Appender
from cxrbench.shares import Plan

FOLDER = "scoring"

LONGEST = 1 << 27
"""Bytes of a row: an answer of a judge of 16 MB, raw and as its text with every character escaped, has fewer."""

_PLAIN, _STRINGS, _BETWEEN = 1 << 20, 100, 4096
"""A row of more bytes than the first has so many strings, and bytes outside of them, at most: an answer of a judge has
28, and some 300. Unpacked, other rows may have thirty times their size."""

LARGEST = 1 << 28
"""Bytes of a plan, which names every question that came to nothing."""

FORCE = 10.0
"""Seconds after which rows are forced to disk at the latest, if more come: what a machine that stops may cost."""


class HandOverError(CxrbenchError):
    """What a worker made cannot be handed over: it ends, because the next annotation would be lost too."""


class Part:
    """The rows of one process, made with the first of them; `gone` once somebody has taken them over.

    `make` makes the folder: until the first row somebody may have removed it.
    """

    def __init__(self, path: Path, make: Callable[[], object]) -> None:
        self.path, self._make = path, make
        self._rows: Appender | None = None
        self._writing = threading.Lock()
        self._forced = time.monotonic()

    def put(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows; judges' answers come from a thread of their own.

        Raises:
            HandOverError: the disk is full or refuses; the file is as it was before the call, or, where it refused to
                confirm what it had taken, as it was when it confirmed last.
        """
        with self._writing, _handing_over():
            if self._rows is None:
                self._make()
                self._rows = Appender(self.path)
            self._rows.put(rows)
            if time.monotonic() - self._forced > FORCE:
                self._rows.force()
                self._forced = time.monotonic()

    def gone(self) -> bool:
        """Whether what is written from now on would be lost."""
        look_again(self.path.parent)
        return self._rows is not None and not self.path.exists()

    def close(self) -> None:
        """Force the rows to disk and close the file.

        Raises:
            HandOverError: as `put`.
        """
        if self._rows is not None:
            try:
                with _handing_over():
                    self._rows.force()
            finally:
                self._rows.close()


@contextmanager
def _handing_over() -> Iterator[None]:
    try:
        yield
    except CxrbenchError as error:
        raise HandOverError(error.what, where=error.where, fix=error.fix, code=error.code) from error


class Parts:
    """What workers of the scoring of a run hand over; `beside` is the folder of the feature store."""

    def __init__(self, beside: Path, run: Path) -> None:
        name = hashlib.blake2b(str(run.resolve()).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        self.folder, self._beside = beside / FOLDER / name, beside

    def new(self, rank: int) -> Part:
        """A part of this process alone."""
        return Part(self.folder / f"{_rank(rank)}-{secrets.token_hex(8)}.part", self.make)

    def make(self) -> Path:
        """The folder, made where it is not there; the feature store's is cxrbench's own to delete.

        Raises:
            CxrbenchError: it cannot be made; or as `exists`.
        """
        made = False
        while not made:
            claim_folder(self._beside)
            # Scorings of this run and of others make these folders, and remove them empty, at the same moment.
            with suppress(FileNotFoundError):
                self._make()
                made = self.exists()
        return self.folder

    def _make(self) -> None:
        for folder in (self.folder.parent, self.folder):
            try:
                with suppress(FileExistsError):
                    folder.mkdir(mode=0o700)
                if _is_ours(folder, self._beside) and folder.stat().st_mode & 0o077:
                    folder.chmod(0o700)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise disk_error(error, folder) from error

    def exists(self) -> bool:
        """Whether the folder is there.

        Raises:
            CxrbenchError: it is a link, a file or another user's: what lies there may be made to change scores, and
                what is written there may be read.
        """
        return all(_is_ours(folder, self._beside) for folder in (self.folder.parent, self.folder))

    def files(self, rank: int | None = None) -> list[Path]:
        """All parts, or those of one share.

        Raises:
            CxrbenchError: as `exists`.
        """
        wanted = f"{'r*' if rank is None else _rank(rank)}-*.part"
        return sorted(self.folder.glob(wanted)) if self.exists() else []

    def size(self, rank: int) -> int:
        """Bytes that were handed over for a share."""
        return sum(file.lstat().st_size for file in self.files(rank))

    @property
    def _plan(self) -> Path:
        return self.folder / "plan.json"

    def write_plan(self, plan: Plan) -> None:
        """Say which keys are whose, before workers are started."""
        self.make()
        write_atomic(self._plan, json.dumps(asdict(plan)).encode())

    def plan(self) -> Plan:
        """Which keys are whose.

        Raises:
            CxrbenchError: there is no plan (any more): the worker's coordinator is gone, or has another cache.
        """
        try:
            self.exists()
            plan: Plan = exactly(Plan).validate_json(read_own(self._plan, LARGEST))
            plan.failed_questions()
            if not plan.whole():
                raise ValueError("shares that leave something out")
            return plan
        except (OSError, ValueError) as error:
            raise CxrbenchError(
                "this worker does not find which share it is to annotate",
                where=str(self._plan),
                fix="the cache folder (XDG_CACHE_HOME) must be one that all workers see; start workers with "
                "`cxrbench score RUN --workers N`",
                code=Exit.INFRASTRUCTURE,
            ) from error

    def sign_file(self, rank: int) -> Path:
        """Where the worker of a share shows that it lives (workers/signs.py)."""
        return self.folder / f"{_rank(rank)}.sign"

    def end_share(self, rank: int, world: int, scoring: str) -> None:
        """Say that a share of a scoring (named by a hash of all that is asked for) is complete.

        That stays true until the scoring has come to its end: whoever scores may be killed, and the next has to know.
        """
        file = self.folder / f"{_rank(rank)}-of-{world}-{scoring}.done"
        while not file.exists():
            self.make()
            try:
                os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            except FileNotFoundError:  # where there are no locks, a scoring that ends has just removed the folder
                continue
            except OSError as error:
                raise disk_error(error, file) from error

    def ended(self, rank: int, world: int, scoring: str) -> bool:
        """Whether a share of a scoring is complete."""
        look_again(self.folder)
        return (self.folder / f"{_rank(rank)}-of-{world}-{scoring}.done").exists()

    def all_ended(self, world: int, scoring: str) -> bool:
        """Whether all shares of a scoring are complete."""
        return all(self.ended(rank, world, scoring) for rank in range(world))

    def forget(self, scoring: str) -> None:
        """The scoring has come to its end. Call it with the run's lock held: who begins now begins another one.

        Raises:
            CxrbenchError: as `exists`.
        """
        for file in self.folder.glob(f"r*-{scoring}.done") if self.exists() else ():
            _remove(file)
        self.clear()

    def clear(self) -> None:
        """Remove signs, and the folder unless somebody is still writing a part or something is to be remembered.

        Raises:
            CxrbenchError: as `exists`.
        """
        if not self.exists():
            return
        for file in (*self.folder.glob("r*.sign"), *self.folder.glob("r*.new"), self._plan):
            _remove(file)
        for file in unfinished(self._plan):
            remove_left(file)
        with suppress(OSError):
            self.folder.rmdir()
            self.folder.parent.rmdir()


def _remove(file: Path) -> None:
    """Remove what only tells others how far a scoring is, where the disk lets us.

    No annotation is in it: what stays lets ranks that are started again leave more to the one that scores, at worst.
    """
    with suppress(OSError):
        file.unlink()


def _rank(rank: int) -> str:
    return f"r{rank:04d}"


def rows_of(part: Path) -> Iterator[dict[str, Any]]:
    """The whole rows of a part; a last line that a killed process left torn is none.

    One that was merged and removed meanwhile has none: they are in the store.

    Raises:
        CxrbenchError: a row is damaged; the part is a link, no file, or another user's.
    """
    try:
        with open_own(part, _owners(part.parent)) as file:
            for number in count(1):
                line = file.readline(LONGEST + 1)
                if len(line) > LONGEST:
                    raise damaged(part, number)
                if not line.endswith(b"\n"):
                    return
                yield _row(line, part, number)
    except FileNotFoundError:
        return
    except OSError as error:
        raise CxrbenchError(
            f"what a worker handed over cannot be read: {error.strerror}",
            where=str(part),
            fix=_FIX,
            code=Exit.INFRASTRUCTURE,
        ) from error


def _row(line: bytes, part: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line) if len(line) <= _PLAIN or _is_flat(line) else None
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise damaged(part, number)
    return row


_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""A string of JSON, or one without an end: were that no match, every quote in it would be tried as a beginning."""


def _is_flat(line: bytes) -> bool:
    """Whether a line is little else than a few long strings in ASCII, as every long row of a worker."""
    strings = between = end = 0
    for found in _STRING.finditer(line):
        strings, between, end = strings + 1, between + found.start() - end, found.end()
        if strings > _STRINGS:
            return False
    return between + len(line) - end <= _BETWEEN and line.isascii()


_FIX = "delete that file, which costs nothing but annotating again"


def damaged(part: Path, number: int | None = None) -> CxrbenchError:
    """A part holds something that no worker writes."""
    return CxrbenchError(
        "what a worker handed over is damaged",
        where=str(part) if number is None else f"{part}, line {number}",
        fix=_FIX,
        code=Exit.INFRASTRUCTURE,
    )


def _is_ours(folder: Path, beside: Path) -> bool:
    """Whether a folder is there, and a folder of who may hand over beside the feature store.

    Raises:
        CxrbenchError: as `Parts.exists`.
    """
    try:
        found, owners = folder.lstat(), _owners(beside)
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners:
        raise CxrbenchError(
            "where workers of a scoring hand over is a link, a file, or another user's folder",
            where=str(folder),
            fix="delete it, which costs nothing but annotating again",
            code=Exit.INFRASTRUCTURE,
        )
    return True


def _owners(folder: Path) -> set[int]:
    """Who may have made what is read in a folder: this user and whose the folder is, by their numbers.

    The two may differ on a network file system that gives all files to one user, and for an administrator.
    """
    return {os.geteuid(), folder.stat().st_uid}


def read_own(file: Path, largest: int) -> bytes:
    """A file of a coordinator or a worker.

    Raises:
        OSError: it is not there, larger, a link, no file, or another user's.
    """
    with open_own(file, _owners(file.parent)) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size > largest:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(file))
        return handle.read(size)


@cache
def exactly(kind: Any) -> TypeAdapter[Any]:
    """What makes a value of a kind of JSON, or refuses."""
    return TypeAdapter(kind)
