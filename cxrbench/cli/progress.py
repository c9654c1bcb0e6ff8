"""Progress of long work: a bar with rate and time left on a terminal, one plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress

QUIET_SECONDS = 10.0
"""Off a terminal, a line is printed no more often than this."""


class Report(Protocol):
    """Called with (done, total or None)."""

    def __call__(self, done: int, total: int | None) -> None: ...


class Stages(Protocol):
    """Called with (stage, done, total or None); a new stage begins where its name is first given."""

    def __call__(self, stage: str, done: int, total: int | None) -> None: ...


class _Stage:
    """Name of the work in progress, and how fast it has gone since its first call."""

    def __init__(self, name: str, done: int) -> None:
        self.name, self._first, self._started = name, done, time.monotonic()

    def rate(self, done: int) -> float:
        return (done - self._first) / max(time.monotonic() - self._started, 1e-9)


class _Lines:
    """Plain lines to standard error."""

    def __init__(self) -> None:
        self._stage = _Stage("", 0)
        self._last = time.monotonic()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if stage != self._stage.name:
            self._stage = _Stage(stage, done)
        now = time.monotonic()
        if now - self._last < QUIET_SECONDS or done == total:
            return
        self._last = now
        if total and not done:  # begun; how fast it goes is not known, and "0 of 10000" looks like standing still
            print(f"{stage}: {total} to do", file=sys.stderr, flush=True)  # noqa: T201
            return
        of = f" of {total}" if total else ""
        rate = self._stage.rate(done)
        pace = f", {rate:.1f}/s" if rate > 0 else ""
        left = f", about {(total - done) / rate:.0f} s left" if total and rate > 0 else ""
        print(f"{stage}: {done}{of}{pace}{left}", file=sys.stderr, flush=True)  # noqa: T201


class _Bar:
    """One bar that starts again with every stage."""

    def __init__(self, bar: Progress, unit: str) -> None:
        self._bar, self._unit = bar, f"{unit}, " if unit else ""
        self._stage = _Stage("", 0)
        self._task: Any = None

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if stage != self._stage.name:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._stage, self._task = _Stage(stage, done), self._bar.add_task(stage, total=total, rate="")
        rate = f"{self._unit}{self._stage.rate(done):.1f}/s"
        self._bar.update(self._task, completed=done, total=total, rate=rate)


@contextmanager
def stages(unit: str = "") -> Iterator[Stages]:
    """Show the progress of work in stages until the block ends; nothing stays on the screen of a terminal."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar, unit)


@contextmanager
def progress(what: str, unit: str = "samples") -> Iterator[Report]:
    """Show the progress of `what` until the block ends; nothing stays on the screen of a terminal."""
    with stages(unit) as report:
        yield lambda done, total: report(what, done, total)
