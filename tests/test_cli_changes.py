"""What happens when something changes between two commands: nothing old is taken for new, nothing right is redone."""

import json
import random

import numpy as np
import pytest
from PIL import Image

from tests.test_cli import cli, only_run  # noqa: F401  (a fixture)

TASK = """\
name: own
version: 1
title: Findings of one's own studies
kind: findings
access: open
dataset:
  name: jsonl
  split: test
  pool_split: train
include:
  sections: [findings]
  min_images: 1
images:
  offer: all
  key: first
target: findings
text: whitespace:v1
metrics:
  required: [bleu:raw, rouge-l:raw]
slices: [site]
citation: nobody
"""

WORDS = ["lungs", "clear", "effusion", "small", "left", "right", "edema", "normal", "heart", "mild", "opacity"]


class World:
    """A user's folder: images, a JSONL file that can be written anew, and a task."""

    def __init__(self, folder, cli):
        self.folder, self.cli = folder, cli
        self.rows = []
        for number in range(24):
            rng = random.Random(number)
            self.rows.append(
                {
                    "study_id": f"s{number}",
                    "patient_id": f"p{number // 2}",
                    "split": "train" if number % 3 == 0 else "test",
                    "images": [f"{number}.png"],
                    "sections": {"findings": " ".join(rng.choices(WORDS, k=8))},
                    "site": "AB"[number % 2],
                }
            )
            self.draw(number, number)
        (folder / "own.yaml").write_text(TASK)
        self.write()
        assert cli("data", "add", "jsonl", "--reports", folder / "own.jsonl", "--images", folder)[0] == 0

    def draw(self, number, seed):
        noise = np.random.default_rng(seed).integers(0, 255, (40, 50), dtype=np.uint8)
        Image.fromarray(noise).save(self.folder / f"{number}.png")

    def write(self):
        (self.folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def run(self, model="nearest-image", *more):
        return self.cli("run", "--model", model, "--task", self.folder / "own.yaml", "--replicates", 0, *more)

    def runs(self):
        return sorted(self.folder.glob("runs/own/*"))


@pytest.fixture
def world(tmp_path, cli):
    return World(tmp_path, cli)


def rows(run):
    lines = (run / "predictions/0000.jsonl").read_text().splitlines()
    return {row["sample_id"]: row for row in map(json.loads, lines)}


def test_runs_are_paired_by_sample_whatever_the_order_of_the_source(world):
    assert world.run("random-report")[0] == 0
    (first,) = world.runs()
    random.Random(1).shuffle(world.rows)
    world.write()
    assert world.run("random-report", "--out", "second")[0] == 0
    assert {k: r["text"] for k, r in rows(first).items()} == {
        k: r["text"] for k, r in rows(world.folder / "second").items()
    }
    code, out, _ = world.cli("compare", first, "second", "--replicates", 100, "--json")
    assert code == 0
    for body in json.loads(out)["comparisons"][0]["metrics"].values():
        for value in body["values"].values():
            assert value["difference"] == 0
            assert value["ci"] == [0, 0]


def test_other_patients_are_another_comparison(world):
    world.run("random-report")
    for row in world.rows:
        row["patient_id"] = "p0"
    world.write()
    world.run("random-report", "--out", "second")
    code, _, err = world.cli("compare", world.runs()[0], "second", "--replicates", 100)
    assert code == 3
    assert "same samples of the same patients" in err


def test_answered_samples_whose_images_changed_stop_the_run(world):
    assert world.run()[0] == 0
    before = (world.runs()[0] / "predictions/0000.jsonl").read_bytes()
    world.draw(1, 99)
    code, _, err = world.run()
    assert code == 2
    assert "images of 1 answered samples" in err
    assert (world.runs()[0] / "predictions/0000.jsonl").read_bytes() == before
    assert world.run("nearest-image", "--out", "second")[0] == 0


def test_images_that_come_back_are_answered_and_those_that_do_not_are_not_written_twice(world):
    gone = [2, 4, 5]
    kept = {number: (world.folder / f"{number}.png").read_bytes() for number in gone}
    for number in gone:
        (world.folder / f"{number}.png").unlink()
    code, out, _ = world.run()
    assert code == 0
    assert "3 missing_image" in out
    size = (world.runs()[0] / "predictions/0000.jsonl").stat().st_size
    world.run()
    assert (world.runs()[0] / "predictions/0000.jsonl").stat().st_size == size
    for number in gone[:2]:
        (world.folder / f"{number}.png").write_bytes(kept[number])
    code, out, _ = world.run()
    assert code == 0
    assert "1 missing_image" in out
    assert rows(world.runs()[0])["s2"]["outcome"] == "ok"
    (world.folder / "5.png").write_bytes(kept[5])
    assert "missing_image" not in world.run()[1]
    world.run("nearest-image", "--out", "whole")
    assert {k: r["text"] for k, r in rows(world.runs()[0]).items()} == {
        k: r["text"] for k, r in rows(world.folder / "whole").items()
    }


def test_other_train_images_are_another_run_of_a_model_that_looks_at_them(world):
    world.run()
    Image.fromarray(np.zeros((90, 90), np.uint8)).save(world.folder / "0.png")
    world.run()
    assert len(world.runs()) == 2


def test_patients_and_columns_are_renewed_without_answering_again(world):
    _, out, _ = world.run("random-report")
    assert "site = A" in out
    assert "12 patients" in out
    before = (world.runs()[0] / "predictions/0000.jsonl").read_bytes()
    for row in world.rows:
        row |= {"patient_id": f"q{row['study_id'] in ('s1', 's2')}", "site": "C"}
    world.write()
    _, out, _ = world.run("random-report")
    assert "2 patients" in out
    assert "site = C" in out
    assert "site = A" not in out
    assert (world.runs()[0] / "predictions/0000.jsonl").read_bytes() == before


def test_a_metric_or_a_slice_added_to_the_task_answers_nothing_anew(world):
    world.run("random-report")
    before = (world.runs()[0] / "predictions/0000.jsonl").read_bytes()
    file = world.folder / "own.yaml"
    file.write_text(file.read_text().replace("rouge-l:raw]", "rouge-l:raw, length]").replace("[site]", "[site, view]"))
    code, out, _ = world.run("random-report")
    assert code == 0
    assert "length:words" in out
    assert "view = unknown" not in out  # a slice that divides nothing is in summary.json alone
    assert set(json.loads((world.runs()[0] / "summary.json").read_text())["slices"]["view"]) == {"unknown"}
    assert len(world.runs()) == 1
    assert (world.runs()[0] / "predictions/0000.jsonl").read_bytes() == before


def test_a_limit_that_keeps_everything_is_the_run_without_one(world):
    world.run("random-report")
    world.run("random-report", "--limit", 500)
    assert len(world.runs()) == 1


def test_a_slice_no_sample_has_is_refused_with_a_suggestion(world):
    file = world.folder / "own.yaml"
    file.write_text(file.read_text().replace("[site]", "[sites]"))
    code, _, err = world.run("random-report")
    assert code == 2
    assert "did you mean 'site'" in err


def test_a_word_list_is_for_one_scoring_only(world):
    (world.folder / "own.yaml").write_text(TASK.replace("[bleu:raw, rouge-l:raw]", "[bleu:r2gen]"))
    for row in world.rows:
        row["sections"]["findings"] += " the lungs are clear"
    world.write()
    world.run("random-report")
    run = only_run_of(world)

    def bleu():
        return json.loads((run / "summary.json").read_text())["metrics"]["bleu:r2gen"]["bleu_1"]

    learnt = bleu()
    (world.folder / "words.txt").write_text("nothing\nof\nit\n")
    assert world.cli("score", run, "--vocabulary", "words.txt", "--replicates", 0)[0] == 0
    given = bleu()
    assert given["value"] < learnt["value"]
    assert given["signature"] != learnt["signature"]
    world.cli("score", run, "--replicates", 0)
    assert bleu() == learnt


def only_run_of(world):
    (run,) = world.runs()
    return run


def test_scoring_one_more_metric_keeps_the_others(world):
    world.run("random-report")
    run = only_run_of(world)
    world.cli("score", run, "--metrics", "length", "--replicates", 0)
    assert set(json.loads((run / "summary.json").read_text())["metrics"]) == {"bleu:raw", "rouge-l:raw", "length:words"}


def test_nothing_scored_is_incomplete(world):
    for file in world.folder.glob("*.png"):
        if int(file.stem) % 3:
            file.unlink()
    code, out, err = world.run()
    assert code == 3
    assert "16 missing_image" in out
    assert "bleu:raw: not one of 16 samples could be scored" in err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--metrics", "bleu:rw"), "did you mean 'raw'"),
        (("--metrics", "blue"), "did you mean 'bleu'"),
        (("--vocabulary", "nope.txt"), "word list cannot be read"),
    ],
)
def test_what_scoring_needs_is_checked_before_anything_is_answered(world, more, said):
    code, _, err = world.run("random-report", *more)
    assert code == 2
    assert said in err
    assert not world.runs()


