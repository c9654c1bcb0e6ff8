"""What a feature is: something computed once per batch of texts and shared by metrics. Touches types and the store.

Learned annotators are `TextFeature`s (of one text, as CheXbert's labels) or `PairFeature`s (of a prediction and its
reference, as BERTScore's precision and recall): a subclass says what it does with texts, this module sees to it that
every distinct one is annotated once, kept, and put back in its place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.device import resolved
from cxrbench.features.store import row_key
from cxrbench.shares import ElsewhereError

if TYPE_CHECKING:
    from cxrbench.artifacts import Answered
    from cxrbench.config import Config
    from cxrbench.features.store import Store


@dataclass(frozen=True, slots=True)
class Pairs:
    """A batch of texts to score: prediction and reference of sample i at index i. Same length throughout.

    `labels[i]` are the labels the data set ships for sample i (source -> label -> 1, 0, -1), empty if it ships none.
    `artifacts[i]` is the picture or vector of sample i in `Resources.answered`, in tasks whose answers are no text.
    `choices[i]` are the summed log-probabilities of the options of sample i and their numbers of tokens, in such tasks.
    """

    sample_ids: Sequence[str]
    predictions: Sequence[str]
    references: Sequence[str]
    labels: Sequence[Mapping[str, Mapping[str, float]]] = ()
    artifacts: Sequence[str] = ()
    choices: Sequence[tuple[Sequence[float], Sequence[int]]] = ()

    def __len__(self) -> int:
        return len(self.sample_ids)


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """A feature a metric needs, by registry name and hashable settings; equal requests are computed once per batch."""

    name: str
    settings: tuple[tuple[str, Hashable], ...] = ()


@dataclass(frozen=True, slots=True)
class Resources:
    """What a feature may use besides the texts: the store (None: nothing is kept), the settings, the device.

    `device` is auto, cpu, cuda or cuda:N. `precision` is that of annotators (features/device.py); metrics hear of it in
    `fit`, so that it is in their signatures. `judge` is the judges.engine.Judge named for this scoring, if one was.
    `answered` are the run's pictures or vectors, in tasks whose answers are no text.
    """

    store: Store | None = None
    config: Config | None = None
    device: str = "cpu"
    precision: str = "fp32"
    judge: Any = None
    answered: Answered | None = None


def device_of(resources: Resources) -> str:
    """The device, `auto` resolved: asked only once an annotator runs, because the answer needs torch."""
    return resources.device if resources.device == "cpu" else resolved(resources.device)


def device_kind(resources: Resources) -> str:
    """`cpu` or `cuda`: part of every scope, because their sums differ in the last bits."""
    return device_of(resources).partition(":")[0]


ALONE = Resources()
"""Nothing but the texts."""


class Feature(ABC):
    """Something computed once per batch of pairs and shared by metrics (token ids, labels, annotations)."""

    name: ClassVar[str]
    shared: ClassVar[bool] = False
    """Whether workers may share it, because what `extract` makes is kept and found again."""

    def ready(self, settings: Mapping[str, Hashable]) -> str | None:
        """None when it can be computed here, else one sentence of what it needs."""
        return None

    @abstractmethod
    def extract(self, pairs: Pairs, settings: Mapping[str, Hashable], resources: Resources = ALONE) -> Any:
        """Compute the feature for a batch."""


@dataclass(frozen=True, slots=True)
class Sides:
    """What is known of each prediction and of each reference, in the order of the pairs."""

    predictions: Sequence[Any]
    references: Sequence[Any] = field(default_factory=tuple)


BLOCK = 256
"""Texts annotated between two writes to the store: a killed scoring loses at most these."""


class TextFeature(Feature):
    """An annotation of one text. `extract` gives `Sides`; of predictions alone with the setting `of`: "predictions"."""

    shared = True
    block: ClassVar[int] = BLOCK

    @abstractmethod
    def scope(self, settings: Mapping[str, Hashable], resources: Resources) -> str:
        """Everything but the text that could change an annotation: annotator, code version, weights, precision."""

    @abstractmethod
    def annotate(self, texts: Sequence[str], settings: Mapping[str, Hashable], resources: Resources) -> Sequence[Any]:
        """Annotate distinct texts, in order: texts in = annotations out."""

    @abstractmethod
    def pack(self, annotation: Any) -> bytes:
        """An annotation as bytes for the store."""

    @abstractmethod
    def unpack(self, stored: bytes) -> Any:
        """The annotation that `pack` packed."""

    def extract(self, pairs: Pairs, settings: Mapping[str, Hashable], resources: Resources = ALONE) -> Sides:
        """Annotate each distinct text once, over predictions and references, with what the store already knows."""
        references = () if settings.get("of") == "predictions" else pairs.references
        texts = list(dict.fromkeys([*pairs.predictions, *references]))
        known = _known(self, texts, settings, resources)
        return Sides([known[text] for text in pairs.predictions], [known[text] for text in references])


class PairFeature(Feature):
    """An annotation of a prediction with its reference; `extract` gives one per pair, in order."""

    shared = True
    block: ClassVar[int] = BLOCK

    @abstractmethod
    def scope(self, settings: Mapping[str, Hashable], resources: Resources) -> str:
        """Everything but the two texts that could change an annotation."""

    @abstractmethod
    def annotate(
        self, pairs: Sequence[tuple[str, str]], settings: Mapping[str, Hashable], resources: Resources
    ) -> Sequence[Any]:
        """Annotate distinct (prediction, reference) pairs, in order: pairs in = annotations out."""

    @abstractmethod
    def pack(self, annotation: Any) -> bytes:
        """An annotation as bytes for the store."""

    @abstractmethod
    def unpack(self, stored: bytes) -> Any:
        """The annotation that `pack` packed."""

    def extract(self, pairs: Pairs, settings: Mapping[str, Hashable], resources: Resources = ALONE) -> list[Any]:
        """Annotate each distinct pair once, with what the store already knows."""
        given = list(zip(pairs.predictions, pairs.references, strict=True))
        known = _known(self, list(dict.fromkeys(given)), settings, resources)
        return [known[pair] for pair in given]


def readable(text: str) -> str:
    r"""The text with halves of characters, which JSON may hold and no tokenizer takes, as U+FFFD.

    >>> readable("No \ud800 effusion.")
    'No � effusion.'
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _readable(item: Any) -> Any:
    return readable(item) if isinstance(item, str) else (readable(item[0]), readable(item[1]))


