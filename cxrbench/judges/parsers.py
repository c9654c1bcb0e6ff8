"""Reading a judge's answer: text in, counts out, or `Unreadable` with the reason. Nothing is guessed.

Every parser takes the form its rubric asks for, and the forms the judges published with it give: JSON (bare, fenced or
within prose), GREEN's sections, CheXprompt's tuples. Reasons never quote the answer: it holds the report's words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cxrbench.judges import formulas
from cxrbench.judges.formulas import ERRORS, Crimson, ErrorCounts
from cxrbench.judges.rubric import Category, Rubric

STATUSES = ("entailment", "neutral", "contradiction")
AXES = ("correctness", "completeness", "coherence")
LONGEST = 50_000
"""Characters of an answer: ten times what the rubrics let a judge write."""

LARGEST = 1000
"""A count above this is a slip of the judge, not a count."""
GREATEST = 1e15
"""A number without a bound of its own is at most this: beyond it, whole numbers are not told apart."""


class Unreadable(Exception):  # noqa: N818 - not an error of the user's
    """The answer is not what the rubric asked for; the argument says what is missing."""


Parser = Callable[[str], Any]


def parser_of(rubric: Rubric) -> Parser:
    """The parser a rubric names; an answer of more than `LONGEST` characters is none."""
    if rubric.parser == "values":
        return bounded(lambda text: values(text, rubric.categories))
    return bounded(_PARSERS[rubric.parser])


def bounded(parse: Parser) -> Parser:
    """The same parser for answers of a length that a judge writes: searching one without end takes for ever."""

    def read(text: str) -> Any:
        if len(text) > LONGEST:
            raise Unreadable(f"the answer has more than {LONGEST:,} characters")
        return parse(text)

    return read


def json_object(text: str) -> dict[str, Any]:
    """The one JSON object of an answer: the whole of it, or the first one within prose or a fence.

    >>> json_object('Here it is: {"a": 1} as asked')
    {'a': 1}

    Raises:
        Unreadable: there is none.
    """
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", text):
        try:
            found, _ = decoder.raw_decode(text, match.start())
        except ValueError:
            continue
        except RecursionError:  # what is nested in it is nested too deeply as well, and would be tried brace by brace
            break
        if isinstance(found, dict):
            return found
    raise Unreadable("no JSON object in the answer")


def _count(value: object, what: str) -> int:
    # The bounds first: JSON knows NaN and Infinity, which are no whole numbers and no other.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LARGEST or value != int(value):
        raise Unreadable(f"{what} is not a count")
    return int(value)


# CheXprompt


_SIDES = ("clinically_significant", "clinically_insignificant")
_SIDE = re.compile(
    r"clinically\s+(significant|insignificant)\s+errors[^\[\n]{0,200}:\s{0,20}\[(.{0,2000}?)\]",
    re.IGNORECASE | re.DOTALL,
)
_TUPLE = re.compile(r"\(\s*['\"]?([A-Fa-f])['\"]?\s*,\s*([0-9]+)\s*\)")


def chexprompt(text: str) -> ErrorCounts:
    """Errors by kind, each significant or not: JSON of two objects, or two lines of tuples (A, n) ... (F, n)."""
    sides: dict[str, tuple[int, ...]] = {}
    for match in _SIDE.finditer(text):
        side, counts = match[1].lower(), _tuples(match[2])
        if sides.setdefault(side, counts) != counts:
            raise Unreadable(f"clinically {side} errors are counted twice, and not alike")
    if len(sides) == 2:
        return ErrorCounts(sides["significant"], sides["insignificant"])
    body = json_object(text)
    found: list[tuple[int, ...]] = []
    for side in _SIDES:
        given = body.get(side)
        if not isinstance(given, dict) or not set(ERRORS) <= set(given):
            raise Unreadable(f"{side} does not name all six kinds of errors")
        found.append(tuple(_count(given[name], name) for name in ERRORS))
    return ErrorCounts(significant=found[0], insignificant=found[1])


def _tuples(text: str) -> tuple[int, ...]:
    said = _TUPLE.findall(text)
    counts = {name.upper(): _count(int(count), name) for name, count in said}
    if len(counts) < len(said):
        raise Unreadable("a kind of error is counted twice")
    if set(counts) != set("ABCDEF"):
        raise Unreadable("not every kind of error A to F has a count")
    return tuple(counts[name] for name in "ABCDEF")


# GREEN


def _section(text: str, name: str) -> str:
    """What stands below `[name]:`, up to the first blank line."""
    match = re.search(rf"\[{name}\]:\s*(.*?)(?:\n\s*\n|\Z)", text, re.DOTALL)
    if match is None:
        raise Unreadable(f"the section [{name}] is missing")
    return match[1]


_NONE = re.compile(r"No(?:ne|t|thing)?\b")
"""How a section begins that lists nothing."""


def _errors(body: str, name: str) -> tuple[int, ...]:
    """Errors by kind of one of GREEN's sections; it has none where it is empty or begins with "No".

    A kind that is not listed has no errors; one that is listed without a number is not read as none.
    """
    counts: dict[int, int] = {}
    lines = re.findall(r"\(([a-f])\) (.*)", body) or re.findall(r"\(([1-6])\) (.*)", body)
    if _NONE.match(body) or not body.strip() or body.startswith("["):  # the next section's head: this one is empty
        return (0,) * len(ERRORS)
    if not lines:
        raise Unreadable(f"the section [{name}] names no kind of error")
    for kind, line in lines:
        said = re.search(r"(?<=: )([0-9]+)(?=\.|\s*$)", line)
        if said is None:
            raise Unreadable(f"({kind}) has no count")
        place = "abcdef".find(kind) if kind.isalpha() else int(kind) - 1
        if place in counts:
            raise Unreadable(f"({kind}) is counted twice")
        counts[place] = _count(int(said[1]), f"({kind})")
    return tuple(counts.get(place, 0) for place in range(len(ERRORS)))


def green(text: str) -> ErrorCounts:
    """The two lists of errors and the number of matched findings, as GREEN's models write them."""
    matched = _section(text, "Matched Findings")
    said = re.match(r"([0-9]+)(?=\.|\s*$)", matched)
    if said is None and not _NONE.match(matched):
        raise Unreadable("no number of matched findings")
    significant, insignificant = (
        _errors(_section(text, name), name)
        for name in ("Clinically Significant Errors", "Clinically Insignificant Errors")
    )
    return ErrorCounts(significant, insignificant, _count(int(said[1]), "matched findings") if said is not None else 0)


