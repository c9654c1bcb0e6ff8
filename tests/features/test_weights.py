"""Which weights read what, and their hash: that of the files an annotator reads, however they came here."""

import io
import json
import shutil

import pytest

from cxrbench import assets
from cxrbench.config import load_config
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.weights import EMBEDDED, Weights, choose, fits, folders, precision_of, weights_in
from cxrbench.metrics.base import Corpus
from cxrbench.scoring import make_metric
from cxrbench.shipped import embedded
from tests.tiny_weights import CLINICAL, lay_out, record

ASSETS = ("chexbert", "radgraph", "distilroberta-base", "rate-ner", "biolord")
TOKENIZER_OF = {"chexbert": "bert-base-uncased", "radgraph": "pubmedbert"}


@pytest.fixture
def place():
    return lay_out()


def paths(tmp_path, place, *names):
    """Settings that name the user's own copies."""
    file = tmp_path / "paths.toml"
    file.write_text("[assets.paths]\n" + "".join(f'{name} = "{place / name}"\n' for name in names))
    return load_config(file)


# The embedded ones


def test_the_hashes_of_the_embedded_ones_stand_in_recorded_figures():
    found = {name: choose(asset, "phantom").hash for asset, name in EMBEDDED.items()}
    assert found == {"labeler": "5a1dae21", "annotator": "b0b8c584", "encoder": "d0bb6f59"}


def test_a_stray_file_beside_the_embedded_ones_changes_nothing(tmp_path, monkeypatch):
    before = choose("radgraph", "phantom")
    shutil.copytree(embedded("annotator"), tmp_path / "annotator")
    (tmp_path / "annotator/notes.txt").write_text("mine")
    (tmp_path / "annotator/bert/.cache").mkdir()
    (tmp_path / "annotator/bert/.cache/x.json").write_text("{}")
    monkeypatch.setattr("cxrbench.features.embedded.embedded", lambda name: tmp_path / name)
    assert choose("radgraph", "phantom") == before
    (tmp_path / "annotator/bert/vocab.txt").write_text("other")
    assert choose("radgraph", "phantom") != before


# Fetched ones and the user's own


@pytest.mark.parametrize("asset", ASSETS)
def test_fetched_files_and_the_same_ones_at_a_path_have_one_hash(tmp_path, place, asset):
    own = choose(asset, None)
    names = [each for each in (asset, TOKENIZER_OF.get(asset)) if each]
    for name in names:
        record(place / name, name)
    assert assets.state(asset, load_config()).status == "here"
    fetched = choose(asset, None)
    shutil.copytree(place, tmp_path / "elsewhere")
    named = choose(asset, None, paths(tmp_path, tmp_path / "elsewhere", *names))
    assert own == fetched == named
    assert folders(named, paths(tmp_path, tmp_path / "elsewhere", *names))[0] == tmp_path / "elsewhere" / asset


STRAYS = ("README.md", ".DS_Store", "flax_model.msgpack", "tf_model.h5", "notes/tokenizer.json", "onnx/model.onnx")


@pytest.mark.parametrize("asset", ASSETS)
@pytest.mark.parametrize("recorded", [True, False])
def test_files_that_no_annotator_reads_change_nothing(place, asset, recorded):
    names = [each for each in (asset, TOKENIZER_OF.get(asset)) if each]
    if recorded:
        for name in names:
            record(place / name, name)
    before = choose(asset, None)
    for name in names:
        for stray in STRAYS:
            (place / name / stray).parent.mkdir(exist_ok=True)
            (place / name / stray).write_text("stray")
    assert choose(asset, None) == before


def test_the_weights_that_are_not_read_beside_those_that_are_change_nothing(place):
    before = choose("distilroberta-base", None)
    (place / "distilroberta-base/pytorch_model.bin").write_bytes(b"older format of the same weights")
    assert choose("distilroberta-base", None) == before
    before = choose("chexbert", None)
    (place / "bert-base-uncased/model.safetensors").write_bytes(b"a whole snapshot of the hub")
    (place / "chexbert/config.json").write_text("{}")
    assert choose("chexbert", None) == before


