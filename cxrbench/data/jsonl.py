"""The data set `jsonl`: anyone's own data, one JSON object per study and line.

docs/data-jsonl.md shows every key. A file is read to its end before the first study is given out, and all that is wrong
with it is reported at once, with line and key and without a word of the reports. Standard library only.
"""

from __future__ import annotations

import codecs
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from cxrbench.data.base import Check, Progress, Root, Roots, Slice, idle_root
from cxrbench.data.jsonl_rows import LineError, parse_line, study_of
from cxrbench.errors import CxrbenchError
from cxrbench.reading import open_regular
from cxrbench.types import Access, Image, Study

SHOWN = 20
"""Problems an error lists; the others are counted."""

DEFAULT_SPLIT = "test"
"""The split of every study where no row names one."""

LONGEST = 16 << 20
"""Bytes of a line: a study; reports have thousands."""

LOOKED_AT = 2_000
"""Images `check` looks for on disk."""

_EVERY_KEY = "docs/data-jsonl.md of the repository shows every key"

_IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".dcm")


@dataclass
class _Problems:
    """What is wrong, in order; the first ones in words, all counted."""

    listed: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, place: str, what: str) -> None:
        self.count += 1
        if len(self.listed) < SHOWN:
            self.listed.append(f"{place}: {what}")

    def at(self, place: str) -> Callable[[str, str], None]:
        """A function that adds a problem with a key of that place."""
        return lambda key, what: self.add(f"{place}, key {key}", what)

    def lines(self) -> str:
        more = self.count - len(self.listed)
        return "\n".join([*self.listed, *([f"and {more:,} more"] if more else [])])

    def refuse(self) -> None:
        if self.count:
            many = "one problem" if self.count == 1 else f"{self.count:,} problems"
            raise CxrbenchError(
                f"the data cannot be used: {many}",
                where="\n         ".join(self.lines().splitlines()),
                fix=f"correct these lines ({_EVERY_KEY}), then: cxrbench data check jsonl",
            )


def _raw_lines(file: Path) -> Iterator[tuple[int, int, bytes]]:
    """Line number, offset of its first byte in the file, and bytes of each line; a UTF-8 mark at the start is skipped.

    Raises:
        CxrbenchError: the file is not there or cannot be read, or is UTF-16.
    """
    try:
        with open_regular(file) as handle:
            offset = 0
            for number, line in enumerate(iter(lambda: handle.readline(LONGEST + 1), b""), 1):
                start, size = offset, len(line)
                if size > LONGEST:
                    where = f"{file}, line {number:,}"
                    raise CxrbenchError(f"a line has more than {LONGEST:,} bytes", where=where, fix=_EVERY_KEY)
                if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    raise CxrbenchError("the file is UTF-16", where=str(file), fix="save it as UTF-8")
                if number == 1 and line.startswith(codecs.BOM_UTF8):
                    line, start = line[3:], 3
                yield number, start, line
                offset += size
    except OSError as error:
        raise CxrbenchError(
            f"the file cannot be read: {error.strerror}",
            where=str(file),
            fix="cxrbench data add jsonl --reports FILE.jsonl",
        ) from error


def _text(line: bytes, start: int) -> str:
    """The text of a line without its end."""
    try:
        return line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise LineError(f"not UTF-8 at byte offset {start + error.start} of the file") from None


def _parse(line: bytes, start: int) -> dict[str, object]:
    text = _text(line, start)
    try:
        return parse_line(text)
    except LineError as error:
        if not line.endswith(b"\n") and str(error).startswith("not valid JSON"):
            raise LineError(f"the last line is cut off, or {error}") from None
        raise


def _read(file: Path, folders: tuple[Path, ...], problems: _Problems) -> Iterator[tuple[int, Study]]:
    """Line number and study of each line without a problem; blank lines are skipped."""
    resolve = _resolver(file, folders)
    for number, start, line in _raw_lines(file):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        before = problems.count
        try:
            study = study_of(_parse(line, start), resolve, problems.at(place))
        except LineError as error:
            problems.add(place, str(error))
            continue
        if problems.count == before:
            yield number, study


def _resolver(file: Path, folders: tuple[Path, ...]) -> Callable[[str], Path]:
    """Relative image paths start at the images root (the first that has the file), else where the JSONL file is."""
    bases = [folder.absolute() for folder in folders] or [file.absolute().parent]

    def resolve(path: str) -> Path:
        if len(bases) == 1:
            return bases[0] / path
        return next((base / path for base in bases if (base / path).exists()), bases[0] / path)

    return resolve


