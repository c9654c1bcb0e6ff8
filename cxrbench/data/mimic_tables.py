"""The CSV tables of MIMIC-CXR and MIMIC-CXR-JPG: found by their columns, read with pandas on demand.

Knows v2.0.0 and v2.1.0, plain or gzipped, in one folder or several. Everything is read as text first, so ids keep
their digits. pandas is imported inside functions.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrbench.data.base import Roots
from cxrbench.data.chexpert import LABELS
from cxrbench.data.csv_rows import SEPARATORS, lines_of, open_rows, wrong_separator
from cxrbench.data.mimic_files import DOWNLOADS
from cxrbench.errors import CxrbenchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPLITS = ("train", "validate", "test")

OFFICIAL_STUDIES: Mapping[str, int] = {"train": 222_758, "validate": 1_808, "test": 3_269}
"""Studies per split: MIT-LCP/mimic-cxr, notebooks/generate-stats-from-paper.ipynb."""

RENAMED_LABELS: Mapping[str, str] = {"Airspace Opacity": "Lung Opacity"}
"""The radiologists' table of v2.1.0 calls Lung Opacity by another name."""

KNOWN_VIEWS = frozenset(
    {
        "PA", "AP", "LATERAL", "LL", "AP AXIAL", "AP LLD", "AP RLD", "PA LLD", "PA RLD", "LAO", "LPO", "RAO", "RPO",
        "XTABLE LATERAL", "SWIMMERS", "L5 S1", "",
    }
)  # fmt: skip
"""Every ViewPosition of the official notebook and of the loaders in use, and the empty one."""

LABEL_SOURCES: Mapping[str, str] = {
    "chexpert": "chexpert", "negbio": "negbio", "test-set-labeled": "mimic-test-labeled"
}  # fmt: skip
"""Kind of table -> the name its labels have in `Study.labels`."""

DICOM_ID = r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}"
"""Form of an image id: five groups of eight hex digits, as the published file names have it. It becomes a path."""

_ID_FORMS: Mapping[str, tuple[str, str]] = {
    "patient_id": ("[0-9]{8}", "8 digits"),
    "study_id": ("[0-9]{8}", "8 digits"),
    "image_id": (DICOM_ID, "five groups of eight hex digits"),
}

_VIEW_CODE = "ViewCodeSequence_CodeMeaning"

_METADATA_COLUMNS: Mapping[str, str] = {
    "dicom_id": "image_id",
    "study_id": "study_id",
    "ViewPosition": "view",
    "StudyDate": "date",
    "StudyTime": "time",
    _VIEW_CODE: "view_code",
}

_BLOCK = 1 << 15
"""Rows that are lists of strings at a time."""


