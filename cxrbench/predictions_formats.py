"""Tables people have, row by row: JSONL, CSV, TSV and Parquet, each cell as it was written.

What cannot be understood is an error that names file and row and never repeats a text. Touches errors only; pyarrow
inside functions.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cxrbench.errors import CxrbenchError, suggest

LARGEST = 4 << 30
"""Bytes of a file, and of a Parquet file's texts once unpacked: a million reports have about one of the four."""

LARGEST_BLOCK = 64 << 20
"""Bytes that one column of 1,024 rows may have, written out: far beyond reports, far below a machine's memory."""

ID_COLUMNS = ("sample_id", "study_id")
"""Columns that may hold the key, in this order of preference."""

TEXT, REFERENCE, PATIENT = "prediction", "reference", "patient_id"

SPREADSHEET_ERRORS = frozenset({"#NAME?", "#REF!", "#VALUE!", "#N/A", "#DIV/0!", "#NULL!", "#NUM!"})
"""What a spreadsheet leaves where it took a text for a formula ("- lungs clear" begins with a minus)."""

FLOAT_ID = re.compile(r"[+-]?[0-9]+(\.[0-9]*([eE][+-]?[0-9]+)?|[eE]\+[0-9]+)")
"""What programs make of a number that was an id: pandas 1234.0 beside an empty cell, a spreadsheet 1.23457E+11."""

SEPARATORS: Mapping[str, str] = {",": "commas", "\t": "tabs", ";": "semicolons"}
"""What stands between the columns of tables people have. Spreadsheets write semicolons in much of Europe."""

Record = tuple[str, Mapping[str, Any]]
"""Where a row stands ("line 7", "row 7"), and its cells by column."""


def id_column(path: Path, where: str, names: Iterable[Any]) -> str:
    """Which of the columns is the key; an error where there is none, or no prediction."""
    there = [str(name) for name in names]
    found = [name for name in ID_COLUMNS if name in there]
    missing = " or ".join(ID_COLUMNS) if not found else TEXT if TEXT not in there else ""
    if missing:
        near = suggest(TEXT if found else ID_COLUMNS[0], there)
        raise CxrbenchError(
            f"the predictions file has no column {missing}{near}",
            where=f"{path}, {where}",
            fix=f"add it, or rename the column that holds it to {ID_COLUMNS[0] if not found else TEXT}",
        )
    return found[0]


def _decode(path: Path, body: bytes) -> str:
    """UTF-8 with or without a byte order mark; anything else is an error that names the line."""
    _refuse_utf16(path, body)
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _no_utf8(path, body.count(b"\n", 0, error.start) + 1, error.start) from None


def _refuse_utf16(path: Path, body: bytes) -> None:
    if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise CxrbenchError("the file is UTF-16, not UTF-8", where=str(path), fix=_recode(path, "UTF-16"))


def _no_utf8(path: Path, line: int, byte: int) -> CxrbenchError:
    return CxrbenchError(
        "the file is not UTF-8", where=f"{path}, line {line}, byte {byte}", fix=_recode(path, "WINDOWS-1252")
    )


def _recode(path: Path, guess: str) -> str:
    return f"iconv -f {guess} -t UTF-8 {path.name} > new{path.suffix}   (if {guess} is what it is)"


def _lines(path: Path, lines: Iterable[bytes]) -> Iterator[tuple[int, str, bool]]:
    """Number and text of each line without its end, and whether no line break ends it."""
    start = 0
    for number, line in enumerate(lines, start=1):
        if number == 1:
            _refuse_utf16(path, line)
        skipped = len(codecs.BOM_UTF8) if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
        try:
            yield number, line[skipped:].decode().removesuffix("\n"), not line.endswith(b"\n")
        except UnicodeDecodeError as error:
            raise _no_utf8(path, number, start + skipped + error.start) from None
        start += len(line)


def jsonl(path: Path, lines: Iterable[bytes]) -> Iterator[Record]:
    """The rows of a JSONL file, from its lines: one at a time, as files can be large.

    Lines end at line feeds alone: str.splitlines would also cut at U+2028, which may stand inside a JSON string.
    """
    for number, line, last in _lines(path, lines):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            row = _ROW.decode(line)
        except (ValueError, RecursionError):
            raise CxrbenchError(
                "the last line is cut off" if last else "a line is not JSON",
                where=f"{path}, {where}",
                fix="write the file again: it may lack more than this row" if last else "one JSON object per line",
            ) from None
        except KeyError as error:
            raise CxrbenchError(f"a line has the key {error} twice", where=f"{path}, {where}", fix="keep one") from None
        if not isinstance(row, dict):
            raise CxrbenchError("a line is no JSON object", where=f"{path}, {where}", fix="one JSON object per line")
        yield where, row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        raise KeyError(next(name for name in names if names.count(name) > 1))
    return row


_ROW = json.JSONDecoder(object_pairs_hook=_unique)


def _delimited(delimiter: str) -> Callable[[Path, bytes], Iterator[Record]]:
    def read(path: Path, body: bytes) -> Iterator[Record]:
        text = _decode(path, body)
        _check_separator(path, text.partition("\n")[0], delimiter)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            _check_header(path, header, "line 1")
            if header:
                id_column(path, "line 1", header)
            for row in reader:
                if row:
                    yield _csv_row(path, reader.line_num, header, row)
        except csv.Error as error:
            raise CxrbenchError(
                f"the table cannot be read: {error}",
                where=f"{path}, line {reader.line_num}",
                fix='put texts with quotes or line breaks between double quotes, and write a quote as ""',
            ) from error

    return read


