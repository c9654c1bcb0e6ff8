"""What a device can do at most, measured: a large copy and a large product of random numbers. torch inside functions.

Random numbers, since products of zeros or of one constant run faster than real ones: fewer bits change.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cxrbench.errors import CxrbenchError


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Bytes per second (read and written) of a copy, operations per second of a product, at a precision."""

    bandwidth: float
    flops: float
    dtype: str
    how: str


def measure_ceilings(device: str, dtype: str, tries: int = 5) -> Ceilings:
    """The fastest of a few tries each; a second on a GPU, less on a processor."""
    import torch

    on_gpu = device.startswith("cuda")
    megabytes, side = (2048, 8192) if on_gpu else (128, 1024)
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]

    def fastest(work: Callable[[], Any]) -> float:
        best = float("inf")
        for _ in range(tries + 1):  # the first call may choose a kernel
            if on_gpu:
                torch.cuda.synchronize(device)
            begin = time.perf_counter()
            work()
            if on_gpu:
                torch.cuda.synchronize(device)
            best = min(best, time.perf_counter() - begin)
        return best

    with torch.inference_mode():
        draw = torch.Generator(device).manual_seed(0)
        source = torch.randint(0, 256, (megabytes << 20,), dtype=torch.uint8, device=device, generator=draw)
        target = torch.empty_like(source)
        bandwidth = 2 * source.numel() / fastest(lambda: target.copy_(source))
        left, right = (torch.randn((side, side), device=device, generator=draw).to(kind) for _ in range(2))
        flops = 2 * side**3 / fastest(lambda: left @ right)
    how = f"copy of {megabytes} MiB and {side} x {side} {dtype} product, fastest of {tries + 1}"
    return Ceilings(bandwidth, flops, dtype, how)


def device_uuid(device: str) -> str | None:
    """The UUID by which the driver knows a GPU; None for the processor."""
    if not device.startswith("cuda"):
        return None
    import torch

    return str(torch.cuda.get_device_properties(device).uuid)


def all_bytes(device: str) -> int:
    """Bytes of the device's memory, whoever uses them; of the host's for the processor."""
    if not device.startswith("cuda"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    import torch

    return int(torch.cuda.get_device_properties(device).total_memory)


def threads() -> int:
    """Processor threads of torch: one number for the whole process, whichever network is at work."""
    import torch

    return torch.get_num_threads()


def use_threads(count: int) -> None:
    """Set it."""
    import torch

    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def make_room(what: str, need: float, free: float) -> None:
    """Refuse what does not fit.

    Raises:
        CxrbenchError: with what is needed, free and missing.
    """
    if need > free:
        raise CxrbenchError(
            f"{what} does not fit: it needs {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free,"
            f" {(need - free) / 1e9:.1f} GB are missing",
            fix="a smaller batch, --dtype bf16, or a device with more memory",
        )
