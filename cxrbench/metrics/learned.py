"""What metrics that read reports with one network have in common: its weights, chosen when they are fitted.

Touches features by name.
"""

from __future__ import annotations

from collections.abc import Hashable

from cxrbench.features.weights import Weights, choose
from cxrbench.metrics.base import Context, Corpus, FeatureRequest


def fit_weights(asset: str, corpus: Corpus) -> Context:
    """The context of a metric that learns nothing but which weights read the data set.

    Raises:
        CxrbenchError: they are not here; names the command that brings them.
    """
    return Context.of({"weights": choose(asset, corpus.dataset, corpus.config, corpus.precision).as_data()})


def request(feature: str, context: Context, *further: tuple[str, Hashable]) -> FeatureRequest:
    """What `feature` says of the texts with the weights a metric was fitted with."""
    return FeatureRequest(feature, (*Weights.of(context.data["weights"]).settings, *further))