# RadFact


def phrases(text: str) -> list[str]:
    """Phrases of a report: {"phrases": [...]}, or RadFact's {"sentence_list": [{"orig": ..., "new": [...]}]}."""
    body = json_object(text)
    listed = body.get("phrases")
    if listed is None and isinstance(body.get("sentence_list"), list):
        listed = []
        for sentence in body["sentence_list"]:
            if not isinstance(sentence, dict) or not isinstance(sentence.get("new"), list):
                raise Unreadable("a sentence has no list of phrases")
            listed += sentence["new"]
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise Unreadable("no list of phrases")
    return [each.strip() for each in listed if each.strip()]


def entailment(text: str) -> str:
    """What the other report says of one phrase: entailment, neutral or contradiction."""
    return _status(json_object(text))


def _status(body: object) -> str:
    said = body.get("status") if isinstance(body, dict) else None
    said = said.strip().lower() if isinstance(said, str) else said
    if said not in STATUSES:
        raise Unreadable("no status entailment, neutral or contradiction")
    return str(said)


def entailed_pair(text: str) -> tuple[list[str], list[str]]:
    """Statuses of the candidate's phrases (A) and of the reference's (B), both judged in one answer."""
    body = json_object(text)
    sides = [body.get(f"phrases_{side}_evidenced") for side in "AB"]
    if not all(isinstance(side, list) for side in sides):
        raise Unreadable("not both lists of phrases")
    first, second = ([_status(each) for each in side or ()] for side in sides)
    return first, second


# CRIMSON


