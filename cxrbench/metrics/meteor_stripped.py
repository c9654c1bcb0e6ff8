"""METEOR's paraphrase table without what METEOR never reads, kept in the user's cache: unpacking it takes seconds.

The table has 5.3 million entries of three lines (probability, phrase, phrase), packed, 272 MB unpacked. Stripped, every
run of entries with one first phrase names it once, and the probabilities are gone: 104 MB, of which a scoring looks at
the first phrases and at the runs its texts can use. A kept form is used where source, sizes and checksum are right;
else it is made anew, and where the cache cannot be written it is made for each scoring. It holds nothing of the texts.

Touches numpy and files.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from operator import ne
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrbench.atomic import replacing
from cxrbench.config import cache_dir
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.privacy import claim_folder
from cxrbench.reading import open_regular

FORMAT = 1
"""Raise when what is kept, or the hash of words, changes."""

SLOT_BITS = 22
_MIX = np.uint64(0x9E3779B97F4A7C15)
"""Odd 64-bit multiplier of the hash (2**64 over the golden ratio: spreads neighbouring values)."""

_READ = 1 << 18
"""Bytes read at a time: the arrays of one piece fit the processor's cache."""

_HEADER = 1024
"""Bytes of a kept form's first line, at most."""

_FIRST = np.array([(1 << 8 * length) - 1 for length in range(9)], np.uint64)
"""Masks of the first 0 to 8 bytes of a little-endian number."""

Bits = NDArray[np.bool_]


def words_in(text: bytes) -> tuple[NDArray[np.int64], Bits, NDArray[np.uint64]]:
    """Where each word ends (at a space or line end), whether a line ends there, and the word's slot.

    A slot is a hash of the first eight bytes and the length. The text ends with a line end.
    """
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
    slots >>= np.uint64(64 - SLOT_BITS)
    return ends, data[ends] == ord("\n"), slots


def slots_of(words: Iterable[str]) -> NDArray[np.uint64]:
    """The slots of words."""
    return words_in("\n".join([*words, ""]).encode("utf-8", "replace") or b"\n")[2]


@dataclass(frozen=True, slots=True)
class Stripped:
    """A table by runs of entries with one first phrase.

    `firsts`: a line for each of the r runs; `seconds`: a line for each entry, those of a run together. `entries` (r,)
    says how many a run has, `lengths` (r,) how many bytes its lines take. `known`: slots of all words.
    """

    firsts: bytes
    seconds: memoryview
    entries: NDArray[np.uint32]
    lengths: NDArray[np.uint32]
    known: Bits

    def parts(self) -> tuple[bytes | memoryview, ...]:
        """What is written of it, in the order of `read`."""
        return (
            self.firsts, self.seconds, self.entries.tobytes(), self.lengths.tobytes(),
            np.packbits(self.known).tobytes(),
        )  # fmt: skip


def stripped(source: Path) -> Stripped:
    """The table in `source`, from the cache where it is kept there.

    Raises:
        CxrbenchError: the table does not consist of whole entries.
    """
    name = _content(source)
    file = cache_dir() / "metrics" / "meteor" / f"paraphrases-{name[:16]}-v{FORMAT}"
    found = _read(file, name)
    if found is None:
        found = _strip(source)
        with suppress(CxrbenchError):  # a cache that cannot be written costs time, at each scoring, and nothing else
            claim_folder(file.parent)
            _write(file, name, found)
    return found


def _content(source: Path) -> str:
    """SHA-256 of a file; every time, for a file may be replaced under its name."""
    made = hashlib.sha256()
    try:
        with open_regular(source) as stream:
            while block := stream.read(_READ):
                made.update(block)
    except OSError as error:
        raise _damaged(source) from error
    return made.hexdigest()


def _write(file: Path, source: str, made: Stripped) -> None:
    parts = made.parts()
    header = {"source": source, "sizes": [len(part) for part in parts], "crc": _checksum(parts)}
    with replacing(file) as out:
        out.write(json.dumps(header).encode().ljust(_HEADER - 1) + b"\n")
        for part in parts:
            out.write(part)


def _checksum(parts: Iterable[bytes | memoryview]) -> int:
    made = 0
    for part in parts:
        made = zlib.crc32(part, made)
    return made


def _read(file: Path, source: str) -> Stripped | None:
    """What is kept in a file; None where there is none, or it is not what was written."""
    try:
        with open_regular(file) as stream:
            header, body = json.loads(stream.read(_HEADER)), memoryview(stream.read())
        sizes = [int(size) for size in header["sizes"]]
        if header["source"] != source or header["crc"] != _checksum([body]) or sum(sizes) != len(body):
            return None
        ends = np.cumsum(sizes)
        firsts, seconds, entries, lengths, known = (
            body[end - size : end] for size, end in zip(sizes, ends.tolist(), strict=True)
        )
        return Stripped(
            bytes(firsts), seconds, np.frombuffer(entries, np.uint32), np.frombuffer(lengths, np.uint32),
            np.unpackbits(np.frombuffer(known, np.uint8)).astype(bool),
        )  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _strip(source: Path) -> Stripped:
    """Read the table; unpacking and stripping overlap."""
    known: Bits = np.zeros(1 << SLOT_BITS, bool)
    made = list(_each(source, known))
    return Stripped(
        b"".join(firsts for firsts, *_ in made),
        memoryview(b"".join(seconds for _, seconds, *_ in made)),
        np.concatenate([np.zeros(0, np.uint32), *(entries for *_, entries, _ in made)]).astype(np.uint32),
        np.concatenate([np.zeros(0, np.uint32), *(lengths for *_, lengths in made)]).astype(np.uint32),
        known,
    )


_Piece = tuple[bytes, bytes, NDArray[np.uint32], NDArray[np.uint32]]


def _each(source: Path, known: Bits) -> Iterator[_Piece]:
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[_Piece]] = deque()
        for piece in _pieces(source):
            waiting.append(pool.submit(_runs, piece, known))
            if len(waiting) > 16:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()


def _runs(piece: bytes, known: Bits) -> _Piece:
    """The runs of a piece (whole entries); marks the words it sees in `known`.

    A run that goes on in the next piece begins anew there.
    """
    lines = piece.split(b"\n")
    firsts, seconds = lines[1::3], lines[2::3]
    changes = np.fromiter(map(ne, firsts[1:], firsts), bool, len(firsts) - 1)
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    sizes = np.fromiter(map(len, seconds), np.uint32, len(seconds)) + np.uint32(1)
    names = b"\n".join([*(firsts[start] for start in starts.tolist()), b""])
    text = b"\n".join([*seconds, b""])
    for words in (names, text):
        known[words_in(words)[2]] = True
    entries = np.diff(np.append(starts, len(firsts))).astype(np.uint32)
    return names, text, entries, np.add.reduceat(sizes, starts).astype(np.uint32)


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
