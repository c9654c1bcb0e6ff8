"""Label agreement: do generated pictures show what their texts say? Labels of the one against labels of the other.

A classifier reads the picture, a labeler reads the text it was generated from; both may err, so the value of the real
pictures under the same classifier is what a generator can reach (docs/tasks-beyond-findings.md gives it for phantom).
Touches features by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cxrbench.data.chexpert import LABELS
from cxrbench.data.phantom import Phantom
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features import chexbert, phantom_labels
from cxrbench.features.embedded import torch_missing
from cxrbench.features.encoders import weights_hash
from cxrbench.features.pictures import READER
from cxrbench.features.weights import signed
from cxrbench.metrics.base import Context, Corpus, FeatureRequest, Floats, Metric, Pairs, Statistics
from cxrbench.metrics.label_f1 import LabelF1, counts_of, values_of
from cxrbench.metrics.learned import fit_weights, request
from cxrbench.shipped import embedded


class LabelAgreement(Metric):
    """Statistics per sample and values are those of `label-f1`: the picture's labels against the text's.

    The text's labels are read by phantom's exact reader, and on all other data by CheXbert. Uncertain counts as
    positive on both sides. Labels that a classifier does not know are not counted.
    """

    name = "label-agreement"
    presets: ClassVar[Mapping[str, str]] = {
        READER: "the embedded demo model describes the picture, phantom's exact reader reads it; phantom only",
        "FOLDER": "an image classifier of yours: a stock checkpoint whose id2label are CheXpert's names",
    }
    default_preset = READER
    values = LabelF1.values
    form = "pictures"

    def __init__(self, preset: str | None = None) -> None:
        folder = preset if preset not in (None, *self.presets) else None
        super().__init__(preset if folder is None else "FOLDER")
        if folder is not None:
            self.preset = folder

    def ready(self) -> str | None:
        if self.preset == READER or Path(self.preset).is_dir():
            return torch_missing()
        return "needs a classifier: label-agreement:FOLDER, a stock image classifier" + (
            "" if self.preset == "FOLDER" else f"; there is no folder {self.preset!r}"
        )

    def fit(self, corpus: Corpus) -> Context:
        """Choose who reads the texts, and name the classifier.

        Raises:
            CxrbenchError: the demo model is asked about other data than phantom; CheXbert's weights are not here; or
                the folder holds no classifier.
        """
        if self.preset == READER and corpus.dataset != Phantom.name:
            raise CxrbenchError(
                f"the demo model describes pictures of {Phantom.name!r} only, and these are of {corpus.dataset!r}",
                where=f"--metrics {self.key}",
                fix="label-agreement:FOLDER with a classifier of real radiographs",
                code=Exit.UNDECIDED,
            )
        if self.preset == READER:
            about: dict[str, Any] = {"reader": f"demo-{weights_hash(embedded('demo'))}", "known": list(LABELS)}
        else:
            from cxrbench.features.picture_net import names_of

            known = set(names_of(Path(self.preset)).values())
            about = {"reader": weights_hash(Path(self.preset)), "known": [each for each in LABELS if each in known]}
        if corpus.dataset == Phantom.name:
            return Context.of(about)
        return Context.of({**about, **fit_weights("chexbert", corpus).data})

    def needs(self, context: Context) -> tuple[FeatureRequest, ...]:
        text = (request("chexbert", context),) if "weights" in context.data else ()
        return (self._picture(context), *text)

    def _picture(self, context: Context) -> FeatureRequest:
        return FeatureRequest("picture-labels", (("reader", self.preset), ("tag", context.data["reader"])))

    def settings(self) -> tuple[tuple[str, str], ...]:
        return (("uncertain", "pos"),)

    def fitted(self, context: Context) -> tuple[tuple[str, str], ...]:
        if not context.hash:
            return ()
        labeler = (
            f"chexbert.{chexbert.VERSION}" if "weights" in context.data else f"phantom-labels.{phantom_labels.VERSION}"
        )
        known = len(context.data["known"])
        return (("reader", context.data["reader"]), ("text", labeler), ("labels", str(known)), *signed(context.data))

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        known = np.array([label in context.data["known"] for label in LABELS])
        if "weights" in context.data:
            said: Sequence[Mapping[str, float]] = [
                each.labels for each in features[request("chexbert", context)].references
            ]
        else:
            said = phantom_labels.read_all(pairs.references)
        counts = counts_of(_present(features[self._picture(context)]) & known, _present(said) & known)
        return Statistics.scored(np.hstack([np.ones((len(pairs), 1)), counts]))

    def value(self, sums: Floats) -> dict[str, Floats]:
        """As `label-f1`."""
        return values_of(sums)


def _present(labels: Sequence[Mapping[str, float]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(n, 14): present or uncertain; not mentioned is not."""
    table = [[each.get(label, 0) in (1, -1) for label in LABELS] for each in labels]
    return np.array(table, dtype=bool).reshape(len(labels), len(LABELS))
