"""How many slots: what fits into memory, and what the roofline says is worth having. torch inside functions.

A step of B rows takes at least

    overhead + max((weights + B * context * kv) / bandwidth, B * 2 * parameters / flops)

seconds (/docs/engines.md), so reports per second grow with B until reading keys and values or computing dominates.
Beyond that more slots only cost memory and latency. The three figures of the machine are measured in a fraction of a
second; the answer is a power of two, so that their noise seldom shows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

WORTH = 0.75
"""Share of the best rate that is enough: doubling the slots for less is not worth the memory and the waiting."""

CALLS = 60
"""What a layer costs to start, in calls of a tiny normalisation; only the order of magnitude matters."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Bytes and floating-point operations per second, and seconds that a call of a tiny layer takes."""

    bandwidth: float
    flops: float
    call: float


@dataclass(frozen=True, slots=True)
class Decoder:
    """What a step reads and computes: parameters, bytes of one, bytes of keys and values per token, layers."""

    parameters: int
    width: int
    kv: int
    layers: int


def decoder_of(module: torch.nn.Module, text: Any) -> Decoder:
    """The figures of a loaded network; `text` is its decoder's configuration. The input embedding is not read whole."""
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    width = next(module.parameters()).element_size()
    base: Any = module.base_model
    inner = getattr(base, "language_model", base)
    body = sum(each.numel() for each in inner.parameters()) - text.vocab_size * text.hidden_size
    head = text.vocab_size * text.hidden_size
    return Decoder(body + head, width, 2 * text.num_hidden_layers * heads * size * width, text.num_hidden_layers)


def step_seconds(decoder: Decoder, machine: Machine, rows: int, context: int, *, graphs: bool) -> float:
    """The least time of a step with `rows` rows of `context` tokens; a graph starts all its operations at once."""
    overhead = machine.call * (1 if graphs else CALLS * decoder.layers)
    reading = (decoder.parameters * decoder.width + rows * context * decoder.kv) / machine.bandwidth
    computing = rows * 2 * decoder.parameters / machine.flops
    return overhead + max(reading, computing)


def worth_having(seconds: Callable[[int], float], most: int) -> int:
    """The smallest power of two whose rows per second reach `WORTH` of the best up to `most`; `most` if none does.

    >>> worth_having(lambda rows: 1.0, 100)        # a step costs the same whatever its rows: as many as there are
    100
    >>> worth_having(lambda rows: float(rows), 100)
    1
    """
    sizes = [1 << power for power in range(most.bit_length()) if 1 << power < most] + [most]
    rates = {size: size / seconds(size) for size in sizes}
    best = max(rates.values())
    return next(size for size in sizes if rates[size] >= WORTH * best)


def fitting(free: int, share: float, room: int, decoder: Decoder, working: int) -> int:
    """Slots of `room` positions that fit into a share of the free bytes beside `working` bytes of a prefill."""
    return max(1, int(free * share - working) // (room * decoder.kv))


def free_bytes(device: str) -> int:
    """Bytes that can still be allocated: on a GPU the device's and the allocator's own, else the host's."""
    import torch

    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    name = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf(name)


def measure(device: str, dtype: torch.dtype) -> Machine:
    """The machine's figures: a large copy, a square product and a tiny layer, the fastest of four each."""
    import torch

    on_gpu = device.startswith("cuda")
    megabytes, side = (512, 8192) if on_gpu else (64, 768)

    def fastest(work: Callable[[], Any], times: int) -> float:
        best = float("inf")
        for _ in range(4):
            if on_gpu:
                torch.cuda.synchronize(device)
            begin = time.perf_counter()
            for _ in range(times):
                work()
            if on_gpu:
                torch.cuda.synchronize(device)
            best = min(best, (time.perf_counter() - begin) / times)
        return best

    with torch.inference_mode():
        source = torch.zeros(megabytes << 20, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        square = torch.full((side, side), 0.01, dtype=dtype, device=device)
        tiny, row = (
            torch.nn.LayerNorm(64, device=device, dtype=dtype),
            torch.zeros((1, 64), device=device, dtype=dtype),
        )
        return Machine(
            bandwidth=2 * source.numel() / fastest(lambda: target.copy_(source), 1),
            flops=2 * side**3 / fastest(lambda: square @ square, 1),
            call=fastest(lambda: tiny(row), 200),
        )