def test_too_few_replicates_are_refused_before_anything_is_answered(world):
    code, _, err = world.cli("run", "--model", "random-report", "--task", "own.yaml", "--replicates", 50)
    assert code == 2
    assert "at least 100" in err
    assert not world.runs()


def test_a_file_that_fits_no_sample_leaves_no_run_behind(world):
    (world.folder / "p.csv").write_text("sample_id,prediction\nother,x\n")
    code, _, _ = world.run("replay:p.csv")
    assert code == 2
    assert not world.runs()


def test_the_normalisation_is_in_the_signature(world):
    (world.folder / "p.csv").write_text("sample_id,prediction,reference\na,clear  lungs,clear lungs\n")
    words = ("score", "p.csv", "--metrics", "bleu:raw", "--replicates", 0, "--json", "--text")
    one, two = (json.loads(world.cli(*words, name)[1])["metrics"]["bleu:raw"]["bleu_1"] for name in ("none", "iu:v1"))
    assert "|txt:none|" in one["signature"]
    assert "|txt:iu:v1|" in two["signature"]


def test_flags_that_mean_nothing_for_a_run_folder_are_refused(world):
    world.run("random-report")
    code, _, err = world.cli("score", only_run_of(world), "--text", "none")
    assert code == 2
    assert "a run folder knows its own" in err
    assert world.cli("score", only_run_of(world), "--replicates", 0, "--out", "s.json")[0] == 0
    assert json.loads((world.folder / "s.json").read_text())["n"] == 16


