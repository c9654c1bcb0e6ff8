"""Who holds what of a device's memory: weights, keys and values, what others hold. torch inside functions."""

from __future__ import annotations

from typing import Any


def own_bytes(device: str) -> int:
    """Bytes of the device's memory that this process has reserved; 0 for the processor."""
    if not device.startswith("cuda"):
        return 0
    import torch

    return int(torch.cuda.memory_reserved(device))


def allocated(device: str) -> int | None:
    """Bytes of the device's memory that tensors of this process take up now; None for the processor."""
    if not device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.memory_allocated(device))


def weight_bytes(module: Any) -> int:
    """Bytes of a network's parameters and buffers, those that are shared once."""
    return sum({each.data_ptr(): each.nbytes for each in (*module.parameters(), *module.buffers())}.values())


def slot_bytes(engine: Any) -> int | None:
    """Bytes of the keys and values that engine slots keeps between its calls; None for an engine that keeps none."""
    pool = getattr(engine, "_pool", None)
    if pool is None:
        return 0 if hasattr(engine, "_pool") else None
    kept = [each for layer in pool[0].layers for each in (layer.keys, layer.values) if each is not None]
    return sum(int(each.nbytes) for each in kept)


def give_slots_back(engine: Any) -> None:
    """Free what engine slots keeps between its calls; it makes it anew when it is called."""
    from cxrbench.engines.device import release

    if getattr(engine, "_pool", None) is not None:
        engine._pool = None
        release()


def park(engine: Any) -> None:
    """Take a loaded network off its device, so that another one has the device to itself."""
    from cxrbench.engines.device import release

    engine.load().module.to("cpu")
    release()


def unpark(engine: Any, device: str) -> None:
    """Bring it back."""
    engine.load().module.to(device)
