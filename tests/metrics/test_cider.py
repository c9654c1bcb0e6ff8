"""CIDEr against pycocoevalcap, and what its context keeps."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import assume, given
from scored_texts import LONG, PAIRS, as_coco, few, report_pairs, rows_of, score

from cxrbench.metrics import cider
from cxrbench.metrics.base import Context, Corpus
from cxrbench.metrics.cider import Cider


def assert_equals_pycocoevalcap(pairs):
    reference = pytest.importorskip("pycocoevalcap.cider.cider")
    corpus, each = reference.Cider().compute_score(*as_coco(pairs))
    whole, single = score(Cider("raw"), pairs)
    assert single["cider"] == pytest.approx(each, rel=1e-10, abs=1e-12)
    assert whole["cider"] == pytest.approx(corpus, rel=1e-10, abs=1e-12)


def test_invented_reports_equal_pycocoevalcap():
    assert_equals_pycocoevalcap([*PAIRS, LONG])


@few
@given(report_pairs)
def test_any_reports_equal_pycocoevalcap(pairs):
    assume(any(reference.split() for _, reference in pairs))  # with none pycocoevalcap raises, see below
    assert_equals_pycocoevalcap(pairs)


def test_references_without_words_score_0():
    assert score(Cider("raw"), [("a b", ""), ("", " ")])[1]["cider"].tolist() == [0, 0]


def test_a_single_document_has_no_weights():
    assert score(Cider("raw"), [("the heart", "the heart")])[0]["cider"] == 0


def test_by_hand():
    # two documents, "b" in both: idf(a) = idf(c) = log 2, idf(b) = 0; unigrams: cos = 1; bigrams "a b" alike: cos = 1;
    # the others have no n-grams: 0. Mean of four, times 10
    whole, single = score(Cider("raw"), [("a b", "a b"), ("c", "c b")])
    assert single["cider"][0] == pytest.approx(10 * 2 / 4)
    # prediction "c": unigram cosine 1, no bigram; bigram lengths 0 and 1: exp(-1/72)
    assert single["cider"][1] == pytest.approx(10 / 4 * np.exp(-1 / 72))
    assert whole["cider"] == pytest.approx(single["cider"].mean())


def test_a_subset_keeps_the_weights_of_the_full_reference_set():
    metric, references = Cider("raw"), [reference for _, reference in PAIRS]
    full, _ = rows_of(metric, PAIRS)
    part, _ = rows_of(metric, PAIRS[2:9], Corpus(references))
    alone, _ = rows_of(metric, PAIRS[2:9])
    assert np.array_equal(part, full[2:9])
    assert not np.allclose(alone, part)


@few
@given(report_pairs)
def test_bounds_order_and_chunks(pairs):
    metric, corpus = Cider("raw"), Corpus([reference for _, reference in pairs])
    rows, _ = rows_of(metric, pairs, corpus)
    assert rows[:, 1].min() >= 0
    assert rows[:, 1].max() <= 10 + 1e-9
    assert np.allclose(rows_of(metric, pairs, corpus, chunk=2)[0], rows, rtol=1e-13)
    assert np.allclose(rows_of(metric, pairs[::-1], corpus)[0][::-1], rows, rtol=1e-13)


def test_fitting_in_chunks_gives_the_same_context(monkeypatch):
    references = [reference for _, reference in PAIRS] * 3
    whole = Cider("raw").fit(Corpus(references))
    monkeypatch.setattr(cider, "CHUNK", 4)
    assert Cider("raw").fit(Corpus(references)) == whole
    assert Cider("raw").fit(Corpus(references[::-1])) == whole


def test_frequencies_on_disk_give_the_same_numbers_to_the_last_bit(monkeypatch):
    corpus = Corpus([reference for _, reference in PAIRS] * 3)
    rows, inline = rows_of(Cider("raw"), PAIRS, corpus)
    monkeypatch.setattr(cider, "INLINE", 10)
    same, on_disk = rows_of(Cider("raw"), PAIRS, corpus)
    assert np.array_equal(same, rows)
    assert inline.counts is None
    assert (len(on_disk.counts) > 10, on_disk.data) == (True, {"documents": len(corpus.references)})


def test_frequencies_on_disk_decide_the_signature(monkeypatch):
    monkeypatch.setattr(cider, "INLINE", 10)
    references = [reference for _, reference in PAIRS] * 3
    fitted = Cider("raw").fit(Corpus(references))
    assert fitted == Cider("raw").fit(Corpus(references[::-1]))
    assert fitted.hash != Cider("raw").fit(Corpus([*references[1:], references[-1]])).hash  # as many documents


def test_the_context_is_small_json_and_changes_the_signature():
    metric = Cider("raw")
    once = metric.fit(Corpus([f"word{i} only here" for i in range(1000)]))
    assert json.loads(json.dumps(once.data)) == once.data
    assert len(json.dumps(once.data)) < 200  # n-grams of a single document need no place
    assert metric.signature(once, "none") != metric.signature(metric.fit(Corpus(["only here"])), "none")


def test_frequencies_of_any_size_come_back():
    # "the" in 700 of 1,000 documents, "heart" in 254, "is" in 255: one byte, its last value, more than a byte
    references = [
        " ".join(["the"] * (i < 700) + ["heart"] * (i % 1000 >= 746) + ["is"] * (i < 255)) for i in range(1000)
    ]
    _, single = score(Cider("raw"), [("the", "the"), ("the is x", "the is"), ("heart", "heart")], Corpus(references))
    the, is_ = np.log(1000 / 700), np.log(1000 / 255)
    unknown = np.log(1000)
    cosine = np.hypot(the, is_) / np.sqrt(the**2 + is_**2 + unknown**2)
    bigrams = np.log(1000 / 255) ** 2 / (np.hypot(np.log(1000 / 255), unknown) * np.log(1000 / 255))
    assert single["cider"] == pytest.approx(np.array([2.5, 2.5 * (cosine + bigrams) * np.exp(-1 / 72), 2.5]))


def test_the_context_of_other_references_has_another_hash():
    references = [reference for _, reference in PAIRS]
    fitted = Cider("raw").fit(Corpus(references))
    assert fitted == Context.of(fitted.data)
    assert fitted.hash != Cider("raw").fit(Corpus([*references, "one more"])).hash


def test_nothing_fitted_and_nothing_scored():
    rows, _ = rows_of(Cider("raw"), [])
    assert np.isnan(Cider("raw").value(rows.sum(axis=0))["cider"])
    assert score(Cider("raw"), [("a", "a")], Corpus([]))[0]["cider"] == 0
