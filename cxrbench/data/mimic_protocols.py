"""The annotation files three protocols stand on: LLaVA-Rad's, R2Gen's and ReXrank's JSON for MIMIC-CXR.

Each file is recognised by its content, brings its own split and text, and is joined by ids with PhysioNet's tables
where those are given. Messages name a record by its number, never by id or text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxrbench.data import strict_json
from cxrbench.data.mimic_tables import DICOM_ID
from cxrbench.data.rexrank_context import ContextError, read_context
from cxrbench.errors import CxrbenchError

FORMS = ("llavarad", "r2gen", "rexrank")

_SPLITS: Mapping[str, str] = {
    "train": "train",
    "test": "test",
    **dict.fromkeys(("validate", "validation", "valid", "val", "dev"), "validate"),
}
_IMAGE = re.compile(
    rf"(?:.*/)?p1[0-9]/p(?P<patient>[0-9]{{8}})/s(?P<study>[0-9]{{8}})/(?P<image>{DICOM_ID})(?:\.[a-zA-Z]+)?"
)
_OF_MIMIC = re.compile(r"p1[0-9]\\?/p[0-9]{8}\\?/s[0-9]{8}")
_HEAD = 1 << 18


def protocol_split(name: str) -> str | None:
    """train, validate or test for any of the names the protocols use, else None."""
    return _SPLITS.get(name.lower())


def sniff(path: Path) -> str | None:
    """The form of a JSON file by the keys in its first 256 KiB: llavarad, r2gen, rexrank, or None.

    MIMIC-CXR is told from other data sets of the same forms by its image paths.
    """
    if path.suffix != ".json" or not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(_HEAD).decode("utf-8", errors="replace")
    if not _OF_MIMIC.search(head):
        return None
    if '"conversations"' in head and '"generate_method"' in head:
        return "llavarad"
    if '"key_image_path"' in head or '"section_findings"' in head:
        return "rexrank"
    return "r2gen" if '"image_path"' in head and '"report"' in head else None


class _RecordError(Exception):
    """A record that is not of its form; the message holds nothing of the record."""


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of an annotation file. `images` are (image id, view), the key image first; views may be empty."""

    patient_id: str
    study_id: str
    split: str
    images: tuple[tuple[str, str], ...]
    sections: Mapping[str, str]
    columns: Mapping[str, str] = field(default_factory=dict)
    sex: str | None = None
    age: float | None = None


def _ids(paths: Sequence[str]) -> tuple[str, str, tuple[str, ...]]:
    """(patient, study, image ids) of image paths; `_RecordError` when one has another form or they disagree."""
    matches = [_IMAGE.fullmatch(str(path).replace("\\", "/")) for path in paths]
    owners = {(match["patient"], match["study"]) if match else None for match in matches}
    if len(owners) != 1 or None in owners:
        raise _RecordError("image paths that are not p1x/p########/s########/<dicom id> of one study")
    patient, study = next(owner for owner in owners if owner is not None)
    return patient, study, tuple(match["image"] for match in matches if match)


def _text(entry: Mapping[str, Any], key: str, *, required: bool = False) -> str:
    """The text under a key, stripped; empty where it is null, or missing and not required."""
    value = entry[key] if required else entry.get(key)
    if value is not None and not isinstance(value, str):
        raise _RecordError(f"a {key} that is no text")
    return (value or "").strip()


def _sections(**texts: str) -> dict[str, str]:
    return {name: text for name, text in texts.items() if text}


def _split_of(path: Path, entry: Mapping[str, Any]) -> str:
    """The split a record states, else the one in the file's name as published (chat_dev_MIMIC_..., ..._test.json)."""
    named = _text(entry, "split") or next((part for part in path.stem.lower().split("_") if part in _SPLITS), "")
    split = protocol_split(named)
    if split is None:
        raise _RecordError("no split: neither the record nor the file's name says train, dev or test, as published")
    return split


def _llavarad(path: Path, name: str, entry: Mapping[str, Any]) -> Record:
    patient, study, images = _ids([entry["image"]])
    answer = entry["conversations"][1]["value"]
    findings = answer.strip() if isinstance(answer, str) else ""  # LLaVA-Rad's loader passes over any other answer
    return Record(
        patient,
        study,
        _split_of(path, entry),
        ((images[0], _text(entry, "view").upper()),),
        _sections(findings=findings, indication=_text(entry, "reason")),
        {"generate_method": str(entry["generate_method"])},
    )


