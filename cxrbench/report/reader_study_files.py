"""The files of a reader study as they come back: the key, and what each reader answered, checked before use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.reading import read_regular
from cxrbench.report.reader_study import Part, Reference
from cxrbench.report.reader_study_terms import ERRORS, SCALES
from cxrbench.types import Access, ClusterUnit

LARGE = 50_000_000
Count = Annotated[int, Field(ge=0, le=99)]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class System(_File):
    """One of the reports' makers: its name, and the hash of its run (empty: the reference)."""

    name: str
    run: str


class Item(_File):
    """One screen of the form, unblinded: its systems from left to right."""

    sample: str
    patient: str
    order: tuple[int, ...]
    repeats: str | None


class Key(_File):
    """The key of a study."""

    what: Literal["cxrbench reader study key"]
    format: Literal[1]
    study: str
    cxrbench: str
    task: str
    access: Access
    cluster_unit: ClusterUnit
    parts: tuple[Part, ...]
    reference: Reference
    seed: int
    systems: tuple[System, ...]
    items: Mapping[str, Item]


class Answer(_File):
    """What a reader said of one screen, by the position of each report; what was not answered is None or missing."""

    ratings: tuple[dict[str, Annotated[int, Field(ge=1, le=5)]], ...] = ()
    errors: tuple[dict[str, tuple[Count, Count]] | None, ...] = ()
    preferences: dict[str, Literal["first", "second", "equal"]] = {}
    done: bool = False


class Responses(_File):
    """What one reader exported."""

    what: Literal["cxrbench reader study responses"]
    format: Literal[1]
    study: str
    reader: Annotated[str, Field(min_length=1, max_length=40)]
    items: Mapping[str, Answer]


_Read = TypeVar("_Read", Key, Responses)


def read_key(file: Path) -> Key:
    """Read the key of a study.

    Raises:
        CxrbenchError: it is none, or it is damaged.
    """
    key = _read(file, Key, "the key of a reader study")
    every = list(range(len(key.systems)))
    if any(sorted(item.order) != every for item in key.items.values()):
        raise CxrbenchError("the key is damaged: a case does not name each system once", where=str(file))
    return key


def read_responses(files: Sequence[Path], key: Key) -> list[Responses]:
    """Read the answers of readers, one file each, in the order of the readers' names.

    Raises:
        CxrbenchError: a file is none of this study, a reader comes twice, or an answer does not fit its case.
    """
    found: dict[str, Responses] = {}
    for file in files:
        one = _read(file, Responses, "the answers of a reader")
        if one.study != key.study:
            raise CxrbenchError(
                f"the answers are of study {one.study}, the key is of study {key.study}",
                where=str(file),
                fix="--key with the file that was made with the form",
            )
        if one.reader in found:
            raise CxrbenchError(
                f"two files hold answers of reader {one.reader!r}", where=str(file), fix="give one file of each reader"
            )
        for name, answer in one.items.items():
            _check(name, answer, key, file)
        found[one.reader] = one
    return [found[reader] for reader in sorted(found)]


def _check(name: str, answer: Answer, key: Key, file: Path) -> None:
    systems = len(key.systems)
    pairs = {f"{a}-{b}" for a in range(systems) for b in range(a + 1, systems)}
    wrong = ""
    if name not in key.items:
        wrong = "is not in the key"
    elif any(len(part) not in (0, systems) for part in (answer.ratings, answer.errors)):
        wrong = f"does not have {systems} reports"
    elif any(set(rating) - set(SCALES) for rating in answer.ratings):
        wrong = "has a scale that is not asked"
    elif any(set(errors or {}) - set(ERRORS) for errors in answer.errors):
        wrong = "has an error category that is not asked"
    elif set(answer.preferences) - pairs:
        wrong = "prefers between reports that are not there"
    if wrong:
        raise CxrbenchError(f"an answer does not fit its case, which {wrong}", where=f"{file}, item {name[:20]!r}")


def _read(file: Path, kind: type[_Read], what: str) -> _Read:
    """A JSON file of a known form; messages name the place and repeat nothing of the content."""
    try:
        body: Any = json.loads(read_regular(file, LARGE).decode("utf-8"))
        return kind.model_validate(body)
    except OSError as error:
        raise CxrbenchError(f"{what} cannot be read: {error.strerror}", where=str(file), code=Exit.USAGE) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part)[:40] for part in first["loc"]) or "the file"
        raise CxrbenchError(f"the file is not {what}: {first['msg']}", where=f"{file}, {place}") from error
    except (ValueError, RecursionError) as error:
        raise CxrbenchError(f"the file is not {what}: it is not JSON", where=str(file)) from error