def _unpacked(path: Path) -> Any:
    """Open a plain or gzipped file for reading bytes; to be used as a context manager."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def header(path: Path, separator: str = ",") -> tuple[str, ...]:
    """The column names of a .csv or .csv.gz file; empty when it is not a readable table."""
    try:
        with _unpacked(path) as file:
            line = file.readline(1 << 16).decode("utf-8-sig")
        return tuple(next(csv.reader([line], delimiter=separator), ()))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error):
        return ()


def kind_of(path: Path, separator: str = ",") -> str | None:
    """What a table is by its columns: split, metadata, chexpert, negbio, test-set-labeled, or none of them.

    CheXpert and NegBio tables have the same columns; only there the file's name decides.
    """
    columns = set(header(path, separator))
    if {"dicom_id", "study_id", "subject_id", "split"} <= columns:
        return "split"
    if {"dicom_id", "study_id", "ViewPosition"} <= columns:
        return "metadata"
    if {"study_id", "Atelectasis", "Pneumonia"} <= columns:
        if "subject_id" not in columns or "Airspace Opacity" in columns:
            return "test-set-labeled"
        name = path.name.lower()
        return next((source for source in ("chexpert", "negbio") if source in name), None)
    return None


def is_csv(path: Path) -> bool:
    """Whether the name is that of a table, packed or not."""
    return path.name.endswith((".csv", ".csv.gz"))


def _below(root: Path) -> list[Path]:
    """Where tables are looked for under a root."""
    return [root, *(folder for pattern in DOWNLOADS for folder in sorted(root.glob(pattern)))]


def _folders(roots: Roots) -> list[Path]:
    """Where tables are looked for: what was given as tables, then the top folders of images and reports."""
    places: list[Path] = []
    for name in ("tables", "images", "reports"):
        for root in roots.get(name, ()):
            places += _below(root.parent if name != "tables" and (root.name == "files" or root.is_file()) else root)
    return list(dict.fromkeys(places))


def tables_in(place: Path) -> Iterator[tuple[str, Path]]:
    """(kind, file) of the tables in a folder, or of the one table that `place` is.

    Raises:
        CxrbenchError: the cells of a table are not separated by commas.
    """
    inside = [place] if place.is_file() else sorted(place.iterdir(), reverse=True) if place.is_dir() else []
    for path in inside:
        if not is_csv(path) or not path.is_file():
            continue
        kind = kind_of(path)
        if kind is not None:
            yield kind, path
        for separator in SEPARATORS:
            if kind_of(path, separator) is not None:
                raise wrong_separator(separator, str(path))


def holds_tables(root: Path) -> bool:
    """Whether a path given as a root of tables holds one."""
    return any(True for place in _below(root) for _ in tables_in(place))


def find_tables(roots: Roots) -> dict[str, Path]:
    """Kind -> file, over all folders of the roots.

    The same table packed and unpacked in one folder counts once (the packed one, as published).

    Raises:
        CxrbenchError: two different files of one kind, or a table with another separator than the comma.
    """
    found: dict[str, Path] = {}
    for place in _folders(roots):
        for kind, path in tables_in(place):
            first = found.setdefault(kind, path)
            if first.name.removesuffix(".gz") != path.name.removesuffix(".gz"):
                raise CxrbenchError(
                    f"there are two {kind} tables: {first.name} and {path.name}",
                    where=f"{first.parent}" if first.parent == path.parent else f"{first.parent} and {path.parent}",
                    fix="keep the published one, or give the file itself: cxrbench data add mimic-cxr --tables FILE",
                )
    return found


def content_hash(path: Path) -> str:
    """SHA-256 of a table's unpacked content, so that a packed and an unpacked copy count as the same data."""
    digest = hashlib.sha256()
    with _unpacked(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_table(path: Path, columns: Sequence[str]) -> Any:
    """Read the given columns of a table as text; an empty cell is an empty string.

    Raises:
        CxrbenchError: a column is missing or there twice, a row has another length than the header, or the file is cut
            off, not UTF-8 or not a table.
    """
    import pandas

    try:
        with _unpacked(path) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
            names, rows = open_rows(lines_of(text, str(path)), str(path), columns)
            places = [names.index(name) for name in columns]
            cells = ([row[place] for place in places] for _, row in rows)
            parts = [pandas.DataFrame(columns=list(columns), dtype=str)]
            while block := list(islice(cells, _BLOCK)):  # a frame is a tenth of the size of the lists it is made from
                parts.append(pandas.DataFrame(block, columns=list(columns), dtype=str))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        # The message of the error may quote bytes of a credentialed table: only its kind is passed on.
        raise CxrbenchError(
            f"the table cannot be read ({type(error).__name__})", where=str(path), fix="download it again"
        ) from None
    return pandas.concat(parts, ignore_index=True)


def split_table(path: Path) -> Any:
    """The split table as image_id, study_id, patient_id, split, with its values checked."""
    frame = read_table(path, ("dicom_id", "study_id", "subject_id", "split")).rename(
        columns={"dicom_id": "image_id", "subject_id": "patient_id"}
    )
    unknown = sorted(set(frame["split"]) - set(SPLITS))
    if unknown:
        raise CxrbenchError(
            f"the split table has values that are not train, validate or test: {len(unknown)} kinds",
            where=str(path),
            fix="use the published mimic-cxr-2.0.0-split.csv.gz",
        )
    for column, (form, words) in _ID_FORMS.items():
        if not frame[column].str.fullmatch(form).all():
            raise CxrbenchError(
                f"the split table has ids in {column} that are not {words}",
                where=str(path),
                fix="use the published one",
            )
    if frame["image_id"].duplicated().any():
        raise CxrbenchError("the split table names an image twice", where=str(path), fix="use the published one")
    return frame


def metadata_table(path: Path) -> Any:
    """The metadata table as image_id, study_id, view (capitals), date, time, view_code.

    ViewCodeSequence_CodeMeaning may be missing (it came with MIMIC-CXR-JPG) and is then empty.
    """
    names = dict(_METADATA_COLUMNS)
    if _VIEW_CODE not in header(path):
        del names[_VIEW_CODE]
    frame = read_table(path, list(names)).rename(columns=names)
    if "view_code" not in frame:
        frame["view_code"] = ""
    frame["view"] = frame["view"].str.strip().str.upper()
    if frame["image_id"].duplicated().any():
        raise CxrbenchError("the metadata table names an image twice", where=str(path), fix="use the published one")
    return frame


def image_table(tables: Mapping[str, Path], split: str | None = None, patients: Iterable[str] | None = None) -> Any:
    """All images of the patients of a split, of the patients given, or of everyone, with view, date and time.

    Patients are complete: studies of theirs in another split are there too, because they may be prior studies.
    Rows are sorted by patient, study and image id.

    Raises:
        CxrbenchError: the metadata table lacks an image of these patients, or has it under another study: an image
            without its row would pass for one without a view.
    """
    frame = split_table(tables["split"])
    if split is not None:
        patients = frame.loc[frame["split"] == split, "patient_id"]
    if patients is not None:
        frame = frame[frame["patient_id"].isin(set(patients))]
    details = metadata_table(tables["metadata"]).rename(columns={"study_id": "metadata_study"})
    frame = frame.merge(details, on="image_id", how="left")
    lacking = int(frame["metadata_study"].isna().sum())
    other = int((frame["metadata_study"] != frame["study_id"]).sum()) - lacking
    for count, problem in ((lacking, "lacks"), (other, "puts into another study")):
        if count:
            raise CxrbenchError(
                f"the metadata table {problem} {count:,} of {len(frame):,} images of the split table",
                where=str(tables["metadata"]),
                fix="download both tables again from PhysioNet, of the same version",
            )
    return frame.drop(columns="metadata_study").sort_values(["patient_id", "study_id", "image_id"], ignore_index=True)


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Labels of many studies as one matrix: a row per study, a column per label, NaN where nothing is said."""

    source: str
    names: tuple[str, ...]
    rows: Mapping[str, int]
    values: NDArray[np.float32]

    def of(self, study_id: str) -> dict[str, float] | None:
        """Label -> 1 present, 0 absent, -1 uncertain; labels not mentioned are left out. None: study not in table."""
        row = self.rows.get(study_id)
        if row is None:
            return None
        return {
            name: float(value)
            for name, value in zip(self.names, self.values[row], strict=True)
            if value == value  # NaN is the only value that differs from itself
        }


def label_table(kind: str, path: Path, studies: Iterable[str] | None = None) -> LabelTable:
    """Read a label table, for the given studies only where they are given.

    Raises:
        CxrbenchError: a value that is none of 1, 0, -1 and empty, or a study with two rows.
    """
    import numpy

    columns = header(path)
    present = [name for name in columns if RENAMED_LABELS.get(name, name) in LABELS]
    frame = read_table(path, ["study_id", *present])
    if studies is not None:
        frame = frame[frame["study_id"].isin(set(studies))]
    values = frame[present].replace("", "nan").to_numpy(dtype=object)
    try:
        matrix = values.astype(numpy.float32)
    except ValueError:
        raise CxrbenchError(f"the {kind} table has a cell that is not a number", where=str(path)) from None
    if not (numpy.isnan(matrix) | numpy.isin(matrix, (-1.0, 0.0, 1.0))).all():
        raise CxrbenchError(f"the {kind} table has a value that is none of 1, 0, -1 and empty", where=str(path))
    rows = {study: row for row, study in enumerate(frame["study_id"])}
    if len(rows) != len(frame):
        raise CxrbenchError(f"the {kind} table has two rows for one study", where=str(path))
    names = tuple(RENAMED_LABELS.get(name, name) for name in present)
    return LabelTable(LABEL_SOURCES[kind], names, rows, matrix)


def label_tables(tables: Mapping[str, Path], studies: Iterable[str] | None = None) -> list[LabelTable]:
    """All label tables there are."""
    wanted = None if studies is None else set(studies)
    return [label_table(kind, tables[kind], wanted) for kind in LABEL_SOURCES if kind in tables]
