"""RadCliQ: a linear mix of RadGraph, BERTScore, SembScore and BLEU fitted to radiologists (Yu et al., Patterns 2023).

Lower is better: it predicts how many errors a radiologist would find. The figures below are those of the two published
models (rajpurkarlab/CXR-Report-Metric). The mix was fitted on ReXVal, so its agreement with ReXVal is no test of it.
Touches features by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cxrbench import assets
from cxrbench.data.phantom import Phantom
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features import embedded
from cxrbench.metrics.base import Context, Corpus, FeatureRequest, Floats, Metric, Pairs, Statistics, Value, ratio
from cxrbench.metrics.bertscore import BertScore
from cxrbench.metrics.radgraph_f1 import RadGraphF1
from cxrbench.metrics.semb_score import SembScore

COMPONENTS = ("radgraph_combined", "bertscore", "semb_score", "bleu_2")
"""In the order of the coefficients."""


@dataclass(frozen=True, slots=True)
class Mix:
    """intercept + sum of coefficient * (component - mean) / scale."""

    intercept: float
    means: tuple[float, ...]
    scales: tuple[float, ...]
    coefficients: tuple[float, ...]

    def of(self, components: Floats) -> Floats:
        """(n, 4) components -> (n,)."""
        scaled = (components - np.array(self.means)) / np.array(self.scales)
        return np.asarray(self.intercept + scaled @ np.array(self.coefficients))


MIXES: Mapping[str, Mix] = {
    "v1": Mix(
        2.4665525613232559e-10,
        (0.5379231241355762, 0.6175725628125001, 0.7647942121140658, 0.44738335396242174),
        (0.3028258411486429, 0.22430938459304575, 0.2539439110169773, 0.2989271671041838),
        (-0.37708368261038905, -0.37030009974480316, -0.25261621789593225, 4.315048405024756e-12),
    ),
    "v0": Mix(
        1.641666666666666,
        (0.5398376019082272, 0.6312549595000001, 0.7716797866672277, 0.4607372064809605),
        (0.3018344440559102, 0.22466950746141123, 0.24750333805236252, 0.30336670936092264),
        (-0.4796252644863446, -0.6762170542369337, -0.46366575161751994, 0.2165861905287535),
    ),
}


class RadCliQ(Metric):
    """Statistics per sample: count, RadCliQ, and the four components (6 columns). Values are means over reports.

    `inverse_mean` is 1 / mean, the column ReXrank ranks by: it leaps at 0 and overstates the top, so it is given for
    comparison only. BLEU has no weight to speak of in v1.
    """

    name = "radcliq"
    version = 2
    presets: ClassVar[Mapping[str, str]] = {
        "v1": "RadCliQ-v1, the one ReXrank uses; lower is better, -1.44 where every component is 1",
        "v0": "RadCliQ-v0; lower is better",
    }
    default_preset = "v1"
    citation = tuple(dict.fromkeys((*SembScore.citation, *RadGraphF1.citation, *BertScore.citation)))
    values: ClassVar[Mapping[str, Value]] = {
        "radcliq": Value(False, (None, None), primary=True),
        "inverse_mean": Value(None, (None, None), interval=False),
        **{name: Value(True, (None, 1.0)) for name in COMPONENTS},
    }

    def ready(self) -> str | None:
        return embedded.torch_missing()

    def _parts(self, dataset: str | None) -> dict[str, Metric]:
        tiny = dataset == Phantom.name
        return {
            "radgraph": RadGraphF1("combined"),
            "bertscore": BertScore("tiny" if tiny else "rexrank"),
            "semb": SembScore(),
        }

    def fit(self, corpus: Corpus) -> Context:
        """Fit the components.

        Raises:
            CxrbenchError: weights of one of them are not here; names the command that brings them.
        """
        parts = self._parts(corpus.dataset)
        if corpus.dataset != Phantom.name:  # all that is missing in one sentence, not part by part
            needed = [asset.name for asset in assets.needed_by(self.name)]
            missing = assets.missing(*needed, config=corpus.config)
            if missing is not None:
                raise CxrbenchError(missing, code=Exit.UNDECIDED)
        return Context.of({"dataset": corpus.dataset, **{name: dict(m.fit(corpus).data) for name, m in parts.items()}})

    def _fitted(self, context: Context) -> dict[str, tuple[Metric, Context]]:
        parts = self._parts(context.data["dataset"])
        return {name: (metric, Context.of(context.data[name])) for name, metric in parts.items()}

    def needs(self, context: Context) -> tuple[FeatureRequest, ...]:
        return tuple(request for metric, own in self._fitted(context).values() for request in metric.needs(own))

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        made = {
            name: metric.statistics(pairs, features, own).rows[:, 0, :]
            for name, (metric, own) in self._fitted(context).items()
        }
        components = np.stack(
            [made["radgraph"][:, 3], made["bertscore"][:, 3], made["semb"][:, 1], bleu_2(pairs)], axis=1
        )
        mixed = MIXES[self.preset].of(components)
        return Statistics.scored(np.column_stack([np.ones(len(pairs)), mixed, components]))

    def value(self, sums: Floats) -> dict[str, Floats]:
        """Means over reports, and the inverse of the first."""
        mean = ratio(sums[..., 1], sums[..., 0])
        inverse = np.divide(1.0, mean, out=np.full_like(mean, np.nan), where=mean != 0)
        rest = {name: ratio(sums[..., 2 + i], sums[..., 0]) for i, name in enumerate(COMPONENTS)}
        return {"radcliq": mean, "inverse_mean": inverse, **rest}

    def fitted(self, context: Context) -> tuple[tuple[str, str], ...]:
        """The components: preset, settings, weights and version of each, and the version of BLEU-2.

        It is verified where its three learned components are; the mix itself is arithmetic on published figures.
        """
        if not context.data:
            return ()
        parts: list[tuple[str, str]] = []
        verified = []
        for name, (metric, own) in self._fitted(context).items():
            fitted = dict(metric.fitted(own))
            verified.append(fitted.pop("verified") == "yes")
            given = [*metric.settings(), *fitted.items()]
            told = [metric.preset, *(f"{key}={value}" for key, value in given), f"v={metric.version}"]
            parts.append((name, ",".join(told)))
        return (*parts, ("bleu", "2,lower,smoothed,v=2"), ("verified", "yes" if all(verified) else "no"))


SMOOTHED = 0.1
"""Common bigrams that are counted where there are none."""


def bleu_2(pairs: Pairs) -> Floats:
    """Sentence BLEU-2 of each pair as RadCliQ takes it: lower case, full stops parted, split at blanks, (n,)."""
    both = zip(pairs.predictions, pairs.references, strict=True)
    return np.array([_bleu_2(_tokens(said), _tokens(true)) for said, true in both], np.float64)


def _tokens(text: str) -> list[str]:
    """As CXR-Report-Metric's run_eval.py makes them: what stands between blanks, nothing between two of them.

    >>> _tokens("Clear . No effusion. ")
    ['clear', '.', 'no', 'effusion', '.']
    """
    return [token for token in text.lower().replace(".", " .").split(" ") if token]


def _bleu_2(said: list[str], true: list[str]) -> float:
    """Geometric mean of clipped unigram and bigram precision times the brevity penalty; 0 without a common word.

    Where no bigram is common, SMOOTHED counts for it, as in fast_bleu's default (method 1 of Chen and Cherry 2014).

    >>> round(_bleu_2("the lungs are clear".split(), "the lungs are clear".split()), 6)
    1.0
    """
    precisions = []
    for order in (1, 2):
        mine, theirs = _grams(said, order), _grams(true, order)
        common = sum(min(count, theirs.get(gram, 0)) for gram, count in mine.items())
        if order == 1 and not common:
            return 0.0
        precisions.append((common or SMOOTHED) / max(sum(mine.values()), 1))
    penalty = 1.0 if len(said) > len(true) else math.exp(1 - len(true) / len(said))
    return penalty * math.sqrt(precisions[0] * precisions[1])


def _grams(words: list[str], order: int) -> dict[tuple[str, ...], int]:
    counts: dict[tuple[str, ...], int] = {}
    for start in range(len(words) - order + 1):
        gram = tuple(words[start : start + order])
        counts[gram] = counts.get(gram, 0) + 1
    return counts
