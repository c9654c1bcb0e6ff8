"""Median rank of the right answer in image-text retrieval, both ways; ranks.py has the rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from cxrbench.metrics.base import Context, FeatureRequest, Floats, Pairs, Statistics, Value
from cxrbench.metrics.ranks import RankMetric, told
from cxrbench.metrics.retrieval import WAYS


class MedianRank(RankMetric):
    """Statistics per sample: count, then for each way 1 if the sample looks that way, and its rank.

    A median is no function of sums: it is taken over the weighted samples, as numpy takes it over as many copies of
    each; a way without a sample has none.
    """

    name = "median-rank"
    values: ClassVar[Mapping[str, Value]] = {way: Value(False, (1.0, None), primary=True) for way in WAYS}
    additive = False

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        looks, ranks = self.ranked(pairs, told(features), context)
        columns = [np.ones(len(pairs)), looks, looks * ranks, ~looks, ~looks * ranks]
        return Statistics.scored(np.column_stack(columns).astype(np.float64))

    def value_weighted(self, rows: Floats, weights: Floats) -> dict[str, Floats]:
        """The weighted median of each way: rows (n, 5), weights (b, n) -> (b,)."""
        return {way: weighted_median(rows[:, 2 + 2 * i], weights * rows[:, 1 + 2 * i]) for i, way in enumerate(WAYS)}


def weighted_median(values: Floats, weights: Floats) -> Floats:
    """The median of n values of which each counts as often as its weight says: (n,), (b, n) -> (b,).

    The mean of the two middle copies where their number is even; not a number where all weights are 0.

    >>> weighted_median(np.array([1.0, 5.0, 9.0]), np.array([[1.0, 1.0, 1.0], [3.0, 1.0, 0.0], [1.0, 0.0, 1.0]]))
    array([5., 1., 5.])
    """
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[:, order], axis=1)
    half = reached[:, -1:] / 2
    low = values[order][np.argmax(reached >= half, axis=1)]
    high = values[order][np.minimum(np.argmax(reached > half, axis=1), len(values) - 1)]
    return np.where(half[:, 0] > 0, (low + high) / 2, np.nan)
