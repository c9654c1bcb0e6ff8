"""BERTScore: equal to the package bert-score on recorded pairs, independent of the batch, strict about its folder."""

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from cxrbench.errors import CxrbenchError
from cxrbench.features import embedded
from cxrbench.features.base import Pairs, Resources
from cxrbench.features.bertscore import LAST, BertScorePairs, Idf, fit_idf, prepare
from cxrbench.features.bertscore_net import frequencies, load, match, read_pieces
from cxrbench.features.store import Store
from cxrbench.features.weights import choose
from tools.tiny_encoders import KINDS, POSITIONS, make

FOLDER = embedded.folder("encoder", "phantom")
GOLDEN = json.loads((Path(__file__).parent / "golden_bertscore.json").read_text())
PAIRS = [(prepare(said), prepare(true)) for said, true in GOLDEN["pairs"]]
PLAIN = [case for case in GOLDEN["cases"] if not case["rescaled"]]
SOME = PAIRS[:6] + PAIRS[20:30]
FEATURE = BertScorePairs()
WEIGHTS = choose("distilroberta-base", "phantom")
SETTINGS = {"weights": WEIGHTS.name, "hash": WEIGHTS.hash, "layer": LAST, "spaces": False, "idf": None}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("encoders")
    return {"embedded": FOLDER, **{kind: make(kind, place / kind) for kind in KINDS}}


@pytest.fixture(scope="module")
def encoder():
    return load(FOLDER)


@pytest.fixture(scope="module")
def wide():
    return load(FOLDER, dtype=torch.float64)


def pairs_of(pairs):
    return Pairs([str(i) for i in range(len(pairs))], [said for said, _ in pairs], [true for _, true in pairs])


# Equality with the package


def test_the_recorded_numbers_are_of_these_weights():
    found = hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()[:8]
    assert found == GOLDEN["embedded"], f"the encoder was trained again: {GOLDEN['command']}"


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: f"{case['encoder']}-{case['layer']}-{case['idf']}")
def test_precision_recall_and_f_are_those_of_the_package(folders, case):
    encoder = load(folders[case["encoder"]], case["layer"])
    references = [true for _, true in PAIRS]
    idf = frequencies(encoder.pieces, references).weights(encoder.size) if case["idf"] else None
    found = encoder.compare(PAIRS, idf)
    recorded = np.array([scores or (0, 0, 0) for scores in case["scores"]])
    np.testing.assert_allclose(found, recorded, rtol=0, atol=1e-6)


def test_what_was_recorded_holds_the_awkward():
    texts = [text for pair in GOLDEN["pairs"] for text in pair]
    assert {"", "effusion", "\x00"} <= set(texts)
    assert max(len(text.split()) for text in texts) == 600
    assert any("  " in text for text in texts)
    assert any(not text.isascii() for text in texts)
    assert all(case["scores"].count(None) == (4 if case["encoder"] == "modernbert" else 0) for case in PLAIN)


# What a token is


def test_a_byte_level_text_begins_with_a_blank_where_the_package_has_one(folders):
    roberta, modernbert = read_pieces(folders["roberta"]), read_pieces(folders["modernbert"])
    said = [roberta.tokenizer.id_to_token(i) for i in roberta.encode(["effusion"])[0]]
    assert said == ["<s>", "Ġeffusion", "</s>"]
    assert [modernbert.tokenizer.id_to_token(i) for i in modernbert.encode(["effusion"])[0]][1] == "effusion"


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_cut_at_what_the_encoder_takes(folders, kind):
    encoder = load(folders[kind], 1)
    row = encoder.pieces.encode(["effusion " * 500])[0]
    assert len(row) == encoder.pieces.longest == POSITIONS
    assert row[-1] == encoder.pieces.end
    assert encoder.compare([("effusion " * 500, "effusion " * (POSITIONS - 2))])[0] == pytest.approx([1, 1, 1])


def test_positions_are_the_limit_where_no_file_names_one(tmp_path):
    folder = make("roberta", tmp_path / "roberta")
    (folder / "tokenizer_config.json").unlink()
    assert read_pieces(folder).longest == POSITIONS, "98 positions, of which two are behind the padding's"
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    assert read_pieces(folder).longest == POSITIONS
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 20}))
    assert read_pieces(folder).longest == 20


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_a_folder_without_tokenizer_json_has_the_same_pieces(tmp_path, folders, kind):
    folder = make(kind, tmp_path / kind)
    (folder / "tokenizer.json").unlink()
    texts = [
        text for pair in PAIRS for text in pair if "<mask>" not in text
    ]  # which of its blanks go is told there only
    assert read_pieces(folder).encode(texts) == read_pieces(folders[kind]).encode(texts)


