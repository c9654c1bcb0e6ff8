"""RaTEScore: how alike the entities of two reports are (Zhao et al., EMNLP 2024), equal to the package RaTEScore 0.6.0.

For every entity of one report the most similar one of the other is taken (cosine of their vectors), discounted where
one denies what the other affirms, and weighted by the kinds of both. The two weighted means are joined by their
harmonic mean. A report without a usable sentence keeps its row, which it loses in the package. Touches features by
name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cxrbench.features import embedded, rate, rate_sentences
from cxrbench.features.rate import KINDS, Entities
from cxrbench.features.weights import Weights, choose, reduced, subject_of, told
from cxrbench.metrics.base import Context, Corpus, FeatureRequest, Floats, Metric, Pairs, Statistics, Value, ratio
from cxrbench.verified import Subject

NER, ENCODER = "rate-ner", "biolord"
"""Assets."""

UNDECIDED = 0.5
"""Score of a pair of which one report has no entity."""


@dataclass(frozen=True, slots=True)
class Affinity:
    """What the kinds of two entities weigh.

    `weights[a][b]` is for an entity of kind a (order of rate.KINDS) whose most similar one is of kind b; `negation` is
    the factor on their similarity where one is denied and the other is not.
    """

    about: str
    negation: float
    weights: tuple[tuple[float, ...], ...]


AFFINITIES: Mapping[str, Affinity] = {
    "long": Affinity(
        "weights for whole reports, the package's default",
        0.8716553966489615,
        (
            (0.4276119164393705, 0.5431049700217344, 0.6240929990607657, 0.0034478181112993847, 0.27005425386213877),
            (0.16546764653692908, 0.0009357166071730684, 0.018670610691852826, 0.719397354576018, 0.0927333564267591),
            (0.7487824274337533, 0.02097055139911715, 0.2856134859160784, 0.4592143222158069, 0.00013736314126696204),
            (0.8396510075734789, 0.9820689020512646, 0.9950209388542061, 0.8460555030578727, 0.3789136708096537),
            (0.7759420231214385, 0.03860183811876373, 0.1839139293714062, 0.10073046076318157, 0.34065681486566446),
        ),
    ),
    "short": Affinity(
        "weights for single sentences",
        0.3611577852354489,
        (
            (0.4070293318365468, 0.9479148658006686, 0.6952639610605605, 0.28342529466226446, 0.23875064111146294),
            (0.1712744286898638, 0.0007887930317199857, 0.4485149671497294, 0.00045065329822896076, 0.8555432840895761),
            (0.5829759950441763, 0.794672584951181, 0.7709590751917746, 0.0006059634829551632, 0.27982942400798977),
            (0.8840397619834857, 0.6962283914800402, 0.9637659445696822, 0.19018958438059513, 0.943727057946997),
            (0.9555801066212176, 0.05650711141169969, 0.13122106162635216, 0.6072996585919443, 0.3214769399791204),
        ),
    ),
}
"""The numbers of RaTEScore 0.6.0 (RaTEScore/scorer.py, MIT), found there by search on ratings of radiologists."""

FLIPS = np.array(
    [["ANATOMY" not in (a, b) and a.startswith("NON-") != b.startswith("NON-") for b in KINDS] for a in KINDS]
)
"""(5, 5) whether of two kinds one is denied and the other is not."""


class RateScore(Metric):
    """Statistics per sample: count, score, and 1 where one of the two reports has no entity.

    The value is the mean score; no samples: not a number. Where a report has no entity the score is 0.5, as in the
    package, whatever the other one says: `without_entities` is the share of these.
    """

    name = "ratescore"
    presets: ClassVar[Mapping[str, str]] = {name: each.about for name, each in AFFINITIES.items()}
    default_preset = "long"
    citation = (
        "Zhao et al., RaTEScore: A Metric for Radiology Report Generation, EMNLP 2024",
        "Remy et al., BioLORD-2023: semantic textual representations fusing large language models and clinical "
        "knowledge graph insights, JAMIA 2024",
    )
    values: ClassVar[Mapping[str, Value]] = {
        "ratescore": Value(True, (None, None), primary=True),
        "without_entities": Value(None, (0.0, 1.0)),
    }

    def ready(self) -> str | None:
        return embedded.torch_missing()

    def fit(self, corpus: Corpus) -> Context:
        """Choose the weights for the data set.

        Raises:
            CxrbenchError: they are not here, or the data set is phantom, which they do not read.
        """
        chosen = {
            asset: choose(asset, corpus.dataset, corpus.config, corpus.precision).as_data() for asset in (NER, ENCODER)
        }
        return Context.of(chosen)

    def needs(self, context: Context) -> tuple[FeatureRequest, ...]:
        finder, encoder = (Weights.of(context.data[asset]).settings for asset in (NER, ENCODER))
        return (FeatureRequest("rate-embeddings", (*encoder, ("entities", finder))),)

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        sides = features[self.needs(context)[0]]
        rows = np.ones((len(pairs), 3))
        for row, said, true in zip(rows, sides.predictions, sides.references, strict=True):
            found = score(said, true, AFFINITIES[self.preset])
            row[1:] = (UNDECIDED, 1.0) if found is None else (found, 0.0)
        return Statistics.scored(rows)

    def value(self, sums: Floats) -> dict[str, Floats]:
        """The mean score, and the share of pairs of which one report has no entity."""
        return {"ratescore": ratio(sums[..., 1], sums[..., 0]), "without_entities": ratio(sums[..., 2], sums[..., 0])}

    def settings(self) -> tuple[tuple[str, str], ...]:
        return (("entities", f"rate.{rate.VERSION}"), ("sentences", f"pyrush.{rate_sentences.VERSION}"))

    def subject(self, context: Context) -> Subject | None:
        code = f"rate.{rate.VERSION}+pyrush.{rate_sentences.VERSION}|v:{self.version}"
        return subject_of(self.name, code, context.data, NER, ENCODER)

    def fitted(self, context: Context) -> tuple[tuple[str, str], ...]:
        """The weights of both networks."""
        if not context.data:
            return ()
        tags = "+".join(Weights.of(context.data[asset]).tag for asset in (NER, ENCODER))
        return (("weights", tags), *reduced(context.data), ("verified", told(self.subject(context))))


def score(said: Entities, true: Entities, affinity: Affinity) -> float | None:
    """RaTEScore of one pair, the same whichever report is the reference; None where one has no entity.

    0 where precision and recall sum up to 0. Of equally similar entities the first counts.
    """
    if not len(said) or not len(true):
        return None
    cosines = _unit(true.vectors) @ _unit(said.vectors).T
    precision = _mean(cosines, true.kinds, said.kinds, affinity)
    recall = _mean(cosines.T, said.kinds, true.kinds, affinity)
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


def _unit(vectors: Any) -> Floats:
    """(n, hidden) vectors of length 1, in float64; one of zeros stays."""
    wide = np.asarray(vectors, np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12))


def _mean(cosines: Floats, own: Any, other: Any, affinity: Affinity) -> float:
    """Weighted mean, over one side's entities (n), of their similarity to the most similar of the other side (m)."""
    nearest = cosines.argmax(axis=1)
    kinds = other[nearest]
    similar = cosines[np.arange(len(own)), nearest] * np.where(FLIPS[own, kinds], affinity.negation, 1.0)
    weights = np.array(affinity.weights)[own, kinds]
    total = weights.sum()
    return float(weights @ similar / total) if total else 0.0
