"""What the workers of one scoring hand over: annotations and judges' answers, one append-only file per process.

    features/DATASET/scoring/RUN/r0003-1a2b3c4d.part   rows of one process; nobody else ever opens it for writing
    features/DATASET/scoring/RUN/plan.json             which keys are whose
    features/DATASET/scoring/RUN/r0003.sign            how far the worker of share 3 is
    features/DATASET/scoring/RUN/r0003-of-8-9f8e.done  a rank without a coordinator has ended its share of this scoring

They lie in the cache beside the feature store and never in the run folder: a run folder may come from somebody else,
and what is merged into the store decides later scores. So nothing is read there that may be another user's. JSON lines
and not SQLite, because they may lie on a network file system. A row is the system's once `put` returns, so a killed
process loses none. Touches rows, claims, reading and privacy.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter

from cxrbench.atomic import disk_error, look_again, unfinished, write_atomic
from cxrbench.claims import BEAT, EXACT, MOST, Place, renew
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.privacy import claim_folder, remove_left
from cxrbench.reading import SMALL, open_own
from cxrbench.rows import Appender
from cxrbench.shares import Plan

FOLDER = "scoring"

LONGEST = 1 << 27
"""Bytes of a row: an answer of a judge of 16 MB, raw and as its text with every character escaped, has fewer."""

LARGEST = 1 << 28
"""Bytes of a plan, which names every question that came to nothing."""

FORCE = 10.0
"""Seconds after which rows are forced to disk at the latest, if more come: what a machine that stops may cost."""


class HandOverError(CxrbenchError):
    """What a worker made cannot be handed over: it ends, because the next annotation would be lost too."""


State = Literal["working", "done", "stopped", "failed"]
"""Of a worker; one that stopped was asked to."""


@dataclass(frozen=True, slots=True)
class Sign:
    """The last sign of life of a worker: `done` of `total` of its share, `made` of them by itself.

    `stage` is the annotator it is at (empty before the first), `note` what it could not do. `clock` is monotonic
    time on its machine, `wall` the time of day, both in seconds.
    """

    __pydantic_config__: ClassVar[ConfigDict] = EXACT
    rank: int
    world: int
    place: Place
    state: State
    stage: str
    done: int
    made: int
    total: int
    count: int
    clock: float
    wall: float
    note: str = ""


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
        self.folder = beside / FOLDER / name

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
            claim_folder(self.folder.parent.parent)
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
                if self.exists() and folder.stat().st_mode & 0o077:
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
        for folder in (self.folder.parent, self.folder):
            try:
                found, owners = folder.lstat(), _owners(self.folder.parent.parent)
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
            plan: Plan = _exactly(Plan).validate_json(_read(self._plan, LARGEST))
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

    def signs(self) -> list[Sign]:
        """The last sign of life of each worker, by share."""
        files = sorted(self.folder.glob("r*.sign")) if self.exists() else []
        return [sign for file in files if (sign := _read_sign(file)) is not None]

    def show(self, sign: Sign) -> None:
        """Renew a sign of life. A disk that refuses it will refuse the rows, which says it better: none is raised."""
        renew(self.folder / f"{_rank(sign.rank)}.sign", asdict(sign))

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
        """The scoring has come to its end. Call it with the run's lock held: who begins now begins another one."""
        for file in self.folder.glob(f"r*-{scoring}.done") if self.exists() else ():
            file.unlink(missing_ok=True)
        self.clear()

    def clear(self) -> None:
        """Remove signs, and the folder unless somebody is still writing a part or something is to be remembered."""
        if not self.exists():
            return
        for file in (*self.folder.glob("r*.sign"), *self.folder.glob("r*.new"), self._plan):
            file.unlink(missing_ok=True)
        for file in unfinished(self._plan):
            remove_left(file)
        with suppress(OSError):
            self.folder.rmdir()
            self.folder.parent.rmdir()


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
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise damaged(part, number)
    return row


_FIX = "delete that file, which costs nothing but annotating again"


def damaged(part: Path, number: int | None = None) -> CxrbenchError:
    """A part holds something that no worker writes."""
    return CxrbenchError(
        "what a worker handed over is damaged",
        where=str(part) if number is None else f"{part}, line {number}",
        fix=_FIX,
        code=Exit.INFRASTRUCTURE,
    )


def _owners(folder: Path) -> set[int]:
    """Who may have made what is read in a folder: this user and whose the folder is, by their numbers.

    The two may differ on a network file system that gives all files to one user, and for an administrator.
    """
    return {os.geteuid(), folder.stat().st_uid}


def _read(file: Path, largest: int) -> bytes:
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
def _exactly(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _read_sign(file: Path) -> Sign | None:
    """A sign of life; None where it has just been removed, or is none."""
    try:
        sign: Sign = _exactly(Sign).validate_json(_read(file, SMALL))
    except (OSError, ValueError):
        return None
    counted = min(sign.done, sign.made, sign.total, sign.count) >= 0 and sign.place.pid >= 1
    return sign if counted and 0 <= sign.rank < sign.world <= MOST else None


class Life:
    """Shows that a worker lives and how far it is, every `BEAT` seconds and whenever its state changes."""

    def __init__(self, parts: Parts, rank: int, world: int) -> None:
        self._parts, self._rank, self._world = parts, rank, world
        self._place, self._count = Place.here(), 0
        self._ended, self._showing = threading.Event(), threading.Lock()
        self.stage, self.note = "", ""
        self.done = self.made = self.total = 0
        self.show("working")
        self._thread = threading.Thread(target=self._keep_on, name="cxrbench-pulse", daemon=True)
        self._thread.start()

    def _keep_on(self) -> None:
        while not self._ended.wait(BEAT):
            self.show("working")

    def show(self, state: State) -> None:
        """Renew the sign."""
        with self._showing:
            self._count += 1
            self._parts.show(
                Sign(
                    self._rank, self._world, self._place, state, self.stage, self.done, self.made, self.total,
                    self._count, time.monotonic(), time.time(), self.note,
                )
            )  # fmt: skip

    def end(self, state: State) -> None:
        """The last sign."""
        self._ended.set()
        self._thread.join()
        self.show(state)
