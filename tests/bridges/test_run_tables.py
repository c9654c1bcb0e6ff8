"""A run as a table and as ReXrank's file, and back."""

import json
import stat

import pandas
import pytest

from cxrbench.errors import CxrbenchError
from tests.commands import cli, small_run  # noqa: F401  (a fixture)


@pytest.fixture
def run(cli, tmp_path):
    return small_run(cli, tmp_path)[0]


def test_a_run_becomes_the_same_table_in_every_form(cli, tmp_path, run):
    frames = []
    for name, read in (("t.csv", pandas.read_csv), ("t.parquet", pandas.read_parquet)):
        code, out, err = cli("export", "run", run, "-o", name)
        assert code == 0, err
        assert "24 rows" in out
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        frames.append(read(tmp_path / name))
    datasets = pytest.importorskip("datasets")
    code, out, err = cli("export", "run", run, "-o", "folder")
    assert (code, err) == (0, "")
    assert not datasets.are_progress_bars_disabled()
    frames.append(datasets.load_from_disk(str(tmp_path / "folder")).to_pandas())
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "folder").rglob("*")} == {0o600}
    first = frames[0]
    assert len(first) == 24
    assert {"prediction", "reference", "abnormal", "bleu:raw/bleu_4", "latency_s"} <= set(first.columns)
    for other in frames[1:]:
        assert list(other.columns) == list(first.columns)
        assert list(other["prediction"]) == list(first["prediction"])
        assert other["rouge-l:raw/rouge_l"].tolist() == pytest.approx(first["rouge-l:raw/rouge_l"].tolist())


def test_the_numbers_of_a_sample_average_to_those_of_the_run(cli, tmp_path, run):
    """ROUGE-L is a mean over reports, so the column's mean is the run's number."""
    cli("export", "run", run, "-o", "t.csv")
    found = pandas.read_csv(tmp_path / "t.csv")["rouge-l:raw/rouge_l"].mean()
    summary = json.loads((run / "summary.json").read_text())
    assert found == pytest.approx(summary["metrics"]["rouge-l:raw"]["rouge_l"]["value"])


def test_a_formula_and_a_column_called_prediction_do_no_harm(tmp_path, run):
    from dataclasses import replace

    from cxrbench.bridges.run_tables import run_rows, write_table
    from cxrbench.store import RunFolder
    from cxrbench.tables import read_samples, write_samples

    folder = RunFolder(run)
    stored = read_samples(folder.samples_file)
    own = [replace(s, subgroups={**s.subgroups, "prediction": "=HYPERLINK(A1)"}) for s in stored.samples]
    write_samples(folder.samples_file, own, frozenset(s.sample_id for s in stored.chosen))
    rows = run_rows(folder)
    assert rows[0]["column:prediction"] == "=HYPERLINK(A1)"
    assert rows[0]["prediction"] != "=HYPERLINK(A1)"
    write_table(folder, tmp_path / "t.csv", "csv")
    write_table(folder, tmp_path / "t.parquet", "parquet")
    assert set(pandas.read_csv(tmp_path / "t.csv")["column:prediction"]) == {"'=HYPERLINK(A1)"}
    assert set(pandas.read_parquet(tmp_path / "t.parquet")["column:prediction"]) == {"=HYPERLINK(A1)"}


def test_an_unknown_form_is_refused(cli, run):
    code, _, err = cli("export", "run", run, "-o", "table.xlsx")
    assert code == 2
    assert "FILE.csv" in err


def test_rexrank_out_and_in_is_the_same_run(cli, tmp_path, run):
    code, out, err = cli("export", "rexrank", run, "-o", "submission.json")
    assert code == 0, err
    assert "24 studies with a prediction, 0 without" in out
    code, out, err = cli("import", "rexrank", "submission.json", "-o", "back.jsonl")
    assert code == 0, err
    assert "--task TASK" in out  # a submission does not say of which task it is
    words = ("run", "--model", "replay:back.jsonl", "--task", tmp_path / "small.yaml", "--replicates", 0, "--out", "b")
    assert cli(*words)[0] == 0
    ours, back = (json.loads((each / "summary.json").read_text())["metrics"] for each in (run, tmp_path / "b"))
    assert back == ours


def test_records_are_kept_and_a_study_nobody_answered_has_no_prediction(cli, tmp_path, run):
    cli("export", "rexrank", run, "-o", "submission.json")
    study = next(iter(json.loads((tmp_path / "submission.json").read_text())))
    records = {study: {"section_findings": "Clear.", "context": "Age: 60."}, "elsewhere": {"section_findings": "x"}}
    (tmp_path / "records.json").write_text(json.dumps(records))
    code, out, err = cli("export", "rexrank", run, "-o", "full.json", "--records", "records.json")
    assert code == 0, err
    assert "1 studies with a prediction, 1 without" in out
    assert "left out: 23 predictions" in out
    full = json.loads((tmp_path / "full.json").read_text())
    assert full[study]["context"] == "Age: 60."
    assert "model_prediction" not in full["elsewhere"]
    code, out, err = cli("import", "rexrank", "full.json", "-o", "with.jsonl", "--reference", "findings")
    assert "1 predictions, 1 records without one" in out
    assert json.loads((tmp_path / "with.jsonl").read_text())["reference"] == "Clear."


def test_a_record_without_the_reference_is_left_out_not_scored_against_nothing(cli, tmp_path):
    records = {
        "a": {"model_prediction": "Clear.", "section_findings": "Clear.", "section_impression": ""},
        "b": {"model_prediction": "Clear.", "section_findings": None, "section_impression": " "},
        "c": {"model_prediction": "Clear."},
        "d": {"section_findings": "Clear."},
    }
    (tmp_path / "s.json").write_text(json.dumps(records))
    code, out, err = cli("import", "rexrank", "s.json", "-o", "out.jsonl", "--reference", "findings")
    assert code == 0, err
    assert "1 predictions, 1 records without one" in out
    assert "left out: 2 predictions whose record has no findings" in out
    (row,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert row == {"sample_id": "a", "prediction": "Clear.", "reference": "Clear."}
    code, _, err = cli("import", "rexrank", "s.json", "-o", "none.jsonl", "--reference", "impression")
    assert code == 2
    assert "has a text under 'section_impression'" in err
    assert not (tmp_path / "none.jsonl").exists()
    assert "3 predictions" in cli("import", "rexrank", "s.json", "-o", "all.jsonl")[1]


@pytest.mark.parametrize("body", ["[", "[]", "{}", '{"a": 1}', '{"a": {}}'])
def test_a_file_that_is_no_submission_is_refused(tmp_path, body):
    from cxrbench.bridges.run_tables import import_rexrank

    (tmp_path / "s.json").write_text(body)
    with pytest.raises(CxrbenchError):
        import_rexrank(tmp_path / "s.json", tmp_path / "out.jsonl", None)
    assert not (tmp_path / "out.jsonl").exists()
