"""What a feature is: something computed once per batch of texts and shared by metrics. Touches types only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Pairs:
    """A batch of texts to score: prediction and reference of sample i at index i. Same length throughout.

    `labels[i]` are the labels the data set ships for sample i (source -> label -> 1, 0, -1), empty if it ships none.
    """

    sample_ids: Sequence[str]
    predictions: Sequence[str]
    references: Sequence[str]
    labels: Sequence[Mapping[str, Mapping[str, float]]] = ()

    def __len__(self) -> int:
        return len(self.sample_ids)


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """A feature a metric needs, by registry name and hashable settings; equal requests are computed once per batch."""

    name: str
    settings: tuple[tuple[str, Hashable], ...] = ()


class Feature(ABC):
    """Something computed once per batch of pairs and shared by metrics (token ids, labels, annotations)."""

    name: ClassVar[str]

    def ready(self, settings: Mapping[str, Hashable]) -> str | None:
        """None when it can be computed here, else one sentence of what it needs."""
        return None

    @abstractmethod
    def extract(self, pairs: Pairs, settings: Mapping[str, Hashable]) -> Any:
        """Compute the feature for a batch."""
