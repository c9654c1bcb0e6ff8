"""What a benchmark asks for beside what it found: a line of its table."""

from __future__ import annotations

from typing import NamedTuple

ABOVE_ZERO, NO_LIMIT = 1e-9, 1e9


class Row(NamedTuple):
    """A promise and what was found."""

    what: str
    low: float
    high: float
    found: float

    @property
    def kept(self) -> bool:
        return self.low <= self.found <= self.high

    def __str__(self) -> str:
        low = "> 0" if self.low == ABOVE_ZERO else f">= {self.low:g}" if self.low > 0 else ""
        high = f"<= {self.high:g}" if self.high < NO_LIMIT else ""
        required = " ".join(part for part in (low, high) if part)
        return f"  {self.what:<64}{required:>18}{self.found:>10.3f}  {'' if self.kept else 'MISSED'}"


def at_least(what: str, low: float, found: float) -> Row:
    return Row(what, low, NO_LIMIT, found)


def at_most(what: str, high: float, found: float) -> Row:
    return Row(what, 0, high, found)
