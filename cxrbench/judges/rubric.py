"""Rubrics: what a judge is asked, and how its answer is read, as YAML files. Touches yaml_file and errors only.

A built-in rubric is one file of judges/rubrics/, in our own words. A file of the user's, in the same form, takes its
place (`--rubric FILE`: the prompt a judge model was trained on, say) or is a metric of its own (`judge:FILE`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cxrbench.errors import CxrbenchError, suggest
from cxrbench.judges.expression import Expression
from cxrbench.yaml_file import read_yaml

FOLDER = Path(__file__).parent / "rubrics"
FIX = "docs/judges.md explains every key"
NOTHING = "(no text)"
"""What stands in a prompt for a report that is empty."""

Messages = tuple[tuple[str, str], ...]
"""(role, content) of each turn."""

_SLOT = re.compile(r"\{([a-z_]+)\}")
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_FACT = re.compile(r"[a-z][a-z0-9_]*")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Turn(_Part):
    """One message of the conversation; `content` may hold slots such as {reference}."""

    role: Literal["system", "user", "assistant"]
    content: str


class Category(_Part):
    """A number the judge gives: a count or a rating from `low` to `high` (None: no limit above)."""

    name: str
    about: str = ""
    low: float = 0.0
    high: float | None = None
    whole: bool = True

    @model_validator(mode="after")
    def _sane(self) -> Category:
        if not _FACT.fullmatch(self.name) or self.name == "score":
            raise ValueError("a category's name is small letters, digits and _, and not `score`")
        if self.high is not None and self.high <= self.low:
            raise ValueError(f"{self.name}: high must be above low")
        return self


class Settings(_Part):
    """How the judge generates. `top_p` None is not sent."""

    temperature: float = Field(default=0.0, ge=0.0)
    max_tokens: int = Field(default=1024, ge=1)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    seed: int = 0


class Rubric(_Part):
    """A rubric file. The conversation is `role`, `examples` and `task`, or word for word `turns`.

    `output` is a JSON schema, see `schema_sent`. `words` cuts each report to so many words. With parser
    `values` the numbers are `categories` and the score is the expression `score` over their names; `undefined` is the
    score where it divides by zero.
    """

    name: str
    version: int = Field(ge=1)
    about: str = ""
    source: str = ""
    parser: Literal[
        "values", "axes", "chexprompt", "crimson", "green", "radfact-entailment", "radfact-pair", "radfact-phrases",
        "verdict",
    ]  # fmt: skip
    settings: Settings = Settings()
    output: dict[str, Any] | None = None
    words: int | None = Field(default=None, ge=1)
    role: str = ""
    examples: tuple[Turn, ...] = ()
    task: str = ""
    turns: tuple[Turn, ...] = ()
    categories: tuple[Category, ...] = ()
    score: str = ""
    undefined: float | None = None
    higher_is_better: bool = True

    @model_validator(mode="after")
    def _whole(self) -> Rubric:
        if not _NAME.fullmatch(self.name):
            raise ValueError("name is small letters, digits, - and _")
        if bool(self.turns) == bool(self.task):
            raise ValueError("give either `task` (with `role` and `examples`) or `turns`")
        if self.parser == "values":
            if not self.categories or not self.score:
                raise ValueError("parser `values` needs `categories` and `score`")
            if len({each.name for each in self.categories}) < len(self.categories):
                raise ValueError("two categories have one name")
            Expression.of(self.score, [each.name for each in self.categories])
        elif self.categories or self.score:
            raise ValueError("`categories` and `score` belong to parser `values`")
        return self

    @property
    def hash(self) -> str:
        """First 8 hex digits of SHA-256 over everything in the file."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def schema_sent(self) -> dict[str, Any] | None:
        """What a server that takes a schema is sent: `output`, or with parser `values` an object of the categories."""
        if self.output is not None or self.parser != "values":
            return self.output
        numbers = {each.name: {"type": "integer" if each.whole else "number"} for each in self.categories}
        return {"type": "object", "additionalProperties": False, "required": list(numbers), "properties": numbers}

    @property
    def conversation(self) -> tuple[Turn, ...]:
        """The turns with their slots: word for word `turns`, or made of `role`, `examples` and `task`."""
        role = (Turn(role="system", content=self.role),) if self.role else ()
        return self.turns or (*role, *self.examples, Turn(role="user", content=self.task))

    @property
    def slots(self) -> frozenset[str]:
        """Names of the slots: `candidate` of {candidate}."""
        return frozenset(name for turn in self.conversation for name in _SLOT.findall(turn.content))

    @property
    def tag(self) -> str:
        """`name.hash`, as it stands in signatures."""
        return f"{self.name}.{self.hash}"

    def messages(self, facts: Mapping[str, str]) -> Messages:
        """The conversation with every slot filled in, in one pass: what a report says is never a slot.

        Raises:
            CxrbenchError: a slot of the rubric is none of `facts`.
        """
        values = {name: cut(text, self.words) for name, text in facts.items()}
        return tuple((turn.role, self._filled(turn.content, values)) for turn in self.conversation)

    def _filled(self, template: str, values: Mapping[str, str]) -> str:
        def value(match: re.Match[str]) -> str:
            if match[1] not in values:
                raise CxrbenchError(
                    f"the slot {match[0]} is not known{suggest(match[1], values)}",
                    where=f"rubric {self.name}",
                    fix=f"one of: {', '.join(f'{{{name}}}' for name in values)}",
                )
            return values[match[1]]

        return _SLOT.sub(value, template)


def cut(text: str, words: int | None) -> str:
    """The first so many words of a text; a text that is blank is said to be.

    >>> cut("no acute process", 2), cut(" ", None)
    ('no acute', '(no text)')
    """
    if not text.strip():
        return NOTHING
    parts = text.split()
    return " ".join(parts[:words]) if words is not None and len(parts) > words else text


def read_rubric(file: Path) -> Rubric:
    """Read a rubric file.

    Raises:
        CxrbenchError: with file, line and key of what is wrong.
    """
    rubric = read_yaml(file, Rubric, "a rubric", FIX)
    if rubric.output is not None and rubric.output.get("type") != "object":
        raise CxrbenchError("`output` is a JSON schema of an object", where=str(file), fix="type: object")
    return rubric


def check_shown(rubric: Rubric, slots: frozenset[str], file: Path) -> None:
    """Raise where a rubric of the user's lacks a slot that what is judged stands in: it would judge nothing."""
    lacking = sorted(slots - rubric.slots)
    if lacking:
        named = " and ".join(f"{{{name}}}" for name in lacking)
        raise CxrbenchError(
            f"the rubric never shows the report that is judged: it does not hold {named}",
            where=str(file),
            fix=f"write {named} into the task, where the text belongs",
        )


def built_in(name: str) -> Rubric:
    """A rubric of cxrbench."""
    return read_rubric(FOLDER / f"{name}.yaml")
