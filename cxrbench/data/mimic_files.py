"""Where MIMIC-CXR's files lie: the tree of reports (or its zip), the trees of images, and names fit for messages.

Paths are constructed from the ids of the tables (`files/p19/p19999001/s59999001/<dicom id>.jpg`), never searched for.
Holds no report text longer than one read. Standard library only.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from cxrbench.data.confined import leads_out, real_places
from cxrbench.errors import CxrbenchError
from cxrbench.reading import read_regular

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".dcm")
"""File forms of images in the order in which they are taken when one folder holds several of the same image."""

REPORTS_ZIP = "mimic-cxr-reports.zip"

DOWNLOADS = ("physionet.org/files/mimic-cxr*/*", "files/mimic-cxr*/*", "mimic-cxr*/*")
"""How PhysioNet's downloads lie below the folder they were started in: host, project, version."""

_BASES = ("", "files", "*/files", *(f"{place}/files" for place in DOWNLOADS))

_GROUP = re.compile(r"p1[0-9]")
_PATIENT = re.compile(r"p[0-9]{8}")
_STUDY = re.compile(r"s[0-9]{8}")
_REPORT = re.compile(r"(?P<prefix>.*?)p1[0-9]/p[0-9]{8}/s[0-9]{8}\.txt")
LARGEST_REPORT = 4 << 20
"""Bytes; the largest report of MIMIC-CXR has some ten thousand."""

_LOOK_AT = 20
_READERS = 8

T = TypeVar("T")
R = TypeVar("R")

StudyKey = tuple[str, str]
"""(patient id, study id), both digits only."""


def hashed_name(key: bytes, study_id: str) -> str:
    """Name a study in messages: an HMAC that only holders of the data can link back (`key` is made from the data)."""
    return "study " + hmac.new(key, study_id.encode(), hashlib.sha256).hexdigest()[:12]


def study_folder(patient_id: str, study_id: str) -> str:
    """Path of a study below the base of a tree.

    >>> study_folder("19999001", "59999001")
    'p19/p19999001/s59999001'
    """
    return f"p{patient_id[:2]}/p{patient_id}/s{study_id}"


def _names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def tree_bases(root: Path) -> list[Path]:
    """The folders at or below `root` that hold pNN folders: one, or several when it holds several downloads."""
    for pattern in _BASES:
        folders = [folder for folder in (sorted(root.glob(pattern)) if pattern else [root]) if folder.is_dir()]
        found = [folder for folder in folders if any(_GROUP.fullmatch(name) for name in _names(folder))]
        if found:
            return found
    return []


