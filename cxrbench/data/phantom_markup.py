"""Annotated prose: a small markup in which phantom phrases carry their entities and relations with them.

A phrase is words separated by blanks; a word may be marked up as `surface/id:TYPE` and relations:

    {s}/s:O>e {d}/d:A>p pleural/p:A effusion/e:O@p

Types: O an observation whose certainty the sentence decides, P definitely present, U uncertain, N definitely absent,
A anatomy. Relations: `>x` modifies x, `@x` is located at x, `~x` is suggestive of x, `<x` is what x is suggestive of.
`_` joins the words of one entity. These are the entity and relation types of RadGraph (Jain et al., NeurIPS Datasets
and Benchmarks 2021). Touches the standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LABELS = {"P": "OBS-DP", "U": "OBS-U", "N": "OBS-DA", "A": "ANAT-DP"}
RELATIONS = {">": "modify", "@": "located_at", "~": "suggestive_of"}
PUNCTUATION = frozenset(".,:;")

_MARK = re.compile(r"^(?P<surface>[^/]*)/(?P<id>\w+):(?P<type>[OPUNA])(?P<relations>(?:[>@~<]\w+)*)$")
_RELATION = re.compile(r"([>@~<])(\w+)")


@dataclass(frozen=True, slots=True)
class Entity:
    """One entity of a passage: words `start` to `end` (both included) and relations to other entities by number."""

    tokens: str
    label: str
    start: int
    end: int
    relations: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Passage:
    """Words (punctuation is a word of its own) and the entities in them, in order."""

    words: tuple[str, ...]
    entities: tuple[Entity, ...] = ()

    @property
    def text(self) -> str:
        """The words as prose: no blank before punctuation."""
        out: list[str] = []
        for word in self.words:
            if out and word not in PUNCTUATION:
                out.append(" ")
            out.append(word)
        return "".join(out)

    def radgraph(self) -> dict[str, Any]:
        """The annotation in RadGraph's JSON form: entity numbers from "1", positions in blank-separated words."""
        return {
            "text": " ".join(self.words),
            "entities": {
                str(number): {
                    "tokens": entity.tokens,
                    "label": entity.label,
                    "start_ix": entity.start,
                    "end_ix": entity.end,
                    "relations": [[kind, str(target)] for kind, target in entity.relations],
                }
                for number, entity in enumerate(self.entities, 1)
            },
        }


def rename(markup: str, suffix: str) -> str:
    """The same markup with every id changed, so that two phrases can stand in one sentence.

    >>> rename("left/d:A>p pleural/p:A", "2")
    'left/d2:A>p2 pleural/p2:A'
    """

    def word(token: str) -> str:
        if "/" not in token:
            return token
        surface, _, mark = token.partition("/")
        mark = re.sub(r"^(\w+):", rf"\g<1>{suffix}:", mark)
        return f"{surface}/" + _RELATION.sub(rf"\1\g<2>{suffix}", mark)

    return " ".join(word(token) for token in markup.split())


def fill(markup: str, values: Mapping[str, str]) -> str:
    """Put values into `{name}` places; a marked word whose surface stays empty is left out.

    >>> fill("{s}/s:O>e effusion/e:O", {"s": ""})
    'effusion/e:O'
    """
    return " ".join(token for token in markup.format_map(values).split() if not token.startswith("/"))


def article(markup: str) -> str:
    """`a` or `an` before a phrase, by its first letter."""
    return f"an {markup}" if markup[0].lower() in "aeiou" else f"a {markup}"


def read(sentences: Iterable[tuple[str, str]]) -> Passage:
    """Turn `(markup, certainty)` sentences into a passage; certainty (P, U or N) is what O stands for.

    The first letter of a sentence becomes a capital.
    """
    words: list[str] = []
    entities: list[Entity] = []
    for markup, certainty in sentences:
        _sentence(markup, certainty, words, entities)
    return Passage(tuple(words), tuple(entities))


def _sentence(markup: str, certainty: str, words: list[str], entities: list[Entity]) -> None:
    """Append one sentence to words and entities."""
    first, numbers = len(words), {}
    found: list[tuple[int, int, str, str]] = []
    for token in markup.split():
        mark = _MARK.match(token)
        surface = (mark["surface"] if mark else token).split("_")
        if mark:
            kind = certainty if mark["type"] == "O" else mark["type"]
            found.append((len(words), len(words) + len(surface) - 1, LABELS[kind], mark["relations"]))
            numbers[mark["id"]] = len(entities) + len(found)
        words.extend(surface)
    start = first + 2 if words[first].isdigit() else first
    words[start] = words[start][0].upper() + words[start][1:]
    relations = _relations(found, numbers, len(entities))
    for offset, (start, end, label, _) in enumerate(found):
        tokens = " ".join(words[start : end + 1])
        entities.append(Entity(tokens, label, start, end, tuple(relations[offset])))


def _relations(
    found: Sequence[tuple[int, int, str, str]], numbers: Mapping[str, int], before: int
) -> list[list[tuple[str, int]]]:
    """Relations of each entity of a sentence; a target that the sentence leaves out takes its relation with it."""
    out: list[list[tuple[str, int]]] = [[] for _ in found]
    for offset, (_, _, _, marks) in enumerate(found):
        for sign, target in _RELATION.findall(marks):
            if target not in numbers:
                continue
            if sign == "<":
                out[numbers[target] - before - 1].append((RELATIONS["~"], before + offset + 1))
            else:
                out[offset].append((RELATIONS[sign], numbers[target]))
    return out
