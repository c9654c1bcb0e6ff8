"""What is measured: a model at a batch size, a precision, a length, on an engine. Standard library only."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from cxrbench.errors import CxrbenchError

LENGTHS = ("equal-tokens", "equal-chars", "natural", "trace")
SCENARIOS = ("offline", "single-stream")

FACTORS: Mapping[str, tuple[str, ...]] = {
    "model": ("model",),
    "image tokens": ("image_tokens",),
    "output length": ("lengths", "tokens", "chars", "trace"),
    "precision": ("dtype",),
    "batch": ("batch",),
    "engine": ("engine", "settings"),
    "decoding": ("preset", "generation"),
}
"""What a step of an anatomy changes, as fields of `Configuration`."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Lengths that are replayed, in tokens: recorded ones, or drawn from a log-normal distribution and named so."""

    values: tuple[int, ...]
    source: str

    @classmethod
    def drawn(cls, mean: float, cv: float, seed: int = 0, count: int = 1024) -> Trace:
        """Log-normal lengths with a mean and a coefficient of variation, at least 1."""
        spread = math.sqrt(math.log1p(cv**2))
        draw = random.Random(seed)  # noqa: S311  (lengths of texts, no secret)
        values = [max(1, round(draw.lognormvariate(math.log(mean) - spread**2 / 2, spread))) for _ in range(count)]
        return cls(tuple(values), f"drawn, not recorded: log-normal, mean {mean:g}, cv {cv:g}, seed {seed}")


@dataclass(frozen=True, slots=True)
class Configuration:
    """One way to write reports.

    `batch` 0 stands for the largest that fits. `lengths` says how texts end: `equal-tokens` after `tokens`,
    `equal-chars` after as many tokens as the model's tokenizer needs for `chars` characters of reference reports,
    `trace` after the tokens of `trace`, report by report, `natural` by themselves. `image_tokens` None leaves the
    model's own.
    """

    name: str
    model: str
    engine: str = "transformers"
    preset: str = "matched"
    dtype: str = "auto"
    batch: int = 1
    lengths: str = "equal-tokens"
    tokens: int = 100
    chars: int | None = None
    trace: Trace | None = None
    image_tokens: int | None = None
    load_format: str = "auto"
    scenario: str = "offline"
    settings: Mapping[str, str] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for value, known, what in ((self.lengths, LENGTHS, "lengths"), (self.scenario, SCENARIOS, "scenario")):
            if value not in known:
                raise CxrbenchError(f"{what} cannot be {value!r}", where=self.name, fix=f"one of: {', '.join(known)}")
        if self.lengths == "equal-chars" and self.chars is None:
            raise CxrbenchError("equal-chars needs a number of characters", where=self.name, fix="--chars 350")
        if self.lengths == "trace" and self.trace is None:
            raise CxrbenchError("lengths by trace need a trace", where=self.name, fix="--trace RUN")
        if self.lengths == "natural" and self.load_format == "dummy":
            raise CxrbenchError(
                "random weights end a text at random: their natural length means nothing",
                where=self.name,
                fix="--lengths trace, which replays recorded lengths",
            )

    def describe(self) -> dict[str, Any]:
        """As JSON, without the values of a trace."""
        made = {each.name: getattr(self, each.name) for each in fields(self)}
        made["settings"], made["generation"] = dict(self.settings), dict(self.generation)
        made["trace"] = self.trace.source if self.trace is not None else None
        return made


UNEVEN = ("natural", "trace")
"""Lengths that differ within a batch: what engine slots refills for, from all requests of a block."""


def network_key(wanted: Configuration) -> Any:
    """What makes a loaded model another one."""
    forced = {"natural": "natural", "trace": "trace"}.get(wanted.lengths, "fixed")
    slots = wanted.batch if wanted.engine == "slots" else None
    return (
        wanted.model, wanted.engine, wanted.preset, wanted.dtype, wanted.image_tokens, wanted.load_format, forced,
        slots, tuple(sorted(wanted.settings.items())), tuple(sorted(wanted.generation.items())),
    )  # fmt: skip


def changed(a: Configuration, b: Configuration) -> tuple[str, ...]:
    """The factors in which two configurations differ, in the order of `FACTORS`."""
    return tuple(
        factor for factor, names in FACTORS.items() if any(getattr(a, name) != getattr(b, name) for name in names)
    )


def with_factor(base: Configuration, other: Configuration, factor: str, name: str) -> Configuration:
    """`base` with one factor taken from `other`."""
    taken: dict[str, Any] = {key: getattr(other, key) for key in FACTORS[factor]}
    return replace(base, name=name, **taken)


def chain(a: Configuration, b: Configuration, order: Sequence[str]) -> list[Configuration]:
    """Configurations from `a` to `b`, one factor changed per step.

    Raises:
        CxrbenchError: the order names an unknown factor or one twice, leaves out one that differs, or the two differ
            in what no step may change.
    """
    for factor in order:
        if factor not in FACTORS:
            raise CxrbenchError(f"there is no factor {factor!r}", where="order", fix=", ".join(FACTORS))
    if len(set(order)) < len(order):
        raise CxrbenchError("a factor stands twice in the order", where="order")
    missing = [factor for factor in changed(a, b) if factor not in order]
    if missing:
        raise CxrbenchError(
            f"{a.name} and {b.name} differ in {', '.join(missing)}, which the order leaves out",
            where="order",
            fix="name every factor that differs: no residual factor is allowed",
        )
    if (a.load_format, a.scenario) != (b.load_format, b.scenario):
        raise CxrbenchError(
            f"{a.name} and {b.name} differ in load format or scenario, which no factor explains", where="order"
        )
    made = [a]
    for factor in order:
        if factor in changed(a, b):
            step = with_factor(made[-1], b, factor, f"{a.name} + {factor}")
            made.append(step)
    made[-1] = replace(made[-1], name=b.name)
    return made
