"""CheXbert's labels of reports (Smit et al., EMNLP 2020): 14 conditions, each blank, positive, negative or uncertain.

What needs no network stands here: text preparation, the meaning of the classes, the feature. The network is in
chexbert_net, which is imported when the first report is labelled. Never touches torch itself.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from cxrbench.data.chexpert import LABELS
from cxrbench.features import embedded
from cxrbench.features.base import Resources, TextFeature, device_kind, device_of
from cxrbench.features.weights import Weights, folders

if TYPE_CHECKING:
    from cxrbench.features.chexbert_net import Labeler

VERSION = 1
"""Goes up whenever a label of any text could change with the same weights."""

CONDITIONS = LABELS
"""The conditions in the order of CheXbert's heads. The last head knows blank and positive only."""

BLANK, POSITIVE, NEGATIVE, UNCERTAIN = range(4)
"""Class indices of the heads."""

VALUES: Mapping[int, int] = {POSITIVE: 1, NEGATIVE: 0, UNCERTAIN: -1}
"""Class index -> label value as data sets ship it; blank has none."""


def prepare(text: str) -> str:
    r"""Whitespace as CheXbert has it: every run is one blank, none at the ends.

    >>> prepare(" Mild\n edema. ")
    'Mild edema.'
    """
    return " ".join(text.split())


@dataclass(frozen=True, slots=True, eq=False)
class Labels(Sequence[dict[str, int]]):
    """Labels of n reports. As a sequence it holds `{condition: 1, 0, -1}` of each, blank ones left out.

    classes: (n, 14) int8 class indices in the order of CONDITIONS. vectors: (n, hidden) the last hidden state at [CLS],
    from the same forward pass; float64 where the network is, else float32.
    """

    classes: NDArray[np.int8]
    vectors: NDArray[np.floating[Any]]

    def __len__(self) -> int:
        return len(self.classes)

    @overload
    def __getitem__(self, index: int) -> dict[str, int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, int]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, int] | list[dict[str, int]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Labelled(self.classes[index], self.vectors[index]).labels


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """One report: `classes` (14,) int8 class indices, `vector` (hidden,) the last hidden state at [CLS]."""

    classes: NDArray[np.int8]
    vector: NDArray[np.floating[Any]]

    @property
    def labels(self) -> dict[str, int]:
        """`{condition: 1, 0, -1}`, blank ones left out."""
        row = self.classes.tolist()
        return {name: VALUES[each] for name, each in zip(CONDITIONS, row, strict=True) if each != BLANK}


class CheXbertLabels(TextFeature):
    """`Labelled` of each text. Settings: `weights`, `hash` (features/weights.py), and `of` (features/base.py)."""

    name = "chexbert"

    def ready(self, settings: Mapping[str, Hashable]) -> str | None:
        return embedded.torch_missing()

    def scope(self, settings: Mapping[str, Hashable], resources: Resources) -> str:
        chosen = Weights.asked(settings)
        return f"chexbert|{VERSION}|{chosen.hash}|{chosen.precision}|{device_kind(resources)}"

    def annotate(self, texts: Sequence[str], settings: Mapping[str, Hashable], resources: Resources) -> list[Labelled]:
        """Label texts, in order.

        Raises:
            CxrbenchError: the weights are not here, or not those that the metric was fitted with.
        """
        chosen = Weights.asked(settings)
        place, bert = folders(chosen, resources.config)
        found = _labeler(place / WEIGHTS, bert, chosen, device_of(resources)).label(texts)
        return [Labelled(classes, vector) for classes, vector in zip(found.classes, found.vectors, strict=True)]

    def pack(self, annotation: Any) -> bytes:
        return bytes(annotation.classes.astype("i1").tobytes() + annotation.vector.astype("<f4").tobytes())

    def unpack(self, stored: bytes) -> Labelled:
        size = len(CONDITIONS)
        return Labelled(np.frombuffer(stored[:size], np.int8), np.frombuffer(stored[size:], "<f4").astype(np.float32))


WEIGHTS = "chexbert.pth"


@functools.lru_cache(maxsize=2)
def _labeler(file: Path, bert: Path, chosen: Weights, device: str) -> Labeler:
    """A labeler, read once per process."""
    from cxrbench.features.chexbert_net import load
    from cxrbench.features.device import torch_dtype

    return load(file, bert, device=device, dtype=torch_dtype(chosen.precision))
