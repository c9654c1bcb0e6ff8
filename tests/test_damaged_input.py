"""Damaged input, command by command: a counted outcome or an error that names the place, never a word of a report."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import commands
from tests.commands import metrics, rows, small_run
from tests.small_task import write_small

cli = commands.cli

JSONL_TASK = """\
name: own
version: 1
title: Findings of somebody's own studies
kind: findings
access: credentialed
dataset: {name: jsonl, split: test, pool_split: train}
include: {sections: [findings], min_images: 1}
images: {offer: all, key: first}
offer: [indication]
target: findings
text: whitespace:v1
metrics:
  required: [bleu:raw, length, distinct]
citation: none
"""
SECRET = "conspicuous wording"


@pytest.fixture
def own(tmp_path):
    """Six studies with real PNG files of which one is broken, one is not there, and one study has no findings."""
    (tmp_path / "own.yaml").write_text(JSONL_TASK)
    rng, lines = np.random.default_rng(0), []
    for number in range(8):
        split = "train" if number >= 6 else "test"
        file = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (40, 30), np.uint8)).save(file)
        sections = {"indication": "cough"} if number == 2 else {"findings": f"{SECRET} {number}. Lungs clear."}
        lines.append(
            {
                "study_id": f"s{number}",
                "patient_id": f"p{number}",
                "split": split,
                "images": [file.name],
                "sections": sections,
            }
        )
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    (tmp_path / "1.png").unlink()
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_a_broken_and_a_missing_image_and_a_study_without_findings_are_counted(cli, own, tmp_path):
    code, out, err = cli(
        "run", "--model", "nearest-image", "--task", "own.yaml", "--reports", own, "--out", "run", "--replicates", 0
    )
    assert code == 0, err
    assert "scored 3 of 5 samples" in out
    assert "outcomes: 1 broken_image, 1 missing_image, 3 ok" in out
    assert "left out: 1 no findings" in out
    assert SECRET not in out + err
    assert {row["sample_id"]: row["outcome"] for row in rows(tmp_path / "run")} == {
        "s0": "broken_image", "s1": "missing_image", "s3": "ok", "s4": "ok", "s5": "ok",
    }  # fmt: skip
    assert metrics(tmp_path / "run")["bleu:raw"]["bleu_4"]["n"] == 3


def add(file, row):
    file.write_bytes(file.read_bytes() + (row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"study_id": "s3", "patient_id": "p", "sections": {"findings": SECRET}}, "stands already"),
        (b'{"study_id": "s9", "sections": {"findings": "caf\xe9 conspicuous wording"}}', "not UTF-8"),
        (b'{"study_id": "s9", "sections": {"findings": "conspicuous wor', "not valid JSON"),
    ],
)
def test_own_data_with_a_double_id_or_a_damaged_line_are_refused_by_line(cli, own, row, said):
    add(own, row)
    code, out, err = cli("run", "--model", "always-normal", "--task", "own.yaml", "--reports", own, "--out", "run")
    assert code == 2
    assert "own.jsonl, line 9" in err
    assert said in err
    assert SECRET not in out + err
    assert not Path("run").exists()


FILES = {
    "nan.csv": (b"sample_id,prediction,reference\na,clear,clear\nb,,no effusion\n", 0, ""),
    "latin.csv": (b"sample_id,prediction,reference\na,caf\xe9,clear\n", 2, "not UTF-8"),
    "twice.csv": (b"sample_id,prediction,reference\na,x,y\nb,x,y\na,z,y\n", 2, "line 2 and line 4"),
    "nan.jsonl": (b'{"sample_id": "a", "prediction": NaN, "reference": "clear"}\n', 0, ""),
    "id.jsonl": (b'{"sample_id": NaN, "prediction": "x", "reference": "clear"}\n', 2, "a sample_id is a number"),
    "cut.jsonl": (
        b'{"sample_id": "a", "prediction": "x", "reference": "y"}\n{"sample_id": "b',
        2,
        "last line is cut off",
    ),
    "empty.jsonl": (b"", 2, "no row"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_predictions_file_with_holes_is_counted_or_refused(cli, tmp_path, name):
    body, code, said = FILES[name]
    (tmp_path / name).write_bytes(body)
    found, out, err = cli("score", name, "--metrics", "bleu:raw,length,distinct", "--replicates", 0)
    assert found == code, err
    assert said in err
    assert ("1 empty" in out) == (code == 0)


def test_nan_of_pandas_is_an_empty_report_and_counted_as_one(cli, tmp_path):
    import pandas as pd

    table = pd.DataFrame({"sample_id": ["a", "b"], "prediction": ["clear", np.nan], "reference": ["clear", "effusion"]})
    table.to_parquet(tmp_path / "p.parquet")
    code, out, _ = cli("score", "p.parquet", "--metrics", "bleu:raw", "--replicates", 0, "--json")
    assert code == 0
    summary = json.loads(out)
    assert summary["outcomes"] == {"empty": 1, "ok": 1}
    assert summary["metrics"]["bleu:raw"]["bleu_4"]["n"] == 2


def test_an_empty_answer_of_a_replayed_file_is_scored_as_empty_and_counted(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    given = [{"sample_id": row["sample_id"], "prediction": row["text"]} for row in rows(run)]
    given[0]["prediction"] = " \n"
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given[:-1]))
    code, out, err = cli(
        "run", "--model", "replay:p.jsonl", "--task", "small.yaml", "--out", "replayed", "--replicates", 0
    )
    assert code == 3
    assert "incomplete: 1 of 24 samples have no row in the predictions file" in err
    assert "outcomes: 1 empty, 1 missing_prediction, 22 ok" in out
    assert "scored 23 of 24" in out


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("target: findings", "taget: findings", ("line 18", "taget")),
        ("  split: test", "  splt: test", ("line 8", "dataset.splt")),
        ("version: 1", "version: one", ("line 2", "version")),
        ("title:", "title: caf\udce9", ("small.yaml", "UTF-8")),
        ("offer: [indication]", "offer: [indication", ("small.yaml", "line")),
    ],
)
def test_a_task_file_with_a_mistake_is_refused_by_line_and_key(cli, tmp_path, old, new, said):
    file = write_small(tmp_path)
    file.write_bytes(file.read_text().replace(old, new, 1).encode("utf-8", "surrogateescape"))
    code, _, err = cli("run", "--model", "always-normal", "--task", file)
    assert code == 2
    assert all(word in err for word in said), err
    assert not Path("runs").exists()
