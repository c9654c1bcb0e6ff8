"""Predictions files as people have them: every text arrives unchanged, every damage is named by file and row."""

from __future__ import annotations

import json
import subprocess

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.predictions_file import FLOAT_ID, SPREADSHEET_ERRORS, read_predictions

SECRET = "Large left effusion"


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path, *words) -> CxrbenchError:
    with pytest.raises(CxrbenchError) as caught:
        read_predictions(path)
    message = str(caught.value)
    assert path.name in message
    assert SECRET not in message
    assert "effusion" not in message
    for word in words:
        assert word in message
    return caught.value


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
tables = st.lists(st.tuples(texts.filter(bool), texts), min_size=1, max_size=6, unique_by=lambda row: row[0])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables)
def test_jsonl_keeps_every_text(tmp_path, rows):
    lines = (json.dumps({"sample_id": i, "prediction": p}, ensure_ascii=False) + "\n" for i, p in rows)
    found = read_predictions(write(tmp_path, "p.jsonl", "".join(lines)))
    assert [(row.sample_id, row.prediction) for row in found.rows] == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables)
def test_parquet_keeps_every_text(tmp_path, rows):
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"sample_id": [i for i, _ in rows], "prediction": [p for _, p in rows]}), path)
    assert [(row.sample_id, row.prediction) for row in read_predictions(path).rows] == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables)
def test_csv_written_by_pandas_keeps_every_text(tmp_path, rows):
    path = tmp_path / "p.csv"
    # pandas leaves a lone carriage return unquoted, which no CSV reader can undo
    rows = [(i.replace("\r", " "), p.replace("\r", " ")) for i, p in rows if p not in SPREADSHEET_ERRORS]
    rows = [row for row in rows if not FLOAT_ID.fullmatch(row[0])]
    assume(rows)
    rows = [row for n, row in enumerate(rows) if row[0] not in {i for i, _ in rows[:n]}]
    pd.DataFrame(rows, columns=["sample_id", "prediction"]).to_csv(path, index=False)
    assert [(row.sample_id, row.prediction) for row in read_predictions(path).rows] == rows


