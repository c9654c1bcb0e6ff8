"""tasks/*.yaml -> TaskSpec. An error names file, line and key; every spec has a version and a hash.

Data only: no code, no templates, no includes in a task file. Touches types, errors and the shipped files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cxrbench.errors import CxrbenchError, suggest
from cxrbench.shipped import shipped
from cxrbench.types import Access

TaskKind = Literal["findings", "impression", "report", "summarize", "vqa", "choice", "retrieval"]
SectionName = Literal["findings", "impression", "indication", "comparison", "technique", "history"]
Evidence = Literal["verified", "primary", "unverified"]

_NOT_ASKED = {"title", "citation", "notes", "expected", "metrics", "slices"}
"""Keys that do not change what a model is asked or compared with; left out of the hash. Metrics have signatures of
their own, so a metric or a slice can be added to a task without generating anew."""

_EVERY_KEY = "cxrbench list tasks --show custom-findings shows one; docs/tasks.md of the repository lists every key"

SLICES = ("abnormal", "seen-in-train", "duplicate", "sex", "age", "race", "view")
"""Subgroup columns cxrbench makes itself; a data set's own columns can be tabulated as well."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetPart(_Part):
    """Which data set and which of its splits; `options` are the data set's own."""

    name: str
    split: str
    pool_split: str | None = None
    options: Mapping[str, Any] = Field(default_factory=dict)


class Include(_Part):
    """The inclusion rule, applied in the order of the fields; each exclusion is counted by its reason."""

    sections: tuple[SectionName, ...] = ()
    min_images: int = Field(default=0, ge=0)
    views: tuple[str, ...] = ()


class Images(_Part):
    """What images are offered, and in which order of views the key image is chosen (`first`: the first there is)."""

    offer: Literal["all", "key", "none"] = "all"
    key: tuple[str, ...] | Literal["first"] = "first"


class Metrics(_Part):
    """Metrics as `name` or `name:preset`. A required one that cannot run makes the run incomplete (exit 3)."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


class ExpectedSplit(_Part):
    """How many studies the split has before any rule of the task, and how well that is known."""

    n: int
    evidence: Evidence = "unverified"
    source: str = ""


class Expected(_Part):
    """How many samples the task (and its train split, `pool_n`) has in full, and how well that is known.

    `split`: the studies of the split itself, known for some splits whose samples nobody has counted.
    """

    n: int | None = None
    pool_n: int | None = None
    evidence: Evidence = "unverified"
    source: str = ""
    split: ExpectedSplit | None = None


class TaskSpec(_Part):
    """One task, as tasks/NAME.yaml states it. docs/tasks.md explains every key."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: int = Field(ge=1)
    title: str
    kind: TaskKind
    access: Access
    dataset: DatasetPart
    include: Include = Include()
    unit: Literal["study", "image"] = "study"
    images: Images = Images()
    offer: tuple[SectionName, ...] = ()
    target: Literal["findings", "impression", "report"]
    text: str
    generation: Mapping[str, int | float] = Field(default_factory=dict)
    metrics: Metrics
    slices: tuple[str, ...] = ()
    citation: str
    expected: Expected = Expected()
    notes: str = ""

    @model_validator(mode="after")
    def _no_answer_in_the_question(self) -> TaskSpec:
        targets = {"findings", "impression"} if self.target == "report" else {self.target}
        leaked = targets & set(self.offer)
        if leaked:
            raise ValueError(f"offer: {', '.join(sorted(leaked))} is the target and cannot be offered")
        return self

    @property
    def hash(self) -> str:
        """16 hex digits over everything that changes what a model is asked or what it is compared with."""
        body = self.model_dump(mode="json", exclude=_NOT_ASKED, exclude_defaults=True)
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def _lines(node: yaml.Node, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], int]]:
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
    """YAML keeps the last of two equal keys without a word; a task file may not rely on that."""
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


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CxrbenchError(
            f"the task file is not UTF-8 (byte {error.start})", where=str(file), fix="save it as UTF-8"
        ) from error
    except OSError as error:
        raise CxrbenchError(f"the task file cannot be read: {error.strerror}", where=str(file)) from error


def _explain(error: ValidationError, lines: Mapping[tuple[str | int, ...], int], file: Path) -> CxrbenchError:
    """Turn pydantic's most telling complaint into one sentence with file, line and key."""
    # A mistyped key is both unknown and missing; the unknown one stands in the file and can be pointed at.
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    path = tuple(first["loc"])
    while path and path not in lines:
        path = path[:-1]
    key = ".".join(str(part) for part in first["loc"]) or "task"
    if first["type"] == "extra_forbidden":
        parent = _fields_at(tuple(first["loc"][:-1]))
        what = f"the key {first['loc'][-1]!r} is not known{suggest(str(first['loc'][-1]), parent)}"
    elif first["type"] == "missing":
        what = f"the key {key!r} is missing"
    else:
        what = f"{key}: {first['msg'].removeprefix('Value error, ')}"
    more = len(error.errors()) - 1
    return CxrbenchError(
        what + (f" (and {more} more)" if more else ""),
        where=f"{file}, line {lines.get(path, 1)}, key {key}",
        fix=_EVERY_KEY,
    )


def _fields_at(path: tuple[str | int, ...]) -> tuple[str, ...]:
    model: Any = TaskSpec
    for part in path:
        model = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if model is None or not hasattr(model, "model_fields"):
            return ()
    return tuple(model.model_fields)


def read_task(file: Path) -> TaskSpec:
    """Read one task file.

    Raises:
        CxrbenchError: with file, line and key of the first thing that is wrong.
    """
    text = _read_text(file)
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
        raise CxrbenchError("a task file is a mapping of keys", where=str(file), fix=_EVERY_KEY)
    _refuse_double_keys(node, file)
    try:
        spec = TaskSpec.model_validate(body)
    except ValidationError as error:
        raise _explain(error, dict(_lines(node)), file) from error
    if spec.name != file.stem:
        raise CxrbenchError(
            f"the task is called {spec.name!r} but its file {file.name!r}",
            where=f"{file}, key name",
            fix=f"name: {file.stem}, or rename the file to {spec.name}{file.suffix}",
        )
    return spec


def task_files() -> dict[str, Path]:
    """Names and files of the tasks that travel with cxrbench."""
    return {file.stem: file for file in sorted(shipped("tasks").glob("*.yaml"))}


def find_task(name: str) -> TaskSpec:
    """Return the task called `name`, or the one in the file `name` when it ends in .yaml or .yml."""
    if name.endswith((".yaml", ".yml")):
        return read_task(Path(name))
    files = task_files()
    if name not in files:
        raise CxrbenchError(f"there is no task called {name!r}{suggest(name, files)}", fix="cxrbench list tasks")
    return read_task(files[name])
