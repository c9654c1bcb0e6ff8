"""N-gram counts of many short texts at once, in numpy.

A word is a stable 64-bit hash (the same on every machine, so document frequencies can be stored and used elsewhere); an
n-gram is a mix of its words' hashes. The n-grams of a pair of texts are sorted together, the lowest bit saying from
which text one came: one pass gives the distinct n-grams with both counts, which is all BLEU, ROUGE-N and CIDEr need.
Two different n-grams of one pair (some 100) are taken for one with a chance of about 1e-15. Touches numpy and counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from cxrbench.counts import merge

ORDERS = 4
"""N-grams of 1 to 4 words."""

BLOCK = 1 << 17
"""Words worked on at a time: one megabyte of hashes, so that a block stays in the processor's cache."""

Hashes = NDArray[np.uint64]
Integers = NDArray[np.int64]

_SIDE = np.uint64(1)
_NONE = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


@dataclass(frozen=True, slots=True)
class Documents:
    """Tokenized texts. `words` (t,) are the hashes of all words in a row; text i has `lengths[i]` from `starts[i]`."""

    words: Hashes
    starts: Integers
    lengths: Integers

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], words: Sequence[str]) -> Documents:
        """Make documents from word numbers per text and the words in the order of their numbers."""
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        flat = np.fromiter(chain.from_iterable(ids), np.int64, int(lengths.sum()))
        return cls(hash_words(words)[flat], np.cumsum(lengths) - lengths, lengths)

    def rows(self, chosen: Integers) -> tuple[Hashes, Integers]:
        """Return the chosen texts as a matrix (rows, longest), filled up with anything, and their lengths."""
        lengths = self.lengths[chosen]
        longest = int(lengths.max(initial=0))
        if longest == 0:
            return np.zeros((len(chosen), 0), np.uint64), lengths
        index = self.starts[chosen, None] + np.arange(longest)
        return self.words[np.minimum(index, len(self.words) - 1)], lengths


@dataclass(frozen=True, slots=True)
class Grams:
    """The distinct n-grams of one order in m pairs, (g,) each.

    The number of the pair, the n-gram (its lowest bit set, see `count`), its count in the left and in the right text.
    """

    pair: Integers
    gram: Hashes
    left: Integers
    right: Integers


def hash_words(words: Sequence[str]) -> Hashes:
    """Return a stable 64-bit hash per word (BLAKE2b of its UTF-8; lone surrogates as their code)."""
    digests = b"".join(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest() for word in words)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def count(documents: Documents, left: Integers, right: Integers) -> tuple[Grams, ...]:
    """Return the distinct n-grams of orders 1 to 4 in each pair, with both counts.

    Pair i is the texts `left[i]` and `right[i]` of `documents`.
    """
    parts: list[list[Grams]] = [[] for _ in range(ORDERS)]
    for chosen in _blocks(documents.lengths[left] + documents.lengths[right]):
        sides = zip(_orders(*documents.rows(left[chosen])), _orders(*documents.rows(right[chosen])), strict=True)
        for part, ((mine, mine_n), (other, other_n)) in zip(parts, sides, strict=True):
            keys = np.concatenate([mine & ~_SIDE, other | _SIDE], axis=1)
            keys[:, : mine.shape[1]][mine == _NONE] = _NONE
            part.append(_distinct(keys, mine_n + other_n, chosen))
    return tuple(_join(part) for part in parts)


def document_frequency(documents: Documents, weights: Integers) -> tuple[Hashes, Integers]:
    """Return the n-grams of all orders, ascending, and in how many texts each occurs.

    Text i counts `weights[i]` times. The n-grams are those of `Grams.gram`, so they can be looked up with it.
    """
    found = [
        _distinct(keys | _SIDE, numbers, chosen)
        for chosen in _blocks(documents.lengths)
        for keys, numbers in _orders(*documents.rows(chosen))
    ]
    return merge([(each.gram, weights[each.pair]) for each in found])


def _blocks(lengths: Integers) -> Iterator[Integers]:
    """Yield the numbers of texts of similar length, each block about `BLOCK` words wide and deep."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        most = min(start + BLOCK // max(1, int(lengths[order[start]])), len(order))
        longest = int(lengths[order[max(most, start + 1) - 1]])  # rows are as wide as the longest text of the block
        stop = start + max(1, BLOCK // max(1, longest))
        yield np.sort(order[start:stop])
        start = stop


def _orders(words: Hashes, lengths: Integers) -> Iterator[tuple[Hashes, Integers]]:
    """Yield, per order, the n-gram hashes of each row with `_NONE` beyond its end, and how many each row has."""
    grams = words
    for order in range(1, ORDERS + 1):
        if order > 1:
            grams = _mix(grams[:, :-1]) + words[:, order - 1 :]
        numbers = np.maximum(lengths - order + 1, 0)
        yield np.where(np.arange(grams.shape[1]) < numbers[:, None], grams, _NONE), numbers


def _mix(hashes: Hashes) -> Hashes:
    """Scramble 64-bit hashes one to one (an xor-shift-multiply step), so that order matters in what is added."""
    mixed = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(32))


def _distinct(keys: Hashes, numbers: Integers, pair: Integers) -> Grams:
    """Group the first `numbers` of each row's sorted keys by n-gram; the lowest bit says left (0) or right (1)."""
    keys.sort(axis=1)
    flat = keys[np.arange(keys.shape[1]) < numbers[:, None]]
    row = np.repeat(np.arange(len(pair)), numbers)
    if len(flat) == 0:
        return Grams(row, flat, row, row)
    gram = flat | _SIDE
    new = np.ones(len(flat), bool)
    new[1:] = (gram[1:] != gram[:-1]) | (row[1:] != row[:-1])
    starts = np.flatnonzero(new)
    total = np.diff(starts, append=len(flat))
    right = np.add.reduceat((flat & _SIDE).astype(np.int64), starts)
    return Grams(pair[row[starts]], gram[starts], total - right, right)


def _join(parts: Sequence[Grams]) -> Grams:
    """Put the blocks together. Pairs ascend within a block, not over blocks: no one needs more."""
    empty = np.zeros(0, np.int64)
    return Grams(
        np.concatenate([empty, *(part.pair for part in parts)]),
        np.concatenate([empty.astype(np.uint64), *(part.gram for part in parts)]),
        np.concatenate([empty, *(part.left for part in parts)]),
        np.concatenate([empty, *(part.right for part in parts)]),
    )


def sums(grams: Grams, values: NDArray[np.float64], pairs: int) -> NDArray[np.float64]:
    """Return the sum of `values` (g,) per pair, (pairs,)."""
    return np.bincount(grams.pair, values, minlength=pairs).astype(np.float64)
