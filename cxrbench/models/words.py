"""A text as a bag of hashed words: no vocabulary to learn, the same numbers on every machine. numpy only."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

WIDTH = 1024
"""Places words are hashed to."""

_WORD = re.compile(r"[a-z]+|[0-9]+")


def bag(text: str) -> NDArray[np.float64]:
    """1 where a word or a pair of neighbouring words falls, 0 elsewhere: (1024,).

    >>> int(bag("No effusion.").sum()), bool((bag("no effusion") == bag("No effusion.")).all())
    (3, True)
    """
    words = _WORD.findall(text.lower())
    found = np.zeros(WIDTH)
    for piece in (*words, *(f"{a} {b}" for a, b in pairwise(words))):
        found[zlib.crc32(piece.encode()) % WIDTH] = 1.0
    return found


def bags(texts: Sequence[str]) -> NDArray[np.float64]:
    """(n, 1024)."""
    return np.stack([bag(text) for text in texts]) if texts else np.zeros((0, WIDTH))


def rarity(found: NDArray[np.float64]) -> NDArray[np.float64]:
    """log((1 + n) / (1 + how many of n texts have it)) per place: what every text says counts nothing."""
    return np.asarray(np.log((1 + len(found)) / (1 + found.sum(axis=0))))


def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of unit length, (n, d) or (d,); zeros stay zeros."""
    length = np.sqrt((rows * rows).sum(axis=-1, keepdims=True))
    return np.asarray(np.divide(rows, length, out=np.zeros_like(rows), where=length > 0))
