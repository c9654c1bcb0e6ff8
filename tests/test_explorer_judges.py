"""Judges' answers in the explorer's data: beside the report they were given for, or missed by name."""

import shutil
from pathlib import Path

import pytest
import yaml

from cxrbench.config import cache_dir
from cxrbench.errors import CxrbenchError
from cxrbench.judges.formulas import ERRORS
from cxrbench.judges.rubric import FOLDER
from cxrbench.report.explorer_judges import kinds_of_errors, read_rubrics
from cxrbench.scores import load_scores
from cxrbench.scoring import make_metric
from tests.commands import cli  # noqa: F401  (a fixture)
from tests.reader_runs import judge, make_runs
from tests.test_explorer import data_of, page


def test_answers_and_errors_stand_beside_the_report_they_were_given_for(cli, tmp_path):
    runs = make_runs(tmp_path, test=12)
    judge(runs)
    made = page(runs)
    assert page(runs).html == made.html
    data = data_of(made.html)
    assert made.answers == {"chexprompt:default": 24, "green:default": 24}
    assert [each["judges"] for each in data["judged"]] == [["openai:m"] * 2] * 2
    chexprompt, green = (list(make_metric(name).values) for name in ("chexprompt", "green"))
    kinds = [chexprompt[:15], [*green[2:16]]]
    assert [each["categories"] for each in data["judged"]] == [
        [name.replace("_", " ") for name in some] for some in kinds
    ]
    for at, run in enumerate(runs):
        scored = {each.metric.key: each.rows() for each in load_scores(run)}
        for i, row in enumerate(data["samples"]):
            text = row["runs"][at]["text"]
            (counts, why, answers), (others, _, of_green) = row["runs"][at]["judged"]
            assert [len(answers), len(of_green)] == [1, 1]
            assert answers[0][1].startswith(f"On: {text}\n")
            assert f"On: {text}" in of_green[0][1]
            assert others == list(scored["green:default"][i, 3:17])
            if len(text) % 5:
                assert (counts[0], why) == (len(text) % 2 + len(text) % 3, "")
                assert counts == list(scored["chexprompt:default"][i, 1:16])
            else:
                assert counts is None
                assert why.startswith("unreadable")
                assert "no counts" in answers[0][1]


def test_every_question_of_a_metric_that_asks_several_is_shown(cli, tmp_path):
    runs = make_runs(tmp_path, test=4, models=("random-report",))
    judge(runs, "radfact", "--judge-repeats", 2)
    data = data_of(page(runs).html)
    assert data["judged"][0]["categories"] == ["contradicted"]
    for row in data["samples"]:
        counts, why, answers = row["runs"][0]["judged"][0]
        assert (counts, why) == ([0], "")
        names = [name for name, _ in answers]
        assert len(set(names)) == len(names) == 8
        assert "phrases, candidate, repeat 2" in names
        assert "entailment, reference 0, repeat 1" in names
        assert {text for name, text in answers if name.startswith("entailment")} == {'{"status": "entailment"}'}


def test_a_run_that_a_judge_did_not_score_has_no_judgement(cli, tmp_path):
    runs = make_runs(tmp_path, test=4)
    judge(runs[1:], "green")
    data = data_of(page(runs).html)
    assert data["judged"][0]["judges"] == ["", "openai:m"]
    assert all(row["runs"][0]["judged"] == [None] for row in data["samples"])
    assert all(row["runs"][1]["judged"][0][2] for row in data["samples"])


def test_answers_by_another_rubric_are_shown_once_it_is_given(cli, tmp_path):
    runs = make_runs(tmp_path, test=4, models=("random-report",))
    rubric = yaml.safe_load((FOLDER / "green.yaml").read_text())
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(rubric | {"role": "You check reports."}))
    judge(runs, "green", "--rubric", file)
    made = page(runs)
    assert made.answers == {"green:default": 0}
    assert "another rubric" in " ".join(made.notes)
    assert "--rubric FILE" in " ".join(made.notes)
    counted = [row["runs"][0]["judged"][0][0] for row in data_of(made.html)["samples"]]
    assert None not in counted  # the counts are the run's own
    code, _, err = cli("explore", "random-report", "-o", "page.html", "--pictures", "none", "--rubric", file)
    assert (code, "another rubric" in err) == (0, False)
    row = data_of(Path("page.html").read_bytes())["samples"][0]["runs"][0]
    assert f"On: {row['text']}" in row["judged"][0][2][0][1]


def test_a_rubric_that_is_none_is_one_sentence(cli, tmp_path):
    make_runs(tmp_path, test=4, models=("random-report",))
    (tmp_path / "bad.yaml").write_text("name: [")
    code, _, err = cli("explore", "random-report", "-o", "page.html", "--rubric", "bad.yaml")
    assert code == 2
    assert "bad.yaml" in err
    assert not Path("page.html").exists()
    with pytest.raises(CxrbenchError, match="given twice"):
        read_rubrics([FOLDER / "green.yaml", FOLDER / "green.yaml"])


def test_answers_that_are_gone_are_missed_by_name(cli, tmp_path):
    runs = make_runs(tmp_path, test=4, models=("random-report",))
    judge(runs, "green")
    before = {row["id"]: row["runs"][0]["judged"][0][0] for row in data_of(page(runs).html)["samples"]}
    shutil.rmtree(cache_dir() / "judges")
    made = page(runs)
    assert "none of openai:m are kept on this machine" in " ".join(made.notes)
    assert {row["id"]: row["runs"][0]["judged"][0][0] for row in data_of(made.html)["samples"]} == before
    assert not (cache_dir() / "judges").exists()  # to look for answers makes no store


def test_what_counts_as_an_error_is_what_a_metric_counts_against_a_report(tmp_path):
    assert kinds_of_errors(make_metric("correctness-completeness-coherence")) == ()
    assert kinds_of_errors(make_metric("crimson")) == ("false_findings", "missing_findings", "attribute_errors")
    assert len(kinds_of_errors(make_metric("green"))) == 2 + 2 * len(ERRORS)
    own = tmp_path / "own.yaml"
    own.write_text(
        "name: devices\nversion: 1\nparser: values\ntask: '{reference} {candidate}'\n"
        "categories: [{name: named}, {name: missed}]\nscore: named / (named + missed)\n"
    )
    assert kinds_of_errors(make_metric(f"judge:{own}")) == ("named", "missed")
