"""RadGraph against radgraph 0.1.18: entities, relations, decisions for none, rewards; no influence of neighbours."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from recordings import CASES, DTYPES, LEAST, on_pairs, place, recorded

from cxrbench.features.base import Pairs, Sides
from cxrbench.metrics.base import Context
from cxrbench.metrics.radgraph_f1 import RadGraphF1
from tools.parity import texts

pytestmark = [pytest.mark.parity, pytest.mark.real_data]
CONTEXT = Context.of({"weights": {"name": "radgraph", "hash": "1a2b3c4d"}})
LEVELS = ("simple", "partial", "complete")


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def given(real_data):
    return texts.read(real_data, "radgraph")


@pytest.fixture(scope="module")
def annotator(work, case):
    from cxrbench.features.radgraph_net import load

    folder = place(work, case[0])
    if case[0] == "full":
        return load(folder / "radgraph/radgraph-xl", folder / "bert-base-uncased", dtype=DTYPES[case[1]])
    return load(folder / "radgraph/radgraph", dtype=DTYPES[case[1]])


@pytest.fixture(scope="module")
def ours(annotator, given):
    return annotator.annotate(given.all)


@pytest.fixture(scope="module")
def theirs(work, case, given):
    return recorded(work, "radgraph", case, given.all)


def spans(annotation):
    """{(first word, last word): label}, and {(span, span): label} of the relations between them."""
    entities = annotation["entities"]
    place_of = {number: (entity["start_ix"], entity["end_ix"]) for number, entity in entities.items()}
    relations = {
        (place_of[number], place_of[target]): kind
        for number, entity in entities.items()
        for kind, target in entity["relations"]
    }
    return {place_of[number]: entity["label"] for number, entity in entities.items()}, relations


def differing(said, true):
    """Keys under which two dictionaries do not say the same."""
    return {key for key in said.keys() | true.keys() if said.get(key) != true.get(key)}


def differences(said, true, line, dtype):
    """Decisions in which annotations differ, in words; each must be a close one, or follow from a close one."""
    if said == true:
        return []
    assert dtype == "fp32", "in double precision nothing may differ"
    assert said["text"] == true["text"]
    (entities, relations), (their_entities, their_relations) = spans(said), spans(true)
    close_spans = {(a, b): gap for a, b, gap in line["close_spans"]}
    close_pairs = {((a, b), (c, d)): gap for a, b, c, d, gap in line["close_pairs"]}
    close_pruned = {(a, b): gap for a, b, gap in line["close_pruned"]}
    changed = differing(entities, their_entities)
    assert changed <= close_spans.keys(), "an entity that was no close decision"
    found = [f"span {key}: margin {close_spans[key]:.1e}" for key in sorted(changed)]
    for pair in sorted(differing(relations, their_relations)):
        follows = [span for span in pair if span in changed or span in close_pruned]
        assert pair in close_pairs or follows, "a relation that was no close decision"
        why = f"margin {close_pairs[pair]:.1e}" if pair in close_pairs else f"follows from span {follows[0]}"
        found.append(f"relation {pair}: {why}")
    assert found, "the same entities and relations in another order"
    return found


def all_differences(said, lines, at, dtype):
    return [
        f"text {i}, {each}"
        for one, line, i in zip(said, lines, at, strict=True)
        for each in differences(one, line["annotation"], line, dtype)
    ]


def counted(lines):
    """Figures of a recording: decisions, those for none, close ones."""
    total = Counter()
    for line in lines:
        total.update({key: line[key] for key in ("spans", "null_spans", "pairs", "null_pairs")})
        total["entities"] += len(line["annotation"]["entities"])
        total["relations"] += sum(len(each["relations"]) for each in line["annotation"]["entities"].values())
        total["close"] += sum(len(line[key]) for key in ("close_spans", "close_pairs", "close_pruned"))
    return dict(total)


def test_entities_and_relations(given, ours, theirs, case, tell):
    exceptions = all_differences(ours, theirs, range(len(theirs)), case[1])
    figures = counted(theirs)
    tell(real=len(given.real), texts=len(theirs), **figures, different=len(exceptions), exceptions=exceptions)
    assert len(given.real) >= LEAST["radgraph"]
    assert figures["null_spans"] > 0
    assert figures["null_pairs"] > 0
    assert figures["spans"] > figures["null_spans"]
    assert figures["pairs"] > figures["null_pairs"]


def test_every_label_occurs(annotator, theirs):
    entities, relations = Counter(), Counter()
    for line in theirs:
        for each in line["annotation"]["entities"].values():
            entities[each["label"]] += 1
            relations.update(kind for kind, _ in each["relations"])
    assert set(entities) == set(annotator.shape.entities) - {""}
    assert set(relations) == set(annotator.shape.relations)


def test_the_awkward_are_among_them(given):
    assert {"", "effusion", "...,,;;!?()"} <= set(given.all)
    assert max(len(text.split()) for text in given.all) == 600
    assert any(not text.isascii() for text in given.all)


def test_rewards(work, given, ours, theirs, case, tell):
    at = {text: i for i, text in enumerate(given.all)}
    unlike = {i for i, (said, line) in enumerate(zip(ours, theirs, strict=True)) if said != line["annotation"]}
    same = [not {at[text] for text in pair} & unlike for pair in given.pairs]
    sides = [[ours[at[text]] for text in each] for each in zip(*given.pairs, strict=True)]
    pairs = Pairs([str(i) for i in range(len(given.pairs))], *map(list, zip(*given.pairs, strict=True)))
    told = on_pairs(work, "radgraph", case)
    means = {}
    for level in LEVELS:
        metric = RadGraphF1(level)
        features = {metric.needs(CONTEXT)[0]: Sides(*sides)}
        rewards = metric.statistics(pairs, features, CONTEXT).rows[:, 0, 3]
        assert rewards[same].tolist() == np.array(told[level])[same].tolist()
        means[level] = round(float(rewards.mean()), 6)
    tell(pairs=len(same), compared=sum(same), **means)
    assert case[1] == "fp32" or all(same)
    assert sum(same) > 0.95 * len(same)


def test_neighbours_and_order_change_nothing(given, annotator, ours, theirs, case, tell):
    chosen = random.Random(2).sample(range(len(given.all)), 100) + list(range(len(given.all) - 8, len(given.all)))
    lines = [{**theirs[i], "annotation": ours[i]} for i in chosen]
    exceptions = []
    for budget in (1, 1_500):
        again = annotator.annotate([given.all[i] for i in chosen], budget=budget)
        exceptions += all_differences(again, lines, chosen, case[1])
    tell(texts=len(chosen), orders=2, different=len(exceptions), exceptions=exceptions)
