"""ReXrank's `context`: up to four fields of a study in one string, for MIMIC-CXR and IU X-ray alike.

The fields stand in a fixed order with nothing reliable between them. Forms in ReXrank's runner script and files:

    Age:60-70.Gender:F.Indication: ___-year-old female with cough.Comparison: None.
    Indication: Cough Comparison: None.
    Indication:nanComparison: None.

So a field begins at its name, spelt exactly so, wherever that stands behind the field before it. Standard library only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_CONTEXT = re.compile(
    r"\s*(?:Age:(?P<age>.*?))?(?:Gender:(?P<gender>.*?))?"
    r"(?:Indication:(?P<indication>.*?))?(?:Comparison:(?P<comparison>.*))?",
    re.DOTALL,
)
_AGE = re.compile(r"[0-9]{1,3}(?:\.[0-9]+)?")
_AGE_RANGE = re.compile(r"(?=.*[0-9])[0-9<>=+ -]{1,12}")
_SEX = {"f": "F", "female": "F", "m": "M", "male": "M"}
_NOT_KNOWN = frozenset({"", "nan", "none", "unknown"})


class ContextError(ValueError):
    """The context is not of the form; the message completes "has" and holds nothing of the context."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a context says; empty or None where it says nothing (`nan` is what a missing value was written as).

    `age` is known only where the context has a number; a range ("60-70") is kept as it is in `age_range`.
    """

    indication: str = ""
    comparison: str = ""
    sex: str | None = None
    age: float | None = None
    age_range: str = ""


def read_context(text: str) -> Context:
    """Take a context apart.

    Raises:
        ContextError: it begins with none of the fields, or the age or gender is something else.

    >>> read_context("Age:60-70.Gender:F.Indication: cough, age: old.Comparison: None.")
    Context(indication='cough, age: old.', comparison='None.', sex='F', age=None, age_range='60-70')
    >>> read_context("Indication:nanComparison: None.")
    Context(indication='', comparison='None.', sex=None, age=None, age_range='')
    """
    text = text.strip().removeprefix("<context>").removesuffix("</context>")
    fields = _CONTEXT.fullmatch(text)
    if fields is None:
        raise ContextError("a context that begins with none of Age:, Gender:, Indication: and Comparison:")
    age, gender = (_short(fields[name]) for name in ("age", "gender"))
    known = age.lower() not in _NOT_KNOWN
    number = _AGE.fullmatch(age)
    if known and number is None and not _AGE_RANGE.fullmatch(age):
        raise ContextError("an age that is no number and no range")
    if gender.lower() not in _SEX.keys() | _NOT_KNOWN:
        raise ContextError("a gender that is neither F nor M")
    return Context(
        indication=_text(fields["indication"]),
        comparison=_text(fields["comparison"]),
        sex=_SEX.get(gender.lower()),
        age=float(age) if number else None,
        age_range=age if known and not number else "",
    )


def _short(field: str | None) -> str:
    return (field or "").strip().rstrip(".").rstrip()


def _text(field: str | None) -> str:
    return "" if _short(field).lower() == "nan" else (field or "").strip()
