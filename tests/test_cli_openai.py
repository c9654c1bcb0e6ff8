"""`cxrbench run --model openai:NAME`: a whole run against a real server; killed, failing, refused."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests import commands
from tests.chat_server import ChatServer, Listener, answer, never, own_address, status
from tests.commands import rows
from tests.small_task import write_small

cli = commands.cli
LIMIT = 120


def words(task, url, run, *further):
    return (
        "run", "--model", "openai:gpt-x", "--task", task, "--set", f"url={url}", "--set", "backoff=0",
        "--set", "concurrency=2", "--replicates", 0, "--out", run, *further,
    )  # fmt: skip


def said(heard):
    """The part of a request that is the sample's own: its image."""
    return heard.asked["messages"][0]["content"][0]["image_url"]["url"]


def test_a_run_is_answered_scored_and_says_where_it_was_answered(cli, tmp_path):
    task, run = write_small(tmp_path, test=12, access="credentialed"), tmp_path / "run"
    with ChatServer() as server:
        code, out, err = cli(*words(task, server.url, run))
        assert code == 0, err
        assert "scored 12 of 12 samples" in out
        assert len(server.heard) == 12
        code, _, err = cli(*words(task, server.url, run))
        assert "every sample was answered before" in err
    assert len(server.heard) == 12
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["identity"]["model"]["endpoint"] == server.url
    assert manifest["identity"]["model"]["name"] == "openai:gpt-x"
    assert manifest["circumstances"][0]["concurrency"] == 2
    assert {row["served"] for row in rows(run)} == {"served-model fp_1"}
    assert json.loads((run / "summary.json").read_text())["speed"]["reports"] == 12


