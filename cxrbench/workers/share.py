"""One worker's part: divide what is open, claim a shard, answer the share, show signs of life.

The rules that make it exactly once stand in `claims.py`. This module keeps their order: seal first, then look at what
counts, then decide what is open.
"""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cxrbench.claims import BEAT, Beat, Claim, Epoch, Place, runs_of, shard_name
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.lock import looks
from cxrbench.rows import Appender, row_ids
from cxrbench.runner import Job, begin, open_batches, reopened

if TYPE_CHECKING:
    from cxrbench.models.base import Model
    from cxrbench.plan import Plan
    from cxrbench.store import RunFolder

ORPHANS = 10.0
"""Seconds that workers without their coordinator get to notice it before their shares are taken over."""


def plan_hash(plan: Plan) -> str:
    """16 hex digits over the samples of every batch: workers that cut otherwise would answer twice, or never."""
    digest = hashlib.sha256()
    for batch in plan.batches:
        digest.update(hashlib.sha256("\0".join(request.sample_id for request in batch).encode()).digest())
    return digest.hexdigest()[:16]


def divide(
    run: RunFolder, plan: Plan, model: Model, threads: int, world: int, launcher: str, *, coordinated: bool
) -> Epoch | None:
    """Put a new epoch over what is open in force; None when nothing is open.

    Raises:
        CxrbenchError: others are at work here, another process divided the run at the same moment, or the image of an
            answered sample has changed.
    """
    last = run.claims.last_epoch() if run.exists() else None
    wait_for_others(run, last)
    begin(run, plan)
    return _open_after(last, run, plan, model, threads, world, launcher, coordinated=coordinated)


def _open_after(
    last: Epoch | None, run: RunFolder, plan: Plan, model: Model, threads: int, world: int, launcher: str, *,
    coordinated: bool,
) -> Epoch | None:  # fmt: skip
    """Open the epoch after `last`, the one that was in force when the caller decided that a new one is needed."""
    sealed = run.claims.to_seal([file.stem for file in run.shards("predictions")])
    answered = run.predictions(sealed)
    again = reopened(run, plan, answered, model, threads)
    numbers = [
        number
        for number, batch in enumerate(plan.batches)
        if any(request.sample_id not in answered or request.sample_id in again for request in batch)
    ]
    if not numbers:
        return None
    epoch = Epoch(
        number=last.number + 1 if last else 1,
        world=world,
        launcher=launcher,
        coordinated=coordinated,
        plan=plan_hash(plan),
        batches=runs_of(numbers),
        again=tuple(sorted(again)),
        sealed=sealed,
        place=Place.here(),
    )
    if not run.claims.open_epoch(epoch):
        raise _LostError(
            "another process divided this run at the same moment", where=str(run.path), fix="repeat the command"
        )
    return epoch


class _LostError(CxrbenchError):
    """Two processes wanted to open the same epoch, and the other did."""


def join(run: RunFolder, plan: Plan, model: Model, threads: int, world: int, launcher: str) -> Epoch | None:
    """The epoch that workers of a scheduler share: the one in force while it has work left, else a new one.

    Raises:
        CxrbenchError: see `divide`.
    """
    while True:
        last = run.claims.last_epoch() if run.exists() else None
        if last is not None and not last.coordinated and last.world == world and left(run, plan, last):
            run.begin(plan.manifest)
            return last
        wait_for_others(run, last)
        begin(run, plan)
        try:
            return _open_after(last, run, plan, model, threads, world, launcher, coordinated=False)
        except _LostError:
            continue


def answered_in(run: RunFolder, epoch: Epoch) -> set[str]:
    """Samples that nobody has to answer in this epoch: answered before and not asked again, or answered in it."""
    seals = run.claims.seals()
    fresh = {shard_name(claim.shard) for claim in run.claims.claims() if claim.epoch == epoch.number}
    files = run.shards("predictions")
    done = {each for file in files if file.stem not in fresh for each in row_ids(file, seals.get(file.stem))}
    done -= set(epoch.again)
    return done | {each for file in files if file.stem in fresh for each in row_ids(file, seals.get(file.stem))}


def left(run: RunFolder, plan: Plan, epoch: Epoch, rank: int | None = None) -> int:
    """How many samples of the plan are open in this epoch, or in one share of it."""
    done = answered_in(run, epoch)
    numbers = epoch.open() if rank is None else epoch.share(rank)
    return sum(request.sample_id not in done for number in numbers for request in plan.batches[number])


def wait_for_others(run: RunFolder, last: Epoch | None) -> None:
    """Let workers of the `last` epoch that lost their coordinator end; what others still write will not count.

    Raises:
        CxrbenchError: a worker that a scheduler started is at work here, or a coordinator on another machine.
    """
    if last is None:
        return
    until = time.monotonic() + ORPHANS
    while busy := [claim for claim in run.claims.claims() if claim.epoch == last.number and working(run, claim)]:
        if not last.coordinated or (last.place.alive() is None and _ticks(run, busy)):
            raise CxrbenchError(
                f"{len(busy)} workers are writing this run (the first: process {busy[0].place.pid} on "
                f"{busy[0].place.host})",
                where=str(run.path),
                fix=f"cxrbench status {run.path}; wait for them, or stop them and repeat the command",
                code=Exit.INFRASTRUCTURE,
            )
        if time.monotonic() > until:
            return
        time.sleep(0.1)


def working(run: RunFolder, claim: Claim) -> bool:
    """Whether the writer of a shard is at work, as far as can be told: its process is there, or its heart beats."""
    beat = run.claims.beat(claim.shard)
    if beat is not None and beat.state != "working":
        return False
    alive = claim.place.alive()
    return _ticks(run, [claim]) if alive is None else alive


