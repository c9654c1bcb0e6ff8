"""Processes that are started know no key and tell nobody anything; keys stand in no file, error or traceback."""

import ast
import json
import os
import re
import sys
from functools import cache
from pathlib import Path

import pytest

import cxrbench
from cxrbench.cli import main
from cxrbench.engines.vllm import QUIET
from cxrbench.metrics import java
from cxrbench.reference_runs import _start
from tests import commands
from tests.chat_server import ChatServer, answer, status
from tests.small_task import write_small

cli = commands.cli
PACKAGE = Path(cxrbench.__file__).parent
KEYS = {
    "HF_TOKEN": "hf_SECRETSECRETSECRET",
    "HUGGING_FACE_HUB_TOKEN": "hf_SECRETOTHER",
    "OPENAI_API_KEY": "sk-SECRET-openai",
    "ANTHROPIC_API_KEY": "sk-SECRET-other",
    "AWS_SECRET_ACCESS_KEY": "SECRETaws",
    "WANDB_API_KEY": "SECRETwandb",
}


@pytest.fixture
def keys(monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


SUSPECT = re.compile(
    r"subprocess|os\.system|popen|getoutput|pty\.|shell|pickle|marshal|dill|joblib|torch\.load|eval\(|exec\(|yaml\.|"
    r"trust_remote_code"
)


@cache
def calls():
    """Every call in the files of the package that could do harm: file, node, dotted name."""
    found = []
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        if SUSPECT.search(text):
            made = ast.walk(ast.parse(text))
            found += [(file, node, ast.unparse(node.func)) for node in made if isinstance(node, ast.Call)]
    return found


def test_no_process_is_started_through_a_shell():
    shells = {
        "os.system",
        "os.popen",
        "subprocess.getoutput",
        "subprocess.getstatusoutput",
        "commands.getoutput",
        "pty.spawn",
    }
    started = 0
    for file, node, name in calls():
        assert name not in shells, file
        assert not any(word.arg == "shell" for word in node.keywords), file
        if name in ("subprocess.run", "subprocess.Popen", "subprocess.check_output"):
            started += 1
            assert not isinstance(node.args[0], ast.Constant | ast.JoinedStr), f"{file}: a text, not a list"
    assert started >= 4  # the test looks at something


def test_nothing_is_unpickled_or_evaluated_but_what_is_our_own():
    ours = {("image_processes.py", "pickle.load"), ("slots_workers.py", "pickle.loads"), ("spool.py", "marshal.loads")}
    allowed = {
        ("shards.py", "torch.load"),
        ("bert.py", "torch.load"),
        ("radgraph_net.py", "torch.load"),
        ("rate_net.py", "torch.load"),
    }
    for file, node, name in calls():
        if name in ("pickle.load", "pickle.loads", "marshal.loads", "dill.load", "joblib.load"):
            assert (file.name, name) in ours, file
        if name == "torch.load":
            assert any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords), file
            assert (file.name, name) in allowed, file
        assert name not in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load"), file
        for word in node.keywords:
            if word.arg in ("trust_remote_code", "allow_pickle"):
                assert ast.unparse(word.value) == "False", file


def test_the_interpreter_of_another_environment_gets_no_key_and_no_network(keys, tmp_path, monkeypatch):
    spy = tmp_path / "python"
    spy.write_text(f"#!{sys.executable}\nimport json, os\njson.dump(dict(os.environ), open('seen.json', 'w'))\n")
    spy.chmod(0o700)
    assert _start(spy, tmp_path, debug=False, limit=60) == 0
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert not [value for value in seen.values() if "SECRET" in value]
    assert seen["HF_HUB_OFFLINE"] == seen["HF_HUB_DISABLE_TELEMETRY"] == seen["DO_NOT_TRACK"] == "1"


def test_java_gets_no_key_and_no_option_from_outside(keys, monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-javaagent:/tmp/evil.jar")
    made = java.environment()
    assert not set(made) & {*KEYS, "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS"}


def test_engines_that_report_usage_are_told_not_to():
    assert QUIET["VLLM_NO_USAGE_STATS"] == QUIET["DO_NOT_TRACK"] == QUIET["HF_HUB_OFFLINE"] == "1"


def words(task, url, run):
    return (
        "run",
        "--model",
        "openai:m",
        "--task",
        task,
        "--set",
        f"url={url}",
        "--set",
        "key_env=OPENAI_API_KEY",
        "--set",
        "retries=1",
        "--set",
        "backoff=0",
        "--replicates",
        0,
        "--out",
        run,
    )


@pytest.mark.parametrize("debug", [("--debug",)])
@pytest.mark.parametrize("act", ["answers", "echoes-the-key", "refuses"])
def test_a_key_stands_nowhere(keys, cli, tmp_path, monkeypatch, capsys, act, debug):
    echo = json.dumps(
        {"error": {"message": f"bad key {KEYS['OPENAI_API_KEY']}", "code": KEYS["OPENAI_API_KEY"]}}
    ).encode()
    behave = {"answers": answer(), "echoes-the-key": status(400, echo), "refuses": status(401, echo)}[act]
    task, run = write_small(tmp_path, test=4), tmp_path / "run"
    with ChatServer(lambda heard: behave) as server:
        monkeypatch.setattr(sys, "argv", ["cxrbench", *debug, *map(str, words(task, server.url, run))])
        with pytest.raises(SystemExit):
            main.run()
        assert KEYS["OPENAI_API_KEY"] in server.heard[0].headers["authorization"]  # it was sent where it belongs
    out, err = capsys.readouterr()
    assert "SECRET" not in out + err
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"SECRET" not in file.read_bytes(), file


def test_a_key_in_a_url_is_refused_and_not_repeated(cli, tmp_path):
    task, run = write_small(tmp_path, test=4), tmp_path / "run"
    for url in (
        "http://user:sk-SECRET@127.0.0.1:9/v1",
        "http://127.0.0.1:9/v1?key=sk-SECRET",
        "http://127.0.0.1:9/v1#sk-SECRET",
    ):
        code, out, err = cli(*words(task, url, run))
        assert code == 2
        assert "SECRET" not in out + err
        assert not run.exists()


def test_doctor_and_a_whole_run_tell_no_key(keys, cli, tmp_path):
    _, out, err = cli("doctor")
    assert "SECRET" not in out + err
    run, _ = commands.small_run(cli, tmp_path)
    assert not [file for file in run.rglob("*") if file.is_file() and b"SECRET" in file.read_bytes()]


def test_an_error_of_a_stranger_is_not_quoted(cli, tmp_path, monkeypatch):
    """The message of a foreign exception may hold a report: its type and place are told, not its words."""
    from cxrbench import spec

    def broken(name):
        raise RuntimeError("REPORT WORDS of a patient")

    monkeypatch.setattr(spec, "find_task", broken)
    code, out, err = cli("run", "--model", "always-normal", "--task", "demo-findings", "--out", tmp_path / "r")
    assert code == 4
    assert "REPORT WORDS" not in out + err
    assert "RuntimeError" in err
    assert os.path.basename(__file__) in err
