"""What must hold beside the metrics: length of the reports, speed and memory of the same run. numpy only.

A ratio is always candidate over baseline. A guard passes when the whole confidence interval of its ratio keeps the
limit, fails when the whole interval breaks it, and is undecided in between: asv's "big enough and not noise".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cxrbench.gate_evidence import Evidence
from cxrbench.gate_policy import LengthGuard, MemoryGuard, SpeedGuard
from cxrbench.lengths import length_ratio
from cxrbench.stats import Floats, bootstrap, resample_weights
from cxrbench.store import differences

Status = Literal["pass", "fail", "undecided"]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Outcome of one guard. `low` and `high` are one-sided bounds at 1 - alpha; None where there is no noise."""

    status: Status
    reason: str
    baseline: float | None = None
    candidate: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None


def judge_length(
    guard: LengthGuard,
    rows: tuple[Floats, Floats] | None,
    clusters: Sequence[str],
    *,
    alpha: float,
    replicates: int,
    seed: int,
) -> Ratio:
    """Is the candidate much longer (or shorter) than the baseline? `rows` None: a side has no lengths."""
    if rows is None:
        return Ratio("undecided", "length was not scored in both runs: cxrbench score RUN --metrics length")
    table = length_ratio(*rows)
    words = table.rows.sum(axis=0) / max(table.rows[:, 0].sum(), 1.0)
    found = bootstrap({"": table}, clusters, level=1 - 2 * alpha, replicates=replicates, seed=seed)[""]["ratio"]
    if found.low is None or found.high is None:
        return Ratio("undecided", f"no interval: {found.note}", float(words[1]), float(words[2]))
    status: Status = "undecided"
    over, under = guard.max_ratio or float("inf"), guard.min_ratio or 0.0
    said = f"words per report {words[1]:.1f} -> {words[2]:.1f}, allowed ratio {_allowed(guard)}"
    if found.low > over or found.high < under:
        status, said = "fail", f"{said}: too {'long' if found.low > over else 'short'}"
    elif found.high <= over and found.low >= under:
        status = "pass"
    return Ratio(status, said, float(words[1]), float(words[2]), found.value, found.low, found.high)


def _allowed(guard: LengthGuard) -> str:
    low = f"{guard.min_ratio:g}" if guard.min_ratio is not None else "0"
    return f"{low} to {guard.max_ratio:g}" if guard.max_ratio is not None else f"at least {low}"


def judge_speed(
    guard: SpeedGuard, baseline: Evidence, candidate: Evidence, *, alpha: float, replicates: int, seed: int
) -> Ratio:
    """Reports per second, each batch with the seconds of the window that belong to it; batches are resampled.

    Batches of two runs that were cut alike are resampled together, others apart.
    """
    reason = _other_machine(baseline.about, candidate.about)
    if reason:
        return Ratio("undecided", reason)
    one, two = (np.asarray(each.about["batches"], np.float64).reshape(-1, 3) for each in (baseline, candidate))
    if len(one) < 2 or len(two) < 2:
        return Ratio("undecided", "speed was not measured in both runs, or in one batch only")
    paired = np.array_equal(one[:, :2], two[:, :2])
    drawn = _drawn(one, replicates, seed), _drawn(two, replicates, seed if paired else seed + 1)
    low, high = np.quantile(drawn[1] / drawn[0], [alpha, 1 - alpha])
    speeds = [float(each[:, 1].sum() / each[:, 2].sum()) for each in (one, two)]
    status: Status = "pass" if low >= guard.min_ratio else "fail" if high < guard.min_ratio else "undecided"
    said = f"{speeds[0]:.3g} -> {speeds[1]:.3g} reports/s, allowed ratio at least {guard.min_ratio:g}"
    return Ratio(status, said, speeds[0], speeds[1], speeds[1] / speeds[0], float(low), float(high))


def _drawn(batches: Floats, replicates: int, seed: int) -> Floats:
    """Reports per second under resampled batches, (replicates,)."""
    sums = np.vstack([weights @ batches[:, 1:] for weights in resample_weights(len(batches), replicates, seed)])
    return np.asarray(sums[:, 0] / sums[:, 1])


def _other_machine(baseline: Mapping[str, Any], candidate: Mapping[str, Any]) -> str:
    """Why two measurements cannot be compared; empty where they can."""
    if not baseline["machine"] or not candidate["machine"]:
        return "a run was made in parts on different machines"
    if not baseline["batches"] or not candidate["batches"]:
        return "a model that looks its reports up has no speed"
    changed = differences(baseline["machine"], candidate["machine"])
    return f"measured on different machines or settings: {'; '.join(changed)}" if changed else ""


def judge_memory(guard: MemoryGuard, baseline: Evidence, candidate: Evidence) -> Ratio:
    """Peak memory: of the device's allocator where both runs have it, else of the process. A peak has no interval."""
    reason = _other_machine(baseline.about, candidate.about)
    if reason:
        return Ratio("undecided", reason)
    for key, name in (("peak_device_memory", "device memory"), ("peak_rss", "memory of the process")):
        one, two = (each.about["speed"].get(key) for each in (baseline, candidate))
        if one and two:
            kept = two / one <= guard.max_ratio
            said = f"peak {name} {one / 2**20:.0f} -> {two / 2**20:.0f} MiB, allowed ratio {guard.max_ratio:g}"
            return Ratio("pass" if kept else "fail", said, float(one), float(two), two / one)
        if one or two:
            return Ratio("undecided", f"{name} was measured in one run only")
    return Ratio("undecided", "no memory was measured")