def test_the_key_is_in_no_file_of_the_run(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-hidden-123")
    task, run = write_small(tmp_path, test=6), tmp_path / "run"
    with ChatServer() as server:
        code, out, err = cli(*words(task, server.url, run, "--set", "key_env=MY_KEY"))
        assert (code, server.heard[0].headers["authorization"]) == (0, "Bearer sk-hidden-123")
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"sk-hidden-123" not in file.read_bytes(), file
    assert "sk-hidden" not in out + err


@pytest.mark.parametrize("host", ["evil.example", "own"])
def test_credentialed_data_go_nowhere_else_and_the_sentence_says_what_to_write(cli, tmp_path, host):
    host = (own_address() or "192.0.2.1") if host == "own" else host
    task, run = write_small(tmp_path, test=6, access="credentialed"), tmp_path / "run"
    with Listener() as listener:
        code, _, err = cli(*words(task, f"http://{host}:{listener.port}/v1", run))
        assert listener.counts() == (0, 0)
    assert code == 2
    assert f'[trusted_endpoints] "{host}" = "the agreement that allows it"' in err
    assert not run.exists()


def test_an_agreement_in_the_settings_is_enough_and_is_recorded(cli, tmp_path):
    host = own_address()
    if host is None:
        pytest.skip("this machine has no address but loopback")
    task, run = write_small(tmp_path, test=4, access="credentialed"), tmp_path / "run"
    settings = tmp_path / "own.toml"
    settings.write_text(f'[trusted_endpoints]\n"{host}" = "agreement 2026-17"\n')
    with ChatServer(host="0.0.0.0") as server:
        url = f"http://{host}:{server.port}/v1"
        code, _, err = cli(*words(task, url, run, "--config", settings))
        assert code == 0, err
    assert len(server.heard) == 4
    known = json.loads((run / "manifest.json").read_text())["circumstances"][0]
    assert (known["endpoint"], known["agreement"]) == (url, "agreement 2026-17")


def test_what_had_no_answer_is_asked_again_by_the_same_command_and_nothing_else(cli, tmp_path):
    task, run = write_small(tmp_path, test=12), tmp_path / "run"
    asked = Counter()

    def behave(heard):
        asked[said(heard)] += 1
        return status(500) if len(asked) % 3 == 0 and asked[said(heard)] == 1 else answer()

    with ChatServer(behave) as server:
        command = words(task, server.url, run, "--set", "retries=0", "--batch-size", 4)
        code, out, _ = cli(*command)
        assert "scored 8 of 12 samples" in out
        assert Counter(row["outcome"] for row in rows(run)) == {"ok": 8, "no_answer": 4}
        code, out, err = cli(*command)
        assert code == 0, err
        assert "scored 12 of 12 samples" in out
    assert sorted(asked.values()) == [1] * 8 + [2] * 4
    assert Counter(row["outcome"] for row in rows(run)) == {"ok": 12, "no_answer": 4}


def start(command):
    return subprocess.Popen(
        [sys.executable, "-m", "cxrbench", *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


@pytest.mark.slow
def test_killed_and_gone_on_with_every_sample_has_one_answer(tmp_path):
    task, run = write_small(tmp_path, test=40), tmp_path / "run"
    file, limit = run / "predictions/0000.jsonl", [9]

    def behave(heard):
        return answer(f"Report {heard.number}.") if heard.number < limit[0] else never()

    with ChatServer(behave) as server:
        command = words(task, server.url, run, "--batch-size", 4)
        for _ in range(3):
            child, begun = start(command), time.monotonic()
            while len(server.heard) <= limit[0] and child.poll() is None:
                assert time.monotonic() - begun < LIMIT
                time.sleep(0.002)
            os.kill(child.pid, signal.SIGKILL)
            child.communicate(timeout=LIMIT)
            assert child.returncode == -signal.SIGKILL
            limit[0] = len(server.heard) + 9
        written = len(file.read_bytes().splitlines())
        assert written >= 24
        limit[0] = 10_000
        child = start(command)
        assert child.communicate(timeout=LIMIT)[1] == b""
        assert child.returncode == 0
    found = rows(run)
    assert len({row["sample_id"] for row in found}) == len(found) == 40
    assert {row["outcome"] for row in found} == {"ok"}
    assert len({row["text"] for row in found}) == 40, "no answer was used twice"
    # What was under way at a kill (a batch of 4 at most) was asked twice; what was written never.
    assert 40 <= len(server.heard) <= 40 + 3 * 4 + 3 * 2


def test_a_lost_server_stops_the_run_and_the_command_goes_on(cli, tmp_path):
    task, run = write_small(tmp_path, test=60), tmp_path / "run"
    broken = [True]
    with ChatServer(lambda heard: status(500) if broken[0] and heard.number >= 10 else answer()) as server:
        command = words(task, server.url, run, "--set", "retries=0", "--batch-size", 4)
        code, _, err = cli(*command)
        assert code == 4
        assert "20 requests in a row had no answer; the last: HTTP 500" in err
        assert len(server.heard) < 40
        broken[0] = False
        code, out, err = cli(*command)
        assert code == 0, err
        assert "scored 60 of 60 samples" in out


def test_a_server_that_is_not_there_leaves_no_folder(cli, tmp_path):
    task, run = write_small(tmp_path, test=4), tmp_path / "run"
    with ChatServer() as server:
        url = server.url
    code, _, err = cli(*words(task, url, run))
    assert code == 4
    assert "the server cannot be reached: nobody listens" in err
    assert not run.exists()


def test_a_dry_run_asks_for_nothing(cli, tmp_path):
    task, run = write_small(tmp_path, test=6), tmp_path / "run"
    with ChatServer() as server:
        code, out, err = cli(*words(task, server.url, run, "--dry-run"))
        assert code == 0, err
        assert "a dry run asks nothing of a server" in out
        assert "| user: <image>Write the findings section" in out
        assert server.heard == []
    assert not run.exists()


def test_the_lists_name_it(cli):
    assert "openai:NAME" in cli("list", "models")[1]
    assert "OpenAI-compatible" in cli("list", "engines")[1]
