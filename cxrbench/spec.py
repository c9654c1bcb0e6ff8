"""tasks/*.yaml -> TaskSpec. An error names file, line and key; every spec has a version and a hash.

Data only: no code, no templates, no includes in a task file. Touches types, errors and the shipped files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cxrbench.errors import CxrbenchError, suggest
from cxrbench.shipped import shipped
from cxrbench.types import Access
from cxrbench.yaml_file import read_yaml

TaskKind = Literal["findings", "impression", "report", "summarize", "vqa", "choice", "retrieval", "image-generation"]
SectionName = Literal["findings", "impression", "indication", "comparison", "technique", "history"]
Evidence = Literal["verified", "primary", "unverified"]

Form = Literal["text", "choices", "vectors", "pictures"]
"""What the answers to a task are: a metric reads one of them."""

FORMS: Mapping[str, Form] = {"choice": "choices", "retrieval": "vectors", "image-generation": "pictures"}
"""By kind of task; every other kind is answered with text."""

KEPT_APART: frozenset[Form] = frozenset({"vectors", "pictures"})
"""Answers that are files of their own in a run folder (artifacts.py)."""

_NOT_ASKED = {"title", "citation", "notes", "expected", "metrics", "slices", "groups"}
"""Keys that do not change what a model is asked or compared with; left out of the hash. Metrics have signatures of
their own, so a metric, a slice or a grouping can be added to a task without generating anew."""

_EVERY_KEY = "cxrbench list tasks --show custom-findings shows one; docs/tasks.md of the repository lists every key"

Variant = Literal["original", "jpeg-30", "rotate-5", "crop-90", "contrast-70", "window-90", "redacted"]
VARIANTS: tuple[str, ...] = get_args(Variant)
"""Changes that should not change a report (data/variants.py); a robustness task asks about each of those it names."""

QUESTIONS = ("vqa", "choice")
"""Kinds of task whose samples are questions."""

SLICES = ("abnormal", "seen-in-train", "duplicate", "sex", "age", "race", "view", "variant")
"""Subgroup columns cxrbench makes itself; a data set's own columns can be tabulated as well."""


MEASURED = ("age", "reference-length", "verbosity")
"""Columns of a grouping that are cut into bands: years, words of the reference, words written per word of it."""

FEWEST = 10
"""Patients below which a cell of subgroups is hidden: the house's minimum."""

NO_GROUPS = ("unknown", "unlisted", "conflicting")
"""What a sample is in that is in none of a grouping's groups: nothing is recorded, a value the task does not list,
several values of different groups."""


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
    """What images are offered, and in which order of views the key image is chosen (`first`: the first there is).

    `use` is what a model looks at that can look at one image or at several and has no way of its own.
    """

    offer: Literal["all", "key", "none"] = "all"
    key: tuple[str, ...] | Literal["first"] = "first"
    use: Literal["key", "all"] = "key"


