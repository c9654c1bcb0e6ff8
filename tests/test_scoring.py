"""From predictions to statistics: rows in = rows out, failures named, chunks and reuse change nothing."""

import numpy as np
import pytest

import cxrbench.scoring as scoring
from cxrbench.errors import CxrbenchError
from cxrbench.metrics import base
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


class Turning(Metric):
    """Whole numbers in the first chunks; of the last sample none."""

    name, presets, default_preset, values = "turning", {"a": ""}, "a", {"mean": Value(True, (0.0, None))}
    last = 0.0

    def statistics(self, pairs, features, context):
        rows = np.array([[1.0, len(text) % 256] for text in pairs.predictions]).reshape(len(pairs), 2)
        rows[[name == "s29" for name in pairs.sample_ids], 1] += self.last
        return Statistics.scored(rows)

    def value(self, sums):
        return {"mean": sums[..., 1] / sums[..., 0]}


@pytest.mark.parametrize(
    ("last", "kept"), [(0.0, np.uint8), (0.5, np.float64), (-300.0, np.float64), (1e9, np.float64)]
)
def test_whole_numbers_in_bytes_come_to_the_same(monkeypatch, last, kept):
    samples, predictions = world(30)
    predictions["s7"] = Prediction("s7", "nan_logits")
    metric = Turning()
    metric.last = last

    def both(large):
        monkeypatch.setattr(base, "LARGE", large)
        monkeypatch.setattr(scoring, "CHUNK", 8)
        names = ("bleu:raw", "length", "distinct")
        chosen = [*choose(names, (), ()), scoring.Chosen(metric, True)]
        found = score(samples, predictions, chosen, Corpus([s.target for s in samples]), "none")
        summary = summarise(
            samples, predictions, found, access="open", slices=["sex"], confidence=Confidence(replicates=150)
        )
        return found, summary

    (plain, expected), (small, summary) = both(1 << 30), both(0)
    assert summary == expected
    assert small[-1].statistics.rows.dtype == kept
    for one, two in zip(plain, small, strict=True):
        assert one.statistics.rows.dtype == two.rows().dtype == np.float64
        assert np.array_equal(one.rows(), two.rows())
        assert np.array_equal(one.statistics.status, two.statistics.status)


def test_bytes_are_stored_as_the_numbers_they_are(monkeypatch, tmp_path):
    from cxrbench.tables import Scores, read_scores, write_scores

    monkeypatch.setattr(base, "LARGE", 0)
    (found,) = scored(*world(30), names=("length",))
    assert found.statistics.rows.dtype == np.uint8
    write_scores(tmp_path / "a.parquet", Scores(found.sample_ids, found.statistics, {"signature": "s"}))
    for large, kept in ((0, np.uint8), (1 << 30, np.float64)):
        monkeypatch.setattr(base, "LARGE", large)
        back = read_scores(tmp_path / "a.parquet").statistics.rows
        assert back.dtype == kept
        assert np.array_equal(back, found.statistics.rows)


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
