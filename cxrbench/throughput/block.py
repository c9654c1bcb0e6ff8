"""A block: one configuration answering some reports in one measured window; and why a block may be invalid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cxrbench.throughput.device_state import DeviceState, During, slowed
from cxrbench.types import BatchTiming, Prediction

STAGES = ("image_read", "preprocess", "encode", "prefill", "decode")


@dataclass(frozen=True, slots=True)
class Memory:
    """The allocator's bytes, taken apart: `weights` and `kv` of this configuration, `others` of those beside it.

    `weights` are read off the loaded network. `kv` are the slots an engine keeps (read off), or the keys and values of
    one full batch at its longest (computed from the sizes). `workspace` = peak - others - weights - kv: activations,
    logits, recordings, and what the allocator rounds up. None where it is not known: a processor has no allocator
    that tells, and a network of another class no known sizes.
    """

    weights: int
    kv: int | None = None
    others: int | None = None
    workspace: int | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Seconds are wall seconds; `stages` are sums over the block's samples (image_read, preprocess) or batches.

    `seconds` runs from the first image read to the last text decoded; `engine_seconds` is the sum of the batches' own
    wall times. Stages of reading overlap with the engine's and are never added to them. `latencies`, `first_tokens`
    and `per_token` are per report, of single-stream blocks only. `steps` are the fewest decoding steps that could write
    these texts in these batches, `positions` the tokens whose keys and values they read, summed over steps and texts.
    """

    configuration: str
    number: int
    reports: int
    batches: int
    seconds: float
    engine_seconds: float
    stages: dict[str, float | None]
    output_tokens: int
    chars: int
    words: int
    prompt_tokens: int
    image_tokens: int
    steps: int = 0
    positions: int = 0
    latencies: tuple[float, ...] = ()
    first_tokens: tuple[float, ...] = ()
    per_token: tuple[float, ...] = ()
    peak_memory: int | None = None
    memory: Memory | None = None
    before: DeviceState = field(default_factory=DeviceState)
    after: DeviceState = field(default_factory=DeviceState)
    during: During | None = None
    """What was read while it ran; None where there is no device to read."""
    invalid: tuple[str, ...] = ()
    order: int = -1
    """Place in the session, across configurations."""

    @property
    def joules(self) -> float | None:
        """Difference of the energy counter; None where there is none."""
        if self.before.joules is None or self.after.joules is None:
            return None
        return self.after.joules - self.before.joules

    @property
    def shared(self) -> bool:
        """Whether somebody else was seen on the device: the block counts and is marked."""
        within = self.during.foreign_bytes_max if self.during is not None else 0
        return bool(self.before.foreign_bytes or self.after.foreign_bytes or within)

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured."""
        return {**asdict(self), "joules": self.joules, "shared": self.shared}


@dataclass(frozen=True, slots=True)
class Expected:
    """What must have come out: tokens per report in the order asked (None: as they come), tokens of each image.

    `batch` texts must have been written at a time, where an engine decides that itself; 0: whatever it decided.
    """

    tokens: tuple[int, ...] | None
    image_tokens: int | None
    batch: int = 0


def problems(answers: Sequence[Prediction], timings: Sequence[BatchTiming], expected: Expected) -> list[str]:
    """Why a block does not count: failed answers, lengths or image tokens other than asked, a batch in pieces."""
    found: list[str] = []
    outcomes = sorted({each.outcome for each in answers if each.failed})
    failed = sum(each.failed for each in answers)
    if failed:
        named = ", ".join("NaN or infinite logits" if name == "nan_logits" else name for name in outcomes)
        found.append(f"{failed} of {len(answers)} reports failed ({named})")
    good = [each for each in answers if not each.failed]
    if expected.tokens is not None:
        wanted = dict(zip((each.sample_id for each in answers), expected.tokens, strict=True))
        odd = [each for each in good if each.output_tokens != wanted[each.sample_id]]
        if odd:
            first = odd[0]
            found.append(
                f"{len(odd)} of {len(answers)} lengths did not come out as forced"
                f" ({first.output_tokens} tokens for {wanted[first.sample_id]})"
            )
    if expected.image_tokens is not None:
        counts = sorted({each.image_tokens or 0 for each in good} - {expected.image_tokens})
        if counts:
            found.append(f"{counts[0]} image tokens for {expected.image_tokens}")
    if any(timing.parts > 1 for timing in timings):
        found.append("a batch ran in several parts: memory was short")
    fewer = [each.slots for each in timings if each.slots is not None and each.slots < min(expected.batch, each.size)]
    if fewer:
        found.append(f"{min(fewer)} texts were written at a time, not {expected.batch}: memory was short")
    return found


def checked(block: Block, answers: Sequence[Prediction], timings: Sequence[BatchTiming], expected: Expected) -> Block:
    """The block with what is wrong with it."""
    slow = slowed(block.before, block.after, block.during)
    return replace(block, invalid=(*problems(answers, timings, expected), *slow))
