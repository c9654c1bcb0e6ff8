"""How many different reports a system writes, beside how many different references there are.

A published IU-Xray system writes 4 distinct reports for 590 studies and still reaches BLEU-4 0.175; n-gram metrics do
not show that, this one does. Two reports are the same when they differ in nothing but whitespace.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from cxrbench.metrics.base import Context, FeatureRequest, Floats, Metric, Pairs, Statistics, Value, ratio

BITS = 52
"""Of the hash of a text: what a float64 holds exactly. Among 300,000 texts two are taken for one with chance 1e-5."""


class Distinct(Metric):
    """Statistics per sample: count, hash of the prediction, hash of the reference.

    A share of distinct texts is no function of sums (and a resample, which repeats samples, always has fewer of them),
    so no interval is given. `distinct` and `reference_distinct` are shares of the samples; no samples: not a number.
    """

    name = "distinct"
    presets: ClassVar[Mapping[str, str]] = {"exact": "equal but for whitespace"}
    default_preset = "exact"
    additive = False
    values: ClassVar[Mapping[str, Value]] = {
        "distinct": Value(None, (0.0, 1.0), primary=True, interval=False),
        "reference_distinct": Value(None, (0.0, 1.0), interval=False),
        "distinct_count": Value(None, (0.0, None), "reports", interval=False),
        "reference_distinct_count": Value(None, (0.0, None), "reports", interval=False),
    }

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        columns = [np.ones(len(pairs)), hash_texts(pairs.predictions), hash_texts(pairs.references)]
        return Statistics.scored(np.stack(columns, axis=1))

    def value_weighted(self, rows: Floats, weights: Floats) -> dict[str, Floats]:
        present = (weights > 0) & (rows[:, 0] > 0)
        size = weights @ rows[:, 0]
        counts = [_distinct(rows[:, column], present) for column in (1, 2)]
        shares = [ratio(count, size) for count in counts]
        return dict(zip(self.values, [*shares, *counts], strict=True))


def hash_texts(texts: Sequence[str]) -> Floats:
    """Return a stable hash per text as an exact integer in float64, whitespace collapsed."""
    hashed: dict[str, float] = {}
    for text in texts:
        if text not in hashed:
            digest = hashlib.blake2b(" ".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=8).digest()
            hashed[text] = float(int.from_bytes(digest, "little") >> (64 - BITS))
    return np.array([hashed[text] for text in texts], np.float64)


def _distinct(hashes: Floats, present: np.ndarray[Any, np.dtype[np.bool_]]) -> Floats:
    """Number of different hashes (n,) among those present (b, n), (b,)."""
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.diff(hashes[order], prepend=np.nan) != 0)
    if len(starts) == 0:
        return np.zeros(len(present))
    seen = np.logical_or.reduceat(present[:, order], starts, axis=1)
    return np.asarray(seen.sum(axis=1), np.float64)
