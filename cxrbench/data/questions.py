"""Data sets of questions about images: what VQA-RAD, SLAKE, Rad-ReStruct and CheXbench have in common.

A study is an image (or what is asked about together), its questions are asked one by one. None of these data sets has
patients: what shares an image is resampled together, and where a file names the case an image is of, the case.
Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any, ClassVar

from cxrbench.data.base import Check, Progress, Root, Roots, Slice
from cxrbench.errors import CxrbenchError
from cxrbench.reading import read_regular
from cxrbench.types import Access, ClusterUnit, Image, Question, Study

LARGEST = 1 << 27
"""Bytes of a question file; the largest known has some tens of megabytes. Python's lists and dictionaries of a file
made of nothing but brackets take forty times its size."""

CLOSED = "closed"
"""Label (of source `question`) that tells whether the answer is one of a few: 1 or 0."""

TYPES = ("question-type", "answer-type")
"""Columns of a question that say of what kind it is, where the data set tells."""

LETTERS = ascii_uppercase
"""What options are called where a question lists them: no question has more than these."""


class Questions(ABC):
    """See `cxrbench.data.base.Dataset`. Subclasses say how their files are read (`_studies`)."""

    name: ClassVar[str]
    about: ClassVar[str]
    """What the root `annotations` is, in words."""
    access: Access = "open"
    may_be_open = True
    patient_ids = False
    clusters: ClassVar[ClusterUnit] = "image"
    """What `Study.patient_id` is here: questions about one of these are resampled together."""
    citation: ClassVar[str]
    licence: ClassVar[str]
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    endings: ClassVar[tuple[str, ...]] = (".json",)

    @property
    def roots(self) -> Mapping[str, Root]:
        """`annotations` and `images`."""
        return {"annotations": Root(self.about, required=True), "images": Root("the folder of the images")}

    def recognise(self, path: Path) -> str | None:
        """A file with questions is `annotations`, a folder `images`."""
        if path.is_dir():
            return "images"
        return "annotations" if path.suffix in self.endings else None

    @abstractmethod
    def _studies(self, rows: Iterable[tuple[str, Any]], part: Slice, images: Images) -> Iterator[Study]:
        """The studies of a split from (place, row) of all files."""

    def _rows(self, roots: Roots) -> Iterator[tuple[str, Any]]:
        for file in self._files(roots):
            yield from read_list(file)

    def _files(self, roots: Roots) -> list[Path]:
        """The question files, in order.

        Raises:
            CxrbenchError: the root is not known, or there is nothing in it.
        """
        found = [
            file
            for root in roots.get("annotations", ())
            for file in ([root] if root.is_file() else sorted(f for e in self.endings for f in root.glob(f"*{e}")))
        ]
        if not found:
            raise CxrbenchError(
                f"the questions of {self.name} are not known",
                where=", ".join(map(str, roots.get("annotations", ()))),
                fix=f"cxrbench data add {self.name} --annotations FILE --images FOLDER",
            )
        return found

    def studies(self, roots: Roots, part: Slice, prepared: Path | None = None) -> Iterator[Study]:
        """Studies of a split in the order of the files."""
        return self._studies(self._rows(roots), part, Images(roots.get("images", ())))

    def check(self, roots: Roots) -> list[Check]:
        """Every split: studies, questions, images that are not there."""
        lines = []
        for split in self.splits:
            studies = list(self.studies(roots, Slice(split, {})))
            asked = sum(len(study.questions) for study in studies)
            lost = sum(not is_there(image.path) for study in studies for image in study.images)
            lines.append(Check(split, "ok" if asked else "note", f"{asked:,} questions on {len(studies):,} images"))
            if lost:
                fix = f"cxrbench data add {self.name} --images FOLDER"
                lines.append(Check(split, "missing", f"{lost:,} images are not there", fix))
        return lines

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    def prepare(self, roots: Roots, out: Path, progress: Progress) -> list[Check]:
        """Nothing to prepare: the files are small."""
        return [Check(self.name, "note", "there is nothing to prepare")]

    def fingerprint(self, roots: Roots, part: Slice) -> str:
        """Hash of the question files' content."""
        digest = hashlib.sha256()
        for file in self._files(roots):
            digest.update(hashlib.sha256(_content(file)).digest())
        return digest.hexdigest()[:16]


class Images:
    """Where images lie: a name relative to the first root that has it, else to the first root."""

    def __init__(self, roots: Iterable[Path]) -> None:
        self.roots = [root.absolute() for root in roots]

    def find(self, name: str, view: str = "") -> Image:
        """The image called `name`; a file that is not there stays a path that is not there, and is counted later."""
        bases = self.roots or [Path("/nonexistent")]
        path = next((base / name for base in bases if is_there(base / name)), bases[0] / name)
        return Image(name, str(path), view)


