"""The coordinator of several workers of a run or a scoring: start, watch, start again who died, tell how far all are.

A worker that dies is replaced by one that claims a new shard for the same share; one that fails with an error ends
the run, because the next would fail alike. Everything written is kept either way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from cxrbench.errors import CxrbenchError, Exit

if TYPE_CHECKING:
    from cxrbench.claims import Claim, Epoch
    from cxrbench.store import RunFolder

TRIES = 3
"""How often a worker may die without an answer in between."""

LOOK = 0.1
LOOK_AT_BEATS = 0.5
"""Seconds between two looks at the workers, and at how far they are."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a worker. `reason` of a death in words; `error` of a failure."""

    rank: int
    fate: Literal["done", "died", "failed"]
    reason: str = ""
    error: CxrbenchError | None = None


class Crew(Protocol):
    """Starts workers somewhere and tells what becomes of them."""

    def start(self, rank: int) -> None:
        """Start a worker for a share; its predecessor, if any, has ended or is lost."""

    def ended(self) -> list[Ended]:
        """Who has ended since the last call."""

    def stop(self) -> None:
        """End all that are left: first asked, then made to."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What a crew works on: the folder it is told of by, what each share has come to, and who is shown how far all are.

    `written` gives the bytes there are of a share; a worker that dies without more of them than its predecessor had has
    come to nothing. `show` is told now and then how many workers are at work.
    """

    folder: Path
    written: Callable[[int], int]
    show: Callable[[int], None]


def see_through(crew: Crew, ranks: Iterable[int], watched: Watched, check: Callable[[], None]) -> None:
    """Start a worker for each share, start again who died, and come back when all have ended.

    Raises:
        CxrbenchError: a worker failed, or died `TRIES` times without coming to anything; or what `check` raises.
    """
    waiting = set(ranks)
    deaths = dict.fromkeys(waiting, 0)
    written = dict.fromkeys(waiting, 0)
    looked = 0.0
    try:
        for rank in sorted(waiting):
            crew.start(rank)
        while waiting:
            check()
            for end in crew.ended():
                if end.fate == "failed":
                    raise end.error or CxrbenchError(f"worker {end.rank} failed", code=Exit.INFRASTRUCTURE)
                if end.fate == "done":
                    waiting.discard(end.rank)
                    continue
                now = watched.written(end.rank)
                deaths[end.rank] = 1 if now > written[end.rank] else deaths[end.rank] + 1
                written[end.rank] = now
                if deaths[end.rank] >= TRIES:
                    raise CxrbenchError(
                        f"worker {end.rank} died {TRIES} times without an answer in between ({end.reason})",
                        where=str(watched.folder),
                        fix="look for a lack of memory; fewer --workers or a smaller --batch-size need less",
                        code=Exit.INFRASTRUCTURE,
                    )
                crew.start(end.rank)
            if time.monotonic() - looked > LOOK_AT_BEATS:
                looked = time.monotonic()
                watched.show(len(waiting))
            time.sleep(LOOK)
    finally:
        crew.stop()
    watched.show(0)


Progress = Callable[[int, int], None]
"""Called with how many samples of the epoch are answered, and how many workers are at work."""


def supervise(run: RunFolder, epoch: Epoch, crew: Crew, check: Callable[[], None], progress: Progress) -> None:
    """See an epoch through.

    Raises:
        CxrbenchError: as `see_through`.
    """

    def written(rank: int) -> int:
        return sum(_size(run, claim) for claim in team(run, epoch) if claim.rank == rank)

    watched = Watched(run.path, written, lambda at_work: progress(_answered(run, epoch), at_work))
    see_through(crew, (rank for rank in range(epoch.world) if epoch.share(rank)), watched, check)


def team(run: RunFolder, epoch: Epoch) -> list[Claim]:
    """The claims of an epoch."""
    return [claim for claim in run.claims.claims() if claim.epoch == epoch.number]


def _size(run: RunFolder, claim: Claim) -> int:
    try:
        return run.shard_file("predictions", claim.shard).stat().st_size
    except FileNotFoundError:
        return 0


def _answered(run: RunFolder, epoch: Epoch) -> int:
    beats = [run.claims.beat(claim.shard) for claim in team(run, epoch)]
    return sum(beat.answered for beat in beats if beat is not None)
