"""The exact reader of phantom prose: a report in, its CheXpert labels and its fine findings out.

It knows the wordings of phantom reports and the ways a model trained on them recombines them: negation, doubt, change,
resolution, side, severity. It is offered for the phantom data set only; on other text it recognises little, says
nothing about what it did not recognise, and lists those sentences in `Reading.unread`. Never touches torch.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field

from cxrbench.data.chexpert import LABELS
from cxrbench.data.phantom_phrases import ADVERBS, SEVERITY
from cxrbench.data.phantom_world import DEVICES, GRADED, LABELS_OF, SIDED, grade
from cxrbench.features.base import ALONE, Feature, Pairs, Resources

VERSION = 1
"""Goes up whenever a label read from any text could change."""

PRESENT, ABSENT, UNCERTAIN = 1, 0, -1

_KINDS: dict[str, str] = {
    "effusion": r"effusions?|pleural fluid",
    "pneumothorax": r"pneumothorax",
    "consolidation": r"(?:airspace )?(?:consolidations?|opacity|opacities)",
    "edema": r"edema",
    "atelectasis": r"atelectasis",
    "nodule": r"nodules?|mass|masses",
    "fracture": r"fractures?",
    "cardiomegaly": r"cardiomegaly|enlarged|enlargement",
    "pneumonia": r"pneumonia",
    "thickening": r"pleural thickening",
    "endotracheal-tube": r"(?:endotracheal|et) tube",
    "central-line": r"central (?:line|venous catheter)",
    "pacemaker": r"pacemaker",
    "feeding-tube": r"(?:feeding|enteric|nasogastric) tube",
    "device": r"support devices|lines and tubes",
}
"""What each kind is called. `device` stands for devices that a report does not name one by one."""

_MENTION = re.compile("|".join(rf"(?P<{k.replace('-', '_')}>\b(?:{words})\b)" for k, words in _KINDS.items()))

_NORMAL: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = tuple(
    (re.compile(pattern), kinds)
    for pattern, kinds in (
        (r"\bheart (?:size )?is normal\b|\bnormal heart size\b", ("cardiomegaly",)),
        (r"\bcardiac silhouette is (?:within )?normal\b", ("cardiomegaly",)),
        (
            r"\bcardiomediastinal (?:silhouette|contours) (?:is|are) (?:normal|unremarkable)",
            ("cardiomegaly", "mediastinum"),
        ),
        (r"\bmediastinal contours are (?:normal|unremarkable)\b", ("mediastinum",)),
        (r"\blungs are (?:well aerated and )?clear\b|\bclear lungs\b", ("consolidation",)),
        (r"\bpleural spaces are clear\b|\bno pleural abnormality\b", ("effusion", "pneumothorax")),
        (r"\b(?:bones|osseous structures) are intact\b|\bno acute osseous abnormality\b", ("fracture",)),
        (r"\bno (?:evidence of )?acute (?:cardiopulmonary|intrathoracic) (?:process|abnormality|disease)\b", ()),
        (r"\b(?:normal|unremarkable) chest radiograph\b", ()),
    )
)
"""Statements that a part is normal, and the kinds they deny."""

_CHANGE = re.compile(r"\b(?:no|without) (?:significant |interval )*change\b")
"""A denial of change, not of the finding."""
_NOT_EXCLUDED = re.compile(r"\b(?:cannot be|is not|are not) excluded\b")
_GONE_AFTER = re.compile(r"\b(?:has|have) resolved\b|\b(?:has|have) been removed\b|\bno longer seen\b")
_DOUBT_AFTER = re.compile(r"\b(?:is|are) (?:suspected|possible)\b|<doubt>")
_DENIAL = re.compile(r"\b(?:no|not|without|resolution of|removal of)\b")
_DOUBT = re.compile(
    r"\b(?:possible|possibly|probable|questionable|suggests?|may be|may represent|could reflect|concerning for"
    r"|suspicious for)\b"
)
_SIDE = re.compile(r"\b(left|right|lingula|bilateral|both|bibasilar)\b")

_WORDS: dict[str, int] = {
    word: level for scale in (*SEVERITY.values(), ADVERBS) for level, words in enumerate(scale, 1) for word in words
}
_SEVERITY = re.compile(rf"\b({'|'.join(sorted(_WORDS))})\b")
_EACH_SIDE = re.compile(rf"\b({'|'.join(sorted(_WORDS))}) on the (left|right)\b")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a report says.

    `labels`: CheXpert name -> 1, 0, -1, only names the report speaks of; No Finding is 1 when nothing but devices is
    present or suspected, 0 otherwise, and missing when nothing at all was recognised. `fine`: `kind/side/severity` ->
    1 or -1, absent ones left out. `unread`: sentences in which nothing was recognised.
    """

    labels: dict[str, int] = field(default_factory=dict)
    fine: dict[str, int] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Mention:
    kind: str
    start: int
    end: int
    status: int


