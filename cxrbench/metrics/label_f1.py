"""Label F1: labels read from the predictions against the labels the data set ships.

No reference report is labelled: what is compared with is the truth of the data set, so the labeler errs on one side
only. A preset binds a labeler to the data it may read and to a convention for doubt. Touches features by name, and the
versions of what a preset binds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cxrbench.data import phantom_world
from cxrbench.data.chexpert import LABELS
from cxrbench.data.phantom import Phantom
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features import chexbert, embedded, phantom_labels
from cxrbench.features.weights import EMBEDDED, signed
from cxrbench.metrics.base import (
    SCORED,
    SKIPPED,
    Context,
    Corpus,
    FeatureRequest,
    Floats,
    Metric,
    Pairs,
    Statistics,
    Value,
    ratio,
)
from cxrbench.metrics.learned import fit_weights, request

NO_FINDING = LABELS.index("No Finding")


@dataclass(frozen=True, slots=True)
class Convention:
    """What a preset means: which labeler, which shipped labels, for which data set, and what doubt counts as."""

    labeler: FeatureRequest
    source: str
    dataset: str
    uncertain: bool
    about: str
    versions: tuple[int, int]
    """Of the labeler's code and of what made the shipped labels."""
    asset: str | None = None
    """The weights that label, if any do: chosen for the data set, and part of the signature."""

    def present(self, value: float) -> bool:
        """Whether a label value (1, 0, -1) counts as positive."""
        return value == 1 or (value == -1 and self.uncertain)


CONVENTIONS: Mapping[str, Convention] = {
    "phantom": Convention(
        labeler=FeatureRequest("phantom-labels"),
        source="phantom",
        dataset="phantom",
        uncertain=True,
        about="phantom's exact reader against its exact labels; uncertain counts as positive on both sides",
        versions=(phantom_labels.VERSION, phantom_world.VERSION),
    ),
    "chexbert-tiny": Convention(
        labeler=FeatureRequest("chexbert", (("of", "predictions"),)),
        source="phantom",
        dataset="phantom",
        uncertain=True,
        about="the embedded CheXbert-shaped labeler against phantom's exact labels; uncertain counts as positive",
        versions=(chexbert.VERSION, phantom_world.VERSION),
        asset="chexbert",
    ),
    "mimic-chexpert": Convention(
        labeler=FeatureRequest("chexbert", (("of", "predictions"),)),
        source="chexpert",
        dataset="mimic-cxr",
        uncertain=True,
        about="CheXbert on predictions against CheXpert's labels of MIMIC-CXR-JPG; uncertain counts as positive",
        versions=(chexbert.VERSION, 1),
        asset="chexbert",
    ),
    "mimic-radiologist": Convention(
        labeler=FeatureRequest("chexbert", (("of", "predictions"),)),
        source="mimic-test-labeled",
        dataset="mimic-cxr",
        uncertain=True,
        about="CheXbert on predictions against the radiologist's labels of 687 MIMIC-CXR reports; uncertain positive",
        versions=(chexbert.VERSION, 1),
        asset="chexbert",
    ),
}


def slug(label: str) -> str:
    """`Pleural Effusion` -> `pleural_effusion`."""
    return label.lower().replace(" ", "_")


