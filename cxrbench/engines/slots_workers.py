"""Image pre-processing in processes of its own: each builds the adapter once and turns requests into tensors.

Threads share one interpreter, so while they make tensors the thread that feeds the device waits. Tensors come back as
plain arrays: shared memory would cost one open file each, and a batch has more than a process may open. The children
load no network. torch is imported inside functions.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any, TypeVar

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.models.base import Prepared
from cxrbench.types import Request

_T = TypeVar("_T")

Read = Callable[[Request], Prepared]
"""Reads the images of a request and makes its tensors, without a network."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a child needs: how to build what reads a request. Everything must survive pickling."""

    build: Callable[..., Read]
    arguments: tuple[Any, ...]


_read: Read | None = None


def _start(recipe: Recipe) -> None:
    """In the child: no network talk, one thread each, and the reader."""
    global _read
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
    import torch

    torch.set_num_threads(1)
    _read = recipe.build(*recipe.arguments)


def _answer(request: Request) -> Prepared:
    assert _read is not None
    return _with(_read(request), lambda tensor: tensor.numpy())


def _with(prepared: Prepared, change: Callable[[Any], Any]) -> Prepared:
    """The same with every tensor changed."""
    if prepared.payload is None:
        return prepared
    encoded = prepared.payload.encoded
    tensors = {name: change(value) for name, value in encoded.tensors.items()}
    return replace(prepared, payload=replace(prepared.payload, encoded=replace(encoded, tensors=tensors)))


def _result(future: Future[_T]) -> _T:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise CxrbenchError(
            "a pre-processing process died (out of memory, or the model cannot be built there)",
            fix="--set preprocess=threads, or fewer --readers",
            code=Exit.INFRASTRUCTURE,
        ) from error


class Workers:
    """`count` processes that read requests; safe to call from several threads."""

    def __init__(self, recipe: Recipe, count: int) -> None:
        """Start them, and wait until they can read.

        Raises:
            CxrbenchError: what the children need cannot be sent to them, or they cannot build it.
        """
        try:
            pickle.dumps(recipe)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise CxrbenchError(
                f"the model cannot be sent to a process: {error}",
                where="--set preprocess=processes",
                fix="--set preprocess=threads",
            ) from error
        count = max(1, count)
        self._pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_start, initargs=(recipe,))
        for child in [self._pool.submit(os.getpid) for _ in range(count)]:
            _result(child)

    def prepare(self, request: Request) -> Prepared:
        """Read a request in one of them; waiting for a free one is part of its latency.

        Raises:
            CxrbenchError: a process died.
        """
        import torch

        accepted = time.perf_counter()
        made = _with(_result(self._pool.submit(_answer, request)), torch.from_numpy)
        if made.payload is None:
            return replace(made, request=request)
        ready = replace(made.payload, accepted=accepted, ready=time.perf_counter())
        return replace(made, request=request, payload=ready)

    def close(self) -> None:
        """End them."""
        self._pool.shutdown(wait=True, cancel_futures=True)