def read(text: str) -> Reading:
    """Read one report.

    >>> read("Possible small left effusion. No pneumothorax.").labels
    {'Pleural Effusion': -1, 'Pneumothorax': 0, 'No Finding': 0}
    """
    status: dict[str, int] = {}
    fine: dict[str, int] = {}
    unread, recognised = [], False
    for sentence in _sentences(text):
        mentions, denied = _mentions(sentence), _denied(sentence)
        if not mentions and denied is None:
            unread.append(sentence)
            continue
        recognised = True
        for kind in denied or ():
            status.setdefault(kind, ABSENT)
        for index, mention in enumerate(mentions):
            _raise(status, mention.kind, mention.status)
            if mention.status != ABSENT and mention.kind in _FINE:
                for name in _names(sentence, mentions, index):
                    _raise(fine, name, mention.status)
    return Reading(_labels(status) if recognised else {}, fine, tuple(unread))


_FINE = frozenset((*GRADED, "fracture", *DEVICES))
_RANK = {ABSENT: 0, UNCERTAIN: 1, PRESENT: 2}


def _raise(table: dict[str, int], name: str, status: int) -> None:
    """Keep the stronger of two statements: present, then uncertain, then absent."""
    if name not in table or _RANK[status] > _RANK[table[name]]:
        table[name] = status


def _sentences(text: str) -> list[str]:
    """Sentences in lower case, list numbers left out."""
    parts = (part.strip() for part in re.split(r"[.;\n]", text.lower()))
    return [re.sub(r"\s+", " ", part) for part in parts if part and not part.isdigit()]


def _denied(sentence: str) -> tuple[str, ...] | None:
    """Kinds that a statement of normality denies; None when the sentence is no such statement."""
    hits = [kinds for pattern, kinds in _NORMAL if pattern.search(sentence)]
    return tuple(kind for kinds in hits for kind in kinds) if hits else None


def _mentions(sentence: str) -> list[_Mention]:
    """All findings a sentence names, with their status."""
    plain = _CHANGE.sub(lambda m: "=" * len(m.group()), sentence)
    plain = _NOT_EXCLUDED.sub(lambda m: "<doubt>".ljust(len(m.group())), plain)
    gone = [m.start() for m in _GONE_AFTER.finditer(plain)]
    plain = _GONE_AFTER.sub(lambda m: "=" * len(m.group()), plain)
    out = []
    for match in _MENTION.finditer(plain):
        before, after = plain[: match.start()], plain[match.end() :]
        if any(place >= match.end() for place in gone) or _DENIAL.search(before):
            status = ABSENT
        elif _DOUBT.search(before) or _DOUBT_AFTER.search(after):
            status = UNCERTAIN
        else:
            status = PRESENT
        kind = str(match.lastgroup).replace("_", "-")
        out.append(_Mention(kind, match.start(), match.end(), status))
    return out


def _names(sentence: str, mentions: list[_Mention], index: int) -> list[str]:
    """Fine names of a mention: one, or two when it is on both sides."""
    mention = mentions[index]
    start = mentions[index - 1].end if index else 0
    end = mentions[index + 1].start if index + 1 < len(mentions) else len(sentence)
    before, after = sentence[start : mention.start], sentence[mention.end : end]
    if mention.kind in SIDED:
        each = {side: _WORDS[word] for word, side in _EACH_SIDE.findall(after)}
        if len(each) == 2:
            return [_fine(mention.kind, side, level) for side, level in each.items()]
    level = _nearest(_SEVERITY, before, after) if mention.kind in GRADED else ""
    severity = _WORDS.get(level, 0)
    if mention.kind not in SIDED:
        return [_fine(mention.kind, "", severity)]
    side = _nearest(_SIDE, before, after) or _nearest(_SIDE, "", sentence)
    sides = {"": ("",), "left": ("left",), "right": ("right",), "lingula": ("left",)}.get(side, ("left", "right"))
    return [_fine(mention.kind, one, severity) for one in sides]


def _nearest(pattern: re.Pattern[str], before: str, after: str) -> str:
    """The last match before a mention, else the first after it."""
    found = pattern.findall(before)
    if found:
        return str(found[-1])
    match = pattern.search(after)
    return match.group(1) if match else ""


def _fine(kind: str, side: str, severity: int) -> str:
    parts = (kind, side, grade(kind, severity) if severity else "")
    return "/".join(part for part in parts if part)


def _labels(status: Mapping[str, int]) -> dict[str, int]:
    """CheXpert labels of kinds; the strongest statement wins where kinds share a label."""
    found: dict[str, int] = {}
    for kind, value in status.items():
        for name in LABELS_OF[kind]:
            _raise(found, name, value)
    found["No Finding"] = no_finding(found)
    return {name: found[name] for name in LABELS if name in found}


def no_finding(labels: Mapping[str, int]) -> int:
    """CheXpert's rule: 1 when nothing is present or suspected, devices aside."""
    return int(all(value == ABSENT for name, value in labels.items() if name not in ("Support Devices", "No Finding")))


class PhantomLabels(Feature):
    """Labels of the predictions of a batch: one `{CheXpert name: 1, 0, -1}` per pair, each distinct text read once."""

    name = "phantom-labels"

    def extract(
        self, pairs: Pairs, settings: Mapping[str, Hashable], resources: Resources = ALONE
    ) -> list[dict[str, int]]:
        """Read every prediction; `settings` has no meaning here."""
        return read_all(pairs.predictions)


def read_all(texts: Iterable[str]) -> list[dict[str, int]]:
    """Labels of many reports, in order."""
    seen: dict[str, dict[str, int]] = {}
    out = []
    for text in texts:
        if text not in seen:
            seen[text] = read(text).labels
        out.append(seen[text])
    return out
