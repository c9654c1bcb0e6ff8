r"""Sentences of a report as RaTEScore 0.6.0 cuts them: there by medspaCy 1.3 with the rules of PyRuSH, here by a few.

A rule is a pattern whose one group is a mark: where a sentence may begin, where it may end, or a place that looks like
one and is none. Of marks that overlap the widest stays, the earlier one of two of a width. Marks of begin and end are
then paired; what lies between two sentences is one of its own when it is long enough, else it belongs to the one
before. PyRuSH has some 800 rules, most of them for discharge letters; those kept here are the ones that reports and
model output set off. docs/metrics-ratescore.md says how equal both are. Touches the standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

VERSION = 1
"""Goes up whenever a sentence of any text could change."""

SHORTEST = 3
"""Characters of a sentence; a shorter one is dropped."""

GAP = 5
"""A stretch between two sentences is one of its own when it has more characters than this."""

_NAMES = {
    "S": r"[ \t\xa0]",  # a blank
    "N": r"[\n\r]",  # the end of a line
    "W": r"[\s\x7f-\U0010ffff]",  # any whitespace, and whatever is no ASCII
    "U": r"[\x7f-\x9f\xa1-\U0010ffff]",  # a sign such as a bullet
    "P": r"[!-/:-@\[-`{-~]",  # ASCII punctuation
}

_LETTERS = ("Present Illness", "present illness", "Past Illness")
_HEADINGS = "|".join(
    [
        *("FINDINGS:", "Findings:", "INDICATION:", "Indication:", "REASON:", "Reason:", "REASON FOR", "Reason For"),
        *(f"History of {each}:" for each in _LETTERS),
        *("Past Medical History:", "Chief Complaint:", "Admitting Diagnosis:", "Discharge Diagnosis:"),
    ]
)
_OPENERS = (
    "He|His|Her|She|We|Our|The|They|Their|I|My|But|Now|Discharge|This|That|"
    "this|that|he|she|we|our|his|her|they|their|my|but"
)


_TIMES = {">*": ">{0,51}", ">+": ">{1,51}", r"\S+": r"\S{1,51}"}
"""PyRuSH repeats a class 50 times at most, so that a text of blanks takes no time."""


def _rules(*patterns: str) -> list[re.Pattern[str]]:
    """Patterns that are tried at every place of a text; `<S>` stands for a class of `_NAMES`."""
    return [re.compile(f"(?={_spelt_out(each)})") for each in patterns]


def _spelt_out(pattern: str) -> str:
    for short, times in _TIMES.items():
        pattern = pattern.replace(short, times)
    return re.sub("<(.)>", lambda name: _NAMES[name[1]], pattern)


BEGINS = _rules(
    r"^<S>*([A-Z0-9])",
    r"[a-z0-9)]\.<S>+([A-Z])",
    r"[A-Z]{3}\.<S>+([A-Z])[a-z]",
    r" mL\.<S>+([A-Z])",
    r"[?!]<S>+([A-Z])[a-z]",
    r"[?!]<S>+(\d)",
    r"[a-z]{2}\.<W>++([a-z]+)",
    rf'\.<W>++((?:{_OPENERS}) |")',
    r"\.<S>+(The|\d\.<S>*[A-Z])",
    r"\d<S>+\.<S>+([A-Z])",
    r"[a-z]<S>+\.<S>+([A-Z][a-z])",
    r'[a-z]\."<S>+([A-Z])',
    r"(?:[a-z]|[a-z]{2}\.)<W>++(\d)\)<S>+[A-Z]",
    r"[a-z]<W>++(\d\)[A-Z])",
    r"[a-z](<W>++\d\)<S>+\d+<S>+)[a-z]",
    r"[a-z]\.?<S>+(-)<S>+[A-Z]",
    r"(F)INDINGS:",
    r"(R)EASON FOR",
    # behind the end of a line
    r"<N>+([A-Z])",
    r"<N>+<S>{2,4}([A-Z])",
    r"<N>{2}<S>+([A-Z])",
    r"<N>( [A-Z])",
    r"<N>+([a-z])[a-z]+:",
    r"<N>(\d+)\.<S>*[A-Z]",
    r"<N>(\d+\.<S>+[a-z])",
    r"<N><S>+(\d\d?\.<S>+[A-Z])",
    r"[a-z]{2}\.<N>+(\d+)",
    r"[a-z]\.<S>*<N>+<S>*(\d+)(?:<S>|[a-z])",
    r"[a-z]\.<S>*<N>+<S>*(-\d)",
    r"<N>{2}(\d+)<S>",
    r"\S<N>+(\d\.<S>+[A-Z])",
    r"<N>(\d\d?\)<S>+[A-Za-z]|\d\)[A-Z]|\d\.\)<S>*[A-Z]|\(\d\)<S>+[A-Z])",
    r"<N>\([a-g]\)<S>+([A-Z])",
    r"<N>(- ?[A-Za-z]|[#*?] [A-Za-z]|#[A-Za-z]|[./] [A-Z]|\"[A-Z])",
    r"<N>{2}(-<S>+[A-Za-z])",
    r"<N>{2}<S>+(-<S>*[A-Z])",
    r"<N>{2}(<U>)<S>+[A-Z]",
    r"<N>{2}<S>+(<U>)<S>+[A-Za-z0-9]",
    r"<N>\*\*<P>*<S>*([A-Z])",
    r"<N>\*\*(\d)",
    r"<N>{2}\*<P>*<S>*([A-Z])",
    r"[a-z]:<S>*<N>+<S>*([a-z0-9])",
    r"[a-z]:(?:<N>+|<S>+<N>)(\S)",
    r"[A-Z]{3}:<N>+([a-z])",
    r"[A-Z\d]:<S>*<N>+(\d)",
    r"(?:<N>{2}|[a-z]\.<N>+)(\(\S+)",
    r"\)\.?<S>*<N>+(\d\.<S>+[a-z])",
)
"""Where a sentence may begin."""

NO_BEGINS = _rules(r"[A-Z][a-z]+<S>+(-)<S>+[A-Z][a-z]")
"""What looks like a begin and is none."""

ENDS = _rules(
    r"\S(\.) ",
    r"(?:[a-z]{2}|[0-9)])(\.)<S>+[A-Z]",
    r"[a-z](\.)<S>+I",
    r"[A-Z]{3}(\.)<S>+[A-Z][a-z]",
    r"(\.<S>+\d\.<S>+[A-Z])",
    r"[a-z](\.<S>+\d\.[A-Z])",
    r"[A-Za-z0-9](\?)<W>",
    r"[a-z]<S>+(\.)<S>+[A-Z][a-z]",
    r'[a-z]\.(")<S>+[A-Z]',
    r"([a-z]<S>+-<S>+[A-Z])",
    r"[a-z](\.)<S>+-<S>+[A-Z]",
    r"([a-z\d])<W>++\d\d?\)",
    r"[A-Z]([A-Z])<W>++\d\d?\)",
    r"\d(%)<W>++\d\d?\)",
    r"[a-z]{2}(\.)<W>++\d\)<S>+[A-Z]",
    r"\)(\.)<W>++\d+\.<S>+[A-Z]",
    r"(\.)(?:<S>+The|<W>++(?:He|His|Her|She|We|Our|The|They|Their|I|My) )",
    rf"(\S)<W>++(?:{_HEADINGS})",
    r"(\S)<W>++_{15}",
    r"(\S)<W>++\Z",
    # at the end of a line
    r"[A-Za-z0-9)\]](\.)<N>",
    r"[a-z](\.)<S>+<N>",
    r"[a-z]([a-z])(?:<N>+ |<S>*<N>+)[A-Z]",
    r"(\S<S>*<N>{2})",
    r"(\S)<S>+<N>+(?:-|\*\*)",
    r"[A-Za-z0-9](:)<S>*<N>",
    r"([a-z])<N>- [A-Za-z]",
    r"(\S)<S>*<N>+(?:[A-Z][a-z]+|[A-Z]{2,}|[A-Z]):",
    r"(\S)<S>+<N>+[A-Z][a-z]+<S>+[A-Z][a-z]+:",
    r"(\S)<N>+\d\.<S>+[A-Z]",
    r"([A-Za-z0-9])<S>+<N>+\d\d?\.<S>+[A-Za-z]",
    r"\)(\.)<S>+<N>+\d\.<S>+[a-z]",
    r"(\))<S>*<N>+\d\.<S>+[a-z]",
    r"(\d)<N>+[A-Z]{2}",
    r"([a-z]<N>+[a-z]{2,}:)",
    r"(\S)\*<N>{2}",
    r"([a-z])\*\*<P>*<S>*<N>",
    r"([.:]<S>*\*\*<S>*<N>{2})",
)
"""Where a sentence may end."""

NO_ENDS = _rules(
    r"(<S>(?:ms|Ms|Dr|dr|Mrs|mrs|Mr|mr|phd)\. )",
    r"(?:Mrs|Miss|Mr|Ms)(\.) ",
    r"<S>(?:Dr|Mrs|Mr|Ms)(\.)<S>",
    r"(<S>pulm\.)",
    r":<W>++(\?)<W>",
    r"([A-Z][a-z]+<S>+-<S>+[A-Z][a-z]+)",
    r"(\(\S+<W>++\S\))",
    r"([a-z]{2}|[A-Z]{2})<W>++\d\d?\)[,.]",
    r"(\((?:[A-Z]+|[a-z]+)<S>+\d\d\))",
    r"([,;)]<W>++[a-z]{2})",
    r"([,)]<W>++\d+ )",
    # over the end of a line
    r"<N>\d+(\.)<S>+[A-Z]",
    r"\d\.[A-Z]+(:)<S>+<N>",
    r"([a-z]<S>*<N>+<S>*[a-z])",
    r"([a-z]<S>*<N>+<S>*\d+(?:\.\d+)?<S>+[a-z]{2})",
    r"((?:are|was|were|<S>is):<S>*<N>+<S>*[a-z])",
    r"( (?:for|had|have|has)<S>+<N>+)",
    r"( (?:and|that)<S>+<N>{2})",
    r"(<S>and)<S>*<N>+[A-Za-z]",
    r"<S>(?:[tT]h(?=e<N>[A-Z][a-z])|[iI](?=n<N>)|fo(?=r<N>)|o(?=r<N>)|a(?=s<N>))(\w)<N>\S",
)
"""What looks like an end and is none."""

Spans = list[tuple[int, int]]


def sentences(text: str) -> list[str]:
    """The sentences of a report, in order, without blanks at their ends; those under three characters are dropped.

    >>> sentences("The heart is normal. 1. No effusion. Measures 1.5 cm, Dr. Who notes.")
    ['The heart is normal.', '1. No effusion.', 'Measures 1.5 cm, Dr. Who notes.']
    """
    spans = _pair(text, _marks(text, BEGINS, NO_BEGINS), _marks(text, ENDS, NO_ENDS))
    cuts = sorted({0, *(begin for begin, _ in spans), *(_next_token(text, end) for _, end in spans), len(text)})
    pieces = (text[begin:end].strip() for begin, end in pairwise(cuts))
    return [piece for piece in pieces if len(piece) >= SHORTEST]


def _marks(text: str, real: Sequence[re.Pattern[str]], false: Sequence[re.Pattern[str]]) -> Spans:
    """The real marks that no wider or earlier mark overlaps, in the order in which their patterns begin."""
    plain = _ascii(text)
    found = sorted(
        (match.start(), number, *match.span(1), number < len(real))
        for number, rule in enumerate([*real, *false])
        for match in rule.finditer(plain)
    )
    kept: list[tuple[int, int, bool]] = []
    reach: list[int] = []
    for _, _, begin, end, is_real in found:
        rival = next((i for i, mark in enumerate(kept) if mark[0] < end and begin < reach[i]), None)
        if rival is None:
            kept.append((begin, end, is_real))
            reach.append(end if reach else max(end - 1, begin + 1))  # PyRuSH takes one off the first
        elif end - begin > kept[rival][1] - kept[rival][0]:
            kept[rival], reach[rival] = (begin, end, is_real), end
    return [(begin, end) for begin, end, is_real in kept if is_real]


def _ascii(text: str) -> str:
    """The text with other alphabets' letters and digits as `Q`, `q`, `0`, so that [A-Z] means any capital."""
    if text.isascii():
        return text
    return "".join(char if char.isascii() else _stand_in(char) for char in text)