def crimson(text: str) -> Crimson:
    """Findings with their weights, matches and errors, as CRIMSON's judges write them."""
    body = json_object(text)
    errors = body.get("errors")
    if not isinstance(errors, dict):
        raise Unreadable("no object `errors`")
    reference, predicted = (_weights(_rows(body, f"{side}_findings")) for side in ("reference", "predicted"))
    attributes = []
    for row in _rows(errors, "attribute_errors"):
        severity = row.get("severity") if isinstance(row, dict) else None
        amount = formulas.ATTRIBUTE.get(severity, formulas.UNKNOWN_ATTRIBUTE) if isinstance(severity, str) else 0.25
        attributes.append((_id(row, "ref_id"), amount))
    return Crimson(
        reference=reference,
        predicted=predicted,
        matched=[(_id(row, "ref_id"), _id(row, "pred_id")) for row in _rows(body, "matched_findings")],
        false=[_id(row, "id") for row in _rows(errors, "false_findings")],
        missing=[_id(row, "id") for row in _rows(errors, "missing_findings")],
        attributes=attributes,
    )


def _rows(body: Mapping[str, Any], name: str) -> Sequence[Any]:
    found = body.get(name)
    if not isinstance(found, list):
        raise Unreadable(f"no list `{name}`")
    return found


def _id(row: object, key: str) -> str:
    """The id of a finding: given by itself, or in an object."""
    found = row.get(key) if isinstance(row, dict) else row if key == "id" else None
    if not isinstance(found, str):
        raise Unreadable(f"an entry has no {key}")
    return found


def _weights(rows: Sequence[Any]) -> dict[str, float]:
    return {
        _id(row, "id"): formulas.weight(row.get("clinical_significance") if isinstance(row, dict) else None)
        for row in rows
    }


# Ratings, numbers of a user's rubric, verdicts


def _named_numbers(text: str, names: Sequence[str]) -> Mapping[str, object]:
    """Numbers by name: a JSON object, or else lines `name: number`."""
    try:
        return json_object(text)
    except Unreadable:
        found: dict[str, object] = {}
        for name in names:
            # Marks around a name are few; without bounds, lines of nothing but marks would be searched for ever.
            pattern = (
                rf"^\W{{0,20}}{re.escape(name)}\W{{0,20}}[:=]\W{{0,20}}(-?[0-9]{{1,300}}(?:\.[0-9]{{1,300}})?)"
                r"(?:\s{0,20}/\s{0,20}[0-9]{1,300})?\W{0,20}$"
            )
            said = re.findall(pattern, text, re.IGNORECASE | re.MULTILINE)
            if len(said) == 1:
                found[name] = float(said[0])
        return found


def values(text: str, categories: Sequence[Category]) -> dict[str, float]:
    """A number for every category, within its bounds."""
    given = _named_numbers(text, [each.name for each in categories])
    found: dict[str, float] = {}
    for each in categories:
        number = given.get(each.name)
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise Unreadable(f"no number for {each.name}")
        low, high = each.low, each.high if each.high is not None else GREATEST
        if not low <= number <= high or (each.whole and number != int(number)):
            raise Unreadable(f"{each.name} is out of bounds, or no whole number")
        found[each.name] = float(number)
    return found


AXIS_CATEGORIES = tuple(Category(name=name, low=1, high=5) for name in AXES)


def axes(text: str) -> dict[str, float]:
    """Correctness, completeness and coherence, each 1 to 5."""
    return values(text, AXIS_CATEGORIES)


def verdict(text: str) -> str:
    """Which of two reports is better: `A`, `B` or `tie`."""
    said = json_object(text).get("better")
    found = {"a": "A", "b": "B", "tie": "tie"}.get(said.strip().lower()) if isinstance(said, str) else None
    if found is None:
        raise Unreadable("no verdict A, B or tie")
    return found


_PARSERS: Mapping[str, Parser] = {
    "axes": axes,
    "chexprompt": chexprompt,
    "crimson": crimson,
    "green": green,
    "radfact-entailment": entailment,
    "radfact-pair": entailed_pair,
    "radfact-phrases": phrases,
    "verdict": verdict,
}
