"""Known errors planted into phantom reports: what a metric does to each kind of error is its sensitivity profile.

Every edit is one change of one sentence with a known meaning, so the truth needs no reader: `paraphrase` says the same
in other words and should move no metric, all others are errors and should. The reports are phantom's own (made by code,
of nobody); a figure measured on them says how a metric behaves, not how it agrees with radiologists. Touches data only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cxrbench.data.phantom import studies
from cxrbench.data.phantom_rng import Stream
from cxrbench.types import Study

_SIDES = {"left": "right", "right": "left"}
_DEGREES = (
    {"small": "large", "tiny": "massive", "trace": "large", "minimal": "extensive", "mild": "severe",
     "slight": "marked", "mildly": "severely", "slightly": "markedly"},
    {"large": "small", "massive": "trace", "extensive": "minimal", "severe": "mild", "marked": "slight",
     "severely": "mildly", "markedly": "slightly"},
)  # fmt: skip
_DEGREE = {old: new for table in _DEGREES for old, new in table.items()}
_FINDING = re.compile(
    r"\b(effusions?|pleural fluid|pneumothorax|consolidation|opacity|edema|atelectasis|nodule|mass|cardiomegaly"
    r"|enlarge(?:d|ment)|fracture)\b",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\b(no|not|without|resolved|resolution|removed|removal|no longer|normal|intact|clear)\b", re.IGNORECASE
)
_COUNTED = re.compile(r"(effusion|pneumothorax|consolidation|opacity|nodule|mass|fracture)$")
"""Findings that are stated with an article."""
_SEVERAL = re.compile(r"\b(and|or|change)\b")
"""What makes a denial say more than that one finding is absent."""
_COMPARED = re.compile(
    r"\s*(?:,? (?:progressed|improved) from the prior study|since the prior study|compared with the prior study"
    r"|in the interval|without interval change)\b",
    re.IGNORECASE,
)
_INVENTED = (
    ("effusion|pleural", "There is a moderate left pleural effusion."),
    ("pneumothorax", "There is a small right apical pneumothorax."),
    ("consolidation|opacity|pneumonia", "There is a consolidation in the right upper lobe."),
    ("nodule|mass", "A small pulmonary nodule is seen in the left lung."),
    ("fracture", "A displaced right rib fracture is noted."),
)
_SAME = (
    (r"\bThere is no (?!significant)([a-z ]+)\.", r"No \1 is seen."),
    (r"\bNo evidence of ([a-z ]+)\.", r"There is no \1."),
    (r"\bThe heart is normal in size\b", "Heart size is normal"),
    (r"\bHeart size is normal\b|\bNormal heart size\b", "The heart is normal in size"),
    (r"\bThe lungs are clear\b|\bLungs are clear\b", "Clear lungs"),
    (r"\bClear lungs\b", "The lungs are clear"),
    (r"\bThe bones are intact\b", "Osseous structures are intact"),
    (r"\bis noted\b", "is present"),
    (r"\bis present\b", "is seen"),
    (r"\bis seen\b", "is noted"),
    (r"\bThe cardiomediastinal silhouette is normal\b", "Cardiomediastinal contours are unremarkable"),
)


def sentences(text: str) -> list[str]:
    """The sentences of a phantom report, each with its full stop."""
    return [part.strip() for part in re.findall(r"[^.]+\.", text) if part.strip()]


def _positive(sentence: str) -> bool:
    return bool(_FINDING.search(sentence)) and not _DENIED.search(sentence)


def _swapped(sentence: str, words: Mapping[str, str]) -> str | None:
    """The first of the words replaced, with its capital; None where none is there."""
    match = re.search(rf"\b({'|'.join(words)})\b", sentence, re.IGNORECASE)
    if match is None:
        return None
    new = words[match[0].lower()]
    return sentence[: match.start()] + (new.capitalize() if match[0][0].isupper() else new) + sentence[match.end() :]


def _side(sentence: str, text: str) -> str | None:
    return _swapped(sentence, _SIDES) if _positive(sentence) and "bilateral" not in sentence.lower() else None


def _severity(sentence: str, text: str) -> str | None:
    return _swapped(sentence, _DEGREE) if _positive(sentence) else None


def _missed(sentence: str, text: str) -> str | None:
    return "" if _positive(sentence) else None


def _comparison(sentence: str, text: str) -> str | None:
    cut = _COMPARED.sub("", sentence)
    return cut if cut != sentence and _FINDING.search(cut) else None


def _negation(sentence: str, text: str) -> str | None:
    """A denial becomes a finding, a finding a denial."""
    denied = re.fullmatch(r"(?:There is no|No evidence of|No) ([a-z ]+?)(?: is seen)?\.", sentence)
    if denied is not None and _FINDING.search(denied[1]) and not _SEVERAL.search(denied[1]):
        return f"There is {_with_article(denied[1])}."
    stated = re.fullmatch(r"There is an? ([a-z ]+)\.", sentence)
    return f"There is no {stated[1]}." if stated is not None and _positive(sentence) else None


def _with_article(finding: str) -> str:
    """As one would state it.

    >>> _with_article("acute fracture"), _with_article("pulmonary edema")
    ('an acute fracture', 'pulmonary edema')
    """
    if _COUNTED.search(finding) is None:
        return finding
    return f"{'an' if finding[0] in 'aeiou' else 'a'} {finding}"


def _paraphrase(sentence: str, text: str) -> str | None:
    for pattern, new in _SAME:
        made = re.sub(pattern, new, sentence)
        if made != sentence:
            return made[0].upper() + made[1:]
    return None


Edit = Callable[[str, str], str | None]
"""A sentence and the whole report -> the sentence with the error; "" without it; None where it cannot have one."""

EDITS: Mapping[str, Edit] = {
    "wrong side": _side,
    "missed finding": _missed,
    "wrong severity": _severity,
    "dropped comparison": _comparison,
    "negation flip": _negation,
    "paraphrase": _paraphrase,
}
INVENTED = "invented finding"
KINDS = (
    "wrong side",
    "missed finding",
    INVENTED,
    "wrong severity",
    "dropped comparison",
    "negation flip",
    "paraphrase",
)
HARMLESS = "paraphrase"
STRANGER = "other report"
"""No edit but another patient's report in its place: what a metric loses at most, and the unit losses are drawn in."""


