"""YAML files that people write: a wrong key is named with its file, its line and the nearest right one.

Data only: no code, no templates, no includes; and no more data than a person writes, so that anchors cannot multiply
(`LARGEST`, `DEEPEST`). Touches errors and reading only; a model is any pydantic class that forbids extras.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from cxrbench.errors import CxrbenchError, suggest
from cxrbench.reading import SMALL, read_regular

LARGEST, DEEPEST = 20_000, 30
"""Values of a file with every anchor put in where it is used, and levels of lists and mappings in each other."""

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
    body, lines = _parsed(file, what, fix)
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _explain(error, lines, file, model, fix) from error


def read_mapping(file: Path, what: str, fix: str) -> dict[Any, Any]:
    """The mapping a file holds, not yet held against a model.

    Raises:
        CxrbenchError: as `read_yaml`, but for keys and values.
    """
    return _parsed(file, what, fix)[0]


def _parsed(file: Path, what: str, fix: str) -> tuple[dict[Any, Any], dict[KeyPath, int]]:
    """The mapping, and the line of every key in it."""
    try:
        loader = _Loader(_text(file, what))
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise CxrbenchError(f"{what} is a mapping of keys", where=str(file), fix=fix)
        _refuse_too_much(node, file)
        _refuse_double_keys(node, file)
        lines = dict(_lines(node))
        body: dict[Any, Any] = loader.construct_document(node)  # last: it changes the nodes where mappings are merged
    except RecursionError:
        raise _too_much(file) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise CxrbenchError(
            f"not valid YAML: {getattr(error, 'problem', None) or error}", where=f"{file}{line}"
        ) from error
    except (ValueError, ArithmeticError, LookupError, AttributeError) as error:
        # PyYAML's own constructors of dates, numbers and truth values, given a text that is none.
        raise CxrbenchError(
            "not valid YAML: a date, a number or a truth value is none", where=str(file), fix="put quotes around it"
        ) from error
    return body, lines


class _Loader(yaml.SafeLoader):
    """Composes no deeper than a person writes: the stock one descends until Python's stack ends."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEEPEST + 1:
            raise RecursionError
        made = super().compose_node(parent, index)
        self.depth -= 1
        return made


def _too_much(file: Path) -> CxrbenchError:
    return CxrbenchError(
        f"the file holds more than {LARGEST:,} values, its anchors put in, or lists and mappings"
        f" more than {DEEPEST} deep",
        where=str(file),
        fix="write out what an anchor (&) stands for, or take parts out",
    )


def _refuse_too_much(node: yaml.Node, file: Path) -> None:
    """Walk the file as it would be with every anchor put in, and stop at the bound: aliases multiply by each other."""
    left, waiting = LARGEST, [(node, 0)]
    while waiting:
        each, depth = waiting.pop()
        left -= 1
        if left < 0 or depth > DEEPEST:
            raise _too_much(file)
        if isinstance(each, yaml.MappingNode):
            for key, value in each.value:
                if not isinstance(key, yaml.ScalarNode):
                    where = f"{file}, line {key.start_mark.line + 1}"
                    raise CxrbenchError("a key is a list or a mapping", where=where, fix="a key is a word")
                waiting += [(key, depth + 1), (value, depth + 1)]
        elif isinstance(each, yaml.SequenceNode):
            waiting += [(value, depth + 1) for value in each.value]


def _text(file: Path, what: str) -> str:
    try:
        return read_regular(file, SMALL).decode("utf-8")
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
