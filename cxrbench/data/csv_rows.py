"""Rows of a CSV table, read by one set of rules for every data set.

Every column has one name of its own and every row as many cells as the header: a row that lost a cell in an editor
would move the rest under the wrong names without a word. Messages name lines, never cells. Standard library only.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, count
from typing import TYPE_CHECKING, TextIO

from cxrbench.data.strict_json import shown
from cxrbench.errors import CxrbenchError, suggest

if TYPE_CHECKING:
    from _csv import Reader

FIX = "use the file as downloaded"

SEPARATORS: Mapping[str, str] = {";": "semicolons", "\t": "tabs"}
"""What programs write between the cells of a table in place of commas."""


LONGEST = 1 << 20
"""Characters of a line: a packed table of a few megabytes may hold a line of gigabytes."""


def lines_of(text: TextIO, where: str) -> Iterator[str]:
    """The lines of a table with their ends.

    Raises:
        CxrbenchError: a line is longer than `LONGEST`; it is not read to its end.
    """
    for number in count(1):
        line = text.readline(LONGEST + 1)
        if len(line) > LONGEST:
            place = f"{where}, line {number:,}"
            raise CxrbenchError(f"a line has more than {LONGEST:,} characters", where=place, fix=FIX)
        if not line:
            return
        yield line


def wrong_separator(separator: str, where: str) -> CxrbenchError:
    """The error for a table whose cells are not separated by commas: a spreadsheet has exported it anew."""
    return CxrbenchError(
        f"the columns are separated by {SEPARATORS[separator]}, not commas", where=f"{where}, line 1", fix=FIX
    )


def open_rows(
    lines: Iterable[str], where: str, needed: Sequence[str]
) -> tuple[tuple[str, ...], Iterator[tuple[int, list[str]]]]:
    """The header of a table, and its rows with the line each ends on; blank lines are passed over.

    Args:
        lines: the text, line by line with its line ends.
        where: the file for messages.
        needed: columns that must be there.

    Raises:
        CxrbenchError: at once: a byte order mark, no header, another separator than the comma, a column missing or
            there twice; while the rows are read: a row of another length, a quote that is not closed.
    """
    stream = iter(lines)
    first = next(stream, "")
    for separator in SEPARATORS:
        if needed and set(needed) <= _names(first, separator) - _names(first, ","):
            raise wrong_separator(separator, where)
    reader = csv.reader(chain([first], stream), strict=True)
    try:
        header = tuple(next(reader, []))
    except csv.Error as error:
        raise _damaged(error, where, reader.line_num) from None
    if header and header[0].startswith("\ufeff"):
        raise CxrbenchError("the table begins with a byte order mark: an editor has rewritten it", where=where, fix=FIX)
    for name in needed:
        if name not in header:
            raise CxrbenchError(
                f"the table has no column {name!r}{suggest(name, filter(_plain, header))}",
                where=f"{where}, line 1",
                fix=f"{FIX}; it needs the columns {', '.join(needed)}",
            )
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise CxrbenchError(f"the table has the column {shown(twice)!r} twice", where=f"{where}, line 1", fix=FIX)
    return header, _rows(reader, where, len(header))


def _names(line: str, separator: str) -> set[str]:
    """Column names of a header line, to recognise it only: reading is strict."""
    return {cell.strip().strip('"') for cell in line.split(separator)}


def _plain(name: str) -> bool:
    return shown(name) == name


def _rows(reader: Reader, where: str, width: int) -> Iterator[tuple[int, list[str]]]:
    try:
        for row in reader:
            if len(row) == width:
                yield reader.line_num, row
            elif row:
                many = "more" if len(row) > width else "fewer"
                place = f"{where}, line {reader.line_num:,}"
                raise CxrbenchError(f"the row has {many} cells than the header", where=place, fix=FIX)
    except csv.Error as error:
        raise _damaged(error, where, reader.line_num) from None


def _damaged(error: csv.Error, where: str, line: int) -> CxrbenchError:
    return CxrbenchError(f"the table is damaged: {error}", where=f"{where}, line {line:,}", fix=FIX)
