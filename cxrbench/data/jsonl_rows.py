"""One line of a JSONL data set -> Study, checked key by key.

A problem names the key and what was expected there, never a value: the values are report text. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from cxrbench.data import strict_json
from cxrbench.data.strict_json import shown
from cxrbench.errors import suggest
from cxrbench.types import SECTIONS, Demographics, Image, Study

Say = Callable[[str, str], None]
"""Called with a key (`images[0].path`) and what is wrong there."""

STRING = "a non-empty string"
ID = "a non-empty string without control characters, or a whole number"
TIME = 'a date "2180-05-06" or a date and time "2180-05-06T21:30:14" without a time zone'
LABEL = "1 (present), 0 (absent) or -1 (uncertain)"
KEYS = (
    "study_id",
    "patient_id",
    "split",
    "images",
    "sections",
    "study_time",
    "sex",
    "age",
    "race",
    "labels",
    "priors",
)
"""Keys with a meaning; all others are columns."""

_KEYS = frozenset(KEYS)
_WHO = ("sex", "age", "race")
_NOBODY = Demographics()

SPLITS = ("train", "validate", "test")
OTHER_SPLITS: Mapping[str, str] = {
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "validate"),
    **dict.fromkeys(("training",), "train"),
    **dict.fromkeys(("testing", "eval", "evaluation"), "test"),
}
"""Names others use -> the one meant; they are refused with it, so that one split has one name everywhere."""

IMAGE_KEYS = ("path", "view", "image_id")

_BELONGS: Mapping[str, str] = {
    **{name: f"sections.{name}" for name in SECTIONS},
    **{name: f"images[].{name}" for name in IMAGE_KEYS},
    "image": "images",
}
"""Keys that are known, but one level down."""


def parse_line(text: str) -> dict[str, Any]:
    """Return the object of a line, by the rules of `strict_json`.

    Raises:
        LineError: the line is not one JSON object; the message says why without quoting it.
    """
    try:
        row = strict_json.parse(text)
    except strict_json.JsonError as error:
        raise LineError(f"{error.what} at character {error.column}") from None
    if not isinstance(row, dict):
        raise LineError(f"expected one JSON object, found {_found(row)}")
    return row


class LineError(ValueError):
    """The line holds no row; the message says why without quoting it."""


def _found(value: object) -> str:
    if isinstance(value, str):
        return "a string" if value.strip() else "an empty string"
    names = {bool: "true or false", int: "a whole number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "null")


@dataclass(frozen=True, slots=True)
class Row:
    """Reads the keys of one row; what is wrong goes to `say`, and a stand-in is returned so that reading goes on."""

    values: Mapping[str, Any]
    say: Say

    def _wrong(self, key: str, expected: str, value: object) -> None:
        self.say(key, f"expected {expected}, found {_found(value)}")

    def text(self, key: str) -> str | None:
        """A string, or None where the key is missing or null."""
        value = self.values.get(key)
        if value is None or (isinstance(value, str) and value.strip()):
            return value
        self._wrong(key, STRING, value)
        return None

    def split(self) -> str | None:
        """One of the three splits, or None where the key is missing or null."""
        value = self.text("split")
        if value is None or value in SPLITS:
            return value
        meant = OTHER_SPLITS.get(value.lower())
        hint = f" (did you mean {meant!r}?)" if meant else suggest(value, SPLITS)
        self.say("split", f"is none of {', '.join(SPLITS)}{hint}")
        return None

    def identifier(self, key: str, value: object) -> str | None:
        """A value that names a study, a patient or an image; whole numbers count as their digits."""
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and value.strip() and value.isprintable():
            return value
        self._wrong(key, ID, value)
        return None

    def own_identifier(self, key: str, *, required: bool = False) -> str | None:
        """The identifier under a key of the row."""
        value = self.values.get(key)
        if value is None:
            if required:
                self.say(key, f"is missing: expected {ID}")
            return None
        return self.identifier(key, value)

    def items(self, key: str) -> list[Any]:
        """A list, empty where the key is missing or null."""
        value = self.values.get(key)
        if isinstance(value, list):
            return value
        if value is not None:
            self._wrong(key, "a list", value)
        return []

    def mapping(self, key: str, value: Any = None, *, nested: bool = False) -> dict[str, Any]:
        """An object, empty where the key is missing or null."""
        value = value if nested else self.values.get(key)
        if isinstance(value, dict):
            return value
        if value is not None or nested:
            self._wrong(key, "an object", value)
        return {}

    def sections(self) -> dict[str, str]:
        """The non-empty sections."""
        found: dict[str, str] = {}
        for name, text in self.mapping("sections").items():
            if name not in SECTIONS:
                known = f"is no section{suggest(name, SECTIONS)}; known are {', '.join(SECTIONS)}"
                self.say(f"sections.{shown(name)}", known)
            elif isinstance(text, str):
                if text.strip():
                    found[name] = text
            elif text is not None:
                self._wrong(f"sections.{shown(name)}", "a string or null", text)
        return found

    def images(self, resolve: Callable[[str], Path]) -> tuple[Image, ...]:
        """The images; `resolve` makes a path of the file absolute."""
        found: dict[str, Image] = {}
        for i, item in enumerate(self.items("images")):
            key = f"images[{i}]"
            image = self._image(key, {"path": item} if isinstance(item, str) else item, resolve)
            if image is None:
                continue
            if image.image_id in found:
                self.say(key, "has the image_id of an earlier image of this study")
            found[image.image_id] = image
        return tuple(found.values())

    def _image(self, key: str, item: object, resolve: Callable[[str], Path]) -> Image | None:
        if not isinstance(item, dict):
            self._wrong(key, 'a path, or an object {"path", "view", "image_id"}', item)
            return None
        for name in item.keys() - set(IMAGE_KEYS):
            self.say(
                f"{key}.{shown(name)}", f"is not known{suggest(name, IMAGE_KEYS)}; known are {', '.join(IMAGE_KEYS)}"
            )
        path, view, image_id = (item.get(name) for name in IMAGE_KEYS)
        if not isinstance(path, str) or not path.strip() or "\0" in path:
            self._wrong(f"{key}.path", "the path of an image file", path)
            return None
        if view is not None and not isinstance(view, str):
            self._wrong(f"{key}.view", 'a string such as "PA"', view)
            view = None
        named = path if image_id is None else self.identifier(f"{key}.image_id", image_id)
        return Image(named or path, str(resolve(path)), (view or "").strip().upper())

    def time(self) -> str | None:
        """`study_time` in the form that sorts."""
        value = self.values.get("study_time")
        if value is None:
            return None
        try:
            time = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            self.say("study_time", f"expected {TIME}")
            return None
        if time.tzinfo is not None:
            self.say("study_time", f"expected {TIME}, found one with a time zone")
        return time.isoformat()

    def age(self) -> float | None:
        """Years, 0 to 130."""
        value = self.values.get("age")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._wrong("age", "years as a number", value)
        elif 0 <= value <= 130:
            return float(value)
        else:
            self.say("age", "expected years from 0 to 130")
        return None

    def demographics(self) -> Demographics:
        """What is known of the patient."""
        if not any(key in self.values for key in _WHO):
            return _NOBODY
        return Demographics(sex=self.text("sex"), age=self.age(), race=self.text("race"))

    def labels(self) -> dict[str, dict[str, float]]:
        """Labels by source; null means not mentioned."""
        found: dict[str, dict[str, float]] = {}
        for source, labels in self.mapping("labels").items():
            key = f"labels.{shown(source)}"
            found[source] = {}
            for name, value in self.mapping(key, labels, nested=True).items():
                if value is None:
                    continue
                if isinstance(value, bool) or value not in (1, 0, -1):
                    self.say(f"{key}.{shown(name)}", f"expected {LABEL}, or null where it is not mentioned")
                else:
                    found[source][name] = float(value)
        return found

    def priors(self, study_id: str) -> tuple[str, ...]:
        """Study ids of earlier studies, newest first."""
        named = [self.identifier(f"priors[{i}]", item) for i, item in enumerate(self.items("priors"))]
        if study_id in named:
            self.say("priors", "holds the study itself")
        return tuple(name for name in named if name)

    def columns(self) -> dict[str, str]:
        """All further keys, as strings."""
        further = {name: self._column(name, value) for name, value in self.values.items() if name not in _KEYS}
        return {name: text for name, text in further.items() if text is not None}

    def _column(self, name: str, value: object) -> str | None:
        if name in _BELONGS:
            self.say(name, f"belongs into {_BELONGS[name]}")
        elif meant := _meant(name):
            self.say(shown(name), f"is not known; did you mean {meant!r}? (a column of your own needs another name)")
        elif isinstance(value, dict | list):
            expected = f"is not known{suggest(name, KEYS)}: a column of your own holds a string or a number"
            self.say(shown(name), f"{expected}, not {_found(value)}")
        elif isinstance(value, bool):
            return "yes" if value else "no"
        elif value is not None:
            return str(value)
        return None


@lru_cache(maxsize=1024)
def _meant(name: str) -> str | None:
    """The known key that `name` is a slip of: other case, other separators, a letter more or less."""
    plain = {key.replace("_", ""): key for key in KEYS}
    close = get_close_matches(re.sub(r"[\W_]", "", name.lower()), plain, n=1, cutoff=0.85)
    return plain[close[0]] if close else None


def study_of(values: Mapping[str, Any], resolve: Callable[[str], Path], say: Say, split: str) -> Study:
    """Make a study of a row; its split is `split` where the row names none.

    Calls `say` for everything that is wrong; then the study is not to be used.
    """
    row = Row(values, say)
    study_id = row.own_identifier("study_id", required=True) or ""
    return Study(
        study_id=study_id,
        patient_id=row.own_identifier("patient_id"),
        split=row.split() or split,
        images=row.images(resolve),
        sections=row.sections(),
        time=row.time(),
        labels=row.labels(),
        demographics=row.demographics(),
        priors=row.priors(study_id),
        columns=row.columns(),
    )
