"""CSV files of IU X-ray: Kaggle's reports and projections, and NegBio's gold labels.

Reads files, decides nothing. Spreadsheet damage (`#NAME?` where a cell began with `+` or `=`) is found and named with
its rows, never passed on as report text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cxrbench.data.csv_rows import open_rows
from cxrbench.data.iu_images import image_id_of
from cxrbench.data.iu_reports import SECTIONS, Report, uid_number
from cxrbench.data.text import decode
from cxrbench.errors import CxrbenchError
from cxrbench.reading import read_regular

REPORT_COLUMNS = ("uid", "MeSH", "indication", "comparison", "findings", "impression")
PROJECTION_COLUMNS = ("uid", "filename", "projection")
GOLD_COLUMNS = ("filename", "normal", "Cardiomegaly")
LARGEST = 256 << 20
"""Bytes of a table; Kaggle's largest has three million."""

VIEWS = {"Frontal": "FRONTAL", "Lateral": "LATERAL"}
SPREADSHEET_ERRORS = frozenset({"#NAME?", "#VALUE!", "#REF!", "#DIV/0!", "#N/A", "#NUM!", "#NULL!"})


@dataclass(frozen=True, slots=True)
class KaggleReports:
    """indiana_reports.csv: reports by uid, and where a spreadsheet destroyed a cell: (line, uid, column)."""

    reports: Mapping[str, Report]
    damage: tuple[tuple[int, str, str], ...]


@dataclass(frozen=True, slots=True)
class Projections:
    """indiana_projections.csv: view by image id, and the image ids of a study in the order of the file."""

    views: Mapping[str, str]
    images: Mapping[str, tuple[str, ...]]


def header_kind(header: list[str]) -> str | None:
    """Which of the three tables a header line belongs to, or None."""
    names = {name.strip().lstrip("\ufeff") for name in header}
    kinds = {"kaggle-reports": REPORT_COLUMNS, "kaggle-projections": PROJECTION_COLUMNS, "gold": GOLD_COLUMNS}
    return next((kind for kind, columns in kinds.items() if names.issuperset(columns)), None)


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows by column with the line each ends on; strict as `csv_rows` is."""
    try:
        text = decode(read_regular(path, LARGEST), str(path))
    except OSError as error:
        raise CxrbenchError(f"the table cannot be read: {error.strerror}", where=str(path)) from error
    header, rows = open_rows(io.StringIO(text, newline=""), str(path), columns)
    for line, row in rows:
        yield line, dict(zip(header, row, strict=True))


def _uid(text: str, where: str) -> str:
    """`CXR1000` for Kaggle's `1000`."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise CxrbenchError(f"{text!r} is no study number", where=where, fix="use the file as downloaded")
    return f"CXR{int(text)}"


def read_kaggle_reports(path: Path) -> KaggleReports:
    """Read indiana_reports.csv, by uid, in the order of the numbers. A damaged cell is no section."""
    found: dict[str, Report] = {}
    damage: list[tuple[int, str, str]] = []
    for line, row in _rows(path, REPORT_COLUMNS):
        where = f"{path}, line {line}"
        uid = _uid(row["uid"], where)
        if uid in found:
            raise CxrbenchError(f"the study {uid} is there twice", where=where, fix="use the file as downloaded")
        broken = [name for name in (*SECTIONS, "MeSH") if row[name].strip() in SPREADSHEET_ERRORS]
        damage += [(line, uid, name) for name in broken]
        sections = {name: row[name] for name in SECTIONS if row[name].strip() and name not in broken}
        terms = () if "MeSH" in broken else (term.strip() for term in row["MeSH"].split(";"))
        found[uid] = Report(uid, sections, tuple(term for term in terms if term))
    return KaggleReports({uid: found[uid] for uid in sorted(found, key=uid_number)}, tuple(damage))


def refuse_damage(table: KaggleReports, path: Path) -> None:
    """Raise where a spreadsheet destroyed report text: what stood there cannot be known."""
    if not table.damage:
        return
    shown = "; ".join(f"line {line} ({uid}, {column})" for line, uid, column in table.damage[:5])
    more = f" and {len(table.damage) - 5} more" if len(table.damage) > 5 else ""
    raise CxrbenchError(
        f"a spreadsheet destroyed {len(table.damage)} cell(s) of this copy (#NAME? and the like stand for report text)",
        where=f"{path}: {shown}{more}",
        fix="use an undamaged copy, or add Open-i's XML, which then gives the texts: "
        "cxrbench data add iu-xray --reports NLMCXR_reports.tgz",
    )


def read_projections(path: Path) -> Projections:
    """Read indiana_projections.csv: `FRONTAL` or `LATERAL` by image id."""
    views: dict[str, str] = {}
    images: dict[str, tuple[str, ...]] = {}
    for line, row in _rows(path, PROJECTION_COLUMNS):
        where = f"{path}, line {line}"
        uid, image_id = _uid(row["uid"], where), image_id_of(row["filename"])
        if image_id is None or image_id.split("_")[0] != uid:
            raise CxrbenchError(f"{row['filename']!r} is no image of the study {uid}", where=where)
        if row["projection"] not in VIEWS:
            raise CxrbenchError(f"{row['projection']!r} is no projection: Frontal or Lateral", where=where)
        if image_id in views:
            raise CxrbenchError(f"the image {row['filename']!r} is there twice", where=where)
        views[image_id] = VIEWS[row["projection"]]
        images[uid] = (*images.get(uid, ()), image_id)
    return Projections(views, images)


def read_gold(path: Path) -> dict[str, dict[str, float]]:
    """Read openi_gld_std14.csv: label -> 1 or 0 by uid, under the column names of the file."""
    labels: dict[str, dict[str, float]] = {}
    for line, row in _rows(path, GOLD_COLUMNS):
        uid = row.pop("filename")
        if uid in labels:
            raise CxrbenchError(f"the study {uid} is there twice", where=f"{path}, line {line}")
        bad = next((name for name, value in row.items() if value not in ("0", "1")), None)
        if bad is not None:
            raise CxrbenchError(f"the label {bad} of {uid} is neither 0 nor 1", where=f"{path}, line {line}")
        labels[uid] = {name: float(value) for name, value in row.items()}
    return labels
