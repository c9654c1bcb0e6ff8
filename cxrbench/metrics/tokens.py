"""The feature `tokens`: texts prepared by a convention, and what n-gram metrics count in them, computed once a batch.

BLEU, ROUGE-L and CIDEr of one convention ask for the same feature and so share the preparation, the words, the n-gram
counts and the common subsequences. What is asked for first is computed then and kept for the batch; nothing outlives
it, so memory depends on the size of the batch alone. Equal pairs are counted once. Touches numpy and rapidfuzz.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np

from cxrbench.metrics import conventions, ngrams
from cxrbench.metrics.base import ALONE, Context, Feature, FeatureRequest, Floats, Pairs, Resources
from cxrbench.metrics.ngrams import Documents, Grams, Integers


def request(convention: str, context: Context) -> FeatureRequest:
    """Ask for the tokens of a convention, with the vocabulary of the context where it has one."""
    return FeatureRequest("tokens", (("convention", convention), ("vocabulary", conventions.words(context.data))))


class Tokens(Feature):
    """Settings: `convention` (a key of conventions.CONVENTIONS), `vocabulary` (frozenset of words, or None)."""

    name = "tokens"

    def ready(self, settings: Mapping[str, Hashable]) -> str | None:
        return conventions.ready(str(settings["convention"]))

    def extract(self, pairs: Pairs, settings: Mapping[str, Hashable], resources: Resources = ALONE) -> TokenPairs:
        vocabulary = cast("frozenset[str] | None", settings.get("vocabulary"))
        return TokenPairs(
            *conventions.process(str(settings["convention"]), pairs.predictions, pairs.references, vocabulary)
        )


class _Numbers(dict[str, int]):
    """Word -> number in order of first use."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number


def documents(texts: Sequence[str]) -> Documents:
    """Return processed texts as documents of words."""
    numbers = _Numbers()
    lists = [[numbers[word] for word in text.split()] for text in texts]
    return Documents.of(lists, list(numbers))


@dataclass(frozen=True)
class TokenPairs:
    """Processed texts of m pairs. Results per pair are (m,) arrays in the order of the pairs."""

    predictions: Sequence[str]
    references: Sequence[str]

    @cached_property
    def _distinct(self) -> tuple[list[str], Integers, Integers, Integers]:
        """The distinct texts; of the distinct pairs, the texts left and right (d,); the distinct pair of each (m,)."""
        numbers = _Numbers()
        left, right = (
            np.array([numbers[text] for text in side], np.int64) for side in (self.predictions, self.references)
        )
        size = max(len(numbers), 1)
        pairs, each = np.unique(left * size + right, return_inverse=True)
        return list(numbers), pairs // size, pairs % size, each

    @cached_property
    def _words(self) -> tuple[list[list[int]], _Numbers]:
        """The word numbers of each distinct text, as `str.split()` finds words, and the numbers of the words."""
        numbers = _Numbers()
        return [[numbers[word] for word in text.split()] for text in self._distinct[0]], numbers

    @cached_property
    def _documents(self) -> Documents:
        lists, numbers = self._words
        return Documents.of(lists, list(numbers))

    @cached_property
    def _grams(self) -> tuple[Grams, ...]:
        _, left, right, _ = self._distinct
        return ngrams.count(self._documents, left, right)

    @cached_property
    def _matches(self) -> Floats:
        pairs = len(self._distinct[1])
        return np.stack([ngrams.sums(g, np.minimum(g.left, g.right).astype(float), pairs) for g in self._grams], 1)

    def lengths(self) -> tuple[Integers, Integers]:
        """Return the number of words of predictions and references, (m,) each."""
        _, left, right, each = self._distinct
        return self._documents.lengths[left][each], self._documents.lengths[right][each]

    def matches(self) -> Floats:
        """Return the clipped n-gram matches for orders 1 to 4, (m, 4)."""
        return self._matches[self._distinct[3]]

    def grams(self) -> tuple[tuple[Grams, ...], Integers]:
        """Return n-gram counts of the distinct pairs for orders 1 to 4, and the distinct pair of each pair (m,)."""
        return self._grams, self._distinct[3]

    def subsequences(self, *, single_spaces: bool) -> tuple[Integers, Integers, Integers]:
        """Return longest common subsequence, words of the prediction, words of the reference, (m,) each.

        Args:
            single_spaces: split at every single space, as pycocoevalcap does: two spaces then have an empty word
                between them, and an empty text is one empty word. Otherwise split at runs of whitespace.
        """
        from rapidfuzz.distance import LCSseq
        from rapidfuzz.process import cpdist

        _, left, right, each = self._distinct
        lists = self._single_spaced() if single_spaces else self._words[0]
        predictions, references = ([lists[text] for text in side] for side in (left, right))
        common = cpdist(predictions, references, scorer=LCSseq.similarity, dtype=np.int64)
        sizes = np.fromiter(map(len, lists), np.int64, len(lists))
        return common[each], sizes[left][each], sizes[right][each]

    def _single_spaced(self) -> list[list[int]]:
        """The word numbers of each distinct text split at every single space; most texts have no other whitespace."""
        lists, numbers = self._words
        return [
            words if " ".join(text.split()) == text != "" else [numbers[word] for word in text.split(" ")]
            for text, words in zip(self._distinct[0], lists, strict=True)
        ]
