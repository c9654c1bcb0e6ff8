"""What cxrbench says of pairs of texts under any metric: of all, of each pair, of each text.

Annotations are made anew: nothing is taken from a feature store or put into one. Touches metrics, features by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cxrbench import registry
from cxrbench.features import chexbert
from cxrbench.metrics.base import Context, Corpus, FeatureRequest, Floats, Metric, Pairs, Resources
from cxrbench.metrics.chexbert_f1 import FIVE, labels_request
from cxrbench.metrics.radgraph_f1 import annotation_request
from cxrbench.scoring import make_metric

if TYPE_CHECKING:
    from cxrbench.config import Config


def pairs_of(both: Sequence[tuple[str, str]]) -> Pairs:
    """Pairs of (prediction, reference), numbered."""
    ids = [str(i) for i in range(len(both))]
    return Pairs(ids, [said for said, _ in both], [true for _, true in both])


class Ours:
    """What cxrbench says of pairs, each feature computed once, on a device (auto, cpu, cuda, cuda:N)."""

    def __init__(self, pairs: Pairs, config: Config, device: str = "cpu") -> None:
        self.pairs, self.config = pairs, config
        self.resources = Resources(config=config, device=device)
        self.features: dict[FeatureRequest, Any] = {}

    def fit(self, key: str) -> tuple[Metric, Context]:
        """The metric, fitted on the references of these pairs, as the packages are."""
        metric = make_metric(key)
        return metric, metric.fit(Corpus(self.pairs.references, config=self.config))

    def rows(self, key: str) -> tuple[Metric, Floats]:
        """(n, k) statistics."""
        metric, context = self.fit(key)
        for request in metric.needs(context):
            self.feature(request)
        return metric, metric.statistics(self.pairs, self.features, context).rows[:, 0, :]

    def feature(self, request: FeatureRequest) -> Any:
        if request not in self.features:
            found = registry.load("features", request.name)()
            self.features[request] = found.extract(self.pairs, dict(request.settings), self.resources)
        return self.features[request]

    def corpus(self, key: str) -> dict[str, float]:
        """Every value of the metric over all pairs."""
        metric, rows = self.rows(key)
        found = metric.value_weighted(rows, np.ones((1, len(rows))))
        return {name: float(value[0]) for name, value in found.items()}

    def per_pair(self, key: str) -> dict[str, Floats]:
        """Every value of the metric of each pair by itself, (n,)."""
        metric, rows = self.rows(key)
        found = dict(metric.value_weighted(rows, np.eye(len(rows))))
        if metric.name == "chexbert-f1":
            counts = rows[:, 1 : 1 + 3 * len(chexbert.CONDITIONS)].reshape(len(rows), -1, 3)
            found["label_accuracy_5"] = 1 - counts[:, list(FIVE), 1:].sum(axis=(1, 2)) / len(FIVE)
        return found

    def said(self, key: str) -> dict[str, Any]:
        """What the annotator of a metric says of each distinct text, in the package's form; {} if it has none."""
        metric, context = self.fit(key)
        form = _FORMS.get(metric.name)
        if form is None:
            return {}
        request, as_package = form
        sides = self.feature(request(context))
        both = ((self.pairs.predictions, sides.predictions), (self.pairs.references, sides.references))
        return {text: as_package(each) for texts, made in both for text, each in zip(texts, made, strict=True)}


def _labels(labelled: Any) -> list[Any]:
    """As f1chexbert's `classification` mode: "" for blank."""
    return [chexbert.VALUES.get(int(each), "") for each in labelled.classes]


_FORMS: Mapping[str, tuple[Callable[[Context], FeatureRequest], Callable[[Any], Any]]] = {
    "chexbert-f1": (labels_request, _labels),
    "radgraph-f1": (annotation_request, lambda annotation: annotation["entities"]),
}
