"""How much longer one run writes than another over the same samples: words over words. numpy and stats only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrbench.stats import Floats, Table, Values

LENGTH_KEY = "length:words"
WORDS = 1
"""Column of `length:words` that holds the words of the prediction."""


@dataclass(frozen=True, slots=True)
class _WordRatio:
    """Rows are count, words of the baseline, words of the candidate."""

    @property
    def additive(self) -> bool:
        return True

    def value(self, sums: Floats) -> Values:
        return {"ratio": sums[..., 2] / sums[..., 1]}

    def value_weighted(self, rows: Floats, weights: Floats) -> Values:
        return self.value(weights @ rows)


def length_ratio(baseline: Floats, candidate: Floats) -> Table:
    """The table whose `ratio` is words over words, from rows of `length:words` over the same samples, (n, 5) each.

    >>> from cxrbench.stats import point
    >>> rows = np.array([[1.0, 10, 8, 50, 40], [1.0, 30, 8, 150, 40]])
    >>> point(length_ratio(rows, 2 * rows))
    {'ratio': 2.0}
    """
    both = ((baseline[:, 0] > 0) & (candidate[:, 0] > 0)).astype(np.float64)
    return Table(np.stack([both, both * baseline[:, WORDS], both * candidate[:, WORDS]], axis=1), _WordRatio())
