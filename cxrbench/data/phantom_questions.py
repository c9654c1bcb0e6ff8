"""Questions about drawn studies, made from the truth: is it there, on which side, how severe, which one, which view.

They are about the picture: what is drawn is there, whether the report hedges it or not. `vqa` is answered in a word or
two. The choices (`likelihood`, `generation`) are the same questions with statements to choose from, each a sentence as
a findings section has it, so that a model that writes reports can weigh them too. The same study always gives the same
questions. Touches phantom modules, questions and types only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from cxrbench.data import phantom_phrases as p
from cxrbench.data.phantom_markup import fill, read
from cxrbench.data.phantom_rng import Stream
from cxrbench.data.phantom_text import frame
from cxrbench.data.phantom_world import DEVICES, GRADED, KINDS, SIDED, Case, Finding, Side, Zone, grade
from cxrbench.data.questions import CLOSED, with_letters
from cxrbench.types import Question, Study

VERSION = 1
"""Goes up whenever a question, an option or an answer of any study could change."""

FORMS = ("vqa", "likelihood", "generation")
"""What a task may ask for: short answers, statements to weigh, statements with letters in the question."""

NAMES: Mapping[str, str] = {
    "effusion": "a pleural effusion",
    "pneumothorax": "a pneumothorax",
    "consolidation": "a consolidation",
    "edema": "pulmonary edema",
    "atelectasis": "atelectasis",
    "nodule": "a lung nodule or mass",
    "fracture": "a rib fracture",
    "cardiomegaly": "cardiomegaly",
    "endotracheal-tube": "an endotracheal tube",
    "central-line": "a central line",
    "pacemaker": "a pacemaker",
    "feeding-tube": "a feeding tube",
}
"""Kind -> how a question names it."""

ABSENT: Mapping[str, str] = {kind: name.removeprefix("a ").removeprefix("an ") for kind, name in NAMES.items()}
"""Kind -> its name without an article."""

SIZED = ("effusion", "pneumothorax", "consolidation", "nodule")
"""Kinds of which one asks how large, not how severe."""

ZONED = ("consolidation", "nodule")
OPTIONS = 4


def asked(study: Study, true: Case, form: str) -> Iterator[Study]:
    """The study's frontal picture with its questions, then its side view with the one that can be asked of it.

    Sides cannot be told on a side view, and it does not show every finding: only which view it is, is asked of it.
    """
    stream = Stream(true.key, 31)
    frontal, lateral = study.images[:1], study.images[1:]
    if form != "vqa":
        questions = tuple(_choices(true, stream, listed=form == "generation"))
        yield replace(study, images=frontal, questions=questions)
        return
    words = tuple(_words(true, stream))
    if not lateral:
        yield replace(study, images=frontal, questions=words)
        return
    view = _short("view", "Is this a frontal or a lateral view?", "frontal", "none", closed=True)
    yield replace(study, images=frontal, questions=(*words, view))
    side = replace(view, answer="lateral")
    yield replace(study, study_id=f"{study.study_id}-lateral", images=lateral, questions=(side,))


def statement(finding: Finding, *, graded: bool) -> str:
    """A finding as a sentence of a findings section, with its side and place; `graded`: with its severity too.

    >>> statement(Finding("effusion", "left", severity=1), graded=True)
    'There is a small left pleural effusion.'
    """
    noun = p.NOUNS[finding.kind][0]
    words = {
        "s": p.SEVERITY[finding.kind][finding.severity - 1][0] if graded and finding.severity else "",
        "d": finding.side,
        "loc": p.PLACES[finding.side, finding.zone][0] if finding.zone else "",
        "noun": "mass" if finding.severity == 3 else "nodule",
    }
    return _sentence(frame(p.PLAIN[0], noun, fill(noun.markup, words)))


def _sentence(markup: str) -> str:
    return read([(markup, "P")]).text


def _words(true: Case, s: Stream) -> Iterator[Question]:
    """Questions with short answers, at most one of each type."""
    kind, there = _presence(true, s)
    yield _short("presence", f"Is there {NAMES[kind]}?", "yes" if there else "no", kind, closed=True)
    sided = sorted({f.kind for f in true.findings if f.kind in SIDED})
    if sided:
        kind = s.pick(sided)
        sides = [f.side for f in true.findings if f.kind == kind]
        answer = sides[0] if len(sides) == 1 else "both sides"
        yield _short("side", f"On which side is the {ABSENT[kind]}?", answer, kind)
    alone = _alone(true, GRADED)
    if alone:
        one = s.pick(alone)
        yield _short("severity", _how(one.kind, ABSENT[one.kind]), grade(one.kind, one.severity), one.kind)
    for name, kinds in (("finding", set(KINDS) - set(DEVICES)), ("device", set(DEVICES))):
        seen = {f.kind for f in true.findings if f.kind in kinds}
        if len(seen) == 1:
            (kind,) = seen
            what = "device" if name == "device" else "finding, devices aside,"
            yield _short(name, f"Which {what} is seen?", ABSENT[kind], kind)


def _choices(true: Case, s: Stream, *, listed: bool) -> Iterator[Question]:
    """Questions with statements to choose from, at most one of each type; exactly one statement is true."""
    kind, there = _presence(true, s)
    name = ABSENT[kind]
    both = [f"There is {NAMES[kind]}.", f"There is no {name}."]
    yield _choice("presence", f"Is there {NAMES[kind]}?", both[0 if there else 1], both, kind, s, listed)
    here = {f.kind for f in true.findings}
    if true.findings:
        one = s.pick(true.findings)
        others = [_invented(other, s) for other in s.shuffled([k for k in KINDS if k not in here])[: OPTIONS - 1]]
        made = [statement(f, graded=False) for f in (one, *others)]
        yield _choice("finding", "Which of these is seen?", made[0], made, one.kind, s, listed)
    if sided := _alone(true, SIDED):
        one = s.pick(sided)
        other: Side = "left" if one.side == "right" else "right"
        made = [statement(f, graded=False) for f in (one, replace(one, side=other))]
        yield _choice("side", f"On which side is the {ABSENT[one.kind]}?", made[0], made, one.kind, s, listed)
    if graded := _alone(true, GRADED):
        one = s.pick(graded)
        made = [statement(replace(one, severity=severity), graded=True) for severity in (1, 2, 3)]
        place = f"{one.side} {ABSENT[one.kind]}".strip()
        yield _choice("severity", _how(one.kind, place), made[one.severity - 1], made, one.kind, s, listed)


def _presence(true: Case, s: Stream) -> tuple[str, bool]:
    """A kind to ask about: one that is there in half of the studies that have any, else one that is not."""
    here = sorted({f.kind for f in true.findings})
    if here and s.chance(50):
        return s.pick(here), True
    return s.pick([kind for kind in KINDS if kind not in here]), False


def _alone(true: Case, kinds: Sequence[str]) -> list[Finding]:
    """Findings of these kinds whose kind is there on one side only: what can be asked for without saying more."""
    count = [f.kind for f in true.findings]
    return [f for f in true.findings if f.kind in kinds and count.count(f.kind) == 1]


def _invented(kind: str, s: Stream) -> Finding:
    """A finding that is not there, somewhere."""
    side: Side = s.pick(("left", "right")) if kind in SIDED else ""
    zone: Zone = s.pick(("upper", "mid", "lower")) if kind in ZONED else ""
    return Finding(kind, side, zone, s.between(1, 3) if kind in GRADED else 0)


def _how(kind: str, name: str) -> str:
    return f"How {'large' if kind in SIZED else 'severe'} is the {name}?"


def _short(name: str, text: str, answer: str, about: str, *, closed: bool = False) -> Question:
    columns = {"answer-type": "closed" if closed else "open", "question-type": name, "finding": about}
    return Question(name, text, answer, labels={"question": {CLOSED: float(closed)}}, columns=columns)


def _choice(name: str, text: str, answer: str, made: Sequence[str], about: str, s: Stream, listed: bool) -> Question:
    options = tuple(s.shuffled(made))
    return Question(
        name,
        with_letters(text, options) if listed else text,
        answer,
        options,
        labels={"choice": {"answer": float(options.index(answer)), "options": float(len(options))}},
        columns={"question-type": name, "finding": about},
    )
