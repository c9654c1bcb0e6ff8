"""YAML files that people write: a wrong key is named with its file, its line and the nearest right one.

Data only: no code, no templates, no includes. Touches errors only; a model is any pydantic class that forbids extras.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from cxrbench.errors import CxrbenchError, suggest

M = TypeVar("M", bound=BaseModel)

KeyPath = tuple[str | int, ...]


def read_yaml(file: Path, model: type[M], what: str, fix: str) -> M:
    """Read one file into a model.

    Args:
        file: the file.
        model: a frozen pydantic model with `extra="forbid"`.
        what: what the file is ("a gate policy"), for messages.
        fix: where every key is explained.

    Raises:
        CxrbenchError: with file, line and key of the first thing that is wrong.
    """
    text = _text(file, what)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        body = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise CxrbenchError(
            f"not valid YAML: {getattr(error, 'problem', None) or error}", where=f"{file}{line}"
        ) from error
    if node is None or not isinstance(body, dict):
        raise CxrbenchError(f"{what} is a mapping of keys", where=str(file), fix=fix)
    _refuse_double_keys(node, file)
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _explain(error, dict(_lines(node)), file, model, fix) from error


def _text(file: Path, what: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CxrbenchError(
            f"the file is not UTF-8 (byte {error.start})", where=str(file), fix="save it as UTF-8"
        ) from error
    except OSError as error:
        raise CxrbenchError(f"{what} cannot be read: {error.strerror}", where=str(file)) from error


def _lines(node: yaml.Node, path: KeyPath = ()) -> Iterator[tuple[KeyPath, int]]:
    """Yield (path of keys, line number from 1) for every node of a YAML document."""
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _lines(value, (*path, key.value))
            yield (*path, key.value), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, (*path, index))


def _refuse_double_keys(node: yaml.Node, file: Path) -> None:
    """YAML keeps the last of two equal keys without a word."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise CxrbenchError(
                    f"the key {key.value!r} stands twice",
                    where=f"{file}, line {key.start_mark.line + 1}",
                    fix="keep one of them",
                )
            seen.add(key.value)
            _refuse_double_keys(value, file)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_double_keys(value, file)


def _explain(
    error: ValidationError, lines: Mapping[KeyPath, int], file: Path, model: type[BaseModel], fix: str
) -> CxrbenchError:
    """Turn pydantic's most telling complaint into one sentence with file, line and key."""
    # A mistyped key is both unknown and missing; the unknown one stands in the file and can be pointed at.
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    path: KeyPath = tuple(first["loc"])
    key = ".".join(str(part) for part in path) or "file"
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        what = f"the key {path[-1]!r} is not known{suggest(str(path[-1]), known)}"
    elif first["type"] == "missing":
        what = f"the key {key!r} is missing"
    else:
        what = f"{key}: {first['msg'].removeprefix('Value error, ')}"
    while path and path not in lines:
        path = path[:-1]
    more = len(error.errors()) - 1
    return CxrbenchError(
        what + (f" (and {more} more)" if more else ""), where=f"{file}, line {lines.get(path, 1)}, key {key}", fix=fix
    )


def _fields_at(model: type[BaseModel], path: KeyPath) -> tuple[str, ...]:
    """Names of the keys there are at a place, through lists and optional parts."""
    found: Any = model
    for part in path:
        if isinstance(part, int):
            continue
        fields = getattr(found, "model_fields", {})
        found = _model_in(fields[part].annotation) if part in fields else None
    return tuple(getattr(found, "model_fields", ()))


def _model_in(annotation: Any) -> Any:
    """The model inside `tuple[Model, ...]` or `Model | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((inner for each in get_args(annotation) if (inner := _model_in(each)) is not None), None)
