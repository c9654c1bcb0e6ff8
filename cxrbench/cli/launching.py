"""How a run is answered: by this process alone, by workers it starts here or on Ray, or as one worker of many.

How it is scored the same ways stands in annotating.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cxrbench.errors import CxrbenchError, Exit

if TYPE_CHECKING:
    from cxrbench.claims import Epoch
    from cxrbench.models.base import Model
    from cxrbench.plan import Plan
    from cxrbench.store import RunFolder
    from cxrbench.workers.ranks import Rank
    from cxrbench.workers.share import Check
    from cxrbench.workers.supervise import Crew

LAUNCHERS = ("auto", "none", "processes", "ray")
WORKER = "--as-worker"

Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes that work side by side.", show_default=False)
]
Launcher = Annotated[
    str, typer.Option("--launcher", help="auto (here, or one rank of a scheduler's), none, processes, ray.")
]
RayAddress = Annotated[
    str | None, typer.Option("--ray-address", help="auto, local, or HOST:PORT of a cluster.", show_default=False)
]
AsWorker = Annotated[str | None, typer.Option(WORKER, hidden=True)]


@dataclass(frozen=True, slots=True)
class Way:
    """What the command line and the environment say about how many workers there are, and which this one is."""

    kind: Literal["alone", "rank", "worker", "processes", "ray"]
    workers: int = 1
    rank: Rank | None = None
    share: tuple[int, int] = (0, 0)
    """Rank and epoch of a worker that a coordinator started."""
    piped: bool = False
    """Such a worker ends with its coordinator, which holds the other end of standard input."""
    address: str = "local"
    """Of the Ray cluster."""

    @property
    def starts_workers(self) -> bool:
        """Whether others answer, and this process watches them."""
        return self.kind in ("processes", "ray")

    @property
    def device(self) -> str | None:
        """The GPU of a rank that shares its machine with others; None where nothing says which."""
        from cxrbench.workers.processes import visible_gpus

        gpus = visible_gpus(os.environ)
        if self.rank is None or self.rank.local is None or len(gpus) < 2:
            return None
        return f"cuda:{self.rank.local % len(gpus)}"


def way_of(launcher: str, workers: int | None, as_worker: str | None, address: str | None) -> Way:
    """Decide the way.

    Raises:
        CxrbenchError: an unknown launcher, or numbers that contradict each other.
    """
    from cxrbench.workers.ranks import rank_of

    if launcher not in LAUNCHERS:
        raise CxrbenchError(
            f"there is no launcher {launcher!r}", where="--launcher", fix=f"one of: {', '.join(LAUNCHERS)}"
        )
    if address is not None and launcher != "ray":
        raise CxrbenchError(
            "an address of a Ray cluster is for workers on Ray", where=f"--ray-address {address}", fix="--launcher ray"
        )
    if launcher == "none" and (workers or 1) > 1:
        raise CxrbenchError(
            f"--workers {workers}, but --launcher none is one process",
            where="--launcher none",
            fix="leave one of them out",
        )
    if as_worker is not None:
        share, epoch, how = as_worker.split("/")
        return Way("worker", share=(int(share), int(epoch)), piped=how == "pipe")
    if launcher == "ray":
        if workers is None:
            raise CxrbenchError("Ray needs to know how many workers", where="--launcher ray", fix="--workers N")
        return Way("ray", workers, address=address or os.environ.get("RAY_ADDRESS") or "local")
    if launcher == "auto":
        rank = rank_of(os.environ, workers)
        if rank is not None:
            return Way("rank", rank.world, rank)
    if launcher == "processes" or (workers or 1) > 1:
        return Way("processes", workers or 1)
    return Way("alone")


@dataclass(frozen=True, slots=True)
class Work:
    """Everything a way needs: the folder, what is to be answered by whom, and where progress is shown.

    `report` is called with a stage, and how much of how much is done.
    """

    run: RunFolder
    plan: Plan
    model: Model
    circumstances: Mapping[str, Any]
    threads: int
    report: Callable[[str, int, int | None], None]
    what: str


def answer(way: Way, work: Work) -> int | None:
    """Answer what is open, the given way; returns how many samples were answered now, or None for a worker's share.

    Raises:
        CxrbenchError: see `runner.execute`, `workers.share`, `workers.supervise`.
    """
    from cxrbench.workers.share import stoppable

    with stoppable() as check:
        if way.kind == "worker":
            _as_worker(way, work, check)
            return None
        if way.rank is not None:
            return _as_rank(way.rank, work, check)
        if way.starts_workers:
            return _coordinate(way, work, check)
        return _alone(work, check)


def _alone(work: Work, check: Check) -> int:
    from cxrbench.runner import StrangersError, execute
    from cxrbench.workers.share import Share, answer_share, divide, stopped

    def progress(done: int, total: int) -> None:
        work.report(work.what, done, total)
        check()
        if work.run.claims.epoch_after(0):
            raise stopped("another process has taken over this run")

    if not work.run.exists() or work.run.claims.last_epoch() is None:
        with suppress(StrangersError):
            return execute(work.run, work.plan, work.model, work.circumstances, work.threads, progress)
    made_on = {**work.circumstances, **work.model.circumstances()}
    with work.run.writing():
        epoch = divide(work.run, work.plan, work.model, work.threads, 1, "one process", coordinated=True)
        if epoch is None:
            return 0
        share = Share(epoch, 0, check)
        return answer_share(work.run, work.plan, work.model, made_on, work.threads, share, _counting(work, epoch))


def _counting(work: Work, epoch: Epoch) -> Callable[[int, int], None]:
    """Progress of a worker, over all samples of the run."""
    from cxrbench.workers.share import left

    total = work.plan.manifest.n_expected
    before = total - left(work.run, work.plan, epoch)
    return lambda answered, failed: work.report(work.what, before + answered, total)


def _as_rank(rank: Rank, work: Work, check: Check) -> int | None:
    """One of many that a scheduler started; None where others have work left: to answer, or to score what is complete.

    Raises:
        CxrbenchError: see `answer`.
    """
    from cxrbench.store import OccupiedError

    try:
        return _share_of_rank(rank, work, check)
    except OccupiedError:
        wanted = {request.sample_id for batch in work.plan.batches for request in batch}
        if work.run.exists() and wanted <= work.run.answered_ids():
            return None
        raise


def _share_of_rank(rank: Rank, work: Work, check: Check) -> int | None:
    from cxrbench.workers.share import Share, answer_share, join, left

    made_on = {**work.circumstances, **work.model.circumstances()}
    with work.run.writing(shared=True):
        epoch = join(work.run, work.plan, work.model, work.threads, rank.world, rank.source)
        if epoch is None:
            return 0
        share = Share(epoch, rank.rank, check)
        mine = left(work.run, work.plan, epoch, rank.rank)
        what = f"{work.what}, share {rank.rank} of {rank.world}"

        def progress(answered: int, failed: int) -> None:
            work.report(what, answered, mine)

        answered = answer_share(work.run, work.plan, work.model, made_on, work.threads, share, progress)
        return answered if not left(work.run, work.plan, epoch) else None


def and_coordinator(way: Way, check: Check) -> Check:
    """The same check, which also ends a worker whose coordinator has gone."""
    from cxrbench.workers.processes import end_with_coordinator
    from cxrbench.workers.share import stopped

    gone: list[bool] = []
    if way.piped:
        end_with_coordinator(sys.stdin.fileno(), lambda: gone.append(True))

    def both() -> None:
        check()
        if gone:
            raise stopped("its coordinator has gone")

    return both


def _as_worker(way: Way, work: Work, check: Check) -> None:
    """A worker of a coordinator: its epoch stands in the folder."""
    from cxrbench.workers.share import Share, answer_share

    both = and_coordinator(way, check)
    rank, number = way.share
    epoch = work.run.claims.last_epoch() if work.run.exists() else None
    if epoch is None or epoch.number != number:
        raise CxrbenchError(
            "the share this worker is to answer is not that of the run folder (any more)",
            where=str(work.run.path),
            fix="start workers with `cxrbench run --workers N`",
            code=Exit.INFRASTRUCTURE,
        )
    made_on = {**work.circumstances, **work.model.circumstances()}
    work.run.begin(work.plan.manifest)
    answer_share(work.run, work.plan, work.model, made_on, work.threads, Share(epoch, rank, both), lambda *_: None)


def _coordinate(way: Way, work: Work, check: Check) -> int:
    """Start workers here or on Ray, and see their epoch through."""
    from cxrbench.workers.share import divide, left
    from cxrbench.workers.supervise import supervise

    total = work.plan.manifest.n_expected
    with work.run.writing():
        epoch = divide(work.run, work.plan, work.model, work.threads, way.workers, way.kind, coordinated=True)
        if epoch is None:
            return 0
        open_ = left(work.run, work.plan, epoch)
        crew = crew_of(way, sys.argv[1:], epoch.number, epoch.world)

        def progress(answered: int, at_work: int) -> None:
            said = f"{work.what}, {at_work} workers" if at_work else work.what
            work.report(said, total - open_ + answered, total)

        supervise(work.run, epoch, crew, check, progress)
        return open_


def crew_of(way: Way, words: Sequence[str], number: int, world: int) -> Crew:
    """Processes here or actors on Ray that are the command `words` again; `number` as in `Processes`."""
    if way.kind == "ray":
        from cxrbench.bridges.ray import Actors

        return Actors(run_words, words, number, world, way.address)
    from cxrbench.workers.processes import Processes

    spread = not any(word == "--device" or word.startswith("--device=") for word in words)
    return Processes(words, number, world, spread=spread)


@contextmanager
def unless_another_scores(way: Way) -> Iterator[None]:
    """Of ranks that end at the same moment each finds the run complete; one of them scores it."""
    from cxrbench.store import OccupiedError

    try:
        yield
    except OccupiedError:
        if way.rank is None:
            raise
        typer.echo("note: another worker scores this run", err=True)


def run_words(words: Sequence[str]) -> None:
    """`cxrbench WORDS` in this process; errors are raised."""
    from typer.main import get_command

    from cxrbench.cli.main import app

    get_command(app).main(list(words), prog_name="cxrbench", standalone_mode=False)


def own_words(words: list[str]) -> list[str]:
    """The words of a command without those that make it a worker."""
    if WORKER not in words:
        return words
    at = words.index(WORKER)
    return [*words[:at], *words[at + 2 :]]


def with_device(way: Way, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A model's settings with the GPU of this rank, where the command names none."""
    device = way.device if fields["device"] == "auto" else None
    return {**fields, "device": device} if device is not None else dict(fields)
