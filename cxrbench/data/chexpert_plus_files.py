"""Files of CheXpert Plus: which one is the table, where the pictures lie, CheXbert's labels. Standard library only."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cxrbench.data.base import Roots
from cxrbench.data.chexpert import LABELS
from cxrbench.errors import CxrbenchError
from cxrbench.reading import open_regular

IMAGE_PATH = re.compile(
    r"(?P<stem>(?P<split>train|valid)/(?P<patient>patient\d+)/(?P<study>study\d+)/view\d+_(?:frontal|lateral))"
    r"\.(?:jpg|png|dcm)"
)
"""`path_to_image`. It becomes a path, so nothing else is let through."""

ENDINGS = (".png", ".jpg", ".dcm")
_FOLDERS = ("", "PNG", "PNG/PNG", "DICOM", "DICOM/DICOM", "CheXpert-v1.0", "CheXpert-v1.0-small")
"""Folders below a root that hold train/ and valid/, as the archives unpack."""

LABEL_FILES: Mapping[str, str] = {
    "findings_fixed.json": "chexbert-findings",
    "impression_fixed.json": "chexbert-impression",
}
"""File name -> source of `Study.labels`."""

_LONGEST = 1 << 16
_FIX = "use the file as downloaded"


def _header(path: Path) -> set[str]:
    try:
        with open_regular(path) as file:
            return set(next(csv.reader([file.readline(1 << 16).decode("utf-8")]), ()))
    except (OSError, UnicodeDecodeError, csv.Error):
        return set()


def table_files(roots: Iterable[Path]) -> list[Path]:
    """The tables at the roots or right below them, told by their columns."""
    files = [path for root in roots for path in ([root] if root.is_file() else sorted(root.glob("*.csv")))]
    return [path for path in files if path.suffix == ".csv" and {"path_to_image", "deid_patient_id"} <= _header(path)]


def table_in(roots: Roots) -> Path:
    """The one table.

    Raises:
        CxrbenchError: there is none, or there are several.
    """
    found = table_files(roots.get("tables", ()))
    if len(found) == 1:
        return found[0]
    add = "cxrbench data add chexpert-plus --tables PATH/df_chexpert_plus_240401.csv"
    if not found:
        where = ", ".join(map(str, roots.get("tables", ()))) or "root tables"
        raise CxrbenchError("the table of CheXpert Plus is not known", where=where, fix=add)
    raise CxrbenchError("there are two tables of CheXpert Plus", where=f"{found[0]} and {found[1]}", fix=add)


def label_files(roots: Iterable[Path]) -> list[Path]:
    """CheXbert's label files at the roots or right below them."""
    files = [path for root in roots for path in ([root] if root.is_file() else [root / name for name in LABEL_FILES])]
    return [path for path in files if path.name in LABEL_FILES and path.is_file()]


class Pictures:
    """Where pictures lie: the first folder and ending that has one gives it, and is asked first for the next."""

    def __init__(self, roots: Iterable[Path]) -> None:
        folders = [root.absolute() / folder for root in roots for folder in _FOLDERS]
        self.bases = [base for base in folders if (base / "train").is_dir() or (base / "valid").is_dir()]
        self._places = [(base, ending) for base in self.bases for ending in ENDINGS]

    def find(self, stem: str) -> str:
        """The path of a picture; where it is not there, a path that is not there, which a run counts."""
        for place, (base, ending) in enumerate(self._places):
            if (base / f"{stem}{ending}").is_file():
                self._places.insert(0, self._places.pop(place))
                return str(base / f"{stem}{ending}")
        return str((self.bases or [Path("/nonexistent")])[0] / f"{stem}{ENDINGS[0]}")


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of pictures: source -> stem of the path -> label -> 1, 0 or -1."""

    sources: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)

    @classmethod
    def read(cls, files: Iterable[Path], wanted: Collection[str]) -> Labels:
        """Read the labels of the wanted pictures.

        Raises:
            CxrbenchError: a line is none of theirs.
        """
        return cls({LABEL_FILES[file.name]: dict(_rows(file, wanted)) for file in files})

    def of(self, stems: Sequence[str]) -> dict[str, Mapping[str, float]]:
        """Labels of a study by source: those of its first picture that has any (they are its report's)."""
        found = {
            source: next((rows[stem] for stem in stems if stem in rows), None) for source, rows in self.sources.items()
        }
        return {source: labels for source, labels in found.items() if labels is not None}


def _rows(file: Path, wanted: Collection[str]) -> Iterable[tuple[str, dict[str, float]]]:
    try:
        with open_regular(file) as handle:
            for number, line in enumerate(iter(lambda: handle.readline(_LONGEST), b""), 1):
                where = f"{file}, line {number:,}"
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    raise CxrbenchError("the line is no JSON object of labels", where=where, fix=_FIX) from None
                named = IMAGE_PATH.fullmatch(str(row.get("path_to_image"))) if isinstance(row, dict) else None
                if named is None:
                    raise CxrbenchError("the line names no image (path_to_image)", where=where, fix=_FIX)
                if named["stem"] in wanted:
                    yield named["stem"], _labels(row, where)
    except OSError as error:
        raise CxrbenchError(f"the labels cannot be read: {error.strerror}", where=str(file)) from error


def _labels(row: Mapping[str, object], where: str) -> dict[str, float]:
    found = {}
    for name in LABELS:
        value = row.get(name)
        if value is None or value != value:  # null, or NaN as pandas writes it
            continue
        if isinstance(value, bool) or value not in (1, 0, -1):
            raise CxrbenchError(f"the label {name} is none of 1, 0, -1 and null", where=where, fix=_FIX)
        found[name] = float(value)
    return found
