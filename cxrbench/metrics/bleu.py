"""BLEU-1..4 (Papineni et al., ACL 2002), with the corpus formula of pycocoevalcap or of sacrebleu.

Statistics per sample: count, words of the prediction, words of the reference, clipped matches and totals of 1- to
4-grams. The corpus value is a function of their sums: BLEU is no mean of per-sample values. All values are 0 to 1
(sacrebleu prints 0 to 100).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from cxrbench.metrics import conventions, tokens
from cxrbench.metrics.base import Context, Corpus, FeatureRequest, Floats, Metric, Pairs, Statistics, Value
from cxrbench.metrics.ngrams import ORDERS

CONVENTION = {
    "raw": "raw",
    "coco": "coco",
    "r2gen": "r2gen",
    "r2gen-mimic": "r2gen-mimic",
    "sacrebleu": "sacrebleu",
    "radeval": "raw",
}


class Bleu(Metric):
    """BLEU with one reference per prediction. No samples: not a number. No words: 0."""

    name = "bleu"
    presets: ClassVar[Mapping[str, str]] = {
        "raw": "texts as they are: case kept, words between whitespace; pycocoevalcap's formula",
        "coco": "as raw on Stanford PTB tokens, lower case (COCO caption evaluation; needs Java)",
        "r2gen": "as raw on R2Gen's IU-Xray texts: both cleaned, references with <unk> and cut at 59 tokens",
        "r2gen-mimic": "as raw on R2Gen's MIMIC-CXR texts: both cleaned, references with <unk> and cut at 99 tokens",
        "sacrebleu": "13a tokens, case kept, exponential smoothing: sacrebleu's corpus score divided by 100",
        "radeval": "what RadEval prints as bleu: the same number as raw (bleu_4)",
    }
    default_preset = "raw"
    citation = ("Papineni et al., BLEU: a Method for Automatic Evaluation of Machine Translation, ACL 2002",)
    values: ClassVar[Mapping[str, Value]] = {
        f"bleu_{order}": Value(True, (0.0, 1.0), primary=order == ORDERS) for order in range(1, ORDERS + 1)
    }

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
        smooth = "exp" if self.preset == "sacrebleu" else "tiny"
        return (*conventions.find(self.convention).settings(), ("smooth", smooth))

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        texts: tokens.TokenPairs = features[self.needs(context)[0]]
        predicted, reference = texts.lengths()
        rows = np.empty((len(pairs), 3 + 2 * ORDERS))
        rows[:, 0] = 1
        rows[:, 1] = predicted
        rows[:, 2] = reference
        rows[:, 3 : 3 + ORDERS] = texts.matches()
        rows[:, 3 + ORDERS :] = np.maximum(predicted[:, None] - np.arange(ORDERS), 0)
        return Statistics.scored(rows)

    def value(self, sums: Floats) -> dict[str, Floats]:
        formula: Callable[[Floats], Floats] = _sacrebleu if self.preset == "sacrebleu" else _pycocoevalcap
        with np.errstate(under="ignore"):
            bleu = np.where(sums[..., :1] > 0, formula(sums), np.nan)
        return {name: bleu[..., order] for order, name in enumerate(self.values)}


def _pycocoevalcap(sums: Floats) -> Floats:
    """BLEU-1..4 (..., 4) from sums (..., 11), with the constants of pycocoevalcap in place of smoothing."""
    tiny, small = 1e-15, 1e-9
    precision = (sums[..., 3 : 3 + ORDERS] + tiny) / (sums[..., 3 + ORDERS :] + small)
    mean = np.cumprod(precision, axis=-1) ** (1.0 / np.arange(1, ORDERS + 1))
    ratio = (sums[..., 1] + tiny) / (sums[..., 2] + small)
    return np.asarray(mean * np.exp(np.minimum(1 - 1 / ratio, 0))[..., None])


def _sacrebleu(sums: Floats) -> Floats:
    """BLEU-1..4 (..., 4) from sums (..., 11) as sacrebleu gives with `max_ngram_order` 1..4, smoothing exp.

    The j-th order without a match counts as 1 / (2^j total); an order without n-grams, or no match at all, gives 0.
    """
    matches, totals = sums[..., 3 : 3 + ORDERS], sums[..., 3 + ORDERS :]
    missed = np.cumsum((matches == 0) & (totals > 0), axis=-1)
    smoothed = np.where(matches > 0, matches, 0.5**missed)
    log = np.log(
        np.divide(smoothed, totals, out=np.zeros_like(smoothed), where=totals > 0),
        where=totals > 0,
        out=np.full_like(smoothed, -np.inf),
    )
    mean = np.exp(np.cumsum(log, axis=-1) / np.arange(1, ORDERS + 1))
    predicted, reference = sums[..., 1], sums[..., 2]
    ratio = np.divide(reference, predicted, out=np.ones_like(predicted), where=predicted > 0)
    bleu = mean * np.exp(np.minimum(1 - ratio, 0))[..., None]
    return np.where(np.cumsum(matches, axis=-1) > 0, bleu, 0.0)
