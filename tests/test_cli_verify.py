"""`cxrbench verify metric`: a verdict to paste, without a word of the reports, and what signatures say afterwards."""

import json
import os
import shutil
import sys

import pytest
import torch

from cxrbench import reference_runs, verdicts, verification
from cxrbench.config import load_config
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.own_figures import Ours, pairs_of
from cxrbench.shipped import embedded
from tests import commands

cli = commands.cli

TEXTS = [("Xylophone in the left base.", "No xylophone."), ("Clear lungs.", "The lungs are clear.")]


@pytest.fixture
def own_texts(tmp_path):
    rows = [{"sample_id": f"s{i}", "prediction": p, "reference": r} for i, (p, r) in enumerate(TEXTS)]
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def other_chexbert(tmp_path):
    """Weights at an asset path that are not the published ones: here, a copy of the embedded labeler."""
    place = tmp_path / "labeler"
    shutil.copytree(embedded("labeler"), place)
    (tmp_path / "cxrbench.toml").write_text(
        f'[assets.paths]\nchexbert = "{place}/chexbert.pth"\nbert-base-uncased = "{place}"\n'
    )
    return place


def package(monkeypatch, change=lambda numbers: numbers):
    """A package for SembScore in this process, which says what cxrbench says, or what `change` makes of it."""

    def run(python, job, links, name, install, *, debug, limit):
        ours = Ours(pairs_of(list(zip(job["predictions"], job["references"], strict=True))), load_config())
        numbers = change(ours.per_pair("semb-score:chexbert")["semb_score"].tolist())
        found = {"pairs": {"semb-score:chexbert": {"semb_score": numbers}}}
        return {"python": "3.11", "versions": {"f1chexbert": "0.0.2"}, **found}

    monkeypatch.setattr(reference_runs, "run", run)


def test_a_text_metric_against_its_package_on_own_texts(cli, own_texts):
    code, out, err = cli("verify", "metric", "rouge-l:radeval", "--python", sys.executable, "--texts", own_texts)
    assert code == 0, err
    assert out.startswith("### cxrbench verify metric rouge-l:radeval: passed\n")
    assert "on 26 pairs: made-up ones, own ones." in out, "own texts come on top"
    assert "| rouge-l:radeval rouge_l, per pair | 26 | 0 | 0 | 1e-12 | equal |" in out
    for secret in ("ylophone", "Clear lungs", str(own_texts.parent), os.path.dirname(sys.executable)):
        assert secret not in out + err


def test_the_verdict_as_json(cli, own_texts):
    words = ("verify", "metric", "bleu", "--python", sys.executable, "--texts", own_texts, "--json")
    code, out, _ = cli(*words)
    assert code == 0
    (found,) = json.loads(out)
    assert found["outcome"] == "passed"
    assert found["metric"] == "bleu:raw"
    assert all(check["passed"] for check in found["checks"])
    assert found["comparison"]["passed"]
    assert found["comparison"]["n"] == 5 + verification.PHANTOM + 2
    assert "radeval-readme" in found["not_run"]
    assert found["signature"].startswith("bleu|preset:raw|")
    assert "ylophone" not in out


def test_missing_weights_are_one_sentence_with_the_command(cli):
    code, out, err = cli("verify", "metric", "chexbert-f1")
    assert (code, out) == (3, "")
    assert err.startswith("error: needs the weights of CheXbert and the tokenizer of bert-base-uncased: ")
    assert err.endswith("cxrbench assets fetch chexbert bert-base-uncased\n")


def test_weights_that_are_not_the_published_ones_fail(cli, other_chexbert, own_texts):
    # The embedded labeler happens to read the five published pairs right: here it finds everything everywhere.
    held = torch.load(other_chexbert / "chexbert.pth", weights_only=True)
    for name, weight in held["model_state_dict"].items():
        if "linear_heads" in name and name.endswith("bias"):
            weight[1] += 1000
    torch.save(held, other_chexbert / "chexbert.pth")
    code, out, _ = cli("verify", "metric", "chexbert-f1")
    assert code == 1
    assert out.startswith("### cxrbench verify metric chexbert-f1:miura: failed\n")
    assert "**failed** by" in out
    assert "|verified:no|" in out
    assert "Remembered" in out
    assert str(other_chexbert) not in out
    _, scored, _ = cli("score", own_texts, "--metrics", "chexbert-f1", "--replicates", 0, "--json")
    assert "|verified:no|" in scored


