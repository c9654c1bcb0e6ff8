"""Workers as processes of this machine: the same command again, once per share, each with a GPU of its own if there is.

A worker holds the end of a pipe whose other end is its coordinator's: when that dies, however it dies, the pipe closes
and the worker ends. The last lines a worker says are kept by the coordinator: a disk that is full could not hold them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.workers.supervise import Ended

GRACE = 4.0
"""Seconds a worker has to end by itself once it was asked: a scheduler that asks us gives five to thirty."""


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs a process may use, as CUDA_VISIBLE_DEVICES names them; empty where there is none."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [each.strip() for each in named.split(",") if each.strip() not in ("", "-1")]
    return [str(number) for number in range(sum(file.name[6:].isdigit() for file in Path("/dev").glob("nvidia*")))]


def processors() -> int:
    """How many processors this process may use: a scheduler's job has fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Processes:
    """A crew of processes; see the module. `words` are those of the command, without the program's name.

    `number` is what a worker is told besides its rank: the epoch of a run, the number of shares of a scoring.
    """

    def __init__(self, words: Sequence[str], number: int, world: int, *, spread: bool) -> None:
        self._words, self._number, self._world = tuple(words), number, world
        self._gpus = visible_gpus(os.environ) if spread else []
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._said: dict[int, tuple[deque[str], threading.Thread]] = {}

    def start(self, rank: int) -> None:
        """Start the command once more, as the worker of a share."""
        command = [sys.executable, "-m", "cxrbench", *self._words, "--as-worker", f"{rank}/{self._number}/pipe"]
        child = subprocess.Popen(  # noqa: S603 - this command again, without a shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=self._environment(rank),
        )
        lines: deque[str] = deque(maxlen=LINES)
        listener = threading.Thread(target=_listen, args=(child, lines), name="cxrbench-worker", daemon=True)
        listener.start()
        self._running[rank], self._said[rank] = child, (lines, listener)

    def _environment(self, rank: int) -> dict[str, str]:
        """One GPU for each, or the processors shared out: numerical libraries take all of them by default."""
        if self._gpus:
            return {**os.environ, "CUDA_VISIBLE_DEVICES": self._gpus[rank % len(self._gpus)]}
        threads = str(max(1, processors() // self._world))
        return {"OMP_NUM_THREADS": threads, **os.environ}

    def ended(self) -> list[Ended]:
        """Those whose process is gone."""
        found = []
        for rank, child in list(self._running.items()):
            code = child.poll()
            if code is not None:
                del self._running[rank]
                _let_go(child)
                found.append(self._what_became(rank, code))
        return found

    def _what_became(self, rank: int, code: int) -> Ended:
        if code == 0:
            return Ended(rank, "done")
        if code < 0:
            return Ended(rank, "died", f"by signal {signal.Signals(-code).name}")
        lines, listener = self._said[rank]
        listener.join()
        error = _error_of(lines, rank, code)
        if error.what.startswith("stopped"):  # somebody asked it to end, and not us
            return Ended(rank, "died", "it was asked to end")
        return Ended(rank, "failed", error=error)

    def stop(self) -> None:
        """Ask all to end after their batch, then make them."""
        for child in self._running.values():
            child.terminate()
        until = time.monotonic() + GRACE
        for child in self._running.values():
            try:
                child.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            _let_go(child)
        self._running.clear()


LINES = 200
"""Lines of a worker that are kept."""


def _let_go(child: subprocess.Popen[bytes]) -> None:
    if child.stdin is not None:
        child.stdin.close()


def _listen(child: subprocess.Popen[bytes], lines: deque[str]) -> None:
    """Keep the last lines a worker says."""
    assert child.stderr is not None
    with child.stderr as pipe:
        for line in pipe:
            lines.append(line.decode("utf-8", "replace").rstrip("\n"))


def _error_of(lines: Iterable[str], rank: int, code: int) -> CxrbenchError:
    """The last error of a worker, as it told it."""
    kind = Exit(code) if code in list(Exit) else Exit.INFRASTRUCTURE
    what, parts = "", {"  where: ": "", "  to do: ": ""}
    for line in lines:
        if line.startswith("error: "):
            what, parts = line.removeprefix("error: "), dict.fromkeys(parts, "")
        for mark in parts:
            if line.startswith(mark):
                parts[mark] = line.removeprefix(mark)
    if not what:
        return CxrbenchError(f"worker {rank} ended with exit code {code} and said nothing", code=Exit.INFRASTRUCTURE)
    return CxrbenchError(what, where=parts["  where: "], fix=parts["  to do: "], code=kind)


def end_with_coordinator(pipe: int, leave: Callable[[], None]) -> None:
    """Call `leave` when the other end of `pipe` (a file descriptor) closes; `GRACE` seconds later, end the process."""

    def watch() -> None:
        os.read(pipe, 1)
        leave()
        time.sleep(GRACE)
        os._exit(Exit.INFRASTRUCTURE)

    threading.Thread(target=watch, name="cxrbench-coordinator", daemon=True).start()
