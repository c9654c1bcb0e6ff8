"""Who writes which shard of a run folder when several processes do: epochs, claims, seals, heartbeats.

    workers/epoch-0001.json   how the batches still open then are divided into shares, and what was counted until then
    workers/0001.json         the claim of shard 1: which share of which epoch it answers, on which machine
    workers/0001.beat         the heartbeat of who writes shard 1
    predictions/0001.jsonl    its rows; only the process that holds the claim ever opens it for writing

Why it is exactly once, whatever dies when, on any POSIX file system:

1. Epochs and claims are files that exactly one process can make (a hard link to a finished file: atomic on NFS too)
   and nobody changes. An epoch lists the open batches; share r of w is every w-th of them from the r-th on. Two shares
   of one epoch have no batch in common, so workers need no locks against each other.
2. Whoever takes over (the next epoch, or a new process for the same share) first makes a file that *seals* the shards
   before it: their length in bytes at that moment. Rows behind a seal do not count, for any reader, ever. A process
   that was taken for dead and wakes up writes into the void, finds the newer file after its batch, and stops.

So no step asks whether a process is dead: leases, clocks and locks are only for politeness (not to disturb a run at
work) and for `cxrbench status`. Times are taken from monotonic clocks; a clock that jumps changes nothing.
Touches errors, privacy, reading and atomic.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from cxrbench.atomic import disk_error, look_again, sync_folder
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.privacy import private_file, private_folder
from cxrbench.reading import read_regular

FOLDER = "workers"
LARGEST = 1 << 28
"""Bytes of a record: an epoch names every sample that is asked again."""

MOST = 10_000_000
"""Batches that an epoch may open, shards and processes that may be named: far beyond a machine's, small for memory."""

BEAT = 2.0
"""Seconds between two heartbeats. Three without one, and a worker elsewhere is taken for gone."""


EXACT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""A run folder may be somebody else's: a record has the types that are written here, or is damaged."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process runs.

    `machine` names a kernel and its process numbers, `started` tells processes of one number apart; `clock` is that
    machine's monotonic time, `wall` the time of day, both in seconds when the place was noted.
    """

    __pydantic_config__: ClassVar[ConfigDict] = EXACT
    host: str
    machine: str
    pid: int
    started: str
    clock: float
    wall: float

    @classmethod
    def here(cls) -> Place:
        """This process, now."""
        pid = os.getpid()
        return cls(platform.node(), this_machine(), pid, _started(pid), time.monotonic(), time.time())

    def alive(self) -> bool | None:
        """Whether the process is there; None where only its own machine could tell."""
        if self.machine != this_machine():
            return None
        return _started(self.pid) == self.started != ""


@cache
def this_machine() -> str:
    """Boot and process namespace of this machine; its name where the system tells neither."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _started(pid: int) -> str:
    """When a process began, as the kernel counts; empty when there is none (a zombie is none)."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "" if words[0] in "ZX" else words[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
    except (OSError, IndexError):
        return ""
    try:
        os.kill(pid, 0)
    except OSError:
        return ""
    return "running"


@dataclass(frozen=True, slots=True)
class Epoch:
    """A division of open batches.

    `batches` as (first, last) runs of numbers in the order of the plan, whose hash is `plan`; `again` are samples that
    have a row and are asked again; `sealed` maps shard names to the bytes of them that count. `coordinated`: one
    process starts the workers and watches them; else each was started by itself and knows its rank.
    """

    __pydantic_config__: ClassVar[ConfigDict] = EXACT
    number: int
    world: int
    launcher: str
    coordinated: bool
    plan: str
    batches: tuple[tuple[int, int], ...]
    again: tuple[str, ...]
    sealed: Mapping[str, int]
    place: Place

    def share(self, rank: int) -> list[int]:
        """The batch numbers of one share."""
        return self.open()[rank :: self.world]

    def open(self) -> list[int]:
        """All batch numbers that were open."""
        return [number for first, last in self.batches for number in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class Claim:
    """Who writes a shard.

    `sealed`: earlier shards of the same share, as in `Epoch`. `place` is noted when the model is up, so that its clock
    is the beginning of the timed window. `circumstances` are those of this part of the run.
    """

    __pydantic_config__: ClassVar[ConfigDict] = EXACT
    shard: int
    epoch: int
    rank: int
    world: int
    sealed: Mapping[str, int]
    place: Place
    circumstances: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Beat:
    """The last sign of life of a worker: its `count`-th, `clock` seconds on its machine; what it came to so far.

    `answered` of `samples` that were open for it, `failed` of the answered are no report.
    `state`: working, done, stopped (asked to), failed (with `error`: what, where, fix, code).
    """

    __pydantic_config__: ClassVar[ConfigDict] = EXACT
    count: int
    state: str
    samples: int
    answered: int
    failed: int
    clock: float
    wall: float
    error: Mapping[str, Any] = field(default_factory=dict)


_Record = TypeVar("_Record", Epoch, Claim, Beat)


def shard_name(shard: int) -> str:
    """The name of a shard, in predictions/ and batches/ with `.jsonl`."""
    return f"{shard:04d}"


def runs_of(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Ascending numbers as (first, last) runs.

    >>> runs_of([0, 1, 2, 5, 7, 8])
    ((0, 2), (5, 5), (7, 8))
    """
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return tuple(found)


