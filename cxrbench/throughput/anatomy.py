"""A speed-up taken apart: from one configuration to another, one factor changed per step.

Each step's ratio comes from interleaved blocks of its two configurations, the end-to-end ratio from other blocks of the
two ends. The product of the steps is a prediction of the end-to-end ratio; nothing is put down to a residual factor.
Which factor counts for how much depends on the order, so the chain is also run in reverse order, and the difference
is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from cxrbench.throughput.arm import Arm
from cxrbench.throughput.configuration import Configuration, chain, changed
from cxrbench.throughput.protocol import Progress, Rules, Session, measure, silent, together
from cxrbench.throughput.ratio import LogRatio, product, quotient

MakeArms = Callable[[Sequence[Configuration]], Sequence[Arm]]
"""Brings up the arms of a few configurations; what is not among them may be put away."""

Fit = Callable[[Sequence[Configuration]], bool]
"""Whether these configurations fit into memory side by side."""


@dataclass(frozen=True, slots=True)
class Step:
    """One factor changed: the ratio of speeds, new over old."""

    factor: str
    old: str
    new: str
    ratio: LogRatio


@dataclass(frozen=True, slots=True)
class Walk:
    """A chain in one order."""

    order: tuple[str, ...]
    steps: tuple[Step, ...]

    @property
    def product(self) -> LogRatio:
        """Of all steps."""
        return product([step.ratio for step in self.steps])


@dataclass(frozen=True, slots=True)
class Anatomy:
    """`direct` is B over A in blocks of its own; `sessions` holds all that was measured, `interleaved` or in a row."""

    a: str
    b: str
    direct: LogRatio
    walks: tuple[Walk, ...]
    sessions: tuple[Session, ...]
    interleaved: bool = True

    def closure(self, walk: Walk) -> LogRatio:
        """Product of the chain over the end-to-end ratio: 1 where the steps explain everything."""
        return quotient(walk.product, self.direct)

    def by_order(self) -> dict[str, float]:
        """Per factor: its ratio in the stated order over its ratio in the reverse one."""
        if len(self.walks) < 2:
            return {}
        forward, backward = ({step.factor: step.ratio.value for step in walk.steps} for walk in self.walks[:2])
        return {factor: forward[factor] / backward[factor] for factor in forward}


def dissect(
    a: Configuration,
    b: Configuration,
    order: Sequence[str],
    make_arms: MakeArms,
    rules: Rules,
    progress: Progress = silent,
    fit: Fit = lambda _: True,
) -> Anatomy:
    """Measure the end-to-end ratio and the chain in the stated and in the reverse order, in blocks of one size.

    Where all configurations `fit` into memory, one round of every session follows the other; else one session does.
    """
    order = [factor for factor in order if factor in changed(a, b)] or list(order)
    orders = [order, order[::-1]] if len(order) > 1 else [order]
    chains = [chain(a, b, each) for each in orders]  # refused before anything is measured
    pairs = [(a, b), *(pair for steps in chains for pair in pairwise(steps))]
    needed = distinct([each for pair in pairs for each in pair])
    interleaved = fit(needed)
    if interleaved:
        arms = dict(zip((each.name for each in needed), make_arms(needed), strict=True))
        groups = [[arms[alike(each, needed).name] for each in pair] for pair in pairs]
        sessions = together(groups, rules, progress)
    else:
        sessions, size = [], None
        for pair in pairs:
            sessions.append(measure(make_arms(pair), rules, progress, size))
            size = sessions[0].of(a.name)[0].reports
    direct, *steps = [_ratio(session) for session in sessions]
    coming = iter(zip(sessions[1:], steps, strict=True))
    walks = [Walk(tuple(each), tuple(_step(factor, *next(coming)) for factor in each)) for each in orders]
    return Anatomy(a.name, b.name, direct, tuple(walks), tuple(sessions), interleaved)


def _ratio(session: Session) -> LogRatio:
    old, new = session.arms
    return session.ratio(new.name, old.name)


def _step(factor: str, session: Session, ratio: LogRatio) -> Step:
    old, new = session.arms
    return Step(factor, old.name, new.name, ratio)


def distinct(configurations: Sequence[Configuration]) -> list[Configuration]:
    """Each once, whatever it is called in which chain; a name stands for one configuration only."""
    found: list[Configuration] = []
    for each in configurations:
        if not any(replace(each, name=other.name) == other for other in found):
            taken = sum(other.name.split(" (")[0] == each.name for other in found)
            found.append(replace(each, name=f"{each.name} ({taken + 1})") if taken else each)
    return found


def alike(wanted: Configuration, among: Sequence[Configuration]) -> Configuration:
    """The one that is `wanted` but for its name."""
    return next(each for each in among if replace(wanted, name=each.name) == each)


def ratio_entry(ratio: LogRatio) -> dict[str, Any]:
    """A ratio as JSON."""
    return {"ratio": ratio.value, "ci": list(ratio.interval()), "ci_level": 0.95, "pairs": ratio.pairs}


def anatomy_entry(anatomy: Anatomy) -> dict[str, Any]:
    """The anatomy as JSON, without its blocks."""
    walks = [
        {
            "order": list(walk.order),
            "steps": [
                {"factor": step.factor, "from": step.old, "to": step.new, **ratio_entry(step.ratio)}
                for step in walk.steps
            ],
            "product": ratio_entry(walk.product),
            "closure": {**ratio_entry(anatomy.closure(walk)), "has_one": anatomy.closure(walk).has_one()},
        }
        for walk in anatomy.walks
    ]
    return {
        "from": anatomy.a,
        "to": anatomy.b,
        "interleaved": anatomy.interleaved,
        "direct": ratio_entry(anatomy.direct),
        "walks": walks,
        "order_effect": anatomy.by_order(),
    }
