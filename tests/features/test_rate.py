"""Entities and vectors for RaTEScore: equal to the package on the same tiny random networks, whatever the batch."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from cxrbench.config import cache_dir
from cxrbench.errors import CxrbenchError
from cxrbench.features import rate
from cxrbench.features.base import Pairs, Resources
from cxrbench.features.rate import KINDS, LABELS, RateEmbeddings, RateEntities, spans
from cxrbench.features.rate_net import load_encoder, load_finder
from cxrbench.features.store import Store
from cxrbench.features.weights import choose

HERE = Path(__file__).parent
TINY = HERE / "tiny_rate"
GOLDEN = json.loads((HERE / "golden_ratescore.json").read_text())
WHOLE = GOLDEN["whole"]
TEXTS = [case["text"] for case in WHOLE["entities"]]
FOUND = [[tuple(each) for each in case["entities"]] for case in WHOLE["entities"]]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finder():
    return load_finder(TINY / "ner")


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(TINY / "biolord")


# Labels to entities


def test_entities_from_labels_are_those_of_the_package():
    for case in GOLDEN["entities"]:
        labels = case["labels"].split()
        pieces = ["[CLS]", *(f"p{i}" for i in range(len(labels) - 2)), "[SEP]"]
        found = [[" ".join(pieces[a : b + 1]), kind] for a, b, kind in spans(pieces, labels)]
        assert found == case["entities"], case["labels"]


def test_the_recorded_labels_have_the_lost_last_entity_among_them():
    def plain(labels):
        """The entities there would be without the loss: first pieces, and inside pieces after a first one."""
        return sum(each.startswith("B") for each in labels[1:-1])

    lost = [case for case in GOLDEN["entities"] if plain(case["labels"].split()) > len(case["entities"])]
    assert len(lost) >= 3
    assert all(case["labels"].split()[-1].startswith("I") for case in lost)


def test_labels_of_padding_change_nothing():
    pieces, labels = ["[CLS]", "a", "b", "[SEP]"], ["O", "B-ANATOMY", "I-ANATOMY", "O"]
    assert spans(pieces, labels) == [(1, 2, "ANATOMY")]
    assert spans(pieces, [*labels, "B-DISEASE", "I-DISEASE"]) == [(1, 2, "ANATOMY")]


# The networks


def test_entities_are_those_of_the_package(finder):
    assert [list(each) for each in finder.find(TEXTS)] == FOUND
    assert sum(map(len, FOUND)) > 60
    assert {kind for each in FOUND for _, kind in each} == set(KINDS)


def test_unknown_signs_become_what_the_package_makes_of_them(finder):
    assert any("[UNK]" in words for each in FOUND for words, _ in each)


@pytest.mark.parametrize("budget", [1, 64, 100_000])
def test_nothing_depends_on_the_batch(finder, encoder, budget):
    order = np.random.default_rng(budget).permutation(len(TEXTS))
    again = finder.find([TEXTS[i] for i in order], budget=budget)
    assert [list(each) for each in again] == [FOUND[i] for i in order]
    words = list(WHOLE["vectors"])
    np.testing.assert_allclose(encoder.encode(words, budget=budget), encoder.encode(words), atol=1e-5)


def test_vectors_are_those_of_the_package(encoder):
    np.testing.assert_allclose(encoder.encode(list(WHOLE["vectors"])), list(WHOLE["vectors"].values()), atol=5e-6)


def test_reports_without_a_usable_sentence_keep_their_place(finder):
    assert finder.find(["", TEXTS[0], ".", " \n "]) == [(), tuple(FOUND[0]), (), ()]
    assert finder.find([]) == []


def test_a_sentence_is_cut_after_512_pieces_and_an_entity_after_30(finder, encoder):
    many = "effusion " * 600
    assert finder.find([many]) == finder.find([many + "and edema"])
    assert (encoder.encode([many]) == encoder.encode([many + "and edema"])).all()
    assert [len(each.tokenizer.encode(many).ids) for each in (finder, encoder)] == [512, 30]
    assert any(len(words.split()) > 30 for words in WHOLE["vectors"]), "an entity is recorded that is cut"
    assert encoder.encode([]).shape == (0, 16)


def test_weights_in_pickled_files_are_read_too(tmp_path, encoder):
    place = shutil.copytree(TINY / "biolord", tmp_path / "biolord")
    state = load_encoder(place).net.state_dict()
    state = {name: value for name, value in state.items() if not name.startswith("pooler.")}
    state["embeddings.position_ids"] = torch.arange(64)[None]  # as older versions of transformers saved it
    (place / "model.safetensors").unlink()
    torch.save(state, place / "pytorch_model.bin")
    assert (load_encoder(place).encode(["heart"]) == encoder.encode(["heart"])).all()


def test_what_is_no_such_network_is_refused(tmp_path):
    with pytest.raises(CxrbenchError, match=r"config\.json"):
        load_finder(tmp_path)
    with pytest.raises(CxrbenchError, match="do not label what RaTEScore compares"):
        load_finder(TINY / "biolord")
    place = shutil.copytree(TINY / "ner", tmp_path / "ner")
    torch.save({"deberta.embeddings.word_embeddings.weight": torch.zeros(203, 16)}, place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()
    with pytest.raises(CxrbenchError, match="weights are missing: classifier"):
        load_finder(place)
    (place / "tokenizer.json").write_text("{}")
    shutil.copy(TINY / "ner/model.safetensors", place)
    with pytest.raises(CxrbenchError, match="holds no tokenizer"):
        load_finder(place)


def test_labels_are_read_from_the_configuration(finder):
    assert set(finder.net.config.id2label.values()) == set(LABELS)
    assert isinstance(finder.tokenizer, Tokenizer)


# The features


@pytest.fixture
def settings():
    for asset, folder in (("rate-ner", "ner"), ("biolord", "biolord")):
        shutil.copytree(TINY / folder, cache_dir() / "assets" / asset)
    made = {asset: (("weights", asset), ("hash", choose(asset, None).hash)) for asset in ("rate-ner", "biolord")}
    return {**dict(made["biolord"]), "entities": made["rate-ner"]}


PAIRS = Pairs(["1", "2", "3"], [TEXTS[1], "", TEXTS[2]], [TEXTS[2], TEXTS[1], TEXTS[2]])


def test_entities_of_both_sides(settings):
    sides = RateEntities().extract(PAIRS, dict(settings["entities"]))
    assert [list(each) for each in sides.predictions] == [FOUND[1], [], FOUND[2]]
    assert [list(each) for each in sides.references] == [FOUND[2], FOUND[1], FOUND[2]]


def test_vectors_of_both_sides(settings, encoder):
    sides = RateEmbeddings().extract(PAIRS, settings)
    assert len(sides.predictions[1]) == 0
    entities = sides.references[1]
    assert [KINDS[kind] for kind in entities.kinds] == [kind for _, kind in FOUND[1]]
    np.testing.assert_allclose(entities.vectors, encoder.encode([words for words, _ in FOUND[1]]), atol=1e-6)


def test_no_entities_at_all(settings):
    sides = RateEmbeddings().extract(Pairs(["1"], [""], ["."]), settings)
    assert [len(sides.predictions[0]), len(sides.references[0])] == [0, 0]


def test_what_is_kept_is_not_made_again(settings, tmp_path, monkeypatch):
    resources = Resources(store=Store(tmp_path / "store"))
    first = RateEmbeddings().extract(PAIRS, settings, resources)
    monkeypatch.setattr(rate, "_finder", None)
    monkeypatch.setattr(rate, "_encoder", None)
    again = RateEmbeddings().extract(PAIRS, settings, resources)
    for one, two in zip([*first.predictions, *first.references], [*again.predictions, *again.references], strict=True):
        assert (one.kinds == two.kinds).all()
        assert (one.vectors == two.vectors).all()


def test_odd_characters_survive_the_store():
    entities = (("\ud800 heart", "ANATOMY"), ("", "DISEASE"))
    assert RateEntities().unpack(RateEntities().pack(entities)) == entities


def test_other_weights_are_refused(settings):
    with pytest.raises(CxrbenchError, match="not those the metric was fitted with"):
        RateEntities().extract(PAIRS, {**dict(settings["entities"]), "hash": "00000000"})
