"""CheXbert: equal to the package f1chexbert on recorded texts, independent of the batch, strict about its file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrbench.data.phantom import studies
from cxrbench.errors import CxrbenchError
from cxrbench.features import embedded
from cxrbench.features.base import Pairs, Resources
from cxrbench.features.bert import by_length
from cxrbench.features.chexbert import (
    BLANK,
    CONDITIONS,
    NEGATIVE,
    POSITIVE,
    UNCERTAIN,
    VALUES,
    CheXbertLabels,
    Labels,
    prepare,
)
from cxrbench.features.chexbert_net import load
from cxrbench.features.phantom_labels import read
from cxrbench.features.store import Store
from cxrbench.features.weights import choose

FOLDER = embedded.folder("labeler", "phantom")
GOLDEN = json.loads((Path(__file__).parent / "golden_chexbert.json").read_text())["cases"]
TEXTS = [case["report"] for case in GOLDEN]


@pytest.fixture(scope="module")
def labeler():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load(FOLDER / "chexbert.pth", FOLDER)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def labels(labeler):
    return labeler.label(TEXTS)


def test_the_order_of_the_conditions_is_that_of_the_heads():
    heads = (
        "Enlarged Cardiomediastinum, Cardiomegaly, Lung Opacity, Lung Lesion, Edema, Consolidation, Pneumonia, "
        "Atelectasis, Pneumothorax, Pleural Effusion, Pleural Other, Fracture, Support Devices, No Finding"
    )
    assert ", ".join(CONDITIONS) == heads
    assert (BLANK, POSITIVE, NEGATIVE, UNCERTAIN) == (0, 1, 2, 3)


def test_tokens_are_those_of_the_package(labeler):
    assert labeler.encode([prepare(text) for text in TEXTS]) == [case["ids"] for case in GOLDEN]
    assert max(len(case["ids"]) for case in GOLDEN) == 512, "a report is among them that is cut"


def test_labels_are_those_of_the_package(labels):
    meaning = {BLANK: "", POSITIVE: 1, NEGATIVE: 0, UNCERTAIN: -1}
    assert [[meaning[each] for each in row] for row in labels.classes.tolist()] == [
        case["classification"] for case in GOLDEN
    ]
    positive = np.isin(labels.classes, (POSITIVE, UNCERTAIN))
    assert positive.astype(int).tolist() == [case["rrg"] for case in GOLDEN]


def test_vectors_are_those_of_the_package(labels):
    recorded = np.array([case["vector"] for case in GOLDEN])
    np.testing.assert_allclose(labels.vectors[:, : recorded.shape[1]], recorded, atol=2e-5)


@pytest.mark.parametrize("budget", [1, 64, 100_000])
def test_nothing_depends_on_the_batch(labeler, labels, budget):
    order = np.random.default_rng(budget).permutation(len(TEXTS))
    again = labeler.label([TEXTS[i] for i in order] + TEXTS[:3], budget=budget)
    assert (again.classes[: len(order)] == labels.classes[order]).all()
    assert (again.classes[len(order) :] == labels.classes[:3]).all()
    np.testing.assert_allclose(again.vectors[: len(order)], labels.vectors[order], atol=1e-5)


def test_nothing_to_label(labeler):
    found = labeler.label([])
    assert found.classes.shape == (0, 14)
    assert found.vectors.shape == (0, labeler.net.bert.config.hidden_size)
    assert list(found) == []


def test_double_precision_is_kept():
    labeler = load(FOLDER / "chexbert.pth", FOLDER, dtype=torch.float64)
    found = labeler.label(TEXTS[:4])
    assert found.vectors.dtype == np.float64
    np.testing.assert_allclose(found.vectors, labeler.label(TEXTS[:4], budget=1).vectors, atol=1e-13)


def test_as_a_sequence_it_holds_labels_as_data_sets_ship_them():
    classes = np.zeros((2, 14), np.int8)
    classes[0, CONDITIONS.index("Edema")] = UNCERTAIN
    classes[0, CONDITIONS.index("Fracture")] = NEGATIVE
    classes[1, CONDITIONS.index("No Finding")] = POSITIVE
    found = Labels(classes, np.zeros((2, 4), np.float32))
    assert list(found) == found[0:2] == [{"Edema": -1, "Fracture": 0}, {"No Finding": 1}]
    assert set(VALUES) == {POSITIVE, NEGATIVE, UNCERTAIN}


@pytest.mark.parametrize(
    ("text", "condition", "value"),
    [
        ("Moderate right pleural effusion.", "Pleural Effusion", 1),
        ("No pleural effusion or pneumothorax.", "Pleural Effusion", 0),
        ("No pleural effusion or pneumothorax.", "Pneumothorax", 0),
        ("A small left pneumothorax cannot be excluded.", "Pneumothorax", -1),
        ("Possible mild pulmonary edema.", "Edema", -1),
        ("The heart is mildly enlarged.", "Cardiomegaly", 1),
        ("The heart is not enlarged.", "Cardiomegaly", 0),
        ("The feeding tube ends in the stomach.", "Support Devices", 1),
        ("Normal chest radiograph.", "No Finding", 1),
    ],
)
def test_plain_sentences(labeler, text, condition, value):
    assert labeler.label([text])[0][condition] == value


def test_it_reads_phantom_reports(labeler):
    texts = [s.sections[part] for s in studies("test", 60, start=1000) for part in ("findings", "impression")]
    wrong = 0
    for said, text in zip(labeler.label(texts), texts, strict=True):
        true = read(text).labels
        wrong += sum(said.get(name) != true.get(name) for name in CONDITIONS[:-1])
        wrong += said.get("No Finding", 0) != true.get("No Finding", 0)
    assert wrong / (14 * len(texts)) < 0.02


def test_the_feature_labels_the_side_it_is_asked_for():
    pairs = Pairs(["1"], ["Mild edema."], ["No pneumothorax."])
    chosen = choose("chexbert", "phantom")
    settings = {"weights": chosen.name, "hash": chosen.hash}
    sides = CheXbertLabels().extract(pairs, settings)
    assert sides.predictions[0].labels["Edema"] == 1
    assert sides.references[0].labels["Pneumothorax"] == 0
    assert CheXbertLabels().extract(pairs, {**settings, "of": "predictions"}).references == []


def test_a_label_from_the_store_is_the_label_that_was_put_there(tmp_path):
    pairs = Pairs(["1"], ["Mild edema."], ["No pneumothorax."])
    chosen = choose("chexbert", "phantom")
    settings = {"weights": chosen.name, "hash": chosen.hash}
    for _ in range(2):
        sides = CheXbertLabels().extract(pairs, settings, Resources(Store(tmp_path)))
        assert sides.predictions[0].labels["Edema"] == 1
        assert sides.predictions[0].vector.dtype == np.float32
    fresh = CheXbertLabels().extract(pairs, settings).predictions[0]
    assert np.array_equal(fresh.vector, sides.predictions[0].vector)
    assert np.array_equal(fresh.classes, sides.predictions[0].classes)


# The file


@pytest.fixture
def stored():
    return torch.load(FOLDER / "chexbert.pth", weights_only=True)


def read_again(tmp_path, stored):
    torch.save(stored, tmp_path / "chexbert.pth")
    return load(tmp_path / "chexbert.pth", FOLDER)


def test_half_precision_and_saved_buffers_are_read(tmp_path, stored, labels):
    state = {name: value.half() for name, value in stored["model_state_dict"].items()}
    state["module.bert.embeddings.position_ids"] = torch.arange(512)[None]
    labeler = read_again(tmp_path, {"model_state_dict": state})
    assert labeler.net.linear_heads[0].weight.dtype == torch.float32
    assert (labeler.label(TEXTS[:20]).classes == labels.classes[:20]).mean() > 0.99


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("module.linear_heads.3.bias"), r"1 missing \(linear_heads\.3\.bias\)"),
        (lambda s: s.update({"module.extra": torch.zeros(1)}), r"1 unknown \(extra\)"),
        (lambda s: s.update({"module.linear_heads.13.bias": torch.zeros(4)}), r"is \(4,\), not \(2,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, stored, damage, message):
    damage(stored["model_state_dict"])
    with pytest.raises(CxrbenchError, match=message):
        read_again(tmp_path, stored)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(CxrbenchError, match="no such file"):
        load(tmp_path / "none.pth", FOLDER)
    (tmp_path / "text.pth").write_text("<html>404</html>")
    with pytest.raises(CxrbenchError, match="no file of weights"):
        load(tmp_path / "text.pth", FOLDER)
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CxrbenchError, match="no 'model_state_dict'"):
        load(tmp_path / "other.pth", FOLDER)
    with pytest.raises(CxrbenchError, match=r"no config\.json"):
        load(FOLDER / "chexbert.pth", tmp_path)


def test_batches_hold_everything_once_and_stay_in_the_budget():
    lengths = np.random.default_rng(0).integers(0, 90, 200).tolist()
    batches = list(by_length(lengths, 256))
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 256 for batch in batches)
    assert list(by_length([500, 500], 10)) == [[0], [1]]
    assert list(by_length([], 10)) == []
