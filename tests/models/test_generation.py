"""Settings merge in one order, and what would be ignored or rejected late is refused early."""

from __future__ import annotations

import pytest

from cxrbench.errors import CxrbenchError
from cxrbench.models.generation import MATCHED, Preset, documented, pick, resolve
from cxrbench.types import Generation


def test_layers_defaults_task_preset_user():
    reference = Preset("reference", 1, "authors-eval", "x", {"max_new_tokens": 256, "no_repeat_ngram_size": 3})
    assert resolve({}, MATCHED, {}) == Generation()
    assert resolve({"max_new_tokens": 128}, MATCHED, {}).max_new_tokens == 128
    assert resolve({"max_new_tokens": 128}, reference, {}).max_new_tokens == 256
    assert resolve({"max_new_tokens": 128}, reference, {"max_new_tokens": "60"}).max_new_tokens == 60
    assert resolve({}, reference, {"max_new_tokens": "60"}).no_repeat_ngram_size == 3


def test_matched_undoes_what_a_task_would_change_in_the_search():
    assert resolve({"num_beams": 4}, MATCHED, {}).num_beams == 1


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"max_new_token": 3}, "did you mean 'max_new_tokens'"),
        ({"max_new_tokens": "many"}, "a whole number"),
        ({"max_new_tokens": 1.5}, "a whole number"),
        ({"max_new_tokens": True}, "a whole number"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": 1, "top_p": 0}, "top_p"),
        ({"top_p": 0.9}, "without sampling"),
        ({"temperature": 0.7, "num_beams": 3}, "cannot be combined"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"top_k": float("inf"), "temperature": 1}, "a whole number"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, word):
    with pytest.raises(CxrbenchError, match=word):
        resolve({}, MATCHED, settings)


def test_documented_takes_sampling_values_only_where_the_library_would_use_them():
    greedy = documented({"temperature": 0.2, "top_p": 0.6, "max_new_tokens": 99}, "x")
    assert resolve({}, greedy, {}) == Generation(max_new_tokens=99)
    sampled = documented({"do_sample": True, "temperature": 0.2, "top_p": 0.6}, "x")
    assert resolve({}, sampled, {}) == Generation(temperature=0.2, top_p=0.6, top_k=50)


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({"max_length": 200}, "max_length 200"),
        ({"max_length": 200, "max_new_tokens": 99}, ""),  # transformers takes max_new_tokens alone
        ({"max_length": 20, "length_penalty": 1.0, "min_p": None}, ""),
        ({"length_penalty": 2.0}, ""),  # nothing without beams
        ({"length_penalty": 2.0, "num_beams": 3, "early_stopping": True}, "length_penalty 2.0, early_stopping True"),
        ({"typical_p": 0.9, "do_sample": True, "min_new_tokens": 5}, "min_new_tokens 5, typical_p 0.9"),
        ({"typical_p": 0.9}, ""),
    ],
)
def test_documented_says_what_of_the_file_is_not_done(body, asked):
    told = documented(body, "x").unused
    assert (f"asks for {asked}, which cxrbench does not do" in told) if asked else told == ""
    assert ("--set max_new_tokens=N" in told) == (asked == "max_length 200")


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(CxrbenchError) as error:
        pick({"matched": MATCHED}, "mached", "hf:x")
    assert "did you mean 'matched'" in str(error.value)
