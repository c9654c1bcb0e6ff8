"""Recall at 1, 5, 10 and 50 of image-text retrieval, both ways; ranks.py has the rule. Touches features by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from cxrbench.metrics.base import Context, FeatureRequest, Floats, Pairs, Statistics, Value, ratio
from cxrbench.metrics.ranks import RankMetric, told

CUTS = (1, 5, 10, 50)
WAYS = ("image_to_text", "text_to_image")


class Retrieval(RankMetric):
    """Statistics per sample: count, then for each way 1 if the sample looks that way and its hits at each k.

    A sample is a query of one way: a picture that looks for its text, or a text that looks for its picture. A way
    that no scored sample looks has no recall (0/0 is not a number). `mean` is the mean of the eight recalls.
    """

    name = "retrieval"
    values: ClassVar[Mapping[str, Value]] = {
        **{f"{way}_{k}": Value(True, (0.0, 1.0), primary=k == CUTS[0]) for way in WAYS for k in CUTS},
        "mean": Value(True, (0.0, 1.0)),
    }

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        looks, ranks = self.ranked(pairs, told(features), context)
        hits = (ranks[:, None] <= np.array(CUTS)).astype(np.float64)
        one = np.ones((len(pairs), 1))
        ways = [np.hstack([one, hits]) * mask[:, None] for mask in (looks, ~looks)]
        return Statistics.scored(np.hstack([one, *ways]))

    def value(self, sums: Floats) -> dict[str, Floats]:
        """Share of queries of each way whose right answer is among the first k."""
        width = 1 + len(CUTS)
        found: dict[str, Floats] = {}
        for number, way in enumerate(WAYS):
            part = sums[..., 1 + number * width : 1 + (number + 1) * width]
            found |= {f"{way}_{k}": ratio(part[..., 1 + i], part[..., 0]) for i, k in enumerate(CUTS)}
        return {**found, "mean": np.mean(list(found.values()), axis=0)}
