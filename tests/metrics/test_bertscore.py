"""BERTScore as a metric: means with and without rescaling, presets bound to their data, an interval from a run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrbench.config import cache_dir
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.weights import choose
from cxrbench.metrics import bertscore
from cxrbench.metrics.base import Context, Corpus, Pairs, comparable
from cxrbench.metrics.bertscore import ALIASES, CONVENTIONS, BertScore
from tests import commands
from tests.commands import metrics, small_run
from tests.metrics.scored_texts import PAIRS, rows_of
from tools.tiny_encoders import make

cli = commands.cli
GOLDEN = json.loads((Path(__file__).parents[1] / "features/golden_bertscore.json").read_text())
TINY = BertScore("tiny")
REFERENCES = [true for _, true in PAIRS]
PHANTOM = Corpus(REFERENCES, dataset="phantom")
REAL = [name for name, rule in CONVENTIONS.items() if not rule.phantom]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def given(metric, raw):
    """Statistics (n, 4) from numbers of pairs as the feature gives them."""
    context = Context.of({"weights": {"name": "x", "hash": "0" * 8}})
    n = len(raw)
    pairs = Pairs([str(i) for i in range(n)], ["a"] * n, ["b"] * n)
    return metric.statistics(pairs, {metric.needs(context)[0]: list(raw)}, context).rows[:, 0]


# Presets


def test_baselines_are_those_of_the_package():
    assert len(GOLDEN["baselines"]) == 3
    for rule in CONVENTIONS.values():
        if rule.baseline is not None:
            assert GOLDEN["baselines"][rule.asset] == {"layer": rule.layer, "baseline": list(rule.baseline)}


@pytest.mark.parametrize("encoder", ["embedded", "roberta", "distilbert"])
def test_rescaling_is_that_of_the_package(encoder):
    plain, rescaled = (
        np.array(case["scores"]) for case in GOLDEN["cases"] if case["encoder"] == encoder and case["idf"]
    )
    np.testing.assert_allclose(given(BertScore("rexrank"), plain)[:, 1:], rescaled, rtol=0, atol=5e-6)


def test_an_empty_text_is_far_below_0_once_rescaled():
    empty = given(BertScore("rexrank"), np.zeros((1, 3)))[0]
    assert empty[3] == pytest.approx((0 - 0.8473319) / (1 - 0.8473319))
    assert empty[3] == pytest.approx(-5.55, abs=0.005)


def test_what_is_not_rescaled_stays():
    raw = np.array([[0.2, 0.4, 0.3]])
    assert given(BertScore("modernbert"), raw)[0].tolist() == [1, 0.2, 0.4, 0.3]


def test_another_name_of_a_preset_is_the_preset():
    assert {name: BertScore(name).key for name in ALIASES} == {"roberta-large-17": "bertscore:roberta-large"}
    with pytest.raises(CxrbenchError, match="no preset"):
        BertScore("roberta-large-18")


@pytest.mark.parametrize("preset", REAL)
def test_on_phantom_the_published_presets_are_refused(preset):
    with pytest.raises(CxrbenchError) as refused:
        BertScore(preset).fit(PHANTOM)
    assert refused.value.code == Exit.UNDECIDED
    assert refused.value.fix == "--metrics bertscore:tiny"


@pytest.mark.parametrize("dataset", ["iu-xray", None])
def test_elsewhere_the_tiny_one_is_refused(dataset):
    with pytest.raises(CxrbenchError, match="reads reports of 'phantom' only") as refused:
        TINY.fit(Corpus([], dataset=dataset))
    assert refused.value.code == Exit.UNDECIDED


@pytest.mark.parametrize("preset", REAL)
def test_missing_weights_are_told(preset):
    with pytest.raises(CxrbenchError, match="cxrbench assets fetch") as refused:
        BertScore(preset).fit(Corpus([], dataset="iu-xray"))
    assert refused.value.code == Exit.UNDECIDED


@pytest.mark.parametrize(
    ("preset", "kind", "layers"),
    [
        ("rexrank", "roberta", 6),
        ("rexrank-idf", "roberta", 6),
        ("radeval", "distilbert", 6),
        ("roberta-large", "roberta", 24),
        ("modernbert", "modernbert", 22),
    ],
)
def test_a_folder_of_fetched_files_is_read(preset, kind, layers):
    """Random weights in the published layout, at the place of the asset: the path that real ones take."""
    rule = CONVENTIONS[preset]
    make(kind, cache_dir() / "assets" / rule.asset, layers)
    metric = BertScore(preset)
    rows, context = rows_of(metric, PAIRS, Corpus(REFERENCES, dataset="iu-xray"))
    assert context.data["weights"]["name"] == rule.asset
    assert ("idf" in context.data) == rule.idf
    same = [i for i, (said, true) in enumerate(PAIRS) if said == true != ""]
    np.testing.assert_allclose(rows[same], 1, atol=2e-5)
    empty = [i for i, pair in enumerate(PAIRS) if "" in pair]
    baseline = np.array(rule.baseline or (0, 0, 0))
    np.testing.assert_allclose(rows[empty, 1:], np.tile(-baseline / (1 - baseline), (len(empty), 1)))
    assert np.isfinite(rows).all()


def test_without_torch_the_reason_is_a_sentence(monkeypatch):
    monkeypatch.setattr("cxrbench.features.embedded.find_spec", lambda name: None)
    assert TINY.ready() == "needs torch and transformers: pip install 'cxrbench[models]'"


# Numbers


def test_rows_in_are_rows_out_and_do_not_depend_on_their_neighbours():
    rows, _ = rows_of(TINY, PAIRS, PHANTOM)
    assert rows.shape == (len(PAIRS), 4)
    assert (rows[:, 0] == 1).all()
    for chunk in (1, 5):
        np.testing.assert_allclose(rows_of(TINY, PAIRS, PHANTOM, chunk=chunk)[0], rows, atol=1e-6)
    turned, _ = rows_of(TINY, PAIRS[::-1], PHANTOM)
    np.testing.assert_allclose(turned[::-1], rows, atol=1e-6)


def test_values_are_means():
    rows, _ = rows_of(TINY, PAIRS, PHANTOM)
    values = TINY.value(rows.sum(axis=0))
    assert values["precision"] == pytest.approx(rows[:, 1].mean())
    assert values["recall"] == pytest.approx(rows[:, 2].mean())
    assert values["f1"] == pytest.approx(rows[:, 3].mean())
    same = [i for i, (said, true) in enumerate(PAIRS) if said == true != ""]
    empty = [i for i, pair in enumerate(PAIRS) if "" in pair]
    assert same
    assert empty
    assert TINY.value(rows[same])["f1"] == pytest.approx(1, abs=1e-6)
    assert (rows[empty, 1:] == 0).all()
    assert all(np.isnan(value) for value in TINY.value(np.zeros(4)).values())


def test_nothing_to_score_is_no_rows():
    rows, _ = rows_of(TINY, [], PHANTOM)
    assert rows.shape == (0, 4)


def test_idf_weights_come_from_the_full_reference_set(monkeypatch):
    rule = CONVENTIONS["tiny"]
    weighted = type(rule)(rule.asset, rule.layer, "with idf", idf=True, phantom=True)
    monkeypatch.setattr(bertscore, "CONVENTIONS", {**CONVENTIONS, "tiny": weighted})
    whole, context = rows_of(TINY, PAIRS, PHANTOM)
    some, same = rows_of(TINY, PAIRS[:4], PHANTOM)
    np.testing.assert_allclose(some, whole[:4], atol=1e-6)
    assert context.hash == same.hash
    _, other = rows_of(TINY, PAIRS, Corpus(REFERENCES[:3], dataset="phantom"))
    signature = TINY.signature(context, "raw")
    assert f"|idf:yes|rescale:no|fit:{context.hash}|weights:embedded-" in signature
    assert TINY.signature(other, "raw") != signature


# Signature and run


def test_the_signature_names_all_that_decides():
    context = TINY.fit(PHANTOM)
    tag = choose("distilroberta-base", "phantom").tag
    assert TINY.signature(context, "whitespace:v1") == (
        f"bertscore|preset:tiny|encoder:bertscore.1|model:embedded|layer:last|idf:no|rescale:no|weights:{tag}"
        "|verified:no|txt:whitespace:v1|v:1"
    )
    assert "verified" not in comparable(TINY.signature(context, "raw"))
    assert dict(BertScore("rexrank").settings()) == {
        "encoder": "bertscore.1",
        "model": "distilroberta-base",
        "layer": "5",
        "idf": "no",
        "rescale": "yes",
        "spaces": "one",
    }


def test_a_run_is_scored_with_an_interval(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    code, out, err = cli("score", run, "--metrics", "bertscore:tiny", "--replicates", 200)
    assert code == 0, err
    found = metrics(run)["bertscore:tiny"]
    assert list(found) == ["f1", "precision", "recall"]
    low, high = found["f1"]["ci"]
    assert 0 < low < found["f1"]["value"] < high < 1
    assert found["f1"]["n"] == 24
    code, _, err = cli("score", run, "--metrics", "bertscore:rexrank", "--replicates", 0)
    assert code == 3
    assert "bertscore:tiny" in out + err
