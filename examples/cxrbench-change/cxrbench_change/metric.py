"""F1 over words of change: does the report say what is new, better, worse or the same as before?

After the idea of Libra's temporal F1 (Zhang et al., 2024); the words are this package's own: it is another number.
"""

import re

import numpy as np

from cxrbench.metrics.base import Metric, Statistics, Value, ratio

KINDS = {
    "new": "new newly developed development",
    "worse": "worse worsened worsening increased increasing larger progressed progression",
    "better": "better improved improving improvement decreased decreasing smaller resolved resolving",
    "same": "unchanged stable similar persistent constant again",
}
KIND_OF = {word: kind for kind, words in KINDS.items() for word in words.split()}


def kinds(text):
    """The kinds of change a text speaks of."""
    return {KIND_OF[word] for word in re.findall(r"[a-z]+", text.lower()) if word in KIND_OF}


class ChangeF1(Metric):
    """Micro F1 over all reports; no word of change on either side anywhere: not a number."""

    name = "change-f1"
    presets = {"kinds": "four kinds of change, each counted once per report"}
    default_preset = "kinds"
    values = {
        "f1": Value(True, (0.0, 1.0), primary=True),
        "precision": Value(True, (0.0, 1.0)),
        "recall": Value(True, (0.0, 1.0)),
    }
    citation = ("Zhang et al., Libra: Leveraging Temporal Images for Biomedical Radiology Analysis, 2024.",)

    def statistics(self, pairs, features, context):
        sides = [(kinds(said), kinds(meant)) for said, meant in zip(pairs.predictions, pairs.references, strict=True)]
        return Statistics.scored(np.array([[1, len(a & b), len(a), len(b)] for a, b in sides], float).reshape(-1, 4))

    def value(self, sums):
        both, said, meant = sums[..., 1], sums[..., 2], sums[..., 3]
        return {"f1": ratio(2 * both, said + meant), "precision": ratio(both, said), "recall": ratio(both, meant)}
