"""GPUs as data: what a roofline is drawn from. Standard library only.

Peaks are the makers' data sheets (16-bit with fp32 accumulation, dense). `measured` ones are what a large copy and a
large product of random bf16 numbers reached on one H200; the research note prints the second as "about 790", and 790.4
is the rate with which all tables of the note come out as printed (tests/throughput/test_roofline.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cxrbench.errors import CxrbenchError, suggest


@dataclass(frozen=True, slots=True)
class Gpu:
    """Bytes per second, 16-bit operations per second, bytes of memory, and where the first two come from."""

    name: str
    bandwidth: float
    flops: float
    memory: float
    source: str = "data sheet"


GIB = 2**30

GPUS: Mapping[str, Gpu] = {
    each.name: each
    for each in (
        Gpu("V100-32", 0.90e12, 125e12, 32e9),
        Gpu("A10-24", 0.60e12, 125e12, 24e9),
        Gpu("A100-40", 1.555e12, 312e12, 40e9),
        Gpu("A100-80", 2.04e12, 312e12, 80e9),
        Gpu("H100-80", 3.35e12, 989e12, 80e9),
        Gpu("H200", 4.3e12, 790.4e12, 139 * GIB, "measured"),
        Gpu("H200-sheet", 4.8e12, 989e12, 141e9),
    )
}

SIXTEEN_GB = 16e9
"""Memory of a small GPU; on it the question is only whether a model fits."""


def find_gpu(name: str) -> Gpu:
    """The GPU called `name`.

    Raises:
        CxrbenchError: it is not in the table.
    """
    if name not in GPUS:
        raise CxrbenchError(f"no figures of the GPU {name!r} are known{suggest(name, GPUS)}", fix=", ".join(GPUS))
    return GPUS[name]