@dataclass
class _Survey:
    """What one reading of all files tells: problems, and counts for `check`."""

    problems: _Problems = field(default_factory=_Problems)
    splits: Counter[str] = field(default_factory=Counter)
    sections: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    columns: Counter[str] = field(default_factory=Counter)
    images: list[tuple[Image, str]] = field(default_factory=list)
    """Every image, and where it is named."""
    files: Counter[Path] = field(default_factory=Counter)
    """How many studies each file has."""
    patients: set[str] = field(default_factory=set)
    places: dict[str, str] = field(default_factory=dict)
    """Study id -> where it stands first."""
    without_patient: list[str] = field(default_factory=list)
    """Where studies without a patient id stand."""
    without_split: list[str] = field(default_factory=list)

    def add(self, study: Study, place: str) -> None:
        first = self.places.setdefault(study.study_id, place)
        if first != place:
            self.problems.add(f"{place}, key study_id", f"stands already in {first}")
        if study.patient_id is None:
            self.without_patient.append(place)
        else:
            self.patients.add(study.patient_id)
        if not study.split:
            self.without_split.append(place)
        self.splits[study.split or DEFAULT_SPLIT] += 1
        self.sections.update(list(study.sections))
        self.labels.update(list(study.labels))
        self.columns.update(list(study.columns))
        self.images += [(image, f"{place}, key images[{i}]") for i, image in enumerate(study.images)]

    def finish(self) -> _Survey:
        why = {
            "patient_id": "patients are the clusters of every interval",
            "split": f"a study without one would pass for {DEFAULT_SPLIT}",
        }
        for key, places in (("patient_id", self.without_patient), ("split", self.without_split)):
            if 0 < len(places) < self.splits.total():
                many = f"missing in {len(places):,} of {self.splits.total():,} studies, first here"
                self.problems.add(f"{places[0]}, key {key}", f"{many}: {why[key]}, so give it everywhere or nowhere")
        return self


def _files(roots: Roots) -> tuple[Path, ...]:
    files = roots.get("reports", ())
    if not files:
        raise CxrbenchError(
            "the data set jsonl needs a file: one JSON object per study and line",
            where="root reports",
            fix="cxrbench data add jsonl --reports FILE.jsonl",
        )
    return tuple(files)


def _survey(roots: Roots) -> _Survey:
    survey = _Survey()
    for file in _files(roots):
        for number, study in _read(file, tuple(roots.get("images", ())), survey.problems):
            survey.add(study, f"{file}, line {number}")
            survey.files[file] += 1
    return survey.finish()


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

        Raises:
            CxrbenchError: a file is missing; or any line of any file is wrong: lists the first 20 problems and counts
                the others; or no study has that split: names those there are.
        """
        survey = _survey(roots)
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
        for file in _files(roots):
            for _, study in _read(file, tuple(roots.get("images", ())), survey.problems):
                if (study.split or DEFAULT_SPLIT) == part.split:
                    yield replace(study, split=part.split)

    def check(self, roots: Roots) -> list[Check]:
        """Read the files; look for the first images."""
        if not roots.get("reports"):
            return [Check("reports", "missing", "no file given", "cxrbench data add jsonl --reports FILE.jsonl")]
        try:
            survey = _survey(roots)
        except CxrbenchError as error:
            return [Check("reports", "missing", f"{error.where}: {error.what}", error.fix)]
        if survey.problems.count:
            return [Check("reports", "problem", survey.problems.lines(), _EVERY_KEY)]
        return [
            Check("reports", "ok" if survey.places else "problem", _counts("studies", survey.splits)),
            _patients(survey),
            Check("sections", "ok" if survey.sections else "problem", _counts("", survey.sections)),
            _images(survey.images, roots),
            Check("labels", "note", _counts("", survey.labels)),
            Check("columns", "note", _counts("", survey.columns)),
            *_idle(survey, roots),
        ]

    def prepare(self, roots: Roots, out: Path, progress: Progress) -> list[Check]:
        """Nothing: the files are read in one go. Says whether they are in order."""
        return [Check("index", "note", "nothing to prepare: the files are their own index"), *self.check(roots)]

    def fingerprint(self, roots: Roots, part: Slice) -> str:
        """16 hex digits over the bytes of the files in order, and name and size of every image of the split.

        Places do not count, nor do the names of the files. An image that is not there has the size -1.
        """
        digest = hashlib.sha256()
        for file in _files(roots):
            content = hashlib.sha256()
            for _, _, line in _raw_lines(file):
                content.update(line)
            digest.update(content.digest())
        for study in self.studies(roots, part):
            for image in study.images:
                digest.update(f"{Path(image.path).name}\0{_size(image.path)}\0".encode())
        return digest.hexdigest()[:16]


def _counts(what: str, counter: Counter[str]) -> str:
    """`1,200 studies: test 200, train 1,000`, without the total where `what` is empty."""
    each = ", ".join(f"{name} {count:,}" for name, count in counter.items()) or "none"
    return f"{counter.total():,} {what}: {each}" if what else each


def _patients(survey: _Survey) -> Check:
    if survey.patients:
        return Check("patients", "ok", f"{len(survey.patients):,} patients")
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
    return [path.absolute() for path in roots.get("images") or dict.fromkeys(file.parent for file in _files(roots))]


def _idle(survey: _Survey, roots: Roots) -> Iterator[Check]:
    """A line for each path that holds nothing: a file without a study, a folder where no row finds its image."""
    files = _files(roots)
    kept = [file for file in files if survey.files[file]]
    for file in files if kept else ():
        if file not in kept:
            yield idle_root("jsonl", "reports", file, kept, "study", "FILE.jsonl")
    given = roots.get("images", ()) if survey.images else ()
    paths = [Path(image.path) for image, _ in survey.images]
    used = [folder for folder in given if any(path.is_relative_to(folder.absolute()) for path in paths)]
    for folder in given:
        if folder not in used:
            yield idle_root("jsonl", "images", folder, used, "image that a row names", "FOLDER")


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return -1
