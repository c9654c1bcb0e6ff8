"""The part of METEOR's paraphrase table that given texts can use, so that a Java process starts in half a second.

The table of METEOR 1.5 has 5.3 million entries; loading it takes a Java process about six seconds and 1.5 GB, the very
most of a run over a few thousand pairs. An entry can matter only if every word of both its phrases occurs in the texts.
Here entries with a word that is not in the texts are left out; what stays keeps its order. Leaving out what cannot
match changes no alignment, which the tests check against the full table.

A word is tested by a hash (of its first eight bytes and its length), so a few entries too many stay; never one too
few. Touches numpy and files, which are their owner's alone: which entries are in one tells which words the texts have.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrbench.metrics.meteor_stripped import SLOT_BITS, Bits, Stripped, slots_of, stripped, words_in
from cxrbench.privacy import private_file

_LETTERS = "0-9A-Za-zŠŽšžŸÀ-ÖØ-öø-žЀ-ӿԀ-ԧꙀ-ꙮ꙾-ꚗᴀ-ᵿ"
"""Characters METEOR's normaliser keeps together in a word; it separates all others but full stop, comma, hyphen and
quotes, and the table has no word with one of those."""

_WORD = re.compile(rf"[{_LETTERS}]+|\S")
_DOTS = re.compile(r"\.\.+")


def words_of(texts: Iterable[str]) -> set[str]:
    """Return every word of the table that METEOR's normaliser can make of the texts (and words it would not make).

    The normaliser lowers case and splits at anything that is no letter or digit, so its words are runs of those and
    single other characters; it also joins abbreviations ("U.S." becomes "us"), so what is left without single full
    stops counts, too.

    >>> sorted(words_of(["Seen in the U.S."]))
    ['.', 'in', 's', 'seen', 'the', 'u', 'us']
    """
    found: set[str] = set()
    for text in texts:
        found.update(_WORD.findall(text))
        if "." in text:
            found.update(_WORD.findall(_DOTS.sub(" ", text).replace(".", "")))
    return {word.lower() for word in found}


class Table:
    """A paraphrase table in METEOR's format: gzip, three lines an entry (probability, phrase, phrase)."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.known: Bits = np.zeros(1 << SLOT_BITS, bool)
        """Slots of the words the table has, filled by `write`."""

    def write(self, words: Iterable[str], out: Path) -> int:
        """Write the entries whose words are all among `words` to `out`; returns how many there are.

        Raises:
            CxrbenchError: the table does not consist of whole entries.
        """
        wanted: Bits = np.zeros(1 << SLOT_BITS, bool)
        wanted[slots_of(words)] = True
        table = stripped(self.source)
        self.known = table.known
        kept = list(_kept(table, wanted))
        with open(out, "wb", opener=private_file) as packed, gzip.open(packed, "wb", compresslevel=1) as file:
            file.write(b"".join(kept))
        return len(kept)

    def has(self, words: Iterable[str]) -> bool:
        """Whether a word may be in the table (surely not where this is False); only after `write`."""
        return bool(self.known[slots_of(words)].any())


def _kept(table: Stripped, wanted: Bits) -> Iterator[bytes]:
    """The entries whose words are all wanted, in order, with a probability, which METEOR does not read."""
    runs = _whole(table.firsts, wanted)
    if not runs.any():
        return
    ends = np.cumsum(table.lengths, dtype=np.int64)
    ranges = zip((ends - table.lengths)[runs].tolist(), ends[runs].tolist(), strict=True)
    text = b"".join(table.seconds[start:end] for start, end in ranges)
    places = np.repeat(np.flatnonzero(runs), table.entries[runs])
    firsts, seconds = table.firsts.split(b"\n"), text.split(b"\n")
    for entry in np.flatnonzero(_whole(text, wanted)).tolist():
        yield b"1\n%b\n%b\n" % (firsts[places[entry]], seconds[entry])


def _whole(text: bytes, wanted: Bits) -> Bits:
    """Which lines of a text have wanted words only."""
    if not text:
        return np.zeros(0, bool)
    _, closes, slots = words_in(text)
    missing: NDArray[np.int64] = np.diff(np.cumsum(~wanted[slots])[closes], prepend=0)
    kept: Bits = missing == 0
    return kept