@pytest.mark.parametrize("word", ["NA", "null", "NaN", "None", "nan", "  ", "0.50", "TRUE", "- clear"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_words_that_look_like_nothing_stay_words(tmp_path, suffix, word):
    path = tmp_path / f"p.{suffix}"
    frame = pd.DataFrame({"sample_id": ["a", "b"], "prediction": [word, ""]})
    if suffix == "parquet":
        frame.to_parquet(path)
    elif suffix == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    found = read_predictions(path)
    assert [row.prediction for row in found.rows] == [word, ""]
    assert found.empty == 1 + (not word.strip())
    assert found.nothing_words == (word in {"NA", "null", "NaN", "None", "nan"}, 0)


def test_what_pandas_makes_of_an_empty_cell_is_an_empty_prediction(tmp_path):
    frame = pd.DataFrame({"sample_id": ["a", "b"], "prediction": ["clear", None]})
    for name, writer in {
        "p.jsonl": lambda path: frame.to_json(path, orient="records", lines=True),
        "p.parquet": frame.to_parquet,
        "p.csv": lambda path: frame.to_csv(path, index=False),
    }.items():
        writer(tmp_path / name)
        found = read_predictions(tmp_path / name)
        assert [row.prediction for row in found.rows] == ["clear", ""]
        assert found.empty == 1
        assert found.nulls == (0 if name == "p.csv" else 1)
    literal = write(tmp_path, "n.jsonl", '{"sample_id": "a", "prediction": NaN}\n')
    assert read_predictions(literal).nulls == 1


def test_columns_find_their_place(tmp_path):
    path = write(
        tmp_path,
        "p.csv",
        "study_id,prediction,reference,patient_id,sex,score,\n50001,clear,Lungs clear.,p1,F,0.5,x\n"
        '50002,"a, ""b""\nc",Effusion.,p1,,,y\n',
    )
    found = read_predictions(path)
    assert found.id_column == "study_id"
    assert found.rows[0].subgroups == {"sex": "F", "score": "0.5"}
    assert found.rows[1].prediction == 'a, "b"\nc'
    assert found.rows[1].subgroups == {}
    assert [row.where for row in found.rows] == ["line 2", "line 4"]
    assert (found.has_references, found.patient_ids) == (True, True)
    assert (found.subgroup_columns, found.ignored_columns) == (("sex", "score"), ("",))
    assert len(found.sha256) == 64


def test_numbers_serve_as_ids_and_nested_values_are_counted(tmp_path):
    path = write(
        tmp_path,
        "p.jsonl",
        '{"sample_id": 7, "study_id": "s", "prediction": "x", "tokens": [1, 2], "age": 61, "smoker": true}\n\n'
        '{"sample_id": "8", "prediction": "y", "patient_id": 12}\n',
    )
    first, second = read_predictions(path).rows
    assert (first.sample_id, first.study_id, first.subgroups) == ("7", "s", {"age": "61", "smoker": "True"})
    assert (second.sample_id, second.patient_id, second.where) == ("8", "12", "line 3")
    assert read_predictions(path).ignored_columns == ("tokens",)
    assert not read_predictions(path).patient_ids


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    csv = write(tmp_path, "p.csv", b"\xef\xbb\xbfsample_id,prediction\na,clear\n")
    jsonl = write(tmp_path, "p.jsonl", b'\xef\xbb\xbf{"sample_id": "a", "prediction": "clear"}\n')
    assert read_predictions(csv).texts() == read_predictions(jsonl).texts() == {"a": "clear"}


def test_line_separators_inside_a_text_do_not_cut_it(tmp_path):
    path = write(tmp_path, "p.jsonl", '{"sample_id": "a", "prediction": "one\u2028two\x85three"}\r\n')
    assert read_predictions(path).texts() == {"a": "one\u2028two\x85three"}


GOOD = '{"sample_id": "a", "prediction": "clear"}\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD + '{"sample_id": "b", "prediction": "Large left effu', ["line 2", "cut off"]),
        (GOOD + "Large left effusion\n" + GOOD, ["line 2", "not JSON"]),
        (GOOD + '["Large left effusion"]\n', ["line 2", "no JSON object"]),
        (GOOD + '{"sample_id": "b"}\n', ["line 2", "has no prediction"]),
        (GOOD + '{"prediction": "Large left effusion"}\n', ["line 2", "has no sample_id"]),
        (GOOD + '{"sample_id": null, "prediction": "x"}\n', ["line 2", "has no sample_id"]),
        (GOOD + '{"sample_id": "", "prediction": "x"}\n', ["line 2", "has no sample_id"]),
        (GOOD + '{"sample_id": 5.0, "prediction": "x"}\n', ["line 2", "is a number", "as text"]),
        (GOOD + '{"sample_id": true, "prediction": "x"}\n', ["line 2", "true or false"]),
        (GOOD + '{"sample_id": "b", "prediction": 3}\n', ["line 2", "is a number, not text"]),
        (GOOD + '{"sample_id": "b", "prediction": Infinity}\n', ["line 2", "is a number, not text"]),
        (GOOD + '{"sample_id": "b", "prediction": ["x"]}\n', ["line 2", "type list"]),
        (GOOD + '{"sample_id": "b", "prediction": "\\ud800 x"}\n', ["line 2", "surrogate"]),
        (GOOD + '{"sample_id": "b", "prediction": "x", "prediction": "y"}\n', ["line 2", "twice"]),
        (GOOD + '{"sample_id": "b", "prediction": "x", "reference": "y"}\n', ["line 2", "the first one has none"]),
        (GOOD + GOOD, ["same id", "line 1 and line 2"]),
        ('{"sample_id": "a", "Prediction": "x"}\n', ["no column prediction", "did you mean 'Prediction'"]),
        ('{"image": "a", "prediction": "x"}\n', ["no column sample_id or study_id"]),
        ("", ["no row"]),
        ("\n \n", ["no row"]),
        (GOOD + "[" * 100_000 + "\n", ["line 2"]),
        (GOOD + '{"sample_id": ' + "9" * 5000 + "}\n", ["line 2"]),
    ],
)
def test_damaged_jsonl_is_named_by_line(tmp_path, content, words):
    refused(write(tmp_path, "p.jsonl", content), *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("sample_id,prediction\na,Large left effusion, seen\n", ["line 2", "3 cells under 2 columns"]),
        ("sample_id,prediction\na,clear\nb", ["line 3", "1 cells under 2 columns", "cut off"]),
        ('sample_id,prediction\na,clear\nb,"Large left effu', ["line 3", "cannot be read"]),
        ('sample_id,prediction\na,"Large" left effusion\n', ["line 2", "double quotes"]),
        ("sample_id,prediction\na,#NAME?\n", ["line 2", "spreadsheet"]),
        ("sample_id,prediction,prediction\na,b,c\n", ["columns 2 and 3", "line 1"]),
        ("sample_id;prediction\na;b\n", ["separated by semicolons, not commas", "line 1"]),
        ('"sample_id";"prediction"\n"a";"Large left effusion"\n', ["separated by semicolons", "line 1"]),
        ("Study_ID;Prediction\na;b\n", ["separated by semicolons", "line 1"]),
        ("sample_id\tprediction\na\tb\n", ["separated by tabs, not commas", "line 1", ".tsv"]),
        ("Study,prediction\na,b\n", ["no column sample_id or study_id", "line 1"]),
        ("sample_id,text\na,b\n", ["no column prediction", "line 1"]),
        ("a,Large left effusion\n", ["no column sample_id or study_id", "line 1"]),
        ("sample_id,prediction\n1234.0,clear\n", ["line 2", "a sample_id is a number with a decimal point", "as text"]),
        ("sample_id,prediction\n1.5,clear\n", ["line 2", "number with a decimal point"]),
        ("sample_id,prediction\n1.23457E+11,clear\n", ["line 2", "number with a decimal point"]),
        ("sample_id,prediction\n5E+15,clear\n", ["line 2", "number with a decimal point"]),
        ("sample_id,prediction,patient_id\na,clear,7.0\n", ["line 2", "a patient_id is a number with a decimal point"]),
        ("sample_id,prediction\n", ["no row"]),
        ("sample_id,prediction\na,x\n\na,y\n", ["line 2 and line 4"]),
        ("sample_id,prediction\n,x\n", ["line 2", "no sample_id"]),
        ("sample_id,prediction\na," + "x" * 200_000 + "\n", ["line 2", "field limit"]),
    ],
)
def test_damaged_csv_is_named_by_line(tmp_path, content, words):
    refused(write(tmp_path, "p.csv", content), *words)


