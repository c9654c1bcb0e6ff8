"""What a device does while a block runs: read over and over in a thread, so that nothing comes and goes unseen.

Standard library only. Where there is no device to read, no thread is started and a block costs what it costs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from types import TracebackType

from cxrbench.throughput.device_state import DeviceState, During

PERIOD = 0.1
"""Seconds between two readings: the driver itself renews power and throttle reasons about that often."""


@dataclass
class Sampler:
    """A context that calls `read` every `period` seconds until it ends; then `seen` holds what came of it."""

    read: Callable[[], DeviceState]
    period: float = PERIOD

    def __post_init__(self) -> None:
        self.states: list[DeviceState] = []
        self._failure: Exception | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="cxrbench-device", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure

    def _go_on(self) -> None:
        try:
            while not self._end.wait(self.period):
                self.states.append(self.read())
        except Exception as failure:
            self._failure = failure

    @property
    def seen(self) -> During:
        """Everything that was read; `samples` 0 where the block was shorter than a period."""
        return summed(self.states)


def summed(states: list[DeviceState]) -> During:
    """Union of throttle reasons with the readings that had them, least clocks, highest temperature, mean power."""
    reasons = sorted({name for each in states for name in each.throttle or ()})
    return During(
        samples=len(states),
        sm_mhz_min=min((each.sm_mhz for each in states if each.sm_mhz is not None), default=None),
        memory_mhz_min=min((each.memory_mhz for each in states if each.memory_mhz is not None), default=None),
        celsius_max=max((each.celsius for each in states if each.celsius is not None), default=None),
        watts_mean=fmean(watts) if (watts := [each.watts for each in states if each.watts is not None]) else None,
        throttle={name: sum(name in (each.throttle or ()) for each in states) for name in reasons},
        foreign_bytes_max=max((each.foreign_bytes for each in states), default=0),
    )
