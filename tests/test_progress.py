"""Progress of long work where standard error is no terminal: plain lines, all stages, not too many."""

import json
import time

import pytest

from cxrbench.cli import progress
from tests import commands

cli = commands.cli


@pytest.fixture
def talkative(monkeypatch):
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)


def test_every_stage_of_scoring_is_said(cli, tmp_path, talkative):
    rows = [{"sample_id": f"s{n}", "prediction": "lungs clear", "reference": "clear lungs"} for n in range(20)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = cli("score", "p.jsonl", "--metrics", "bleu:raw,length", "--replicates", 200)
    assert code == 0
    assert "fitting metrics: 1 of 2" in err
    assert "scoring pairs: 20 to do" in err
    assert "resampling: 200 to do" in err


def test_a_rate_counts_what_this_process_did(capsys, talkative, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress.progress("answering") as report:
        report(900, 1000)
        now[0] += 10
        report(920, 1000)
        report(1000, 1000)
    said = capsys.readouterr().err.splitlines()
    assert said == ["answering: 900 of 1000", "answering: 920 of 1000, 2.0/s, about 40 s left"]


def test_a_stage_that_has_begun_says_what_there_is_to_do(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress.stages() as report:
        now[0] = 60.0
        report("resampling", 0, 10_000)
        now[0] = 80.0
        report("resampling", 5_000, 10_000)
    assert capsys.readouterr().err.splitlines() == [
        "resampling: 10000 to do",
        "resampling: 5000 of 10000, 250.0/s, about 20 s left",
    ]


def test_lines_come_now_and_then(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress.stages() as report:
        for second in range(100):
            now[0] = float(second)
            report("first" if second < 35 else "second", second, 100)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 9
    assert said[0] == "first: 10 of 100, 1.0/s, about 90 s left"
    assert said[3] == "second: 40 of 100, 1.0/s, about 60 s left"