class Claims:
    """The workers/ folder of a run. Reading never changes it."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.folder = run / FOLDER

    def epochs(self) -> list[Epoch]:
        """All epochs, oldest first; empty for a run of one process."""
        return [_read(Epoch, file) for file in sorted(self.folder.glob("epoch-*.json"), key=_number)]

    def last_epoch(self) -> Epoch | None:
        """The epoch in force."""
        files = sorted(self.folder.glob("epoch-*.json"), key=_number)
        return _read(Epoch, files[-1]) if files else None

    def claims(self) -> list[Claim]:
        """All claims, by shard number."""
        return [_read(Claim, file) for file in sorted(self.folder.glob("[0-9]*.json"), key=_number)]

    def seals(self) -> dict[str, int]:
        """Shard name -> bytes that count, for every shard whose writer may write no more.

        The first seal of a shard is the one. An epoch seals every shard before it: one that it does not name (a
        worker came too late to know of it) counts for nothing.
        """
        epochs, claims = self.epochs(), self.claims()
        found: dict[str, int] = {}
        sealed: list[Mapping[str, int]] = [*(epoch.sealed for epoch in epochs), *(claim.sealed for claim in claims)]
        for lengths in sealed:
            for name, length in lengths.items():
                found[name] = min(length, found.get(name, length))
        if epochs:
            now = {shard_name(claim.shard) for claim in claims if claim.epoch == epochs[-1].number}
            for file in (self.run / "predictions").glob("*.jsonl"):
                if file.stem not in now:
                    found.setdefault(file.stem, 0)
        return found

    def whole_rows(self, shard: str) -> int:
        """Bytes of a shard's predictions that are whole rows."""
        # Opening asks a network file system for the size of now, which stat() need not.
        try:
            with (self.run / "predictions" / f"{shard}.jsonl").open("rb") as file:
                return end_of_rows(file.fileno())
        except FileNotFoundError:
            return 0

    def to_seal(self, shards: Iterable[str]) -> dict[str, int]:
        """What a new record has to seal of these shards: those that no earlier record did."""
        known = self.seals()
        return {name: self.whole_rows(name) for name in shards if name not in known}

    def open_epoch(self, epoch: Epoch) -> bool:
        """Put an epoch in force; False when another process made the same number first."""
        return _make(self.folder / f"epoch-{epoch.number:04d}.json", asdict(epoch))

    def claim(self, epoch: Epoch, rank: int, circumstances: Mapping[str, Any]) -> Claim:
        """Claim a shard for a share, sealing what was written for it before.

        Numbers have no gaps and a claim never changes: whoever makes number n has seen all that are smaller.
        """
        while True:
            before = self.claims()
            number = before[-1].shard + 1 if before else 1
            ours = [shard_name(each.shard) for each in before if (each.epoch, each.rank) == (epoch.number, rank)]
            made = Claim(number, epoch.number, rank, epoch.world, self.to_seal(ours), Place.here(), dict(circumstances))
            if _make(self.folder / f"{shard_name(number)}.json", asdict(made)):
                return made

    def epoch_after(self, number: int) -> bool:
        """Whether there is a newer epoch; after epoch 0 (shard 0 is being written) the first."""
        look_again(self.run, self.folder)
        return (self.folder / f"epoch-{number + 1:04d}.json").exists()

    def superseded(self, claim: Claim) -> bool:
        """Whether what this claim writes does not count any more."""
        if self.epoch_after(claim.epoch):
            return True
        return any(
            each.shard > claim.shard and each.epoch == claim.epoch and each.rank == claim.rank
            for each in self._after(claim.shard)
        )

    def _after(self, shard: int) -> Iterator[Claim]:
        number = shard + 1
        while (file := self.folder / f"{shard_name(number)}.json").exists():
            yield _read(Claim, file)
            number += 1

    def beat_file(self, shard: int) -> Path:
        """The heartbeat of a shard's writer."""
        return self.folder / f"{shard_name(shard)}.beat"

    def beat(self, shard: int) -> Beat | None:
        """The last heartbeat; None before the first."""
        try:
            return _read(Beat, self.beat_file(shard))
        except (FileNotFoundError, CxrbenchError):  # a sign of life and no more: a damaged one is none
            return None

    def write_beat(self, shard: int, beat: Beat) -> None:
        """Renew a heartbeat. A disk that refuses it will refuse the rows, which says it better: nothing is raised."""
        renew(self.beat_file(shard), asdict(beat))


