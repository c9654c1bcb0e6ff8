"""Samples kept by a run are those of its data, or none are taken; long runs come to the same as short ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cxrbench import kept_samples as module
from cxrbench import plan as plan_module
from cxrbench import spool
from cxrbench.config import Config
from cxrbench.data.jsonl import Jsonl
from cxrbench.data.load import TaskData
from cxrbench.kept_samples import kept_samples, taken_up
from cxrbench.plan import RunSettings, ids_of, plan_run
from cxrbench.rows import StoredPredictions
from cxrbench.runner import execute, open_batches, reopened
from cxrbench.spec import read_task
from cxrbench.store import RunFolder
from cxrbench.tables import read_samples, write_samples
from tests.commands import cli  # noqa: F401
from tests.test_runner import Counting

TASK = """\
name: large
version: 1
title: Small studies
kind: findings
access: open
dataset: {name: jsonl, split: test}
include: {sections: [findings]}
offer: [indication, comparison]
images: {offer: none}
target: findings
text: whitespace:v1
metrics: {required: [length]}
citation: cxrbench
expected: {n: 9, evidence: verified, source: the test}
"""


def study(number: int, **further: object) -> dict[str, object]:
    sections = {"comparison": "None.", "findings": f"Clear {number} \u00b0.", "indication": f"Cough, {number % 3}."}
    return {
        "study_id": f"s{number % 7}{number}", "patient_id": f"p{number // 2}", "sections": sections, "age": 40 + number,
        "labels": {"readers": {"edema": number % 2}}, "site": "north", **further,
    }  # fmt: skip


def write(folder: Path, rows: list[dict[str, object]]) -> None:
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def find(folder: Path, task: str = TASK) -> TaskData:
    (folder / "large.yaml").write_text(task)
    roots = {"reports": (folder / "data.jsonl",)}
    return TaskData.find(read_task(folder / "large.yaml"), Config(folder / "none.toml"), roots)


ROWS = [*(study(number) for number in range(9)), {"study_id": "none", "patient_id": "p", "sections": {}}]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that answered everything, its samples kept with the fingerprint of the file."""
    write(tmp_path, ROWS)
    data = find(tmp_path)
    plan = plan_run(data, Counting(), RunSettings())
    folder = RunFolder(tmp_path / "run")
    execute(folder, module.replace(plan, source=data.source), Counting(), {"source": data.source}, 2, lambda *_: None)
    return folder


def test_kept_samples_are_those_of_the_data(run: RunFolder, tmp_path: Path) -> None:
    made, fresh = find(tmp_path), find(tmp_path)
    kept = kept_samples(run, fresh)
    assert kept is not None
    assert list(kept.samples) == list(made.samples.samples)
    assert [list(sample.sections) for sample in kept.samples] == [["indication", "comparison"]] * 9
    assert (kept.fingerprint, kept.studies, kept.excluded, kept.clusters) == (
        made.samples.fingerprint, 10, {"no findings": 1}, 5,
    )  # fmt: skip
    settings = RunSettings(batch_size=4)
    data, source = taken_up(fresh, [RunFolder(tmp_path / "none"), run])
    assert source is run
    again = plan_run(data, Counting(), settings)
    assert again.stored == run.samples_file
    assert again.manifest == plan_run(made, Counting(), settings).manifest
    assert again.batches == plan_run(made, Counting(), settings).batches
    assert fresh.source == made.source


