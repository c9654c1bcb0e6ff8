"""Ranks of image-text retrieval: how far down the true text of a picture stands, and the true picture of a text.

The gallery is the task's full test set. The rule, in full:

- alike means the cosine of two vectors, in float64; a vector of zeros is as alike to all (0);
- with preset `same-text` every item whose text is, letter for letter, that of the query is a right answer, since nobody
  could tell them apart; with `own` only the query's own study is;
- the rank is 1 + the number of wrong items that are at least as alike as the best right one: a tie is lost, so a model
  that finds everything alike ranks last and not first;
- an item the model gave no vector for stays in the gallery and is alike to nothing: a query whose right answers are all
  of this kind ranks behind every wrong one.

Touches features by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cxrbench.data.samples import IMAGE_SIDE, TEXT_SIDE
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.vectors import RunVectors
from cxrbench.metrics.base import Context, Corpus, FeatureRequest, Floats, Metric, Pairs

BLOCK = 1024
"""Queries compared with the gallery at a time."""

VECTORS = FeatureRequest("answer-vectors")

PRESETS: Mapping[str, str] = {
    "same-text": "every item with the query's own text, letter for letter, is right; ties are lost",
    "own": "only the query's own study is right; ties are lost, those of equal texts too",
}


class RankMetric(Metric):
    """What the two metrics over ranks share: the gallery, learnt from the full test set, and the rank of a query."""

    presets: ClassVar[Mapping[str, str]] = PRESETS
    default_preset = "same-text"
    form = "vectors"

    def fit(self, corpus: Corpus) -> Context:
        """The gallery: ids of the full test set, with the number of their text among its distinct texts."""
        numbers = {text: number for number, text in enumerate(dict.fromkeys(corpus.references))}
        gallery = [[name, numbers[text]] for name, text in zip(corpus.sample_ids, corpus.references, strict=True)]
        return Context.of({"gallery": gallery})

    def needs(self, context: Context) -> tuple[FeatureRequest, ...]:
        return (VECTORS,)

    def settings(self) -> tuple[tuple[str, str], ...]:
        return (("alike", "cosine"), ("ties", "lost"))

    def fitted(self, context: Context) -> tuple[tuple[str, str], ...]:
        size = len(context.data.get("gallery", ())) // 2
        return (("gallery", f"{size}.{context.hash}"),) if context.hash else ()

    def ranked(self, pairs: Pairs, found: RunVectors, context: Context) -> tuple[NDArray[np.bool_], Floats]:
        """Which pairs are pictures that look for their text, and the rank of each: (m,), (m,).

        Raises:
            CxrbenchError: the run was not to embed the whole gallery, or has not done so yet.
        """
        gallery: list[tuple[str, int]] = [(str(name), int(number)) for name, number in context.data["gallery"]]
        check_whole([name for name, _ in gallery], found)
        texts = dict(gallery)
        looks = np.array([name.endswith(IMAGE_SIDE) for name in pairs.sample_ids], dtype=bool)
        ranks = np.zeros(len(pairs))
        for queries, end in ((looks, TEXT_SIDE), (~looks, IMAGE_SIDE)):
            items = [name for name, _ in gallery if name.endswith(end)]
            asked = [name for name, wanted in zip(pairs.sample_ids, queries, strict=True) if wanted]
            right = self._right(asked, items, texts)
            ranks[queries] = ranks_of(_rows(found, asked), _rows(found, items), right)
        return looks, ranks

    def _right(self, asked: Sequence[str], items: Sequence[str], texts: Mapping[str, int]) -> list[NDArray[np.intp]]:
        """The places of each query's right answers among the items."""
        if self.preset == "own":
            places = {_study(name): np.array([place], np.intp) for place, name in enumerate(items)}
            return [places[_study(name)] for name in asked]
        numbers = np.array([texts[name] for name in items], np.intp)
        order = np.argsort(numbers, kind="stable")
        starts = np.searchsorted(numbers[order], np.arange(numbers.max(initial=-1) + 2))
        return [order[starts[texts[name]] : starts[texts[name] + 1]] for name in asked]


def _study(name: str) -> str:
    return name.rpartition("/")[0]


def check_whole(gallery: Sequence[str], found: RunVectors) -> None:
    """Refuse a part of the gallery: recall at k over fewer items is another, easier question.

    Raises:
        CxrbenchError: names how much of it there is.
    """
    asked = sum(name in found.asked for name in gallery)
    if asked < len(gallery):
        raise CxrbenchError(
            f"the gallery is the full test set, and the run was to embed {asked} of its {len(gallery)} samples",
            fix="cxrbench run without --limit",
            code=Exit.UNDECIDED,
        )
    if found.open:
        raise CxrbenchError(
            f"{len(found.open)} of {len(gallery)} samples of the gallery are not embedded yet",
            fix="repeat the command that makes the run",
            code=Exit.UNDECIDED,
        )


def _rows(found: RunVectors, names: Sequence[str]) -> Floats:
    """Vectors of unit length (n, d) float64; zeros stay zeros, and a sample without a vector is NaN throughout."""
    places = np.array([found.places.get(name, -1) for name in names], np.intp)
    rows = np.full((len(names), found.rows.shape[1]), np.nan)
    rows[places >= 0] = found.rows[places[places >= 0]]
    length = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return np.asarray(np.divide(rows, length, out=rows, where=length != 0))


def ranks_of(queries: Floats, items: Floats, right: Sequence[NDArray[np.intp]]) -> Floats:
    """Rank of the best right item of each query, from 1; see the module for ties and missing vectors.

    Args:
        queries: unit vectors (q, d).
        items: unit vectors (n, d), NaN where there is none.
        right: for each query the places of its right answers among the items, at least one.
    """
    missing = np.asarray(np.isnan(items).any(axis=1))
    # Equal items get bit-equal similarities only if each distinct one is multiplied once.
    distinct, place = np.unique(np.where(missing[:, None], 0.0, items), axis=0, return_inverse=True)
    ranks = np.empty(len(queries))
    for start in range(0, len(queries), BLOCK):
        alike = (queries[start : start + BLOCK] @ distinct.T)[:, place.reshape(-1)]
        alike[:, missing] = -np.inf
        for row, answers in zip(range(len(alike)), right[start : start + BLOCK], strict=True):
            ahead = alike[row] >= alike[row, answers].max()
            ranks[start + row] = 1 + ahead.sum() - ahead[answers].sum()
    return ranks


def told(features: Mapping[FeatureRequest, Any]) -> RunVectors:
    """The run's vectors among computed features."""
    found: RunVectors = features[VECTORS]
    return found
