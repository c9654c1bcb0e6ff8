"""Runs of tasks that ask questions, by the commands a user types: what they rest on, what is said of them."""

import json
import re
from pathlib import Path

import pytest

from cxrbench.data.base import Slice
from cxrbench.data.chexbench import CheXbench
from cxrbench.errors import CxrbenchError
from cxrbench.models.base import ModelOptions
from cxrbench.models.instruction import Instruction
from cxrbench.plan import images_note, pool_hash
from cxrbench.shipped import shipped
from cxrbench.spec import find_task
from cxrbench.types import CLUSTERS, Generation, Image, Sample
from tests import commands
from tests.data.test_questions import bench, choice, rad, restruct

cli = commands.cli

SMALL = ("--replicates", 0, "--allow-partial")


@pytest.fixture
def rad_run(cli, tmp_path):
    """Six test questions about three images of two cases, answered from two train questions."""
    train = [rad(n, phrase_type="freeform", image_name="train.jpg", answer="No", question="Is it?") for n in (10, 11)]
    (tmp_path / "rad.json").write_text(json.dumps([*(rad(n) for n in range(6)), *train]))
    (tmp_path / "pictures").mkdir()
    code, _, err = cli("data", "add", "vqa-rad", "--annotations", "rad.json", "--images", "pictures")
    assert code == 0, err
    return cli("run", "--model", "frequent-answer", "--task", "vqa-rad", "--out", "run", *SMALL)