class Metrics(_Part):
    """Metrics as `name` or `name:preset`. A required one that cannot run makes the run incomplete (exit 3)."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


class Grouping(_Part):
    """One column of `groups.by`: bands between `cuts`, or groups by the `values` of a column; neither: as recorded.

    Bands are closed below and open above: cuts [40, 60] make 0-39, 40-59 and 60+. `of` names the column that values
    are read from, the grouping's own name by default; a cell of several values separates them by ` | `.
    """

    of: str | None = None
    cuts: tuple[float, ...] = ()
    values: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_way(self) -> Grouping:
        listed = [value for values in self.values.values() for value in values]
        if self.cuts and (self.values or self.of):
            raise ValueError("cuts: a column is cut into bands or grouped by its values, not both")
        if list(self.cuts) != sorted(set(self.cuts)) or any(cut <= 0 for cut in self.cuts):
            raise ValueError("cuts: larger than 0, each larger than the one before")
        if len(set(listed)) != len(listed):
            raise ValueError("values: a value stands in one group only")
        if set(self.values) & set(NO_GROUPS):
            raise ValueError(f"values: {', '.join(NO_GROUPS)} are for samples in no group")
        return self


class GroupsPart(_Part):
    """Subgroups that are told of with gaps and intervals whenever a run of the task is scored (docs/groups.md).

    Cells of fewer than `min_patients` scored patients are hidden, and further ones that would tell of them.
    """

    by: Mapping[str, Grouping] = Field(min_length=1)
    against: Mapping[str, str] = Field(default_factory=dict)
    min_patients: int = Field(default=FEWEST, ge=FEWEST)

    @model_validator(mode="after")
    def _bands_of_what_is_measured(self) -> GroupsPart:
        for name, grouping in self.by.items():
            if grouping.cuts and name not in MEASURED:
                raise ValueError(f"by.{name}.cuts: only {', '.join(MEASURED)} are measured; group {name} by values")
            if name in MEASURED and not grouping.cuts:
                raise ValueError(f"by.{name}: give its cuts")
            if name != "verbosity" and any(cut != int(cut) for cut in grouping.cuts):
                raise ValueError(f"by.{name}.cuts: whole numbers of {'years' if name == 'age' else 'words'}")
        if odd := set(self.against) - set(self.by):
            raise ValueError(f"against.{min(odd)}: no column of by")
        return self


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
    unit: Literal["study", "image", "question"] = "study"
    images: Images = Images()
    variants: tuple[Variant, ...] = ()
    offer: tuple[SectionName, ...] = ()
    target: Literal["findings", "impression", "report", "answer"]
    text: str
    generation: Mapping[str, int | float] = Field(default_factory=dict)
    metrics: Metrics
    slices: tuple[str, ...] = ()
    groups: GroupsPart | None = None
    citation: str
    expected: Expected = Expected()
    notes: str = ""

    @model_validator(mode="after")
    def _variants_of_something(self) -> TaskSpec:
        """Every variant once, beside the original: a change is read against it."""
        if self.variants and (self.variants[0] != "original" or len(set(self.variants)) != len(self.variants)):
            raise ValueError("variants: original comes first, and each stands once")
        if self.variants and self.form in KEPT_APART:
            raise ValueError(f"variants: not in a task of kind {self.kind}")
        return self

    @model_validator(mode="after")
    def _verbosity_is_measured(self) -> TaskSpec:
        lengths = {"length", "length:words"}
        if self.groups and "verbosity" in self.groups.by and not lengths & {*self.metrics.required}:
            raise ValueError("groups.by.verbosity: needs the metric length among metrics.required")
        return self

    @model_validator(mode="after")
    def _a_question_has_an_answer(self) -> TaskSpec:
        """Questions are asked one by one, and what is compared is the answer."""
        asks = self.kind in QUESTIONS
        if (self.unit == "question") != asks or (self.target == "answer") != asks:
            raise ValueError(
                f"kind: {' and '.join(QUESTIONS)} go with unit: question and target: answer, no other kind"
            )
        return self

    @model_validator(mode="after")
    def _no_answer_in_the_question(self) -> TaskSpec:
        targets = {"findings", "impression"} if self.target == "report" else {self.target}
        leaked = targets & set(self.offer)
        if leaked:
            raise ValueError(f"offer: {', '.join(sorted(leaked))} is the target and cannot be offered")
        return self

    @model_validator(mode="after")
    def _one_picture_and_its_text(self) -> TaskSpec:
        """Where answers are no text, a sample is one picture with one text, and the model gets one of the two."""
        if self.form not in KEPT_APART:
            return self
        if self.offer:
            raise ValueError(f"offer: a task of kind {self.kind} offers the target's own text and nothing else")
        if self.images.offer != "key":
            raise ValueError(f"images.offer: a task of kind {self.kind} has one image per sample; write `offer: key`")
        if self.target not in ("findings", "impression"):
            raise ValueError(f"target: a task of kind {self.kind} takes one section, findings or impression")
        return self

    @property
    def form(self) -> Form:
        """What the answers are."""
        return FORMS.get(self.kind, "text")

    @property
    def hash(self) -> str:
        """16 hex digits over everything that changes what a model is asked or what it is compared with."""
        body = self.model_dump(mode="json", exclude=_NOT_ASKED, exclude_defaults=True)
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def read_task(file: Path) -> TaskSpec:
    """Read one task file.

    Raises:
        CxrbenchError: with file, line and key of the first thing that is wrong.
    """
    spec = read_yaml(file, TaskSpec, "a task file", _EVERY_KEY)
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