def _r2gen(path: Path, name: str, entry: Mapping[str, Any]) -> Record:
    """R2Gen's loader opens the first path only; its MIMIC file has one per record."""
    paths = entry["image_path"]
    patient, study, images = _ids([paths] if isinstance(paths, str) else paths[:1])
    split = protocol_split(name)
    if split is None:
        raise _RecordError("a split that is none of train, val and test")
    findings = _text(entry, "report", required=True)
    return Record(patient, study, split, ((images[0], ""),), _sections(findings=findings))


def _rexrank_images(entry: Mapping[str, Any]) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """Ids, and images with FRONTAL or LATERAL where the record states a view for every image; the key image first."""
    paths = entry["image_path"]
    patient, study, images = _ids([paths] if isinstance(paths, str) else paths)
    sides = entry.get("frontal_lateral") or ()
    named = [str(side).strip().upper() for side in ([sides] if isinstance(sides, str) else sides)]
    views = named if len(named) == len(images) else [""] * len(images)
    key = _ids([entry["key_image_path"]])[2][0] if entry.get("key_image_path") else images[0]
    if key not in images:
        raise _RecordError("a key image that is not one of its images")
    pairs = sorted(zip(images, views, strict=True), key=lambda pair: pair[0] != key)
    return patient, study, tuple(pairs)


def _rexrank(path: Path, name: str, entry: Mapping[str, Any]) -> Record:
    patient, study, images = _rexrank_images(entry)
    context = read_context(_text(entry, "context"))
    sections = _sections(
        findings=_text(entry, "section_findings", required=True),
        impression=_text(entry, "section_impression"),
        indication=context.indication,
        comparison=context.comparison,
    )
    columns = {"age_range": context.age_range} if context.age_range else {}
    return Record(patient, study, _split_of(path, entry), images, sections, columns, context.sex, context.age)


_PARSERS: Mapping[str, tuple[type, Callable[[Path, str, Any], Record]]] = {
    "llavarad": (list, _llavarad),
    "r2gen": (dict, _r2gen),
    "rexrank": (dict, _rexrank),
}


def _entries(body: Any) -> Iterator[tuple[str, Any]]:
    """(key of the file's mapping or nothing, entry) for lists, mappings of lists and mappings of entries."""
    for name, value in body.items() if isinstance(body, dict) else [("", body)]:
        for entry in value if isinstance(value, list) else [value]:
            yield name, entry


def _complaint(error: Exception) -> str:
    """What is wrong with a record, without a word of its content."""
    if isinstance(error, KeyError):
        return f"lacks the key {error}"
    return f"has {error}" if isinstance(error, _RecordError | ContextError) else "does not have the published structure"


def records(form: str, path: Path) -> list[Record]:
    """All records of an annotation file, in its order.

    Raises:
        CxrbenchError: the file or a record does not have the form; names the record by its number.
    """
    body = strict_json.read(path)
    shape, parse = _PARSERS[form]
    if not isinstance(body, shape):
        raise CxrbenchError(f"the file is not a JSON {shape.__name__} as the form {form} has it", where=str(path))
    found: list[Record] = []
    for number, (name, entry) in enumerate(_entries(body), start=1):
        try:
            found.append(parse(path, name, entry))
        except (_RecordError, ContextError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise CxrbenchError(
                f"record {number} {_complaint(error)}",
                where=str(path),
                fix=f"use the published file of the form {form}",
            ) from None
    return found


def annotation_files(roots: Iterable[Path], form: str) -> list[Path]:
    """The files of a form among the annotation roots (files, or folders that hold them)."""
    inside = [path for root in roots for path in (sorted(root.glob("*.json")) if root.is_dir() else [root])]
    return [path for path in inside if sniff(path) == form]


@dataclass(frozen=True, slots=True)
class Grouped:
    """Records of one study that carry the same text: one study of the data set. Its images are in file order."""

    first: Record
    images: tuple[tuple[str, str], ...]


def group(found: Iterable[Record]) -> list[Grouped]:
    """Join the records of a study. Records of one study with different texts stay apart, with their own images."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in found:
        key = (record.study_id, tuple(sorted(record.sections.items())), tuple(sorted(record.columns.items())))
        groups.setdefault(key, []).append(record)
    return [
        Grouped(members[0], tuple(dict.fromkeys(image for member in members for image in member.images)))
        for members in groups.values()
    ]