def _check_separator(path: Path, line: str, delimiter: str) -> None:
    """Refuse a table whose header is one once it is cut at another separator than the suffix says."""
    wanted = {*ID_COLUMNS, TEXT}
    names = {each: {cell.strip().strip('"').lower() for cell in line.split(each)} for each in SEPARATORS}
    for separator, word in SEPARATORS.items():
        if separator in line and wanted & names[separator] and not wanted & names[delimiter]:
            suffix = {",": ".csv", "\t": ".tsv"}.get(separator)
            raise CxrbenchError(
                f"the columns are separated by {word}, not {SEPARATORS[delimiter]}",
                where=f"{path}, line 1",
                fix=f"give the file's name the ending {suffix}" if suffix else _with_commas(path),
            )


def _with_commas(path: Path) -> str:
    """The command that writes a table of semicolons anew, every cell as it was."""
    code = (
        "import csv; "
        f"csv.writer(open('new.csv', 'w', newline='', encoding='utf-8')).writerows("
        f"csv.reader(open({path.name!r}, newline='', encoding='utf-8-sig'), delimiter=';'))"
    )
    return f"write it with commas: python3 -c {shlex.quote(code)}"


def _check_header(path: Path, header: list[str], where: str) -> None:
    """Refuse two columns of one name, by number: where the header is missing, its cells are a report's words."""
    for number, name in enumerate(header, start=1):
        first = header.index(name) + 1
        if name and first != number:
            raise CxrbenchError(
                f"columns {first} and {number} have the same name", where=f"{path}, {where}", fix="rename or drop one"
            )


def _csv_row(path: Path, line: int, header: list[str], row: list[str]) -> Record:
    where = f"line {line}"
    if len(row) != len(header):
        raise CxrbenchError(
            f"a row has {len(row)} cells under {len(header)} columns",
            where=f"{path}, {where}",
            fix="put texts that hold the delimiter between double quotes; if it is the last row, it may be cut off",
        )
    cells = dict(zip(header, row, strict=True))
    for name in (*ID_COLUMNS, PATIENT):
        if FLOAT_ID.fullmatch(cells.get(name, "")):
            raise CxrbenchError(
                f"a {name} is a number with a decimal point",
                where=f"{path}, {where}",
                fix="write ids as text (pandas makes 5 into 5.0 beside empty cells, a spreadsheet makes long ones "
                "into 1.2E+11); where the point belongs to them, use JSONL",
            )
    for name in (TEXT, REFERENCE):
        if cells.get(name) in SPREADSHEET_ERRORS:
            raise CxrbenchError(
                f"a spreadsheet has put {cells[name]} in the place of a {name}",
                where=f"{path}, {where}",
                fix="export the table without opening it in a spreadsheet",
            )
    return where, cells


def _parquet(path: Path, body: bytes) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        table = pq.ParquetFile(pa.BufferReader(body), read_dictionary=_dictionaries(path, body))
        _check_header(path, list(table.schema_arrow.names), "schema")
        for batch in table.iter_batches(batch_size=1024):
            _check_unpacked(path, batch, number)
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row
    except UnicodeDecodeError:
        raise CxrbenchError(
            "a text is not UTF-8", where=f"{path}, rows {number + 1} to {number + 1024}", fix="write the file as UTF-8"
        ) from None
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise CxrbenchError(
            "the Parquet file is damaged or cut off", where=str(path), fix="write it again, or use JSONL"
        ) from error


def _dictionaries(path: Path, body: bytes) -> list[str]:
    """Columns to be read as numbers into a table of distinct texts, as they are stored: all texts outside of lists.

    One text of megabytes takes a few bytes for each row that repeats it; unpacked, it would take megabytes for each.

    Raises:
        CxrbenchError: the file says itself that it unpacks to more than `LARGEST`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    meta = pq.read_metadata(pa.BufferReader(body))
    # Of groups, not of columns: pyarrow ends the process over a column whose statistics do not fit its type.
    whole = sum(max(0, meta.row_group(number).total_byte_size) for number in range(meta.num_row_groups))
    if whole > LARGEST:
        raise _too_much(path, f"it unpacks to {whole:,} bytes, and {LARGEST:,} are the limit")
    columns = [meta.schema.column(i) for i in range(meta.num_columns)]
    return [each.path for each in columns if each.physical_type == "BYTE_ARRAY" and each.path == each.name]


def _check_unpacked(path: Path, batch: Any, number: int) -> None:
    """Refuse a block of rows whose texts, each row's written out, would fill the memory."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            lengths = pc.binary_length(column.dictionary).take(column.indices)
            if (pc.sum(lengths).as_py() or 0) > LARGEST_BLOCK:
                what = f"rows {number + 1} and following have more than {LARGEST_BLOCK:,} bytes in one column"
                raise _too_much(path, what)


def _too_much(path: Path, what: str) -> CxrbenchError:
    return CxrbenchError(
        f"the Parquet file holds too much: {what}", where=str(path), fix="write texts of reports alone"
    )


LINES = (".jsonl", ".ndjson")
"""Endings of the names of files that are read line by line (`jsonl`)."""

READERS: Mapping[str, Callable[[Path, bytes], Iterator[Record]]] = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".parquet": _parquet,
}
"""Readers of all others, by ending: they need the whole content."""
