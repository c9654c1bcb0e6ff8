"""ReXrank's context string in the forms it is known to have; invented text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrbench.data.rexrank_context import Context, ContextError, read_context


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Age:60-70.Gender:F.Indication: ___-year-old female with cough.Comparison: Last May.",
            Context("___-year-old female with cough.", "Last May.", "F", None, "60-70"),
        ),
        ("Age:60-70.Gender:F.Indication: ___F with cough", Context("___F with cough", "", "F", None, "60-70")),
        ("Age:60-70.\nGender:M.\nIndication: a b\nComparison: c", Context("a b", "c", "M", None, "60-70")),
        ("<context>Age:60-70.Gender:F.Indication: Cough.</context>", Context("Cough.", "", "F", None, "60-70")),
        ("Age:72.Gender:Male.Indication:Cough.", Context("Cough.", "", "M", 72.0)),
        ("Age:>89.Gender:nan.Indication:nan.Comparison:nan", Context(age_range=">89")),
        ("Age:nan.Gender:F.Comparison:None.", Context("", "None.", "F")),
        ("Indication:nanComparison: None.", Context("", "None.")),
        ("Indication: Cough Comparison: None.", Context("Cough", "None.")),
        ("Indication: CoughComparison: None.", Context("Cough", "None.")),
        ("Indication: Age: 60, fall. Gender: see chart.", Context("Age: 60, fall. Gender: see chart.")),
        (" Comparison: None", Context("", "None")),
        ("Indication: nanny with cough", Context("nanny with cough")),
        ("", Context()),
        (" \n", Context()),
    ],
)
def test_forms(text: str, expected: Context) -> None:
    assert read_context(text) == expected


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Cough for two weeks", "begins with none of"),
        ("indication: cough", "begins with none of"),
        ("History: cough. Indication: more", "begins with none of"),
        ("Age:old lady.Gender:F", "an age that"),
        ("Age:-.Gender:F", "an age that"),
        ("Age:٦٠.Gender:F", "an age that"),
        ("Age:60.Gender:F.History: cough", "a gender that"),
    ],
)
def test_another_form_is_refused_without_a_word_of_it(text: str, what: str) -> None:
    with pytest.raises(ContextError, match=what) as caught:
        read_context(text)
    assert "ough" not in str(caught.value)


words = st.text(st.sampled_from("ab .,-_\n:"), min_size=1).filter(str.strip)


@given(words, words, st.sampled_from(["", " ", ".", "\n"]))
def test_no_text_is_lost_whatever_stands_between_the_fields(indication: str, comparison: str, between: str) -> None:
    found = read_context(f"Age:60-70.Gender:F.Indication:{indication}{between}Comparison:{comparison}")
    assert found.indication == (indication + between).strip()
    assert found.comparison == comparison.strip()
