"""Clinical metrics from the command line: weights that are missing, gone or changed; citations; what a screen shows."""

import json
import shutil

import pytest
import torch

from cxrbench.cli.show import missing_lines
from cxrbench.config import cache_dir
from cxrbench.scoring import make_metric
from cxrbench.spec import find_task, task_files
from tests import commands
from tests.commands import metrics, small_run
from tests.data import mimic_tree
from tests.tiny_weights import CLINICAL, lay_out

cli, no_java = commands.cli, commands.no_java
pytestmark = pytest.mark.usefixtures("no_java")

REAL = [name for name in task_files() if name.startswith(("iu-", "mimic-")) and find_task(name).form == "text"]
LINE = {"sample_id": "a", "prediction": "Mild edema.", "reference": "Mild pulmonary edema."}


def summary(run):
    return json.loads((run / "summary.json").read_text())


def real_run(cli, tmp_path):
    """A run on a small tree in MIMIC-CXR's layout; returns the folder, what the command said, and its words."""
    roots = mimic_tree.build(tmp_path / "mimic")
    given = [word for name in ("reports", "images", "tables") for path in roots[name] for word in (f"--{name}", path)]
    assert cli("data", "add", "mimic-cxr", *given)[0] == 0
    words = ("run", "--model", "always-normal", "--task", "mimic-findings", "--allow-partial", "--replicates", 0)
    return tmp_path / "run", cli(*words, "--out", tmp_path / "run"), (*words, "--out", tmp_path / "run")


# Tasks


@pytest.mark.parametrize("task", REAL)
def test_every_task_on_real_reports_asks_for_the_clinical_metrics_and_needs_none(task):
    found = find_task(task).metrics
    assert set(CLINICAL) <= set(found.optional)
    assert not any(name.partition(":")[0] in CLINICAL for name in found.required)


def test_without_weights_a_run_lists_what_would_bring_them_and_is_complete(cli, tmp_path):
    run, (code, out, err), _ = real_run(cli, tmp_path)
    assert code == 0, err
    assert "not scored: chexbert-f1:miura, semb-score:chexbert (optional): needs the weights of CheXbert" in out
    for command in (
        "cxrbench assets fetch chexbert bert-base-uncased\n",
        "cxrbench assets fetch radgraph pubmedbert\n",
        "cxrbench assets fetch distilroberta-base\n",
        "cxrbench assets fetch rate-ner biolord\n",
    ):
        assert command in out
    told = [line for line in out.splitlines() if "assets fetch" not in line]
    assert max(map(len, told)) <= 100
    assert {make_metric(name).key for name in CLINICAL} <= set(summary(run)["not_scored"])


def test_a_reason_is_told_once_and_its_command_is_never_broken():
    why = {"reason": "needs the weights of CheXbert: cxrbench assets fetch chexbert", "required": False}
    other = {"reason": "needs Java", "required": True}
    assert missing_lines({"a": why, "m": other, "b": why}, 60) == [
        "not scored: a, b (optional): needs the weights of CheXbert:",
        "  cxrbench assets fetch chexbert",
        "not scored: m: needs Java",
    ]
    assert missing_lines({"a": why}, 100) == [f"not scored: a (optional): {why['reason']}"]


# Weights that are gone, or others


@pytest.fixture
def scored_run(cli, tmp_path):
    lay_out()
    run, (code, _, err), words = real_run(cli, tmp_path)
    assert code == 0, err
    assert {make_metric(name).key for name in CLINICAL} <= set(metrics(run))
    return run, words


def test_what_was_scored_stays_when_the_weights_are_gone(cli, scored_run):
    run, words = scored_run
    before = metrics(run)
    shutil.rmtree(cache_dir() / "assets")
    for again in (
        ("score", run, "--replicates", 0),
        ("score", run, "--replicates", 0, "--metrics", "chexbert-f1"),
        words,
    ):
        code, out, err = cli(*again)
        assert code == 0, err
        assert metrics(run) == before
    said = " ".join(" ".join(summary(run)["notes"]).split())
    assert "chexbert-f1:miura: kept from an earlier scoring; now it needs the weights of CheXbert" in said
    assert "cxrbench assets fetch chexbert bert-base-uncased" in said
    code, out, _ = cli("runs", "show", run)
    assert code == 0
    assert "ratescore:long" in out
    code, out, err = cli("score", run, "--replicates", 0, "--metrics", "chexbert-f1:llava-rad")
    assert code == 3
    assert "cxrbench assets fetch chexbert" in out + err
    assert {key: metrics(run)[key] for key in before} == before


