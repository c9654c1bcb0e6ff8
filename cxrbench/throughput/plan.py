"""What an experiment would take on a GPU: memory, blocks and minutes, before anybody pays for one. No torch.

A rough guess from the roofline, no measurement: decoding at `MBU` of the bandwidth and prefill at `MFU` of the
operations, but never faster than operations are started one by one (`EAGER` seconds a step) where no graph replays
them; `LOAD` seconds to bring a network up. Blocks, rounds and warm-up are counted as the protocol counts them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from cxrbench.models.shapes import Shape
from cxrbench.throughput import roofline as roof
from cxrbench.throughput.anatomy import alike, distinct
from cxrbench.throughput.configuration import Configuration, chain, changed, network_key
from cxrbench.throughput.experiment import ExperimentSpec, ModeSpec, configuration
from cxrbench.throughput.facts import Gpu
from cxrbench.throughput.protocol import Rules, common_size

MBU, MFU = 0.6, 0.5
"""Shares of bandwidth and operations that good code reaches, as in the table of the whole test set (--paper)."""

EAGER = 0.025
"""Seconds of a step, or of a prefill, whose operations are started one by one from Python: an assumption."""

LOAD = 10.0
"""Seconds to bring up a network of random weights and what reads its images: an assumption."""

HOST = 6e9
"""Bytes per second between the device and the host's memory: an assumption."""

START = 30.0
"""Seconds before anything is loaded: imports, the pool of images, the two ceilings: an assumption."""

CHARS = 4.0
"""Characters of a token, where a length is named in characters: an assumption."""

Sizes = Callable[[Configuration], Shape]


@dataclass(frozen=True, slots=True)
class Planned:
    """A configuration on this GPU: its batch, bytes, and seconds per report."""

    configuration: Configuration
    batch: int
    requests: range
    weights: float
    kv: float
    per_report: float

    @property
    def most(self) -> int:
        """Reports of whole batches in the pool."""
        return len(self.requests) // self.batch * self.batch

    def wanted(self, seconds: float) -> int:
        """Reports of a block of so many seconds."""
        asked = math.ceil(seconds / self.per_report / self.batch) * self.batch
        return max(self.batch, min(asked, self.most))


@dataclass(frozen=True, slots=True)
class Part:
    """A session, or all those of an anatomy: bytes on the device at once, reports of a block, seconds."""

    name: str
    planned: tuple[Planned, ...]
    bytes_needed: float
    reports: int
    rounds: int
    seconds: float

    def fits(self, gpu: Gpu) -> bool:
        """Into the share of memory that weights and keys and values may take."""
        return self.bytes_needed <= roof.MEMORY_SHARE * gpu.memory


def plan(spec: ExperimentSpec, gpu: Gpu, sizes: Sizes, folder: Path = Path()) -> tuple[Part, ...]:
    """Every mode at every batch size, then every anatomy.

    Args:
        spec: the experiment.
        gpu: where it would run.
        sizes: gives a configuration's network sizes.
        folder: of the experiment's file, for recorded traces.
    """
    made = [_mode(spec, mode, batch, gpu, sizes, folder) for mode in spec.modes for batch in mode.batches or (None,)]
    for each in spec.anatomies:
        ends = [configuration(name, spec.configurations[name], folder) for name in (each.slow, each.fast)]
        made.append(_anatomy(spec, each.name, ends, each.order, gpu, sizes))
    return tuple(made)


def _mode(spec: ExperimentSpec, mode: ModeSpec, batch: int | None, gpu: Gpu, sizes: Sizes, folder: Path) -> Part:
    wanted = [configuration(name, spec.configurations[name], folder) for name in mode.configurations]
    wanted = [replace(each, batch=batch) if batch is not None else each for each in wanted]
    alone = mode.alone or not all(each.batch for each in wanted)
    arms = [planned(each, gpu, sizes(each), spec.images) for each in wanted]
    rules = spec.rules.rules()
    reports = common_size(arms, [each.wanted(rules.block_seconds) for each in arms])
    rounds = _rounds(arms, reports, rules)
    settling = sum(min(each.batch, reports) * each.per_report for each in arms) if alone else 0.0
    if alone and (not all(each.batch for each in wanted) or _in_turns(arms) > roof.MEMORY_SHARE * gpu.memory):
        settling += 2 * sum(each.weights for each in arms) / HOST  # to the host and back
    seconds = LOAD * len(arms) + _warming(arms, reports, rules)
    seconds += rounds * (sum(reports * each.per_report for each in arms) + settling)
    name = mode.name if batch is None else f"{mode.name}, batch {batch}"
    return Part(name, tuple(arms), _alone(arms) if alone else _beside(arms), reports, rounds, seconds)


