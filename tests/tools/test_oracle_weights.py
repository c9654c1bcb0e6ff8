"""Random weights in the published layouts: our own readers take them, and every kind of decision occurs."""

import json
import tarfile

import pytest
import torch

from cxrbench.features import bertscore_net, chexbert_net, radgraph_net
from cxrbench.shipped import embedded
from tools.oracle_weights import ENTITIES, KIND, RELATIONS, make, probes, threshold


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    place = tmp_path_factory.mktemp("oracle") / "out"
    make(place, embedded("labeler"), layers=2, hidden=64, widest=5, seed=0)
    return place


def test_every_class_of_chexbert_is_chosen(out):
    labeler = chexbert_net.load(out / "chexbert.pth", out / "bert-base-uncased")
    classes = labeler.label(probes(200, seed=9)).classes
    assert [len(set(head)) for head in classes.T] == [4] * 13 + [2]
    stored = torch.load(out / "chexbert.pth", weights_only=True)
    assert set(stored) == {"model_state_dict"}
    assert all(name.startswith("module.") for name in stored["model_state_dict"])


def test_every_label_of_radgraph_is_chosen_and_none_most_often(out):
    annotator = radgraph_net.load(out / "radgraph" / KIND, out / "bert-base-uncased")
    found = annotator.annotate(probes(60, seed=9))
    entities = [entity for each in found for entity in each["entities"].values()]
    assert {entity["label"] for entity in entities} == set(ENTITIES) - {""}
    assert {kind for entity in entities for kind, _ in entity["relations"]} == set(RELATIONS)
    words = sum(len(each["text"].split()) for each in found)
    assert 0.2 < len(entities) / words < 0.8, "of five spans per word"
    assert 0.3 < sum(len(entity["relations"]) for entity in entities) / len(entities) < 1.5


def test_the_archive_holds_what_the_folder_does(out):
    with tarfile.open(out / f"{KIND}.tar.gz") as packed:
        names = {member.name for member in packed if member.isfile()}
    folder = out / "radgraph" / KIND
    assert names == {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    stored = torch.load(folder / "weights.th", weights_only=True)
    assert {name.split(".")[0] for name in stored} > {"_coref", "_events", "_ner", "_relation"}


@pytest.mark.parametrize("name", ["wordpiece", "byte-level"])
def test_encoders_compare(out, name):
    encoder = bertscore_net.load(out / name, 1)
    (same,), (other,) = (encoder.compare([("Small effusion.", true)]) for true in ("Small effusion.", "Clear lungs."))
    assert same.tolist() == pytest.approx([1, 1, 1])
    assert other.max() < 0.99


def test_weights_are_the_same_again(out, tmp_path):
    make(tmp_path / "again", embedded("labeler"), layers=2, hidden=64, widest=5, seed=0)
    assert (tmp_path / "again/weights.json").read_text() == (out / "weights.json").read_text()
    first, second = (torch.load(place / "chexbert.pth", weights_only=True) for place in (out, tmp_path / "again"))
    for name, value in first["model_state_dict"].items():
        assert torch.equal(value, second["model_state_dict"][name]), name
    assert json.loads((out / "weights.json").read_text())["seed"] == 0


def test_threshold_gives_the_share_that_is_asked_for():
    scores = torch.randn(4000, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 2.0, 5.0])
    chosen = torch.cat([torch.zeros(4000, 1), scores + threshold(scores, 0.3)], dim=1).argmax(1)
    shares = torch.bincount(chosen, minlength=4) / 4000
    assert float(shares[0]) == pytest.approx(0.7, abs=0.01)
    assert float(shares[1:].min()) > 0.05
