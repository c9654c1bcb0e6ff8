"""Entities of a report and their vectors as RaTEScore has them (Zhao et al., EMNLP 2024).

What needs no network stands here: the five kinds of entity, how labels of word pieces become entities, the two
features. The networks are in rate_net, which is imported when the first report is read. Never touches torch itself.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxrbench.features import embedded, rate_sentences
from cxrbench.features.base import ALONE, Pairs, Resources, Sides, TextFeature, device_kind, device_of
from cxrbench.features.weights import Weights, folders

if TYPE_CHECKING:
    from cxrbench.features.rate_net import Encoder, Finder

VERSION = 1
"""Goes up whenever an entity or a vector of any text could change with the same weights."""

KINDS = ("ABNORMALITY", "NON-ABNORMALITY", "ANATOMY", "DISEASE", "NON-DISEASE")
"""What an entity can be; NON- is one that the report denies."""

LABELS = ("O", *(f"{place}-{kind}" for kind in KINDS for place in "BI"))
"""What a word piece can be: outside of entities, the first of one, or inside one."""

MARKS = ("[CLS]", "[SEP]")
"""Pieces that no entity holds."""

Entity = tuple[str, str]
"""Its words, its kind."""


def spans(pieces: Sequence[str], labels: Sequence[str]) -> list[tuple[int, int, str]]:
    """First and last piece and kind of the entities of a sentence, in order, exactly as RaTEScore 0.6.0 finds them.

    pieces: those of the sentence, from [CLS] to [SEP]. labels: one of LABELS each, or more where they are padded.

    An entity ends before a piece that is outside or first, and has the kind of its first piece. An inside piece that no
    entity precedes is none. Where [SEP] is labelled as inside, the last entity reaches to the piece before it; but it
    is lost if another ended right where one began (`B B I`, `I B I`) since the last piece outside of entities. The
    package has this loss by mistake; published numbers have it too, so it stays.

    >>> spans(["[CLS]", "small", "effusion", "[SEP]"], ["O", "B-DISEASE", "I-DISEASE", "O"])
    [(1, 2, 'DISEASE')]
    >>> spans(["[CLS]", "small", "effusion", "[SEP]"], ["O", "B-DISEASE", "I-DISEASE", "I-DISEASE"])
    [(1, 2, 'DISEASE')]
    >>> spans(["[CLS]", "edema", "effusion", "[SEP]"], ["O", "B-DISEASE", "B-DISEASE", "I-DISEASE"])
    [(1, 1, 'DISEASE')]
    """
    found: list[tuple[int, int, str]] = []
    start: int | None = None
    kind, closed = "", False
    for i, (piece, label, following) in enumerate(zip(pieces, labels, labels[1:], strict=False)):
        if piece in MARKS or label == "O":
            continue
        if label.startswith("B-"):
            start, kind = i, label[2:]
        if following.startswith("I-"):
            continue
        if start is not None:
            found.append((start, i, kind))
        closed = following.startswith("B-")
        start, kind = (i, label[2:]) if closed else (None, "")
    if start is not None and not closed:
        found.append((start, len(pieces) - 2, kind))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Entities:
    """The n entities of a report with their vectors.

    kinds: (n,) indices into KINDS. rows: (n,) where in `table` their vectors are. table: (m, hidden) float32, one
    vector for every distinct entity of a whole batch.
    """

    kinds: NDArray[np.intp]
    rows: NDArray[np.intp]
    table: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(n, hidden), not of length 1."""
        return self.table[self.rows]


