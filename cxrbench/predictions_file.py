"""Someone's predictions: JSONL, CSV or Parquet with `sample_id` and `prediction`, read row by row without guessing.

Texts arrive as they were written ("NA" and "null" are words; an empty cell is an empty report). What cannot be
understood is an error that names file and row and never repeats a text. Touches errors only; pyarrow inside functions.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxrbench.errors import CxrbenchError, Exit, suggest

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


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """One prediction. `where` is its place in the file ("line 7"); `reference` is None when the file has none.

    `patient_id` is None where it is not given. `subgroups` holds the further columns that are plain values, as text.
    """

    sample_id: str
    prediction: str
    where: str
    reference: str | None = None
    patient_id: str | None = None
    study_id: str | None = None
    subgroups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Coverage:
    """How a file and a list of samples meet. `surplus` rows belong to none of the samples."""

    matched: int
    missing: int
    surplus: int


@dataclass(frozen=True, slots=True)
class PredictionsFile:
    """All rows of a file, in file order, and what was found on the way.

    `sha256` is that of the file's bytes. `id_column` is the column that served as key. `subgroup_columns` are the
    further columns that were kept, `ignored_columns` those that were not (nested values, no name). `empty` counts
    predictions without text, of which `nulls` were null or NaN instead of an empty string.
    """

    path: Path
    format: str
    sha256: str
    rows: tuple[PredictionRow, ...]
    id_column: str
    has_references: bool
    subgroup_columns: tuple[str, ...]
    ignored_columns: tuple[str, ...]
    empty: int
    nulls: int

    @property
    def patient_ids(self) -> bool:
        """Whether every row names its patient."""
        return bool(self.rows) and all(row.patient_id is not None for row in self.rows)

    def texts(self) -> dict[str, str]:
        """sample_id -> prediction."""
        return {row.sample_id: row.prediction for row in self.rows}

    def coverage(self, sample_ids: Iterable[str]) -> Coverage:
        """Match the rows with samples.

        Raises:
            CxrbenchError: not one row belongs to one of the samples.
        """
        wanted, there = set(sample_ids), {row.sample_id for row in self.rows}
        matched = len(wanted & there)
        if wanted and not matched:
            raise CxrbenchError(
                f"none of the {len(there)} rows belongs to one of the {len(wanted)} samples of the task",
                where=f"{self.path}, column {self.id_column}",
                fix="the column must hold the sample ids that samples.parquet of a run of this task shows",
            )
        return Coverage(matched, len(wanted) - matched, len(there) - matched)


def read_predictions(path: str | Path) -> PredictionsFile:
    """Read a predictions file; the suffix names the format (.jsonl or .ndjson, .csv, .tsv, .parquet).

    Columns: `sample_id` (else `study_id`), `prediction`, and if there, `reference` and `patient_id`; every further
    column with plain values is a subgroup. A null prediction is an empty one, as CSV cannot tell them apart.

    Raises:
        CxrbenchError: unreadable, wrong encoding, cut off, a column missing, a row without id, two rows with one id.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise CxrbenchError(
            f"a predictions file cannot end in {suffix or 'nothing'!r}",
            where=str(path),
            fix=f"write one of: {', '.join(_READERS)} (JSONL: one object per line)",
        )
    body = _bytes(path)
    builder = _Builder(path)
    for where, cells in _READERS[suffix](path, body):
        builder.add(where, cells)
    return builder.finish(suffix.removeprefix("."), hashlib.sha256(body).hexdigest())