class LabelF1(Metric):
    """Statistics per sample: count, then tp, fp, fn of each of the 14 labels (43 columns).

    Micro values pool the 13 findings; `No Finding` is left out of them, since it is the absence of the others and a
    constant normal report would earn it; its F1 stands by itself. Macro is the mean of the F1 of those of the 13 that
    occur or are said. A label that does neither has no F1, nothing said has no precision, nothing present no recall:
    0/0 is not a number here. With something present and nothing said, F1 is 0.
    """

    name = "label-f1"
    presets: ClassVar[Mapping[str, str]] = {name: each.about for name, each in CONVENTIONS.items()}
    default_preset = "phantom"
    values: ClassVar[Mapping[str, Value]] = {
        "micro_f1": Value(True, (0.0, 1.0), primary=True),
        "macro_f1": Value(True, (0.0, 1.0)),
        "micro_precision": Value(True, (0.0, 1.0)),
        "micro_recall": Value(True, (0.0, 1.0)),
        **{f"f1_{slug(label)}": Value(True, (0.0, 1.0)) for label in LABELS},
    }

    @property
    def convention(self) -> Convention:
        """What the chosen preset means."""
        return CONVENTIONS[self.preset]

    def fit(self, corpus: Corpus) -> Context:
        """Choose the labeler's weights, if it has any, and refuse data that it cannot read.

        Raises:
            CxrbenchError: the preset's labeler reads another data set only, or its weights are not here.
        """
        bound, asset = self.convention.dataset, self.convention.asset
        if asset is not None and bound == Phantom.name:
            embedded.require_phantom(corpus.dataset, EMBEDDED[asset])
        if corpus.dataset != bound:
            given = f"of the data set {corpus.dataset!r}" if corpus.dataset else "of no known data set"
            raise CxrbenchError(
                f"the labeler of {self.key} reads reports of {bound!r} only, and these are {given}",
                where=f"--metrics {self.key}",
                fix=f"leave {self.name} out, or score a task of {bound}",
                code=Exit.UNDECIDED,
            )
        return fit_weights(asset, corpus) if asset is not None else Context()

    def needs(self, context: Context) -> tuple[FeatureRequest, ...]:
        return (self._request(context),)

    def _request(self, context: Context) -> FeatureRequest:
        """The labeler, with the weights it was fitted with where it has any."""
        labeler = self.convention.labeler
        if self.convention.asset is None:
            return labeler
        return request(labeler.name, context, *labeler.settings)

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        rule = self.convention
        made = features[self._request(context)]
        said: Sequence[Mapping[str, float]] = [each.labels for each in made.predictions] if rule.asset else made
        shipped = [labels.get(rule.source) for labels in pairs.labels] or [None] * len(pairs)
        known = np.array([labels is not None for labels in shipped], dtype=bool)
        found, true = self._present(said), self._present([labels or {} for labels in shipped])
        rows = np.hstack([np.ones((len(pairs), 1)), counts_of(found, true)]) * known[:, None]
        status = np.where(known, SCORED, SKIPPED).astype(np.uint8)
        missing = f"the data set ships no {rule.source!r} labels for this sample"
        return Statistics(rows[:, None, :], status[:, None], tuple("" if each else missing for each in known))

    def _present(self, labels: Sequence[Mapping[str, float]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(n, 14): which labels count as positive; not mentioned is not."""
        rule = self.convention
        table = [[rule.present(each.get(label, 0)) for label in LABELS] for each in labels]
        return np.array(table, dtype=bool).reshape(len(labels), len(LABELS))

    def value(self, sums: Floats) -> dict[str, Floats]:
        """Micro and macro F1, precision, recall and the F1 of each label; see the class for 0/0."""
        return values_of(sums)

    def settings(self) -> tuple[tuple[str, str], ...]:
        rule = self.convention
        labeler, source = rule.versions
        return (
            ("labeler", f"{rule.labeler.name}.{labeler}"),
            ("against", f"{rule.source}.{source}"),
            ("uncertain", "pos" if rule.uncertain else "neg"),
        )

    def fitted(self, context: Context) -> tuple[tuple[str, str], ...]:
        return signed(context.data)


def counts_of(found: np.ndarray[Any, Any], true: np.ndarray[Any, Any]) -> Floats:
    """Columns of `LabelF1` after the count: tp, fp, fn of each label, from (n, 14) and (n, 14) of bool."""
    counts = np.stack([found & true, found & ~true, ~found & true], axis=2)
    return counts.reshape(len(found), 3 * len(LABELS)).astype(np.float64)


def values_of(sums: Floats) -> dict[str, Floats]:
    """Micro and macro F1, precision, recall and the F1 of each label from the columns of `LabelF1`."""
    counts = sums[..., 1:].reshape(*sums.shape[:-1], len(LABELS), 3)
    each = _f1(counts)
    pooled = counts[..., :NO_FINDING, :].sum(axis=-2)
    tp, fp, fn = pooled[..., 0], pooled[..., 1], pooled[..., 2]
    findings = each[..., :NO_FINDING]
    defined = ~np.isnan(findings)
    macro = ratio(np.where(defined, findings, 0.0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))
    per_label = {f"f1_{slug(label)}": each[..., i] for i, label in enumerate(LABELS)}
    return {
        "micro_f1": _f1(pooled),
        "macro_f1": macro,
        "micro_precision": ratio(tp, tp + fp),
        "micro_recall": ratio(tp, tp + fn),
        **per_label,
    }


def _f1(counts: Floats) -> Floats:
    """2 tp / (2 tp + fp + fn) over the last axis (tp, fp, fn)."""
    tp, fp, fn = counts[..., 0], counts[..., 1], counts[..., 2]
    return ratio(2 * tp, 2 * tp + fp + fn)
