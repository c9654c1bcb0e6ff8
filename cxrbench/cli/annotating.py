"""How a run is scored by several workers: the ways of launching.py, for what annotators and judges have to do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cxrbench.cli import launching
from cxrbench.errors import CxrbenchError

if TYPE_CHECKING:
    from cxrbench.features.base import Resources
    from cxrbench.scores import Sources
    from cxrbench.scoring import Ahead, Progress
    from cxrbench.store import RunFolder
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
    from cxrbench.score_run import share_of_scoring
    from cxrbench.store import OccupiedError
    from cxrbench.workers.annotate import annotate_share, even_plan, metrics_shared, parts_of
    from cxrbench.workers.share import stoppable

    assert way.rank is not None
    rank, world = way.rank.rank, way.rank.world
    _note(f"{way.rank.source} made this share {rank} of {world}")
    with stages() as report, stoppable() as check:
        ahead, name = share_of_scoring(run, named, sources, report)
        parts, shares = parts_of(run, ahead.resources), bool(metrics_shared(ahead))
        assert parts is not None, "a command has settings, and so a store"
        # Whoever holds the lock may come to the end of the scoring, and forget, while this rank is refused.
        ended = parts.ended(rank, world, name)
        try:
            with run.writing(shared=True):
                for line in (
                    annotate_share(ahead, parts, rank, even_plan(ahead, world), check, report) if shares else ()
                ):
                    _note(line)
                parts.end_share(rank, world, name)
        except OccupiedError:
            if shares and not ended:
                raise
            _note("nothing of this share is left to do, and another process is at work on the run")
            return
    # The lock is given back first: of ranks that end at the same moment, the last one finds nobody who holds it.
    if shares and not parts.all_ended(world, name):
        typer.echo(f"share {rank} is annotated; others have work left (cxrbench status {run.path})")
        return
    with launching.unless_another_scores(way):
        finish(replace(sources, annotate=lambda ahead, _: _with_all(run, ahead)))
        parts.forget(name)


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
