"""Endless training texts: phantom findings and impressions, as written and taken apart again, with exact annotations.

A model that writes reports repeats sentences, leaves some out, mixes what does not belong together and stops in the
middle. So do these texts. Entities and relations never leave their sentence, so they stay exact when sentences move;
labels are those that phantom's exact reader reads from the text that results.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from cxrbench.data.phantom import report, study_id
from cxrbench.data.phantom_markup import Entity, Passage

SPLIT = "train"
LATE_CUES = frozenset(("excluded", "suspected", "possible", "resolved", "removed", "longer", "not"))
"""Words that decide about what stands before them: a sentence with one is never cut, or its annotation would be off."""


def written(seed: int, start: int = 0) -> Iterator[tuple[Passage, Passage]]:
    """Findings and impression of the studies of the train split under a seed, without end."""
    index = start
    while True:
        made = report(study_id(seed, SPLIT, index))
        yield made.findings, made.impression
        index += 1


def sentences(passage: Passage) -> list[Passage]:
    """A passage cut behind its full stops; a list number stays with its sentence.

    >>> [s.text for s in sentences(Passage(("1", ".", "Edema", ".", "2", ".", "Clear", ".")))]
    ['1. Edema.', '2. Clear.']
    """
    words = passage.words
    cuts = [i + 1 for i, word in enumerate(words) if word == "." and not words[i - 1].isdigit()]
    return [part(passage, a, b) for a, b in zip([0, *cuts], [*cuts, len(words)], strict=False) if a < b]


def part(passage: Passage, start: int, stop: int) -> Passage:
    """Words `start` to `stop - 1` with the entities that lie within, and the relations among those."""
    inside = [i for i, entity in enumerate(passage.entities, 1) if entity.start >= start and entity.end < stop]
    number = {old: new for new, old in enumerate(inside, 1)}
    entities = []
    for old in inside:
        entity = passage.entities[old - 1]
        relations = tuple((kind, number[target]) for kind, target in entity.relations if target in number)
        entities.append(Entity(entity.tokens, entity.label, entity.start - start, entity.end - start, relations))
    return Passage(passage.words[start:stop], tuple(entities))


def join(parts: list[Passage]) -> Passage:
    """Passages one after another."""
    words: list[str] = []
    entities: list[Entity] = []
    for each in parts:
        base, before = len(words), len(entities)
        words.extend(each.words)
        for entity in each.entities:
            relations = tuple((kind, target + before) for kind, target in entity.relations)
            entities.append(Entity(entity.tokens, entity.label, entity.start + base, entity.end + base, relations))
    return Passage(tuple(words), tuple(entities))


def cut(sentence: Passage, rng: random.Random) -> Passage:
    """A sentence that stops early, between entities; whole if a later word decides about an earlier one."""
    if LATE_CUES & {word.lower() for word in sentence.words}:
        return sentence
    taken = {i for entity in sentence.entities for i in range(entity.start + 1, entity.end + 1)}
    places = [i for i in range(1, len(sentence.words)) if i not in taken]
    return part(sentence, 0, rng.choice(places)) if places else sentence


def variant(mine: Passage, other: Passage, rng: random.Random) -> Passage:
    """A report as it is, or one of the ways in which a model gets it wrong; `other` lends sentences."""
    parts = sentences(mine)
    way = rng.choices(("whole", "some", "mixed", "joined", "stutter", "cut", "single"), (34, 20, 16, 6, 6, 8, 10))[0]
    if way == "whole":
        return mine
    if way == "joined":
        return join([mine, other])
    if way == "single":
        return join(rng.sample(parts, min(len(parts), rng.randint(1, 2))))
    if way == "mixed":
        parts = parts + sentences(other)
    if way == "stutter":
        parts = parts + rng.choices(parts, k=rng.randint(1, 3))
    if way in ("some", "mixed"):
        parts = rng.sample(parts, rng.randint(1, len(parts)))
    elif rng.random() < 0.5:
        rng.shuffle(parts)
    if way == "cut":
        parts = parts[: rng.randint(1, len(parts))]
        parts[-1] = cut(parts[-1], rng)
    return join(parts)


def passages(seed: int, order: int) -> Iterator[Passage]:
    """Training passages without end: every section of every study under `seed` once, each in some variant.

    `order` seeds the choice of variants. A section lends to, and borrows from, the one of the same study or the last;
    one without words is left out.
    """
    rng = random.Random(order)
    last: Passage | None = None
    for findings, impression in written(seed):
        for mine, other in ((findings, impression), (impression, findings)):
            if not mine.words:  # one section in some ten thousand says nothing
                continue
            lender = other if last is None or rng.random() < 0.3 else last
            yield variant(mine, lender, rng)
            last = mine
