"""`--workers N`: any number of processes fill one run folder, whatever is killed when; every sample exactly once."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from cxrbench.store import RunFolder
from cxrbench.workers.processes import Processes
from tests.workers.trial import Trial, bytes_of_shards, end, ends_when_asked, size, wait_for_bytes, workers_of


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    made = Trial(tmp_path_factory.mktemp("trial"))
    made.finish(made.place / "whole")
    return made


@pytest.mark.slow
def test_workers_write_what_one_process_writes(trial, tmp_path):
    out = tmp_path / "run"
    trial.finish(out, "--workers", 3)
    assert trial.answers(out) == trial.answers(trial.place / "whole")
    assert sorted(file.name for file in (out / "predictions").iterdir()) == ["0001.jsonl", "0002.jsonl", "0003.jsonl"]
    assert len(RunFolder(out).manifest().circumstances) == 3
    speed = json.loads((out / "summary.json").read_text())["speed"]
    assert speed["segments"] == 1
    assert speed["reports"] == trial.samples
    # 48 batches of 20 ms on three workers: side by side, and not faster than that.
    assert 48 * 0.02 / 3 <= speed["seconds"] < 48 * 0.02


def test_kills_at_any_moment_lose_nothing_that_was_written(trial, tmp_path):
    """The coordinator, then every process at once, then a worker alone, with another number of workers each time."""
    out = tmp_path / "run"
    draw = random.Random(0)
    for victim, workers in (("coordinator", 3), ("all", 2), ("worker", 3)):
        # Slow enough that what is written until the kill is little, on a machine that has much else to do.
        process = trial.start(out, "--workers", workers, "--model", "sleeper:0.05")
        assert wait_for_bytes(out, size(out) + draw.randrange(100, 600), process)
        doomed = {
            "coordinator": [process.pid],
            "all": [process.pid, *workers_of(out)],
            "worker": workers_of(out)[:1],
        }[victim]
        for pid in doomed:
            os.kill(pid, signal.SIGKILL)
        before, counted = bytes_of_shards(out), trial.answers(out)
        code, said = end(process)
        assert code == (0 if victim == "worker" else -9), said
        after = bytes_of_shards(out)
        assert all(after[name].startswith(rows) for name, rows in before.items())
        assert trial.answers(out).items() >= counted.items()
    assert trial.answers(out) == trial.answers(trial.place / "whole")


@pytest.mark.slow
def test_pre_emption_keeps_the_batch_in_flight_and_ends_in_time(trial, tmp_path):
    out = tmp_path / "run"
    process = trial.start(out, "--workers", 2)
    assert wait_for_bytes(out, 800, process)
    ends_when_asked(process)
    claims = RunFolder(out).claims
    assert {claims.beat(claim.shard).state for claim in claims.claims()} == {"stopped"}
    for file in (out / "predictions").iterdir():
        assert file.read_bytes().endswith(b"\n")
    trial.finish(out, "--workers", 3)
    assert trial.answers(out) == trial.answers(trial.place / "whole")


@pytest.mark.slow
def test_a_worker_that_dies_again_and_again_ends_the_run(tmp_path):
    made = Trial(tmp_path / "trial", samples=6)
    made.words[1] = "sleeper:0:3"
    code, said = end(made.start(tmp_path / "run", "--workers", 2))
    assert code == 4
    assert "worker 1 died 3 times without an answer in between (by signal SIGKILL)" in said
    made.words[1] = "sleeper:0"
    made.finish(tmp_path / "run")
    assert len(made.answers(tmp_path / "run")) == 6


@pytest.mark.parametrize(("given", "shared"), [(6, "3"), (1, "1")])
def test_workers_share_the_processors_of_the_job_and_not_of_the_machine(given, shared, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(given)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seen = tmp_path / "seen"
    (tmp_path / "program").write_text(f"#!/bin/sh\necho $OMP_NUM_THREADS > {seen}.$$\nmv {seen}.$$ {seen}\n")
    (tmp_path / "program").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "program"))
    crew = Processes(["run"], 1, 2, spread=True)
    crew.start(0)
    while not crew.ended():
        time.sleep(0.01)
    assert seen.read_text() == f"{shared}\n"


def test_an_error_of_a_worker_is_that_of_the_run(trial, tmp_path):
    words = [*trial.words]
    try:
        trial.words[-1] = "0"
        process = trial.start(tmp_path / "run", "--workers", 2, "--set", "nothing=1", "--model", "always-normal")
        code, said = end(process)
    finally:
        trial.words = words
    assert code == 2
    assert "--set nothing would change nothing" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_coordinators_are_one_too_many(trial, tmp_path):
    out = tmp_path / "run"
    first = trial.start(out, "--workers", 2)
    assert wait_for_bytes(out, 300, first)
    code, said = end(trial.start(out, "--workers", 2))
    assert code == 4
    assert f"another process (pid {first.pid}) is writing this run" in said
    assert end(first)[0] == 0
    assert trial.answers(out) == trial.answers(trial.place / "whole")


@pytest.mark.slow
def test_ranks_of_a_scheduler_share_a_run_and_the_last_one_scores(trial, tmp_path):
    out = tmp_path / "run"
    ranks = [
        trial.start(out, environment={"RANK": str(rank), "WORLD_SIZE": "3", "LOCAL_RANK": str(rank)})
        for rank in range(3)
    ]
    ends = [end(each) for each in ranks]
    assert [code for code, _ in ends] == [0, 0, 0], ends
    assert trial.answers(out) == trial.answers(trial.place / "whole")
    assert (out / "summary.json").exists()
    assert len(RunFolder(out).claims.epochs()) == 1


def test_a_rank_that_is_started_again_goes_on_with_its_share(trial, tmp_path):
    out = tmp_path / "run"
    array = {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "0"}
    first = trial.start(out, environment={**array, "SLURM_ARRAY_TASK_ID": "0"})
    assert wait_for_bytes(out, 900, first)
    first.kill()
    end(first)
    # The other one comes when the first has long gone, as tasks of an array do; then the first is queued again.
    said = trial.finish(out, environment={**array, "SLURM_ARRAY_TASK_ID": "1"})
    assert "Slurm (SLURM_ARRAY_TASK_ID) made this share 1 of 2" in said
    assert not (out / "summary.json").exists()
    trial.finish(out, environment={**array, "SLURM_ARRAY_TASK_ID": "0"})
    assert trial.answers(out) == trial.answers(trial.place / "whole")
    assert (out / "summary.json").exists()
    assert [claim.rank for claim in RunFolder(out).claims.claims()] == [0, 1, 0]


def test_a_rank_shows_how_far_its_own_share_is(trial, tmp_path):
    told_at_once = "import cxrbench.cli.main as m, cxrbench.cli.progress as p; p.QUIET_SECONDS = 0; m.run()"
    command = [sys.executable, "-c", told_at_once, "run", *trial.words, "--out", str(tmp_path / "run")]
    ended = subprocess.run(
        command, env={**trial.environment, "RANK": "1", "WORLD_SIZE": "3"}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    shown = [line for line in ended.stderr.splitlines() if line.startswith("sleeper on asleep")]
    assert shown
    # 48 samples among three ranks.
    assert all(re.match(r"sleeper on asleep, share 1 of 3: (16 to do|\d+ of 16,)", line) for line in shown), shown


@pytest.fixture
def disk(tmp_path):
    """A real file system of 400 KiB, where the machine lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("room", [20_480, 40_960, 61_440])
