"""One decoding step: a plain call on the CPU, a recorded CUDA graph per number of rows on a GPU.

Imports torch: import it inside functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cxrbench.engines.device import is_out_of_memory
from cxrbench.errors import CxrbenchError

if TYPE_CHECKING:
    from cxrbench.engines.slots_cache import Pool

WARM_UP = 3
"""Calls before a recording, so that libraries have chosen their kernels and workspaces."""


def padded(rows: int, slots: int) -> int:
    """The number of rows a graph is recorded for: 1, 2, 4, 8, then multiples of 8, at most `slots`.

    >>> [padded(rows, 60) for rows in (1, 3, 8, 9, 57)]
    [1, 4, 8, 16, 60]
    """
    size = 1 << (rows - 1).bit_length() if rows <= 8 else -(-rows // 8) * 8
    return min(size, slots)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A graph and the logits (rows, vocabulary) it writes."""

    graph: torch.cuda.CUDAGraph
    logits: torch.Tensor


class Steps:
    """Steps of a pool. With `graphs`, every step reads whole slots, so that one recording fits all of them."""

    def __init__(self, module: torch.nn.Module, pool: Pool, *, graphs: bool) -> None:
        self.module = module
        self.pool = pool
        self.graphs = graphs
        self._recorded: dict[int, Recorded] = {}
        self._memory: Any = None

    def __call__(self, rows: int, length: int) -> torch.Tensor:
        """Logits (rows, vocabulary) of the first `rows` slots, whose positions are all below `length`."""
        if not self.graphs:
            return self.pool.step(self.module, rows, length)
        size = padded(rows, self.pool.slots)
        if size not in self._recorded:
            self._recorded[size] = self._record(size)
        recorded = self._recorded[size]
        recorded.graph.replay()
        return recorded.logits[:rows]

    def _record(self, rows: int) -> Recorded:
        """Record a step of `rows` rows. What it writes meanwhile, the replay writes again.

        All recordings work in one block of memory: one is replayed at a time, and its logits are read before the next.
        """
        device = self.pool.tokens.device
        self._memory = self._memory or torch.cuda.graph_pool_handle()
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self.pool.step(self.module, rows, self.pool.room)
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._memory):
                logits = self.pool.step(self.module, rows, self.pool.room)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            first = str(error).split("\n")[0][:200]
            raise CxrbenchError(
                f"the decoding step cannot be recorded as a CUDA graph: {first}", fix="--set graphs=off"
            ) from error
        return Recorded(graph, logits)
