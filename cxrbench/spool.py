"""Long sequences that are not held in memory: small ones are tuples, large ones lie in a file without a name.

A run over a whole data set has hundreds of thousands of samples, each some kilobytes as Python objects. What a program
needs of them is to walk through them, or to take the one at a place. The file is private, has no name from the moment
it is made, and goes with the process, however that ends. It lies where the system puts temporary files (TMPDIR).
Standard library only.
"""

from __future__ import annotations

import marshal
import os
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from itertools import islice
from typing import Any, Generic, TypeVar, overload

LIMIT = 20_000
"""Items up to which a sequence is a plain tuple."""

BLOCK = 512
"""Items read at a time in passing."""

T = TypeVar("T")
Plain = Any
"""What `marshal` takes: None, numbers, texts, bytes, and tuples, lists and dicts of them."""


class Spool(Sequence[T], Generic[T]):
    """Items in a file. `unpack` makes an item of the plain value that was kept of it; reading is thread-safe."""

    def __init__(self, unpack: Callable[[Plain], T]) -> None:
        self._unpack = unpack
        file = tempfile.TemporaryFile(buffering=1 << 16)  # noqa: SIM115 - closed with the last reference
        self._file = file
        self._ends = array("Q", [0])
        weakref.finalize(self, file.close)

    def add(self, value: Plain) -> None:
        """Put one more at the end; not to be mixed with reading."""
        body = marshal.dumps(value)
        self._file.write(body)
        self._ends.append(self._ends[-1] + len(body))

    def close(self) -> None:
        """Nothing more will be added."""
        self._file.flush()

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return tuple(self._between(start, max(start, stop)))
            return tuple(self[each] for each in range(start, stop, step))
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        return next(self._between(place, place + 1))

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), BLOCK):
            yield from self._between(start, min(start + BLOCK, len(self)))

    def _between(self, start: int, stop: int) -> Iterator[T]:
        first, last = self._ends[start], self._ends[stop]
        body = memoryview(os.pread(self._file.fileno(), last - first, first))
        for place in range(start, stop):
            yield self._unpack(marshal.loads(body[self._ends[place] - first : self._ends[place + 1] - first]))  # noqa: S302 - our own file


class Ids(Set[str]):
    """Distinct texts in the order they came, each with its place, in a sixth of the memory that a `dict` takes.

    For ids of hundreds of thousands of samples, of which a program needs several sets and mappings. Their UTF-8 stands
    in one row of bytes; a table of places finds a text by its hash. Exact: what is found is compared.

    >>> ids = Ids(["s2", "s1"])
    >>> ids.add("s1"), ids.place("s1"), ids.place("s3"), list(ids)
    (False, 1, -1, ['s2', 's1'])
    """

    __slots__ = ("_body", "_ends", "_table")
    __hash__ = None  # type: ignore[assignment]  # it grows

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._body = bytearray()
        self._ends = array("Q", [0])
        self._table = array("i", [-1]) * 16
        for text in texts:
            self.add(text)

    def add(self, text: str) -> bool:
        """Add a text; False where it was there."""
        key = text.encode("utf-8", "surrogatepass")
        slot = self._slot(text, key)
        if self._table[slot] >= 0:
            return False
        self._table[slot] = len(self)
        self._body += key
        self._ends.append(len(self._body))
        if 2 * len(self) > len(self._table):
            self._widen()
        return True

    def place(self, text: str) -> int:
        """Its place, from 0 in the order of adding; -1 where it is not there."""
        return self._table[self._slot(text, text.encode("utf-8", "surrogatepass"))]

    def at(self, place: int) -> str:
        """The text at a place."""
        return self._body[self._ends[place] : self._ends[place + 1]].decode("utf-8", "surrogatepass")

    def __contains__(self, text: object) -> bool:
        return isinstance(text, str) and self.place(text) >= 0

    def __iter__(self) -> Iterator[str]:
        return map(self.at, range(len(self)))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def _slot(self, text: str, key: bytes) -> int:
        """Where in the table the text stands, or would."""
        table, ends, body, last = self._table, self._ends, self._body, len(self._table) - 1
        slot = hash(text) & last
        while (place := table[slot]) >= 0 and body[ends[place] : ends[place + 1]] != key:
            slot = slot + 1 & last
        return slot

    def _widen(self) -> None:
        self._table = array("i", [-1]) * (4 * len(self._table))
        last = len(self._table) - 1
        for place, text in enumerate(self):
            slot = hash(text) & last
            while self._table[slot] >= 0:
                slot = slot + 1 & last
            self._table[slot] = place


class Growing(Generic[T]):
    """Builds a sequence item by item: a tuple, or a `Spool` once there are more than `LIMIT`."""

    def __init__(self, pack: Callable[[T], Plain], unpack: Callable[[Plain], T]) -> None:
        self._pack, self._unpack = pack, unpack
        self._items: list[T] = []
        self._spool: Spool[T] | None = None

    def append(self, item: T) -> None:
        """Add an item."""
        if self._spool is not None:
            self._spool.add(self._pack(item))
            return
        self._items.append(item)
        if len(self._items) > LIMIT:
            self._spool = Spool(self._unpack)
            for each in self._items:
                self._spool.add(self._pack(each))
            self._items = []

    def extend(self, items: Iterable[T]) -> None:
        """Add several items."""
        for item in items:
            self.append(item)

    def __len__(self) -> int:
        return len(self._items) if self._spool is None else len(self._spool)

    def finish(self) -> Sequence[T]:
        """The sequence; nothing can be added afterwards."""
        if self._spool is None:
            return tuple(self._items)
        self._spool.close()
        return self._spool


class Each(Sequence[T], Generic[T]):
    """Items made one by one when they are asked for: `make(i)` for i below `count`."""

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        if isinstance(index, slice):
            return tuple(self._make(each) for each in range(*index.indices(self._count)))
        place = index + self._count if index < 0 else index
        if not 0 <= place < self._count:
            raise IndexError(index)
        return self._make(place)

    def __iter__(self) -> Iterator[T]:
        return (self._make(place) for place in range(self._count))


class Passing(Sequence[T], Generic[T]):
    """Something of every item of a sequence, made again in each pass: a column that is not kept."""

    def __init__(self, items: Sequence[Any], make: Callable[[Any], T]) -> None:
        self._items, self._make = items, make

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        if isinstance(index, slice):
            return tuple(self._make(each) for each in self._items[index])
        return self._make(self._items[index])

    def __iter__(self) -> Iterator[T]:
        return map(self._make, self._items)


def blocks(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """The items in tuples of `size`, the last one as it comes."""
    waiting = iter(items)
    while block := tuple(islice(waiting, size)):
        yield block
