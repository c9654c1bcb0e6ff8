"""A parser that `benchmarks.fuzz` attacks, the words of the formats, and readers made of files and bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Reader = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """A parser under attack.

    `make` imports what it needs and returns a reader that may use `folder` for scratch files; `seeds` are made by a
    function, so that listing targets costs nothing. `longest` bounds an input. `words` are the format's own tokens.
    """

    name: str
    reads: str
    make: Callable[[Path], Reader]
    seeds: Callable[[], Sequence[bytes]]
    words: tuple[str, ...] = ()
    longest: int = 600


JSON = ("{", "}", "[", "]", ":", ",", '"', "null", "true", "NaN", "Infinity", "1e999", "-1", "\\ud800", "\\u0000")
ROWS = (*JSON, "../", "/etc/passwd", "\\u2028", "n" * 300)
"""Words of rows that name images: paths that lead out, a name longer than a file system takes."""

YAML = (
    "&a ",
    "*a",
    "<<: ",
    "!!python/object/apply:os.system ",
    "!!binary ",
    "? ",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "|\n",
    ">-\n",
    "---\n",
    "2001-99-99",
    "0x",
    "1:60",
    ".inf",
    ".nan",
    "~",
    "%YAML 1.1\n",
)


def in_file(folder: Path, name: str, read: Callable[[Path], object]) -> Reader:
    """A reader of a file of this name."""
    file = folder / name

    def write_and_read(data: bytes) -> object:
        file.write_bytes(data)
        return read(file)

    return write_and_read


def by_first_byte(readers: Sequence[Reader]) -> Reader:
    """The first byte of the input chooses the reader."""
    return lambda data: readers[data[0] % len(readers)](data[1:]) if data else None


def each(number: int, *files: bytes) -> list[bytes]:
    """Seeds for one of several readers."""
    return [bytes([number]) + data for data in files]


def each_of(readers: int, *files: bytes) -> list[bytes]:
    """Seeds for every one of several readers."""
    return [bytes([number]) + data for number in range(readers) for data in files]
