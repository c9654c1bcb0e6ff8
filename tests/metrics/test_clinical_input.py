"""Clinical metrics on input nobody wants: rows in = rows out, every row its own pair's; damage is one sentence."""

import json
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from cxrbench.config import load_config
from cxrbench.errors import Exit
from cxrbench.features.base import Resources
from cxrbench.features.store import FILE, Store
from cxrbench.metrics.base import SCORED, SKIPPED, Corpus
from cxrbench.scoring import choose
from cxrbench.scoring import score as score_all
from cxrbench.types import Prediction, Sample
from tests import commands
from tests.tiny_weights import CLINICAL, lay_out

cli = commands.cli

PLAIN = "Small left pleural effusion. No pneumothorax. Heart size is normal."
ODD = {
    "plain": PLAIN,
    "empty": "",
    "blank": " ",
    "whitespace": " \n\t \u00a0\u2003 ",
    "1,500 words": PLAIN + " and the chest is seen to be as it was when it was last seen" * 100,
    "one word of 5,000 letters": "a" * 5000,
    "emoji": "Small effusion \U0001fac1\U0001f44d\U0001f3fd. No \U0001f468\u200d\u2695\ufe0f edema.",
    "other scripts": "胸水なし。 Нет выпота. لا يوجد",
    "signs": "... ,, ;; ?! /. - ( )",
    "marks": "[CLS] [SEP] [PAD] [MASK] <s> </s>",
    "control": "No\x00 effusion\x07\u202e. \ufeffEdema\ufffd",
}
TEXTS = list(ODD.values())


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Weights of every clinical metric, and a store: the longest report is annotated once for all tests."""
    folder = tmp_path_factory.mktemp("clinical")
    lay_out(folder / "assets")
    (folder / "c.toml").write_text(f'[assets]\nfolder = "{folder / "assets"}"\n')
    return Resources(Store(folder / "store"), load_config(folder / "c.toml"))


@pytest.fixture
def bare(kept):
    """The same without a store: everything is annotated now."""
    return replace(kept, store=None)


def scored(keys, pairs, resources, failed=()):
    """What each metric makes of (prediction, reference) pairs of no known data set, as scoring has it."""
    samples = [Sample(str(i), str(i), None, true) for i, (_, true) in enumerate(pairs)]
    said = {str(i): Prediction(str(i), "ok", text) for i, (text, _) in enumerate(pairs)}
    said |= {str(i): Prediction(str(i), "engine_error") for i in failed}
    corpus = Corpus([true for _, true in pairs], config=resources.config, precision=resources.precision)
    return score_all(samples, said, choose(keys, (), ()), corpus, "none", resources=resources)


# Texts


@pytest.mark.parametrize("key", CLINICAL)
def test_odd_reports_have_their_own_row_whatever_stands_around_them(kept, bare, key):
    rotated = TEXTS[4:] + TEXTS[:4]
    pairs = [*((said, PLAIN) for said in TEXTS), *((PLAIN, true) for true in TEXTS), *zip(TEXTS, rotated, strict=True)]
    (together,) = scored([key], pairs, kept)
    assert together.reason == ""
    assert together.n == len(together.statistics.rows) == len(pairs)
    assert np.isfinite(together.statistics.rows).all()
    assert (together.statistics.rows[:, 0, 0] == 1).all()
    for i in range(0, len(pairs), 3):
        (alone,) = scored([key], [pairs[i]], kept if ODD["1,500 words"] in pairs[i] else bare)
        np.testing.assert_allclose(alone.statistics.rows[0], together.statistics.rows[i], atol=2e-5, err_msg=str(i))
    order = np.random.default_rng(0).permutation(len(pairs))
    (shuffled,) = scored([key], [pairs[i] for i in order], kept)
    np.testing.assert_allclose(shuffled.statistics.rows, together.statistics.rows[order], atol=2e-5)


def test_a_failed_prediction_between_odd_ones_shifts_nothing(kept):
    pairs = [(said, PLAIN) for said in TEXTS]
    whole = scored(CLINICAL, pairs, kept)
    holes = scored(CLINICAL, pairs, kept, failed=(0, 4))
    for one, two in zip(whole, holes, strict=True):
        status = two.statistics.status[:, 0]
        assert status[[0, 4]].tolist() == [SKIPPED, SKIPPED]
        assert (np.delete(status, [0, 4]) == SCORED).all()
        assert not two.statistics.rows[[0, 4]].any()
        np.testing.assert_allclose(
            np.delete(two.statistics.rows, [0, 4], 0), np.delete(one.statistics.rows, [0, 4], 0), atol=2e-5
        )


EMPTY = {
    "chexbert-f1": {"example_f1_14": 0.0, "agreement_14": 1.0},
    "radgraph-f1": {"f1": 0.0, "precision": 0.0, "recall": 0.0},
    "semb-score": {"semb_score": 1.0},
    "bertscore": {"f1": -0.8473319 / (1 - 0.8473319)},
    "ratescore": {"ratescore": 0.5, "without_entities": 1.0},
}
"""What two empty reports come to: documented at each metric, not an accident of its network."""


@pytest.mark.parametrize("key", EMPTY)
def test_two_empty_reports_have_the_documented_value(bare, key):
    (found,) = scored([key], [("", "")], bare)
    values = found.metric.value(found.rows().sum(axis=0))
    assert {name: values[name] for name in EMPTY[key]} == pytest.approx(EMPTY[key], abs=1e-6)


def test_half_a_character_is_read_as_a_replacement_character(bare):
    """JSON may hold one, and tokenizers take none."""
    pairs = [(PLAIN, PLAIN), ("No \ud800 effusion.", PLAIN), (PLAIN, "")]
    sound = [pairs[0], ("No \ufffd effusion.", PLAIN), pairs[2]]
    expected = [each.statistics.rows for each in scored(CLINICAL, sound, bare)]
    for found, rows in zip(scored(CLINICAL, pairs, bare), expected, strict=True):
        assert found.reason == ""
        compared = [0, 2] if found.metric.name == "radcliq" else [0, 1, 2]  # its BLEU sees the texts as they are
        np.testing.assert_allclose(found.statistics.rows[compared], rows[compared], atol=2e-5)


# Files


WEIGHTS = {
    "chexbert-f1": "chexbert/chexbert.pth",
    "semb-score": "chexbert/chexbert.pth",
    "radgraph-f1": "radgraph/weights.th",
    "bertscore": "distilroberta-base/model.safetensors",
    "radcliq": "radgraph/weights.th",
    "ratescore": "rate-ner/model.safetensors",
}
OTHER_FILES = {
    "chexbert-f1": "bert-base-uncased/tokenizer.json",
    "semb-score": "bert-base-uncased/config.json",
    "radgraph-f1": "radgraph/config.json",
    "bertscore": "distilroberta-base/tokenizer.json",
    "radcliq": "pubmedbert/config.json",
    "ratescore": "biolord/tokenizer.json",
}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("key", CLINICAL)
def test_cut_off_weights_stop_their_metric_in_one_sentence_and_no_other(key, share):
    file = lay_out() / WEIGHTS[key]
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    broken, whole = scored([key, "rouge-l:raw"], [(PLAIN, PLAIN)], Resources())
    assert broken.statistics is None
    assert "\n" not in broken.reason
    assert "again" in broken.reason, broken.reason
    assert whole.n == 1


@pytest.mark.parametrize("key", CLINICAL)
def test_a_cut_off_tokenizer_or_configuration_stops_its_metric_in_one_sentence(key):
    file = lay_out() / OTHER_FILES[key]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    broken, whole = scored([key, "rouge-l:raw"], [(PLAIN, PLAIN)], Resources())
    assert broken.statistics is None
    assert broken.reason
    assert "\n" not in broken.reason
    assert whole.n == 1


@pytest.mark.parametrize("key", CLINICAL)
def test_weights_of_another_network_are_refused(key):
    place = lay_out()
    if WEIGHTS[key].endswith("safetensors"):
        other = "biolord" if key == "ratescore" else "rate-ner"
        shutil.copy(place / other / "model.safetensors", place / WEIGHTS[key])
    else:
        torch.save({"model_state_dict": {"module.other": torch.zeros(2)}}, place / WEIGHTS[key])
    (broken,) = scored([key], [(PLAIN, PLAIN)], Resources())
    assert broken.statistics is None
    assert "missing" in broken.reason
    assert "\n" not in broken.reason


# The store


@pytest.mark.parametrize("damage", ["other version", "no database"])
@pytest.mark.parametrize("key", CLINICAL)
def test_a_store_that_cannot_be_read_is_named_and_nothing_is_scored_from_it(tmp_path, key, damage, bare):
    file = tmp_path / "store" / FILE
    resources = replace(bare, store=Store(file.parent))
    assert scored([key], [(PLAIN, PLAIN)], resources)[0].n == 1
    if damage == "other version":
        with sqlite3.connect(file) as base:
            base.execute("PRAGMA user_version = 99")
    else:
        file.write_bytes(b"no database at all" * 100)
    broken, whole = scored([key, "rouge-l:raw"], [(PLAIN, PLAIN)], resources)
    assert broken.statistics is None
    assert broken.broken
    assert "cxrbench cache purge" in broken.reason
    assert whole.n == 1


FULL_DISK = """
import json, resource, signal, sys
from pathlib import Path
from cxrbench.config import load_config
from cxrbench.features.base import Resources
from cxrbench.features.store import Store
from cxrbench.metrics.base import Corpus
from cxrbench.scoring import choose, score
from cxrbench.types import Prediction, Sample
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, keys = Path(sys.argv[1]), sys.argv[2].split(",")
texts = [f"Small effusion {i}. No pneumothorax." for i in range(300)]
samples = [Sample(str(i), str(i), None, text) for i, text in enumerate(texts)]
said = {str(i): Prediction(str(i), "ok", text) for i, text in enumerate(reversed(texts))}
config = load_config(folder / "c.toml")
resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))
results = score(samples, said, choose(keys, (), ()), Corpus(texts, config=config), "none",
                resources=Resources(Store(folder / "store"), config))
