"""The data set `jsonl`: anyone's own data, one JSON object per study and line.

docs/data-jsonl.md shows every key. Files are read once, and all that is wrong with them is reported together at the
end, with line and key and without a word of the reports. Standard library only.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from cxrbench.data.base import Check, Progress, Root, Roots, Slice, idle_root
from cxrbench.data.jsonl_survey import EVERY_KEY, SHOWN, Survey, files_of, place_of, raw_lines, surveyed
from cxrbench.errors import CxrbenchError
from cxrbench.spool import Growing
from cxrbench.types import Access, Image, Study

__all__ = ["LOOKED_AT", "SHOWN", "Jsonl"]

LOOKED_AT = 2_000
"""Images `check` looks for on disk."""

_IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".dcm")


@dataclass
class _Counts:
    """What `check` tells of the studies."""

    sections: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    columns: Counter[str] = field(default_factory=Counter)
    images: list[tuple[Image, str]] = field(default_factory=list)
    """Every image, and where it is named."""
    files: Counter[Path] = field(default_factory=Counter)
    """How many studies each file has."""
    patients: set[str] = field(default_factory=set)

    def add(self, study: Study, file: Path, number: int) -> None:
        place = place_of(file, number)
        self.files[file] += 1
        self.patients |= {study.patient_id} if study.patient_id is not None else set()
        self.sections.update(list(study.sections))
        self.labels.update(list(study.labels))
        self.columns.update(list(study.columns))
        self.images += [(image, f"{place}, key images[{i}]") for i, image in enumerate(study.images)]


@dataclass(frozen=True, slots=True)
class _Content:
    """What `fingerprint` is made of, as it was read last: so that the files are not read for it once more."""

    of: tuple[Any, ...]
    """Files, folder of the images, split, and the state of the files on disk."""
    files: tuple[bytes, ...]
    """SHA-256 of the bytes of each file."""
    images: Sequence[str]
    """The path of every image of the split."""

    def fingerprint(self) -> str:
        """See `Jsonl.fingerprint`."""
        digest = hashlib.sha256(b"".join(self.files))
        for path in self.images:
            digest.update(f"{Path(path).name}\0{_size(path)}\0".encode())
        return digest.hexdigest()[:16]


class Jsonl:
    """Anyone's own data. Patient ids are given for all studies or for none; then samples are the clusters."""

    name = "jsonl"
    access: Access = "credentialed"
    may_be_open = True
    patient_ids = True
    citation = "your own data"
    licence = "whatever agreement your data came under; treated as credentialed unless your task file says access: open"
    roots: Mapping[str, Root] = {
        "reports": Root("a .jsonl file, one JSON object per study and line; several files are read in order", True),
        "images": Root("folder where relative image paths start (default: the folder of the .jsonl file)"),
    }
    options: Mapping[str, tuple[str, ...]] = {}

    def __init__(self) -> None:
        self._read: dict[str, _Content] = {}
        """By split, what was read last of it."""

    def recognise(self, path: Path) -> str | None:
        """Name the root `path` looks like: a .jsonl or .ndjson file, or a folder with image files one level down."""
        if path.is_file() and path.suffix.lower() in (".jsonl", ".ndjson"):
            return "reports"
        if path.is_dir():
            below = islice((each for pattern in ("*", "*/*") for each in path.glob(pattern)), LOOKED_AT)
            if any(each.suffix.lower() in _IMAGE_ENDINGS for each in below):
                return "images"
        return None

    def studies(self, roots: Roots, part: Slice, prepared: Path | None = None) -> Iterator[Study]:
        """Yield the studies of a split in the order of the files.

        What is wrong is said at the end, all at once; what was given out until then is to be thrown away.

        Raises:
            CxrbenchError: a file is missing; or any line of any file is wrong: lists the first 20 problems and counts
                the others; or no study has that split: names those there are.
        """
        of = _state(roots, part.split)
        survey, images = Survey(), Growing(str, str)
        for _, _, study in surveyed(roots, survey):
            if study.split == part.split and not survey.problems.count:
                images.extend(image.path for image in study.images)
                yield study
        survey.problems.refuse()
        if part.split not in survey.splits:
            there = ", ".join(f"{split} ({count:,})" for split, count in survey.splits.items()) or "none, no study"
            learnt = "give the studies to learn from the split train, or use a model and metrics that need none"
            other = "set the key split, or dataset.split in a copy of the task file"
            raise CxrbenchError(
                f"no study has the split {part.split!r}",
                where=f"splits in the data: {there}",
                fix=learnt if part.split == "train" else other,
            )
        self._read[part.split] = _Content(of, tuple(survey.contents), images.finish())

    def check(self, roots: Roots) -> list[Check]:
        """Read the files; look for the first images."""
        if not roots.get("reports"):
            return [Check("reports", "missing", "no file given", "cxrbench data add jsonl --reports FILE.jsonl")]
        survey, counts = Survey(), _Counts()
        try:
            for file, number, study in surveyed(roots, survey):
                counts.add(study, file, number)
        except CxrbenchError as error:
            return [Check("reports", "missing", f"{error.where}: {error.what}", error.fix)]
        if survey.problems.count:
            return [Check("reports", "problem", survey.problems.lines(), EVERY_KEY)]
        return [
            Check("reports", "ok" if survey.ids else "problem", _counts("studies", survey.splits)),
            _patients(counts),
            Check("sections", "ok" if counts.sections else "problem", _counts("", counts.sections)),
            _images(counts.images, roots),
            Check("labels", "note", _counts("", counts.labels)),
            Check("columns", "note", _counts("", counts.columns)),
            *_idle(counts, roots),
        ]

    def prepare(self, roots: Roots, out: Path, progress: Progress) -> list[Check]:
        """Nothing: the files are read in one go. Says whether they are in order."""
        return [Check("index", "note", "nothing to prepare: the files are their own index"), *self.check(roots)]

    def fingerprint(self, roots: Roots, part: Slice) -> str:
        """16 hex digits over the bytes of the files in order, and name and size of every image of the split.

        Places do not count, nor do the names of the files. An image that is not there has the size -1.
        """
        content = self._read.get(part.split)
        if content is None or content.of != _state(roots, part.split):
            deque(self.studies(roots, part), maxlen=0)
            content = self._read[part.split]
        return content.fingerprint()

    def holds(self, roots: Roots, part: Slice, fingerprint: str) -> bool:
        """Whether a `fingerprint` that was made earlier is that of the files now, as far as their bytes alone tell.

        Nothing is parsed. False, too, where a line may name an image, for that would have to be looked at.

        Raises:
            CxrbenchError: a file cannot be read.
        """
        of, contents = _state(roots, part.split), []
        for file in files_of(roots):
            digest = hashlib.sha256()
            for _, _, line in raw_lines(file):
                if _MAY_NAME_IMAGES.search(line):
                    return False
                digest.update(line)
            contents.append(digest.digest())
        content = _Content(of, tuple(contents), ())
        if content.fingerprint() != fingerprint:
            return False
        self._read[part.split] = content
        return True


