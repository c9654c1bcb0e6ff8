"""The part of METEOR's paraphrase table that given texts can use, so that a Java process starts in half a second.

The table of METEOR 1.5 has 5.3 million entries; loading it takes a Java process about six seconds and 1.5 GB, the very
most of a run over a few thousand pairs. An entry can matter only if every word of both its phrases occurs in the texts.
Here the table is read once, and entries with a word that is not in the texts are left out; what stays keeps its order.
Leaving out what cannot match changes no alignment, which the tests check against the full table.

A word is tested by a hash (of its first eight bytes and its length), so a few entries too many stay; never one too
few. Touches numpy and files, which are their owner's alone: which entries are in one tells which words the texts have.
"""

from __future__ import annotations

import gzip
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.privacy import private_file

Bits = NDArray[np.bool_]

_READ = 1 << 18
"""Bytes read at a time: the arrays of one piece fit the processor's cache."""

_SLOT_BITS = 22
_MIX = np.uint64(0x9E3779B97F4A7C15)
"""Odd 64-bit multiplier of the hash (2**64 over the golden ratio: spreads neighbouring values)."""

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
        self.known: Bits = np.zeros(1 << _SLOT_BITS, bool)
        """Slots of the words the table has, filled by `write`."""

    def write(self, words: Iterable[str], out: Path) -> int:
        """Write the entries whose words are all among `words` to `out`; returns how many there are.

        Raises:
            CxrbenchError: the table does not consist of whole entries.
        """
        wanted: Bits = np.zeros(1 << _SLOT_BITS, bool)
        wanted[_slots(words)] = True
        written = 0
        with open(out, "wb", opener=private_file) as packed, gzip.open(packed, "wb", compresslevel=1) as file:
            for piece in self._kept(wanted):
                file.writelines(piece)
                written += len(piece)
        return written

    def has(self, words: Iterable[str]) -> bool:
        """Whether a word may be in the table (surely not where this is False); only after `write`."""
        return bool(self.known[_slots(words)].any())

    def _kept(self, wanted: Bits) -> Iterator[list[bytes]]:
        """Kept entries, piece by piece in order; unpacking and filtering overlap."""
        with ThreadPoolExecutor(1) as pool:
            waiting: deque[Future[list[bytes]]] = deque()
            for piece in _pieces(self.source):
                waiting.append(pool.submit(_keep, piece, wanted, self.known))
                if len(waiting) > 16:
                    yield waiting.popleft().result()
            for future in waiting:
                yield future.result()


def _pieces(source: Path) -> Iterator[bytes]:
    """Pieces of the unpacked table that end at the end of an entry."""
    rest = b""
    try:
        with gzip.open(source, "rb") as file:
            while block := file.read(_READ):
                block = rest + block
                end = len(block)
                for _ in range(block.count(b"\n") % 3 + 1):
                    end = block.rfind(b"\n", 0, end)
                if end > 0:
                    yield block[: end + 1]
                    block = block[end + 1 :]
                rest = block
    except (OSError, EOFError) as error:
        raise _damaged(source) from error
    if rest:
        raise _damaged(source)


def _damaged(source: Path) -> CxrbenchError:
    return CxrbenchError(
        "METEOR's paraphrase table is damaged",
        where=str(source),
        fix="pip install --force-reinstall --no-deps pycocoevalcap",
        code=Exit.INFRASTRUCTURE,
    )


_FIRST = np.array([(1 << 8 * length) - 1 for length in range(9)], np.uint64)
"""Masks of the first 0 to 8 bytes of a little-endian number."""


def _words(text: bytes) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.uint64]]:
    """Where each word ends (at a space or line end), whether a line ends there, and the word's slot."""
    data = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(data <= ord(" "))
    starts = np.empty_like(ends)
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    windows = np.ndarray(len(data), np.dtype("<u8"), text + bytes(8), strides=(1,))
    length = ends - starts
    slots = windows[starts]
    slots &= _FIRST[np.minimum(length, 8)]
    slots += length.view(np.uint64)
    slots *= _MIX
    slots >>= np.uint64(64 - _SLOT_BITS)
    return ends, data[ends] == ord("\n"), slots


def _slots(words: Iterable[str]) -> NDArray[np.uint64]:
    return _words("\n".join([*words, ""]).encode("utf-8", "replace") or b"\n")[2]


def _keep(piece: bytes, wanted: Bits, known: Bits) -> list[bytes]:
    """Entries of a piece (whole entries) whose words are all wanted; marks the words it sees in `known`."""
    ends, closes, slots = _words(piece)
    lines = np.flatnonzero(closes)
    first, last = lines[0::3], lines[2::3]
    slots[first] = slots[last]  # the probability, which METEOR does not read, is no word
    known[slots] = True
    missing = np.cumsum(~wanted[slots])
    whole = np.flatnonzero(missing[first] == missing[last])
    begin, end = ends[first[whole]] + 1, ends[last[whole]] + 1
    return [b"1\n" + piece[a:b] for a, b in zip(begin.tolist(), end.tolist(), strict=True)]
