"""ROUGE-L (Lin, 2004): the mean over samples of an F-measure on the longest common subsequence of words.

Two families share the name. COCO's (pycocoevalcap) weighs recall with beta 1.2 and splits at every single space, so
doubled spaces make empty words that can match. The package rouge_score, and RadEval on top of it, takes the plain F1 of
lower-case alphanumeric words, and also gives ROUGE-1 and ROUGE-2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cxrbench.metrics import conventions, tokens
from cxrbench.metrics.base import Context, Corpus, FeatureRequest, Floats, Metric, Pairs, Statistics, Value, ratio

Numbers = NDArray[np.float64] | NDArray[np.int64]

BETA = 1.2
"""Weight of recall in COCO's ROUGE-L."""

CONVENTION = {
    "raw": "raw",
    "coco": "coco",
    "r2gen": "r2gen",
    "r2gen-mimic": "r2gen-mimic",
    "rouge-score": "rouge-score",
    "radeval": "rouge-score-porter",
}
PLAIN = ("rouge-score", "radeval")
"""Presets with the plain F1, which also publish ROUGE-1 and ROUGE-2."""


class RougeL(Metric):
    """Statistics per sample: count and one F per value. No samples: not a number. No words: 0 (rouge_score)."""

    name = "rouge-l"
    presets: ClassVar[Mapping[str, str]] = {
        "raw": "texts as they are: case kept, split at every single space; beta 1.2, pycocoevalcap's formula",
        "coco": "as raw on Stanford PTB tokens, lower case (COCO caption evaluation; needs Java)",
        "r2gen": "as raw on R2Gen's IU-Xray texts: both cleaned, references with <unk> and cut at 59 tokens",
        "r2gen-mimic": "as raw on R2Gen's MIMIC-CXR texts: both cleaned, references with <unk> and cut at 99 tokens",
        "rouge-score": "the package rouge_score: lower-case alphanumeric words, no stems, plain F1; with ROUGE-1, -2",
        "radeval": "what RadEval prints as rouge: rouge_score with Porter stems (needs nltk); with ROUGE-1, -2",
    }
    default_preset = "raw"
    citation = ("Lin, ROUGE: A Package for Automatic Evaluation of Summaries, Text Summarization Branches Out, 2004",)
    values: ClassVar[Mapping[str, Value]] = {"rouge_l": Value(True, (0.0, 1.0), primary=True)}

    def __init__(self, preset: str | None = None) -> None:
        super().__init__(preset)
        if self.preset in PLAIN:
            further = {"rouge_1": Value(True, (0.0, 1.0)), "rouge_2": Value(True, (0.0, 1.0))}
            self.values = {**type(self).values, **further}  # type: ignore[misc]  # these presets publish more

    @property
    def convention(self) -> str:
        """The text convention of the preset."""
        return CONVENTION[self.preset]

    def ready(self) -> str | None:
        return conventions.ready(self.convention)

    def fit(self, corpus: Corpus) -> Context:
        data = conventions.fit(self.convention, corpus)
        return Context.of(data) if data else Context()

    def needs(self, context: Context) -> tuple[FeatureRequest, ...]:
        return (tokens.request(self.convention, context),)

    def settings(self) -> tuple[tuple[str, str], ...]:
        beta = "1" if self.preset in PLAIN else str(BETA)
        return (*conventions.find(self.convention).settings(), ("beta", beta))

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        texts: tokens.TokenPairs = features[self.needs(context)[0]]
        plain = self.preset in PLAIN
        common, predicted, reference = texts.subsequences(single_spaces=not plain)
        columns = [np.ones(len(pairs)), f_measure(common, predicted, reference, 1.0 if plain else BETA)]
        if plain:
            matches = texts.matches()
            for order in (1, 2):
                sizes = (np.maximum(predicted - order + 1, 0), np.maximum(reference - order + 1, 0))
                columns.append(f_measure(matches[:, order - 1], *sizes, 1.0))
        return Statistics.scored(np.stack(columns, axis=1))

    def value(self, sums: Floats) -> dict[str, Floats]:
        return {name: ratio(sums[..., column], sums[..., 0]) for column, name in enumerate(self.values, start=1)}


def f_measure(matches: Numbers, predicted: Numbers, reference: Numbers, beta: float) -> Floats:
    """Return F_beta from matches and the sizes of both sides, (m,) each; 0 where nothing matches.

    >>> f_measure(np.array([1.0, 0.0]), np.array([2.0, 0.0]), np.array([4.0, 3.0]), 1.0)
    array([0.33333333, 0.        ])
    """
    precision = matches / np.maximum(predicted, 1)
    recall = matches / np.maximum(reference, 1)
    low = recall + beta**2 * precision
    return np.divide((1 + beta**2) * precision * recall, low, out=np.zeros_like(low), where=low > 0)
