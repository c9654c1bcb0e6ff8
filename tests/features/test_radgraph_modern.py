"""RadGraph with ModernBERT: rows without marks, word by word what the package radgraph 0.1.18 makes of them."""

import json
from pathlib import Path

import pytest

from cxrbench.features.radgraph_net import load
from cxrbench.features.radgraph_rows import states_of_pieces
from tools.record_modern_radgraph import archive, texts

GOLDEN = Path(__file__).with_name("golden_radgraph_modern.json")


@pytest.fixture(scope="module")
def annotator(tmp_path_factory):
    place, encoder = archive(tmp_path_factory.mktemp("modern"))
    return load(place, encoder)


def test_every_entity_and_relation_is_the_packages(annotator):
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))["entities"]
    found = annotator.annotate(texts())
    assert [each["entities"] for each in found] == expected
    assert sum(map(len, expected)) > 400
    assert any(each["relations"] for report in expected for each in report.values())
    for text, each in zip(texts(), expected, strict=True):
        assert annotator.annotate([text], budget=1)[0]["entities"] == each


def test_with_marks_it_would_say_something_else(annotator):
    assert not annotator.marked
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))["entities"]
    annotator.marked = True
    try:
        found = annotator.annotate(texts())
    finally:
        annotator.marked = False
    assert [each["entities"] for each in found] != expected


@pytest.mark.parametrize("pieces", [1, 2, 7, 8, 9, 10, 15, 16, 17, 40])
def test_every_state_stands_for_one_piece_at_most(pieces):
    states = [each for each in states_of_pieces(pieces, 8) if each is not None]
    assert states == sorted(set(states))
    assert all(0 <= each < pieces for each in states)
