"""Images read in processes of their own, so that reading and the model do not share one interpreter. Never torch.

While one thread decodes a DICOM file or draws a picture of phantom it holds the interpreter, and the thread that runs
the model waits: on two cores a window of the demo model took 17 seconds instead of 2 while DICOM files were read beside
it (docs/engines.md). A child knows only how to read pixels and starts in a fifth of a second; pixels come back through
its pipe, equal to those that `read` gives here.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from queue import LifoQueue
from threading import Lock
from typing import IO, Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from cxrbench.data.images import ImageFailure, read_grey
from cxrbench.errors import CxrbenchError, Exit

_CHILD = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = {path!r};"
    " from cxrbench.data.image_processes import serve; serve()"
)
"""Not multiprocessing: that would run the caller's main module in the child once more."""


class ImageProcesses:
    """Reads images as `images.read_grey` does, in up to `count` processes; safe to call from several threads.

    A process is started when all others are at work. Pickled, it becomes `read_grey`: a child has no children.
    """

    def __init__(self, count: int) -> None:
        self.count = max(1, count)
        self._idle: LifoQueue[_Child] = LifoQueue()
        self._children: list[_Child] = []
        self._lock = Lock()
        finalize(self, _end, self._children)

    def __call__(self, path: str) -> NDArray[np.uint8]:
        """Read grey pixels, uint8 (H, W).

        Raises:
            ImageFailure: as `images.read_grey`.
            CxrbenchError: the process died.
        """
        child = self._take()
        try:
            return child.read(path)
        finally:
            self._idle.put(child)

    def __reduce__(self) -> str | tuple[Any, ...]:
        return _plain, ()

    def start(self) -> None:
        """Start all of them now, without waiting, so that they are ready when the model is."""
        with self._lock:
            while len(self._children) < self.count:
                self._idle.put(self._born())

    def _take(self) -> _Child:
        with self._lock:
            if self._idle.empty() and len(self._children) < self.count:
                return self._born()
        return self._idle.get()

    def _born(self) -> _Child:
        child = _Child()
        self._children.append(child)
        return child

    def close(self) -> None:
        """End them; whoever forgets it has them ended with this object. The next call starts others."""
        with self._lock:
            self._idle = LifoQueue()
            _end(self._children)


def _end(children: list[_Child]) -> None:
    while children:
        children.pop().close()


def _plain() -> Any:
    return read_grey


def reader(workers: int) -> Callable[[str], NDArray[np.uint8]]:
    """How files are read by default: in processes that leave one processor to the model; here where it is the only one.

    A model on the CPU of two cores lost a tenth to a second reading process that brought it nothing.
    """
    beside = (os.cpu_count() or 1) - 1
    return ImageProcesses(min(workers, beside)) if beside else read_grey


class _Child:
    """One process: a path goes in, pixels or what was wrong come out."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _CHILD.format(path=sys.path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603

    def read(self, path: str) -> NDArray[np.uint8]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            _send(self._process.stdin, path)
            answer = pickle.load(self._process.stdout)  # noqa: S301 - our own child
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise CxrbenchError(
                "a process that reads images died (out of memory, or a decoder broke down)",
                fix="cxrbench data check NAME finds broken files; fewer --readers need less memory",
                code=Exit.INFRASTRUCTURE,
            ) from error
        if isinstance(answer, Exception):
            raise answer
        pixels: NDArray[np.uint8] = answer
        return pixels

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):  # it died before: there is nobody to tell
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def _send(pipe: IO[bytes], value: Any) -> None:
    pickle.dump(value, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def serve() -> None:
    """In the child: answer paths until the parent closes the pipe or is gone. What a decoder prints goes to stderr."""
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            path = pickle.load(asked)  # noqa: S301 - our own parent
        except EOFError:
            return
        try:
            answer: Any = read_grey(path)
        except ImageFailure as error:
            answer = error
        except Exception as error:
            answer = error
        try:
            _send(answers, answer)
        except BrokenPipeError:
            return
