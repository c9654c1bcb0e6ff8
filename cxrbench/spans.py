"""Which rows of whole numbers are combinations of others: exactly, from their products with each other. numpy only.

A sum of multiples of rows is zero where the same sum of their products with all rows is, and of these there are few,
however long the rows are. All is reckoned modulo a large prime: nothing is rounded, so nobody has to say which small
number stands for zero. A number that is not zero is taken for zero where the prime divides it: by chance, one in two
thousand million.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_PRIME = 2**31 - 1
"""The largest of which a product of two remainders fits 64 bits, with its sign and a sum."""

_SLICE = 1 << 13
"""Places multiplied at once: counts of so many are exact in 32-bit floats, which are the fastest to multiply."""


def products(rows: NDArray[np.bool_]) -> Ints:
    """(m, m) numbers of places that two of m rows share, of (m, n)."""
    out = np.zeros((len(rows), len(rows)), np.int64)
    for start in range(0, rows.shape[1], _SLICE):
        part = rows[:, start : start + _SLICE].astype(np.float32)
        out += (part @ part.T).astype(np.int64)
    return out


@dataclass(frozen=True, slots=True)
class Span:
    """The combinations of some of m rows.

    It is asked about a row minus another one, as a pair of their numbers.
    """

    reduced: Ints
    """(r, m) products of rows, by sums of multiples of each other: the first are those that `pivots` are for."""
    pivots: list[int]
    """Which of the k rows it is made of, by place, give all others of these."""
    loops: Ints
    """(k, d): a basis of the combinations that give zero."""

    @classmethod
    def of(cls, shared: Ints, made_of: Sequence[int]) -> Span:
        """Of rows by number; `shared` are the `products` of all rows, or what another span of these has `reduced`."""
        k = len(made_of)
        order = np.array([*made_of, *np.setdiff1d(np.arange(shared.shape[1]), made_of)])
        found, pivots = _reduced(shared[:, order], k)
        free = np.setdiff1d(np.arange(k), pivots)
        loops = np.zeros((k, len(free)), np.int64)
        loops[pivots] = -found[: len(pivots), free] % _PRIME
        loops[free, np.arange(len(free))] = 1
        return cls(found[found.any(axis=1)][:, np.argsort(order)], pivots, loops)

    def gives(self, pairs: Ints) -> NDArray[np.bool_]:
        """Which of (t, 2) pairs it gives."""
        rest = self.reduced[len(self.pivots) :]
        given: NDArray[np.bool_] = (rest[:, pairs[:, 0]] == rest[:, pairs[:, 1]]).all(axis=0)
        return given

    def parts(self, pair: Ints) -> NDArray[np.intp]:
        """Which of its rows, by place, take part in the combination of least weights that gives a pair."""
        weights = self._weights(pair)
        turned = self.loops.T.copy()
        solved, pivots = _reduced(np.hstack([_times(turned, self.loops), _times(turned, weights)]), len(turned))
        surplus = np.zeros((len(turned), 1), np.int64)
        surplus[pivots] = solved[: len(pivots), -1:]
        return np.flatnonzero((weights - _times(self.loops, surplus)) % _PRIME)

    def gives_without(self, pair: Ints, places: Sequence[int]) -> bool:
        """Whether it still gives a pair that it gives, without those of its rows that are at some places."""
        found, pivots = _reduced(np.hstack([self.loops, self._weights(pair)])[places], self.loops.shape[1])
        return not found[len(pivots) :, -1].any()

    def _weights(self, pair: Ints) -> Ints:
        rank = len(self.pivots)
        weights = np.zeros((len(self.loops), 1), np.int64)
        weights[self.pivots] = (self.reduced[:rank, pair[:1]] - self.reduced[:rank, pair[1:]]) % _PRIME
        return weights


def _reduced(matrix: Ints, width: int) -> tuple[Ints, list[int]]:
    """Reduced echelon form of a matrix by its first columns, as many as `width`, and which of them have a pivot."""
    out = matrix % _PRIME
    pivots: list[int] = []
    column = 0
    while (row := len(pivots)) < len(out):
        ahead = out[row:, column:width].any(axis=0)
        if not ahead.any():
            break
        column += int(np.argmax(ahead))
        first = row + int(np.argmax(out[row:, column] != 0))
        out[[row, first]] = out[[first, row]]
        out[row] = out[row] * pow(int(out[row, column]), -1, _PRIME) % _PRIME
        others = np.flatnonzero(out[:, column])
        others = others[others != row]
        out[others] = (out[others] - out[others, column, None] * out[row]) % _PRIME
        pivots.append(column)
        column += 1
    return out, pivots


def _times(one: Ints, other: Ints) -> Ints:
    """A product of matrices of remainders, of two halves so that sums of so many fit."""
    high, low = other >> 16, other & 0xFFFF
    return ((one @ high % _PRIME << 16) + one @ low) % _PRIME