def test_a_pass_is_told_by_later_signatures(cli, other_chexbert, tmp_path, own_texts, monkeypatch):
    words = ("verify", "metric", "semb-score", "--python", sys.executable, "--device", "cpu")
    package(monkeypatch)
    code, out, err = cli(*words)
    assert code == 0, out + err
    assert "|verified:yes|" in out
    assert ", read on cpu\n" in out
    score = ("score", own_texts, "--metrics", "semb-score", "--replicates", 0, "--json", "--device", "cpu")
    code, scored, _ = cli(*score)
    assert code == 0
    assert "|verified:yes|" in json.loads(scored)["metrics"]["semb-score:chexbert"]["semb_score"]["signature"]

    # The same package on further texts: what differs takes the yes away.
    package(monkeypatch, lambda numbers: [*numbers[:-1], numbers[-1] + 0.1])
    code, out, _ = cli(*words, "--texts", own_texts)
    assert code == 1
    assert f"| {verification.PHANTOM + len(TEXTS)} | 1 | 0.1 | 1e-05 | **differs** |" in out
    assert "|verified:no|" in cli(*score)[1]

    (record,) = (tmp_path / "cache/cxrbench/verified").iterdir()
    record.write_text(record.read_text().replace("false", "true"))
    code, _, err = cli(*score)
    assert code == 4
    assert "the record that says whether semb-score was verified was changed after it was written" in err
    assert str(record) in err


def test_one_trivial_pair_earns_no_yes(cli, other_chexbert, tmp_path, monkeypatch):
    """A package that says 1 of everything agrees on a text beside itself; the made-up pairs find it out."""
    same = tmp_path / "same.jsonl"
    same.write_text(json.dumps({"sample_id": "a", "prediction": "Clear.", "reference": "Clear."}) + "\n")
    package(monkeypatch, lambda numbers: [1.0] * len(numbers))
    code, out, _ = cli("verify", "metric", "semb-score", "--python", sys.executable, "--texts", same)
    assert code == 1
    assert f"on {verification.PHANTOM + 1} pairs: made-up ones, own ones." in out
    assert "|verified:no|" in out

    # Where the weights, too, say the same of everything, both agree and nothing was learnt.
    monkeypatch.setattr(verification, "_lines", lambda *given: ([verdicts.Line("w", 25, 0, 0.0, 1e-5, False)], 0))
    shutil.rmtree(tmp_path / "cache/cxrbench/verified")
    code, out, _ = cli("verify", "metric", "semb-score", "--python", sys.executable, "--texts", same)
    assert code == 0
    assert "agreement is not remembered" in out
    assert "|verified:no|" in out
    assert not (tmp_path / "cache/cxrbench/verified").exists()


def test_a_package_that_says_nothing_is_no_pass(cli, other_chexbert, tmp_path, monkeypatch):
    package(monkeypatch, lambda numbers: [None] * len(numbers))
    code, out, _ = cli("verify", "metric", "semb-score", "--python", sys.executable)
    assert code == 1
    assert out.startswith("### cxrbench verify metric semb-score:chexbert: not verified\n")
    assert "| 0 | 0 | 0 | 1e-05 | nothing |" in out
    assert "nothing to compare" in out
    assert not (tmp_path / "cache/cxrbench/verified").exists()


def verdict(key, **changed):
    check = verdicts.Check("c", key, "v", "primary", (0.5, 0.5), (0.5, float("nan")), 1.0)
    given = {"checks": (check,), "not_run": {}, "comparison": None, **changed}
    machine = dict.fromkeys(("cxrbench", "python", "torch", "transformers", "platform"), "1")
    return verdicts.Verdict(key, f"{key}|v:1", {}, remembered=False, machine=machine, device="cpu", **given)


def test_what_is_not_a_number_is_null_in_json(cli, monkeypatch):
    monkeypatch.setattr(verification, "verify", lambda key, asked, config: verdict(key))
    code, out, _ = cli("verify", "metric", "bleu", "--json")
    assert code == 1
    (found,) = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert found["checks"][0]["measured"] == [0.5, None]
    assert not found["checks"][0]["passed"]
    code, out, _ = cli("verify", "metric", "bleu")
    assert "**failed** by nan" in out


