"""A command typed in an empty directory, and what its run folder holds."""

import json
import sys

import pytest

from cxrbench.cli import main
from tests.small_task import write_small

ANSWER = ("outcome", "text", "finish_reason", "prompt_tokens", "image_tokens", "output_tokens", "inputs", "batch")


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Run a command in an empty directory with settings of its own; returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["cxrbench", *map(str, words)])
        try:
            main.run()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.fixture
def no_java(monkeypatch):
    """METEOR, optional in many tasks, is not scored, which takes seconds to start: the run says so and goes on."""
    monkeypatch.setattr("cxrbench.metrics.java.executable", lambda: None)


def rows(run):
    return [json.loads(line) for line in (run / "predictions/0000.jsonl").read_text().splitlines()]


def answers(run):
    """sample id -> answer; fails on a sample that is there twice."""
    found = {row["sample_id"]: {key: row.get(key) for key in ANSWER} for row in rows(run)}
    assert len(found) == len(rows(run))
    return found


def metrics(run):
    return json.loads((run / "summary.json").read_text())["metrics"]


def small_run(cli, tmp_path, *further):
    """A finished run of 24 samples and the words that made it."""
    run = tmp_path / "runs" / "small"
    words = ("run", "--model", "random-report", "--task", write_small(tmp_path), *further, "--replicates", 0, "--out")
    assert cli(*words, run)[0] == 0
    return run, (*words, run)