def renew(file: Path, sign: Mapping[str, Any]) -> None:
    """Put a sign of life in the place of the last one; where the disk refuses it, the last one stays."""
    new = file.with_suffix(f".{secrets.token_hex(4)}.new")
    try:
        with open(new, "w", encoding="utf-8", opener=private_file) as out:
            json.dump(sign, out)
        new.replace(file)
    except OSError:
        with suppress(OSError):
            new.unlink()


def end_of_rows(handle: int, size: int | None = None) -> int:
    """The offset behind the last line break of an open file, looking at its first `size` bytes; 0 without one."""
    end = os.fstat(handle).st_size if size is None else size
    while end > 0:
        start = max(0, end - 65536)
        cut = os.pread(handle, end - start, start).rfind(b"\n")
        if cut >= 0:
            return start + cut + 1
        end = start
    return 0


def _number(file: Path) -> int:
    digits = file.stem.rpartition("-")[2]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= len(str(MOST))):
        raise _damaged(file)
    return int(digits)


def _make(path: Path, body: Mapping[str, Any]) -> bool:
    """Make a file with its whole content, for exactly one of those who try; False for the others."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        private_folder(path.parent)
        with open(part, "x", encoding="utf-8", opener=private_file) as file:
            json.dump(body, file, ensure_ascii=True)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)
            made = True
        except FileExistsError:
            made = part.stat().st_nlink == 2  # a network file system may repeat a call that had already worked
        finally:
            part.unlink()
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise disk_error(error, path) from error
    return made


@cache
def _adapters() -> Mapping[Any, TypeAdapter[Any]]:
    return {kind: TypeAdapter(kind) for kind in (Epoch, Claim, Beat)}


def _read(kind: type[_Record], path: Path) -> _Record:
    """A record that says nothing impossible, with the number of its file.

    Raises:
        FileNotFoundError: there is none.
        CxrbenchError: it is damaged, or no file.
    """
    try:
        record: _Record = _adapters()[kind].validate_json(read_regular(path, LARGEST))
    except FileNotFoundError:
        raise
    except (OSError, ValidationError) as error:
        raise _damaged(path) from error
    if not _possible(record, _number(path)):
        raise _damaged(path)
    return record


def _possible(record: Epoch | Claim | Beat, number: int) -> bool:
    """Whether the numbers of a record can be so: whoever counts with them would not come to an end, or trip."""
    if isinstance(record, Beat):
        return min(record.count, record.samples, record.answered, record.failed) >= 0
    if record.place.pid < 1 or not 1 <= record.world <= MOST or min(record.sealed.values(), default=0) < 0:
        return False
    if isinstance(record, Claim):
        return record.shard == number and 1 <= record.epoch <= MOST and 0 <= record.rank < record.world
    opened = sum(last - first + 1 for first, last in record.batches)
    return record.number == number and opened <= MOST and all(0 <= first <= last for first, last in record.batches)


def _damaged(path: Path) -> CxrbenchError:
    return CxrbenchError(
        "a record of the run's workers is damaged",
        where=str(path),
        fix="restore it from a copy, or start again with --out DIR",
        code=Exit.INFRASTRUCTURE,
    )
