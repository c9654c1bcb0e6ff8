"""From the truth about a study to its report: sections in radiology prose, entities and relations, what was denied.

Everything that is present or suspected stands in the findings and in the impression; what is denied is a choice.
Touches phantom modules only; the wording lives in phantom_phrases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cxrbench.data import phantom_phrases as p
from cxrbench.data.phantom_background import comparison, history, indication, technique
from cxrbench.data.phantom_markup import Passage, article, fill, read, rename
from cxrbench.data.phantom_phrases import Noun
from cxrbench.data.phantom_rng import Stream
from cxrbench.data.phantom_world import DEVICES, Case, Finding

TOPIC = {
    **dict.fromkeys(("consolidation", "edema", "atelectasis", "nodule"), "lung"),
    **dict.fromkeys(("effusion", "pneumothorax"), "pleura"),
    "cardiomegaly": "heart",
    "fracture": "bone",
    **dict.fromkeys(DEVICES, "device"),
}
_ORDERS = (
    ("device", "lung", "pleura", "heart", "bone"),
    ("device", "heart", "lung", "pleura", "bone"),
    ("heart", "lung", "pleura", "bone", "device"),
    ("lung", "pleura", "heart", "bone", "device"),
    ("lung", "heart", "pleura", "device", "bone"),
    ("heart", "pleura", "lung", "device", "bone"),
)
_DENIABLE = {"consolidation": 50, "edema": 40, "nodule": 20, "pneumonia": 22, "effusion": 78, "pneumothorax": 78}

Group = tuple[Finding, ...]
"""Findings told in one sentence: one, or two that belong together."""


@dataclass(frozen=True, slots=True)
class Report:
    """A report: the two annotated sections, the plain ones (empty where the report has none), and denied kinds."""

    findings: Passage
    impression: Passage
    indication: str
    history: str
    comparison: str
    technique: str
    denied: frozenset[str]


@dataclass(slots=True)
class _Draft:
    """Sentences of one section as (topic, markup, certainty), and the kinds denied so far."""

    lines: list[tuple[str, str, str]] = field(default_factory=list)
    denied: set[str] = field(default_factory=set)

    def say(self, topic: str, markup: str, certainty: str = "P", denies: Sequence[str] = ()) -> None:
        self.lines.append((topic, markup, certainty))
        self.denied.update(denies)


def write(case: Case) -> Report:
    """Write the report of a study; the same case always gives the same report."""
    s = Stream(case.key, 21)
    findings, said = _findings(case, s)
    impression, said_too = _impression(case, s)
    return Report(
        findings=findings,
        impression=impression,
        indication=indication(case, s),
        history=history(case, s),
        comparison=comparison(case, s),
        technique=technique(case, s),
        denied=frozenset(said | said_too),
    )


def _findings(case: Case, s: Stream) -> tuple[Passage, set[str]]:
    draft = _Draft()
    for group in grouped(case.findings, s):
        _present(group, case, s, draft)
    for finding in case.resolved:
        _gone(finding, s, draft)
    _normal(case, s, draft)
    order = s.pick(_ORDERS)
    lines = s.shuffled(draft.lines)
    lines.sort(key=lambda line: order.index(line[0]))
    return read((markup, certainty) for _, markup, certainty in lines), draft.denied


def grouped(findings: Sequence[Finding], s: Stream) -> list[Group]:
    """Put findings together that a radiologist would tell in one sentence; order as given."""
    groups: list[Group] = []
    left = list(findings)
    while left:
        first = left.pop(0)
        partner = next((other for other in left if _together(first, other) and s.chance(70)), None)
        if partner is not None:
            left.remove(partner)
        groups.append((first,) if partner is None else _ordered(first, partner))
    return groups


def _together(a: Finding, b: Finding) -> bool:
    """Whether two findings can share a sentence: both definite, changed alike, and of a pair that goes together."""
    if a.hedged or b.hedged or a.change != b.change:
        return False
    if a.kind == b.kind:
        return a.kind in p.BOTH_ALIKE
    kinds = {a.kind, b.kind}
    return kinds == {"cardiomegaly", "edema"} or (kinds == {"effusion", "atelectasis"} and a.side == b.side)


def _ordered(a: Finding, b: Finding) -> Group:
    """The pair in the order in which the phrase tables name it: left before right, the greater sign first."""
    rank = {"effusion": 0, "atelectasis": 1, "cardiomegaly": 0, "edema": 1}
    return (a, b) if (rank[a.kind], a.side) <= (rank[b.kind], b.side) else (b, a)


def _present(group: Group, case: Case, s: Stream, draft: _Draft) -> None:
    """One sentence about a finding or a pair."""
    first = group[0]
    topic = TOPIC[first.kind]
    plain = first.change in ("", "unchanged") and not first.hedged
    if len(group) == 1 and first.kind in p.OWN_SENTENCES and plain and first.change == "" and s.chance(60):
        draft.say(topic, _own_sentence(first, s))
        return
    noun, markup = phrase(group, s)
    denies: tuple[str, ...] = ()
    if first.kind == "cardiomegaly" and len(group) == 1 and not _has(case, "edema") and s.chance(18):
        markup = f"{markup} {rename(s.pick(p.WITHOUT_EDEMA), '2')}"
        denies = ("edema",)
    if raises_pneumonia(first):
        markup = f"{markup} {s.pick(p.PNEUMONIA)}"
        # A clause at the end: only frames that end with the noun phrase can carry it.
        frames = [f for f in _frames(first) if f.endswith(("{np} .", "{anp} ."))]
    else:
        frames = _frames(first)
    draft.say(topic, frame(s.pick(frames), noun, markup), "U" if first.hedged else "P", denies)


def raises_pneumonia(finding: Finding) -> bool:
    """Whether the report says of this finding that it may be pneumonia."""
    return finding.kind == "consolidation" and finding.severity > 1


def _frames(finding: Finding) -> list[str]:
    if finding.hedged:
        return list(p.HEDGED)
    return list(p.CHANGED[finding.change] if finding.change else p.PLAIN)


def _has(case: Case, kind: str) -> bool:
    return any(f.kind == kind for f in case.findings)


def frame(pattern: str, noun: Noun, markup: str) -> str:
    """Put a noun phrase into a sentence frame: articles, verb number."""
    singular = noun.countable and not noun.plural
    values = {
        "np": markup,
        "anp": article(markup) if singular else markup,
        "tnp": f"the {markup}",
        "is": "are" if noun.plural else "is",
        "has": "have" if noun.plural else "has",
    }
    if not singular:
        pattern = pattern.replace("{is} a new", "{is} new").replace("has developed", "{has} developed")
    return pattern.format_map(values)


def phrase(group: Group, s: Stream, *, severity: bool = True) -> tuple[Noun, str]:
    """The noun phrase of a finding or a pair, filled in."""
    first = group[0]
    if len(group) == 2 and group[1].kind == first.kind:
        return _both(group, s)
    noun = s.pick(p.NOUNS[first.kind])
    markup = fill(noun.markup, _values(first, s, severity=severity))
    if len(group) == 2:
        tail = p.ADJACENT if group[1].kind == "atelectasis" else p.WITH_EDEMA
        markup = f"{markup} {rename(fill(s.pick(tail), _values(group[1], s)), '2')}"
    return noun, markup


def _both(group: Group, s: Stream) -> tuple[Noun, str]:
    left, right = group
    if left.severity == right.severity:
        noun = s.pick(p.BOTH_ALIKE[left.kind])
        return noun, fill(noun.markup, _values(left, s))
    noun = s.pick(p.BOTH_UNLIKE[left.kind])
    values = {"s": _severity(left, s), "t": _severity(right, s)}
    return noun, fill(noun.markup, values)


def _severity(finding: Finding, s: Stream) -> str:
    return s.pick(p.SEVERITY[finding.kind][finding.severity - 1]) if finding.severity else ""


def _values(finding: Finding, s: Stream, *, severity: bool = True) -> dict[str, str]:
    place = (finding.side, finding.zone)
    return {
        "s": _severity(finding, s) if severity else "",
        "d": finding.side,
        "adv": s.pick(p.ADVERBS[finding.severity - 1]) if finding.kind == "cardiomegaly" else "",
        "loc": s.pick(p.PLACES[place]) if place in p.PLACES else "",
        "noun": "mass" if finding.severity == 3 else "nodule",
    }


def _own_sentence(finding: Finding, s: Stream) -> str:
    return fill(s.pick(p.OWN_SENTENCES[finding.kind]), _values(finding, s))


def _gone(finding: Finding, s: Stream, draft: _Draft) -> None:
    """A finding of the last study that is no longer there: denied, and said to have been."""
    noun, markup = phrase((finding,), s, severity=False)
    patterns = p.REMOVED if finding.kind in DEVICES else p.RESOLVED
    # The other side may still be there, so only the place is denied; the label reader lets presence win.
    draft.say(TOPIC[finding.kind], frame(s.pick(patterns), noun, markup), "N", (finding.kind,))


def _normal(case: Case, s: Stream, draft: _Draft) -> None:
    """What is normal or absent, for every part of the chest."""
    here = {f.kind for f in case.findings} | ({"pneumonia"} if case.pneumonia else set())
    told = here | draft.denied
    if "cardiomegaly" not in told and s.chance(94):
        _state(s.pick(p.NORMAL["heart"]), "heart", draft)
    elif s.chance(35):
        _state(s.pick(p.NORMAL["mediastinum"]), "heart", draft)
    if not here & {"consolidation", "edema", "atelectasis", "nodule"} and s.chance(70):
        _state(s.pick(p.NORMAL["lung"]), "lung", draft)
    if not told & {"effusion", "pneumothorax"} and s.chance(14):
        _state(s.pick(p.NORMAL["pleura"]), "pleura", draft)
    absent = [k for k, percent in _DENIABLE.items() if k not in here | draft.denied and s.chance(percent)]
    _deny(s.shuffled(absent), s, draft)
    if "fracture" not in told and s.chance(48):
        if s.chance(60):
            _state(s.pick(p.NORMAL["bone"]), "bone", draft)
        else:
            _deny(["fracture"], s, draft, "bone")
    if not here & {"effusion"} and s.chance(5):
        _deny(["thickening"], s, draft, "pleura")


def _state(statement: tuple[str, tuple[str, ...]], topic: str, draft: _Draft) -> None:
    draft.say(topic, statement[0], "P", statement[1])


def _deny(kinds: Sequence[str], s: Stream, draft: _Draft, topic: str = "") -> None:
    """Deny several kinds in one or two sentences."""
    rest = list(kinds)
    while rest:
        size = min(len(rest), s.weighted({1: 25, 2: 45, 3: 30}))
        part, rest = rest[:size], rest[size:]
        place = topic or ("pleura" if set(part) & {"effusion", "pneumothorax"} else "lung")
        draft.say(place, denial(part, s), "N", part)


def denial(kinds: Sequence[str], s: Stream) -> str:
    """`no A , B , or C .` in one of several forms."""
    items = [rename(s.pick(p.ABSENT[kind]), str(i)) for i, kind in enumerate(kinds)]
    joined = items[0]
    if len(items) == 2:
        joined = f"{items[0]} {s.pick(('or', 'and no'))} {items[1]}"
    elif len(items) > 2:
        joined = f"{' , '.join(items[:-1])} , or {items[-1]}"
    return s.pick(p.DENIALS).format(list=joined)


def _impression(case: Case, s: Stream) -> tuple[Passage, set[str]]:
    """Everything present or suspected again in short, devices often as one; a few denials."""
    draft = _Draft()
    devices = [f for f in case.findings if f.kind in DEVICES]
    others = [f for f in case.findings if f.kind not in DEVICES]
    for group in grouped(others, s):
        noun, markup = phrase(group, s)
        if group[0].hedged:
            draft.say("", frame(s.pick(p.HEDGED), noun, markup), "U")
            continue
        if raises_pneumonia(group[0]):
            markup = f"{markup} {s.pick(p.PNEUMONIA)}"
        patterns = p.IMPRESSION_CHANGED[group[0].change]
        draft.say("", frame(s.pick(patterns), noun, markup))
    for finding in case.resolved:
        if finding.kind not in DEVICES and s.chance(60):
            _gone(finding, s, draft)
    if not others:
        draft.say("", s.pick(p.NOTHING if devices or case.resolved else p.WHOLLY_NORMAL), "N")
    elif s.chance(25):
        here = {f.kind for f in case.findings} | draft.denied
        spare = [k for k in ("pneumothorax", "effusion", "edema") if k not in here]
        _deny(spare[: s.between(1, 2)], s, draft)
    lines = s.shuffled(draft.lines) if s.chance(50) else draft.lines
    if devices:
        lines.append(_device_line(devices, s))
    numbered = len(lines) > 1 and s.chance(45)
    return (
        read((f"{i} . {markup}" if numbered else markup, c) for i, (_, markup, c) in enumerate(lines, 1)),
        draft.denied,
    )


def _device_line(devices: Sequence[Finding], s: Stream) -> tuple[str, str, str]:
    if len(devices) > 1 or s.chance(40):
        return "device", s.pick(p.DEVICES_ABOVE), "P"
    noun, markup = phrase((devices[0],), s)
    return "device", frame(s.pick(p.IMPRESSION_CHANGED[devices[0].change]), noun, markup), "P"