@dataclass(frozen=True, slots=True)
class Planted:
    """A report with one planted change (or with `errors` of several kinds, or none)."""

    study: Study
    kind: str
    text: str
    errors: int


def plant(text: str, kind: str, s: Stream) -> str | None:
    """The report with one change of this kind; None where it offers no place for one."""
    told = sentences(text)
    if kind == INVENTED:
        lower = text.lower()
        fitting = [added for words, added in _INVENTED if not re.search(rf"(?<!no )\b({words})", _affirmed(lower))]
        return " ".join([*told, s.pick(fitting)]) if fitting else None
    edit = EDITS[kind]
    options = [(i, made) for i, each in enumerate(told) if (made := edit(each, text)) is not None]
    if not options or (kind == "missed finding" and len(told) == 1):
        return None
    place, made = s.pick(options)
    return " ".join(part for part in [*told[:place], made, *told[place + 1 :]] if part)


def _affirmed(text: str) -> str:
    """What a report says is there."""
    return " ".join(each for each in sentences(text) if _positive(each))


def profile_items(count: int, *, seed: int = 0) -> list[Planted]:
    """Of `count` phantom studies: each report as it is (kind ""), with each kind of change it can have, and replaced.

    The last is `STRANGER`, the next report of another patient.
    """
    items = []
    drawn = list(studies("test", count, seed=seed))
    for number, study in enumerate(drawn):
        text = study.sections.get("findings", "")
        if not text:
            continue
        items.append(Planted(study, "", text, 0))
        for place, kind in enumerate(KINDS):
            made = plant(text, kind, Stream(7101, seed, number, place))
            if made is not None and made != text:
                items.append(Planted(study, kind, made, int(kind != HARMLESS)))
        other = _stranger(study, [*drawn[number + 1 :], *drawn[:number]])
        if other:
            items.append(Planted(study, STRANGER, other, 1))
    return items


def _stranger(study: Study, following: Sequence[Study]) -> str:
    """The first report that is of another patient and says something else; "" where there is none."""
    others = (each.sections.get("findings", "") for each in following if each.patient_id != study.patient_id)
    return next((text for text in others if text and text != study.sections["findings"]), "")


def graded_items(count: int, *, most: int = 3, seed: int = 0) -> list[Planted]:
    """Of `count` phantom studies: each report with 0, 1, ... `most` errors of different kinds, if it has room."""
    items = []
    for number, study in enumerate(studies("test", count, seed=seed)):
        text = study.sections.get("findings", "")
        if not text:
            continue
        s = Stream(7102, seed, number)
        items.append(Planted(study, "", text, 0))
        kinds = _shuffled([kind for kind in KINDS if kind != HARMLESS], s)
        errors = 0
        for kind in kinds:
            made = plant(text, kind, s)
            if made is not None and made != text and errors < most:
                text, errors = made, errors + 1
                items.append(Planted(study, kind, text, errors))
    return items


def _shuffled(kinds: Sequence[str], s: Stream) -> list[str]:
    return list(s.shuffled(list(kinds)))
