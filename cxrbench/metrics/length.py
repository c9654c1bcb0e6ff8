"""How long predictions are beside their references: words, characters, and the verbosity ratio.

No quality: a number to read every other metric by. Words stand between whitespace, texts are taken as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from cxrbench.metrics.base import Context, FeatureRequest, Floats, Metric, Pairs, Statistics, Value, ratio


class Length(Metric):
    """Statistics per sample: count, words and characters of prediction and reference.

    Means are per report; `ratio` is all words predicted over all words referred to. Nothing to divide by: not a number.
    """

    name = "length"
    presets: ClassVar[Mapping[str, str]] = {"words": "words between whitespace, characters as they are"}
    default_preset = "words"
    values: ClassVar[Mapping[str, Value]] = {
        "words": Value(None, (0.0, None), "words"),
        "reference_words": Value(None, (0.0, None), "words"),
        "chars": Value(None, (0.0, None), "characters"),
        "reference_chars": Value(None, (0.0, None), "characters"),
        "ratio": Value(None, (0.0, None), primary=True),
    }

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        rows = np.ones((len(pairs), 5))
        for column, texts in ((1, pairs.predictions), (2, pairs.references)):
            rows[:, column] = [len(text.split()) for text in texts]
            rows[:, column + 2] = [len(text) for text in texts]
        return Statistics.scored(rows)

    def value(self, sums: Floats) -> dict[str, Floats]:
        count, words, reference = sums[..., 0], sums[..., 1], sums[..., 2]
        means = {name: ratio(sums[..., at], count) for at, name in enumerate(list(self.values)[:4], start=1)}
        return {**means, "ratio": ratio(words, reference)}