def is_there(path: str | Path) -> bool:
    """Whether there is such a file; a name that no file system takes is that of none."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for a name that is too long


def read_list(file: Path) -> Iterator[tuple[str, Any]]:
    """(place, row) of a JSON file that is a list, or of a JSONL file.

    Raises:
        CxrbenchError: the file cannot be read, is too large, or is neither.
    """
    body = read_json(file)
    if not isinstance(body, list):
        raise CxrbenchError("the file is no list of questions", where=str(file))
    for number, row in enumerate(body, 1):
        yield f"{file}, row {number}", row


def read_json(file: Path) -> Any:
    """The content of a JSON file, or the list of the rows of a JSONL file.

    NaN is read: pandas left it where an option of CheXbench is absent, so strict_json.py would refuse the file.
    """
    body = _content(file)
    try:
        text = body.decode("utf-8-sig")
        # Cut at line feeds alone: str.splitlines would also cut at U+2028, which may stand inside a JSON string.
        lines = [line for line in text.split("\n") if line.strip()] if file.suffix == ".jsonl" else [text]
        rows = [json.loads(line, object_pairs_hook=_once) for line in lines]
        json.dumps(rows, ensure_ascii=False).encode()  # half a surrogate could be written nowhere
        return rows if file.suffix == ".jsonl" else rows[0]
    except _TwiceError as error:
        raise CxrbenchError("an object has a key twice", where=str(file), fix="keep one of them") from error
    except (ValueError, RecursionError) as error:
        raise CxrbenchError(f"the file is no JSON ({type(error).__name__})", where=str(file)) from error


def _content(file: Path) -> bytes:
    try:
        return read_regular(file, LARGEST)
    except OSError as error:
        raise CxrbenchError(f"the file cannot be read: {error.strerror}", where=str(file)) from error


class _TwiceError(Exception):
    """Raised inside the parser, which would keep the last of two values without a word."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError
    return found


def absent(value: Any) -> bool:
    """Whether a row has no such value: none, or the NaN that pandas writes for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def open_or_closed(row: Any, where: str, about: str) -> Question:
    """A question of a row with `qid`, `question`, `answer` and `answer_type`; `about` is what kind it is.

    Raises:
        CxrbenchError: a key holds no text, or the answer's type is neither.
    """
    kind = text_of(row, "answer_type", where).upper()
    if kind not in ("OPEN", "CLOSED"):
        raise CxrbenchError(f"answer_type is OPEN or CLOSED, not {kind!r}", where=where)
    return Question(
        text_of(row, "qid", where),
        text_of(row, "question", where),
        text_of(row, "answer", where),
        labels={"question": {CLOSED: float(kind == "CLOSED")}},
        columns={"answer-type": kind.lower(), "question-type": about},
    )


def with_letters(text: str, options: Sequence[str]) -> str:
    r"""The question with its options: our words, as each model's authors have their own.

    >>> with_letters("Which view?", ["PA", "AP"])
    'Which view?\nOptions: (A) PA (B) AP\nAnswer with the letter of one option.'
    """
    return f"{text}\nOptions: {' '.join(lettered(options))}\nAnswer with the letter of one option."


def lettered(options: Sequence[str]) -> list[str]:
    """The options with their letters, as a question lists them and an answer names them.

    >>> lettered(["PA", "AP"]), lettered("vwxyz")[-1]
    (['(A) PA', '(B) AP'], '(E) z')

    Raises:
        CxrbenchError: more options than letters.
    """
    if len(options) > len(LETTERS):
        raise CxrbenchError(f"a question has {len(options)} options, and there are {len(LETTERS)} letters")
    return [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]


def without_letters(text: str, options: Sequence[str]) -> str | None:
    """The question that `with_letters` made a longer one of; None where the text does not list the options.

    >>> without_letters(with_letters("Which view?", ["PA", "AP"]), ["PA", "AP"])
    'Which view?'
    """
    end = with_letters("", options)
    return text.removesuffix(end) if options and text.endswith(end) else None


def types_of(columns: Mapping[str, str]) -> str:
    """What kind of question it is by the data set's own columns, in one line; empty where it has none.

    >>> types_of({"answer-type": "closed", "question-type": "side", "sex": "F"})
    'side, closed'
    """
    return ", ".join(columns[name] for name in TYPES if columns.get(name))


def text_of(row: Any, key: str, where: str) -> str:
    """A text (or number, as text) of a row.

    Raises:
        CxrbenchError: the row is no object, or the key is missing or holds something else.
    """
    value = row.get(key) if isinstance(row, dict) else None
    endless = isinstance(value, float) and not math.isfinite(value)  # NaN stands for nothing, and is no answer "nan"
    if endless or isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise CxrbenchError(f"the key {key!r} holds no text", where=where)
    return str(value).strip()