@pytest.mark.parametrize("name", ["1.2.840.113619", "59990e12", "1234", "007", "1.5a", "CXR1_IM-1", "5e3"])
def test_what_a_program_did_not_make_of_a_number_is_an_id(tmp_path, name):
    path = write(tmp_path, "p.csv", f"sample_id,prediction\n{name},clear\n")
    assert read_predictions(path).texts() == {name: "clear"}
    spelled = write(tmp_path, "p.jsonl", '{"sample_id": "1.5", "prediction": "clear"}\n')
    assert read_predictions(spelled).texts() == {"1.5": "clear"}


def test_commas_in_a_tsv_are_named(tmp_path):
    refused(write(tmp_path, "p.tsv", "sample_id,prediction\na,b\n"), "separated by commas, not tabs", "line 1", ".csv")


def test_the_command_for_semicolons_gives_a_file_that_can_be_read(tmp_path):
    path = write(tmp_path, "it's.csv", 'sample_id;prediction\na;"clear; ""no"" effusion, seen\nhere"\n')
    command = refused(path, "separated by semicolons").fix.removeprefix("write it with commas: ")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert read_predictions(tmp_path / "new.csv").texts() == {"a": 'clear; "no" effusion, seen\nhere'}


def test_a_missing_header_does_not_leak_a_report(tmp_path):
    refused(write(tmp_path, "p.csv", f"s1,{SECRET}\ns2,{SECRET}\n"), "no column")
    refused(write(tmp_path, "q.csv", f"{SECRET},{SECRET}\nx,y\n"), "columns 1 and 2")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_other_encodings_are_named_by_line_and_byte(tmp_path, suffix):
    head = GOOD if suffix == "jsonl" else "sample_id,prediction\n"
    row = '{"sample_id": "b", "prediction": "épanchement"}\n' if suffix == "jsonl" else "b,épanchement\n"
    latin = refused(
        write(tmp_path, f"l.{suffix}", head.encode() + row.encode("latin-1")), "line 2", "not UTF-8", "byte"
    )
    assert "iconv" in latin.fix
    refused(write(tmp_path, f"u.{suffix}", (head + row).encode("utf-16")), "UTF-16")


def test_damaged_parquet(tmp_path):
    path = tmp_path / "p.parquet"
    frame = pd.DataFrame({"sample_id": [f"s{i}" for i in range(50)], "prediction": [SECRET] * 50})
    frame.to_parquet(path)
    whole = path.read_bytes()
    refused(write(tmp_path, "cut.parquet", whole[: len(whole) // 2]), "damaged or cut off")
    refused(write(tmp_path, "not.parquet", SECRET), "damaged or cut off")
    pd.concat([frame, frame.tail(1)]).to_parquet(path)
    refused(path, "row 50 and row 51")
    pd.DataFrame({"sample_id": [1.0, 2.0], "prediction": ["x", "y"]}).to_parquet(path)
    refused(path, "row 1", "is a number")
    bad = pa.array([b"ok", b"\xff\xfe"]).view(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"sample_id": ["a", "b"], "prediction": bad}), path)
    refused(path, "not UTF-8")


def test_parquet_with_dictionaries_and_integers(tmp_path):
    path = tmp_path / "p.parquet"
    frame = pd.DataFrame({"study_id": [1, 2], "prediction": ["a", "b"], "sex": pd.Categorical(["F", None])})
    frame.to_parquet(path)
    found = read_predictions(path)
    assert found.texts() == {"1": "a", "2": "b"}
    assert [row.subgroups for row in found.rows] == [{"sex": "F"}, {}]


def test_what_is_no_file_is_said(tmp_path):
    assert "no such" in refused(tmp_path / "none.csv").what
    folder = tmp_path / "dir.csv"
    folder.mkdir()
    assert refused(folder, "cannot be read").code == Exit.INFRASTRUCTURE
    assert ".jsonl" in refused(write(tmp_path, "p.json", "[]")).fix


def test_coverage_counts_both_sides_and_refuses_none(tmp_path):
    found = read_predictions(write(tmp_path, "p.csv", "sample_id,prediction\na,x\nb,y\nc,z\n"))
    coverage = found.coverage(["b", "c", "d"])
    assert (coverage.matched, coverage.missing, coverage.surplus) == (2, 1, 1)
    with pytest.raises(CxrbenchError, match="none of the 3 rows belongs to one of the 2 samples"):
        found.coverage(["a.png", "b.png"])
