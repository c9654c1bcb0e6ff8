"""BLEU against pycocoevalcap and sacrebleu, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from scored_texts import LONG, PAIRS, any_text, as_coco, few, report_pairs, rows_of, score

from cxrbench.errors import CxrbenchError
from cxrbench.metrics.base import Corpus
from cxrbench.metrics.bleu import Bleu

NAMES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")


def assert_equals_pycocoevalcap(pairs):
    reference = pytest.importorskip("pycocoevalcap.bleu.bleu")
    corpus, each = reference.Bleu(4).compute_score(*as_coco(pairs), verbose=0)
    whole, single = score(Bleu("raw"), pairs)
    for k, name in enumerate(NAMES):
        assert whole[name] == pytest.approx(corpus[k], rel=1e-12, abs=1e-300)
        assert single[name] == pytest.approx(np.array(each[k]), rel=1e-12, abs=1e-300)


def test_invented_reports_equal_pycocoevalcap():
    assert_equals_pycocoevalcap([*PAIRS, LONG])


@few
@given(report_pairs)
def test_any_reports_equal_pycocoevalcap(pairs):
    assert_equals_pycocoevalcap(pairs)


def test_by_hand():
    # prediction "a b c d", reference "a b c e f": matches 3/4, 2/3, 1/2, 0/1; one word short: exp(1 - 5/4)
    whole, _ = score(Bleu("raw"), [("a b c d", "a b c e f")])
    short = math.exp(1 - 5 / 4)
    assert whole["bleu_1"] == pytest.approx(3 / 4 * short, rel=1e-8)
    assert whole["bleu_2"] == pytest.approx((3 / 4 * 2 / 3) ** (1 / 2) * short, rel=1e-8)
    assert whole["bleu_3"] == pytest.approx((3 / 4 * 2 / 3 * 1 / 2) ** (1 / 3) * short, rel=1e-8)
    assert whole["bleu_4"] == pytest.approx((1 / 4 * 1e-15) ** (1 / 4) * short, rel=1e-8)


def test_matches_are_clipped_by_the_reference():
    rows, _ = rows_of(Bleu("raw"), [("the the the the", "the heart the")])
    assert rows.tolist() == [[1, 4, 3, 2, 0, 0, 0, 4, 3, 2, 1]]


def test_case_counts_in_raw_and_radeval_is_raw():
    assert score(Bleu("raw"), [("Normal heart", "normal heart")])[0]["bleu_1"] == pytest.approx(0.5, rel=1e-8)
    assert np.array_equal(rows_of(Bleu("radeval"), PAIRS)[0], rows_of(Bleu("raw"), PAIRS)[0])


def assert_equals_sacrebleu(pairs):
    sacrebleu = pytest.importorskip("sacrebleu.metrics")
    whole, _ = score(Bleu("sacrebleu"), pairs)
    for order, name in enumerate(NAMES, start=1):
        theirs = sacrebleu.BLEU(max_ngram_order=order).corpus_score([p for p, _ in pairs], [[r for _, r in pairs]])
        assert whole[name] == pytest.approx(theirs.score / 100, rel=1e-12, abs=1e-300)


def test_invented_reports_equal_sacrebleu():
    assert_equals_sacrebleu([*PAIRS, LONG])
    for pair in PAIRS:
        assert_equals_sacrebleu([pair])


@few
@given(report_pairs)
def test_any_reports_equal_sacrebleu(pairs):
    assert_equals_sacrebleu(pairs)


@few
@given(any_text, any_text)
def test_any_texts_equal_sacrebleu(prediction, reference):
    assert_equals_sacrebleu([(prediction, reference)])


@pytest.mark.parametrize("preset", ["raw", "sacrebleu"])
@few
@given(report_pairs)
def test_between_0_and_1_and_no_matter_in_what_order_or_chunks(preset, pairs):
    metric = Bleu(preset)
    rows, _ = rows_of(metric, pairs)
    whole = metric.value(rows.sum(axis=0))
    assert all(0 <= whole[name] <= 1 + 1e-12 for name in NAMES)
    assert np.array_equal(rows_of(metric, pairs, chunk=2)[0], rows)
    assert np.array_equal(rows_of(metric, pairs[::-1])[0][::-1], rows)


@pytest.mark.parametrize("preset", ["raw", "sacrebleu"])
def test_a_copy_of_the_references_scores_1(preset):
    whole, _ = score(Bleu(preset), [(r, r) for _, r in PAIRS])
    assert all(whole[name] == pytest.approx(1, rel=1e-8) for name in NAMES)


def test_value_works_along_leading_axes():
    metric = Bleu("raw")
    rows, _ = rows_of(metric, PAIRS)
    stacked = metric.value(np.stack([rows, 2 * rows]))
    assert stacked["bleu_4"].shape == (2, len(PAIRS))
    assert np.array_equal(stacked["bleu_4"][0], metric.value(rows)["bleu_4"])


@pytest.mark.parametrize("preset", ["raw", "sacrebleu"])
def test_nothing_scored_is_not_a_number(preset):
    rows, _ = rows_of(Bleu(preset), [])
    assert rows.shape == (0, 11)
    assert np.isnan(Bleu(preset).value(rows.sum(axis=0))["bleu_4"])


def test_signature_names_what_moves_the_number():
    raw, r2gen = Bleu("raw"), Bleu("r2gen")
    assert raw.signature(raw.fit(Corpus(["a"])), "none") == (
        "bleu|preset:raw|tokens:whitespace|case:kept|smooth:tiny|txt:none|v:1"
    )
    some = r2gen.fit(Corpus(["a"], vocabulary=frozenset({"heart"})))
    other = r2gen.fit(Corpus(["a"], vocabulary=frozenset({"lung"})))
    assert f"|fit:{some.hash}|" in r2gen.signature(some, "none")
    assert r2gen.signature(some, "none") != r2gen.signature(other, "none")


def test_an_unknown_preset_is_an_error_that_lists_the_known():
    with pytest.raises(CxrbenchError, match="did you mean 'r2gen'"):
        Bleu("r2gne")


@pytest.mark.java
def test_coco_is_lower_case_without_punctuation():
    if (reason := Bleu("coco").ready()) is not None:
        pytest.skip(reason)
    whole, _ = score(Bleu("coco"), [("No effusion, or edema.", "no effusion or edema")])
    assert whole["bleu_4"] == pytest.approx(1, rel=1e-8)
