"""How often each of millions of keys occurs, without holding them in memory: a sorted file, read in passing.

Document frequencies of a whole data set's reports do not fit into memory beside everything else: 400,000 reports have
some twenty million distinct n-grams. Keys are 64-bit hashes, evenly spread, so they are put in order range by range of
their upper bits. Touches numpy, errors, reading and atomic.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cxrbench.atomic import replacing
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.reading import open_regular

Keys = NDArray[np.uint64]
Numbers = NDArray[np.int64]
Records = NDArray[np.void]

RECORD = np.dtype([("key", "<u8"), ("number", "<u4")])
"""What lies in a file for a key: 12 bytes."""

BLOCK = 1 << 16
"""Records read at a time."""

TOGETHER = 1 << 20
"""Records put in order at a time, if no range of upper bits has more."""

IN_MEMORY = 48 << 20
"""Bytes of tables that are kept in memory while they are collected."""

_BITS = 10
_EDGES = np.arange(1, 1 << _BITS, dtype=np.uint64) << np.uint64(64 - _BITS)


def merge(tables: Sequence[tuple[Keys, Numbers]]) -> tuple[Keys, Numbers]:
    """Return the distinct keys of several tables, ascending, with the sums of their numbers."""
    keys = np.concatenate([np.zeros(0, np.uint64), *(each for each, _ in tables)])
    numbers = np.concatenate([np.zeros(0, np.int64), *(each for _, each in tables)])
    if len(keys) == 0:
        return keys, numbers
    order = np.argsort(keys)
    keys = keys[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    return keys[starts], np.add.reduceat(numbers[order], starts)


def _close(file: IO[bytes]) -> None:
    """A temporary file that a full disk did not take whole fails once more when it is closed; it goes all the same."""
    with suppress(OSError):
        file.close()


@contextmanager
def _temporary() -> Iterator[None]:
    """Say which disk it is that refuses."""
    try:
        yield
    except OSError as error:
        raise CxrbenchError(
            f"there is no room for temporary files: {error.strerror}",
            where=tempfile.gettempdir(),
            fix="TMPDIR=FOLDER of a disk with more room",
            code=Exit.INFRASTRUCTURE,
        ) from error


class Counts:
    """Distinct keys, ascending, each with its number, in a file; `digest` is the SHA-256 of its bytes (hex)."""

    def __init__(self, file: IO[bytes], size: int, digest: str) -> None:
        self._file, self._size, self.digest = file, size, digest
        weakref.finalize(self, _close, file)

    def __len__(self) -> int:
        return self._size

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Counts) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def blocks(self) -> Iterator[tuple[Keys, Numbers]]:
        """All keys and numbers, a block at a time."""
        for start in range(0, self._size, BLOCK):
            count = min(BLOCK, self._size - start)
            body = os.pread(self._file.fileno(), count * RECORD.itemsize, start * RECORD.itemsize)
            if len(body) != count * RECORD.itemsize:
                raise CxrbenchError(
                    "a table of counts became shorter while it was read",
                    fix="score again",
                    code=Exit.INFRASTRUCTURE,
                )
            yield _columns(np.frombuffer(body, RECORD))

    def look_up(self, keys: Keys) -> Numbers:
        """Return the number of each key (k,), in any order and as often as wanted; 0 for one that is not there."""
        wanted, places = np.unique(keys, return_inverse=True)
        numbers = np.zeros(len(wanted), np.int64)
        for known, known_numbers in self.blocks():
            start, stop = np.searchsorted(wanted, known[[0, -1]], side="left")
            stop += stop < len(wanted) and wanted[stop] == known[-1]
            at = np.searchsorted(known, wanted[start:stop])
            found = known[at] == wanted[start:stop]
            numbers[start:stop][found] = known_numbers[at[found]]
        return numbers[places]

    def save(self, path: Path) -> None:
        """Write the file under a name, whole or not at all.

        Raises:
            CxrbenchError: the disk is full or refuses.
        """
        with replacing(path) as out:
            for keys, numbers in self.blocks():
                out.write(_records(keys, numbers).tobytes())

    @classmethod
    def open(cls, path: Path, digest: str) -> Counts:
        """Take up what `save` has written.

        Raises:
            ValueError: these are not the bytes with this digest, or not keys in ascending order.
            OSError: there is no such file, or it is a pipe, a device or a folder.
        """
        file = open_regular(path)
        size, rest = divmod(os.fstat(file.fileno()).st_size, RECORD.itemsize)
        made = cls(file, size, digest)
        found, last = hashlib.sha256(), None
        for keys, numbers in made.blocks():
            if (last is not None and keys[0] <= last) or not (keys[1:] > keys[:-1]).all():
                raise ValueError("the keys do not ascend")
            last = keys[-1]
            found.update(_records(keys, numbers).tobytes())
        if rest or found.hexdigest() != digest:
            raise ValueError("other bytes than were written")
        return made


class Counting:
    """Sums up tables of counts, however many, in memory that does not grow with them.

    Raises:
        CxrbenchError: there is no room for temporary files (TMPDIR): 12 bytes for each key of each table.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed with the last reference
        self._bounds: list[NDArray[np.int64]] = []
        self._written = 0
        weakref.finalize(self, _close, self._file)

    @_temporary()
    def add(self, keys: Keys, numbers: Numbers) -> None:
        """Add a table: distinct keys (n,), ascending, and their numbers (n,), each below 2^32."""
        inner = np.searchsorted(keys, _EDGES)
        self._bounds.append(self._written + np.concatenate([[0], inner, [len(keys)]]))
        self._file.seek(self._written * RECORD.itemsize)
        self._file.write(_records(keys, numbers).tobytes())
        self._written += len(keys)

    @_temporary()
    def finish(self, least: int) -> Counts:
        """All keys whose numbers sum up to `least` or more; nothing can be added afterwards."""
        out = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the last reference
        size, digest = 0, hashlib.sha256()
        for start, stop in self._ranges():
            keys, numbers = merge([self._between(bounds[start], bounds[stop]) for bounds in self._bounds])
            kept = numbers >= least
            body = _records(keys[kept], numbers[kept]).tobytes()
            digest.update(body)
            out.write(body)
            size += int(kept.sum())
        out.flush()
        _close(self._file)
        return Counts(out, size, digest.hexdigest())

    def _ranges(self) -> Iterator[tuple[int, int]]:
        """Neighbouring ranges of upper bits, as many together as memory takes."""
        sizes = sum((np.diff(bounds) for bounds in self._bounds), np.zeros(1 << _BITS, np.int64))
        start = held = 0
        for place, size in enumerate(sizes.tolist()):
            if held and held + size > TOGETHER:
                yield start, place
                start, held = place, 0
            held += size
        yield start, 1 << _BITS

    def _between(self, start: int, stop: int) -> tuple[Keys, Numbers]:
        self._file.seek(int(start) * RECORD.itemsize)
        return _columns(np.frombuffer(self._file.read(int(stop - start) * RECORD.itemsize), RECORD))


def _records(keys: Keys, numbers: Numbers) -> Records:
    made: NDArray[Any] = np.empty(len(keys), RECORD)
    made["key"], made["number"] = keys, numbers
    return made


def _columns(records: Records) -> tuple[Keys, Numbers]:
    return records["key"].astype(np.uint64), records["number"].astype(np.int64)