class _Builder:
    """Collects rows and what has to be counted or compared over all of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[PredictionRow] = []
        self.places: dict[str, str] = {}
        self.id_column = ""
        self.has_references = False
        self.kept: dict[str, None] = {}
        self.ignored: dict[str, None] = {}
        self.nulls = 0

    def add(self, where: str, cells: Mapping[str, Any]) -> None:
        if not self.rows:
            self._first(where, cells)
        if REFERENCE in cells and not self.has_references:
            raise self._error("a row has a reference, the first one has none", where, "write every column in every row")
        sample_id = self._id(where, cells, self.id_column, required=True)
        if sample_id in self.places:
            raise self._error(
                "two rows have the same id", f"{self.places[sample_id]} and {where}", "keep one row per sample"
            )
        self.places[sample_id or ""] = where
        others = {*ID_COLUMNS, TEXT, REFERENCE, PATIENT}
        self.rows.append(
            PredictionRow(
                sample_id or "",
                self._text(where, cells, TEXT),
                where,
                self._text(where, cells, REFERENCE) if self.has_references else None,
                self._id(where, cells, PATIENT),
                self._id(where, cells, "study_id"),
                self._subgroups({name: value for name, value in cells.items() if name not in others}),
            )
        )
        self.nulls += _missing(cells[TEXT])

    def finish(self, form: str, sha256: str) -> PredictionsFile:
        if not self.rows:
            raise self._error("there is no row in the predictions file", "", "write one row per sample")
        return PredictionsFile(
            self.path,
            form,
            sha256,
            tuple(self.rows),
            self.id_column,
            self.has_references,
            tuple(name for name in self.kept if name not in self.ignored),
            tuple(self.ignored),
            sum(not row.prediction.strip() for row in self.rows),
            self.nulls,
        )

    def _first(self, where: str, cells: Mapping[str, Any]) -> None:
        self.id_column, self.has_references = _id_column(self.path, where, cells), REFERENCE in cells

    def _text(self, where: str, cells: Mapping[str, Any], column: str) -> str:
        if column not in cells:
            raise self._error(f"a row has no {column}", where, "write every column in every row")
        value = cells[column]
        if _missing(value):
            return ""
        if not isinstance(value, str):
            raise self._error(f"a {column} is {_kind(value)}, not text", where, "write texts as strings")
        self._check_unicode(value, column, where)
        return value

    def _id(self, where: str, cells: Mapping[str, Any], column: str, *, required: bool = False) -> str | None:
        value = cells.get(column)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value is None or value == "":
            if required:
                raise self._error(f"a row has no {column}", where, f"give every row its {column}")
            return None
        if not isinstance(value, str):
            raise self._error(
                f"a {column} is {_kind(value)}", where, "write ids as text (pandas makes 5 into 5.0 beside empty cells)"
            )
        self._check_unicode(value, column, where)
        return value

    def _check_unicode(self, value: str, column: str, where: str) -> None:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self._error(
                f"a {column} holds half of a surrogate pair, which is no character", where, "write the file as UTF-8"
            ) from None

    def _subgroups(self, cells: Mapping[str, Any]) -> dict[str, str]:
        out: dict[str, str] = {}
        for name, value in cells.items():
            if not name or isinstance(value, (list, dict, bytes)):
                self.ignored[name] = None
                continue
            self.kept[name] = None
            if not _missing(value) and value != "":
                out[name] = str(value)
        return out

    def _error(self, what: str, where: str, fix: str) -> CxrbenchError:
        return CxrbenchError(what, where=f"{self.path}, {where}" if where else str(self.path), fix=fix)


def _id_column(path: Path, where: str, names: Iterable[Any]) -> str:
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


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    return f"of the type {type(value).__name__}"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CxrbenchError("there is no such predictions file", where=str(path), fix="check the path") from error
    except OSError as error:
        raise CxrbenchError(
            f"the predictions file cannot be read: {error.strerror}", where=str(path), code=Exit.INFRASTRUCTURE
        ) from error


def _decode(path: Path, body: bytes) -> str:
    """UTF-8 with or without a byte order mark; anything else is an error that names the line."""
    if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise CxrbenchError("the file is UTF-16, not UTF-8", where=str(path), fix=_recode(path, "UTF-16"))
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise CxrbenchError(
            "the file is not UTF-8", where=f"{path}, line {line}, byte {error.start}", fix=_recode(path, "WINDOWS-1252")
        ) from None


def _recode(path: Path, guess: str) -> str:
    return f"iconv -f {guess} -t UTF-8 {path.name} > new{path.suffix}   (if {guess} is what it is)"


def _jsonl(path: Path, body: bytes) -> Iterator[Record]:
    # str.splitlines would also cut at U+2028, which may stand inside a JSON string.
    lines = _decode(path, body).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            row = json.loads(line, object_pairs_hook=_unique)
        except (ValueError, RecursionError):
            cut = number == len(lines)
            raise CxrbenchError(
                "the last line is cut off" if cut else "a line is not JSON",
                where=f"{path}, {where}",
                fix="write the file again: it may lack more than this row" if cut else "one JSON object per line",
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


def _delimited(delimiter: str) -> Callable[[Path, bytes], Iterator[Record]]:
    def read(path: Path, body: bytes) -> Iterator[Record]:
        text = _decode(path, body)
        _check_separator(path, text.partition("\n")[0], delimiter)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            _check_header(path, header, "line 1")
            if header:
                _id_column(path, "line 1", header)
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
        table = pq.ParquetFile(pa.BufferReader(body))
        _check_header(path, list(table.schema_arrow.names), "schema")
        for batch in table.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row
    except UnicodeDecodeError:
        raise CxrbenchError(
            "a text is not UTF-8", where=f"{path}, rows {number + 1} to {number + 1024}", fix="write the file as UTF-8"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise CxrbenchError(
            "the Parquet file is damaged or cut off", where=str(path), fix="write it again, or use JSONL"
        ) from error


_READERS: Mapping[str, Callable[[Path, bytes], Iterator[Record]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".parquet": _parquet,
}
