"""What the workers of one scoring hand over: annotations and judges' answers, one append-only file per process.

    features/DATASET/scoring/RUN/r0003-1a2b3c4d.part   rows of one process; nobody else ever opens it for writing
    features/DATASET/scoring/RUN/plan.json             which keys are whose
    features/DATASET/scoring/RUN/r0003.sign            how far the worker of share 3 is
    features/DATASET/scoring/RUN/r0003-of-8-9f8e.done  a rank without a coordinator has ended its share of this scoring

They lie in the cache beside the feature store and never in the run folder: a run folder may come from somebody else,
and what is merged into the store decides later scores. JSON lines and not SQLite, because they may lie on a network
file system. A row is the system's once `put` returns, so a killed process loses none. Touches rows, claims and privacy.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cxrbench.atomic import disk_error, write_atomic
from cxrbench.claims import BEAT, Place, renew
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.privacy import claim_folder, private_folder
from cxrbench.rows import Appender, whole_lines

FOLDER = "scoring"


SPACE = 1 << 64


def place(key: bytes) -> int:
    """Where a key of 16 bytes lies among all keys, from 0 to SPACE; keys are hashes and lie evenly."""
    return int.from_bytes(key[:8], "big")


def even(world: int) -> tuple[int, ...]:
    """Where each of so many shares begins, if all are equally wide.

    >>> even(2) == (0, SPACE // 2)
    True
    """
    return tuple(SPACE * rank // world for rank in range(world))


def fair(keys: Iterable[bytes], world: int) -> tuple[int, ...]:
    """Where each of so many shares begins, if all have equally many of these keys (or one less)."""
    places = sorted(map(place, keys))
    return (0, *(places[len(places) * rank // world] for rank in range(1, world))) if places else even(world)


@dataclass(slots=True)
class Share:
    """Which keys of a scoring are whose: worker `rank` has those from where its share begins to where the next does.

    The key alone decides: workers need no list, no lock and no clock, and one that starts late, or again, has the same
    share, whatever the stores hold by then. `held` are keys some worker has handed over already. A `dry` share
    annotates nothing and counts in `open` what it would; without a rank it counts for all.
    """

    rank: int | None = None
    begins: Sequence[int] = (0,)
    held: set[bytes] = field(default_factory=set)
    dry: bool = False
    open: set[bytes] = field(default_factory=set)

    def wants(self, key: bytes) -> bool:
        """Whether this process is to make what is found under a key of 16 bytes."""
        if self.rank is not None and owner(key, self.begins) != self.rank:
            return False
        if self.dry:
            self.open.add(key)
            return False
        return key not in self.held


def owner(key: bytes, begins: Sequence[int]) -> int:
    """Whose a key is. Of shares that begin at the same place the last has it, and the others have none."""
    return bisect_right(begins, place(key)) - 1


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the shares of the texts begin, and those of the questions to a judge (fewer, where it has few connections).

    A coordinator makes it so that all have as much to do; ranks, which have none, have equally wide shares.
    """

    texts: tuple[int, ...]
    questions: tuple[int, ...]


class ElsewhereError(CxrbenchError):
    """What was asked for is being made by other workers; raised only in workers, after their own share of it."""

    def __init__(self) -> None:
        super().__init__("the rest of these texts is the share of other workers", code=Exit.INFRASTRUCTURE)


class HandOverError(CxrbenchError):
    """What a worker made cannot be handed over: it ends, because the next annotation would be lost too."""


@dataclass(frozen=True, slots=True)
class Sign:
    """The last sign of life of a worker: `done` of `total` of its share, `made` of them by itself.

    `stage` is the annotator it is at (empty before the first), `note` what it could not do.
    `state`: working, done, stopped (asked to end), failed. `clock` is monotonic time on its machine, `wall` the time of
    day, both in seconds.
    """

    rank: int
    world: int
    place: Place
    state: str
    stage: str
    done: int
    made: int
    total: int
    count: int
    clock: float
    wall: float
    note: str = ""


class Part:
    """The rows of one process, made with the first of them; `gone` once somebody has taken them over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: Appender | None = None
        self._writing = threading.Lock()

    def put(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows; judges' answers come from a thread of their own.

        Raises:
            HandOverError: the disk is full or refuses; the file is as it was before the call.
        """
        try:
            with self._writing:
                if self._rows is None:
                    self._rows = Appender(self.path)
                self._rows.put(rows)
        except CxrbenchError as error:
            raise HandOverError(error.what, where=error.where, fix=error.fix, code=error.code) from error

    def gone(self) -> bool:
        """Whether what is written from now on would be lost."""
        return self._rows is not None and not self.path.exists()

    def close(self) -> None:
        """Force the rows to disk and close the file."""
        if self._rows is not None:
            self._rows.force()
            self._rows.close()


class Parts:
    """What workers of the scoring of a run hand over; `beside` is the folder of the feature store."""

    def __init__(self, beside: Path, run: Path) -> None:
        name = hashlib.blake2b(str(run.resolve()).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        self.folder = beside / FOLDER / name

    def new(self, rank: int) -> Part:
        """A part of this process alone."""
        return Part(self.make() / f"{_rank(rank)}-{secrets.token_hex(8)}.part")

    def make(self) -> Path:
        """The folder, made where it is not there; the feature store's is cxrbench's own to delete."""
        claim_folder(self.folder.parent.parent)
        try:
            private_folder(self.folder.parent)
            return private_folder(self.folder)
        except OSError as error:
            raise disk_error(error, self.folder) from error

    def files(self, rank: int | None = None) -> list[Path]:
        """All parts, or those of one share."""
        return sorted(self.folder.glob(f"{'r*' if rank is None else _rank(rank)}-*.part"))

    def size(self, rank: int) -> int:
        """Bytes that were handed over for a share."""
        return sum(file.stat().st_size for file in self.files(rank))

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
            body = json.loads(self._plan.read_text(encoding="utf-8"))
            return Plan(tuple(map(int, body["texts"])), tuple(map(int, body["questions"])))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CxrbenchError(
                "this worker does not find which share it is to annotate",
                where=str(self._plan),
                fix="the cache folder (XDG_CACHE_HOME) must be one that all workers see; start workers with "
                "`cxrbench score RUN --workers N`",
                code=Exit.INFRASTRUCTURE,
            ) from error

    def signs(self) -> list[Sign]:
        """The last sign of life of each worker, by share."""
        return [sign for file in sorted(self.folder.glob("r*.sign")) if (sign := _read_sign(file)) is not None]

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
            with suppress(FileNotFoundError):  # a scoring that has come to its end has just removed the folder
                os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))
                return

    def ended(self, rank: int, world: int, scoring: str) -> bool:
        """Whether a share of a scoring is complete."""
        return (self.folder / f"{_rank(rank)}-of-{world}-{scoring}.done").exists()

    def all_ended(self, world: int, scoring: str) -> bool:
        """Whether all shares of a scoring are complete."""
        return all(self.ended(rank, world, scoring) for rank in range(world))

    def forget(self, scoring: str) -> None:
        """The scoring has come to its end."""
        for file in self.folder.glob(f"r*-{scoring}.done"):
            file.unlink(missing_ok=True)
        self.clear()

    def clear(self) -> None:
        """Remove signs, and the folder unless somebody is still writing a part or something is to be remembered."""
        for file in (*self.folder.glob("r*.sign"), *self.folder.glob("r*.new"), self._plan):
            file.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()
            self.folder.parent.rmdir()


