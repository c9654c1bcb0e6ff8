"""Devices: which one, at which precision, what time it is there, how much memory it took. torch inside functions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cxrbench.errors import CxrbenchError
from cxrbench.features.device import pick_device as pick_device

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "bf16", "fp16", "fp32")

NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What a plain RuntimeError says of memory: the host's allocator, the driver's, and that of the matrix products."""


def pick_dtype(name: str, device: str) -> str:
    """Resolve `auto`: bf16 on a GPU that computes in it, fp16 on an older one, fp32 on the CPU.

    Raises:
        CxrbenchError: not a known precision.
    """
    if name not in DTYPES:
        raise CxrbenchError(f"{name!r} is no precision", where="--dtype", fix=f"one of: {', '.join(DTYPES)}")
    if name != "auto":
        return name
    if device == "cpu":
        return "fp32"
    import torch

    return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"


def describe(device: str) -> dict[str, Any]:
    """Name and settings of a device, for the circumstances of a run."""
    import torch

    if device == "cpu":
        return {"device": "cpu", "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": device,
        "gpu": properties.name,
        "gpu_memory": properties.total_memory,
        "cuda": torch.version.cuda,
        "tf32": torch.backends.cuda.matmul.fp32_precision == "tf32",
    }


class Clock:
    """Wall time at which the devices have finished what they were given; memory peaks between two readings."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.gpus = [device for device in devices if device.startswith("cuda")]

    def now(self) -> float:
        """Seconds, after waiting for every GPU in use."""
        if self.gpus:
            import torch

            for device in self.gpus:
                torch.cuda.synchronize(device)
        return time.perf_counter()

    def forget_peak(self) -> None:
        """Start a new measurement of the peak."""
        if self.gpus:
            import torch

            for device in self.gpus:
                torch.cuda.reset_peak_memory_stats(device)

    def peak(self) -> int | None:
        """Bytes the allocator held at most since `forget_peak`, summed over GPUs; None on the CPU."""
        if not self.gpus:
            return None
        import torch

        return sum(torch.cuda.max_memory_allocated(device) for device in self.gpus)


def devices_of(module: torch.nn.Module) -> list[str]:
    """The devices a module's parameters lie on."""
    return sorted({str(parameter.device) for parameter in module.parameters()})


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device or the host ran out of memory."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_MEMORY)


def release() -> None:
    """Give cached device memory back after a failed attempt."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
