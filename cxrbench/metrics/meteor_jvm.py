"""Several METEOR processes at work on one list of pairs, supervised so that nothing can hang for ever.

The protocol of the METEOR 1.5 archive with `-stdio`: one line `SCORE ||| reference ||| hypothesis` in, one line of 23
numbers out, in order. Many lines are written ahead of the answers. Each process has a thread that writes, one that
reads and one that listens to its error stream; they only move bytes, so a full pipe blocks nobody else. All decisions
are taken in the calling thread.

A process that ends, or is silent for too long, is replaced. Answers come in order, so the pair it was at is known: it
is tried once more, alone and with more memory, and given up with the reason when it fails again. The others are scored.

Report texts go through pipes only, never to disk, and what Java says on its error stream is not passed on once texts
have been sent. Touches the standard library and errors.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.metrics import java as java_

STATISTICS = 23
"""Numbers in an answer."""

_GREETING = -1
"""Stands for the pair every process is sent first: its answer says that the process works."""


_LAST_WORDS = b"Terminating due to"
"""What Java prints among the answers when its memory is used up, before it ends with code 3."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How processes are run. Times in seconds, memory (Java's heap) in MB.

    `patience` is the longest wait for one answer at the first try. The second try decides, so it waits so much longer
    that it is up only for a process that hangs, however busy the machine is: `rescue_patience`, and more for every word
    of both texts. (Two texts of 900 words that differ in their order take the archive 50 s, most pairs milliseconds.)
    `rescue_memory` is for the second try, and what pycocoevalcap gives its one process. A process is started for every
    `pairs_per_process` pairs, up to `processes`. `ahead` lines are written before the first of them is answered.
    """

    processes: int
    memory: int = 512
    rescue_memory: int = 2048
    patience: float = 30.0
    rescue_patience: float = 300.0
    rescue_patience_per_word: float = 0.5
    start_patience: float = 120.0
    ahead: int = 32
    pairs_per_process: int = 200

    def second_patience(self, *texts: str) -> float:
        """Seconds the second try of a pair may take."""
        return self.rescue_patience + self.rescue_patience_per_word * sum(len(text.split()) for text in texts)


@dataclass(eq=False)
class _Process:
    """One Java process, its three threads, and the pairs it was sent and has not answered."""

    command: list[str]
    events: queue.SimpleQueue[tuple[_Process, bytes | None]]
    waiting: deque[int] = field(default_factory=deque)
    since: float = 0.0
    silent: bool = False
    """Whether it was killed because it did not answer."""

    def __post_init__(self) -> None:
        pipe = subprocess.PIPE
        self.child = subprocess.Popen(  # noqa: S603  (a fixed argument list, no shell)
            self.command, stdin=pipe, stdout=pipe, stderr=pipe, env=java_.environment()
        )
        self.first_error = b""
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=f, daemon=True) for f in (self._write, self._read, self._listen)]
        for thread in self._threads:
            thread.start()

    def _write(self) -> None:
        assert self.child.stdin is not None
        with contextlib.suppress(OSError):  # the process is gone; the reading thread reports it
            while (text := self._outbox.get()) is not None:
                self.child.stdin.write(text)
                self.child.stdin.flush()

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            if not line.startswith(_LAST_WORDS):
                self.events.put((self, line))
        self.events.put((self, None))

    def _listen(self) -> None:
        assert self.child.stderr is not None
        for line in self.child.stderr:
            self.first_error = self.first_error or line.strip()

    def send(self, numbers: Sequence[int], lines: Sequence[bytes]) -> None:
        """Write lines; `numbers` says which pair each is."""
        if not self.waiting:
            self.since = time.monotonic()
        self.waiting.extend(numbers)
        self._outbox.put(b"".join(lines))

    def overdue(self, now: float, patience: float, start_patience: float) -> float:
        """Seconds since it should have answered; negative while there is time."""
        return now - self.since - (start_patience if self.waiting[0] == _GREETING else patience)

    def end(self, grace: float = 0.0) -> int:
        """Give it `grace` seconds to end by itself, then kill it; close its pipes; return its exit code."""
        try:
            code = self.child.wait(grace)
        except subprocess.TimeoutExpired:
            self.child.kill()
            code = self.child.wait()
        self._outbox.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():  # garbage collection runs in any thread
                thread.join()
        for pipe in (self.child.stdin, self.child.stdout, self.child.stderr):
            assert pipe is not None
            with contextlib.suppress(OSError):  # bytes it had not taken, and never will
                pipe.close()
        return code


@dataclass(frozen=True, slots=True)
class _Work:
    """Lines to send, results by number, the numbers nobody was sent yet, and those that a process ended at."""

    lines: Sequence[bytes]
    results: list[list[float] | str | None]
    pending: deque[int]
    suspects: list[tuple[int, str]]


class _Crew:
    """Processes of one kind that share a list of work."""

    def __init__(self, command: list[str], memory: int, settings: Settings) -> None:
        self._command = command
        self._memory = memory
        self._settings = settings
        self.patience = settings.patience
        self._events: queue.SimpleQueue[tuple[_Process, bytes | None]] = queue.SimpleQueue()
        self.live: list[_Process] = []
        self.end = weakref.finalize(self, _end_all, self.live, os.getpid())

    def run(self, work: _Work, count: int) -> None:
        """Work until every pending pair has a result or is a suspect; `count` processes at most."""
        open_pairs = len(work.pending)
        for process in [process for process in self.live if process.child.poll() is not None]:
            process.end()  # it ended while nothing was asked of it
            self.live.remove(process)
        for _ in range(count - len(self.live)):
            self._start()
        for process in self.live:
            self._feed(process, work)
        while open_pairs:
            try:
                process, line = self._events.get(timeout=self._kill_silent())
            except queue.Empty:
                continue
            if process not in self.live:
                continue
            if line is not None:
                open_pairs -= self._answer(process, line, work)
                self._feed(process, work)
            else:
                open_pairs -= self._lost(process, work)
                if work.pending:
                    self._feed(self._start(), work)

    def _start(self) -> _Process:
        try:
            process = _Process(self._command, self._events)
        except OSError as error:
            raise CxrbenchError(
                f"Java does not start: {error.strerror}", where=self._command[0], fix="cxrbench doctor", code=_CODE
            ) from error
        self.live.append(process)
        process.send([_GREETING], [score_line("a", "a")])
        return process

    def _feed(self, process: _Process, work: _Work) -> None:
        """Keep `ahead` lines on their way, topped up when half of them are answered."""
        if len(process.waiting) <= self._settings.ahead // 2:
            room = min(self._settings.ahead - len(process.waiting), len(work.pending))
            numbers = [work.pending.popleft() for _ in range(room)]
            if numbers:
                process.send(numbers, [work.lines[number] for number in numbers])

    def _kill_silent(self) -> float:
        """Kill processes that are silent for too long; returns the seconds until the next one could be.

        The reading thread of a killed process reports its end like any other.
        """
        now = time.monotonic()
        limits = self.patience, self._settings.start_patience
        late = [(process.overdue(now, *limits), process) for process in self.live if process.waiting]
        if self._events.empty():  # else an answer may be waiting to be read
            for seconds, process in late:
                if seconds > 0 and not process.silent:
                    process.silent = True
                    process.child.kill()
        return max(0.05, min((-seconds for seconds, _ in late), default=0.05))

    def _answer(self, process: _Process, line: bytes, work: _Work) -> int:
        """Take an answer; returns how many pairs it settles."""
        number = process.waiting.popleft()
        process.since = time.monotonic()
        result = _numbers(line)
        if number != _GREETING:
            work.results[number] = result
            return 1
        if isinstance(result, str):
            raise self._broken(process, "it answers something else")
        return 0

    def _lost(self, process: _Process, work: _Work) -> int:
        """Clear up after a process that ended: the pair it was at is a suspect, the others are pending again."""
        code = process.end(grace=5.0)
        self.live.remove(process)
        reason = self._reason(process, code)
        if not process.waiting:
            return 0
        if process.waiting[0] == _GREETING:
            raise self._broken(process, reason)
        suspect, *others = process.waiting
        work.suspects.append((suspect, reason))
        work.pending.extendleft(reversed(others))
        return 1

    def _reason(self, process: _Process, code: int) -> str:
        if process.silent:
            return f"METEOR gave no answer within {self.patience:g} s"
        if code == java_.OUT_OF_MEMORY:
            return f"METEOR needs more than {self._memory} MB of memory for it"
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return f"METEOR's Java process ended ({how})"

    def _broken(self, process: _Process, reason: str) -> CxrbenchError:
        said = process.first_error.decode(errors="replace")[:300]
        return CxrbenchError(
            f"METEOR does not work here: {reason}" + (f"; Java says: {said}" if said else ""),
            where=" ".join(self._command),
            fix="run the command above by hand, then pip install --force-reinstall --no-deps pycocoevalcap",
            code=_CODE,
        )


_CODE = Exit.INFRASTRUCTURE


def _end_all(live: list[_Process], owner: int) -> None:
    """End processes; in a fork of the process that started them, leave them to that one."""
    if os.getpid() == owner:
        while live:
            live.pop().end()


class Pool:
    """METEOR over lists of pairs; for one thread at a time.

    Processes stay for the next list. `close` ends them, and so do garbage collection and the end of Python.
    """

    def __init__(self, java: str, jar: Path, table: Path, settings: Settings) -> None:
        self._settings = settings
        self._java = java
        self._arguments = ("-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm", "-a", str(table))
        self._crew = self._new_crew(settings.memory)

    def _new_crew(self, memory: int) -> _Crew:
        return _Crew(java_.command(self._java, *self._arguments, heap=f"{memory}m"), memory, self._settings)

    def close(self) -> None:
        """End all processes; a later `score` starts new ones."""
        self._crew.end()
        self._crew = self._new_crew(self._settings.memory)

    def pids(self) -> list[int]:
        """Process ids of the processes that are kept."""
        return [process.child.pid for process in self._crew.live]

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[list[float] | str]:
        """Return for each pair (prediction, reference) its 23 statistics, or one sentence why there are none.

        Raises:
            CxrbenchError: Java does not start, or METEOR does not work in it.
        """
        lines = [score_line(prediction, reference) for prediction, reference in pairs]
        work = _Work(lines, [None] * len(lines), deque(range(len(lines))), [])
        useful = -(-len(lines) // self._settings.pairs_per_process)
        try:
            self._crew.run(work, min(self._settings.processes, useful))
        except BaseException:
            self.close()  # what is on its way must not be taken for an answer to the next list
            raise
        self._try_again(work, pairs)
        return [result if result is not None else "METEOR gave no answer" for result in work.results]

    def _try_again(self, work: _Work, pairs: Sequence[tuple[str, str]]) -> None:
        """Second try of the suspects, one at a time, with the memory pycocoevalcap would give them and much time."""
        crew = self._new_crew(self._settings.rescue_memory)
        try:
            for number, _ in work.suspects:
                crew.patience = self._settings.second_patience(*pairs[number])
                alone = _Work(work.lines, work.results, deque([number]), [])
                crew.run(alone, 1)
                for failed, reason in alone.suspects:
                    work.results[failed] = reason
        finally:
            crew.end()


_LINE_ENDS = str.maketrans("\r\n", "  ")


def score_line(prediction: str, reference: str) -> bytes:
    """Return the line that asks for the statistics of a pair.

    As pycocoevalcap writes it, and where that would break the protocol, so that it cannot: line ends become spaces,
    `|||` is taken out of the reference as it is out of the prediction, and half surrogate pairs become "?".
    """
    prediction = prediction.replace("|||", "").replace("  ", " ")
    line = f"SCORE ||| {reference.replace('|||', '')} ||| {prediction}".translate(_LINE_ENDS)
    return line.encode("utf-8", "replace") + b"\n"


def _numbers(line: bytes) -> list[float] | str:
    """The numbers of an answer; a sentence where it is no answer."""
    try:
        numbers = [float(part) for part in line.split()]
    except ValueError:
        numbers = []
    return numbers if len(numbers) == STATISTICS else "METEOR refused the pair"
