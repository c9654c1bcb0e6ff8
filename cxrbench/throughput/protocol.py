"""The protocol: warm until stable, then interleaved blocks; invalid ones are discarded, counted and repeated.

Two arms give ABBA ABBA..., several give A B C C B A...: what drifts hits all alike. All arms of a session answer the
same images, in blocks of the same size. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.throughput.arm import Arm
from cxrbench.throughput.block import Block
from cxrbench.throughput.ratio import LogRatio, log_ratio

Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How long to warm up and to measure.

    Warm-up ends when the rates of the last `agreeing` blocks lie within `within` of each other, or after `warm_most`
    blocks (then the arm is marked unstable). Then `blocks` valid rounds and `seconds` of them at least; of every
    round's blocks at most `blocks` may be invalid in all.
    """

    blocks: int = 10
    seconds: float = 60.0
    block_seconds: float = 2.0
    agreeing: int = 3
    within: float = 0.02
    warm_most: int = 12


@dataclass
class Session:
    """What a protocol measured: valid blocks by arm, round by round, and what was thrown away."""

    arms: Sequence[Arm]
    rounds: list[dict[str, Block]] = field(default_factory=list)
    discarded: list[Block] = field(default_factory=list)
    warm: dict[str, list[Block]] = field(default_factory=dict)

    def of(self, name: str) -> list[Block]:
        """Valid blocks of an arm."""
        return [each[name] for each in self.rounds]

    def ratio(self, a: str, b: str, *, engine: bool = False) -> LogRatio:
        """Rate of `a` over rate of `b`, paired by round; end to end, or of the engine alone."""

        def rates(name: str) -> list[float]:
            return [each.reports / (each.engine_seconds if engine else each.seconds) for each in self.of(name)]

        return log_ratio(rates(a), rates(b))


def warm_up(arm: Arm, rules: Rules, progress: Progress = silent) -> int:
    """Run blocks until the rate is stable; returns the reports a measured block shall have.

    The first blocks grow from one batch until one lasts `block_seconds` or the pool is used up.
    """
    reports = min(arm.batch, len(arm.requests))
    rates: list[float] = []
    made: list[Block] = []
    while len(made) < rules.warm_most:
        block = arm.block(reports)
        made.append(block)
        progress(f"warming {arm.name}", len(made), rules.warm_most)
        rates.append(block.reports / block.seconds)
        wanted = math.ceil(rules.block_seconds * rates[-1] / arm.batch) * arm.batch
        wanted = max(arm.batch, min(wanted, arm.most))
        if block.seconds < rules.block_seconds / 2 and wanted > reports:
            reports, rates = wanted, []
            continue
        last = rates[-rules.agreeing :]
        arm.spread = max(last) / min(last) - 1
        if len(last) == rules.agreeing and arm.spread <= rules.within:
            arm.stable = True
            return reports
    arm.stable = False
    return reports


SLOWEST = 10
"""Times `block_seconds` that a block of the slowest arm may last."""


def common_size(arms: Sequence[Arm], wanted: Sequence[int]) -> int:
    """Reports of every block: the same images for all arms, in whole batches of each where the pool allows it.

    Enough for the fastest arm to last its time, unless that keeps the slowest `SLOWEST` times as long.
    """
    pool = min(len(arm.requests) for arm in arms)
    unit = math.lcm(*(arm.batch for arm in arms))
    unit = unit if unit <= pool else min(pool, max(arm.batch for arm in arms))
    reports = min(max(wanted), SLOWEST * min(wanted))
    return min(math.ceil(reports / unit) * unit, pool // unit * unit)


def measure(arms: Sequence[Arm], rules: Rules, progress: Progress = silent, reports: int | None = None) -> Session:
    """Warm all arms and measure them in turns, in blocks of so many reports (what suits them by default).

    Raises:
        CxrbenchError: too many blocks were invalid; the reasons are named.
    """
    return together([arms], rules, progress, reports)[0]


def together(
    groups: Sequence[Sequence[Arm]], rules: Rules, progress: Progress = silent, reports: int | None = None
) -> list[Session]:
    """A session per group, round by round in turns and in blocks of one size, so that they can be multiplied.

    A machine drifts between one session and the next, and not for all configurations alike; a window has costs of its
    own (the first batch is read before anything is computed), so a rate depends on the size of its blocks. Neither
    shows in the interval of a session alone. An arm may be in several groups: it is warmed up once.

    Raises:
        CxrbenchError: as `measure`.
    """
    for arms in groups:
        if len({arm.name for arm in arms}) < len(arms):
            raise CxrbenchError("two arms have one name", fix="give configurations names of their own")
    every = list({id(arm): arm for arms in groups for arm in arms}.values())
    wanted = [warm_up(arm, rules, progress) for arm in every]
    size = reports or common_size(every, wanted)
    for arm in every:
        arm.block(size)  # what was made for another size is made for this one now
    sessions = [Session(arms) for arms in groups]
    number = turn = 0
    while left := [session for session in sessions if not _enough(session, rules)]:
        for session in left:
            _round(session, turn, size, number, rules)
            number += len(session.arms)
            progress("measuring " + ", ".join(arm.name for arm in session.arms), len(session.rounds), rules.blocks)
        turn += 1
    return sessions


def _round(session: Session, turn: int, reports: int, number: int, rules: Rules) -> None:
    """One block of every arm, of the same images."""
    found: dict[str, Block] = {}
    for place, arm in enumerate(session.arms if turn % 2 == 0 else session.arms[::-1]):
        arm.rewind(turn * reports)
        found[arm.name] = replace(arm.block(reports), order=number + place)
    bad = [block for block in found.values() if block.invalid]
    if not bad:
        session.rounds.append(found)
        return
    session.discarded += bad  # the round is one pair: without its partner the other block says nothing
    if len(session.discarded) > rules.blocks:
        raise _hopeless(session, rules)


def _enough(session: Session, rules: Rules) -> bool:
    if len(session.rounds) < rules.blocks:
        return False
    spent = [sum(block.seconds for block in session.of(arm.name)) for arm in session.arms]
    return min(spent) >= rules.seconds


def _hopeless(session: Session, rules: Rules) -> CxrbenchError:
    reasons: dict[str, int] = {}
    for block in session.discarded:
        for reason in block.invalid:
            line = f"{block.configuration}: {reason}"
            reasons[line] = reasons.get(line, 0) + 1
    told = "; ".join(f"{line} ({count} times)" for line, count in reasons.items())
    return CxrbenchError(
        f"{len(session.discarded)} blocks were invalid, with {len(session.rounds)} of {rules.blocks} measured: {told}",
        fix="remove the cause; nothing is published from invalid blocks",
        code=Exit.UNDECIDED,
    )
