"""Strict decoding and the named normalisations."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cxrbench.data.text import NORMALISATIONS, decode, iu_v1, normalise, whitespace_v1
from cxrbench.errors import CxrbenchError

prose = st.text(alphabet=st.sampled_from("abXx .,;:/-()<>\"'!?1\n\t"), max_size=60)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # x-XXXX is the one mark whose word is known
        ("Normal chest x-XXXX.", "Normal chest x-ray."),
        ("X-XXXX, two views", "X-ray, two views"),
        ("two x-XXXXs", "two x-rays"),
        # alone, with punctuation, in runs
        ("XXXX", ""),
        ("XXXX, XXXX.", ""),
        ("There are no XXXX of a pleural effusion.", "There are no of a pleural effusion."),
        ("Inferior XXXX XXXX XXXX.", "Inferior."),
        ("No effusion, XXXX.", "No effusion."),
        ("In comparison to XXXX, the heart", "In comparison to, the heart"),
        ("XXXX, the heart", "the heart"),
        ("Clear. XXXX. Normal heart", "Clear. Normal heart"),
        ("the XXXX. XXXX heart", "the. heart"),
        ("clear XXXX; bones", "clear; bones"),
        ("clear lungs, XXXX", "clear lungs"),
        ("ended XXXX.. Next", "ended. Next"),
        ("ComparisXXXXXXXX", "Comparis"),
        # inside words and chains
        ("XXXX-year-old male", "year-old male"),
        ("non-XXXX, no hx", "non, no hx"),
        ("XXXX/XXXX/weakness/lp", "weakness/lp"),
        ("dyspnea/XXXX/cough", "dyspnea/cough"),
        ("pneumonia/XXXX.", "pneumonia."),
        ("XXXX-A-XXXX", "A"),
        ("XXXX's heart", "heart"),
        ("5XXXXth rib", "5th rib"),
        # brackets
        ("port (XXXX) in place", "port in place"),
        ("(old XXXX).", "(old)."),
        ("(XXXX view)", "(view)"),
        # fewer than four capitals are no mark
        ("XXX cm, xxxx", "XXX cm, xxxx"),
    ],
)
def test_iu_mark(text, expected):
    assert iu_v1(text) == expected


@given(prose)
@example("ab(XXXX)XXX")
@example("XX(XXXX)XX")
@example("XX-XXXX-XX")
def test_iu_leaves_no_mark_and_is_done_in_one_pass(text):
    out = iu_v1(text)
    assert "XXXX" not in out
    assert iu_v1(out) == out
    assert whitespace_v1(out) == out


@given(prose.filter(lambda text: "XXXX" not in text))
def test_iu_touches_nothing_but_marks(text):
    assert iu_v1(text) == whitespace_v1(text)


@given(st.text())
def test_whitespace_changes_blanks_only(text):
    out = whitespace_v1(text)
    assert out.split() == text.split()
    assert out == out.strip()
    assert whitespace_v1(out) == out


@given(st.text())
def test_none_is_the_text_itself(text):
    assert normalise("none", text) == text


def test_a_name_finds_its_function():
    text = " a\n x-XXXX "
    assert {name: normalise(name, text) for name in NORMALISATIONS} == {
        "none": text,
        "whitespace:v1": "a x-XXXX",
        "iu:v1": "a x-ray",
    }


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(CxrbenchError, match=r"whitespace:v2.*did you mean 'whitespace:v1'"):
        normalise("whitespace:v2", "x")


@given(st.text(alphabet=st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"])))
def test_decode_is_exact(text):
    assert decode(text.encode(), "f") == text


@pytest.mark.parametrize(
    ("data", "where", "what"),
    [
        (b"\xef\xbb\xbfuid", "byte 0", "byte order mark"),
        (b"heart\0", "byte 5", "NUL"),
        ("cœur normal".encode("latin-1", "replace") + b"\xe9", "byte 11", "0xe9"),
        ("uid,a\n".encode("utf-16-le"), "byte 1", "NUL"),
    ],
)
def test_decode_names_file_and_byte_and_shows_no_text(data, where, what):
    with pytest.raises(CxrbenchError) as caught:
        decode(data, "dir/report.txt")
    assert caught.value.where == f"dir/report.txt, {where}"
    assert what in caught.value.what
    assert "normal" not in str(caught.value)
