"""Which monitor a device has. torch stays inside the engines."""

from __future__ import annotations

from cxrbench.throughput.device_state import Monitor, NoDevice, Nvml

UNSEEN = (
    "NVML does not tell of this GPU: neither clocks, temperature and power are known, nor whether it was slowed down or"
    " shared, and no block was discarded for it"
)


def monitor_of(device: str) -> Monitor:
    """What reads the device: NVML on a GPU whose driver is there, else the host's load alone."""
    from cxrbench.engines.ceilings import device_uuid
    from cxrbench.engines.memory import own_bytes
    from cxrbench.throughput.nvml import Device, open_library

    uuid = device_uuid(device)
    library = open_library() if uuid is not None else None
    if uuid is None:
        return NoDevice()
    found = Device(library, uuid) if library is not None else None
    return Nvml(found, lambda: own_bytes(device)) if found is not None and found.known else NoDevice(UNSEEN)