def test_cases_are_not_called_patients_by_any_command(cli, rad_run, tmp_path):
    code, out, err = rad_run
    assert code == 0, err
    assert "scored 6 of 6 samples, no patient ids: 2 cases are the clusters" in out
    assert "patient" not in out.replace("no patient ids", "")
    assert json.loads((tmp_path / "run/summary.json").read_text())["cluster_unit"] == "case"
    rows = [json.loads(line) for line in (tmp_path / "run/predictions/0000.jsonl").read_text().splitlines()]
    assert {(row["text"], *row["inputs"]) for row in rows} == {("No", "question", "question-type")}

    _, said, _ = cli("run", "--model", "frequent-answer", "--task", "vqa-rad", "--dry-run")
    assert "of 2 clusters (no patient ids: cases are the clusters)" in said
    cli("score", "run", "--replicates", 200)
    _, said, _ = cli("cite", "run")
    assert "over cases (the data have no patient ids)" in said

    code, _, err = cli("run", "--model", "random-report", "--task", "vqa-rad", "--out", "other", *SMALL)
    assert code == 0, err
    _, said, _ = cli("compare", "other", "run", "--replicates", 100)
    assert "p from case swaps" in said
    _, said, _ = cli("compare", "other", "run", "--replicates", 100, "--by", "answer-type")
    assert "groups of fewer than 10 cases" in said
    for fewest, told in ((1, "percentile intervals over cases"), (10, "hidden: fewer than 10 cases")):
        code, said, err = cli("groups", "run", "--by", "answer-type,question-type", "--min-patients", fewest)
        assert code == 0, err
        assert "2 cases are the clusters" in said
        assert told in " ".join(said.split())
        assert "patient" not in said.replace("no patient ids", "")

    rows = [{"sample_id": f"synpic{n % 3}.jpg/{n}", "prediction": "yes"} for n in range(6)]
    (tmp_path / "theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = cli("score", "theirs.jsonl", "--task", "vqa-rad", *SMALL)
    assert code == 0, err
    assert "2 cases are the clusters" in out
    assert "distinct answers: 1 of 6" in out


def test_a_baseline_says_what_its_clusters_are_and_a_kind_that_is_not_known_is_damage(cli, rad_run, tmp_path):
    import pyarrow.parquet as pq

    from cxrbench.gate_evidence import read_baseline

    _, said, _ = cli("gate", "baseline", "run", "-o", "base.parquet")
    assert "over 6 samples of 2 clusters (cases)" in said
    table = pq.read_table(tmp_path / "base.parquet")
    meta = {key: value.replace(b'"case"', b'"hospital"') for key, value in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata(meta), tmp_path / "bad.parquet")
    assert read_baseline(tmp_path / "base.parquet").about["cluster_unit"] == "case"
    with pytest.raises(CxrbenchError, match="damaged"):
        read_baseline(tmp_path / "bad.parquet")


@pytest.mark.parametrize(("task", "unit"), [("vqa-rad", "case"), ("slake", "image"), ("rad-restruct", "study")])
def test_every_data_set_of_questions_names_its_clusters(task, unit):
    from cxrbench.data.load import open_dataset

    found = open_dataset(find_task(task).dataset.name)
    assert (found.clusters, found.patient_ids) == (unit, False)
    assert CLUSTERS[unit] != "patients"


def test_a_pool_is_another_one_when_its_questions_change():
    asked = Sample("a", "a", None, "yes", question="Is it?", subgroups={"question-type": "size"})
    told = {
        pool_hash([each], with_images=False)
        for each in (
            asked,
            Sample("a", "a", None, "yes"),
            Sample("a", "a", None, "yes", question="Was it?", subgroups={"question-type": "size"}),
            Sample("a", "a", None, "yes", question="Is it?", subgroups={"question-type": "view"}),
            Sample("a", "a", None, "yes", question="Is it?", options=("yes",), subgroups={"question-type": "size"}),
        )
    }
    assert len(told) == 5


# ---- the demo weighs statements


def statements(options, question="On which side is it?"):
    image = Image("p", "phantom:ph1-s0-test-000000-frontal-256", "PA")
    return Sample("s", "s", None, options[0], images=(image,), key_image="p", question=question, options=options)


def test_the_demo_reads_the_options_and_not_the_question():
    pytest.importorskip("torch")
    from cxrbench.models.demo import Demo

    demo = Demo(ModelOptions(extra={"target": "answer"}, asks=frozenset({"score_options"})))
    assert demo.consumes == {"image", "options"}
    options = ("There is a left pneumothorax.", "There is a right pneumothorax.")
    request = demo.request(statements(options), "score_options", Generation(), 0)
    assert (request.messages[0].text, request.options) == ("<image>Findings:", options)
    with pytest.raises(CxrbenchError, match="they are no sentences"):
        demo.request(statements(("left", "right")), "score_options", Generation(), 0)


@pytest.mark.slow
def test_the_demo_weighs_statements_and_no_report_is_spoken_of(cli, tmp_path):
    pytest.importorskip("torch")
    words = ("run", "--model", "demo", "--task", "demo-choice-likelihood", "--limit", 4, "--out", "run")
    code, out, err = cli(*words, *SMALL)
    assert code == 0, err
    assert "distinct" not in out
    assert "reports" not in out
    assert "answers/s over" in out
    rows = [json.loads(line) for line in (tmp_path / "run/predictions/0000.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["inputs"][0].startswith("image:")
        assert len(row["inputs"]) == 1  # the question is not read
        assert len(row["option_logprobs"]) == len(row["option_tokens"]) >= 2
        assert row["text"].endswith(".")
    _, said, _ = cli("runs", "list", ".")
    assert "demo-choice-likelihood" in said
    assert "distinct" not in said


@pytest.mark.parametrize(("task", "said"), [("demo-vqa", "not 'answer'"), ("demo-choice-generation", "not 'answer'")])
def test_the_demo_knows_no_questions(cli, task, said):
    pytest.importorskip("torch")
    code, _, err = cli("run", "--model", "demo", "--task", task)
    assert code == 2
    assert said in err
    assert "demo-choice-likelihood" in err


def test_options_that_are_no_sentences_are_refused_before_anything_is_answered(cli, tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "data.json").write_text(json.dumps({"View Classification": [choice()]}))
    (tmp_path / "a.jpg").write_bytes(b"")
    code, _, err = cli("data", "add", "chexbench", "--annotations", "data.json", "--images", ".")
    assert code == 0, err
    code, _, err = cli("run", "--model", "demo", "--task", "chexbench-view-likelihood", "--out", "run", *SMALL)
    assert code == 2
    assert "they are no sentences" in err
    assert not (tmp_path / "run").exists()


# ---- several images of one question


def sample(*names):
    return Sample("s", "s", None, "x", images=tuple(Image(n, n) for n in names), key_image=names[0], question="Worse?")


def test_a_task_says_whether_its_images_belong_together():
    temporal, plain = find_task("chexbench-temporal-likelihood"), find_task("vqa-rad")
    assert (temporal.images.use, plain.images.use) == ("all", "key")
    for use, shown in (("all", 2), ("key", 1)):
        request = Instruction.of({"target": "answer"}, use).request(sample("a", "b"), "generate", Generation(), 0)
        assert len(request.images) == shown
    assert Instruction.of({"images": "key"}, "all").images == "key"  # what the user says counts
    assert ModelOptions().images == "key"


class Sees:
    def __init__(self, *what):
        self.consumes = frozenset(what)
        self.card = type("Card", (), {"name": "m"})


def test_a_model_of_one_image_is_told_of_where_several_belong_together():
    temporal = find_task("chexbench-temporal-likelihood")
    both = [sample("a", "b"), sample("a")]
    assert images_note(temporal, Sees("image"), both) == "1 of 2 samples have several images, of which m sees one"
    assert images_note(temporal, Sees("images"), both) is None
    assert images_note(temporal, Sees("question"), both) is None
    assert images_note(temporal, Sees("image"), [sample("a")]) is None
    assert images_note(find_task("vqa-rad"), Sees("image"), both) is None


def test_findings_of_chexbench_are_written_from_two_images_at_most(tmp_path):
    row = {"image_path": ["a.jpg", "b.jpg", "c.jpg"], "section_findings": "Clear.", "section_indication": "Cough."}
    roots = bench(tmp_path, **{"Findings Generation": [row]})
    (study,) = CheXbench().studies(roots, Slice("test", {"task": "findings"}))
    assert [image.image_id for image in study.images] == ["a.jpg", "b.jpg"]
    assert find_task("chexbench-findings").images.use == "all"


def test_rad_restruct_has_studies_for_clusters(tmp_path):
    (tmp_path / "qa_pairs.jsonl").write_text(json.dumps(restruct()) + "\n")
    from cxrbench.data.rad_restruct import RadRestruct

    (study,) = RadRestruct().studies({"annotations": (tmp_path / "qa_pairs.jsonl",)}, Slice("validate", {}))
    assert study.patient_id == study.study_id


# ---- the board and the page of docs


def board(name):
    return json.loads((shipped("baselines") / "demo" / f"{name}.json").read_text())


def test_the_figures_of_the_page_are_those_of_the_recorded_runs():
    page = (Path(__file__).parents[1] / "docs/questions.md").read_text()
    rows = {run["model"]: run for run in board("demo-choice-likelihood")["runs"]}
    for name, run in rows.items():
        body = run["values"]["choice:likelihood/accuracy"]
        kinds = run["slices"]["question-type"]
        cells = [
            kinds[kind]["values"]["choice:likelihood/accuracy"][0]
            for kind in ("presence", "finding", "side", "severity")
        ]
        ends = ", ".join(f"{end:.3f}" for end in body["ci"])
        row = f"| `{name}` | {body['value']:.3f} [{ends}] | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |"
        assert row in page, row
    assert len(rows) == 4
    for run in board("demo-vqa")["runs"]:
        for value in ("open_recall", "closed_accuracy"):
            body = run["values"][f"vqa:counted/{value}"]
            assert f"{body['value']:.3f} [{body['ci'][0]:.3f}, {body['ci'][1]:.3f}]" in page


def test_the_demo_is_clearly_above_chance_and_above_wording_alone():
    found = board("demo-choice-likelihood")
    runs = {run["model"]: run for run in found["runs"]}
    body, chance = (runs["demo"]["values"][f"choice:likelihood/{name}"] for name in ("accuracy", "chance"))
    assert body["ci"][0] > chance["value"] + 0.1
    ids = {runs[name]["id"] for name in ("demo", "frequent-answer")}
    (pair,) = (each for each in found["pairs"] if {each["a"], each["b"]} == ids)
    _, low, high, p, n = pair["values"]["choice:likelihood/accuracy"]
    assert not low <= 0 <= high
    assert p < 0.001
    assert n == 1079


def test_the_board_of_questions_speaks_of_answers_and_leaves_empty_columns_out():
    from cxrbench.report.board_spec import find_board
    from cxrbench.report.leaderboard import make_board
    from cxrbench.report.leaderboard_data import board_data
    from cxrbench.report.leaderboard_page import html

    made = make_board(*find_board("questions"), "public")
    page = html(made)
    choices, answers = page.split('<section class="task"')[1:3]
    assert "Answers/s" in choices
    assert "Reports/s" not in page
    assert 'class="number fact empty" data-sort="distinct"' in choices
    assert 'class="number fact" data-sort="distinct"' in answers
    first, second = board_data(made)["tasks"]
    assert (first["by"], first["written"], first["clusters"]) == (["question-type", "finding"], "answers", "patients")
    assert second["by"] == ["question-type", "answer-type"]


def test_a_slice_shows_a_number_of_another_preset_where_it_differs():
    from cxrbench.cli.show import _slices

    def group(llava_med):
        counted = {"open_recall": {"value": 0.5, "n": 9}, "closed_accuracy": {"value": 0.4, "n": 9}}
        return {"n": 9, "metrics": {"vqa:counted": counted, "vqa:llava-med": {
            "open_recall": {"value": 0.5, "n": 9}, "closed_accuracy": {"value": llava_med, "n": 9}}}}  # fmt: skip

    def heads(*values):
        groups = {str(value): group(value) for value in values}
        return [str(column.header).replace("\n", " ") for column in _slices({"kind": groups}, 100).columns[2:]]

    counted = ["vqa:counted open_recall", "vqa:counted closed_accuracy"]
    assert heads(0.4, 0.6) == [*counted, "vqa:llava-med closed_accuracy"]
    assert heads(0.4, 0.4) == counted


def test_the_board_of_questions_counts_whole_questions():
    from cxrbench.report.board_spec import find_board
    from cxrbench.report.leaderboard import make_board
    from cxrbench.report.leaderboard_page import html

    page = html(make_board(*find_board("questions"), "public")).split('<section class="task"')[2]
    page = page.partition('<script type="application/json"')[0]
    assert "<small>n 681</small>" in page
    assert "<small>n 448</small>" in page
    assert re.search(r'data-v="681.0">681</td>', page)
    assert "681.0<" not in page
