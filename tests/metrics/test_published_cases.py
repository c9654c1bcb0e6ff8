"""Published n-gram scores of published predictions, from the openly licensed data beside the checkout."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scored_texts import score

from cxrbench.metrics import conventions, r2gen
from cxrbench.metrics.base import Corpus
from cxrbench.metrics.bleu import Bleu
from cxrbench.metrics.cider import Cider
from cxrbench.metrics.distinct import hash_texts
from cxrbench.metrics.rouge import RougeL

pytestmark = pytest.mark.real_data

NAMES = {
    "Bleu_1": "bleu_1",
    "Bleu_2": "bleu_2",
    "Bleu_3": "bleu_3",
    "Bleu_4": "bleu_4",
    "ROUGE_L": "rouge_l",
    "CIDEr": "cider",
}


@pytest.fixture
def case(real_data):
    return lambda name: json.loads((real_data / "metric_cases" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name", ["iu_template_382", "iu_qwen_beam3_382", "iu_logp_select_382", "iu_sentence_fusion_382"]
)
def test_published_scores_on_raw_texts(case, name):
    data = case(name)
    pairs = [(data["hypotheses"][key], reference) for key, reference in data["references"].items()]
    found = {k: v for metric in (Bleu, RougeL, Cider) for k, v in score(metric("raw"), pairs)[0].items()}
    published = data["expected"]["corpus"]
    assert published
    assert {key: found[NAMES[key]] for key in published} == pytest.approx(published, abs=1e-12)


def test_the_published_cvt2distilgpt2_table_from_its_raw_predictions(case):
    data = case("iu_cvt2distilgpt2_r2gen_test_590")
    keys = list(data["references_raw"])
    pairs = [(data["hypotheses_raw"][key], data["references_raw"][key]) for key in keys]
    vocabulary = frozenset(data["train_vocabulary_min_count_3"])
    predictions, references = conventions.process("r2gen", [p for p, _ in pairs], [r for _, r in pairs], vocabulary)
    assert predictions == [data["hypotheses_processed"][key] for key in keys]
    assert references == [data["references_processed"][key] for key in keys]

    corpus = Corpus([reference for _, reference in pairs], vocabulary=vocabulary, dataset="iu-xray")
    found = {k: v for metric in (Bleu, RougeL, Cider) for k, v in score(metric("r2gen"), pairs, corpus)[0].items()}
    published = data["expected"]["corpus"]
    for key in ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4"):
        assert found[NAMES[key]] == pytest.approx(published[key], abs=1e-7)
    for key in ("ROUGE_L", "CIDEr"):
        assert found[NAMES[key]] == pytest.approx(published[key], abs=1e-12)
    assert len(set(hash_texts([p for p, _ in pairs]))) == 4  # the whole system writes four reports


def test_an_oracle_that_writes_the_published_references_is_perfect(case):
    # R2Gen scores decoded tokens on both sides: 111 of these references hold <unk>, 25 are cut off within a sentence
    data = case("iu_cvt2distilgpt2_r2gen_test_590")
    vocabulary = frozenset(data["train_vocabulary_min_count_3"])
    pairs = [(data["references_processed"][key], reference) for key, reference in data["references_raw"].items()]
    assert sum("<unk>" in prediction for prediction, _ in pairs) == 111
    assert sum(not prediction.endswith(".") for prediction, _ in pairs) == 25
    corpus = Corpus([reference for _, reference in pairs], vocabulary=vocabulary, dataset="iu-xray")
    for metric, per_report in ((Bleu, False), (RougeL, True)):
        whole, single = score(metric("r2gen"), pairs, corpus)
        assert whole == pytest.approx(dict.fromkeys(whole, 1.0), abs=1e-8)  # pycocoevalcap's constants are 1e-9
        assert not per_report or set(single["rouge_l"]) == {1.0}
    cider, _ = score(Cider("r2gen"), pairs, corpus)
    assert cider["cider"] == pytest.approx(10.0, abs=1e-12)
    published = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    processed = {key: [text] for key, text in data["references_processed"].items()}
    assert cider["cider"] == pytest.approx(published.compute_score(processed, processed)[0], abs=1e-12)


def test_the_same_predictions_without_cut_and_unk(case):
    data = case("iu_cvt2distilgpt2_r2gen_test_590")
    pairs = [
        (r2gen.clean(data["hypotheses_raw"][key], "iu"), r2gen.clean(reference, "iu"))
        for key, reference in data["references_raw"].items()
    ]
    found = {k: v for metric in (Bleu, RougeL, Cider) for k, v in score(metric("raw"), pairs)[0].items()}
    published = data["same_pairs_without_cut_and_unk"]
    assert {key: found[NAMES[key]] for key in published} == pytest.approx(published, abs=1e-12)


def test_cleaned_iu_reports(case):
    pairs = case("r2gen_iu_cleaner")["pairs"]
    assert len(pairs) == 24
    assert [r2gen.clean(pair["report"], "iu") for pair in pairs] == [pair["cleaned"] for pair in pairs]


def test_words_of_the_training_reports_are_in_the_published_vocabulary(case, real_data):
    train = json.loads((real_data / "iu_xray" / "r2gen" / "annotation.json").read_text(encoding="utf-8"))["train"]
    found = r2gen.vocabulary([study["report"] for study in train], "iu", 3)
    published = set(case("iu_cvt2distilgpt2_r2gen_test_590")["train_vocabulary_min_count_3"])
    assert found <= published  # 1,899 of the 2,069 reports are here, so some words fall below three occurrences
    assert len(found) > 0.9 * len(published)


def test_radeval_bleu_per_pair(case):
    data = case("radeval_divergence")["pairs"]
    _, single = score(Bleu("radeval"), [(pair["hyp"], pair["ref"]) for pair in data])
    published = np.array([pair["scores"]["bleu"] for pair in data])
    assert single["bleu_4"] == pytest.approx(published, rel=1e-12, abs=0)


def test_radeval_bleu_and_rouge(case):
    data = case("radeval_small_lexical")
    pairs = [(pair["hyp"], pair["ref"]) for pair in data["pairs"]]
    assert score(Bleu("radeval"), pairs)[1]["bleu_4"] == pytest.approx([pair["bleu4"] for pair in data["pairs"]])
    two = data["corpus_of_two"]
    whole, _ = score(Bleu("radeval"), list(zip(two["hyps"], two["refs"], strict=True)))
    assert whole["bleu_4"] == pytest.approx(two["expected"]["bleu"], rel=1e-12)
    if (reason := RougeL("radeval").ready()) is not None:
        pytest.skip(reason)
    _, rouge = score(RougeL("radeval"), pairs)
    for ours, theirs in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        assert rouge[ours] == pytest.approx([pair[theirs] for pair in data["pairs"]], rel=1e-12)