@pytest.mark.parametrize("json_output", [False, True])
def test_verdicts_that_are_finished_are_told_when_a_later_part_breaks(cli, monkeypatch, json_output):
    def verify(key, asked, config):
        if key.startswith("semb"):
            raise CxrbenchError("the package broke", code=Exit.UNDECIDED)
        return verdict(key)

    monkeypatch.setattr(verification, "verify", verify)
    monkeypatch.setattr(verification, "require", lambda keys, config: None)
    code, out, err = cli("verify", "metric", "radcliq", *(["--json"] if json_output else []))
    assert code == 3
    assert "the package broke" in err
    told = [each["metric"] for each in json.loads(out)] if json_output else out
    assert "radgraph-f1:combined" in told
    assert "bertscore:rexrank" in told


def test_a_scorer_that_folds_case_is_named_where_it_differs(cli, monkeypatch):
    line = verdicts.Line("f1", 3, 1, 0.5, 1e-9, True)
    theirs = verdicts.Comparison(
        "radgraph", {"radgraph": "0.1.18"}, "3", "t", 3, 0, "", (line,), 3, verification.FOLDING
    )
    monkeypatch.setattr(verification, "require", lambda keys, config: None)
    monkeypatch.setattr(verification, "verify", lambda key, *rest: verdict(key, checks=(), comparison=theirs))
    code, out, _ = cli("verify", "metric", "radgraph-f1")
    assert code == 1
    assert "Hint: this radgraph compares words without their case" in out


def test_a_device_that_is_not_there_is_refused(cli):
    code, _, err = cli("verify", "metric", "bleu", "--device", "cuda:99")
    assert code == 2
    assert "no device 'cuda:99'" in err


def test_nothing_that_can_be_checked_is_no_pass(cli, other_chexbert):
    code, out, _ = cli("verify", "metric", "semb-score")
    assert code == 3
    assert "not verified" in out
    assert "`--python ENV`" in out
    assert not (other_chexbert.parent / "cache/cxrbench/verified").exists()


def test_embedded_weights_cannot_be_verified(cli, tmp_path):
    (tmp_path / "cxrbench.toml").write_text(
        f'[assets.paths]\nchexbert = "{embedded("labeler")}"\nbert-base-uncased = "{embedded("labeler")}"\n'
    )
    code, _, err = cli("verify", "metric", "chexbert-f1")
    assert code == 3
    assert "reads phantom only" in err


def test_texts_need_a_package_and_references(cli, own_texts, tmp_path):
    code, _, err = cli("verify", "metric", "bleu", "--texts", own_texts)
    assert code == 2
    assert "--python ENV" in err
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"sample_id": "a", "prediction": "Xylophone."}\n')
    code, _, err = cli("verify", "metric", "bleu", "--python", sys.executable, "--texts", bare)
    assert code == 2
    assert "no references" in err
    assert "Xylophone" not in err


def test_a_preset_without_a_package(cli):
    code, _, err = cli("verify", "metric", "length")
    assert code == 2
    assert "cxrbench's own" in err


@pytest.mark.parametrize("name", ["chexbert-f1", "radgraph-f1:combined"])
def test_learned_metrics_equal_their_packages(cli, tmp_path, name):
    python = os.environ.get("CXRBENCH_REFERENCE_PYTHON")
    if not python:
        pytest.skip("CXRBENCH_REFERENCE_PYTHON names no environment with f1chexbert and radgraph (docs/verify.md)")
    for folder in ("labeler", "annotator"):
        shutil.copytree(embedded(folder), tmp_path / folder)
    (tmp_path / "cxrbench.toml").write_text(
        f'[assets.paths]\nchexbert = "{tmp_path}/labeler"\nbert-base-uncased = "{tmp_path}/labeler"\n'
        f'radgraph = "{tmp_path}/annotator"\npubmedbert = "{tmp_path}/annotator/bert"\n'
    )
    code, out, err = cli("verify", "metric", name, "--python", python, "--json")
    assert code in (0, 1), err  # whether the embedded weights reach a published figure is not the question
    (found,) = json.loads(out)
    assert found["comparison"]["passed"]
    assert found["checks"]
