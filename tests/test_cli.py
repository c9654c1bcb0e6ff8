"""The commands as a user types them: what they print, where they write, how they exit."""

import json
import re
import subprocess
import sys

import pytest

from tests.commands import cli  # noqa: F401  (a fixture)
from tests.small_task import write_small


@pytest.fixture
def small(tmp_path):
    return write_small(tmp_path)


def only_run(tmp_path):
    (run,) = (file.parent for file in tmp_path.glob("runs/small/*/manifest.json"))
    return run


def test_a_run_reads_answers_scores_and_times(cli, small, tmp_path):
    code, out, _ = cli("run", "--model", "nearest-image", "--task", small, "--replicates", 200)
    assert code == 0
    assert "scored 24 of 24 samples" in out
    assert "patients" in out
    assert "distinct reports:" in out
    assert "reports/s" in out
    assert max(len(line) for line in out.splitlines() if not line.startswith("run folder")) <= 100
    run = only_run(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["n"] == summary["n_expected"] == 24
    bleu = summary["metrics"]["bleu:raw"]["bleu_4"]
    assert bleu["ci"][0] <= bleu["value"] <= bleu["ci"][1]
    assert bleu["signature"].startswith("bleu|preset:raw")
    assert bleu["higher_is_better"] is True
    assert summary["speed"]["reports_per_s"] > 0
    assert summary["speed"]["peak_rss"] > 0
    rows = [json.loads(line) for line in (run / "predictions/0000.jsonl").read_text().splitlines()]
    assert len({row["sample_id"] for row in rows}) == 24
    assert all(row["times"]["image_read"] > 0 and row["inputs"] for row in rows)


def test_the_same_command_again_answers_nothing_anew(cli, small, tmp_path):
    words = ("run", "--model", "random-report", "--task", small, "--replicates", 0)
    cli(*words)
    before = (only_run(tmp_path) / "predictions/0000.jsonl").read_bytes()
    code, out, _ = cli(*words)
    assert code == 0
    assert "scored 24 of 24" in out
    assert (only_run(tmp_path) / "predictions/0000.jsonl").read_bytes() == before


def test_json_is_the_summary_unrounded(cli, small, tmp_path):
    code, out, _ = cli("run", "--model", "always-normal", "--task", small, "--json", "--replicates", 100)
    assert code == 0
    assert json.loads(out) == json.loads((only_run(tmp_path) / "summary.json").read_text())


def test_limits_nest_and_are_another_run(cli, small, tmp_path):
    cli("run", "--model", "always-normal", "--task", small, "--limit", 5, "--replicates", 0)
    cli("run", "--model", "always-normal", "--task", small, "--limit", 9, "--replicates", 0)
    files = sorted(tmp_path.glob("runs/small/*/predictions/0000.jsonl"), key=lambda f: f.stat().st_size)
    few, many = ({json.loads(line)["sample_id"] for line in file.read_text().splitlines()} for file in files)
    assert len(few) == 5
    assert len(many) == 9
    assert few < many


def test_a_dry_run_shows_everything_and_writes_nothing(cli, small, tmp_path):
    code, out, _ = cli("run", "--model", "nearest-image", "--task", small, "--dry-run")
    assert code == 0
    assert "24 samples of" in out
    assert len(re.findall(r"^  sample ", out, re.M)) == 3
    assert "All image files are there." in out
    assert "Estimate" in out
    assert "bleu:raw (required)" in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("run", "--model", "nearest-imag", "--task", "demo-findings"), 2, "did you mean 'nearest-image'"),
        (("run", "--model", "always-normal", "--task", "none"), 2, "there is no task called 'none'"),
        (("run", "--model", "always-normal", "--task", "demo-findings", "--inputs", "all"), 2, "--inputs cannot be"),
        (("run", "--model", "always-normal", "--task", "demo-findings", "--set", "seed"), 2, "is not key=value"),
        (("run", "--model", "always-normal", "--task", "mimic-findings"), 2, "cxrbench data add mimic-cxr"),
        (("run", "--model", "random-report", "--task", "iu-findings", "--engine", "none"), 2, "without an engine"),
        (("run", "--model", "always-normal", "--task", "iu-findings", "--images", "/none"), 2, "no such file"),
        (("run", "--model", "always-normal", "--task", "iu-findings", "--dtype", "bf16"), 2, "would change nothing"),
        (("run", "--model", "random-report", "--task", "iu-findings", "--set", "x=1"), 2, "would change nothing"),
        (("score", "/none"), 2, "no such run folder or file"),
        (("compare", "/none", "/none"), 2, "there is no run here"),
        (("runs", "show", "/none"), 2, "there is no run here"),
        (("score", "replay:p.csv"), 2, "to do: cxrbench run --model replay:p.csv --task TASK, or cxrbench score p.csv"),
        (("score", "none:p.csv"), 2, "there is no such run folder or file"),
        (("run", "--model", "replay:.", "--task", "demo-findings"), 2, "this is a folder, and a predictions file is"),
        (("list", "model"), 2, "did you mean 'models'"),
        (("data", "add", "phantom", "--reports", "."), 2, "has no root 'reports'"),
        (("data", "add", "iu-xray"), 2, "no root was given"),
        (("run",), 2, "--model is missing"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_one_sentence_and_a_code(cli, words, code, said):
    found, _, err = cli(*words)
    assert found == code
    assert said in err
    assert "Traceback" not in err


def test_a_board_names_the_task_that_was_meant(cli, tmp_path):
    board = "name: b\ntitle: b\ntasks: [{task: demo-findngs, runs: [runs], columns: [rouge-l:raw/rouge_l]}]\n"
    (tmp_path / "runs").mkdir()
    (tmp_path / "b.yaml").write_text(board)
    code, _, err = cli("leaderboard", "build", "b.yaml", "-o", "b.html")
    assert code == 2
    assert "no shipped task is called 'demo-findngs' (did you mean 'demo-findings'?)" in err
    (tmp_path / "b.yaml").write_text(board.replace("demo-findngs", "my-own"))
    code, _, err = cli("leaderboard", "build", "b.yaml", "-o", "b.html")
    assert (code, "shipped task" in err) == (2, False)


def test_a_required_metric_that_cannot_run_is_incomplete(cli, small):
    small.write_text(small.read_text().replace("  pool_split: train\n", "").replace("seen-in-train, ", ""))
    code, out, err = cli("run", "--model", "always-normal", "--task", small, "--metrics", "bleu:r2gen,length")
    assert code == 3
    assert "not scored: bleu:r2gen" in out
    assert "--vocabulary" in out
    assert "incomplete: bleu:r2gen" in err


def test_scoring_again_takes_what_is_known_and_adds_what_is_new(cli, small, tmp_path):
    cli("run", "--model", "random-report", "--task", small, "--replicates", 0)
    run = only_run(tmp_path)
    first = {file: file.stat().st_mtime_ns for file in run.glob("scores/*.parquet")}
    code, out, _ = cli("score", run, "--metrics", "bleu:raw,rouge-l:rouge-score", "--replicates", 0)
    assert code == 0
    assert "rouge-l:rouge-score" in out
    assert all(file.stat().st_mtime_ns == time for file, time in first.items())
    assert len(list(run.glob("scores/*.parquet"))) == len(first) + 1


def test_compare_pairs_two_runs_and_refuses_two_that_differ(cli, small, tmp_path):
    for model in ("always-normal", "nearest-image"):
        cli("run", "--model", model, "--task", small, "--replicates", 0)
    runs = sorted(tmp_path.glob("runs/small/*"))
    code, out, _ = cli("compare", *runs, "--replicates", 300)
    assert code == 0
    assert "bleu:raw bleu_4" in out
    assert max(len(line) for line in out.splitlines()) <= 100
    code, out, _ = cli("compare", *runs, "--replicates", 300, "--json")
    value = json.loads(out)["comparisons"][0]["metrics"]["rouge-l:raw"]["values"]["rouge_l"]
    assert value["difference"] == pytest.approx(value["candidate"] - value["baseline"])
    assert value["ci"][0] <= value["difference"] <= value["ci"][1]
    assert 0 < value["p"] <= value["p_holm"] <= 1
    cli("run", "--model", "always-normal", "--task", small, "--limit", 9, "--replicates", 0)
    other = next(run for run in tmp_path.glob("runs/small/*") if run not in runs)
    code, _, err = cli("compare", runs[0], other)
    assert code == 3
    assert "limit: none -> 9" in err


def test_runs_list_and_show(cli, small, tmp_path):
    assert "no runs" in cli("runs", "list")[1]
    cli("run", "--model", "always-normal", "--task", small, "--replicates", 0)
    code, out, _ = cli("runs", "list")
    assert code == 0
    assert "24/24" in out
    code, out, _ = cli("runs", "show", only_run(tmp_path))
    assert "model.name" in out
    assert "bleu_4" in out


def test_cite_names_signatures_and_licences(cli, small, tmp_path):
    cli("run", "--model", "always-normal", "--task", small, "--replicates", 100)
    code, out, _ = cli("cite", only_run(tmp_path))
    assert code == 0
    assert "was evaluated on small version 1" in out
    assert "bleu|preset:raw" in out
    assert "licence" in out


@pytest.mark.parametrize("what", ["models", "tasks", "metrics", "datasets", "engines"])
def test_everything_can_be_listed_in_100_columns(cli, what):
    code, out, _ = cli("list", what)
    assert code == 0
    assert len(out.splitlines()) > 2
    assert max(len(line) for line in out.splitlines()) <= 100
    if what == "metrics":
        assert {"distilbert-base-uncased,", "IAMJB/RadEvalModernBERT,", "FILE.py[@config][#value]"} <= set(out.split())
        assert "bleu: bleu_1↑, bleu_2↑, bleu_3↑, bleu_4↑" in out.splitlines()
    if what == "tasks":
        row = next(line for line in out.splitlines() if line.startswith("iu-findings "))
        assert row.split() == ["iu-findings", "1", "findings", "images,", "indication", "open", "3337", "verified"]
        assert len([line for line in out.splitlines() if line.startswith(" ")]) < 8  # hardly a row needs two lines


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_no_name_or_number_is_cut_at_any_width(cli, small, tmp_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    out = cli("list", "tasks")[1]
    assert "iu-impression-given-findings" in out
    _, out, _ = cli("run", "--model", "nearest-image", "--task", small, "--replicates", 100)
    assert "abnormal = yes" in out
    values = json.loads((only_run(tmp_path) / "summary.json").read_text())["metrics"]["bleu:raw"]["bleu_1"]
    assert f"{values['value']:.4f}" in out
    assert f"[{values['ci'][0]:.4f}, {values['ci'][1]:.4f}]" in out


def test_a_task_can_be_printed_and_copied(cli, tmp_path):
    code, out, _ = cli("list", "tasks", "--show", "demo-findings")
    assert code == 0
    file = tmp_path / "demo-findings.yaml"
    file.write_text(out)
    assert cli("run", "--model", "always-normal", "--task", file, "--dry-run")[0] == 0


def test_doctor_says_what_is_here(cli):
    code, out, _ = cli("doctor")
    assert code == 0
    assert "Python" in out
    assert "metric bleu" in out
    assert "broken" not in out
    assert re.search(r"metric judge +with a file +judge:FILE", out)
    assert re.search(r"metric green +ready +with --judge", out)


def test_a_bare_file_is_scored_and_counts_as_credentialed(cli, tmp_path):
    file = tmp_path / "p.csv"
    file.write_text("sample_id,prediction,reference\na,clear lungs,clear lungs\nb,,no effusion\n")
    code, out, _ = cli("score", file, "--replicates", 100, "--json")
    assert code == 0
    summary = json.loads(out)
    assert summary["access"] == "credentialed"
    assert summary["outcomes"] == {"empty": 1, "ok": 1}
    assert summary["n"] == 2
    assert summary["cluster_unit"] == "sample"


def test_a_file_against_a_task_counts_what_is_missing_and_what_is_too_much(cli, small, tmp_path):
    cli("run", "--model", "always-normal", "--task", small, "--replicates", 0)
    rows = (only_run(tmp_path) / "predictions/0000.jsonl").read_text().splitlines()
    picked = [json.loads(row) for row in rows[:20]]
    lines = [json.dumps({"sample_id": row["sample_id"], "prediction": row["text"]}) for row in picked]
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join([*lines, json.dumps({"sample_id": "foreign", "prediction": "x"})]) + "\n")
    _, out, _ = cli("score", file, "--task", small, "--replicates", 0, "--json")
    summary = json.loads(out)
    assert summary["outcomes"] == {"missing_prediction": 4, "ok": 20}
    assert summary["metrics"]["bleu:raw"]["bleu_4"]["n"] == 20
    assert any("1 row belongs to no sample of the task, in p.jsonl" in note for note in summary["notes"])


def test_a_run_of_credentialed_data_is_the_owners_alone_and_quotes_no_text(cli, tmp_path):
    file = write_small(tmp_path, access="credentialed")
    code, out, err = cli("run", "--model", "nearest-image", "--task", file, "--replicates", 0)
    assert code == 0
    run = only_run(tmp_path)
    assert run.stat().st_mode & 0o077 == 0
    texts = [json.loads(line)["text"] for line in (run / "predictions/0000.jsonl").read_text().splitlines()]
    assert not any(text in out or text in err for text in texts)


def test_a_defect_shows_its_place_and_not_its_message(cli, monkeypatch, small):
    import cxrbench.plan

    def broken(*_):
        raise RuntimeError("patient John Doe")

    monkeypatch.setattr(cxrbench.plan, "plan_run", broken)
    code, _, err = cli("run", "--model", "always-normal", "--task", small)
    assert code == 4
    assert "RuntimeError" in err
    assert "John Doe" not in err


def test_the_module_runs_as_a_program():
    done = subprocess.run([sys.executable, "-m", "cxrbench", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("cxrbench ")


def own_data(folder, count=6):
    """Someone's own studies: real PNG files and a JSONL file."""
    import numpy as np
    from PIL import Image

    lines = []
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 255, (90, 120), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
        split = "train" if number % 2 else "test"
        row = {
            "study_id": f"s{number}", "patient_id": f"p{number}", "split": split, "images": [f"{number}.png"],
            "sections": {"findings": f"Study number {number} is clear."}, "scanner": "AB"[number % 2],
        }  # fmt: skip
        lines.append(json.dumps(row))
    file = folder / "own.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_own_data_are_added_checked_prepared_and_run_from_an_image_cache(cli, tmp_path):
    file = own_data(tmp_path)
    assert cli("data", "add", "jsonl", "--reports", file, "--images", tmp_path)[0] == 0
    assert cli("data", "check", "jsonl")[0] == 0
    task = tmp_path / "small.yaml"
    write_small(tmp_path, access="credentialed")
    text = task.read_text().replace("name: phantom", "name: jsonl").replace("offer: [indication]", "offer: []")
    text = text.replace("  options: {train: 30, validate: 5, test: 24, size: 64}\n", "").replace("n: 24", "n: 3")
    task.write_text(text.replace("key: [PA, AP]", "key: first"))
    words = ("run", "--model", "nearest-image", "--task", task, "--replicates", 0)
    assert cli(*words)[0] == 0
    code, out, _ = cli("data", "prepare", "jsonl", "--image-cache", "full", "--task", task)
    assert code == 0
    assert "6 decoded" in out
    for file in tmp_path.glob("*.png"):
        file.touch()
    runs = set(tmp_path.glob("runs/small/*"))
    cli(*words)
    assert set(tmp_path.glob("runs/small/*")) == runs, "a full cache changes no pixel and so is the same run"
    cli("data", "prepare", "jsonl", "--image-cache", 40, "--task", task)
    code, out, _ = cli(*words)
    assert code == 0
    assert len(set(tmp_path.glob("runs/small/*"))) == 2, "reduced images are another run"
    assert "jsonl" in cli("data", "list")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--image-cache", "full"), "needs to know which images"),
        (("--image-cache", "8", "--task", "custom-findings"), "cannot be '8'"),
        (("--image-cache", "full", "--task", "demo-findings"), "is a task on phantom, not on jsonl"),
    ],
)
def test_a_wrong_image_cache_is_refused(cli, tmp_path, words, said):
    cli("data", "add", "jsonl", "--reports", own_data(tmp_path), "--images", tmp_path)
    code, _, err = cli("data", "prepare", "jsonl", *words)
    assert code == 2
    assert said in err
