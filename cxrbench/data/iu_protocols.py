"""The two published selections of IU X-ray: R2Gen's annotation.json and ReXrank's JSON files.

Reads files, decides nothing about images on disk. Both name images `<study>/<k>.png`, where k counts the images of
Open-i's XML in its order (which is not an order of views).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrbench.data import strict_json
from cxrbench.data.rexrank_context import ContextError, read_context
from cxrbench.errors import CxrbenchError

SPLITS: Mapping[str, str] = {"train": "train", "val": "validate", "test": "test"}
"""Split as the files spell it -> as cxrbench does."""

_ID = re.compile(r"(CXR[0-9]{1,9})(?:_1)?_IM-[0-9]+(?:-[0-9]+)*")
_PATH = re.compile(r"(CXR[0-9]{1,9}(?:_1)?_IM-[0-9]+(?:-[0-9]+)*)/([0-9]{1,9})\.png")
_R2GEN_MARK = re.compile(r'"id":\s*"CXR[0-9]+(?:_1)?_IM-')
_REXRANK_MARK = re.compile(r'"CXR[0-9]+(?:_1)?_IM-[0-9-]+":\s*\{')
_OTHER_SPLIT = re.compile(r'"id":\s*"[0-9]+",\s*"report"')


@dataclass(frozen=True, slots=True)
class Numbered:
    """One image of a selection: R2Gen's folder, the number k in it, and the view where the file itself states it."""

    folder: str
    number: int
    view: str = ""

    @property
    def name(self) -> str:
        return f"{self.folder}/{self.number}"


@dataclass(frozen=True, slots=True)
class Listed:
    """One study of a selection. The first image is the key image where the selection has one."""

    study_id: str
    split: str
    sections: Mapping[str, str]
    images: tuple[Numbered, ...]

    @property
    def uid(self) -> str:
        """Open-i's uid: `CXR2384` for `CXR2384_IM-0942`."""
        return self.study_id.split("_")[0]


def sniff(text: str) -> str | None:
    """`r2gen`, `rexrank` or None, from the beginning of a JSON file."""
    if _R2GEN_MARK.search(text) and '"image_path"' in text:
        return "r2gen"
    if _REXRANK_MARK.search(text) and '"section_findings"' in text:
        return "rexrank"
    return None


def is_other_split(text: str) -> bool:
    """Whether a JSON file has R2Gen's layout with bare study numbers as ids, as other published splits have."""
    return _OTHER_SPLIT.search(text) is not None


def _load(path: Path) -> dict[str, Any]:
    data = strict_json.read(path)
    if not isinstance(data, dict):
        raise CxrbenchError("the file holds no JSON object", where=str(path), fix="get the file again")
    return data


def _wrong(what: str, where: str) -> CxrbenchError:
    return CxrbenchError(what, where=where, fix="use the file as published")


def _text(record: Mapping[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise _wrong(f"the key {key!r} is missing or no text", where)
    return value


def _study_id(value: str, where: str) -> str:
    if not _ID.fullmatch(value):
        raise _wrong(f"{value!r} is no study id like CXR2384_IM-0942", where)
    return value


def _images(record: Mapping[str, Any], study_id: str, where: str) -> list[Numbered]:
    paths = record.get("image_path")
    if not isinstance(paths, list) or not paths:
        raise _wrong("the key 'image_path' is missing or no list", where)
    matches = [_PATH.fullmatch(path) if isinstance(path, str) else None for path in paths]
    found = [Numbered(match[1], int(match[2])) for match in matches if match is not None]
    if len(found) != len(paths) or any(image.folder != study_id for image in found):
        raise _wrong(f"an image_path is not of the form {study_id}/0.png", where)
    return found


def read_r2gen(path: Path) -> list[Listed]:
    """Read R2Gen's annotation.json in its order: `{train, val, test: [{id, report, image_path, split}]}`.

    Raises:
        CxrbenchError: a split has another name (a public copy spells `test` as four blanks), or a record is damaged.
    """
    data = _load(path)
    if set(data) != set(SPLITS):
        raise CxrbenchError(
            f"the splits are called {', '.join(map(repr, data))} and should be 'train', 'val', 'test'",
            where=str(path),
            fix="correct the split's name in the file, or use the file as published with R2Gen",
        )
    return _each_once(_r2gen_records(data, path), path)


def _r2gen_records(data: Mapping[str, Any], path: Path) -> Iterator[Listed]:
    for split, records in data.items():
        if not isinstance(records, list):
            raise _wrong(f"the split {split!r} is no list", str(path))
        for position, record in enumerate(records):
            where = f"{path}, {split}[{position}]"
            if not isinstance(record, dict):
                raise _wrong("the record is no object", where)
            study_id = _study_id(_text(record, "id", where), where)
            if record.get("split", split) != split:
                raise _wrong(f"the record says split {record['split']!r} and stands under {split!r}", where)
            report = _text(record, "report", where)
            yield Listed(
                study_id,
                SPLITS[split],
                {"findings": report} if report.strip() else {},
                tuple(_images(record, study_id, where)),
            )


def read_rexrank(paths: tuple[Path, ...]) -> list[Listed]:
    """Read ReXrank's IU files (test, valid) in their order; the key image comes first.

    The indication and comparison are taken out of `context` (`rexrank_context`), where ReXrank writes `None` for an
    empty comparison. `frontal_lateral` is used only where it has one entry per image.
    """
    found: list[Listed] = []
    for path in paths:
        found += _rexrank_records(_load(path), path)
    return _each_once(iter(found), *paths)


def _rexrank_records(data: Mapping[str, Any], path: Path) -> Iterator[Listed]:
    for key, record in data.items():
        where = f"{path}, key {key!r}"
        if not isinstance(record, dict):
            raise _wrong("the record is no object", where)
        study_id = _study_id(key, where)
        split = record.get("split")
        if not isinstance(split, str) or split not in SPLITS:
            raise _wrong(f"the split is {split!r} and should be 'train', 'val' or 'test'", where)
        try:
            context = read_context(_text(record, "context", where))
        except ContextError as error:
            raise _wrong(f"the record has {error}", where) from None
        sections = {
            "findings": _text(record, "section_findings", where),
            "impression": _text(record, "section_impression", where),
            "indication": context.indication,
            "comparison": context.comparison,
        }
        kept = {name: text for name, text in sections.items() if text.strip()}
        yield Listed(study_id, SPLITS[split], kept, _rexrank_images(record, study_id, where))


def _rexrank_images(record: Mapping[str, Any], study_id: str, where: str) -> tuple[Numbered, ...]:
    images = _images(record, study_id, where)
    views = record.get("frontal_lateral")
    if isinstance(views, list) and len(views) == len(images):
        images = [
            Numbered(image.folder, image.number, str(view).upper()) for image, view in zip(images, views, strict=True)
        ]
    key = _text(record, "key_image_path", where)
    chosen = [image for image in images if f"{image.name}.png" == key]
    if len(chosen) != 1:
        raise _wrong(f"the key image {key!r} is not one of the study's images", where)
    return (chosen[0], *(image for image in images if image is not chosen[0]))


def _each_once(records: Iterator[Listed], *paths: Path) -> list[Listed]:
    found: dict[str, Listed] = {}
    for record in records:
        if record.study_id in found:
            where = ", ".join(map(str, paths))
            raise _wrong(f"the study {record.study_id} is there twice", where)
        found[record.study_id] = record
    return list(found.values())
