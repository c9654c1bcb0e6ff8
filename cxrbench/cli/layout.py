"""What tables of a terminal are made of: the console, plain tables, numbers, and lines that fit."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cxrbench.types import COUNTED

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 100
"""Columns used when the output is no terminal and COLUMNS does not say otherwise."""


def console() -> Console:
    """Standard output; 100 columns when it is a file or a pipe."""
    from rich.console import Console

    class Output(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would exit with 1, which here means a regression; main.py knows better

    named = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    return Output(width=None if named else WIDTH, highlight=False, soft_wrap=False, emoji=False, markup=False)


def table(headings: Sequence[str], right: Sequence[int] = (), gap: int = 2) -> Table:
    """A plain table; columns whose number is in `right` are right-aligned, `gap` spaces stand between columns."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        numeric = index in right
        made.add_column(heading, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    return made


def whole(made: Table, *, names: bool = True) -> Table:
    """Give numeric columns (and, unless `names` is False, the first) the width of their widest cell: none is cut."""
    from rich.cells import cell_len

    for number, column in enumerate(made.columns):
        if column.justify == "right" or (names and number == 0):
            cells = [str(cell) for cell in (column.header, *column.cells)]
            column.no_wrap = True  # or the others would not give way to it
            column.min_width = max(cell_len(line) for cell in cells for line in cell.splitlines() or [""])
    return made


def figure(value: float | None, unit: str = "") -> str:
    """A number for a table: four decimals for scores, fewer for large ones, a dash for 0/0.

    >>> figure(0.17524345), figure(31.25), figure(None)
    ('0.1752', '31.2', '-')
    """
    if value is None:
        return "-"
    if unit in COUNTED:
        return f"{value:.0f}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"


def interval(ci: Sequence[float] | None, unit: str = "") -> str:
    """An interval for a table."""
    return "-" if ci is None else f"[{figure(ci[0], unit)}, {figure(ci[1], unit)}]"


def signed(value: float | None) -> str:
    """A difference with its sign."""
    if value is None:
        return "-"
    return f"{value:+.4f}" if abs(value) < 10 else f"{value:+.1f}"


def rate(value: float) -> str:
    """A rate with about three digits.

    >>> rate(19918.4), rate(3.14159)
    ('19,918', '3.14')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def size(count: int | None) -> str:
    """Bytes in a unit a person reads.

    >>> size(3_221_225_472)
    '3.0 GiB'
    """
    if not count:
        return "-"
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.1f} {unit}" if unit != "B" else f"{amount:.0f} B"
        amount /= 1024
    return f"{amount:.1f} TiB"


def many(count: int, noun: str) -> str:
    """A count with its noun, the plural with an s.

    >>> many(1, "patient"), many(2, "batch")
    ('1 patient', '2 batches')
    """
    return f"{count} {noun}" + ("" if count == 1 else "es" if noun.endswith("ch") else "s")


def flowing(lead: str, parts: Sequence[str], width: int) -> list[str]:
    """Parts joined by commas on as few lines as fit, further lines indented; a part is never broken.

    >>> flowing("f1:", ["edema 0.5", "effusion 0.25"], 16)
    ['f1: edema 0.5,', '  effusion 0.25']
    """
    lines, line = [], lead
    for number, part in enumerate(parts, start=1):
        piece = part + ("," if number < len(parts) else "")
        if len(line) + 1 + len(piece) > width and line.strip():
            lines.append(line)
            line = f"  {piece}"
        else:
            line = f"{line} {piece}"
    return [*lines, line]


def wrapped(line: str, width: int, indent: str = "") -> list[str]:
    """A line on as many lines as it needs, further ones indented by two more; a word is never broken.

    >>> wrapped("read by the embedded annotators", 16, "  ")
    ['  read by the', '    embedded', '    annotators']
    """
    return textwrap.wrap(
        line, width, initial_indent=indent, subsequent_indent=f"{indent}  ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