_MAY_NAME_IMAGES = re.compile(rb'"images"|\\u00[2-7]')
"""The key, or a letter written as an escape, which no program does of itself and which could be one of the key's."""


def _state(roots: Roots, split: str) -> tuple[Any, ...]:
    """What is read, and the state of the files on disk: equal as long as nobody writes them."""
    files = files_of(roots)
    return (files, tuple(roots.get("images", ())), split, *(_stamp(file) for file in files))


def _stamp(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.stat()
    except OSError:
        return None  # whoever reads it says what is wrong
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _counts(what: str, counter: Counter[str]) -> str:
    """`1,200 studies: test 200, train 1,000`, without the total where `what` is empty."""
    each = ", ".join(f"{name} {count:,}" for name, count in counter.items()) or "none"
    return f"{counter.total():,} {what}: {each}" if what else each


def _patients(counts: _Counts) -> Check:
    if counts.patients:
        return Check("patients", "ok", f"{len(counts.patients):,} patients")
    return Check("patients", "note", "no patient ids: studies are the clusters of every interval")


def _images(images: list[tuple[Image, str]], roots: Roots) -> Check:
    """Whether the images are there. Names no folder of an image: it may name a patient."""
    looked_at = images[:LOOKED_AT]
    missing = [(image, place) for image, place in looked_at if not Path(image.path).is_file()]
    found = f"{len(images):,} images" + (f", the first {LOOKED_AT:,} looked for" if len(images) > LOOKED_AT else "")
    if not missing:
        return Check("images", "ok" if images else "note", found)
    first, place = missing[0]
    found += f"; {len(missing):,} not there, the first in {place} ({Path(first.path).name})"
    starts = _starts(roots)
    if len(missing) == len(looked_at) and any(Path(first.path).is_relative_to(start) for start in starts):
        found += f"; relative paths start at {', '.join(map(str, starts))}"
        return Check("images", "missing", found, "cxrbench data add jsonl --images FOLDER (where relative paths start)")
    return Check("images", "missing", found, "bring these files, or correct their paths: a run counts missing_image")


def _starts(roots: Roots) -> list[Path]:
    """Where relative paths of images start."""
    return [path.absolute() for path in roots.get("images") or dict.fromkeys(file.parent for file in files_of(roots))]


def _idle(counts: _Counts, roots: Roots) -> Iterator[Check]:
    """A line for each path that holds nothing: a file without a study, a folder where no row finds its image."""
    files = files_of(roots)
    kept = [file for file in files if counts.files[file]]
    for file in files if kept else ():
        if file not in kept:
            yield idle_root("jsonl", "reports", file, kept, "study", "FILE.jsonl")
    given = roots.get("images", ()) if counts.images else ()
    paths = [Path(image.path) for image, _ in counts.images]
    used = [folder for folder in given if any(path.is_relative_to(folder.absolute()) for path in paths)]
    for folder in given:
        if folder not in used:
            yield idle_root("jsonl", "images", folder, used, "image that a row names", "FOLDER")


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return -1
