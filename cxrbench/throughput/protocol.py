"""The protocol: warm until stable, then interleaved blocks; invalid ones are discarded, counted and repeated.

Two arms give ABBA ABBA..., several give A B C C B A...: what drifts hits all alike. Rounds come in both orders equally
often; one that is made again keeps its order. All arms of a session answer the same images, in blocks of the same size.
No torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

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
    blocks (then the arm is marked unstable). Then `blocks` valid rounds (one more where that is odd and there are
    several arms) and `seconds` of them at least; of every round's blocks at most `blocks` may be invalid in all.

    Raises:
        CxrbenchError: fewer blocks to warm up than have to agree.
    """

    blocks: int = 10
    seconds: float = 60.0
    block_seconds: float = 2.0
    agreeing: int = 3
    within: float = 0.02
    warm_most: int = 12

    def __post_init__(self) -> None:
        if self.agreeing > self.warm_most:
            raise CxrbenchError(
                f"{self.agreeing} blocks cannot agree among {self.warm_most}: warm_most is below agreeing",
                where="rules",
                fix=f"warm_most: {2 * self.agreeing}",
            )


@dataclass
class Session:
    """What a protocol measured: valid blocks by arm, round by round, and what was thrown away, with the reasons."""

    arms: Sequence[Arm]
    rounds: list[dict[str, Block]] = field(default_factory=list)
    discarded: list[Block] = field(default_factory=list)

    @property
    def invalid(self) -> list[Block]:
        """Of the discarded blocks those that were invalid themselves."""
        return [block for block in self.discarded if block.invalid != PARTNER]

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

    The first blocks grow from one batch until one lasts about `block_seconds` or the pool is used up; a measured block
    lasts `block_seconds` at the last rate.
    """
    reports = wanted = min(arm.batch, len(arm.requests))
    rates: list[float] = []
    while len(rates) < rules.warm_most:  # of one size: those that were too short do not count
        block = arm.block(reports)
        progress(f"warming {arm.name}", len(rates) + 1, rules.warm_most)
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
            return wanted
    arm.stable = False
    return wanted


PARTNER = ("its partner in the round was invalid",)
"""Why a block is discarded that is valid itself: a round is one pair."""

SLOWEST = 10
"""Times `block_seconds` that a block of the slowest arm may last."""


class Sized(Protocol):
    """What the size of a block depends on."""

    @property
    def batch(self) -> int:
        """Reports of a batch."""

    @property
    def requests(self) -> Sequence[Any]:
        """The pool."""


def common_size(arms: Sequence[Sized], wanted: Sequence[int]) -> int:
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

    Of several groups a block leaves its caches and clocks to the next one, and in a chain the neighbours share an arm,
    which would find its own more often in one of its two sessions than in the other. So a batch that does not count
    comes before each block, and every other turn goes backwards.

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
        for session in left if turn % 2 == 0 else left[::-1]:
            _round(session, turn, size, number, rules, settle=len(groups) > 1)
            number += len(session.arms)
            progress(_told(sessions), *(sum(counts) for counts in zip(*_counts(sessions, rules), strict=True)))
        turn += 1
    return sessions


def _round(session: Session, turn: int, reports: int, number: int, rules: Rules, *, settle: bool) -> None:
    """One block of every arm, of the same images; `settle`, or an arm's own: after a batch that does not count."""
    found: dict[str, Block] = {}
    forth = len(session.rounds) % 2 == 0  # not by the turn: a round that is made again keeps its order
    for place, arm in enumerate(session.arms if forth else session.arms[::-1]):
        before = min(arm.batch, reports) if settle or arm.settle else 0
        arm.rewind(turn * reports - before)
        if before:
            arm.block(before)
        found[arm.name] = replace(arm.block(reports), order=number + place)
    if not any(block.invalid for block in found.values()):
        session.rounds.append(found)
        return
    session.discarded += [block if block.invalid else replace(block, invalid=PARTNER) for block in found.values()]
    if len(session.invalid) > rules.blocks:
        raise _hopeless(session, rules)


def _enough(session: Session, rules: Rules) -> bool:
    return len(session.rounds) >= _all_rounds(session, rules)


def _told(sessions: Sequence[Session]) -> str:
    names = ", ".join(arm.name for arm in sessions[0].arms)
    return f"measuring {names}" if len(sessions) == 1 else f"measuring {len(sessions)} pairs in turns"


def _counts(sessions: Sequence[Session], rules: Rules) -> list[tuple[int, int]]:
    return [(len(session.rounds), _all_rounds(session, rules)) for session in sessions]


def _all_rounds(session: Session, rules: Rules) -> int:
    """Rounds that a session will have, as far as its blocks tell by now: both orders equally often."""
    done = len(session.rounds)
    spent = min(sum(block.seconds for block in session.of(arm.name)) for arm in session.arms)
    wanted = rules.blocks
    if spent < rules.seconds and done:
        wanted = max(wanted, done + 1, math.ceil(done * rules.seconds / spent))
    wanted = max(wanted, done)
    return wanted + wanted % 2 if len(session.arms) > 1 else wanted


def _hopeless(session: Session, rules: Rules) -> CxrbenchError:
    reasons: dict[str, int] = {}
    for block in session.invalid:
        for reason in block.invalid:
            line = f"{block.configuration}: {reason}"
            reasons[line] = reasons.get(line, 0) + 1
    told = "; ".join(f"{line} ({count} times)" for line, count in reasons.items())
    return CxrbenchError(
        f"{len(session.invalid)} blocks were invalid, with {len(session.rounds)} of {rules.blocks} measured: {told}",
        fix="remove the cause; nothing is published from invalid blocks",
        code=Exit.UNDECIDED,
    )
