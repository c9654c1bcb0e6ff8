"""What physics allows: bytes that must be read and operations that must be done, over what the device can do.

Standard library only. N_r are the parameters a step reads (all but the input embedding), N_body those of the layers,
k the bytes of keys and values per token, L layers, d the hidden size, B the batch, C the context, T prompt tokens,
BW bytes per second and F operations per second of the device. Every bound is a floor: no implementation is faster.
"""

from __future__ import annotations

from dataclasses import dataclass

from cxrbench.models.shapes import Shape, Tower
from cxrbench.throughput.facts import Gpu

BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
"""Bytes of a number."""

RATE = {"bf16": 1.0, "fp16": 1.0, "fp32": 0.5}
"""Rate of matrix products beside 16 bit: fp32 numbers as TF32, at best."""

MEMORY_SHARE = 0.9
"""Of the device's memory that weights and keys and values may take."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked: tokens to write, at a precision, with several beams. `prompt` overrides the shape's own."""

    new_tokens: float = 100
    dtype: str = "bf16"
    beams: int = 1
    prompt: int | None = None


STANDARD = Load()


def prompt_of(shape: Shape, load: Load) -> int:
    """Prompt tokens, with the image."""
    return shape.prompt if load.prompt is None else load.prompt


def read_bytes(shape: Shape, dtype: str = "bf16") -> float:
    """Bytes of weights a decoding step reads: N_r times the bytes of a number."""
    return shape.decoder.read * BYTES[dtype]


def weight_bytes(shape: Shape, dtype: str = "bf16") -> float:
    """Bytes of all weights, the image tower's too."""
    return shape.parameters * BYTES[dtype]


def kv_bytes(shape: Shape, dtype: str = "bf16") -> float:
    """k: bytes of keys and values per token, 2 * L * kv_heads * head_dim numbers."""
    return shape.decoder.kv_values() * BYTES[dtype]


def tower_flops(tower: Tower) -> float:
    """Operations of the image tower on one image: 2 per weight and token, attention, and the patches.

    2 * (4 d^2 + 2 d * mlp) * L * n + 4 * n^2 * d * L + 2 * 3 * patch^2 * d * patches, with n = patches + 1.
    """
    d, n = tower.hidden, tower.tokens + 1
    matrices = 2 * (4 * d**2 + 2 * d * tower.mlp) * tower.layers * n
    return matrices + 4 * n**2 * d * tower.layers + 2 * 3 * tower.patch**2 * d * tower.tokens


def prefill_flops(shape: Shape, load: Load = STANDARD) -> float:
    """Operations before the first token of one report: 2 * N_body * T + 2 * L * T^2 * d + 2 * N_head + tower.

    Attention is causal (half of 4 * L * T^2 * d); the output layer is needed at the last position only.
    """
    decoder, tokens = shape.decoder, prompt_of(shape, load)
    attention = 2 * decoder.layers * tokens**2 * decoder.hidden
    return 2 * decoder.body * tokens + attention + 2 * decoder.head + tower_flops(shape.tower)


def mean_context(prompt: float, new_tokens: float) -> float:
    """Tokens whose keys and values a step reads: T + n / 2, the middle of the answer."""
    return prompt + new_tokens / 2


def floor_step(shape: Shape, gpu: Gpu, dtype: str = "bf16") -> float:
    """Seconds of a step at batch 1 and no context: the weights are read once, N_r * bytes / BW."""
    return read_bytes(shape, dtype) / gpu.bandwidth


def step_seconds(shape: Shape, gpu: Gpu, rows: int, context: float, dtype: str = "bf16") -> float:
    """Least seconds of a step: max((N_r * bytes + B * C * k) / BW, B * (2 * N_r + 4 * L * C * d) / F)."""
    decoder = shape.decoder
    reading = read_bytes(shape, dtype) + rows * context * kv_bytes(shape, dtype)
    computing = rows * (2 * decoder.read + 4 * decoder.layers * context * decoder.hidden)
    return max(reading / gpu.bandwidth, computing / (gpu.flops * RATE[dtype]))


def prefill_seconds(shape: Shape, gpu: Gpu, batch: int, load: Load = STANDARD) -> float:
    """Least seconds of tower and prefill per report: max(FLOPs / F, weight bytes / (B * BW)); beams are not shared."""
    computing = load.beams * prefill_flops(shape, load) / (gpu.flops * RATE[load.dtype])
    return max(computing, weight_bytes(shape, load.dtype) / (batch * gpu.bandwidth))


def report_seconds(shape: Shape, gpu: Gpu, batch: int, load: Load = STANDARD) -> float:
    """Least seconds per report: prefill + (n - 1) * step / B, at the mean context of the steps."""
    context = mean_context(prompt_of(shape, load), load.new_tokens)
    step = step_seconds(shape, gpu, batch * load.beams, context, load.dtype)
    return prefill_seconds(shape, gpu, batch, load) + (load.new_tokens - 1) * step / batch


def reports_per_second(shape: Shape, gpu: Gpu, batch: int, load: Load = STANDARD) -> float:
    """Most reports per second: 1 / `report_seconds`."""
    return 1 / report_seconds(shape, gpu, batch, load)


def memory_bytes(shape: Shape, batch: int, load: Load = STANDARD) -> float:
    """Bytes of weights and of the keys and values of `batch` reports at their full length."""
    room = prompt_of(shape, load) + load.new_tokens
    return weight_bytes(shape, load.dtype) + batch * load.beams * room * kv_bytes(shape, load.dtype)


def largest_batch(shape: Shape, memory: float, load: Load = STANDARD) -> int:
    """Reports whose keys and values fit beside the weights into `MEMORY_SHARE` of `memory` bytes; 0 where none does."""
    room = (prompt_of(shape, load) + load.new_tokens) * kv_bytes(shape, load.dtype) * load.beams
    return max(0, int((MEMORY_SHARE * memory - weight_bytes(shape, load.dtype)) // room))


def speed_up(fast: Shape, slow: Shape, gpu: Gpu, batch: int, load: Load = STANDARD, other: Load | None = None) -> float:
    """How many times the reports per second of `slow` (under `other`, else the same load) `fast` can reach."""
    return reports_per_second(fast, gpu, batch, load) / reports_per_second(slow, gpu, batch, other or load)


def longer_for(target: float, fast: Shape, slow: Shape, gpu: Gpu, batch: int, fast_load: Load = STANDARD) -> float:
    """How many times as many tokens `slow` must write in bf16 for a speed-up of `target`, by bisection."""
    low, high = 1.0, fast_load.new_tokens * 100
    for _ in range(60):
        middle = (low + high) / 2
        reached = speed_up(fast, slow, gpu, batch, fast_load, Load(middle)) >= target
        low, high = (low, middle) if reached else (middle, high)
    return high / fast_load.new_tokens


def mbu(moved: float, seconds: float, gpu: Gpu) -> float:
    """Share of the bandwidth that was used: (weight bytes + KV bytes read) / time / BW. Of decoding only."""
    return moved / seconds / gpu.bandwidth


def mfu(operations: float, seconds: float, gpu: Gpu) -> float:
    """Share of the operations that were possible: model FLOPs / time / F. Of tower and prefill only."""
    return operations / seconds / gpu.flops


def decode_bytes(shape: Shape, steps: float, positions: float, dtype: str) -> float:
    """Bytes that decoding reads: in every step the weights, and the keys and values of so many positions in all."""
    return steps * read_bytes(shape, dtype) + positions * kv_bytes(shape, dtype)
