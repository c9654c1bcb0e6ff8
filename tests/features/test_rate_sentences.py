"""Sentences for RaTEScore: those of medspaCy with PyRuSH's rules, as recorded by tools/record_ratescore.py."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrbench.data.phantom import studies
from cxrbench.features.rate_sentences import SHORTEST, sentences

CASES = json.loads((Path(__file__).parent / "golden_ratescore.json").read_text())["sentences"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["text"][:30].encode("unicode_escape").decode())
def test_they_are_those_of_the_package(case):
    assert sentences(case["text"]) == case["sentences"]


def test_the_recorded_reports_are_cut_at_all_and_not_everywhere():
    assert sum(len(case["sentences"]) > 2 for case in CASES) > 20
    assert sum(not case["sentences"] for case in CASES) == 4


def test_phantom_reports_are_cut_at_full_stops():
    for study in studies("test", 20):
        text = study.sections["findings"]
        assert [f"{each.rstrip('.')}." for each in text.split(". ")] == sentences(text)


PIECES = st.one_of(
    st.sampled_from(["No effusion.", "1.", "2)", "- ", "\n", "\n\n", " ", ". ", "3 cm", "Dr. ", ":", "FINDINGS:", "?"]),
    st.text(string.ascii_letters + " .\n", max_size=8),
    st.text(max_size=4),
)


@given(st.lists(PIECES, max_size=12).map("".join))
def test_whatever_the_text_they_are_stretches_of_it_in_order(text):
    at = 0
    for sentence in sentences(text):
        assert sentence == sentence.strip()
        assert len(sentence) >= SHORTEST
        at = text.index(sentence, at) + len(sentence)


@pytest.mark.parametrize("text", ["\n" * 20_000, " " * 20_000 + "a", "(" * 20_000, "a\n" * 5_000, "a" * 20_000])
def test_no_text_takes_for_ever(text):
    assert len(sentences(text)) <= 5_000


def test_a_long_text_takes_no_time_to_speak_of():
    text = "The heart is mildly enlarged, 1.5 cm more than before. " * 400
    assert len(sentences(text)) == 400
