"""From predictions to statistics: rows in = rows out, failures named, chunks and reuse change nothing."""

import numpy as np
import pytest

import cxrbench.scoring as scoring
from cxrbench.errors import CxrbenchError
from cxrbench.metrics.base import SCORED, SKIPPED, Corpus, Metric, Statistics, Value
from cxrbench.scoring import choose, score, texts_hash
from cxrbench.summary import Confidence, incomplete, summarise
from cxrbench.types import Prediction, Sample

WORDS = ["the", "lungs", "are", "clear", "no", "effusion", "heart", "size", "normal", "small", "left", "edema"]


def world(n=30, seed=0):
    rng = np.random.default_rng(seed)

    def text():
        return " ".join(rng.choice(WORDS, rng.integers(3, 12)))

    samples = [Sample(f"s{i}", f"s{i}", f"p{i // 3}", text(), subgroups={"sex": "FM"[i % 2]}) for i in range(n)]
    predictions = {s.sample_id: Prediction(s.sample_id, "ok", text(), "stop") for s in samples}
    return samples, predictions


def scored(samples, predictions, names=("bleu:raw", "rouge-l:raw", "cider:raw", "length", "distinct")):
    corpus = Corpus([s.target for s in samples])
    return score(samples, predictions, choose(names, (), ()), corpus, "none")


def test_failures_and_missing_answers_are_skipped_with_their_reason_and_empties_are_scored():
    samples, predictions = world()
    predictions["s1"] = Prediction("s1", "broken_image")
    predictions["s2"] = Prediction("s2", "empty", "")
    del predictions["s3"]
    for each in scored(samples, predictions):
        statistics = each.statistics
        assert len(statistics.rows) == len(samples)
        assert statistics.status[1, 0] == statistics.status[3, 0] == SKIPPED
        assert statistics.status[2, 0] == SCORED
        assert statistics.reasons[1].startswith("broken_image: ")
        assert statistics.reasons[3] == "not answered yet"
        assert not statistics.rows[[1, 3]].any()
        assert each.n == 28


def test_chunks_change_nothing(monkeypatch):
    samples, predictions = world(50)
    predictions["s7"] = Prediction("s7", "nan_logits")
    whole = scored(samples, predictions)
    monkeypatch.setattr(scoring, "CHUNK", 7)
    pieces = scored(samples, predictions)
    for one, two in zip(whole, pieces, strict=True):
        assert np.array_equal(one.statistics.rows, two.statistics.rows), one.metric.key
        assert one.statistics.reasons == two.statistics.reasons
        assert one.signature == two.signature


def test_nothing_to_score_is_no_crash():
    samples, predictions = world(4)
    failed = {key: Prediction(key, "engine_error") for key in predictions}
    results = scored(samples, failed)
    assert all(each.n == 0 for each in results)
    summary = summarise(samples, failed, results, access="open", confidence=Confidence(replicates=100))
    assert summary["n"] == 0
    assert summary["outcomes"] == {"engine_error": 4}
    assert all(entry["ci"] is None for values in summary["metrics"].values() for entry in values.values())


def test_a_metric_that_loses_a_row_is_caught():
    class Lossy(Metric):
        name = "lossy"
        presets = {"x": "x"}
        default_preset = "x"
        values = {"v": Value(True, (0, 1))}

        def statistics(self, pairs, features, context):
            return Statistics.scored(np.ones((len(pairs) - 1, 2)))

    samples, predictions = world(5)
    with pytest.raises(CxrbenchError, match="5 pairs went in, 4 rows came out"):
        score(samples, predictions, [scoring.Chosen(Lossy(), True)], Corpus([]), "none")


def test_a_metric_named_twice_or_unknown_is_refused():
    with pytest.raises(CxrbenchError, match="bleu:raw is named twice"):
        choose(["bleu:raw", "bleu:raw"], (), ())
    with pytest.raises(CxrbenchError, match="did you mean 'raw'"):
        choose(["bleu:rw"], (), ())


def test_predictions_go_through_the_tasks_normalisation_as_references_did():
    samples = [Sample("a", "a", None, "clear lungs")]
    predictions = {"a": Prediction("a", "ok", "clear \n  lungs")}
    (result,) = score(samples, predictions, choose(["rouge-l:raw"], (), ()), Corpus(["clear lungs"]), "whitespace:v1")
    assert result.metric.value(result.rows().sum(axis=0))["rouge_l"] == pytest.approx(1.0)


def test_what_is_learnt_comes_from_the_full_reference_set_not_from_what_was_scored():
    samples, predictions = world(40)
    corpus = Corpus([s.target for s in samples])
    full = score(samples, predictions, choose(["cider:raw"], (), ()), corpus, "none")[0]
    half = score(samples[:20], predictions, choose(["cider:raw"], (), ()), corpus, "none")[0]
    assert full.signature == half.signature
    assert np.array_equal(full.statistics.rows[:20], half.statistics.rows)


def test_the_hash_of_texts_sees_every_change():
    samples, predictions = world(3)
    base = texts_hash(samples, predictions)
    changed = {**predictions, "s1": Prediction("s1", "ok", "other", "stop")}
    failed = {**predictions, "s1": Prediction("s1", "empty", predictions["s1"].text, "stop")}
    assert (
        len({base, texts_hash(samples, changed), texts_hash(samples, failed), texts_hash(samples[:2], predictions)})
        == 4
    )


def test_the_summary_counts_slices_and_patients_and_says_what_is_missing():
    samples, predictions = world(30)
    predictions["s0"] = Prediction("s0", "ok", "cut", "length")
    results = scored(samples, predictions)
    summary = summarise(
        samples,
        predictions,
        results,
        access="open",
        slices=["sex"],
        confidence=Confidence(replicates=200),
    )
    assert summary["clusters"] == 10
    assert summary["cluster_unit"] == "patient"
    assert summary["truncated_share"] == pytest.approx(1 / 30)
    assert [summary["slices"]["sex"][group]["n"] for group in "FM"] == [15, 15]
    assert summary["metrics"]["distinct:exact"]["distinct"]["ci"] is None
    low, high = summary["metrics"]["bleu:raw"]["bleu_1"]["ci"]
    assert low < summary["metrics"]["bleu:raw"]["bleu_1"]["value"] < high
    assert incomplete(summary) == []
    del predictions["s5"]
    again = summarise(samples, predictions, results, access="open", confidence=Confidence(replicates=0))
    assert incomplete(again) == ["1 of 30 samples are not answered yet"]
