"""What stands beside a score, and what a further scoring may not take away."""

import json
import os
import subprocess
import sys

import pytest

from tests import commands
from tests.commands import answers, metrics, rows, small_run
from tests.small_task import write_small

cli = commands.cli


def summary(run):
    return json.loads((run / "summary.json").read_text())


def predictions_file(run, file, **further):
    """The answers of a run as a predictions file, with further columns (name -> function of the position)."""
    lines = [
        {"sample_id": row["sample_id"], "prediction": row["text"], **{key: make(i) for key, make in further.items()}}
        for i, row in enumerate(rows(run))
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


# A further scoring


def test_scoring_one_metric_keeps_the_intervals_of_the_others(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    assert cli("score", run, "--replicates", 200)[0] == 0
    before = metrics(run)
    assert before["bleu:raw"]["bleu_4"]["ci"]
    assert cli("score", run, "--metrics", "rouge-l:rouge-score", "--replicates", 0)[0] == 0
    after = metrics(run)
    assert {key: after[key] for key in before} == before
    assert summary(run)["replicates"] == 200
    assert cli("score", run, "--metrics", "length", "--replicates", 300)[0] == 0
    assert summary(run)["replicates"] == 300


def test_scoring_one_metric_does_not_make_a_run_complete(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # no Java
    task = write_small(tmp_path)
    task.write_text(task.read_text().replace("required: [", "required: [meteor:raw, "))
    run = tmp_path / "run"
    words = ("run", "--model", "random-report", "--task", task, "--replicates", 0, "--out", run)
    assert cli(*words)[0] == 3
    code, out, _ = cli("score", run, "--metrics", "length", "--replicates", 0)
    assert code == 0  # what was asked for is there
    assert "meteor" not in out.partition("scored earlier")[0]
    found = summary(run)
    assert "meteor:raw" in found["required"]
    assert "meteor:raw" in found["not_scored"]
    assert cli("score", run, "--replicates", 0)[0] == 3
    other = tmp_path / "other"
    assert cli(*words[:-1], other)[0] == 3
    code, _, err = cli("compare", run, other)
    assert code == 3
    assert "required by the task, not compared: meteor:raw" in err
    assert cli("cite", run)[0] == 3


def test_a_reason_is_told_once(cli, tmp_path):
    """Below the table; and on standard error alone where JSON took the table's place."""
    run, _ = small_run(cli, tmp_path)
    reason = "no embedded annotator has the shape of rate-ner"
    code, out, err = cli("score", run, "--metrics", "bleu,ratescore")
    assert code == 3
    assert " ".join(out.split()).count(reason) == 1
    assert "(optional)" not in out
    assert err == "incomplete: ratescore:long: not scored, see above\n"
    code, out, err = cli("score", run, "--metrics", "bleu,ratescore", "--json")
    assert code == 3
    assert reason in err


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_word_for_nothing_is_a_text_and_is_counted(cli, tmp_path, suffix):
    texts = [("NaN", "clear lungs"), ("no effusion", "None"), ("null", "no effusion"), ("lungs clear", "clear lungs")]
    given = [{"sample_id": f"s{n}", "prediction": p, "reference": r} for n, (p, r) in enumerate(texts)]
    body = "".join(json.dumps(row) + "\n" for row in given)
    if suffix == "csv":
        body = "sample_id,prediction,reference\n" + "".join(",".join(row.values()) + "\n" for row in given)
    (tmp_path / f"p.{suffix}").write_text(body)
    code, out, _ = cli("score", f"p.{suffix}", "--metrics", "bleu", "--replicates", 0, "--json")
    assert code == 0
    summary = json.loads(out)
    assert summary["outcomes"] == {"ok": 4}
    assert [note for note in summary["notes"] if note.startswith("2 predictions and 1 reference in p.")]


def test_a_number_made_in_another_way_says_so(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    (tmp_path / "words.txt").write_text("the\nheart\nlungs\nare\nclear\n")
    words = ("score", run, "--metrics", "bleu:r2gen", "--replicates", 0)
    assert cli(*words, "--vocabulary", "words.txt")[0] == 0
    code, out, _ = cli(*words)
    assert code == 0
    assert "bleu:r2gen is made in another way than at the last scoring" in out
    assert "made in another way" not in cli(*words)[1]


# Beside every score


def test_the_share_of_distinct_reports_needs_no_metric(cli, tmp_path):
    run = tmp_path / "runs/constant"
    words = ("--task", write_small(tmp_path), "--replicates", 0)
    assert cli("run", "--model", "always-normal", *words, "--out", run, "--metrics", "bleu:raw")[0] == 0
    assert summary(run)["distinct"] == {"reports": 24, "distinct": 1, "reference_distinct": 24}
    line = "distinct reports: 1 of 24, where the references have 24"
    file = predictions_file(run, tmp_path / "p.jsonl")
    assert line in cli("score", file, *words, "--metrics", "bleu:raw")[1]
    assert "distinct reports: 1 of 24" in cli("runs", "list")[1]
    other = tmp_path / "runs/other"
    assert cli("run", "--model", "random-report", *words, "--out", other, "--metrics", "bleu:raw")[0] == 0
    assert line in cli("compare", run, other)[1]


def test_runs_list_says_how_many_samples_were_scored(cli, tmp_path):
    words = ("--task", write_small(tmp_path), "--replicates", 0, "--limit", 6)
    assert cli("run", "--model", "random-report", *words)[0] == 0
    out = cli("runs", "list")[1]
    assert "6/6 answered (--limit 6)  scored 6 of 6" in out
    assert "scores: bleu:raw bleu_4 " in out
    assert max(map(len, out.splitlines())) <= 100


def test_what_a_metric_failed_on_is_not_listed_or_cited_as_scored(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    code, out, _ = cli("cite", run)
    assert (code, "24 of 24 samples scored" in out) == (0, True)
    body = summary(run)
    for entry in body["metrics"]["cider:raw"].values():
        entry |= {"n": 20, "failed": 4}
    (run / "summary.json").write_text(json.dumps(body))
    assert "24/24 answered  scored 20 to 24 of 24" in cli("runs", "list")[1]
    (listed,) = json.loads(cli("runs", "list", "--json")[1])
    assert (listed["scored"], listed["scored_by"]["cider:raw"], listed["scored_by"]["bleu:raw"]) == (20, 20, 24)
    assert "20 to 24 of 24 samples scored" in cli("cite", run)[1]


def test_few_patients_are_named_in_a_comparison(cli, tmp_path):
    found = []
    for model in ("always-normal", "random-report"):
        found.append(tmp_path / model)
        task = write_small(tmp_path)
        assert cli("run", "--model", model, "--task", task, "--limit", 5, "--out", found[-1], "--replicates", 0)[0] == 0
    code, out, _ = cli("compare", *found, "--metrics", "bleu:raw,rouge-l:raw")
    assert code == 0
    assert "interval: only" in out
    assert "MDE: only" in out
    assert "5 of 5 samples compared" in out
    value = json.loads(cli("compare", *found, "--json")[1])["comparisons"][0]["metrics"]["bleu:raw"]["values"]["bleu_4"]
    assert value["ci_method"] in ("bca", "percentile")
    assert "clusters" in value["notes"]["interval"]


def test_slices_say_how_their_intervals_were_made(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    assert cli("score", run, "--replicates", 1000)[0] == 0
    entry = summary(run)["slices"]["abnormal"]["yes"]["metrics"]["bleu:raw"]["bleu_4"]
    assert entry["ci_method"] == "percentile"
    assert entry["replicates"] == 100
    assert "clusters" in entry["note"]


# Files


def test_columns_of_a_predictions_file_are_subgroups_beside_those_of_the_task(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    file = predictions_file(run, tmp_path / "p.jsonl", site=lambda i: "ab"[i % 2], abnormal=lambda i: "wrong")
    task = tmp_path / "small.yaml"
    code, out, _ = cli("score", file, "--task", task, "--slices", "site,abnormal", "--replicates", 0, "--json")
    assert code == 0
    slices = json.loads(out)["slices"]
    assert {group: entry["n"] for group, entry in slices["site"].items()} == {"a": 12, "b": 12}
    assert "wrong" not in slices["abnormal"]


@pytest.mark.parametrize(
    ("further", "said"),
    [
        (("--slices", "sitee"), "no sample has a column 'sitee' to slice by (did you mean 'site'?)"),
        (("--allow-partial",), "--allow-partial needs a task"),
        (("--reports", "."), "--reports needs a task"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(cli, tmp_path, further, said):
    (tmp_path / "p.csv").write_text("sample_id,prediction,reference,site\na,clear,clear,x\nb,clear,effusion,y\n")
    code, _, err = cli("score", "p.csv", "--replicates", 0, *further)
    assert code == 2
    assert said in err


def test_slices_are_no_option_of_a_run_folder(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    code, _, err = cli("score", run, "--slices", "site")
    assert code == 2
    assert "--slices is for predictions files" in err


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("p.csv", "would replace the predictions"),
        ("precious.txt", "holds no summary of cxrbench"),
        ("nowhere/o.json", "there is no such folder"),
        ("folder", "this is a folder"),
    ],
)
def test_a_summary_never_destroys_a_file(cli, tmp_path, out, said):
    (tmp_path / "p.csv").write_text("sample_id,prediction,reference\na,clear,clear\n")
    (tmp_path / "precious.txt").write_text("keep me")
    (tmp_path / "folder").mkdir()
    before = {file: file.read_bytes() for file in tmp_path.glob("*.*")}
    code, _, err = cli("score", "p.csv", "--replicates", 0, "--out", out)
    assert code == 2
    assert said in err
    assert {file: file.read_bytes() for file in tmp_path.glob("*.*")} == before


def test_a_summary_may_replace_a_summary(cli, tmp_path):
    (tmp_path / "p.csv").write_text("sample_id,prediction,reference\na,clear,clear\n")
    for _ in range(2):
        assert cli("score", "p.csv", "--replicates", 0, "--out", "o.json")[0] == 0
    assert json.loads((tmp_path / "o.json").read_text())["n"] == 1


def test_the_study_of_a_bare_file_is_kept(tmp_path):
    from cxrbench.cli.score import _bare

    file = tmp_path / "p.csv"
    file.write_text("sample_id,study_id,prediction,reference\na,s,clear,clear\n")
    assert [sample.study_id for sample in _bare(file, "none", "open")[0]] == ["s"]


# Speed, resumption, pipes


def test_a_cut_file_does_not_lend_the_time_of_lost_batches_to_the_others(cli, tmp_path):
    task = write_small(tmp_path)
    run = tmp_path / "run"
    words = ("run", "--model", "nearest-image", "--task", task, "--batch-size", 4, "--replicates", 0, "--out", run)
    assert cli(*words)[0] == 0
    ended = [json.loads(line)["ended"] for line in (run / "batches/0000.jsonl").read_text().splitlines()]
    file = run / "predictions/0000.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:8]))
    assert cli("score", run, "--replicates", 0)[0] == 3
    speed = summary(run)["speed"]
    assert speed["reports"] == 8
    assert speed["seconds"] == max(ended[:2]) < max(ended)


def test_resume_alone_repeats_the_command_that_began_the_run(cli, tmp_path):
    whole, _ = small_run(cli, tmp_path, "--batch-size", 2, "--limit", 10, "--seed", 5)
    run = tmp_path / "moved"
    os.rename(whole, run)
    expected = answers(run)
    file = run / "predictions/0000.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:4]))
    code, out, err = cli("run", "--resume", run)
    assert code == 0, err
    assert answers(run) == expected
    assert "scored 10 of 10" in out
    assert not whole.exists()


def test_images_alone_are_refused_where_a_task_offers_none(cli, tmp_path):
    task = write_small(tmp_path)
    text = (
        task.read_text().replace("  offer: all\n  key: [PA, AP]\n", "  offer: none\n").replace("  min_images: 1\n", "")
    )
    task.write_text(text)
    code, _, err = cli("run", "--model", "always-normal", "--task", task, "--inputs", "image")
    assert code == 2
    assert "offers no image" in err


def test_a_reader_that_goes_away_is_no_failure():
    child = subprocess.Popen(
        [sys.executable, "-m", "cxrbench", "list", "metrics"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdout.close()
    said = child.stderr.read().decode()
    child.stderr.close()
    assert child.wait(timeout=60) == 141
    assert said == ""


def test_an_error_has_its_code_under_debug_too(cli):
    command = [sys.executable, "-m", "cxrbench", "--debug", "list", "nonsense"]
    child = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert child.returncode == 2
