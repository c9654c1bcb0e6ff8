"""Tasks whose answers are no text, by their commands: vectors and pictures, resumed, scored, refused."""

import json
import stat

import numpy as np
import pytest

from cxrbench.artifacts import read_picture, read_vectors
from tests.commands import cli, rows  # noqa: F401 - a fixture
from tests.small_task import write_small

RETRIEVAL = """\
name: pairs
version: 1
title: Pairs of a few drawn studies
kind: retrieval
access: {access}
dataset:
  name: phantom
  split: test
  pool_split: train
  options: {{train: 40, validate: 5, test: 12, size: 64}}
include: {{sections: [findings], min_images: 1}}
images: {{offer: key, key: [PA, AP]}}
target: findings
text: whitespace:v1
metrics:
  required: [retrieval:same-text, median-rank:same-text]
slices: [abnormal]
citation: cxrbench
"""

DRAWING = (
    RETRIEVAL.replace("name: pairs", "name: drawing")
    .replace("kind: retrieval", "kind: image-generation")
    .replace("[retrieval:same-text, median-rank:same-text]", "[frechet:pixels]")
)


def write(folder, text, access="open"):
    file = folder / f"{text.split()[1]}.yaml"
    file.write_text(text.format(access=access))
    return file


def run(cli, tmp_path, text, model, *further, out="out", access="open"):
    words = ("run", "--model", model, "--task", write(tmp_path, text, access), "--out", tmp_path / out)
    return cli(*words, "--replicates", 0, *further)


def plain(text):
    return " ".join(text.split())


def values(folder):
    summary = json.loads((folder / "summary.json").read_text())
    return {name: entry["value"] for metric in summary["metrics"].values() for name, entry in metric.items()}


def test_a_retrieval_run_from_command_to_table(cli, tmp_path):
    code, out, err = run(cli, tmp_path, RETRIEVAL, "ridge-embedding", access="credentialed")
    assert code == 0, err
    assert "image_to_text_1" in out
    assert "scored 24 of 24 samples" in out
    found = rows(tmp_path / "out")
    assert {row["sample_id"].rpartition("/")[2] for row in found} == {"image", "text"}
    assert {row["outcome"] for row in found} == {"ok"}
    vectors = read_vectors(tmp_path / "out", [row["artifact"] for row in found])
    assert vectors.shape == (24, 1024)
    folder = tmp_path / "out" / "artifacts"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in folder.iterdir())
    assert "distinct" not in out
    assert 0 <= values(tmp_path / "out")["mean"] <= 1


def test_a_fitted_model_finds_more_than_chance(cli, tmp_path):
    for model in ("random-embedding", "ridge-embedding"):
        assert (
            run(
                cli,
                tmp_path,
                RETRIEVAL.replace("train: 40", "train: 160").replace("test: 12", "test: 40"),
                model,
                out=model,
            )[0]
            == 0
        )
    chance, fitted = (values(tmp_path / model) for model in ("random-embedding", "ridge-embedding"))
    assert fitted["image_to_text_10"] > chance["image_to_text_10"]
    assert fitted["image_to_text"] < chance["image_to_text"]
    code, out, err = cli("compare", tmp_path / "random-embedding", tmp_path / "ridge-embedding", "--replicates", 200)
    assert code == 0, err
    assert "median-rank:same-text" in out


def test_a_killed_run_equals_one_that_was_not(cli, tmp_path):
    for text, model in ((RETRIEVAL, "random-embedding"), (DRAWING, "random-image")):
        name = model
        assert run(cli, tmp_path, text, model, "--batch-size", 5, out=name)[0] == 0
        whole, file = rows(tmp_path / name), tmp_path / name / "predictions/0000.jsonl"
        lines = file.read_text().splitlines(keepends=True)
        # Killed between the file of an artifact and its row: the artifact is there, the row is torn.
        file.write_text("".join(lines[:7]) + lines[7][:20])
        assert run(cli, tmp_path, text, model, "--batch-size", 5, out=name)[0] == 0
        again = {row["sample_id"]: row for row in rows(tmp_path / name)}
        if model == "random-image":
            assert {row["sample_id"]: row["artifact"] for row in whole} == {k: v["artifact"] for k, v in again.items()}
        else:
            first = read_vectors(tmp_path / name, [row["artifact"] for row in whole])
            assert np.array_equal(
                first, read_vectors(tmp_path / name, [again[row["sample_id"]]["artifact"] for row in whole])
            )


def test_a_part_of_the_gallery_is_refused_before_anything_is_embedded(cli, tmp_path):
    code, _out, err = run(cli, tmp_path, RETRIEVAL, "random-embedding", "--limit", 6)
    assert code == 2
    assert "a rank is one in the full gallery of its 24 samples" in err
    assert not (tmp_path / "out").exists()
    assert run(cli, tmp_path, RETRIEVAL, "random-embedding", "--limit", 24)[0] == 0


