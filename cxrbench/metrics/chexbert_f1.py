"""CheXbert F1: do prediction and reference mention the same findings, as CheXbert labels them (Smit et al. 2020)?

Papers agree on the labeler and on little else: whether an uncertain mention counts, over 14 labels or 5, averaged how.
A preset is one paper's rule for doubt; every average of every preset comes from the same stored class indices, so
texts are labelled once. Touches features by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cxrbench.data.chexpert import LABELS
from cxrbench.features import chexbert, embedded
from cxrbench.features.weights import signed, subject_of
from cxrbench.metrics.base import Context, Corpus, FeatureRequest, Floats, Metric, Pairs, Statistics, Value
from cxrbench.metrics.label_f1 import slug
from cxrbench.metrics.learned import fit_weights, request
from cxrbench.verified import Subject

FIVE = tuple(
    LABELS.index(name) for name in ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
)
"""The five conditions CheXpert's competition was judged on, and most papers' "F1-5"."""

SCOPES: Mapping[str, tuple[int, ...]] = {"14": tuple(range(len(LABELS))), "5": FIVE}


@dataclass(frozen=True, slots=True)
class Rule:
    """Whether an uncertain mention counts as positive: in pooled counts, and in averages over reports."""

    pooled: bool
    examples: bool
    primary: str
    about: str


RULES: Mapping[str, Rule] = {
    "miura": Rule(True, True, "micro_f1_14", "uncertain counts as positive (f1chexbert, RadEval; Miura et al. 2021)"),
    "llava-rad": Rule(False, False, "micro_f1_14", "uncertain counts as absent (LLaVA-Rad's rrg_eval, mode rrg)"),
    "llava-rad+": Rule(True, True, "micro_f1_14", "uncertain counts as positive (LLaVA-Rad's rrg_eval, mode rrg+)"),
    "r2gen-ce": Rule(False, False, "macro_f1_14", "uncertain counts as absent (R2Gen's clinical efficacy script)"),
    "nicolson-example": Rule(
        False, False, "example_f1_14", "uncertain counts as absent, averaged over reports (CXRMate)"
    ),
    "rgrg": Rule(True, False, "micro_f1_5", "uncertain positive in micro values, absent in those over reports (RGRG)"),
}


class CheXbertF1(Metric):
    """Statistics per sample: count, counts per label, and what the report scores by itself (51 columns).

    Columns: count; tp, fp, fn of each of 14 labels; then, over 14 and over 5 labels, precision, recall and F1 of the
    report by itself and whether all labels agree. micro pools counts over labels, macro is the mean over labels,
    weighted the mean weighted by how often the reference has the label, example the mean over reports. 0/0 is 0, as
    scikit-learn's report has it, in every average: a label that neither side ever mentions lowers a macro value, and
    two reports without a finding have F1 0.
    """

    name = "chexbert-f1"
    presets: ClassVar[Mapping[str, str]] = {name: rule.about for name, rule in RULES.items()}
    default_preset = "miura"
    citation = (
        "Smit et al., Combining Automatic Labelers and Expert Annotations for Accurate Radiology Report "
        "Labeling Using BERT (CheXbert), EMNLP 2020",
    )
    values: ClassVar[Mapping[str, Value]] = {
        **{
            f"{average}_{what}_{scope}": Value(True, (0.0, 1.0))
            for scope in SCOPES
            for average in ("micro", "macro", "weighted", "example")
            for what in ("f1", "precision", "recall")
        },
        **{f"agreement_{scope}": Value(True, (0.0, 1.0)) for scope in SCOPES},
        **{f"f1_{slug(label)}": Value(True, (0.0, 1.0)) for label in LABELS},
    }

    def __init__(self, preset: str | None = None) -> None:
        super().__init__(preset)
        primary = self.rule.primary
        ordered = [primary, *(name for name in type(self).values if name != primary)]
        # The one value a paper quotes differs by preset.
        self.values = {name: _as_primary(type(self).values[name], name == primary) for name in ordered}  # type: ignore[misc]

    @property
    def rule(self) -> Rule:
        """What the preset means."""
        return RULES[self.preset]

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
        said, true = _classes(sides.predictions), _classes(sides.references)
        pooled = [positive(each, uncertain=self.rule.pooled) for each in (said, true)]
        counts = np.stack(confusion(*pooled), axis=2).reshape(len(pairs), 3 * len(LABELS))
        example = [positive(each, uncertain=self.rule.examples) for each in (said, true)]
        blocks = [_example(example[0][:, list(scope)], example[1][:, list(scope)]) for scope in SCOPES.values()]
        return Statistics.scored(np.hstack([np.ones((len(pairs), 1)), counts, *blocks]))

    def value(self, sums: Floats) -> dict[str, Floats]:
        """Every average over 14 and 5 labels, then the F1 of each label; see the class for 0/0."""
        n, labels = sums[..., 0], len(LABELS)
        counts = sums[..., 1 : 1 + 3 * labels].reshape(*sums.shape[:-1], labels, 3)
        rest = sums[..., 1 + 3 * labels :].reshape(*sums.shape[:-1], len(SCOPES), 4)
        found: dict[str, Floats] = {}
        for number, (scope, chosen) in enumerate(SCOPES.items()):
            some = counts[..., list(chosen), :]
            for average, triple in _averages(some).items():
                for what, each in zip(("precision", "recall", "f1"), triple, strict=True):
                    found[f"{average}_{what}_{scope}"] = each
            for column, what in enumerate(("precision", "recall", "f1")):
                found[f"example_{what}_{scope}"] = _share(rest[..., number, column], n)
            found[f"agreement_{scope}"] = _share(rest[..., number, 3], n)
        each = prf(counts)[2]
        found |= {f"f1_{slug(label)}": each[..., i] for i, label in enumerate(LABELS)}
        return {name: found[name] for name in self.values}

    def settings(self) -> tuple[tuple[str, str], ...]:
        words = {True: "pos", False: "neg"}
        doubt = dict.fromkeys((words[self.rule.pooled], words[self.rule.examples]))
        return (("uncertain", "/".join(doubt)), ("labeler", f"chexbert.{chexbert.VERSION}"))

    def subject(self, context: Context) -> Subject | None:
        return subject_of(self.name, f"chexbert.{chexbert.VERSION}|v:{self.version}", context.data)

    def fitted(self, context: Context) -> tuple[tuple[str, str], ...]:
        return signed(context.data, self.subject(context))


def _as_primary(value: Value, primary: bool) -> Value:
    return Value(value.higher_is_better, value.bounds, value.unit, primary, value.interval)


def labels_request(context: Context) -> FeatureRequest:
    """The labels of both sides by the weights the metric was fitted with."""
    return request("chexbert", context)


def _classes(labels: Sequence[Any]) -> NDArray[np.int8]:
    """(n, 14) class indices."""
    return np.stack([each.classes for each in labels]) if len(labels) else np.zeros((0, len(LABELS)), np.int8)


def positive(classes: NDArray[np.int8], *, uncertain: bool) -> NDArray[np.bool_]:
    """(n, 14) which labels count as positive."""
    return np.asarray((classes == chexbert.POSITIVE) | (uncertain & (classes == chexbert.UNCERTAIN)), dtype=bool)


def confusion(said: NDArray[np.bool_], true: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], ...]:
    """True positives, false positives, false negatives, each (n, labels)."""
    return said & true, said & ~true, ~said & true


def _share(numerator: Floats, denominator: Floats) -> Floats:
    """A quotient whose 0/0 is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(denominator, dtype=np.float64), where=denominator > 0)


def prf(counts: Floats) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 from (..., 3) counts of tp, fp, fn; 0/0 is 0."""
    tp, fp, fn = counts[..., 0], counts[..., 1], counts[..., 2]
    return _share(tp, tp + fp), _share(tp, tp + fn), _share(2 * tp, 2 * tp + fp + fn)


def _averages(counts: Floats) -> dict[str, tuple[Floats, ...]]:
    """micro, macro and weighted precision, recall and F1 of (..., labels, 3) counts."""
    each = prf(counts)
    support = counts[..., 0] + counts[..., 2]
    total = support.sum(axis=-1)
    return {
        "micro": prf(counts.sum(axis=-2)),
        "macro": tuple(one.mean(axis=-1) for one in each),
        "weighted": tuple(_share((one * support).sum(axis=-1), total) for one in each),
    }


def _example(said: NDArray[np.bool_], true: NDArray[np.bool_]) -> Floats:
    """(n, 4) precision, recall, F1 of each report by itself, and whether all labels agree."""
    counts = np.stack([each.sum(axis=1) for each in confusion(said, true)], axis=1).astype(np.float64)
    return np.stack([*prf(counts), (said == true).all(axis=1).astype(np.float64)], axis=1)