def test_a_disk_that_fills_up_under_workers_is_said_and_the_run_goes_on_with_room(trial, disk, room):
    ballast, out = disk / "ballast", disk / "run"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"\0" * 4096)
    os.truncate(ballast, ballast.stat().st_size // 4096 * 4096 - room)
    code, said = end(trial.start(out, "--workers", 2))
    assert code == 4, said
    assert "the disk is full; everything written so far is kept" in said
    ballast.unlink()
    trial.finish(out, "--workers", 2)
    assert trial.answers(out) == trial.answers(trial.place / "whole")


@pytest.mark.slow
def test_permission_that_is_lost_is_said_and_the_run_goes_on_when_it_is_back(trial, disk):
    out = disk / "run"
    process = trial.start(out, "--workers", 2)
    assert wait_for_bytes(out, 500, process)
    for pid in [process.pid, *workers_of(out)]:
        os.kill(pid, signal.SIGKILL)
    end(process)
    # The last of them may still be dying; a file open for writing keeps a file system from becoming read-only.
    until = time.monotonic() + 30
    while subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True).returncode:
        assert time.monotonic() < until
    code, said = end(trial.start(out, "--workers", 2))
    assert code == 4, said
    assert "the folder cannot be written" in said
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    trial.finish(out, "--workers", 3)
    assert trial.answers(out) == trial.answers(trial.place / "whole")