class RateEntities(TextFeature):
    """Entities of a report: (words, kind) in the order of the text. One without a usable sentence has none.

    Settings: `weights`, `hash`, those of RaTE-NER (features/weights.py).
    """

    name = "rate-entities"

    def ready(self, settings: Mapping[str, Hashable]) -> str | None:
        return embedded.torch_missing()

    def scope(self, settings: Mapping[str, Hashable], resources: Resources) -> str:
        chosen, versions = Weights.asked(settings), f"{VERSION}|{rate_sentences.VERSION}"
        return f"{self.name}|{versions}|{chosen.hash}|{chosen.precision}|{device_kind(resources)}"

    def annotate(
        self, texts: Sequence[str], settings: Mapping[str, Hashable], resources: Resources
    ) -> list[tuple[Entity, ...]]:
        """Find the entities of each text.

        Raises:
            CxrbenchError: the weights are not here, or not those that the metric was fitted with.
        """
        chosen = Weights.asked(settings)
        place, _ = folders(chosen, resources.config)
        return _finder(str(place), chosen, device_of(resources)).find(texts)

    def pack(self, annotation: Any) -> bytes:
        return json.dumps(annotation, ensure_ascii=False).encode("utf-8", "surrogatepass")

    def unpack(self, stored: bytes) -> tuple[Entity, ...]:
        return tuple((words, kind) for words, kind in json.loads(stored.decode("utf-8", "surrogatepass")))


class RateEmbeddings(TextFeature):
    """`Entities` of every report. What is annotated, once each, and kept is the vector of an entity's words.

    Settings: `weights`, `hash`, those of the encoder; `entities`, the settings of RateEntities.
    """

    name = "rate-embeddings"

    def ready(self, settings: Mapping[str, Hashable]) -> str | None:
        return embedded.torch_missing()

    def scope(self, settings: Mapping[str, Hashable], resources: Resources) -> str:
        chosen = Weights.asked(settings)
        return f"{self.name}|{VERSION}|{chosen.hash}|{chosen.precision}|{device_kind(resources)}"

    def annotate(
        self, texts: Sequence[str], settings: Mapping[str, Hashable], resources: Resources
    ) -> list[NDArray[np.float32]]:
        """(hidden,) the vector of each entity.

        Raises:
            CxrbenchError: the weights are not here, or not those that the metric was fitted with.
        """
        chosen = Weights.asked(settings)
        place, _ = folders(chosen, resources.config)
        return list(_encoder(str(place), chosen, device_of(resources)).encode(texts))

    def pack(self, annotation: Any) -> bytes:
        return np.asarray(annotation, "<f4").tobytes()

    def unpack(self, stored: bytes) -> NDArray[np.float32]:
        return np.frombuffer(stored, "<f4").astype(np.float32)

    def extract(self, pairs: Pairs, settings: Mapping[str, Hashable], resources: Resources = ALONE) -> Sides:
        """The entities of each report with their vectors; equal words are encoded once."""
        given: Any = settings["entities"]
        said = RateEntities().extract(pairs, dict(given), resources)
        sides = (said.predictions, said.references)
        words = list(dict.fromkeys(word for side in sides for entities in side for word, _ in entities))
        once = Pairs(words, words, ())
        vectors = super().extract(once, {**settings, "of": "predictions"}, resources).predictions
        table = np.stack(vectors) if words else np.zeros((0, 0), np.float32)
        at = {word: i for i, word in enumerate(words)}
        return Sides(*([entities_of(each, at, table) for each in side] for side in sides))


def entities_of(said: Sequence[Entity], at: Mapping[str, int], table: NDArray[np.float32]) -> Entities:
    """Entities with their vectors; `at` gives the row of the table of each entity's words."""
    kinds = np.array([KINDS.index(kind) for _, kind in said], np.intp)
    return Entities(kinds, np.array([at[words] for words, _ in said], np.intp), table)


@functools.lru_cache(maxsize=1)
def _finder(folder: str, chosen: Weights, device: str) -> Finder:
    """RaTE-NER, read once per process."""
    from cxrbench.features.device import torch_dtype
    from cxrbench.features.rate_net import load_finder

    return load_finder(folder, device=device, dtype=torch_dtype(chosen.precision))


@functools.lru_cache(maxsize=1)
def _encoder(folder: str, chosen: Weights, device: str) -> Encoder:
    """BioLORD, read once per process."""
    from cxrbench.features.device import torch_dtype
    from cxrbench.features.rate_net import load_encoder

    return load_encoder(folder, device=device, dtype=torch_dtype(chosen.precision))
