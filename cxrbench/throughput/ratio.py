"""Ratios of speeds from paired blocks, and latency percentiles with intervals. Standard library only.

d_i = log(rate_A,i / rate_B,i) for the i-th pair of blocks; the ratio is exp(mean d), its interval exp(mean d +- t * s /
sqrt(m)) with Student's t of m - 1 degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from cxrbench.errors import CxrbenchError

LEVEL = 0.95
TELLS = 0.12
"""Width of an interval over its ratio that A against A stays below; a wider one that holds 1 shows nothing."""


@dataclass(frozen=True, slots=True)
class LogRatio:
    """The logarithm of a ratio, its standard error and degrees of freedom; `pairs` it rests on."""

    log: float
    error: float
    freedom: float
    pairs: int

    @property
    def value(self) -> float:
        """The ratio."""
        return math.exp(self.log)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Bounds of the ratio."""
        reach = t_quantile(0.5 + level / 2, self.freedom) * self.error
        return math.exp(self.log - reach), math.exp(self.log + reach)

    def width(self) -> float:
        """Width of the interval over the ratio."""
        low, high = self.interval()
        return (high - low) / self.value

    def has_one(self) -> bool:
        """Whether the interval contains 1."""
        low, high = self.interval()
        return low <= 1 <= high


def closes(entry: Mapping[str, Any]) -> str:
    """Whether the steps of a chain explain its end-to-end ratio, in words; `entry` is that quotient as JSON has it.

    >>> closes({"ratio": 0.99, "ci": [0.95, 1.04]}), closes({"ratio": 1.2, "ci": [1.1, 1.3]})
    ('yes', 'NO')
    >>> closes({"ratio": 1.5, "ci": [0.5, 4.5]})
    'decides nothing: 267 % wide'
    """
    low, high = entry["ci"]
    width = (high - low) / entry["ratio"]
    if not low <= 1 <= high:
        return "NO"
    return "yes" if width <= TELLS else f"decides nothing: {100 * width:.0f} % wide"


def log_ratio(a: Sequence[float], b: Sequence[float]) -> LogRatio:
    """Rates of A over rates of B, pair by pair.

    Raises:
        CxrbenchError: fewer than two pairs.
    """
    if len(a) != len(b) or len(a) < 2:
        raise CxrbenchError(f"{min(len(a), len(b))} valid pairs of blocks carry no interval", fix="--blocks 8, or more")
    each = [math.log(x / y) for x, y in zip(a, b, strict=True)]
    return LogRatio(fmean(each), stdev(each) / math.sqrt(len(each)), len(each) - 1, len(each))


def product(steps: Sequence[LogRatio]) -> LogRatio:
    """Product of independent ratios; degrees of freedom by Welch and Satterthwaite."""
    return combine(steps, [1.0] * len(steps))


def quotient(a: LogRatio, b: LogRatio) -> LogRatio:
    """One ratio over another, measured in other blocks."""
    return combine((a, b), (1.0, -1.0))


def combine(parts: Sequence[LogRatio], signs: Sequence[float]) -> LogRatio:
    """Sum of logarithms with signs; standard errors add in squares."""
    variances = [part.error**2 for part in parts]
    total = sum(variances)
    spread = sum(v**2 / part.freedom for v, part in zip(variances, parts, strict=True))
    freedom = total**2 / spread if spread > 0 else sum(part.freedom for part in parts)
    log = sum(sign * part.log for sign, part in zip(signs, parts, strict=True))
    return LogRatio(log, math.sqrt(total), freedom, min(part.pairs for part in parts))


def t_quantile(share: float, freedom: float) -> float:
    """Quantile of Student's t, by bisection of its distribution (Abramowitz and Stegun 26.7.1 by the incomplete beta).

    >>> round(t_quantile(0.975, 7), 4), round(t_quantile(0.975, 1), 3)
    (2.3646, 12.706)
    """
    low, high = 0.0, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        tail = 0.5 * _beta(freedom / 2, 0.5, freedom / (freedom + middle**2))
        low, high = (middle, high) if 1 - tail < share else (low, middle)
    return high


def _beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (modified Lentz)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    c, d, made = 1.0, 1.0 / (1 - (a + b) * x / (a + 1)), 1.0 / (1 - (a + b) * x / (a + 1))
    for step in range(1, 500):
        for term in (
            step * (b - step) * x / ((a + 2 * step - 1) * (a + 2 * step)),
            -(a + step) * (a + b + step) * x / ((a + 2 * step) * (a + 2 * step + 1)),
        ):
            d, c = 1 / (1 + term * d), 1 + term / c
            made *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * made


@dataclass(frozen=True, slots=True)
class Percentile:
    """A percentile of `n` values with the bounds two order statistics give; `level` is their exact coverage."""

    share: float
    value: float
    low: float
    high: float
    level: float
    n: int


def percentile(values: Sequence[float], share: float, level: float = LEVEL) -> Percentile | None:
    """A percentile with an order-statistic interval, or None where n is too small for one.

    P(x_(l) <= q < x_(u)) = sum of binomial(n, share) from l to u - 1, whatever the distribution; l and u are the
    narrowest symmetric choice by tails of (1 - level) / 2.

    >>> percentile([1.0, 2.0, 3.0], 0.5) is None
    True
    """
    ordered, n = sorted(values), len(values)
    tail = (1 - level) / 2
    whole = math.lgamma(n + 1)  # in logarithms: from 1,030 values on, the numbers themselves are too large for a float
    masses = [
        math.exp(
            whole - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(share) + (n - k) * math.log1p(-share)
        )
        for k in range(n + 1)
    ]
    below, cumulated = [], 0.0
    for mass in masses:
        cumulated += mass
        below.append(cumulated)
    lows = [k for k in range(1, n + 1) if below[k - 1] <= tail]
    highs = [k for k in range(1, n + 1) if 1 - below[k - 1] <= tail]
    if not lows or not highs:
        return None
    low, high = lows[-1], highs[0]
    place = share * (n - 1)
    under = ordered[int(place)]
    value = under + (place - int(place)) * (ordered[min(int(place) + 1, n - 1)] - under)
    return Percentile(share, value, ordered[low - 1], ordered[high - 1], below[high - 1] - below[low - 1], n)
