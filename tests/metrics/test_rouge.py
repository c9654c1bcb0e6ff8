"""ROUGE-L against pycocoevalcap and the package rouge_score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from scored_texts import LONG, PAIRS, any_text, as_coco, few, report_pairs, rows_of, score

from cxrbench.metrics.rouge import RougeL


def assert_equals_pycocoevalcap(pairs):
    reference = pytest.importorskip("pycocoevalcap.rouge.rouge")
    corpus, each = reference.Rouge().compute_score(*as_coco(pairs))
    whole, single = score(RougeL("raw"), pairs)
    assert single["rouge_l"] == pytest.approx(each, rel=1e-12, abs=0)
    assert whole["rouge_l"] == pytest.approx(corpus, rel=1e-12, abs=0)


def test_invented_reports_equal_pycocoevalcap():
    assert_equals_pycocoevalcap(PAIRS)


@few
@given(report_pairs)
def test_any_reports_equal_pycocoevalcap(pairs):
    assert_equals_pycocoevalcap(pairs)


@few
@given(any_text, any_text)
def test_any_texts_equal_pycocoevalcap(prediction, reference):
    assert_equals_pycocoevalcap([(prediction, reference), (reference.replace("a", "  "), reference)])


def test_by_hand():
    # common subsequence "the is large" of 4 and 5 words: P 3/4, R 3/5, F = 2.44 P R / (R + 1.44 P)
    _, single = score(RougeL("raw"), [("the heart is large", "the left lung is large")])
    assert single["rouge_l"][0] == pytest.approx(2.44 * 0.75 * 0.6 / (0.6 + 1.44 * 0.75), rel=1e-12)


def test_five_thousand_words():
    _, single = score(RougeL("raw"), [LONG, (LONG[0], LONG[0])])
    assert 0 < single["rouge_l"][0] < 1
    assert single["rouge_l"][1] == pytest.approx(1)


def assert_equals_rouge_score(pairs, preset):
    scorers = pytest.importorskip("rouge_score.rouge_scorer")
    theirs = scorers.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=preset == "radeval")
    whole, single = score(RougeL(preset), pairs)
    expected = [theirs.score(target=reference, prediction=prediction) for prediction, reference in pairs]
    for name, theirs_name in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        values = np.array([each[theirs_name].fmeasure for each in expected])
        assert single[name] == pytest.approx(values, rel=1e-12, abs=0)
        assert whole[name] == pytest.approx(values.mean(), rel=1e-12, abs=0)


@pytest.mark.parametrize("preset", ["rouge-score", "radeval"])
def test_invented_reports_equal_rouge_score(preset):
    assert_equals_rouge_score(PAIRS, preset)


@pytest.mark.parametrize("preset", ["rouge-score", "radeval"])
@few
@given(report_pairs)
def test_any_reports_equal_rouge_score(preset, pairs):
    assert_equals_rouge_score(pairs, preset)


@few
@given(any_text, any_text)
def test_any_texts_equal_rouge_score(prediction, reference):
    assert_equals_rouge_score([(prediction, reference)], "rouge-score")


def test_only_the_rouge_score_presets_publish_rouge_1_and_2():
    assert set(RougeL("raw").values) == {"rouge_l"}
    assert set(RougeL("radeval").values) == {"rouge_l", "rouge_1", "rouge_2"}
    for preset in ("raw", "rouge-score"):
        assert set(score(RougeL(preset), PAIRS)[0]) == set(RougeL(preset).values)


@pytest.mark.parametrize("preset", ["raw", "rouge-score"])
@few
@given(report_pairs)
def test_between_0_and_1_and_no_matter_in_what_order_or_chunks(preset, pairs):
    metric = RougeL(preset)
    rows, _ = rows_of(metric, pairs)
    assert rows.min() >= 0
    assert rows.max() <= 1 + 1e-12
    assert np.array_equal(rows_of(metric, pairs, chunk=2)[0], rows)
    assert np.array_equal(rows_of(metric, pairs[::-1])[0][::-1], rows)


def test_a_copy_of_the_references_scores_1():
    assert score(RougeL("raw"), [(r, r) for _, r in PAIRS])[0]["rouge_l"] == pytest.approx(1)


def test_nothing_scored_is_not_a_number():
    rows, _ = rows_of(RougeL("raw"), [])
    assert np.isnan(RougeL("raw").value(rows.sum(axis=0))["rouge_l"])