def _folders(folder: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    for name in sorted(_names(folder)):
        if pattern.fullmatch(name) and (folder / name).is_dir():
            yield folder / name


def patient_folders(base: Path, count: int = _LOOK_AT) -> Iterator[Path]:
    """The first `count` patient folders of a tree."""
    left = count
    for group in _folders(base, _GROUP):
        for patient in _folders(group, _PATIENT):
            if left == 0:
                return
            left -= 1
            yield patient


def has_reports(base: Path) -> bool:
    """Whether one of the first patient folders of a tree holds a report."""
    return any(name.endswith(".txt") for patient in patient_folders(base) for name in _names(patient))


def image_extensions(base: Path) -> tuple[str, ...]:
    """The image forms in the first studies of a tree, in the order of `IMAGE_EXTENSIONS`."""
    found = {
        Path(name).suffix.lower()
        for patient in patient_folders(base)
        for study in _folders(patient, _STUDY)
        for name in _names(study)
    }
    return tuple(extension for extension in IMAGE_EXTENSIONS if extension in found)


def decode_report(raw: bytes) -> str:
    """Bytes of a report as text with Unix line ends (the character ranges of the official rules count so).

    Raises:
        UnicodeDecodeError: a byte that is not UTF-8; MIMIC-CXR's reports are ASCII.
    """
    return raw.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


class ReportTree:
    """Reports as files/pNN/pNNNNNNNN/sNNNNNNNN.txt."""

    def __init__(self, base: Path, roots: Iterable[Path] = ()) -> None:
        """`roots`: where links of the tree may lead to besides the tree itself."""
        self.base = base
        self.label = f"tree {base}"
        self._places = real_places((base, *roots))

    def _path(self, key: StudyKey) -> Path:
        return self.base / (study_folder(*key) + ".txt")

    def _read(self, key: StudyKey) -> bytes | None:
        path = self._path(key)
        try:
            raw = read_regular(path, LARGEST_REPORT)
        except FileNotFoundError:
            return None
        except OSError as error:
            # The system's own message names the file, and with it the study and the patient.
            raise CxrbenchError(f"a report cannot be read: {error.strerror}", where=self.label) from None
        if leads_out(str(path), self._places):
            raise CxrbenchError(
                "a report is, or lies behind, a link that leads out of the roots of the reports",
                where=self.label,
                fix="name the folder it leads to as a further root: cxrbench data add mimic-cxr --reports DIR DIR",
            )
        return raw

    def read_many(self, keys: Sequence[StudyKey], pool: ThreadPoolExecutor) -> list[bytes | None]:
        """The bytes of each report, None where the file is not there."""
        return spread(self._read, keys, pool)

    def sizes(self, keys: Iterable[StudyKey]) -> list[int]:
        """File sizes in bytes, -1 where the file is not there."""
        return [file_size(self._path(key)) for key in keys]


class ReportZip:
    """Reports inside mimic-cxr-reports.zip, read without unpacking."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.label = f"archive {path}"

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise CxrbenchError(
                "the archive of reports cannot be opened", where=str(self.path), fix="download the archive again"
            ) from error

    @cached_property
    def _prefix(self) -> str | None:
        matches = (_REPORT.fullmatch(name) for name in self._archive.namelist())
        return next((match["prefix"] for match in matches if match), None)

    def holds_reports(self) -> bool:
        """Whether there is at least one member with the name of a report."""
        return self._prefix is not None

    def _info(self, key: StudyKey) -> zipfile.ZipInfo | None:
        try:
            return self._archive.getinfo(f"{self._prefix}{study_folder(*key)}.txt")
        except KeyError:
            return None

    def read_many(self, keys: Sequence[StudyKey], pool: ThreadPoolExecutor) -> list[bytes | None]:
        """The bytes of each report, None where the archive has no such member (`pool` is not used: one file)."""
        found = [self._info(key) for key in keys]
        if any(info is not None and info.file_size > LARGEST_REPORT for info in found):
            raise CxrbenchError(
                f"the archive holds a report of more than {LARGEST_REPORT:,} bytes, which none of MIMIC-CXR has",
                where=str(self.path),
                fix="download the archive again",
            )
        try:
            return [None if info is None else self._archive.read(info) for info in found]
        except (zipfile.BadZipFile, OSError, RuntimeError, zlib.error):  # RuntimeError: encrypted; quotes the member
            raise CxrbenchError(
                "the archive of reports is damaged or encrypted", where=str(self.path), fix="download the archive again"
            ) from None

    def sizes(self, keys: Iterable[StudyKey]) -> list[int]:
        """Unpacked sizes in bytes, -1 where there is no such member."""
        return [-1 if info is None else info.file_size for info in map(self._info, keys)]


Reports = ReportTree | ReportZip


def _archive(path: Path) -> ReportZip | None:
    """The archive that a file is, None where it is none.

    Raises:
        CxrbenchError: it begins as a zip archive, or has the name of the published one, and has no list of members,
            which stands at the end: the download stopped before.
    """
    if zipfile.is_zipfile(path):
        return ReportZip(path)
    with path.open("rb") as file:
        begins_as_zip = file.read(4) == b"PK\x03\x04"
    if begins_as_zip or path.name == REPORTS_ZIP:
        raise CxrbenchError(
            "the archive of reports is cut off or damaged", where=str(path), fix="download the archive again"
        )
    return None


def find_reports(root: Path, roots: Iterable[Path] = ()) -> Reports | None:
    """The reports at or below `root`: a zip, a folder with the zip, or the tree. None when there are none.

    `roots`: all that were given, where links of the tree may lead to.

    Raises:
        CxrbenchError: there is no tree, and the archive is damaged.
    """
    if root.is_file():
        archive = _archive(root)
        return archive if archive is not None and archive.holds_reports() else None
    base = next((each for each in tree_bases(root) if has_reports(each)), None)
    if base is not None:
        return ReportTree(base, roots)
    packed = root / REPORTS_ZIP
    return _archive(packed) if packed.is_file() else None


class ImageFiles:
    """Paths of images over one or several roots: a JPG tree, a DICOM tree, a resized copy. The first root wins."""

    def __init__(self, roots: Iterable[Path], extension: str | None = None) -> None:
        self.places: list[tuple[Path, str]] = []
        self.unused: list[Path] = []
        for root in roots:
            before = len(self.places)
            for base in tree_bases(root):
                kept = [each for each in image_extensions(base) if extension is None or each == extension]
                self.places += [(base.absolute(), each) for each in kept]
            if len(self.places) == before:
                self.unused.append(root)

    def candidates(self, patient_id: str, study_id: str, image_id: str) -> list[Path]:
        """Where an image may lie, in the order of the roots."""
        folder = study_folder(patient_id, study_id)
        return [base / folder / f"{image_id}{extension}" for base, extension in self.places]

    def path(self, patient_id: str, study_id: str, image_id: str) -> str:
        """The absolute path of an image; with a single place nothing is looked up, so the file may be missing."""
        if len(self.places) == 1:
            base, extension = self.places[0]
            return f"{base}/{study_folder(patient_id, study_id)}/{image_id}{extension}"
        paths = self.candidates(patient_id, study_id, image_id)
        return str(next((each for each in paths if each.exists()), paths[0]))

    def missing(self, patient_id: str, study_id: str, image_ids: Iterable[str]) -> int:
        """How many images of a study are in none of the places; each folder is listed once."""
        folder = study_folder(patient_id, study_id)
        listings = [(_listing(base / folder), extension) for base, extension in self.places]
        return sum(not any(f"{image}{extension}" in names for names, extension in listings) for image in image_ids)


def _listing(folder: Path) -> frozenset[str]:
    try:
        return frozenset(_names(folder))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def spaced(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` items, evenly spaced, the first one among them.

    >>> spaced(range(10), 3), spaced("ab", 5)
    ([0, 3, 6], ['a', 'b'])
    """
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def file_size(path: Path | str) -> int:
    """Size in bytes, -1 where there is no such file."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return -1


def readers() -> ThreadPoolExecutor:
    """The pool that reads many small files: on a network file system the wait for each one dominates."""
    return ThreadPoolExecutor(_READERS, thread_name_prefix="mimic-reader")


def spread(work: Callable[[T], R], items: Sequence[T], pool: ThreadPoolExecutor) -> list[R]:
    """Do `work` for every item over a pool, a slice per thread (a task per item costs more than a cached read)."""
    size = max(1, -(-len(items) // _READERS))
    slices = [items[start : start + size] for start in range(0, len(items), size)]
    return [result for part in pool.map(lambda some: [work(item) for item in some], slices) for result in part]
