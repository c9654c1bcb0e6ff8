"""Which files of IU X-ray the user's roots hold, recognised by content and not by name.

Looks at the beginning of files and two levels of folders; parses nothing. A file counts under whichever root it was
given, so `--reports indiana_reports.csv` and `--tables indiana_reports.csv` mean the same.
"""

from __future__ import annotations

import csv
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cxrbench.data import iu_protocols, iu_reports
from cxrbench.data.base import Roots
from cxrbench.data.csv_rows import SEPARATORS, wrong_separator
from cxrbench.data.iu_images import EXTENSIONS, image_id_of
from cxrbench.data.iu_tables import header_kind
from cxrbench.errors import CxrbenchError

SOURCE_ROOTS = ("reports", "tables", "annotations")
SNIFF_BYTES = 16384

KINDS: Mapping[str, tuple[str, str, str]] = {
    "openi-xml": ("Open-i reports (XML)", "reports", "NLMCXR_reports.tgz"),
    "kaggle-reports": ("Kaggle reports (CSV)", "tables", "indiana_reports.csv"),
    "kaggle-projections": ("Kaggle projections (CSV)", "tables", "indiana_projections.csv"),
    "r2gen": ("R2Gen split (JSON)", "annotations", "annotation.json"),
    "rexrank": ("ReXrank split (JSON)", "annotations", "ReXRank_IUXray_test.json"),
    "gold": ("gold labels (CSV)", "tables", "openi_gld_std14.csv"),
}
"""Kind of source -> what it is, the root it belongs under, the name it is published under."""


class NotGivenError(CxrbenchError):
    """A source that is needed was not given: something to add, nothing that is wrong."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Paths by kind, the files that were looked at and are none of IU X-ray's forms, and the roots they lie in.

    `idle` are the folders (resolved) that hold no source of any kind.
    """

    paths: Mapping[str, tuple[Path, ...]]
    unused: tuple[Path, ...]
    roots: Roots
    idle: frozenset[Path] = frozenset()

    def get(self, kind: str) -> Path | None:
        """The one source of a kind, or None.

        Raises:
            CxrbenchError: there are several.
        """
        found = self.paths.get(kind, ())
        if len(found) > 1:
            raise CxrbenchError(
                f"there are {len(found)} sources for {KINDS[kind][0]}, and cxrbench does not choose",
                where=" and ".join(map(str, found)),
                fix="name the files to use in place of their folder (what is given replaces what was remembered): "
                f"cxrbench data add iu-xray --{KINDS[kind][1]} FILE",
            )
        return found[0] if found else None

    def need(self, kind: str, why: str) -> Path:
        """The one source of a kind, or a NotGivenError that says why it is needed and how to add it."""
        path = self.get(kind)
        if path is None:
            raise NotGivenError(f"{why}, and no {KINDS[kind][0]} was given", fix=self.add(kind))
        return path

    def add(self, kind: str) -> str:
        """The command that adds a source of this kind and keeps what its root has: `data add` replaces a root."""
        if kind == "images":
            return "cxrbench data add iu-xray --images PATH"
        _, root, name = KINDS[kind]
        paths = [*map(str, self.useful(root)), f"PATH/{name}"]
        return " ".join(["cxrbench data add iu-xray", *(f"--{root} {shlex.quote(path)}" for path in paths)])

    def useful(self, root: str) -> list[Path]:
        """The paths given for a root that hold a source."""
        return [path for path in self.roots.get(root, ()) if path.resolve() not in self.idle]


