"""Someone's predictions: JSONL, CSV or Parquet with `sample_id` and `prediction`, read row by row without guessing.

Texts arrive as they were written ("NA" and "null" are words; an empty cell is an empty report). What cannot be
understood is an error that names file and row and never repeats a text. Touches predictions_formats and errors only.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.predictions_formats import FLOAT_ID as FLOAT_ID
from cxrbench.predictions_formats import ID_COLUMNS as ID_COLUMNS
from cxrbench.predictions_formats import LARGEST, LINES, PATIENT, READERS, REFERENCE, Record, id_column, jsonl
from cxrbench.predictions_formats import SPREADSHEET_ERRORS as SPREADSHEET_ERRORS
from cxrbench.predictions_formats import TEXT as TEXT
from cxrbench.reading import read_regular, regular_lines
from cxrbench.spool import Growing, Ids

NOTHING_WORDS = frozenset({"nan", "none", "null", "na", "n/a", "<na>"})
"""What programs write where there is nothing. Here they stay words, for nobody can tell; but they are counted."""


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


def _pack(row: PredictionRow) -> tuple[Any, ...]:
    return (
        row.sample_id, row.prediction, row.where, row.reference, row.patient_id, row.study_id, dict(row.subgroups)
    )  # fmt: skip


def _unpack(kept: tuple[Any, ...]) -> PredictionRow:
    return PredictionRow(*kept)


class _Texts(Mapping[str, str]):
    """Texts of a large file, each read when it is asked for."""

    def __init__(self, rows: Sequence[PredictionRow], ids: Ids) -> None:
        self._rows, self._ids = rows, ids

    def __getitem__(self, sample_id: str) -> str:
        place = self._ids.place(sample_id)
        if place < 0:
            raise KeyError(sample_id)
        return self._rows[place].prediction

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self._ids


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
    predictions without text, of which `nulls` were null or NaN instead of an empty string. `ids` are those of the rows,
    in their order. `nothing_words` says how many predictions and how many references are no more than a word for
    nothing, such as NaN.
    """

    path: Path
    format: str
    sha256: str
    rows: Sequence[PredictionRow]
    id_column: str
    has_references: bool
    subgroup_columns: tuple[str, ...]
    ignored_columns: tuple[str, ...]
    empty: int
    nulls: int
    ids: Ids
    nothing_words: tuple[int, int]

    @property
    def patient_ids(self) -> bool:
        """Whether every row names its patient."""
        return bool(self.rows) and all(row.patient_id is not None for row in self.rows)

    def texts(self) -> Mapping[str, str]:
        """sample_id -> prediction."""
        if isinstance(self.rows, tuple):
            return {row.sample_id: row.prediction for row in self.rows}
        return _Texts(self.rows, self.ids)

    def coverage(self, sample_ids: Iterable[str]) -> Coverage:
        """Match the rows with samples.

        Raises:
            CxrbenchError: not one row belongs to one of the samples.
        """
        wanted = Ids(sample_ids)
        return self.met(sum(each in self.ids for each in wanted), len(wanted))

    def met(self, matched: int, wanted: int) -> Coverage:
        """The same from how many distinct samples were wanted and how many of them have a row; see `coverage`."""
        there = len(self.ids)
        if wanted and not matched:
            raise CxrbenchError(
                f"none of the {there} rows belongs to one of the {wanted} samples of the task",
                where=f"{self.path}, column {self.id_column}",
                fix="the column must hold the sample ids that samples.parquet of a run of this task shows",
            )
        return Coverage(matched, wanted - matched, there - matched)


