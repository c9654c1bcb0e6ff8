"""NVIDIA's management library through ctypes: clocks, temperature, power, throttle reasons, energy, memory, load.

Standard library only, so that nothing has to be installed. What a device or a virtual machine does not tell is None:
absent is absent, not zero.
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

LIBRARY = "libnvidia-ml.so.1"
SM, MEMORY = 1, 2
"""Clock domains."""

CORE_TEMPERATURE = 0


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class Library(Protocol):
    """What is called of the library; a test gives its own."""

    def __getattr__(self, name: str) -> Any: ...


def open_library() -> Library | None:
    """The library, initialised; None on a machine without it or without a driver."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None


class Device:
    """One GPU, by its UUID; every question gives None where the driver has no answer."""

    def __init__(self, library: Library, uuid: str) -> None:
        self._library = library
        self._handle = ctypes.c_void_p()
        name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        code = library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(self._handle))
        self.known = code == 0

    def _ask(self, function: str, value: Any, *arguments: Any) -> Any:
        """The value a function wrote, None where it failed."""
        if not self.known:
            return None
        try:
            code = getattr(self._library, function)(self._handle, *arguments, ctypes.byref(value))
        except AttributeError:  # an older driver without the function
            return None
        return value if code == 0 else None

    def _number(self, function: str, kind: Any, *arguments: Any) -> int | None:
        found = self._ask(function, kind(), *arguments)
        return None if found is None else int(found.value)

    def clock(self, domain: int) -> int | None:
        """MHz of `SM` or `MEMORY`."""
        return self._number("nvmlDeviceGetClockInfo", ctypes.c_uint, ctypes.c_int(domain))

    def temperature(self) -> int | None:
        """Degrees Celsius."""
        return self._number("nvmlDeviceGetTemperature", ctypes.c_uint, ctypes.c_int(CORE_TEMPERATURE))

    def power(self) -> float | None:
        """Watts."""
        found = self._number("nvmlDeviceGetPowerUsage", ctypes.c_uint)
        return None if found is None else found / 1000

    def energy(self) -> float | None:
        """Joules since the driver was loaded."""
        found = self._number("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong)
        return None if found is None else found / 1000

    def throttle(self) -> int | None:
        """Bits of `THROTTLE` in device_state.py."""
        return self._number("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong)

    def used_memory(self) -> int | None:
        """Bytes in use on the device, whoever uses them."""
        found = self._ask("nvmlDeviceGetMemoryInfo", _Memory())
        return None if found is None else int(found.used)

    def load(self) -> int | None:
        """Percent of the last sample period in which the device was busy."""
        found = self._ask("nvmlDeviceGetUtilizationRates", _Utilization())
        return None if found is None else int(found.gpu)