def test_padding_and_cutting_written_into_tokenizer_json_are_not_used(tmp_path):
    folder = make("distilbert", tmp_path / "distilbert")
    before = read_pieces(folder).encode(["effusion", "a " * 50])
    file = folder / "tokenizer.json"
    body = json.loads(file.read_text())
    body["truncation"] = {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    body["padding"] = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                       "pad_type_id": 0, "pad_token": "[PAD]"}  # fmt: skip
    file.write_text(json.dumps(body))
    assert read_pieces(folder).encode(["effusion", "a " * 50]) == before


# By hand, and rules


def test_matching_by_hand():
    """Two pieces of three against one: cosines 1 and .6; weights 1 and 3."""
    said = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]], dtype=torch.float64)
    true = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)  # the second is padding
    weights = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    found = match((said, weights), (true, torch.tensor([[2.0, 0.0]], dtype=torch.float64)))[0]
    precision, recall = (1 + 3 * 0.6) / 4, 1.0
    assert found.tolist() == pytest.approx([precision, recall, 2 * precision * recall / (precision + recall)])


def test_a_cosine_below_0_counts_as_it_is_beside_padding():
    said = torch.tensor([[[-1.0, 0.0]]])
    true = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    assert match((said, torch.ones(1, 1)), (true, torch.tensor([[1.0, 0.0]])))[0, :2].tolist() == [-1, -1]


def test_weights_that_are_all_0_give_0():
    states = torch.tensor([[[1.0, 0.0]]])
    assert match((states, torch.zeros(1, 1)), (states, torch.ones(1, 1)))[0].tolist() == [0, 1, 0]
    assert match((states, torch.zeros(1, 1)), (states, torch.zeros(1, 1)))[0].tolist() == [0, 0, 0]


def test_idf_by_hand_counts_equal_references_as_often_as_they_occur(encoder):
    idf = frequencies(encoder.pieces, ["no effusion no", "no effusion no", "effusion", ""])
    weights = idf.weights(encoder.size)
    (_, no, effusion, _), (_, edema, _) = encoder.pieces.encode(["no effusion", "edema"])
    assert weights[no] == pytest.approx(np.log(5 / 3))
    assert weights[effusion] == pytest.approx(np.log(5 / 4))
    assert weights[edema] == pytest.approx(np.log(5))
    assert weights[encoder.pieces.start] == weights[encoder.pieces.end] == 0
    again = Idf.unpack(json.loads(json.dumps(idf.pack())))
    assert again.documents == 4
    assert (again.weights(encoder.size) == weights).all()


@pytest.mark.parametrize("pair", [("", "clear"), ("clear", ""), ("", ""), ("\u200b", "clear")])
def test_a_text_without_pieces_is_0(encoder, pair):
    assert encoder.compare([("a", "b"), pair])[1].tolist() == [0, 0, 0]


@given(st.lists(st.sampled_from(["no", "left", "effusion", ".", "心", "XXXX"]), min_size=1, max_size=30).map(" ".join))
@settings(max_examples=25)
def test_a_text_against_itself_is_1(text):
    assert _shared().compare([(text, text)])[0] == pytest.approx([1, 1, 1], abs=1e-6)


@cache
def _shared():
    return load(FOLDER)


def test_what_is_precision_one_way_is_recall_the_other(wide):
    found, turned = wide.compare(SOME), wide.compare([(true, said) for said, true in SOME])
    np.testing.assert_allclose(found[:, [1, 0, 2]], turned, rtol=0, atol=1e-13)


@pytest.fixture(scope="module")
def whole(wide):
    return wide.compare(PAIRS)


@pytest.mark.parametrize("budget", [1, 256, 4096])
def test_nothing_depends_on_the_batch(wide, whole, budget):
    order = np.random.default_rng(budget).permutation(len(PAIRS))
    again = wide.compare([PAIRS[i] for i in order] + PAIRS[:3], budget=budget)
    np.testing.assert_allclose(again[: len(order)], whole[order], rtol=0, atol=1e-13)
    np.testing.assert_allclose(again[len(order) :], whole[:3], rtol=0, atol=1e-13)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_says_the_same():
    np.testing.assert_allclose(load(FOLDER, device="cuda").compare(SOME), load(FOLDER).compare(SOME), atol=1e-5)


# The feature


