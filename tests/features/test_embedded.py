"""The embedded annotators: phantom reports only, whoever asks; small; made by the script that is in the repository."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from cxrbench import registry
from cxrbench.data.phantom_world import VERSION
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features import embedded
from cxrbench.features.base import Pairs
from cxrbench.features.weights import choose
from cxrbench.metrics.base import Corpus
from cxrbench.metrics.label_f1 import LabelF1
from cxrbench.shipped import embedded as shipped_folder
from tests import commands
from tests.commands import metrics, small_run
from tests.data import iu_xray_tree

cli = commands.cli

LIMIT = 1_500_000
REAL = {"labeler": "chexbert.pth", "annotator": "radgraph.tar.gz", "encoder": "distilroberta-base"}
TINY = "label-f1:chexbert-tiny"


@pytest.mark.parametrize("name", embedded.ANNOTATORS)
@pytest.mark.parametrize("dataset", ["iu-xray", "mimic-cxr", "jsonl", None])
def test_other_data_are_refused_and_the_real_weights_named(name, dataset):
    with pytest.raises(CxrbenchError, match="reads reports of 'phantom' only") as caught:
        embedded.folder(name, dataset)
    assert caught.value.code == Exit.UNDECIDED
    assert REAL[name] in caught.value.what
    assert (dataset or "no known data set") in caught.value.what
    assert "\n" not in caught.value.what


@pytest.mark.parametrize("name", embedded.ANNOTATORS)
def test_phantom_is_given_the_folder(name):
    embedded.require_phantom("phantom", name)
    assert (embedded.folder(name, "phantom") / embedded.ANNOTATORS[name].weights).is_file()


def test_an_installation_without_them_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded, "embedded", lambda name: tmp_path / name)
    with pytest.raises(CxrbenchError, match="lacks the embedded BERT encoder") as caught:
        embedded.folder("encoder", "phantom")
    assert caught.value.code == Exit.INFRASTRUCTURE


@pytest.mark.parametrize(
    ("asset", "command"),
    [("chexbert", "cxrbench assets fetch chexbert"), ("radgraph", "cxrbench assets fetch radgraph")],
)
@pytest.mark.parametrize("dataset", ["iu-xray", "mimic-cxr", None])
def test_other_data_never_get_them(asset, command, dataset):
    with pytest.raises(CxrbenchError) as caught:
        choose(asset, dataset)
    assert command in caught.value.what
    assert caught.value.code == Exit.UNDECIDED
    assert choose(asset, "phantom").name.startswith("embedded:")


@pytest.mark.parametrize("feature", ["chexbert", "radgraph"])
def test_weights_that_are_not_those_of_the_fit_are_refused(feature):
    chosen = choose(feature, "phantom")
    made = registry.load("features", feature)()
    with pytest.raises(CxrbenchError, match="not those the metric was fitted with"):
        made.extract(Pairs(["1"], ["Mild edema."], [""]), {"weights": chosen.name, "hash": "00000000"})


@pytest.mark.parametrize("name", embedded.ANNOTATORS)
def test_each_is_small_and_has_its_card(name):
    folder = shipped_folder(name)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= LIMIT
    card = (folder / "README.md").read_text()
    assert "no clinical use" in card
    assert REAL[name] in card


@pytest.mark.parametrize("name", embedded.ANNOTATORS)
def test_the_weights_are_what_the_script_in_the_repository_makes(name):
    card = pytest.importorskip("tools.annotator_training.card")
    folder = shipped_folder(name)
    facts = json.loads((folder / "training.json").read_text())
    assert facts["script_sha256"] == card.script_hash(name), f"run: {facts['command']}"
    weights = (folder / embedded.ANNOTATORS[name].weights).read_bytes()
    assert facts["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert facts["phantom"] == VERSION, "phantom's prose changed: train again"
    assert facts["split"] == "train"


def test_the_encoder_tells_masked_words_and_the_own_report_from_another():
    figures = pytest.importorskip("tools.annotator_training.figures")
    found = figures.encoder_figures(shipped_folder("encoder"), figures.held_out(40))
    assert found["masked word pieces told"] > 0.55
    assert found["own report above another's"] > 0.95


def test_what_needs_no_network_loads_no_torch():
    code = (
        "import sys; import cxrbench.features.chexbert, cxrbench.features.radgraph, cxrbench.metrics.label_f1 as m;"
        "from cxrbench import registry; from cxrbench.features.base import Pairs; from cxrbench.metrics.base import *;"
        "metric = m.LabelF1(); pairs = Pairs(['1'], ['Mild edema.'], [''], [{'phantom': {'Edema': 1.0}}]);"
        "context = metric.fit(Corpus([], dataset='phantom')); need = metric.needs(context)[0];"
        "said = registry.load('features', need.name)().extract(pairs, dict(need.settings));"
        "metric.statistics(pairs, {need: said}, context); m.LabelF1('chexbert-tiny').signature(context, 'none');"
        "[registry.load('features', name)().ready({}) for name in ('chexbert', 'radgraph')];"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_torch_the_metric_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    for feature in ("chexbert", "radgraph"):
        assert "pip install 'cxrbench[models]'" in registry.load("features", feature)().ready({})


def test_a_run_is_scored_by_the_tiny_labeler(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    code, _, err = cli("score", run, "--metrics", f"{TINY},label-f1:phantom", "--replicates", 0)
    assert code == 0, err
    tiny, exact = (metrics(run)[key]["micro_f1"] for key in (TINY, "label-f1:phantom"))
    assert f"weights:{choose('chexbert', 'phantom').tag}|verified:no" in tiny["signature"]
    assert tiny["value"] == pytest.approx(exact["value"], abs=0.05)


def test_numbers_of_the_embedded_annotators_are_named_as_theirs(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    code, out, err = cli("score", run, "--metrics", "chexbert-f1,radcliq", "--replicates", 0)
    assert code == 0, err
    note = "chexbert-f1:miura, radcliq:v1: read by the embedded annotators, which know phantom only"
    assert note in " ".join(out.split())
    cited = cli("cite", run)[1]
    assert "embedded annotators (chexbert-f1:miura, radcliq:v1): Apache-2.0" in cited
    assert "StanfordAIMI" not in cited


def test_other_runs_are_refused_in_one_sentence(cli, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"sample_id": "1", "prediction": "Mild edema.", "reference": "Edema."}\n')
    code, out, err = cli("score", file, "--metrics", TINY, "--access", "open")
    assert code == Exit.UNDECIDED
    said = " ".join((out + err).split())
    assert "reads reports of 'phantom' only" in said
    assert "chexbert.pth" in said


def test_iu_xray_is_refused(cli, tmp_path):
    split = iu_xray_tree.r2gen(tmp_path)
    assert cli("data", "add", "iu-xray", "--annotations", split)[0] == 0
    run = tmp_path / "run"
    words = ("run", "--model", "always-normal", "--task", "iu-findings-r2gen", "--allow-partial", "--out", run)
    cli(*words, "--replicates", 0)
    code, out, err = cli("score", run, "--metrics", TINY, "--replicates", 0)
    assert code == Exit.UNDECIDED
    assert "'iu-xray'" in out + err
    assert "chexbert.pth" in out + err


def test_labels_of_the_tiny_labeler_are_counted_like_shipped_ones():
    metric = LabelF1("chexbert-tiny")
    context = metric.fit(Corpus([], dataset="phantom"))
    assert set(context.data) == {"weights"}
    pairs = Pairs(
        ["1", "2"],
        ["Small left pleural effusion. No pneumothorax.", "There may be mild pulmonary edema."],
        ["", ""],
        [{"phantom": {"Pleural Effusion": 1.0, "Pneumothorax": 0.0}}, {"phantom": {"Edema": -1.0, "Fracture": 1.0}}],
    )
    features = {r: registry.load("features", r.name)().extract(pairs, dict(r.settings)) for r in metric.needs(context)}
    values = metric.value(metric.statistics(pairs, features, context).rows[:, 0].sum(axis=0))
    assert values["micro_precision"] == 1
    assert values["micro_recall"] == pytest.approx(2 / 3)
    assert np.isnan(values["f1_pneumothorax"])