@pytest.mark.parametrize(
    ("asset", "file"),
    [
        ("chexbert", "chexbert/chexbert.pth"),
        ("chexbert", "bert-base-uncased/vocab.txt"),
        ("chexbert", "bert-base-uncased/config.json"),
        ("radgraph", "radgraph/weights.th"),
        ("radgraph", "radgraph/vocabulary/radgraph__relation_labels.txt"),
        ("radgraph", "pubmedbert/tokenizer.json"),
        ("distilroberta-base", "distilroberta-base/model.safetensors"),
        ("distilroberta-base", "distilroberta-base/merges.txt"),
        ("rate-ner", "rate-ner/config.json"),
    ],
)
def test_every_file_that_is_read_is_in_the_hash(place, asset, file):
    before = choose(asset, None)
    (place / file).write_bytes((place / file).read_bytes() + b"\n")
    assert choose(asset, None) != before


def test_a_file_that_tokenizers_would_read_counts_even_where_no_fetch_brings_it(place):
    record(place / "distilroberta-base", "distilroberta-base")
    before = choose("distilroberta-base", None)
    (place / "distilroberta-base/added_tokens.json").write_text('{"effusion": 5000}')
    assert choose("distilroberta-base", None) != before


def test_weights_that_are_cut_off_are_damaged_where_they_were_fetched(place):
    record(place / "chexbert", "chexbert")
    file = place / "chexbert/chexbert.pth"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CxrbenchError, match=r"chexbert\.pth has 1000 bytes, not") as caught:
        choose("chexbert", None)
    assert "cxrbench assets fetch chexbert" in str(caught.value)
    assert caught.value.code == Exit.UNDECIDED


# What is kept of them


@pytest.mark.parametrize("key", CLINICAL)
def test_the_weights_in_a_context_are_found_wherever_they_stand(place, key):
    metric = make_metric(key)
    for precision in ("fp32", "bf16"):
        context = metric.fit(Corpus(["Mild edema."], precision=precision))
        found = weights_in(context.data)
        assert found
        assert {each.precision for each in found} == {precision}
        assert precision_of(context.data) == precision
        assert fits(context.data, None, precision)
        assert not fits(context.data, None, "bf16" if precision == "fp32" else "fp32")


def test_what_was_learnt_without_weights_fits_everything():
    assert fits({"vocabulary": ["a"]}, "mimic-cxr", "fp32")
    assert fits({"vocabulary": ["a"]}, None, "bf16")
    assert precision_of({}) == "fp32"


def test_weights_survive_json_and_full_precision_is_not_said():
    for weights in (Weights("chexbert", "1a2b3c4d"), Weights("chexbert", "1a2b3c4d", "bf16")):
        assert Weights.of(weights.as_data()) == weights == Weights.asked(dict(weights.settings))
    assert Weights("chexbert", "1a2b3c4d").as_data() == {"name": "chexbert", "hash": "1a2b3c4d"}


def test_weights_that_changed_after_they_were_fetched_are_other_weights(place):
    for name in ("chexbert", "bert-base-uncased"):
        record(place / name, name)
    before = choose("chexbert", None)
    file = place / "chexbert/chexbert.pth"
    content = bytearray(file.read_bytes())
    content[-5000] ^= 1
    file.write_bytes(bytes(content))
    assert assets.state("chexbert", load_config()).status == "here", "the size is what the record says"
    assert choose("chexbert", None) != before


def test_a_fetched_tokenizer_of_another_encoder_is_refused_and_ones_own_is_not(tmp_path, place):
    from cxrbench.features.radgraph import check_encoder

    named = json.loads((place / "radgraph/config.json").read_text())["model"]["embedder"]["token_embedders"]["bert"]
    own = Weights("radgraph", "1a2b3c4d")
    check_encoder(own, place / "radgraph", None)
    record(place / "pubmedbert", "pubmedbert")
    with pytest.raises(CxrbenchError, match="the encoder in this archive") as caught:
        check_encoder(own, place / "radgraph", None)
    assert named["model_name"] in caught.value.fix
    check_encoder(own, place / "radgraph", paths(tmp_path, place, "pubmedbert"))


def test_a_folder_of_weights_runs_no_code(tmp_path, monkeypatch):
    from cxrbench.features.bert import read_config

    (tmp_path / "config.json").write_text('{"model_type": "x", "auto_map": {"AutoConfig": "evil.Evil"}}')
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\n"))
    with pytest.raises(CxrbenchError):
        read_config(tmp_path)
    assert not (tmp_path / "ran").exists()
