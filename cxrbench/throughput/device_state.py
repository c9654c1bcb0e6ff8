"""The state of the device around and within a block, and what of it makes a block invalid or marks it.

Standard library only.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cxrbench.throughput.nvml import MEMORY, SM, Device

THROTTLE: Mapping[int, str] = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal slowdown (software)",
    0x40: "thermal slowdown (hardware)",
    0x80: "power brake",
}
"""Throttle reasons. At its power cap a device computes as it always will under this load: marked, not invalid."""

HARMLESS = frozenset({"power cap"})

FOREIGN_BYTES = 2 * 2**30
"""Memory beyond our own allocator before others are suspected: a CUDA context and its libraries take up to 1 GiB."""

FOREIGN_LOAD = 5
"""Percent of load on a device to which we have given nothing."""


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A reading; None where the device does not tell. MHz, Celsius, watts, joules (a counter), bytes, percent."""

    sm_mhz: int | None = None
    memory_mhz: int | None = None
    celsius: int | None = None
    watts: float | None = None
    joules: float | None = None
    used_bytes: int | None = None
    throttle: tuple[str, ...] | None = None
    host_load: float | None = None
    """Processes waiting for a processor, over the last minute."""
    own_bytes: int = 0
    """Of the used bytes, what this process's allocator holds."""

    @property
    def foreign_bytes(self) -> int:
        """Memory that cannot be ours, 0 where it can or where the device does not tell."""
        others = (self.used_bytes or 0) - self.own_bytes
        return others if others > FOREIGN_BYTES else 0


@dataclass(frozen=True, slots=True)
class During:
    """What was read while a block ran, `samples` times; `throttle` counts the readings in which a reason stood.

    MHz, Celsius, watts, bytes; None where the device does not tell or nothing was read.
    """

    samples: int = 0
    sm_mhz_min: int | None = None
    memory_mhz_min: int | None = None
    celsius_max: int | None = None
    watts_mean: float | None = None
    throttle: Mapping[str, int] = field(default_factory=dict)
    foreign_bytes_max: int = 0


class Watching(Protocol):
    """A context around a block; afterwards `seen` holds what was read in it."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: Any) -> Any: ...

    @property
    def seen(self) -> During | None:
        """None where there is no device to read."""


class Unwatched:
    """Nobody looks: no thread, no cost."""

    seen: During | None = None

    def __enter__(self) -> Unwatched:
        return self

    def __exit__(self, *error: object) -> None: ...


class Monitor(Protocol):
    """Gives the state of the device. `warning` says what it cannot see and should, empty where nothing is missing."""

    warning: str

    def watch(self) -> Watching:
        """Look on while a block runs."""

    def read(self) -> DeviceState:
        """Now."""

    def idle_load(self) -> int | None:
        """Percent of load while we give the device nothing; None where it does not tell."""


class NoDevice:
    """A machine without NVML: only the host's load is known. On a GPU that is worth a `warning`."""

    def __init__(self, warning: str = "") -> None:
        self.warning = warning

    def watch(self) -> Watching:
        """There is nothing to look at."""
        return Unwatched()

    def read(self) -> DeviceState:
        """The host's load."""
        return DeviceState(host_load=host_load())

    def idle_load(self) -> int | None:
        """Not known."""
        return None


class Nvml:
    """Reads one GPU."""

    warning = ""

    def __init__(self, device: Device, own_bytes: Callable[[], int] = lambda: 0) -> None:
        self.device = device
        self.own_bytes = own_bytes

    def watch(self) -> Watching:
        """Read it ten times a second."""
        from cxrbench.throughput.sampler import Sampler

        return Sampler(self.read)

    def read(self) -> DeviceState:
        """Everything the driver tells."""
        bits = self.device.throttle()
        return DeviceState(
            sm_mhz=self.device.clock(SM),
            memory_mhz=self.device.clock(MEMORY),
            celsius=self.device.temperature(),
            watts=self.device.power(),
            joules=self.device.energy(),
            used_bytes=self.device.used_memory(),
            throttle=None if bits is None else tuple(name for bit, name in THROTTLE.items() if bits & bit),
            host_load=host_load(),
            own_bytes=self.own_bytes(),
        )

    def idle_load(self) -> int | None:
        """Load of the last sample period."""
        return self.device.load()


def host_load() -> float | None:
    """Mean number of runnable processes over a minute, where the system tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def processor() -> str | None:
    """The processor's name, where the system tells: GPU figures too depend on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def slowed(before: DeviceState, after: DeviceState, during: During | None = None) -> list[str]:
    """Throttle reasons around and within a block that make it invalid."""
    within = during.throttle if during is not None else ()
    named = {*(before.throttle or ()), *(after.throttle or ()), *within} - HARMLESS
    return [f"the device was slowed down: {name}" for name in sorted(named)]


def shared(state: DeviceState, idle_load: int | None = None) -> list[str]:
    """What speaks for somebody else on the device: memory that is not ours, load while we do nothing."""
    found = []
    if state.foreign_bytes:
        gib = state.foreign_bytes / 2**30
        found.append(f"{gib:.1f} GiB of the device's memory are not ours: somebody else is on it")
    if idle_load is not None and idle_load > FOREIGN_LOAD:
        found.append(f"the device was {idle_load} % busy before anything was given to it: somebody else is on it")
    return found