def _rank(rank: int) -> str:
    return f"r{rank:04d}"


def rows_of(part: Path) -> Iterator[dict[str, Any]]:
    """The whole rows of a part; a last line that a killed process left torn is none.

    Raises:
        CxrbenchError: a row is damaged.
    """
    for number, _, line in whole_lines(part):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise damaged(part, number)
        yield row


def damaged(part: Path, number: int | None = None) -> CxrbenchError:
    """A part holds something that no worker writes."""
    return CxrbenchError(
        "what a worker handed over is damaged",
        where=str(part) if number is None else f"{part}, line {number}",
        fix="delete that file, which costs nothing but annotating again",
        code=Exit.INFRASTRUCTURE,
    )


def _read_sign(file: Path) -> Sign | None:
    """A sign of life; None where it has just been removed, or is none."""
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        sign = Sign(**{**body, "place": Place(**body["place"])})
        numbers = (sign.rank, sign.world, sign.done, sign.made, sign.total, sign.count)
        exact = all(type(each) is int for each in numbers) and all(
            isinstance(each, int | float) for each in (sign.clock, sign.wall, sign.place.clock, sign.place.wall)
        )
        return sign if exact and all(isinstance(each, str) for each in (sign.state, sign.stage, sign.note)) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


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

    def show(self, state: str) -> None:
        """Renew the sign."""
        with self._showing:
            self._count += 1
            self._parts.show(
                Sign(
                    self._rank, self._world, self._place, state, self.stage, self.done, self.made, self.total,
                    self._count, time.monotonic(), time.time(), self.note,
                )
            )  # fmt: skip

    def end(self, state: str) -> None:
        """The last sign."""
        self._ended.set()
        self._thread.join()
        self.show(state)