def _stand_in(char: str) -> str:
    kinds = ((str.isupper, "Q"), (str.islower, "q"), (str.isdigit, "0"))
    return next((other for test, other in kinds if test(char)), char)


def _pair(text: str, begins: Spans, ends: Spans) -> Spans:
    """Sentences from marks of begin and end; every begin takes the ends up to the next begin, the last of them counts.

    Ends that no begin precedes, and begins that no end follows, are what `_between` makes up for.
    """
    found: Spans = []
    begin = end = first = 0
    started = False
    for i, (mark, _) in enumerate(begins):
        if not started:
            begin = mark
        if mark < end:
            continue
        started = True
        _between(text, found, begin)
        for k in range(first, len(ends)):
            more = i < len(begins) - 1 and k < len(ends) - 1
            if more and begins[i + 1][0] <= ends[k][0]:
                break
            first, end = k, len(text[: ends[k][0] + 1].rstrip())
            if end < begin:
                continue
            if not started:
                found[-1] = (begin, end)
                continue
            found.append((begin, end))
            started = False
            if i < len(begins) - 1 and not (more and begins[i + 1][0] > ends[k + 1][1]):
                break
    return _outside(text, found, ends)


def _between(text: str, found: Spans, begin: int) -> None:
    """Add what lies between the last sentence and `begin`, or widen the last sentence by it."""
    gap = _trim(text, found[-1][1] if found else 0, begin)
    if gap is None:
        return
    if gap[1] - gap[0] > GAP:
        found.append(gap)
    elif found:
        found[-1] = (found[-1][0], gap[1])