def test_what_was_scored_stays_when_the_weights_are_others(cli, scored_run):
    run, words = scored_run
    before = metrics(run)
    file = cache_dir() / "assets/chexbert/chexbert.pth"
    stored = torch.load(file, weights_only=True)
    stored["model_state_dict"]["module.linear_heads.0.bias"] += 1
    torch.save(stored, file)
    code, _, err = cli("score", run, "--replicates", 0)
    assert code == 0, err
    assert metrics(run) == before
    assert cli(*words)[0] == 0
    after = metrics(run)
    changed = {
        key
        for key in before
        if {v["signature"] for v in before[key].values()} != {v["signature"] for v in after[key].values()}
    }
    assert changed == {"chexbert-f1:miura", "semb-score:chexbert", "radcliq:v1"}
    notes = " ".join(summary(run)["notes"])
    assert "chexbert-f1:miura, semb-score:chexbert are made in another way than at the last scoring: weights:" in notes


def test_other_texts_and_other_weights_say_what_to_do(cli, scored_run, tmp_path):
    """New answers cannot take the old scores, and the weights of the fit are not here."""
    run, _ = scored_run
    file = cache_dir() / "assets/chexbert/chexbert.pth"
    stored = torch.load(file, weights_only=True)
    stored["model_state_dict"]["module.linear_heads.0.bias"] += 1
    torch.save(stored, file)
    rows = (run / "predictions/0000.jsonl").read_text().splitlines()
    first = json.loads(rows[0])
    (run / "predictions/0000.jsonl").write_text(
        "\n".join([json.dumps({**first, "text": "Mild edema."}), *rows[1:]]) + "\n"
    )
    code, out, _ = cli("score", run, "--replicates", 0, "--metrics", "chexbert-f1")
    assert code == 3
    assert "are not those the metric was fitted with" in " ".join(out.split())
    assert "repeat the `cxrbench run` command of the run" in " ".join(out.split())


# Whom to cite, what is listed


def test_every_metric_of_the_field_says_whom_to_cite():
    ours = {"length", "distinct", "label-f1", "judge", "evaluate", "retrieval", "median-rank", "label-agreement"}
    from cxrbench import registry

    for entry in registry.entries("metrics").values():
        if entry.source == "cxrbench":
            made = registry.load("metrics", entry.name)
            assert bool(made.citation) == (entry.name not in ours), entry.name


def test_cite_names_each_paper_once_with_its_metrics(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    assert cli("score", run, "--metrics", "chexbert-f1,semb-score", "--replicates", 0)[0] == 0
    out = cli("cite", run)[1]
    assert out.count("Smit et al., Combining") == 1
    line = next(line for line in out.splitlines() if "Smit et al." in line)
    assert line.endswith("(chexbert-f1:miura, semb-score:chexbert)")
    assert "Papineni et al." in out


def test_runs_are_listed_as_json(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    broken = tmp_path / "runs/broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    code, out, _ = cli("runs", "list", "--json")
    assert code == 0
    damaged, found = json.loads(out)
    assert damaged["run"] == "runs/broken"
    assert "damaged" in damaged["error"]
    assert (found["run"], found["task"], found["answered"], found["scored"]) == ("runs/small", "small", 24, 24)
    assert found["primary"]["bleu:raw bleu_4"] == metrics(run)["bleu:raw"]["bleu_4"]["value"]


def test_no_runs_are_an_empty_list(cli):
    assert cli("runs", "list", "--json")[1].strip() == "[]"


def test_no_arrow_of_a_comparison_stands_alone(cli, tmp_path):
    run, words = small_run(cli, tmp_path, "--metrics", "bleu:raw,label-f1:phantom,length")
    other = tmp_path / "runs/other"
    assert cli(*words[:2], "always-normal", *words[3:-1], other)[0] in (0, 3)
    out = cli("compare", run, other, "--replicates", 100)[1]
    table = [line for line in out.splitlines() if "↑" in line]
    assert any("micro_precision" in line for line in table)
    assert not [line for line in table if line.strip() == "↑"]
    assert all(line.split()[0].partition("_")[0] in ("bleu", "micro", "macro") for line in table)
    assert max(map(len, out.splitlines())) <= 100


# What a model leaves behind


def test_a_tiny_model_gives_its_threads_back(cli, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        words = ("run", "--model", "demo", "--task", "demo-findings", "--replicates", 0, "--limit", 2)
        code, _, err = cli(*words, "--out", tmp_path / "runs/demo", "--metrics", "length")
        assert code == 0, err
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