def _text(item: Any) -> str:
    """A text, or a pair of texts as one that no other pair equals."""
    return item if isinstance(item, str) else f"{len(item[0])}\0{item[0]}\0{item[1]}"


def _known(
    feature: TextFeature | PairFeature, items: list[Any], settings: Mapping[str, Hashable], resources: Resources
) -> dict[Any, Any]:
    """The annotation of every item, from the store or made now and put there.

    Raises:
        ElsewhereError: in a worker, once its own share is made: the others are not known yet.
    """
    # Without a place to keep them annotations are made all the same: the store saves time and decides nothing.
    store = resources.store if resources.store is not None and resources.store.usable() else None
    scope = feature.scope(settings, resources)
    stored = store.get(scope, [_text(item) for item in items]) if store is not None else {}
    known = {item: _unpacked(feature, stored[_text(item)]) for item in items if _text(item) in stored}
    missing = [item for item in items if item not in known]
    mine = missing
    if store is not None and store.share is not None:
        mine = [item for item in missing if store.share.wants(row_key(scope, _text(item)))]
    for block in _blocks(mine, feature.block):
        made = feature.annotate([_readable(item) for item in block], settings, resources)
        if len(made) != len(block):
            raise CxrbenchError(
                f"{feature.name}: {len(block)} texts went in, {len(made)} annotations came out",
                code=Exit.INFRASTRUCTURE,
            )
        known |= dict(zip(block, made, strict=True))
        if store is not None:
            store.put(scope, {_text(item): feature.pack(each) for item, each in zip(block, made, strict=True)})
    if len(mine) < len(missing):
        raise ElsewhereError
    return known


def _unpacked(feature: TextFeature | PairFeature, stored: Any) -> Any:
    """What was kept, or one sentence where it is nothing that this feature keeps."""
    try:
        return feature.unpack(stored)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise CxrbenchError(
            f"what the feature store kept of {feature.name} is damaged",
            where="the feature store of the data set",
            fix="cxrbench cache purge, which costs nothing but annotating again",
            code=Exit.INFRASTRUCTURE,
        ) from None


def _blocks(items: list[Any], size: int) -> Iterator[list[Any]]:
    """Blocks of items of similar length, the longest first: what does not fit in memory fails early."""
    ordered = sorted(items, key=lambda item: (-len(_text(item)), _text(item)))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
