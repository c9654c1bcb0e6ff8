"""SembScore: cosine of CheXbert's [CLS] vectors of prediction and reference (CXR-Report-Metric, Yu et al. 2023).

The vectors come from the same pass that labels the texts, so a run that has CheXbert F1 has this for nothing. Touches
features by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from cxrbench.features import chexbert, embedded
from cxrbench.features.weights import signed, subject_of
from cxrbench.metrics.base import Context, Corpus, FeatureRequest, Floats, Metric, Pairs, Statistics, Value, ratio
from cxrbench.metrics.chexbert_f1 import labels_request
from cxrbench.metrics.learned import fit_weights
from cxrbench.verified import Subject


class SembScore(Metric):
    """Statistics per sample: count, cosine. The value is their mean; no samples: not a number.

    A vector of an empty text is that of [CLS] [SEP], as in the reference, so an empty report has a score.
    """

    name = "semb-score"
    presets: ClassVar[Mapping[str, str]] = {"chexbert": "cosine of CheXbert's [CLS] vectors, 512 tokens"}
    default_preset = "chexbert"
    citation = (
        "Smit et al., Combining Automatic Labelers and Expert Annotations for Accurate Radiology Report "
        "Labeling Using BERT (CheXbert), EMNLP 2020",
        "Yu et al., Evaluating progress in automatic chest X-ray radiology report generation, Patterns "
        "4(9):100802, 2023",
    )
    values: ClassVar[Mapping[str, Value]] = {"semb_score": Value(True, (-1.0, 1.0), primary=True)}

    def ready(self) -> str | None:
        return embedded.torch_missing()

    def fit(self, corpus: Corpus) -> Context:
        """Choose the weights for the data set.

        Raises:
            CxrbenchError: they are not here; names the command that brings them.
        """
        return fit_weights("chexbert", corpus)

    def needs(self, context: Context) -> tuple[FeatureRequest, ...]:
        return (labels_request(context),)

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        sides = features[labels_request(context)]
        cosines = [cosine(a.vector, b.vector) for a, b in zip(sides.predictions, sides.references, strict=True)]
        return Statistics.scored(np.stack([np.ones(len(pairs)), np.array(cosines, np.float64)], axis=1))

    def value(self, sums: Floats) -> dict[str, Floats]:
        """The mean cosine."""
        return {"semb_score": ratio(sums[..., 1], sums[..., 0])}

    def settings(self) -> tuple[tuple[str, str], ...]:
        return (("labeler", f"chexbert.{chexbert.VERSION}"),)

    def subject(self, context: Context) -> Subject | None:
        return subject_of(self.name, f"chexbert.{chexbert.VERSION}|v:{self.version}", context.data)

    def fitted(self, context: Context) -> tuple[tuple[str, str], ...]:
        return signed(context.data, self.subject(context))


def cosine(a: Any, b: Any) -> float:
    """Cosine of two vectors, computed in float64.

    >>> cosine(np.array([1.0, 0.0]), np.array([2.0, 0.0]))
    1.0
    """
    one, two = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(one @ two / np.sqrt((one @ one) * (two @ two)))