def find_sources(roots: Roots) -> Sources:
    """Sort everything under the roots `reports`, `tables` and `annotations`.

    Raises:
        CxrbenchError: a path is not there, a file named by the user is none of the known forms, or a table's cells are
            not separated by commas.
    """
    found: dict[str, list[Path]] = {}
    unused: list[Path] = []
    idle: set[Path] = set()
    given = dict.fromkeys(path.resolve() for name in SOURCE_ROOTS for path in roots.get(name, ()))
    for path in given:
        if not path.exists():
            raise CxrbenchError("there is no such file or folder", where=str(path), fix=f"ls {path.parent}")
        if path.is_file():
            found.setdefault(_kind_or_refuse(path), []).append(path)
            continue
        kinds = {candidate: source_kind(candidate) for candidate in _candidates(path, depth=2)}
        for candidate, kind in kinds.items():
            if kind is not None:
                found.setdefault(kind, []).append(candidate)
            else:
                unused.append(candidate)
        if not any(kinds.values()):
            idle.add(path)
    paths = {kind: tuple(dict.fromkeys(each)) for kind, each in found.items()}
    return Sources(paths, tuple(unused), roots, frozenset(idle))


def _kind_or_refuse(path: Path) -> str:
    kind = source_kind(path)
    if kind is not None:
        return kind
    other_split = path.suffix.lower() == ".json" and iu_protocols.is_other_split(_text_head(path))
    other = (
        ": it has R2Gen's layout, but the ids of another split (R2Gen's own: CXR2384_IM-0942)" if other_split else ""
    )
    known = "; ".join(f"{what}, published as {name}" for what, _, name in KINDS.values())
    raise CxrbenchError(
        f"the file is none of the forms of IU X-ray{other}",
        where=str(path),
        fix=f"give one of the known forms in its place: {known}",
    )


def _candidates(folder: Path, depth: int) -> Iterator[Path]:
    """Files that may be a source, and a folder that holds XML as one; not further than `depth` folders down."""
    xml = False
    for path in sorted(folder.iterdir()):
        name = path.name.lower()
        if name.startswith("."):
            continue
        if name.endswith(".xml"):
            if not xml:
                yield folder
            xml = True
        elif iu_reports.is_archive(path) or name.endswith((".csv", ".json")):
            yield path
        elif depth and not name.endswith(EXTENSIONS) and path.is_dir():
            yield from _candidates(path, depth - 1)


def source_kind(path: Path) -> str | None:
    """The kind of a file, or of a folder with XML files, from its beginning; None where it is none of ours.

    Raises:
        CxrbenchError: it is one of the tables, and its cells are not separated by commas.
    """
    if path.is_dir():
        first = next((item for item in sorted(path.iterdir()) if item.suffix.lower() == ".xml"), None)
        return "openi-xml" if first is not None and iu_reports.looks_like_report(_head(first)) else None
    if iu_reports.is_archive(path):
        return "openi-xml" if iu_reports.looks_like_report(iu_reports.first_member(path)) else None
    if path.suffix.lower() == ".csv":
        lines = _text_head(path).splitlines()
        for separator in SEPARATORS:
            if header_kind(next(csv.reader(lines, delimiter=separator), [])) is not None:
                raise wrong_separator(separator, str(path))
        return header_kind(next(csv.reader(lines), []))
    return iu_protocols.sniff(_text_head(path)) if path.suffix.lower() == ".json" else None


def _text_head(path: Path) -> str:
    """The beginning of a text file, only to recognise it: reading is strict."""
    return _head(path).decode("utf-8", errors="replace")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(SNIFF_BYTES)


def recognise_root(path: Path) -> str | None:
    """The root a path belongs under, or None."""
    candidates = _candidates(path, depth=1) if path.is_dir() else iter([path])
    for candidate in candidates:
        kind = source_kind(candidate)
        if kind is not None:
            return KINDS[kind][1]
    if not path.is_dir():
        return None
    return "images" if _has_images(path, depth=2) else None


def _has_images(folder: Path, depth: int) -> bool:
    """Whether a folder holds a file with an Open-i or Kaggle image name, or R2Gen's numbered folders."""
    for path in sorted(folder.iterdir()):
        known = image_id_of(path.name) is not None
        if known and (path.name.lower().endswith(EXTENSIONS) or path.is_dir()):
            return True
        if depth and path.is_dir() and _has_images(path, depth - 1):
            return True
    return False