def test_pairs_in_numbers_out_each_distinct_one_once(monkeypatch):
    asked = []
    plain = BertScorePairs.annotate
    monkeypatch.setattr(
        BertScorePairs, "annotate", lambda self, pairs, *rest: (asked.extend(pairs), plain(self, pairs, *rest))[1]
    )
    given = [("a", "b"), ("b", "a"), ("a", "b"), ("", "a")]
    found = FEATURE.extract(pairs_of(given), SETTINGS)
    assert len(found) == 4
    assert sorted(asked) == sorted(set(given))
    assert all(each.dtype == np.float64 and each.shape == (3,) for each in found)
    assert (found[0] == found[2]).all()
    assert FEATURE.extract(pairs_of([]), SETTINGS) == []


def test_what_the_store_gives_back_is_what_was_made(tmp_path, monkeypatch):
    resources = Resources(store=Store(tmp_path / "store"))
    made = FEATURE.extract(pairs_of(SOME), SETTINGS, resources)
    monkeypatch.setattr(BertScorePairs, "annotate", None)
    again = FEATURE.extract(pairs_of(SOME[::-1]), SETTINGS, resources)
    assert np.array_equal(np.array(made)[::-1], np.array(again))


def test_whatever_could_change_a_number_is_in_the_key():
    idf = fit_idf(WEIGHTS, ["no effusion"]).pack()
    other = fit_idf(WEIGHTS, ["no edema"]).pack()
    changes = [{}, {"layer": 2}, {"spaces": True}, {"hash": "0" * 8}, {"idf": idf}, {"idf": other}]
    scopes = {FEATURE.scope({**SETTINGS, **change}, Resources()) for change in changes}
    assert len(scopes) == len(changes)


def test_runs_of_blanks_are_one_where_asked():
    given = pairs_of([("no  effusion .", "no effusion.")])
    one = FEATURE.extract(given, {**SETTINGS, "spaces": True})[0]
    assert one == pytest.approx([1, 1, 1], abs=1e-6)
    assert prepare(" a  b\n\n c ") == "a  b\n\n c"
    assert prepare(" a  b\n\n c ", spaces=True) == "a b\n\n c"


def test_idf_changes_the_numbers_and_nothing_else():
    given = pairs_of(SOME)
    idf = fit_idf(WEIGHTS, [true for _, true in PAIRS]).pack()
    plain, weighted = (np.array(FEATURE.extract(given, {**SETTINGS, "idf": each})) for each in (None, idf))
    assert plain.shape == weighted.shape
    assert np.abs(plain - weighted).max() > 0.01


def test_weights_other_than_those_of_the_fit_are_refused():
    with pytest.raises(CxrbenchError, match="not those the metric was fitted with"):
        FEATURE.extract(pairs_of(SOME), {**SETTINGS, "hash": "00000000"})


# The folder


def test_missing_weights_are_refused_and_not_drawn(tmp_path):
    folder = make("roberta", tmp_path / "roberta")
    state = load_file(folder / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    save_file(
        {key: value for key, value in state.items() if key != name},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(CxrbenchError, match=f"1 weights are missing: {name}"):
        load(folder)


def test_an_encoder_without_a_pooler_is_whole(tmp_path, capfd):
    folder = make("roberta", tmp_path / "roberta")
    before = load(folder).compare(SOME)
    state = load_file(folder / "model.safetensors")
    kept = {f"roberta.{key}": value for key, value in state.items() if not key.startswith("pooler.")}
    save_file({**kept, "lm_head.bias": torch.zeros(3)}, folder / "model.safetensors", metadata={"format": "pt"})
    assert (load(folder).compare(SOME) == before).all()
    assert capfd.readouterr() == ("", ""), "nothing is printed of weights nobody asks for"


def test_a_layer_that_is_not_there_is_refused():
    for layer in (0, 4, -2):
        with pytest.raises(CxrbenchError, match=f"has 3 layers, no layer {layer}"):
            load(FOLDER, layer)


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_told(tmp_path, gone):
    folder = make("distilbert", tmp_path / "encoder")
    (folder / gone).unlink()
    with pytest.raises(CxrbenchError, match=r"config\.json|cannot load the network") as refused:
        load(folder)
    assert refused.value.where == str(folder)


def test_weights_that_are_cut_off_are_told(tmp_path):
    file = make("distilbert", tmp_path / "encoder") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CxrbenchError, match="cannot load the network"):
        load(file.parent)


def test_a_tokenizer_without_marks_is_refused(tmp_path):
    folder = make("modernbert", tmp_path / "encoder")
    file = folder / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "post_processor": None}))
    with pytest.raises(CxrbenchError, match="puts 0 marks around a text"):
        read_pieces(folder)
