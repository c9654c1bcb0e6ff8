"""Annotators for trials of scoring with many workers: they sleep, count words and write down what they read.

`slow-counts` reads texts; `slow-doubled` needs what `slow-counts` says of every text first, as vectors of entities do.
The environment says how long a block takes (TRIAL_SLEEP, seconds) and where it is written down (TRIAL_LOG).
"""

from __future__ import annotations

import os
import time

import numpy as np

from cxrbench.features.base import ALONE, FeatureRequest, Pairs, Sides, TextFeature
from cxrbench.features.store import row_key
from cxrbench.metrics.base import Metric, Statistics, Value

POINTS = """\
[cxrbench.features]
slow-counts = tests.workers.reader:Counts
slow-doubled = tests.workers.reader:Doubled
[cxrbench.metrics]
slow = tests.workers.reader:Slow
"""


class Counts(TextFeature):
    """The number of words of a text, two texts at a time."""

    name = "slow-counts"
    block = 2

    def scope(self, settings, resources):
        return f"{self.name}|1"

    def annotate(self, texts, settings, resources):
        time.sleep(float(os.environ.get("TRIAL_SLEEP", "0")))
        if "TRIAL_LOG" in os.environ:
            with open(os.environ["TRIAL_LOG"], "ab", buffering=0) as log:
                scope = self.scope(settings, resources)
                about = f"{os.getpid()} {time.monotonic()} {self.name}"
                log.write("".join(f"{row_key(scope, text).hex()} {about}\n" for text in texts).encode())
        return [self.number(text) for text in texts]

    def number(self, text):
        return len(text.split())

    def pack(self, annotation):
        return str(annotation).encode()

    def unpack(self, stored):
        return int(stored)


class Doubled(Counts):
    """Twice the number of words; what is annotated and kept are the numbers, once each."""

    name = "slow-doubled"

    def number(self, text):
        return 2 * int(text)

    def extract(self, pairs, settings, resources=ALONE):
        said = Counts().extract(pairs, {}, resources)
        given = [str(number) for number in (*said.predictions, *said.references)]
        once = list(dict.fromkeys(given))
        made = super().extract(Pairs(once, once, ()), {"of": "predictions"}, resources).predictions
        twice = dict(zip(once, made, strict=True))
        return Sides([twice[str(n)] for n in said.predictions], [twice[str(n)] for n in said.references])


class Slow(Metric):
    """Words of prediction and reference, as the annotators counted them."""

    name = "slow"
    presets = {"plain": "as it is"}
    default_preset = "plain"
    values = {"words": Value(None, (0, None), primary=True), "doubled": Value(None, (0, None))}

    def needs(self, context):
        return (FeatureRequest("slow-counts"), FeatureRequest("slow-doubled"))

    def statistics(self, pairs, features, context):
        counts, doubled = (features[each] for each in self.needs(context))
        rows = [(1, a + b, c + d) for a, b, c, d in zip(*_sides(counts), *_sides(doubled), strict=True)]
        return Statistics.scored(np.array(rows, np.float64).reshape(len(pairs), 3))

    def value(self, sums):
        return {"words": sums[..., 1] / sums[..., 0], "doubled": sums[..., 2] / sums[..., 0]}


def _sides(sides):
    return sides.predictions, sides.references