print(json.dumps({each.metric.name: [each.n, each.broken, each.reason] for each in results}))
"""


@pytest.mark.slow
def test_a_full_disk_stops_the_metrics_that_keep_annotations_and_keeps_whole_blocks(tmp_path):
    """A quota of the process stands for a full disk."""
    lay_out(tmp_path / "assets")
    (tmp_path / "c.toml").write_text(f'[assets]\nfolder = "{tmp_path / "assets"}"\n')
    words = [sys.executable, "-c", FULL_DISK, str(tmp_path), ",".join([*CLINICAL, "rouge-l:raw"])]
    child = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    assert found.pop("rouge-l")[0] == 300
    stopped = {name: reason for name, (n, broken, reason) in found.items() if broken}
    assert stopped
    assert all("full" in reason and "\n" not in reason for reason in stopped.values())
    assert all(n == 300 for name, (n, _, _) in found.items() if name not in stopped)


TWO = FULL_DISK.replace("resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))\n", "").replace(
    "range(300)", "range(12)"
)


@pytest.mark.slow
def test_two_processes_on_one_store_find_the_same(tmp_path):
    lay_out(tmp_path / "assets")
    (tmp_path / "c.toml").write_text(f'[assets]\nfolder = "{tmp_path / "assets"}"\n')
    words = [sys.executable, "-c", TWO, str(tmp_path), ",".join(CLINICAL)]
    children = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [child.communicate(timeout=300)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert said[0] == said[1]
    assert {tuple(each) for each in json.loads(said[0]).values()} == {(12, False, "")}


# As people meet it


def test_a_file_of_odd_reports_has_a_row_for_every_reference(cli, tmp_path):
    lay_out()
    short = [text for name, text in ODD.items() if name != "1,500 words"]
    lines = [{"sample_id": str(i), "prediction": said, "reference": PLAIN} for i, said in enumerate(short)]
    lines.append({"sample_id": "last", "prediction": PLAIN, "reference": "  "})
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ("score", "odd.jsonl", "--metrics", ",".join(CLINICAL), "--replicates", 0, "--json", "--access", "open")
    code, out, err = cli(*words)
    assert code == 0, err
    summary = json.loads(out)
    assert summary["excluded"] == {"no reference": 1}
    assert {entry["n"] for values in summary["metrics"].values() for entry in values.values()} == {len(short)}
    assert summary["outcomes"] == {"empty": 3, "ok": len(short) - 3}


def test_a_metric_that_breaks_on_damaged_weights_says_what_to_type(cli, tmp_path):
    file = lay_out() / "chexbert/chexbert.pth"
    file.write_bytes(file.read_bytes()[:5000])
    (tmp_path / "p.jsonl").write_text(json.dumps({"sample_id": "a", "prediction": PLAIN, "reference": PLAIN}) + "\n")
    code, out, err = cli("score", "p.jsonl", "--metrics", "chexbert-f1,bleu:raw", "--replicates", 0)
    assert code == Exit.UNDECIDED, err
    assert "not scored: chexbert-f1:miura: chexbert.pth is no file of weights" in out
    assert "incomplete: chexbert-f1:miura" in err
    assert "bleu:raw" in out