def _anatomy(
    spec: ExperimentSpec, name: str, ends: Sequence[Configuration], order: Sequence[str], gpu: Gpu, sizes: Sizes
) -> Part:
    a, b = ends
    order = [factor for factor in order if factor in changed(a, b)]
    orders = [order, order[::-1]] if len(order) > 1 else [order]
    pairs = [(a, b), *(pair for each in orders for pair in pairwise(chain(a, b, each)))]
    steps = [each for pair in pairs for each in pair]
    needed = distinct(steps)
    arms = [planned(each, gpu, sizes(each), spec.images) for each in needed]
    rules = spec.rules.rules()
    reports = common_size(arms, [each.wanted(rules.block_seconds) for each in arms])
    rounds = _rounds(arms, reports, rules)
    walked = [arms[needed.index(alike(each, needed))] for each in steps]
    once = sum((reports + min(each.batch, reports)) * each.per_report for each in walked)
    seconds = LOAD * len(arms) + _warming(arms, reports, rules) + rounds * once
    return Part(f"anatomy: {name}", tuple(arms), _beside(arms), reports, rounds, seconds)


def planned(wanted: Configuration, gpu: Gpu, shape: Shape, images: int) -> Planned:
    """A configuration on a GPU; batch 0 becomes the largest power of two that fits alone, as the bench finds it."""
    dtype = "bf16" if wanted.dtype == "auto" else wanted.dtype
    tokens = _tokens(wanted)
    longest = roof.Load(max(tokens), dtype)
    batch = wanted.batch
    if not batch:
        fitting = max(1, roof.largest_batch(shape, gpu.memory, longest))
        batch = min(1 << (fitting.bit_length() - 1), 1 << (images.bit_length() - 1))
    weights = roof.weight_bytes(shape, dtype)
    kv = roof.memory_bytes(shape, batch, longest) - weights
    seconds = _per_report(wanted, shape, replace(gpu, bandwidth=MBU * gpu.bandwidth, flops=MFU * gpu.flops), batch)
    return Planned(wanted, batch, range(images), weights, kv, seconds)


def _per_report(wanted: Configuration, shape: Shape, gpu: Gpu, batch: int) -> float:
    dtype = "bf16" if wanted.dtype == "auto" else wanted.dtype
    tokens = _tokens(wanted)
    if wanted.engine != "slots" and len(tokens) > 1:  # a batch lasts as long as its longest text
        written = fmean(max(tokens[start : start + batch]) for start in range(0, len(tokens), batch))
    else:
        written = fmean(tokens)
    load = roof.Load(written, dtype)
    started = 0.0 if wanted.engine == "slots" and wanted.settings.get("graphs") != "off" else EAGER
    context = roof.mean_context(roof.prompt_of(shape, load), written)
    step = max(started, roof.step_seconds(shape, gpu, batch, context, dtype))
    filling = max(EAGER / batch, roof.prefill_seconds(shape, gpu, batch, load))
    return filling + (written - 1) * step / batch


def _tokens(wanted: Configuration) -> Sequence[int]:
    if wanted.lengths == "trace" and wanted.trace is not None:
        return wanted.trace.values
    if wanted.lengths == "equal-chars":
        return [max(1, round((wanted.chars or 0) / CHARS))]
    return [int(wanted.generation.get("max_new_tokens", 300)) if wanted.lengths == "natural" else wanted.tokens]


def _rounds(arms: Sequence[Planned], reports: int, rules: Rules) -> int:
    """As many as asked, or as the fastest arm needs for its seconds; both orders equally often."""
    fastest = min(each.per_report for each in arms) * reports
    wanted = max(rules.blocks, math.ceil(rules.seconds / fastest))
    return wanted + wanted % 2 if len(arms) > 1 else wanted


def _warming(arms: Sequence[Planned], reports: int, rules: Rules) -> float:
    """A first batch, blocks that agree at once, and one of the common size."""
    return sum(
        (each.batch + rules.agreeing * each.wanted(rules.block_seconds) + reports) * each.per_report for each in arms
    )


def _beside(arms: Sequence[Planned]) -> float:
    """All weights, the slots of each, and one batch of the largest that keeps none: as `Bench.fit` counts."""
    networks = {network_key(each.configuration): each.weights for each in arms}
    slots = sum(each.kv for each in arms if each.configuration.engine == "slots")
    return (
        sum(networks.values())
        + slots
        + max((each.kv for each in arms if each.configuration.engine != "slots"), default=0)
    )


def _in_turns(arms: Sequence[Planned]) -> float:
    """All weights, and the keys and values of one."""
    return sum({network_key(each.configuration): each.weights for each in arms}.values()) + max(
        each.kv for each in arms
    )


def _alone(arms: Sequence[Planned]) -> float:
    return max(each.weights + each.kv for each in arms)
