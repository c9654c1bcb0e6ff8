"""What a verification found: published figures beside ours, a package's numbers beside ours, and what follows from it.

Touches the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ENOUGH = 10
"""Distinct pairs of unequal texts that a package must have done before its agreement is remembered as a pass."""


@dataclass(frozen=True, slots=True)
class Check:
    """A published figure and what was measured; both as lists, one number per pair or one for the corpus."""

    case: str
    metric: str
    value: str
    evidence: str
    expected: tuple[float, ...]
    measured: tuple[float, ...]
    tolerance: float
    note: str = ""

    @property
    def differences(self) -> tuple[float, ...]:
        """Each absolute difference."""
        return tuple(abs(a - b) for a, b in zip(self.expected, self.measured, strict=True))

    @property
    def difference(self) -> float:
        """The largest absolute difference; not a number where one of them is not."""
        return math.nan if any(map(math.isnan, self.differences)) else max(self.differences, default=math.nan)

    @property
    def passed(self) -> bool:
        """Whether there are values and all are near; one that is not a number never is."""
        return bool(self.differences) and all(each <= self.tolerance for each in self.differences)


@dataclass(frozen=True, slots=True)
class Line:
    """One thing a package and cxrbench both say: of n pairs, texts or corpora, how many differ, by how much at most.

    `largest` is None where what is compared are no numbers. `varied`: the package did not say the same of all of them;
    None where there is one only, of a corpus.
    """

    what: str
    n: int
    differ: int
    largest: float | None
    tolerance: float
    varied: bool | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run of the reference package. `left_out` pairs it could not do, for the reason `why`.

    `distinct`: pairs of unequal texts among those it was given, each counted once. `hint`: what to know of the package
    where it differs.
    """

    package: str
    versions: Mapping[str, str]
    python: str
    texts: str
    n: int
    left_out: int
    why: str
    lines: tuple[Line, ...]
    distinct: int
    hint: str = ""

    @property
    def said(self) -> bool:
        """Whether anything was compared at all."""
        return bool(self.lines) and all(line.n > 0 for line in self.lines)

    @property
    def passed(self) -> bool:
        return self.said and all(line.differ == 0 for line in self.lines)

    @property
    def telling(self) -> bool:
        """Whether being equal says something: enough pairs, and answers that are not all the same."""
        return self.distinct >= ENOUGH and all(line.varied is not False for line in self.lines)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came out for one metric. `not_run`: case -> why. `remembered`: whether signatures will tell of it.

    `device`: the kind that cxrbench read the texts on, None where there is nothing to read them with.
    """

    metric: str
    signature: str
    weights: Mapping[str, str]
    checks: tuple[Check, ...]
    not_run: Mapping[str, str]
    comparison: Comparison | None
    remembered: bool
    machine: Mapping[str, str]
    device: str | None = None

    @property
    def outcome(self) -> str:
        """`passed`, `failed`, or `not verified` where nothing could be checked or the package said nothing."""
        return outcome_of(self.checks, self.comparison)


def outcome_of(checks: Sequence[Check], comparison: Comparison | None) -> str:
    """`Verdict.outcome`, before there is a verdict."""
    found = [check.passed for check in checks]
    if comparison is not None:
        found += [line.differ == 0 for line in comparison.lines]
    if not all(found):
        return "failed"
    silent = comparison is not None and not comparison.said
    return "passed" if found and not silent else "not verified"
