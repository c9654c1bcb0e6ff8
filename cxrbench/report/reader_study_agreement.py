"""Agreement of readers: Krippendorff's alpha and Cohen's weighted kappa. Touches numpy only.

Ratings are (readers, units) with NaN where a reader did not rate a unit.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Level = Literal["nominal", "ordinal", "interval"]


def coincidences(ratings: Floats) -> tuple[Floats, Floats]:
    """The values (v,) and Krippendorff's coincidence matrix (v, v): every pair of ratings of a unit by two readers.

    A unit with m ratings gives m (m - 1) pairs, each with weight 1 / (m - 1); units with one rating give none.
    """
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = np.stack([(ratings == value).sum(axis=0) for value in values], axis=1) if len(values) else np.zeros((0, 0))
    total = counts.sum(axis=1) if len(values) else np.zeros(0)
    paired = counts[total > 1].astype(np.float64)
    weight = 1 / (paired.sum(axis=1) - 1)
    matrix = np.einsum("u,uc,uk->ck", weight, paired, paired) - np.diag((paired * weight[:, None]).sum(axis=0))
    return values.astype(np.float64), matrix


def distances(values: Floats, frequencies: Floats, level: Level) -> Floats:
    """Squared differences (v, v) of the values at a level of measurement (Krippendorff 2011, section E)."""
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    if level == "interval":
        return np.asarray((values[:, None] - values[None, :]) ** 2)
    below = np.cumsum(frequencies) - frequencies / 2  # the middle of each value's ranks
    return np.asarray((below[:, None] - below[None, :]) ** 2)


def krippendorff_alpha(ratings: Floats, level: Level = "ordinal") -> float:
    """1 - observed / expected disagreement; NaN where no unit has two ratings, or all ratings are one value.

    Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011.
    """
    values, matrix = coincidences(ratings)
    frequencies = matrix.sum(axis=1)
    n = float(frequencies.sum())
    if n < 2:
        return float("nan")
    apart = distances(values, frequencies, level)
    expected = float((np.outer(frequencies, frequencies) * apart).sum()) / (n - 1)
    if expected == 0:
        return float("nan")
    return 1 - float((matrix * apart).sum()) / expected


def weighted_kappa(one: Floats, two: Floats, categories: Floats) -> float:
    """Cohen's kappa of two readers with quadratic weights; NaN where it is 0/0 or nothing was rated by both.

    Cohen, Weighted kappa, Psychological Bulletin 1968. Categories are numbered in their order, used or not, and the
    weight of a disagreement is the square of how many places lie between them.
    """
    both = ~np.isnan(one) & ~np.isnan(two)
    places = np.searchsorted(categories, one[both]), np.searchsorted(categories, two[both])
    size = len(categories)
    table = np.zeros((size, size))
    np.add.at(table, places, 1.0)
    weights = (np.arange(size)[:, None] - np.arange(size)[None, :]) ** 2
    n = table.sum()
    expected = float((np.outer(table.sum(axis=1), table.sum(axis=0)) * weights).sum())
    if expected == 0:
        return float("nan")
    return 1 - float(n * (table * weights).sum()) / expected