def test_the_file_is_not_parsed_where_its_bytes_are_known(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrbench.data.jsonl_survey.parse_line", lambda text: pytest.fail("a line was parsed"))
    data, _ = taken_up(find(tmp_path), [run])
    assert len(data.samples.samples) == 9
    assert data.source == run.manifest().circumstances[-1]["source"]


@pytest.mark.parametrize(
    "row",
    [
        study(0, labels={"readers": {"edema": 1}}),
        study(0, patient_id="other"),
        study(0, images=["a.png"]),
        study(0, site="north "),
    ],
)
def test_changed_data_are_read_again(run: RunFolder, tmp_path: Path, row: dict[str, object]) -> None:
    write(tmp_path, [row, *ROWS[1:]])
    data = find(tmp_path)
    assert kept_samples(run, data) is None
    assert taken_up(data, [run]) == (data, None)


def test_an_image_may_be_named_in_escapes(tmp_path: Path) -> None:
    write(tmp_path, [study(0, images=["a.png"])])
    file = tmp_path / "data.jsonl"
    file.write_text(file.read_text().replace('"images"', '"im\\u0061ges"'))
    data = find(tmp_path)
    part, roots = data.part("test"), data.entry.roots
    assert [image.image_id for each in Jsonl().studies(roots, part) for image in each.images] == ["a.png"]
    assert not Jsonl().holds(roots, part, Jsonl().fingerprint(roots, part))


def test_another_version_task_or_text_is_not_taken_up(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kept_samples(run, find(tmp_path, TASK.replace("title: Small", "title: Other"))) is None
    data = find(tmp_path)
    stored = read_samples(run.samples_file)
    altered = [module.replace(stored.samples[0], target="Edema."), *stored.samples[1:]]
    whole = run.samples_file.read_bytes()
    write_samples(run.samples_file, altered, stored.selected, data.source)
    assert kept_samples(run, data) is None
    write_samples(run.samples_file, stored.samples, stored.selected)
    assert kept_samples(run, data) is None
    run.samples_file.write_bytes(whole[: len(whole) // 2])
    assert kept_samples(run, data) is None
    run.samples_file.write_bytes(whole)
    assert kept_samples(run, data) is not None
    monkeypatch.setattr(module, "__version__", "0")
    assert kept_samples(run, data) is None


def test_a_flipped_byte_of_kept_samples_is_found(run: RunFolder, tmp_path: Path) -> None:
    data, whole = find(tmp_path), run.samples_file.read_bytes()
    expected = kept_samples(run, data)
    assert expected is not None
    for place in range(4, len(whole), 97):
        run.samples_file.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        found = kept_samples(run, data)
        assert found is None or list(found.samples) == list(expected.samples)


class Alike(Counting):
    """All samples cost the same, and it is told of them beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def cost(self, request: object) -> int:
        return 1

    def foresee(self, ids: list[str]) -> None:
        self.told += ids


@pytest.mark.parametrize("limit", [None, 6])
@pytest.mark.parametrize("model", [Counting, Alike])
def test_a_plan_of_many_samples_is_that_of_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: type[Counting], limit: int | None
) -> None:
    write(tmp_path, ROWS)
    settings = RunSettings(limit=limit, batch_size=2)
    few = plan_run(find(tmp_path), model(), settings)
    monkeypatch.setattr(spool, "LIMIT", 3)
    monkeypatch.setattr(plan_module, "LIMIT", 3)
    told = model()
    many = plan_run(find(tmp_path), told, settings)
    assert type(many.batches) is plan_module.Batches
    assert (list(many.batches), many.manifest, many.selected) == (list(few.batches), few.manifest, few.selected)
    assert list(many.samples) == list(few.samples)
    assert [ids_of(many.batches, n) for n in range(len(many.batches))] == [
        ids_of(few.batches, n) for n in range(len(few.batches))
    ]
    if isinstance(told, Alike) and limit is None:
        assert sorted(told.told) == sorted(few.selected)


def test_failures_are_asked_again_and_answers_without_pictures_are_not_looked_at(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run.shard_file("predictions")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[1]["outcome"], lines[4]["outcome"], lines[6]["pixels"] = "no_answer", "missing_image", None
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(plan_module, "LIMIT", 3)
    plan = plan_run(find(tmp_path), Counting(), RunSettings())
    assert not plan.images
    answered = run.predictions()
    assert isinstance(answered, StoredPredictions)
    slow = reopened(run, module.replace(plan, images=True), answered, Counting(), 2)
    read = answered.__getitem__
    looked_at: list[str] = []
    monkeypatch.setattr(StoredPredictions, "__getitem__", lambda _, name: looked_at.append(name) or read(name))
    assert reopened(run, plan, answered, Counting(), 2) == slow == {lines[1]["sample_id"]}
    assert sorted(looked_at) == sorted(lines[n]["sample_id"] for n in (1, 4))
    todo = open_batches(plan.batches, range(len(plan.batches)), set(answered) - slow, alone=True)
    assert [request.sample_id for _, batch in todo for request in batch] == [lines[1]["sample_id"]]


def test_the_same_command_goes_on_or_refuses(cli, tmp_path: Path) -> None:
    """At the command line: unchanged data go on from what is kept, other texts are refused, other labels renewed."""
    write(tmp_path, ROWS)
    (tmp_path / "large.yaml").write_text(TASK)
    answers = "".join(json.dumps({"sample_id": row["study_id"], "prediction": "Clear."}) + "\n" for row in ROWS)
    (tmp_path / "answers.jsonl").write_text(answers)
    words = ("run", "--model", "replay:answers.jsonl", "--task", "large.yaml", "--reports", "data.jsonl",
             "--replicates", "0")  # fmt: skip
    assert cli(*words)[0] == 0
    (samples,) = tmp_path.glob("runs/large/*/samples.parquet")
    rows, written = samples.parent / "predictions" / "0000.jsonl", samples.stat().st_ino
    os.truncate(rows, rows.stat().st_size // 2)
    assert cli(*words)[0] == 0
    assert samples.stat().st_ino == written, "kept samples are not written again"
    assert len(rows.read_text().splitlines()) == 9
    write(tmp_path, [study(0, labels={"readers": {"edema": 1}}), *ROWS[1:]])
    assert cli(*words)[0] == 0
    assert read_samples(samples).samples[0].labels == {"readers": {"edema": 1.0}}
    write(tmp_path, [study(0, sections={"findings": "Other."}), *ROWS[1:]])
    code, _, err = cli(*words, "--out", str(samples.parent))
    assert code == 2
    assert "the folder holds another run" in err


def test_a_new_run_reads_the_data_whatever_another_run_keeps(cli, tmp_path: Path) -> None:
    """Patients and labels are not in the fingerprint: what somebody changed in a folder stays in that folder."""
    write(tmp_path, ROWS)
    (tmp_path / "large.yaml").write_text(TASK)
    words = ("run", "--model", "always-normal", "--task", "large.yaml", "--reports", "data.jsonl", "--replicates", "0")
    assert cli(*words)[0] == 0
    (first,) = tmp_path.glob("runs/large/*/samples.parquet")
    stored = read_samples(first)
    altered = [module.replace(sample, patient_id="somebody") for sample in stored.samples]
    write_samples(first, altered, stored.selected, find(tmp_path).source)
    assert cli(*words, "--limit", "8")[0] == 0
    (second,) = set(tmp_path.glob("runs/large/*/samples.parquet")) - {first}
    assert [sample.patient_id for sample in read_samples(second).samples] == [f"p{n // 2}" for n in range(9)]


def test_of_several_runs_each_goes_on_with_its_own(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, ROWS)
    (tmp_path / "large.yaml").write_text(TASK)
    words = ("run", "--model", "always-normal", "--task", "large.yaml", "--reports", "data.jsonl", "--replicates", "0")
    limits = ((), ("--limit", "8"), ("--limit", "7"))
    assert [cli(*words, *limit)[0] for limit in limits] == [0, 0, 0]
    monkeypatch.setattr("cxrbench.data.jsonl_survey.parse_line", lambda text: pytest.fail("a line was parsed"))
    assert [cli(*words, *limit)[0] for limit in limits] == [0, 0, 0]
