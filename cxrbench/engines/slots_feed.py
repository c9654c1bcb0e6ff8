"""Pixels on their way to the device: the next prompts are copied while this chunk is computed.

Two chunks are in flight at most, each copied from pinned memory on a stream of its own. On the CPU nothing is moved.
Imports torch: import it inside functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from cxrbench.models.adapter import Encoded


@dataclass(frozen=True, slots=True)
class _Copy:
    encoded: Encoded
    pinned: tuple[torch.Tensor, ...]
    arrived: torch.cuda.Event


class Feeder:
    """Copies what is not per token (pixels) of the next requests; per-token tensors stay, they are padded first."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self.device = torch.device(device)
        self.dtype = dtype
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._under_way: dict[int, _Copy] = {}

    def ahead(self, coming: Iterable[Encoded]) -> None:
        """Begin to copy these, where they are not under way yet."""
        if self._stream is None:
            return
        for encoded in coming:
            if id(encoded) not in self._under_way:
                self._under_way[id(encoded)] = self._copy(encoded, self._stream)

    def take(self, encoded: Encoded) -> Encoded:
        """The request with its pixels on the device; computing waits for the copy, the host does not."""
        if self._stream is None:
            return encoded
        copy = self._under_way.pop(id(encoded), None) or self._copy(encoded, self._stream)
        current = torch.cuda.current_stream(self.device)
        current.wait_event(copy.arrived)
        for name, value in copy.encoded.tensors.items():
            if name not in encoded.sequence:
                value.record_stream(current)
        return copy.encoded

    def _copy(self, encoded: Encoded, stream: torch.cuda.Stream) -> _Copy:
        tensors, pinned = dict(encoded.tensors), []
        with torch.cuda.stream(stream):
            for name, value in encoded.tensors.items():
                if name in encoded.sequence:
                    continue
                held = (value.to(self.dtype) if value.is_floating_point() else value).pin_memory()
                pinned.append(held)
                tensors[name] = held.to(self.device, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(stream)
        return _Copy(replace(encoded, tensors=tensors), tuple(pinned), arrived)
