"""Random numbers of the phantom world: splitmix64 in integers, the same on every machine and numpy version.

Numpy's own generators promise no stable streams across versions, so the phantom has its own. Touches numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_M1 = 0xBF58476D1CE4E5B9
_M2 = 0x94D049BB133111EB


def mix(z: int) -> int:
    """The output function of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): 64 bits in, 64 well-mixed bits out.

    The first value that the reference C code (Vigna 2015) gives for the seed 1234567:

    >>> mix(1234567 + 0x9E3779B97F4A7C15)
    6457827717110365317
    """
    z = ((z ^ (z >> 30)) * _M1) & _MASK
    z = ((z ^ (z >> 27)) * _M2) & _MASK
    return z ^ (z >> 31)


def fold(*keys: int) -> int:
    """One 64-bit key from several integers; the order matters.

    >>> fold(1, 2) == fold(2, 1)
    False
    """
    state = _GOLDEN
    for key in keys:
        state = mix((state ^ (key & _MASK)) + _GOLDEN & _MASK)
    return state


class Stream:
    """A stream of random integers that depends on its keys alone: splitmix64 from the state `fold(*keys)`."""

    __slots__ = ("_state",)

    def __init__(self, *keys: int) -> None:
        self._state = fold(*keys)

    def bits(self) -> int:
        """64 random bits."""
        self._state = (self._state + _GOLDEN) & _MASK
        return mix(self._state)

    def below(self, n: int) -> int:
        """An integer in 0 .. n-1 (bias below n / 2**53)."""
        return ((self.bits() >> 11) * n) >> 53

    def between(self, low: int, high: int) -> int:
        """An integer in low .. high, both included."""
        return low + self.below(high - low + 1)

    def around(self, centre: int, spread: int) -> int:
        """A triangular integer in centre-spread .. centre+spread, most often near the centre."""
        return centre - spread + self.below(spread + 1) + self.below(spread + 1)

    def chance(self, percent: int) -> bool:
        """True in `percent` of 100 cases."""
        return self.below(100) < percent

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, each as likely."""
        return items[self.below(len(items))]

    def weighted(self, items: Mapping[T, int]) -> T:
        """One of the items, as likely as its integer weight."""
        rest = self.below(sum(items.values()))
        for item, weight in items.items():
            rest -= weight
            if rest < 0:
                return item
        raise AssertionError("weights changed while drawing")

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in random order (Fisher-Yates)."""
        out = list(items)
        for i in range(len(out) - 1, 0, -1):
            j = self.below(i + 1)
            out[i], out[j] = out[j], out[i]
        return out


def random_bytes(key: int, count: int) -> NDArray[np.uint8]:
    """`count` random bytes of the counter stream `key`: byte order fixed, vectorised, integers only."""
    counter = np.arange(1, (count + 7) // 8 + 1, dtype=np.uint64)
    z = counter * np.uint64(_GOLDEN) + np.uint64(key & _MASK)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_M1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_M2)
    z ^= z >> np.uint64(31)
    return z.astype("<u8").view(np.uint8)[:count]
