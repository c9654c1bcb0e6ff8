"""A speed-up taken apart: from one configuration to another, one factor changed per step.

Each step's ratio comes from interleaved blocks of its two configurations, the end-to-end ratio from other blocks of the
two ends. The product of the steps is a prediction of the end-to-end ratio; nothing is put down to a residual factor.
Which factor counts for how much depends on the order, so the chain is also run in reverse order, and the difference
is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cxrbench.throughput.arm import Arm
from cxrbench.throughput.configuration import Configuration, chain, changed
from cxrbench.throughput.protocol import Progress, Rules, Session, measure, silent
from cxrbench.throughput.ratio import LogRatio, product, quotient

MakeArms = Callable[[Sequence[Configuration]], Sequence[Arm]]
"""Brings up the arms of a few configurations; what is not among them may be put away."""


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
    """`direct` is B over A in blocks of its own; `sessions` holds everything that was measured."""

    a: str
    b: str
    direct: LogRatio
    walks: tuple[Walk, ...]
    sessions: tuple[Session, ...]

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
) -> Anatomy:
    """Measure the end-to-end ratio, then the chain in the stated and in the reverse order."""
    order = [factor for factor in order if factor in changed(a, b)] or list(order)
    chains = [chain(a, b, order), chain(a, b, order[::-1])]  # refused before anything is measured
    sessions = [measure(make_arms([a, b]), rules, progress)]
    direct = sessions[0].ratio(b.name, a.name)
    walks = []
    for configurations, factors in zip(chains, (order, order[::-1]), strict=True):
        steps = []
        for factor, old, new in zip(factors, configurations, configurations[1:], strict=False):
            session = measure(make_arms([old, new]), rules, progress)
            sessions.append(session)
            steps.append(Step(factor, old.name, new.name, session.ratio(new.name, old.name)))
        walks.append(Walk(tuple(factors), tuple(steps)))
        if len(order) < 2:
            break
    return Anatomy(a.name, b.name, direct, tuple(walks), tuple(sessions))


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
        "direct": ratio_entry(anatomy.direct),
        "walks": walks,
        "order_effect": anatomy.by_order(),
    }