def _ticks(run: RunFolder, claims: Iterable[Claim]) -> bool:
    """Whether a heartbeat comes in while we watch: no clock of another machine has to be believed."""
    claims = list(claims)
    before = [run.claims.beat(claim.shard) for claim in claims]
    return any([run.claims.beat(claim.shard) for claim in claims] != before for _ in looks())


class StoppedError(CxrbenchError):
    """Somebody asked the process to end (SIGTERM), or its coordinator has gone, or its share was taken over."""


def stopped(reason: str) -> StoppedError:
    """The error of a worker that leaves in good order: everything it answered is written."""
    return StoppedError(
        f"stopped: {reason}; what was written is kept",
        fix="the same command goes on from there",
        code=Exit.INFRASTRUCTURE,
    )


Check = Callable[[], None]
"""Called between batches; raises when the process is to end."""


@contextmanager
def stoppable() -> Iterator[Check]:
    """Yield what raises `StoppedError` once SIGTERM has come: called between batches, it keeps the one in flight.

    Schedulers give some seconds between SIGTERM and SIGKILL; a batch that takes longer is lost, and only that.
    """
    asked = threading.Event()

    def check() -> None:
        if asked.is_set():
            raise stopped("the process was asked to end")

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield check
    finally:
        signal.signal(signal.SIGTERM, before)


State = Literal["working", "done", "stopped", "failed"]


class Pulse:
    """Shows that a worker lives and how far it is, every `BEAT` seconds and whenever its state changes."""

    def __init__(self, run: RunFolder, shard: int, samples: int) -> None:
        self._claims, self._shard, self._samples = run.claims, shard, samples
        self._count = 0
        self._ended = threading.Event()
        self._writing = threading.Lock()
        self.answered = self.failed = 0
        self._thread = threading.Thread(target=self._keep_on, name="cxrbench-pulse", daemon=True)
        self._show("working")
        self._thread.start()

    def _keep_on(self) -> None:
        while not self._ended.wait(BEAT):
            self._show("working")

    def _show(self, state: State, error: Mapping[str, Any] | None = None) -> None:
        with self._writing:
            self._count += 1
            self._claims.write_beat(
                self._shard,
                Beat(
                    self._count, state, self._samples, self.answered, self.failed, time.monotonic(), time.time(),
                    error or {},
                ),
            )  # fmt: skip

    def end(self, state: State, error: CxrbenchError | None = None) -> None:
        """The last beat."""
        self._ended.set()
        self._thread.join()
        said = {"what": error.what, "where": error.where, "fix": error.fix, "code": int(error.code)} if error else None
        self._show(state, said)


class _Counting(Appender):
    """Rows of a shard; counts for the heartbeat what was written."""

    pulse: Pulse

    def put(self, rows: Iterable[Mapping[str, Any]]) -> None:
        kept = list(rows)
        super().put(kept)
        self.pulse.answered += len(kept)
        self.pulse.failed += sum(row["outcome"] not in ("ok", "empty") for row in kept)


@dataclass(frozen=True, slots=True)
class Share:
    """Which share of which epoch."""

    epoch: Epoch
    rank: int
    check: Check


def answer_share(
    run: RunFolder, plan: Plan, model: Model, circumstances: Mapping[str, Any], threads: int, share: Share,
    progress: Callable[[int, int], None],
) -> int:  # fmt: skip
    """Answer a share to its end; returns how many samples were answered. `circumstances` include the model's.

    Raises:
        CxrbenchError: this process cuts other batches than the epoch's; the disk is full; the model fails; it was
            stopped. Everything written before is kept.
    """
    epoch = share.epoch
    if plan_hash(plan) != epoch.plan:
        raise CxrbenchError(
            "this worker cuts other batches than the run: it reads other data, or runs another version",
            where=str(run.path),
            fix="the same data and the same cxrbench on every machine",
        )
    claim = run.claims.claim(epoch, share.rank, {"rank": share.rank, "world": epoch.world, **circumstances})
    done = answered_in(run, epoch)
    numbers = epoch.share(share.rank)
    mine = {request.sample_id for number in numbers for request in plan.batches[number]}
    todo = open_batches(plan.batches, numbers, done, alone=getattr(model, "independent", False))
    pulse = Pulse(run, claim.shard, len(mine - done))
    try:
        answered = _answer(run, model, todo, done & mine, threads, claim, pulse, share.check, progress)
    except StoppedError as error:
        pulse.end("stopped", error)
        raise
    except KeyboardInterrupt:
        pulse.end("stopped", stopped("somebody pressed Ctrl-C"))
        raise
    except CxrbenchError as error:
        pulse.end("failed", error)
        raise
    except BaseException as error:
        # A foreign exception may quote a report: its type is enough for a heartbeat, the process tells the rest.
        pulse.end("failed", CxrbenchError(f"a worker broke off: {type(error).__name__}", code=Exit.INFRASTRUCTURE))
        raise
    pulse.end("done")
    return answered


def _answer(
    run: RunFolder, model: Model, todo: Sequence[tuple[int, Sequence[Any]]], done: set[str], threads: int,
    claim: Claim, pulse: Pulse, check: Check, progress: Callable[[int, int], None],
) -> int:  # fmt: skip
    def between(_: int) -> None:
        progress(pulse.answered, pulse.failed)
        check()
        if run.claims.superseded(claim):
            raise stopped("another process has taken over this share")

    rows = _Counting(run.shard_file("predictions", claim.shard))
    rows.pulse = pulse
    try:
        times = Appender(run.shard_file("batches", claim.shard))
        try:
            return Job(run, model, todo, done, rows, times, -claim.epoch, threads).answer(between)
        finally:
            times.close()
    finally:
        rows.close()