@pytest.mark.parametrize("model", ["random-image", "mean-image", "nearest-text"])
def test_a_drawing_run_from_command_to_table(cli, tmp_path, model):
    code, out, err = run(cli, tmp_path, DRAWING, model)
    assert code == 0, err
    assert "frechet:pixels distance" in out
    found = rows(tmp_path / "out")
    assert all(row["artifact"].endswith(".png") and "text" not in row for row in found)
    pictures = [read_picture(tmp_path / "out", row["artifact"]) for row in found]
    assert {picture.shape for picture in pictures} == {(256, 256)}
    assert (len({row["artifact"] for row in found}) == 1) == (model == "mean-image")
    before = values(tmp_path / "out")
    assert before["distance"] > 0
    code, out, err = cli("score", tmp_path / "out", "--metrics", "frechet:pixels", "--replicates", 0)
    assert (code, values(tmp_path / "out")) == (0, before)


def test_a_page_of_texts_is_refused(cli, tmp_path):
    assert run(cli, tmp_path, DRAWING, "random-image")[0] == 0
    code, _out, err = cli("explore", tmp_path / "out", "-o", tmp_path / "page.html")
    assert code == 2
    assert "the page lays texts side by side, and the answers of this run are pictures" in err
    code, out, err = cli("list", "tasks")
    assert code == 0, err
    assert "(retrieval)" in out


def test_a_changed_picture_is_noticed_when_it_is_scored(cli, tmp_path):
    assert run(cli, tmp_path, DRAWING, "random-image")[0] == 0
    for file in (tmp_path / "out" / "scores").iterdir():
        file.unlink()
    (tmp_path / "out" / rows(tmp_path / "out")[0]["artifact"]).write_bytes(b"other")
    code, out, err = cli("score", tmp_path / "out", "--replicates", 0)
    assert code == 4
    assert "an artifact is not what the run wrote" in out + err


def test_who_draws_does_not_see_the_picture(cli, tmp_path):
    code, out, err = run(cli, tmp_path, DRAWING, "nearest-text", "--dry-run")
    assert code == 0, err
    assert "inputs: section:findings" in out
    assert "This model looks at no image." in out
    assert not (tmp_path / "out").exists()


def test_metrics_of_texts_have_nothing_to_read_here_and_the_reverse(cli, tmp_path):
    assert run(cli, tmp_path, DRAWING, "random-image", out="drawn")[0] == 0
    code, out, _err = cli("score", tmp_path / "drawn", "--metrics", "bleu:raw,retrieval", "--replicates", 0)
    assert code == 3
    assert "bleu:raw: reads texts, and the answers of this task are pictures" in plain(out)
    assert "retrieval:same-text: reads vectors (tasks of kind retrieval), and the answers" in plain(out)
    assert (
        cli(
            "run",
            "--model",
            "always-normal",
            "--task",
            write_small(tmp_path),
            "--out",
            tmp_path / "t",
            "--replicates",
            0,
        )[0]
        == 0
    )
    code, out, _err = cli("score", tmp_path / "t", "--metrics", "frechet", "--replicates", 0)
    assert code == 3
    assert "frechet:pixels: reads pictures (image-generation), and the answers of this task are text" in plain(out)


@pytest.mark.parametrize(
    ("model", "further", "said"),
    [
        ("always-normal", (), "always-normal cannot answer 'embed_image', which pairs asks"),
        ("random-embedding", ("--inputs", "image"), "pairs is of kind retrieval, which asks about texts too"),
        ("random-embedding", ("--engine", "transformers"), "random-embedding runs without an engine"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(cli, tmp_path, model, further, said):
    code, _out, err = run(cli, tmp_path, RETRIEVAL, model, *further)
    assert code == 2
    assert said in err


def test_a_predictions_file_holds_no_vectors(cli, tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"sample_id": "a", "prediction": "x"}\n')
    code, _out, err = cli("score", file, "--task", write(tmp_path, RETRIEVAL))
    assert code == 2
    assert "a predictions file holds texts, and the answers of" in err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("images: {{offer: key", "images: {{offer: all"), "has one image per sample; write `offer: key`"),
        (("target: findings", "target: report"), "takes one section, findings or impression"),
        (
            ("target: findings", "offer: [indication]\ntarget: findings"),
            "offers the target's own text and nothing else",
        ),
    ],
)
def test_a_task_file_that_makes_no_sense_is_one_sentence(cli, tmp_path, change, said):
    code, _out, err = run(cli, tmp_path, RETRIEVAL.replace(*change), "random-embedding")
    assert code == 2
    assert said in err
