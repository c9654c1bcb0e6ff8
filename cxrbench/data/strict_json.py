"""JSON of every data set, read by one set of rules; what is wrong is named by line and column, never by its text.

Refused: a key twice in one object, NaN and Infinity (also as a number too large for a float), whole numbers of more
than `MAX_DIGITS` digits, nesting the parser has no room for, half a surrogate pair, NUL bytes, what is not UTF-8. A
UTF-8 byte order mark at the very start is passed over (RFC 8259, section 8.1, allows it). Standard library only.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from cxrbench.data.text import decode
from cxrbench.errors import CxrbenchError
from cxrbench.reading import read_regular

MAX_DIGITS = 4300
"""Python's own limit for turning text into a whole number, here whatever the interpreter is set to."""

LARGEST = 4 << 30
"""Bytes of a file; the largest annotation file of MIMIC-CXR has some hundred million."""

_DEEP = 100
"""Where a text that is nested too deeply is pointed at."""

_TOKEN = re.compile(
    r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]|-?Infinity|NaN|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?', re.DOTALL
)
_TRAILING = re.compile(r"(?: starting)? at$")
"""How the parser's messages end where it means to go on with the position."""

_MARK = "Unexpected UTF-8 BOM (decode using utf-8-sig)"
"""What `json.loads` says of one; a decoder alone takes it for a wrong value."""

_COLON = re.compile(r"\s*:")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_PLAIN_KEY = re.compile(r"[\w.-]{1,40}")


class JsonError(ValueError):
    """The text is not JSON by the rules above; `what` says why without quoting it."""

    def __init__(self, what: str, text: str, position: int) -> None:
        super().__init__(what)
        self.what = what
        self.line = text.count("\n", 0, position) + 1
        self.column = position - text.rfind("\n", 0, position)


class _FaultError(ValueError):
    """Raised inside the parser, which does not know where it stands."""


def shown(key: str) -> str:
    """A key as messages may show it: one that looks like prose could be report text and is only counted."""
    return key if _PLAIN_KEY.fullmatch(key) else f"<{len(key)} characters>"


def parse(text: str) -> Any:
    """Return the value a JSON text stands for.

    Raises:
        JsonError: the text is not JSON, or breaks one of the rules of this module.

    >>> parse('{"a": [1, 2.5, null]}')
    {'a': [1, 2.5, None]}
    """
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        what = _MARK if text.startswith("\ufeff") else _TRAILING.sub("", error.msg)
        raise JsonError(f"not valid JSON: {what}", text, error.pos) from None
    except RecursionError:
        raise JsonError("nested too deeply", text, _deepest(text)) from None
    except _FaultError:
        raise JsonError(*_fault(text)) from None
    if "\\u" in text and _HALF.search(text):
        what, _, position = _fault(text)
        if what:
            raise JsonError(what, text, position)
    return value


def read(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        CxrbenchError: the file cannot be read, or is not JSON by these rules; with line and column or byte.
    """
    try:
        raw = read_regular(path, LARGEST)
    except OSError as error:
        raise CxrbenchError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
    try:
        return parse(decode(raw, str(path), skip_mark=True))
    except JsonError as error:
        raise CxrbenchError(
            f"the JSON file cannot be used: {error.what}",
            where=f"{path}, line {error.line}, column {error.column}",
            fix="get the file again, or correct this place",
        ) from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _FaultError
    return found


def _refuse(name: str) -> NoReturn:
    raise _FaultError


def _whole_number(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise _FaultError
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _FaultError
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_constant=_refuse, parse_int=_whole_number, parse_float=_number
)


def _deepest(text: str) -> int:
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in "{[") - (token[0] in "}]")
        if depth > _DEEP:
            return token.start()
    return 0


def _fault(text: str) -> tuple[str, str, int]:
    """What is wrong first in a text that is JSON but for the rules of this module, the text, and the position.

    Nothing and position 0 when nothing is wrong. Walks token by token, so only a text that was refused comes here.
    """
    keys: list[set[str]] = []
    for token in _TOKEN.finditer(text):
        if token[0] == "{" or token[0] == "[":
            keys.append(set())
        elif token[0] == "}" or token[0] == "]":
            keys.pop()
        else:
            what = _wrong(token[0], keys[-1] if keys and _COLON.match(text, token.end()) else None)
            if what:
                return what, text, token.start()
    return "", text, 0


def _wrong(token: str, keys: set[str] | None) -> str:
    """What is wrong with a string or number; `keys` are those of its object so far where the string is a key."""
    if token.startswith('"'):
        value = json.loads(token)
        if any("\ud800" <= character <= "\udfff" for character in value):
            return "an escape is half a surrogate pair, which is no character"
        if keys is not None and value in keys:
            return f"the key {shown(value)!r} stands twice in one object"
        if keys is not None:
            keys.add(value)
        return ""
    if token in ("NaN", "Infinity", "-Infinity"):
        return f"{token} is not JSON: leave the key out, or write null"
    digits = token.lstrip("-")
    if digits.isdigit():
        return "" if len(digits) <= MAX_DIGITS else f"a whole number has {len(digits):,} digits (limit {MAX_DIGITS:,})"
    return "a number is too large" if math.isinf(float(token)) else ""
