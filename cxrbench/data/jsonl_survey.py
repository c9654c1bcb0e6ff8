"""Reading the files of the data set `jsonl`, line by line: studies, and what is wrong with all files together.

A problem names file, line and key, never a word of the reports. Standard library only.
"""

from __future__ import annotations

import codecs
import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cxrbench.data.base import Roots
from cxrbench.data.jsonl_rows import LineError, parse_line, study_of
from cxrbench.errors import CxrbenchError
from cxrbench.reading import open_regular
from cxrbench.spool import Ids
from cxrbench.types import Study

SHOWN = 20
"""Problems an error lists; the others are counted."""

DEFAULT_SPLIT = "test"
"""The split of every study where no row names one."""

LONGEST = 16 << 20
"""Bytes of a line: a study; reports have thousands."""

EVERY_KEY = "docs/data-jsonl.md of the repository shows every key"


@dataclass
class Problems:
    """What is wrong, in order; the first ones in words, all counted."""

    listed: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, place: str, what: str) -> None:
        """Add what is wrong at a place."""
        self.count += 1
        if len(self.listed) < SHOWN:
            self.listed.append(f"{place}: {what}")

    def at(self, file: Path, number: int) -> Callable[[str, str], None]:
        """A function that adds a problem with a key of that line."""
        return lambda key, what: self.add(f"{place_of(file, number)}, key {key}", what)

    def lines(self) -> str:
        """The first ones, and how many more there are."""
        more = self.count - len(self.listed)
        return "\n".join([*self.listed, *([f"and {more:,} more"] if more else [])])

    def refuse(self) -> None:
        """Raise what was found, if anything was."""
        if self.count:
            many = "one problem" if self.count == 1 else f"{self.count:,} problems"
            raise CxrbenchError(
                f"the data cannot be used: {many}",
                where="\n         ".join(self.lines().splitlines()),
                fix=f"correct these lines ({EVERY_KEY}), then: cxrbench data check jsonl",
            )


def files_of(roots: Roots) -> tuple[Path, ...]:
    """The files of the data set.

    Raises:
        CxrbenchError: none is named.
    """
    files = roots.get("reports", ())
    if not files:
        raise CxrbenchError(
            "the data set jsonl needs a file: one JSON object per study and line",
            where="root reports",
            fix="cxrbench data add jsonl --reports FILE.jsonl",
        )
    return tuple(files)


def raw_lines(file: Path) -> Iterator[tuple[int, int, bytes]]:
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
                    raise CxrbenchError(f"a line has more than {LONGEST:,} bytes", where=where, fix=EVERY_KEY)
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


def place_of(file: Path, number: int) -> str:
    """A line in words."""
    return f"{file}, line {number}"


def _read(
    file: Path, folders: tuple[Path, ...], problems: Problems, took: Callable[[bytes], None]
) -> Iterator[tuple[int, Study, bool]]:
    """Line number and study of each line without a problem, and whether the line names its split.

    Blank lines are skipped. `took` is given every line.
    """
    resolve = _resolver(file, folders)
    for number, start, line in raw_lines(file):
        took(line)
        if not line.strip():
            continue
        before = problems.count
        try:
            values = _parse(line, start)
            study = study_of(values, resolve, problems.at(file, number), DEFAULT_SPLIT)
        except LineError as error:
            problems.add(place_of(file, number), str(error))
            continue
        if problems.count == before:
            yield number, study, values.get("split") is not None


def _resolver(file: Path, folders: tuple[Path, ...]) -> Callable[[str], Path]:
    """Relative image paths start at the images root (the first that has the file), else where the JSONL file is."""
    bases = [folder.absolute() for folder in folders] or [file.absolute().parent]

    def resolve(path: str) -> Path:
        if len(bases) == 1:
            return bases[0] / path
        return next((base / path for base in bases if (base / path).exists()), bases[0] / path)

    return resolve


@dataclass
class _Some:
    """Studies without something that others have: how many, and where the first one stands."""

    count: int = 0
    first: tuple[Path, int] | None = None

    def add(self, file: Path, number: int) -> None:
        self.count += 1
        self.first = self.first or (file, number)


@dataclass
class Survey:
    """What one reading of all files tells of them together."""

    problems: Problems = field(default_factory=Problems)
    splits: Counter[str] = field(default_factory=Counter)
    files: list[Path] = field(default_factory=list)
    """The files as they were read."""
    contents: list[bytes] = field(default_factory=list)
    """SHA-256 of each."""
    ids: Ids = field(default_factory=Ids)
    numbers: array[int] = field(default_factory=lambda: array("Q"))
    """Where each study stands first: position of the file, and line."""
    patients: _Some = field(default_factory=_Some)
    split: _Some = field(default_factory=_Some)

    def add(self, study: Study, file: Path, number: int, named: bool) -> None:
        """Take note of a study; `named`: its line names its split."""
        if self.ids.add(study.study_id):
            self.numbers.append((len(self.files) - 1) << _LINE_BITS | number)
        else:
            position, line = divmod(self.numbers[self.ids.place(study.study_id)], 1 << _LINE_BITS)
            what = f"stands already in {place_of(self.files[position], line)}"
            self.problems.add(f"{place_of(file, number)}, key study_id", what)
        if study.patient_id is None:
            self.patients.add(file, number)
        if not named:
            self.split.add(file, number)
        self.splits[study.split] += 1

    def finish(self) -> None:
        why = {
            "patient_id": "patients are the clusters of every interval",
            "split": f"a study without one would pass for {DEFAULT_SPLIT}",
        }
        for key, without in (("patient_id", self.patients), ("split", self.split)):
            if without.first is not None and without.count < self.splits.total():
                many = f"missing in {without.count:,} of {self.splits.total():,} studies, first here"
                place = f"{place_of(*without.first)}, key {key}"
                self.problems.add(place, f"{many}: {why[key]}, so give it everywhere or nowhere")


_LINE_BITS = 44


def surveyed(roots: Roots, survey: Survey) -> Iterator[tuple[Path, int, Study]]:
    """File, line and study of all files in order, all of which `survey` is told; it is finished with the last."""
    for file in files_of(roots):
        survey.files.append(file)
        content = hashlib.sha256()
        for number, study, named in _read(file, tuple(roots.get("images", ())), survey.problems, content.update):
            survey.add(study, file, number, named)
            yield file, number, study
        survey.contents.append(content.digest())
    survey.finish()
