"""BERTScore of a prediction and its reference (Zhang et al., ICLR 2020): precision, recall and F of their word pieces.

What needs no network stands here: the feature, its settings, the weights of word pieces. The network is in
bertscore_net, which is imported when the first pair is compared. Vectors of words are never kept, only the three
numbers per pair. Never touches torch itself.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxrbench.errors import CxrbenchError
from cxrbench.features import embedded
from cxrbench.features.base import PairFeature, Resources, device_kind, device_of, readable
from cxrbench.features.weights import Weights, folders

if TYPE_CHECKING:
    from cxrbench.config import Config
    from cxrbench.features.bertscore_net import Encoder, Pieces

VERSION = 1
"""Goes up whenever a number of any pair could change with the same weights."""

LAST = -1
"""As a layer: the last one."""


def prepare(text: str, *, spaces: bool = False) -> str:
    r"""A text as the encoder gets it: no whitespace at the ends; with `spaces`, runs of blanks are one blank.

    >>> prepare(" Mild  edema.\n", spaces=True)
    'Mild edema.'
    """
    return (re.sub(" +", " ", text) if spaces else text).strip()


@dataclass(frozen=True, slots=True)
class Idf:
    """Inverse document frequencies of word pieces: log((n + 1) / (documents with the piece + 1)) over n references.

    ids: (k,) word pieces seen, ascending. counts: (k,) documents with each.
    """

    documents: int
    ids: NDArray[np.int64]
    counts: NDArray[np.int64]

    def pack(self) -> str:
        """As text for a metric's context and for settings, the same on every machine."""
        numbers = np.stack([self.ids, self.counts]).astype("<u4").tobytes()
        return f"{self.documents}:{base64.b64encode(numbers).decode('ascii')}"

    @classmethod
    def unpack(cls, packed: str) -> Idf:
        """What `pack` packed."""
        documents, _, numbers = packed.partition(":")
        ids, counts = np.frombuffer(base64.b64decode(numbers), "<u4").reshape(2, -1).astype(np.int64)
        return cls(int(documents), ids, counts)

    def weights(self, size: int) -> NDArray[np.float64]:
        """(size,) the weight of every word piece; one that no reference has weighs log(n + 1)."""
        found = np.full(size, math.log(self.documents + 1))
        found[self.ids] = np.log((self.documents + 1) / (self.counts + 1))
        return found


def fit_idf(weights: Weights, references: Sequence[str], *, spaces: bool = False, config: Config | None = None) -> Idf:
    """Count in how many of the references each word piece stands; equal references count as often as they occur."""
    from cxrbench.features.bertscore_net import frequencies

    place, _ = folders(weights, config)
    return frequencies(
        _pieces(str(place), weights.hash), [prepare(readable(text), spaces=spaces) for text in references]
    )


class BertScorePairs(PairFeature):
    """(3,) float64 per pair: precision, recall, F, not rescaled.

    Settings: `weights`, `hash` (features/weights.py); `layer`, from 1 on, or LAST; `spaces`, whether runs of blanks are
    one blank; `idf`, an `Idf` packed, or none: then every word piece weighs 1, and those that mark start and end 0.
    """

    name = "bertscore"

    def ready(self, settings: Mapping[str, Hashable]) -> str | None:
        return embedded.torch_missing()

    def scope(self, settings: Mapping[str, Hashable], resources: Resources) -> str:
        idf = hashlib.sha256(str(settings.get("idf") or "").encode()).hexdigest()[:16] if settings.get("idf") else "no"
        chosen, spaces = Weights.asked(settings), bool(settings.get("spaces"))
        told = (chosen.hash, settings["layer"], spaces, idf, chosen.precision, device_kind(resources))
        return "|".join(["bertscore", str(VERSION), *map(str, told)])

    def annotate(
        self, pairs: Sequence[tuple[str, str]], settings: Mapping[str, Hashable], resources: Resources
    ) -> list[NDArray[np.float64]]:
        """Compare pairs, in order.

        Raises:
            CxrbenchError: the weights are not here, or not those that the metric was fitted with.
        """
        spaces, idf, layer = bool(settings.get("spaces")), settings.get("idf"), settings["layer"]
        chosen = Weights.asked(settings)
        place, _ = folders(chosen, resources.config)
        if not isinstance(layer, int):
            raise CxrbenchError(f"bertscore: a layer is a whole number, not {layer!r}")
        encoder = _encoder(str(place), chosen, layer, device_of(resources))
        table = Idf.unpack(str(idf)).weights(encoder.size) if idf else None
        prepared = [(prepare(said, spaces=spaces), prepare(true, spaces=spaces)) for said, true in pairs]
        return list(encoder.compare(prepared, table))

    def pack(self, annotation: Any) -> bytes:
        return np.asarray(annotation, "<f8").tobytes()

    def unpack(self, stored: bytes) -> NDArray[np.float64]:
        return np.frombuffer(stored, "<f8").astype(np.float64)


@functools.lru_cache(maxsize=2)
def _encoder(folder: str, chosen: Weights, layer: int, device: str) -> Encoder:
    """An encoder, read once per process."""
    from cxrbench.features.bertscore_net import load
    from cxrbench.features.device import torch_dtype

    return load(folder, layer, device=device, dtype=torch_dtype(chosen.precision))


@functools.lru_cache(maxsize=2)
def _pieces(folder: str, chosen: str) -> Pieces:
    from cxrbench.features.bertscore_net import read_pieces

    return read_pieces(folder)