def read_predictions(path: str | Path) -> PredictionsFile:
    """Read a predictions file; the suffix names the format (.jsonl or .ndjson, .csv, .tsv, .parquet).

    Columns: `sample_id` (else `study_id`), `prediction`, and if there, `reference` and `patient_id`; every further
    column with plain values is a subgroup. A null prediction is an empty one, as CSV cannot tell them apart.

    Raises:
        CxrbenchError: unreadable, wrong encoding, cut off, a column missing, a row without id, two rows with one id.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (*LINES, *READERS):
        ending = f"cannot end in {suffix!r}" if suffix else "needs an ending that tells its form"
        raise CxrbenchError(
            "this is a folder, and a predictions file is one file" if path.is_dir() else f"a predictions file {ending}",
            where=str(path),
            fix=f"one of: {', '.join((*LINES, *READERS))} (JSONL: one object per line)",
        )
    builder, content = _Builder(path), hashlib.sha256()
    with _reading(path):
        for where, cells in _records(path, suffix, content.update):
            builder.add(where, cells)
    return builder.finish(suffix.removeprefix("."), content.hexdigest())


def _records(path: Path, suffix: str, read: Callable[[bytes], None]) -> Iterator[Record]:
    """The rows of the file; `read` is given all its bytes in order."""
    if suffix in LINES:

        def lines() -> Iterator[bytes]:
            for line in regular_lines(path, LARGEST):
                read(line)
                yield line

        yield from jsonl(path, lines())
    else:
        body = read_regular(path, LARGEST)
        read(body)
        yield from READERS[suffix](path, body)


_OTHERS = frozenset({*ID_COLUMNS, TEXT, REFERENCE, PATIENT})


class _Builder:
    """Collects rows and what has to be counted or compared over all of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = Growing(_pack, _unpack)
        self.ids = Ids()
        self.numbers = array("Q")  # of "line 7" or "row 7", where each row stands
        self.id_column = ""
        self.has_references = False
        self.kept: dict[str, None] = {}
        self.ignored: dict[str, None] = {}
        self.nulls = self.empty = 0
        self.nothing = [0, 0]

    def add(self, where: str, cells: Mapping[str, Any]) -> None:
        if not self.rows:
            self._first(where, cells)
        if REFERENCE in cells and not self.has_references:
            raise self._error("a row has a reference, the first one has none", where, "write every column in every row")
        sample_id = self._id(where, cells, self.id_column, required=True) or ""
        self._note(sample_id, where)
        row = PredictionRow(
            sample_id,
            self._text(where, cells, TEXT),
            where,
            self._text(where, cells, REFERENCE) if self.has_references else None,
            self._id(where, cells, PATIENT),
            self._id(where, cells, "study_id"),
            self._subgroups(where, {name: value for name, value in cells.items() if name not in _OTHERS}),
        )
        self.rows.append(row)
        self.nulls += _missing(cells[TEXT])
        self.empty += not row.prediction.strip()
        self.nothing[0] += _is_nothing(row.prediction)
        self.nothing[1] += _is_nothing(row.reference or "")

    def _note(self, sample_id: str, where: str) -> None:
        """Remember where a row stands; an error where its id was there before."""
        word, _, number = where.partition(" ")
        if not self.ids.add(sample_id):
            first = f"{word} {self.numbers[self.ids.place(sample_id)]}"
            raise self._error("two rows have the same id", f"{first} and {where}", "keep one row per sample")
        self.numbers.append(int(number))

    def finish(self, form: str, sha256: str) -> PredictionsFile:
        rows = self.rows.finish()
        if not rows:
            raise self._error("there is no row in the predictions file", "", "write one row per sample")
        return PredictionsFile(
            self.path,
            form,
            sha256,
            rows,
            self.id_column,
            self.has_references,
            tuple(name for name in self.kept if name not in self.ignored),
            tuple(self.ignored),
            self.empty,
            self.nulls,
            self.ids,
            (self.nothing[0], self.nothing[1]),
        )

    def _first(self, where: str, cells: Mapping[str, Any]) -> None:
        self.id_column, self.has_references = id_column(self.path, where, cells), REFERENCE in cells

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
            if not value.isascii():
                value.encode()
        except UnicodeEncodeError:
            raise self._error(
                f"a {column} holds half of a surrogate pair, which is no character", where, "write the file as UTF-8"
            ) from None

    def _subgroups(self, where: str, cells: Mapping[str, Any]) -> dict[str, str]:
        out: dict[str, str] = {}
        for name, value in cells.items():
            self._check_unicode(name, "column's name", where)
            if not name or isinstance(value, (list, dict, bytes)):
                self.ignored[name] = None
                continue
            self.kept[name] = None
            if not _missing(value) and value != "":
                out[name] = str(value)
                self._check_unicode(out[name], "further column", where)
        return out

    def _error(self, what: str, where: str, fix: str) -> CxrbenchError:
        return CxrbenchError(what, where=f"{self.path}, {where}" if where else str(self.path), fix=fix)


def _is_nothing(text: str) -> bool:
    word = text.strip()
    return len(word) <= _LONGEST_NOTHING and word.lower() in NOTHING_WORDS


_LONGEST_NOTHING = max(map(len, NOTHING_WORDS))


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    return f"of the type {type(value).__name__}"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CxrbenchError("there is no such predictions file", where=str(path), fix="check the path") from error
    except OSError as error:
        raise CxrbenchError(
            f"the predictions file cannot be read: {error.strerror}", where=str(path), code=Exit.INFRASTRUCTURE
        ) from error