def test_a_bare_files_columns_can_be_tabulated_and_rows_without_reference_are_counted(world):
    (world.folder / "p.csv").write_text(
        "sample_id,prediction,reference,scanner\na,clear lungs,clear lungs,X\nb,edema,small effusion,Y\nc,edema,,Y\n"
    )
    code, out, _ = world.cli("score", "p.csv", "--replicates", 0, "--slices", "scanner")
    assert code == 0
    assert "scanner = X" in out
    assert "left out: 1 no reference" in out
    assert "scored 2 of 2" in out


def test_scores_of_other_texts_are_not_compared(world):
    world.run("random-report")
    run = only_run_of(world)
    world.run("random-report", "--out", "second")
    file = world.folder / "second/predictions/0000.jsonl"
    file.write_text(file.read_text().replace("lungs", "heart"))
    code, _, err = world.cli("compare", run, "second", "--replicates", 100)
    assert code == 3
    assert "are of other texts" in err


def test_a_damaged_summary_is_a_sentence_and_is_written_anew(world):
    world.run("random-report")
    run = only_run_of(world)
    (run / "summary.json").write_text("{}")
    code, _, err = world.cli("cite", run)
    assert code == 4
    assert "the summary is damaged" in err
    assert world.cli("score", run, "--replicates", 0)[0] == 0
    assert world.cli("cite", run)[0] == 0


def test_a_dry_run_tells_what_the_command_would_do(world):
    image = (world.folder / "2.png").read_bytes()
    (world.folder / "2.png").unlink()
    world.run()
    assert "complete" in world.run("nearest-image", "--dry-run")[1]
    (world.folder / "2.png").write_bytes(image)
    assert "goes on: 1 samples open" in world.run("nearest-image", "--dry-run")[1]
    world.draw(1, 99)
    assert "would stop" in world.run("nearest-image", "--dry-run")[1]
