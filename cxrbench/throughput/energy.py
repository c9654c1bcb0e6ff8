"""Energy and cost per report: the device's own energy counter over a window. Standard library only.

Method: NVML's total-energy counter (GPU only, idle power included) at both ends of each block. It moves every 10 to
100 ms, so windows under `SHORTEST` seconds are refused; where there is no counter there is no figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.throughput.block import Block
from cxrbench.throughput.device_state import DeviceState

SHORTEST = 10.0
"""Seconds: below it the counter's steps of up to 100 ms are more than 1 % of the window."""

LONG_ENOUGH = 12.0
"""Seconds that blocks have to be asked for, so that none is below `SHORTEST` where speeds vary a little."""

METHOD = "NVML total energy counter, difference over each block; this GPU only, idle power included"


def joules_per_report(blocks: Sequence[Block]) -> float:
    """J/report = sum of counter differences / reports, over the blocks.

    Raises:
        CxrbenchError: no counter, a counter that stood still or ran backwards, or a window that is too short.
    """
    if not blocks:
        raise CxrbenchError("no valid block: there is nothing to divide the energy by", code=Exit.UNDECIDED)
    missing = sum(each.joules is None for each in blocks)
    if missing:
        raise CxrbenchError(
            f"the device has no energy counter ({missing} of {len(blocks)} blocks without a reading)",
            where="energy",
            fix="run on a GPU whose driver has one (Volta or newer, not every virtual machine), or leave --energy out",
            code=Exit.UNDECIDED,
        )
    shortest = min(each.seconds for each in blocks)
    if shortest < SHORTEST:
        raise CxrbenchError(
            f"a window of {shortest:.1f} s is too short for the energy counter",
            where="energy",
            fix=f"--block-seconds {LONG_ENOUGH:g}, or more, with --images enough to last that long",
            code=Exit.UNDECIDED,
        )
    spent = [each.joules or 0.0 for each in blocks]
    if min(spent) <= 0:
        raise CxrbenchError(
            f"the energy counter moved by {min(spent):g} J in {shortest:.0f} s: it does not work",
            where="energy",
            code=Exit.UNDECIDED,
        )
    return sum(spent) / sum(each.reports for each in blocks)


def measurable(state: DeviceState, block_seconds: float) -> None:
    """Refuse what `joules_per_report` would refuse in the end, before anything is measured.

    Raises:
        CxrbenchError: no counter, or blocks that are meant to be too short.
    """
    asked = "energy was asked for and cannot be given: "
    if state.joules is None:
        raise CxrbenchError(
            asked + "the device has no energy counter",
            where="energy",
            fix="run on a GPU whose driver has one (Volta or newer, not every virtual machine), or leave --energy out",
            code=Exit.UNDECIDED,
        )
    if block_seconds < LONG_ENOUGH:
        raise CxrbenchError(
            f"{asked}blocks of {block_seconds:g} s are too short for the energy counter",
            where="energy",
            fix=f"--block-seconds {LONG_ENOUGH:g}, or more, with --images enough to last that long",
            code=Exit.UNDECIDED,
        )


def cost_per_report(reports_per_s: float, price_per_hour: float) -> float:
    """Cost/report = price of a GPU hour / 3600 / (reports/s, end to end), in the currency of the price."""
    if not price_per_hour > 0:
        raise CxrbenchError(f"a GPU hour cannot cost {price_per_hour:g}", where="--price-per-hour")
    return price_per_hour / 3600 / reports_per_s


def energy_entry(blocks: Sequence[Block]) -> dict[str, Any]:
    """The figure with its method, or why there is none."""
    try:
        joules = joules_per_report(blocks)
    except CxrbenchError as error:
        return {"joules_per_report": None, "why_not": error.what}
    watts = sum(each.joules or 0.0 for each in blocks) / sum(each.seconds for each in blocks)
    return {"joules_per_report": joules, "mean_watts": watts, "method": METHOD}
