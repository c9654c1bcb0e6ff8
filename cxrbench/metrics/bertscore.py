"""BERTScore: how well the word pieces of prediction and reference find each other again in an encoder's hidden states.

Equal to the package bert-score 0.3.13 with its default (slow) tokenizer. A preset binds an encoder to a layer and to a
baseline; numbers of different presets have nothing in common but the name. Touches features by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cxrbench.data.phantom import Phantom
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features import bertscore, embedded
from cxrbench.features.weights import EMBEDDED, choose, signed, subject_of
from cxrbench.metrics.base import Context, Corpus, FeatureRequest, Floats, Metric, Pairs, Statistics, Value, ratio
from cxrbench.metrics.learned import request
from cxrbench.verified import Subject


@dataclass(frozen=True, slots=True)
class Convention:
    """What a preset means. `baseline` are P, R, F of unrelated sentences, which rescaling turns into 0 (None: none)."""

    asset: str
    layer: int
    about: str
    baseline: tuple[float, float, float] | None = None
    idf: bool = False
    spaces: bool = False
    """Runs of blanks are one blank."""
    phantom: bool = False
    """With the embedded encoder, on phantom only; every other preset is for all other data."""


DISTILROBERTA = (0.84732, 0.84759504, 0.8473319)
"""Of bert-score 0.3.13, rescale_baseline/en/, as the two below."""
DISTILBERT = (0.6666034, 0.66660464, 0.66620487)
ROBERTA_LARGE = (0.83150584, 0.8314941, 0.83122575)

TINY = next(asset for asset, name in EMBEDDED.items() if name == "encoder")
"""The asset whose place the embedded encoder takes on phantom."""

CONVENTIONS: Mapping[str, Convention] = {
    "rexrank": Convention(
        "distilroberta-base", 5, "as in ReXrank and RadCliQ: distilroberta-base, layer 5", DISTILROBERTA, spaces=True
    ),
    "rexrank-idf": Convention(
        "distilroberta-base",
        5,
        "as rexrank, with idf weights of the task's references, as RadEval 2.2 has it inside its RadCliQ",
        DISTILROBERTA,
        idf=True,
        spaces=True,
    ),
    "radeval": Convention(
        "distilbert-base-uncased", 5, "as in RadEval and ViLMedic: distilbert-base-uncased, layer 5", DISTILBERT
    ),
    "roberta-large": Convention(
        "roberta-large", 17, "as in CXRMate: roberta-large, layer 17 (also: roberta-large-17)", ROBERTA_LARGE
    ),
    "modernbert": Convention(
        "radeval-modernbert", 22, "RadEval's own: IAMJB/RadEvalModernBERT, layer 22, not rescaled"
    ),
    "tiny": Convention(
        TINY, bertscore.LAST, "the embedded encoder, last layer, not rescaled; phantom only", phantom=True
    ),
}

ALIASES: Mapping[str, str] = {"roberta-large-17": "roberta-large"}
"""Other names of presets."""


class BertScore(Metric):
    """Statistics per sample: count, precision, recall, F, each rescaled where the preset says so.

    Values are means over samples; no samples: not a number. An empty text, on either side, has 0, 0, 0 before
    rescaling, as in bert-score, and so -5.55 after it with distilroberta-base; so has a text without any word piece.
    F is 0 where P + R is 0.
    """

    name = "bertscore"
    presets: ClassVar[Mapping[str, str]] = {name: each.about for name, each in CONVENTIONS.items()}
    default_preset = "rexrank"
    citation = ("Zhang et al., BERTScore: Evaluating Text Generation with BERT, ICLR 2020",)
    values: ClassVar[Mapping[str, Value]] = {
        "f1": Value(True, (None, 1.0), primary=True),
        "precision": Value(True, (None, 1.0)),
        "recall": Value(True, (None, 1.0)),
    }

    def __init__(self, preset: str | None = None) -> None:
        super().__init__(ALIASES.get(preset, preset) if preset is not None else None)

    @property
    def convention(self) -> Convention:
        """What the chosen preset means."""
        return CONVENTIONS[self.preset]

    def ready(self) -> str | None:
        return embedded.torch_missing()

    def fit(self, corpus: Corpus) -> Context:
        """Choose the weights for the data set, and count word pieces where the preset weighs them.

        Raises:
            CxrbenchError: the preset is not for these data, or the weights are not here; says what to type.
        """
        rule = self.convention
        if rule.phantom:
            embedded.require_phantom(corpus.dataset, "encoder")
        elif corpus.dataset == Phantom.name:
            raise CxrbenchError(
                f"{self.key} is for real reports: {rule.asset} does not read {Phantom.name}",
                where=f"--metrics {self.key}",
                fix=f"--metrics {self.name}:tiny",
                code=Exit.UNDECIDED,
            )
        weights = choose(rule.asset, corpus.dataset, corpus.config, corpus.precision)
        data: dict[str, Any] = {"weights": weights.as_data()}
        if rule.idf:
            data["idf"] = bertscore.fit_idf(weights, corpus.references, spaces=rule.spaces, config=corpus.config).pack()
        return Context.of(data)

    def needs(self, context: Context) -> tuple[FeatureRequest, ...]:
        return (self._request(context),)

    def _request(self, context: Context) -> FeatureRequest:
        rule = self.convention
        further = (("layer", rule.layer), ("spaces", rule.spaces), ("idf", context.data.get("idf")))
        return request("bertscore", context, *further)

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        found = np.array(features[self._request(context)], np.float64).reshape(-1, 3)
        if self.convention.baseline is not None:
            baseline = np.array(self.convention.baseline)
            found = (found - baseline) / (1 - baseline)
        return Statistics.scored(np.column_stack([np.ones(len(found)), found]))

    def value(self, sums: Floats) -> dict[str, Floats]:
        """Means of F, precision and recall."""
        precision, recall, f1 = (ratio(sums[..., i], sums[..., 0]) for i in (1, 2, 3))
        return {"f1": f1, "precision": precision, "recall": recall}

    def settings(self) -> tuple[tuple[str, str], ...]:
        rule = self.convention
        return (
            ("encoder", f"bertscore.{bertscore.VERSION}"),
            ("model", "embedded" if rule.phantom else rule.asset),
            ("layer", "last" if rule.layer == bertscore.LAST else str(rule.layer)),
            ("idf", "yes" if rule.idf else "no"),
            ("rescale", "yes" if rule.baseline is not None else "no"),
            *((("spaces", "one"),) if rule.spaces else ()),
        )

    def subject(self, context: Context) -> Subject | None:
        return subject_of(self.name, f"bertscore.{bertscore.VERSION}|v:{self.version}", context.data)

    def fitted(self, context: Context) -> tuple[tuple[str, str], ...]:
        """The weights, and the hash of the idf weights where there are any."""
        learnt = (("fit", context.hash),) if "idf" in context.data else ()
        return (*learnt, *signed(context.data, self.subject(context)))