def _outside(text: str, found: Spans, ends: Spans) -> Spans:
    """Add what lies before the first and behind the last sentence."""
    if not found:
        whole = _trim(text, 0, len(text))
        return [whole] if whole is not None and whole[1] - whole[0] > GAP else []
    before = _trim(text, 0, found[0][0])
    if before is not None:
        if not ends or found[0][0] <= ends[0][0]:
            found[0] = (before[0], found[0][1])
        else:
            found.insert(0, before)
    behind = _trim(text, found[-1][1], len(text))
    if behind is not None:
        if behind[1] - behind[0] > GAP:
            found.append(behind)
        else:
            found[-1] = (found[-1][0], behind[1])
    return found


def _trim(text: str, start: int, stop: int) -> tuple[int, int] | None:
    """A stretch without blanks before it and without what ends no sentence behind it; None if nothing is left."""
    begin = next((i for i in range(start, stop) if not text[i].isspace()), None)
    if begin is None:
        return None
    end = next((i for i in range(stop - 1, begin, -1) if text[i].isalnum() or text[i] in '.!?)]"'), None)
    return None if end is None else (begin, end + 1)


_WORD = re.compile(r"\w*")


def _next_token(text: str, at: int) -> int:
    """Where the first word or sign begins that begins at `at` or later; `):` is one sign to spaCy."""
    before, behind = text[at - 1 : at], text[at : at + 1]
    if before.isalnum() and behind.isalnum():
        at = _WORD.match(text, at).end()  # type: ignore[union-attr]
    elif before + behind == "):":
        at += 1
    return at + len(text[at:]) - len(text[at:].lstrip())
