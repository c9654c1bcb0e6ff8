"""Predictions of strangers: what is made to fill the memory, to hang, or to run in a spreadsheet is refused or text."""

import json
import os
import re

import pyarrow
import pyarrow.parquet as pq
import pytest

from benchmarks._fuzz_targets import target
from cxrbench import predictions_formats
from cxrbench.errors import CxrbenchError
from cxrbench.predictions_file import read_predictions
from tests import commands
from tests.security.limits import blocked_is_caught, within

cli = commands.cli


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.jsonl", b"[" * 200_000),
        ("a.jsonl", b'{"sample_id": "a", "prediction": ' + b'{"a": ' * 100_000),
        ("a.jsonl", b'{"sample_id": ' + b"9" * 100_000 + b', "prediction": ""}'),
        ("a.jsonl", b'{"sample_id": "a", "prediction": "\\ud800"}'),
        ("a.jsonl", b'{"sample_id": "a", "prediction": "", "site": "\\udfff"}'),
        ("a.jsonl", b'{"sample_id": "a", "prediction": "", "\\ud800": "x"}'),
        ("a.jsonl", b'{"sample_id": "\\ud800", "prediction": ""}'),
        ("a.csv", b'sample_id,prediction\na,"' + b"x" * 300_000 + b'"\n'),
        ("a.csv", b"sample_id,prediction\n" + b"," * 2_000_000),
        ("a.csv", b"sample_id,prediction\n\xff\xfe\n"),
        ("a.csv", b'sample_id,prediction\n"a\nb'),
        ("a.parquet", b"PAR1" + b"\xff" * 100 + b"PAR1"),
    ],
)
def test_files_made_to_overwhelm_are_refused(tmp_path, name, body):
    (tmp_path / name).write_bytes(body)
    with within(), pytest.raises(CxrbenchError):
        read_predictions(tmp_path / name)


def test_controls_and_direction_marks_are_text_and_do_not_move_a_cell(tmp_path):
    for name in ("a.csv", "a.jsonl"):
        texts = {"a": "clear\0 no\u202e effusion\x1b[31m", "b": "=1+1"}
        file = tmp_path / name
        if name == "a.csv":
            file.write_text("".join(f'{key},"{text}"\n' for key, text in {"sample_id": "prediction", **texts}.items()))
        else:
            file.write_text("".join(json.dumps({"sample_id": k, "prediction": v}) + "\n" for k, v in texts.items()))
        assert read_predictions(file).texts() == texts


def test_a_parquet_file_that_unpacks_without_end_is_refused(tmp_path):
    big, rows = "x" * (8 << 20), 5000
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), pyarrow.array([big]))
    ids = [f"s{i}" for i in range(rows)]
    pq.write_table(pyarrow.table({"sample_id": ids, "prediction": column}), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000  # written out, 40 gigabytes
    with within(3, 200), pytest.raises(CxrbenchError, match="holds too much"):
        read_predictions(tmp_path / "a.parquet")


def test_a_parquet_file_whose_statistics_are_of_another_type_does_not_end_the_process(tmp_path):
    """pyarrow itself ends it, without an exception, when it is asked for the sizes of such a column."""
    whole = target("predictions-parquet").seeds()[0]
    text, number = b"\x15\x0c%\x02\x18\nprediction", b"\x15\x04%\x02\x18\nprediction"
    assert whole.count(text) == 1
    (tmp_path / "a.parquet").write_bytes(whole.replace(text, number))
    with pytest.raises(CxrbenchError, match="damaged"):
        read_predictions(tmp_path / "a.parquet")


def test_a_parquet_file_that_says_it_is_too_large_is_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions_formats, "LARGEST", 10_000)
    table = pyarrow.table({"sample_id": ["a"], "prediction": ["x" * 20_000]})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(CxrbenchError, match="unpacks to"):
        read_predictions(tmp_path / "a.parquet")


def test_a_file_of_terabytes_a_pipe_and_a_device_are_not_read(tmp_path):
    file = tmp_path / "a.jsonl"
    with file.open("wb") as out:
        out.truncate(1 << 40)
    with within(), pytest.raises(CxrbenchError, match="bytes"):
        read_predictions(file)
    file.unlink()
    os.mkfifo(file)
    with blocked_is_caught(), pytest.raises(CxrbenchError):
        read_predictions(file)
    file.unlink()
    file.symlink_to("/dev/zero")
    with within(), blocked_is_caught(), pytest.raises(CxrbenchError):
        read_predictions(file)


def test_names_from_a_file_cannot_steer_a_terminal(cli, tmp_path):
    """A terminal obeys escape sequences, in a file's name as well; what is printed of it holds none."""
    file = tmp_path / "a\x1b]0;owned\x07\x1b[2J\u202e.csv"
    file.write_text("sample_id\na\n")
    code, out, err = cli("score", file, "--access", "open")
    assert code == 2
    assert "no column prediction" in err
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", out + err)


def test_what_a_manifest_says_cannot_steer_a_terminal(cli, tmp_path):
    run, _ = commands.small_run(cli, tmp_path)
    body = json.loads((run / "manifest.json").read_text())
    body["identity"]["model"]["name"] = "m\x1b]0;owned\x07"
    body["identity"]["task"]["name"] = "t\x1b[2J\x9b31m"
    (run / "manifest.json").write_text(json.dumps(body))
    for words in (("runs", "show", run), ("runs", "list", run.parent), ("cite", run), ("score", run)):
        _, out, err = cli(*words)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", out + err), words


def test_the_exported_table_holds_no_formula():
    """The page's own rule for cells; that its button applies it is tried in tests/browser."""
    from cxrbench.report.page import text_of

    (rule,) = re.findall(r"!== \"number\" && /(.*?)/\.test\(text\)\) text = `'", text_of("leaderboard.js"))
    for cell in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"):  # what OWASP lists under CSV injection
        assert re.match(rule, cell)
    assert not re.match(rule, "demo")
