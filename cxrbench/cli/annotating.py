"""How a run is scored by several workers: the ways of launching.py, for what annotators and judges have to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from cxrbench.cli import launching
from cxrbench.errors import CxrbenchError

if TYPE_CHECKING:
    from cxrbench.features.base import Resources
    from cxrbench.scores import Sources
    from cxrbench.scoring import Ahead, Progress
    from cxrbench.store import RunFolder
    from cxrbench.workers.share import Check
    from cxrbench.workers.supervise import Crew


def score_as(
    way: launching.Way, run: RunFolder, named: Sequence[str], sources: Sources, finish: Callable[[Sources], None]
) -> None:
    """Score a run the given way; `finish` scores it in this process, with the sources it is given.

    A worker, or a rank of a scheduler, makes its share; the last rank to end scores.

    Raises:
        CxrbenchError: see `workers.annotate`.
    """
    if way.kind == "worker":
        _as_worker(way, run, named, sources)
    elif way.rank is not None:
        _as_rank(way, run, named, sources, finish)
    else:
        finish(with_workers(way, run, sources, sys.argv[1:]) if way.starts_workers else sources)


def with_workers(way: launching.Way, run: RunFolder, sources: Sources, words: Sequence[str]) -> Sources:
    """The sources with workers that annotate before the run is scored."""

    def crew_of(metrics: Iterable[str], world: int) -> Crew:
        return launching.crew_of(way, [*words, "--metrics", ",".join(metrics)], world, world)

    def annotate(ahead: Ahead, progress: Progress) -> Resources:
        from cxrbench.workers.annotate import annotate_with_workers
        from cxrbench.workers.share import stoppable

        with stoppable() as check:
            return annotate_with_workers(run, ahead, way.workers, crew_of, check, progress, _note)

    return replace(sources, annotate=annotate)


def _note(line: str) -> None:
    typer.echo(f"note: {line}", err=True)


def _as_worker(way: launching.Way, run: RunFolder, named: Sequence[str], sources: Sources) -> None:
    from cxrbench.score_run import share_of_scoring
    from cxrbench.scoring import unwatched
    from cxrbench.workers.annotate import annotate_share, parts_of
    from cxrbench.workers.share import stoppable

    rank, _ = way.share
    with stoppable() as asked:
        check = launching.and_coordinator(way, asked)
        ahead, _ = share_of_scoring(run, named, sources, unwatched)
        parts = parts_of(run, ahead.resources)
        assert parts is not None, "a command has settings, and so a store"
        annotate_share(ahead, parts, rank, parts.plan(), check, unwatched)


def _as_rank(
    way: launching.Way, run: RunFolder, named: Sequence[str], sources: Sources, finish: Callable[[Sources], None]
) -> None:
    """Make the share of a rank; the last one to end scores, with what all have handed over."""
    from cxrbench.cli.progress import stages
    from cxrbench.workers.share import stoppable

    assert way.rank is not None
    rank, world = way.rank.rank, way.rank.world
    _note(f"{way.rank.source} made this share {rank} of {world}")
    with stages() as report, stoppable() as check:
        left: _Left = None
        while left is None:
            left = _share_of_rank(run, named, sources, (rank, world), check, report)
    # The lock is given back first: of ranks that end at the same moment, the last one finds nobody who holds it.
    if left == "shares":
        typer.echo(f"share {rank} is annotated; others have work left (cxrbench status {run.path})")
    if left == "scores":
        with launching.unless_another_scores(way):
            finish(replace(sources, annotate=lambda ahead, _: _with_all(run, ahead)))


_Left = Literal["nothing", "shares", "scores"] | None
"""What is left of a scoring once a rank has made its share: nothing for it, others' shares, or to score. None: others
have scored the run since it looked what its share is."""


def _share_of_rank(
    run: RunFolder, named: Sequence[str], sources: Sources, share: tuple[int, int], check: Check, report: Progress
) -> _Left:  # fmt: skip
    """Make the share of a rank (`share`: its number, of how many)."""
    from cxrbench.score_run import share_of_scoring
    from cxrbench.store import OccupiedError
    from cxrbench.workers.annotate import annotate_share, even_plan, metrics_shared, parts_of

    rank, world = share
    seen = last_scored(run)
    ahead, name = share_of_scoring(run, named, sources, report)
    parts, shares = parts_of(run, ahead.resources), bool(metrics_shared(ahead))
    assert parts is not None, "a command has settings, and so a store"
    if not shares:
        return "scores"
    # Whoever holds the lock may come to the end of the scoring, and forget, while this rank is refused.
    ended = parts.ended(rank, world, name)
    try:
        with run.writing(shared=True):
            # Nobody scores while the lock is held. The end of a share of a scoring that is over would stay for ever.
            if last_scored(run) != seen:
                return None
            for line in annotate_share(ahead, parts, rank, even_plan(ahead, world), check, report, anew=True):
                _note(line)
            parts.end_share(rank, world, name)
    except OccupiedError:
        if not ended:
            raise
        _note("nothing of this share is left to do, and another process is at work on the run")
        return "nothing"
    return "scores" if parts.all_ended(world, name) else "shares"


def unless_scored_since(scored: tuple[int, int] | None, run: RunFolder, sources: Sources) -> Sources:
    """The sources of a rank whose run is complete: it scores unless another has, since it was `scored` last.

    Of ranks that end at the same moment each finds the run complete. Whoever scores holds the folder's lock, and what
    is done with these sources is done under it: OccupiedError where another came first.
    """

    def annotate(ahead: Ahead, progress: Progress) -> Resources:
        from cxrbench.store import OccupiedError
        from cxrbench.workers.annotate import take_over

        if last_scored(run) != scored:
            raise OccupiedError(
                "another rank has scored this run", where=str(run.path), fix=f"cxrbench score {run.path}"
            )
        take_over(run, ahead.resources)
        return ahead.resources

    return replace(sources, annotate=annotate)


def last_scored(run: RunFolder) -> tuple[int, int] | None:
    """What changes whenever a run is scored."""
    try:
        # Opened, because a network file system need not tell what is new before.
        with (run.path / "summary.json").open("rb") as file:
            found = os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _with_all(run: RunFolder, ahead: Ahead) -> Resources:
    from cxrbench.judges.engine import Hands
    from cxrbench.workers.annotate import take_over

    told, judge = take_over(run, ahead.resources), ahead.resources.judge
    return replace(ahead.resources, judge=replace(judge, hands=Hands(told=told)) if told and judge else judge)


def refuse_for_files(way: launching.Way, launcher: str) -> None:
    """A predictions file is scored by one process: workers need a run folder to read their texts from.

    Raises:
        CxrbenchError: workers were asked for.
    """
    if way.starts_workers:
        raise CxrbenchError(
            "workers score a run folder, and this is a file",
            where="--workers" if launcher == "auto" else f"--launcher {launcher}",
            fix="cxrbench run --model replay:FILE --task TASK makes a run folder of it",
        )


def score_words(run: Path, options: Mapping[str, Any], roots: Mapping[str, tuple[Path, ...]]) -> list[str]:
    """`score RUN` with options by flag, those that are None left out: what the workers of `run` do in the end."""
    given = [(flag, value) for flag, value in options.items() if value is not None]
    given += [(f"--{name}", path) for name, paths in roots.items() for path in paths]
    return ["score", str(run), *(str(word) for pair in given for word in pair)]
