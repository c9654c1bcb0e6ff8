"""Where annotators run and at which precision. torch is imported inside functions, and only once one of them runs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from cxrbench.errors import CxrbenchError, Exit

if TYPE_CHECKING:
    import torch

PRECISIONS = ("fp32", "bf16")
"""Of weights and arithmetic. fp32 stands in no signature; bf16 moves numbers, so it does."""


def pick_device(name: str) -> str:
    """Resolve `auto` to cuda where there is a GPU, else cpu; refuse a device that is not there.

    Raises:
        CxrbenchError: no such device, or no torch to reach it with.
    """
    try:
        import torch
    except ImportError as error:
        raise CxrbenchError(
            f"device {name!r} needs torch", where="--device", fix="pip install 'cxrbench[models]'", code=Exit.UNDECIDED
        ) from error
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda:0" if gpus else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CxrbenchError(f"{name!r} is no device", where="--device", fix="auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise CxrbenchError(f"device {name!r} is not supported", where="--device", fix="auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise CxrbenchError(
            f"there is no device {name!r}: torch {torch.__version__} sees {gpus} GPUs", where="--device", fix="cpu"
        )
    return f"cuda:{device.index or 0}" if device.type == "cuda" else "cpu"


@functools.cache
def resolved(name: str) -> str:
    """`pick_device`, asked once per process."""
    return pick_device(name)


def check_device(name: str) -> None:
    """Refuse a device that is not there before anything long begins; `auto` and `cpu` are always there.

    Raises:
        CxrbenchError: as `pick_device`.
    """
    if name not in ("auto", "cpu"):
        pick_device(name)


def check_precision(name: str) -> None:
    """Refuse a precision that annotators do not run at.

    Raises:
        CxrbenchError: it is not one of PRECISIONS.
    """
    if name not in PRECISIONS:
        raise CxrbenchError(
            f"{name!r} is no precision to score at", where="--precision", fix=f"one of: {', '.join(PRECISIONS)}"
        )


def torch_dtype(precision: str) -> torch.dtype:
    """What torch calls a precision."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
