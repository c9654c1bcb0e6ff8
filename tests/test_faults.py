"""What happens to real runs: killed, torn, no room, no permission, two at once. Nothing may be lost.

Every test types a command. Where a process must die at a given moment, it is a real process that kills itself there.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from cxrbench.cli import progress
from cxrbench.store import RunFolder
from tests import commands
from tests.commands import answers, metrics, rows, small_run
from tests.small_task import write_small

HARD_LIMIT = 120
"""Seconds after which a process counts as hanging."""


cli = commands.cli


# Killed


def start(*words):
    command = [sys.executable, "-m", "cxrbench", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


PROGRESS = re.compile(r"[^:\n]+: \d+( to do| of \d+)?(, \d+\.\d/s)?(, about \d+ s left)?\n")
"""A line of cxrbench.cli.progress, which comes where the machine is so busy that a small run takes ten seconds."""


def without_progress(said):
    return "".join(line for line in said.splitlines(keepends=True) if not PROGRESS.fullmatch(line))


def end(child):
    """Exit code and standard error, without progress, of a process that must come to its end."""
    _, said = child.communicate(timeout=HARD_LIMIT)
    return child.returncode, without_progress(said)


@pytest.mark.parametrize("total", [None, 1000])
def test_progress_and_nothing_else_is_left_out_of_what_a_process_said(monkeypatch, capsys, total):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress.progress("random-report on small") as report:
        for done in (0, 20, 20, 1000):
            now[0] += 11
            report(done, total)
    said = capsys.readouterr().err
    assert said.count("\n") == (4 if total is None else 3)
    assert without_progress(f"{COMPLETE}{said}error: x.json: 5 rows\n") == f"{COMPLETE}error: x.json: 5 rows\n"


def size(file):
    return file.stat().st_size if file.exists() else 0


def wait_for(ready, child):
    """Look every other millisecond until `ready()` or the process has ended."""
    begun = time.monotonic()
    while not ready() and child.poll() is None:
        assert time.monotonic() - begun < HARD_LIMIT, "the process hangs"
        with suppress(subprocess.TimeoutExpired):
            child.wait(0.002)


COMPLETE = "note: every sample was answered before; nothing was generated or timed now\n"


def test_a_run_killed_again_and_again_equals_one_that_was_not(cli, tmp_path):
    words = ("run", "--model", "random-report", "--task", write_small(tmp_path, test=300))
    words = (*words, "--batch-size", 1, "--replicates", 0)
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert cli(*words, "--out", whole)[0] == 0
    file, killed = run / "predictions/0000.jsonl", 0
    for wanted in (1, 200):
        child = start(*words, "--out", run)
        wait_for(lambda wanted=wanted: file.exists() and file.read_bytes().count(b"\n") >= wanted, child)
        child.kill()
        killed += end(child)[0] == -signal.SIGKILL
        before = file.read_bytes()
        assert before.count(b"\n") >= wanted
    assert killed
    code, said = end(start(*words, "--out", run))
    assert code == 0
    assert said in ("", COMPLETE)
    assert file.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert answers(run) == answers(whole)
    assert metrics(run) == metrics(whole)


DYING = """
import importlib, os, signal, stat, sys, threading
from pathlib import Path
from cxrbench.cli import main

def arm(at):
    seen = 0
    fsync, replace = os.fsync, Path.replace
    def moment(handle):
        nonlocal seen
        seen += 1
        if seen == at:
            if handle is not None and at // 2 % 2:
                os.ftruncate(handle, max(os.fstat(handle).st_size - 5, 0))
            os.kill(os.getpid(), signal.SIGKILL)
    def dying_fsync(handle):
        if stat.S_ISREG(os.fstat(handle).st_mode):  # after that of a folder nothing differs but after a power loss
            moment(handle)
        fsync(handle)
    def dying_replace(self, target):
        moment(None)
        return replace(self, target)
    os.fsync, Path.replace = dying_fsync, dying_replace

def command(out):
    sys.argv = ["cxrbench", "run", "--out", str(out), *words]
    try:
        main.run()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0

def once(out, at, imported=None):
    child = os.fork()
    if child == 0:
        signal.alarm(limit)
        arm(at)
        code = command(out)
        if imported is not None:
            imported.write_text("\\n".join(sys.modules))
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGALRM:
        sys.exit(f"the run into {out}, to be killed at moment {at}, hangs")
    return code

place, limit, first, last, step, words = Path(sys.argv[1]), *map(int, sys.argv[2:6]), sys.argv[6:]
if once(place / "whole", 0, place / "imported") != 0:
    sys.exit("the uninterrupted run failed")
for name in (place / "imported").read_text().split():
    try:
        importlib.import_module(name)
    except ImportError:
        pass
if threading.active_count() > 1:
    sys.exit(f"a fork is not safe beside {threading.enumerate()}")
for at in range(first, last, step):
    out = place / f"killed-{at}"
    if once(out, at) != -signal.SIGKILL:
        break
    file = out / "predictions" / "0000.jsonl"
    kept = file.read_bytes() if file.exists() else b""
    if once(out, 0) != 0:
        sys.exit(f"killed at moment {at}, the same command fails")
    if not file.read_bytes().startswith(kept[: kept.rfind(b"\\n") + 1]):
        sys.exit(f"killed at moment {at}, a row that was written is gone")
"""
"""Runs a command to its end, then again and again in new folders, killed at the first, second, ... moment at which it
forces a file to disk or renames one, and each time once more to its end. At every other pair of moments the line that
was being written is torn as well. Arguments: folder, seconds a run may take, first and last moment, from which of them
to the next, words of the command.

Every run is a fork, as a new interpreter that imports everything takes fifty times as long as such a run. The process
that forks runs no command itself: it only imports what one has imported, so that there is no thread that a fork would
leave dead."""


def die_at_every_moment(place, first, last, step, *words):
    numbers = map(str, (HARD_LIMIT, first, last, step))
    command = [sys.executable, "-c", DYING, str(place), *numbers, *map(str, words)]
    # One thread: a library that makes a pool of threads when it is imported makes none.
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=alone)  # every run in it has its limit
    assert done.returncode == 0, done.stderr
    return sorted(place.glob("killed-*"))


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_between_two_writes_loses_nothing(tmp_path, step):
    """Manifest, samples, rows, times, contexts, scores, summary: each is killed half-made once; by default a fifth."""
    task = write_small(tmp_path, test=6)
    words = ("--model", "random-report", "--task", task, "--batch-size", 2, "--replicates", 0)
    killed = die_at_every_moment(tmp_path, 1, 100, step, *words)
    assert len(killed) > 15 // step
    for run in killed:
        assert answers(run) == answers(tmp_path / "whole"), run.name
        assert metrics(run) == metrics(tmp_path / "whole"), run.name
        assert not list(run.glob("**/*.part")), run.name


@pytest.mark.slow
def test_a_sampling_model_killed_in_the_middle_writes_the_same_texts(tmp_path):
    from tests.tiny_llava import make

    task = write_small(tmp_path, test=6)
    words = ("--model", f"hf:{make(tmp_path / 'tiny')}", "--device", "cpu", "--batch-size", 2, "--replicates", 0)
    sampling = ("--set", "temperature=0.8", "--set", "max_new_tokens=12")
    (run,) = die_at_every_moment(tmp_path, 9, 10, 1, "--task", task, *words, *sampling)
    assert answers(run) == answers(tmp_path / "whole")
    assert len(json.loads((run / "manifest.json").read_text())["circumstances"]) == 2
    assert len({row["text"] for row in rows(run)}) > 1
    # Killed between the rows of a batch and its time, these reports would have no speed; killed while both are forced
    # to disk, they have: only what has a time counts.
    timed = {json.loads(line)["batch"] for line in (run / "batches/0000.jsonl").read_text().splitlines()}
    assert len(timed) in (2, 3)
    assert json.loads((run / "summary.json").read_text())["speed"]["reports"] == 2 * len(timed)


def test_a_torn_last_line_is_said_by_score_and_mended_by_run(cli, tmp_path):
    run, words = small_run(cli, tmp_path)
    file, whole = run / "predictions/0000.jsonl", answers(run)
    file.write_bytes(file.read_bytes()[:-30])
    code, _, err = cli("score", run, "--replicates", 0)
    assert code == 3
    assert "1 of 24 samples are not answered yet" in err
    assert cli(*words)[0] == 0
    assert answers(run) == whole


@pytest.mark.parametrize("damage", [b"{{{\n", b"5\n", b"\0" * 40 + b"\n", b'{"outcome": "ok"}\n'])
def test_a_damaged_row_is_named_with_what_to_do(cli, tmp_path, damage):
    run, words = small_run(cli, tmp_path)
    file, whole = run / "predictions/0000.jsonl", answers(run)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:7], damage, *lines[8:]]))
    code, _, err = cli(*words)
    assert code == 4
    assert "row is damaged" in err
    assert "0000.jsonl, line 8" in err
    assert "delete that line" in err
    file.write_bytes(b"".join([*lines[:7], *lines[8:]]))
    assert cli(*words)[0] == 0
    assert answers(run) == whole


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": 1}'])
def test_a_damaged_manifest_is_named(cli, tmp_path, damage):
    run, words = small_run(cli, tmp_path)
    assert cli("run", "--model", "always-normal", "--task", "small.yaml", "--replicates", 0)[0] == 0
    (run / "manifest.json").write_text(damage)
    for call in (words, ("score", run)):
        code, _, err = cli(*call)
        assert code == 4
        assert "the manifest is damaged" in err
        assert "restore it from a copy, or start again with --out DIR" in err
    code, out, _ = cli("runs", "list")
    assert code == 0
    assert "the manifest is damaged" in out
    assert "always-normal" in out
    assert "24/24" in out


def test_a_damaged_summary_or_context_is_named_and_scoring_mends_it(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    whole = metrics(run)
    (run / "summary.json").write_text('{"n": 24, "met')
    code, _, err = cli("runs", "show", run)
    assert code == 4
    assert "the summary is damaged" in err
    assert f"cxrbench score {run}" in err
    context = run / "contexts/cider.raw.json"
    context.write_text(context.read_text()[:50])
    code, _, err = cli("score", run, "--replicates", 0)
    assert code == 4
    assert "a stored context is damaged" in err
    assert "delete cider.raw.json and score again" in err
    context.unlink()
    assert cli("score", run, "--replicates", 0)[0] == 0
    assert metrics(run) == whole


def test_document_frequencies_on_disk_are_kept_taken_up_and_mended(cli, tmp_path, monkeypatch):
    run, _ = small_run(cli, tmp_path)
    whole = metrics(run)["cider:raw"]["cider"]
    (inline,) = (run / "contexts").glob("cider*")
    inline.unlink()  # learnt anew, with room for ten n-grams
    monkeypatch.setattr("cxrbench.metrics.cider.INLINE", 10)
    assert cli("score", run, "--replicates", 0)[0] == 0
    (counts,) = (run / "contexts").glob("cider.raw.*.counts")
    found = metrics(run)["cider:raw"]["cider"]
    assert found["value"] == whole["value"]

    (run / "contexts" / f"cider.raw.{'0' * 16}.counts").touch()  # of an earlier scoring
    monkeypatch.setattr("cxrbench.metrics.cider.Cider.fit", None)  # what is kept is enough
    for file in (run / "scores").glob("cider*"):
        file.unlink()
    assert cli("score", run, "--replicates", 0)[0] == 0
    assert metrics(run)["cider:raw"]["cider"] == found
    assert [each.name for each in (run / "contexts").glob("cider.raw.*.counts")] == [counts.name]

    body = counts.read_bytes()
    for change, said in (
        (lambda: counts.write_bytes(body[:-12]), "a stored context is damaged"),
        (lambda: counts.write_bytes(body[12:24] + body[:12] + body[24:]), "a stored context is damaged"),
        (counts.unlink, f"a stored context is not whole: {counts.name} is not there"),
        (counts.mkdir, "a stored context cannot be read: Is a directory"),
    ):
        change()
        code, _, err = cli("score", run, "--replicates", 0)
        assert (code, said in err, "delete cider.raw.json and score again" in err) == (4, True, True), err
    counts.rmdir()
    monkeypatch.undo()
    inline.unlink()
    assert cli("score", run, "--replicates", 0)[0] == 0
    assert not [*(run / "contexts").glob("*.counts")]
    assert metrics(run)["cider:raw"]["cider"] == whole


# No room, no permission, two at once


@pytest.fixture
def disk(tmp_path):
    """A real file system of 400 KiB, where the machine lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("room", [0, 4096, 8192, 24576, 40960, 65536])
def test_a_disk_that_fills_up_anywhere_is_said_and_the_run_goes_on_with_room(cli, tmp_path, disk, room):
    whole, words = small_run(cli, tmp_path)
    words = [*words[:-1], disk / "run"]
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"\0" * 4096)
    os.truncate(ballast, size(ballast) // 4096 * 4096 - room)
    code, _, err = cli(*words)
    assert code == 4
    assert "the disk is full; everything written so far is kept" in err
    assert "repeat the same command" in err
    ballast.unlink()
    assert cli(*words)[0] == 0
    assert answers(disk / "run") == answers(whole)
    assert metrics(disk / "run") == metrics(whole)


LIMITED = """
import resource, sys
from cxrbench.cli import main
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
main.run()
"""


def test_a_file_that_may_not_grow_keeps_whole_rows(cli, tmp_path):
    """The kernel takes part of a row and refuses the rest, as a full disk does; this needs no right to mount."""
    words = ("run", "--task", write_small(tmp_path), "--batch-size", 1, "--replicates", 0)
    assert cli(*words, "--model", "random-report", "--out", "made")[0] == 0
    # Long answers, so that no other file of the run comes near the limit.
    given = [{"sample_id": row["sample_id"], "prediction": row["text"] * 20} for row in rows(tmp_path / "made")]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    run = tmp_path / "run"
    words = (*words, "--model", "replay:long.jsonl", "--out", run)
    assert cli(*words)[0] == 0
    file, whole = run / "predictions/0000.jsonl", answers(run)
    lines = file.read_bytes().splitlines(keepends=True)
    kept = 12
    assert len(b"".join(lines[:kept])) > max(size(each) for each in run.glob("**/*") if each != file)
    file.write_bytes(b"".join(lines[:kept]))
    limit = len(b"".join(lines[: kept + 2])) + 100
    done = subprocess.run([sys.executable, "-c", LIMITED, str(limit), *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 4
    assert "a file cannot be written: File too large" in done.stderr
    assert file.read_bytes().startswith(b"".join(lines[:kept]))
    assert file.read_bytes().endswith(b"}\n")
    assert kept < len(answers(run)) < len(lines)
    assert cli(*words)[0] == 0
    assert answers(run) == whole


@pytest.fixture
def read_only(tmp_path, request):
    """A folder in which nothing can be written."""
    if os.geteuid() == 0:  # root may write into a folder without write permission
        place = request.getfixturevalue("disk")
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        yield place
        return
    place = tmp_path / "closed"
    place.mkdir(mode=0o500)
    yield place
    place.chmod(0o700)


def test_a_read_only_place_is_named_before_a_single_answer(cli, tmp_path, read_only):
    words = ("run", "--model", "random-report", "--task", write_small(tmp_path), "--replicates", 0)
    for out in (read_only / "run", read_only):
        code, _, err = cli(*words, "--out", out)
        assert code == 4
        assert "the folder cannot be written" in err
        assert str(out) in err
        assert "write elsewhere (`run --out DIR`" in err


def test_a_second_process_on_one_folder_is_refused_and_the_first_is_not_disturbed(tmp_path):
    task = write_small(tmp_path, test=60)
    words = ("run", "--model", "random-report", "--task", task, "--batch-size", 1, "--replicates", 0)
    run = tmp_path / "run"
    first = start(*words, "--out", run)
    try:
        wait_for(lambda: size(run / "predictions/0000.jsonl"), first)
        first.send_signal(signal.SIGSTOP)
        before = {file: file.read_bytes() for file in run.glob("**/*") if file.is_file()}
        code, said = end(start(*words, "--out", run))
        assert code == 4
        assert f"another process (pid {first.pid}) is writing this run" in said
        assert "wait for it, or stop it and repeat the command" in said
        assert {file: file.read_bytes() for file in run.glob("**/*") if file.is_file()} == before
    finally:
        first.send_signal(signal.SIGCONT)
    assert end(first) == (0, "")
    assert len(answers(run)) == 60


def test_a_folder_that_another_process_is_about_to_begin_is_left_as_it_is(cli, tmp_path):
    words = ("run", "--model", "random-report", "--task", write_small(tmp_path), "--replicates", 0)
    with RunFolder(tmp_path / "run").writing():
        code, _, err = cli(*words, "--out", "run")
        assert code == 4
        assert f"another process (pid {os.getpid()})" in err
        assert [file.name for file in (tmp_path / "run").iterdir()] == ["lock"]
    assert cli(*words, "--out", "run")[0] == 0


def test_two_processes_that_start_at_once_make_one_run(tmp_path):
    words = ("run", "--model", "random-report", "--task", write_small(tmp_path), "--batch-size", 1, "--replicates", 0)
    run = tmp_path / "run"
    both = [start(*words, "--out", run) for _ in range(2)]
    ends = [end(each) for each in both]
    for code, said in ends:
        assert (code == 0 and said in ("", COMPLETE)) or (code == 4 and "another process" in said)
    assert 0 in [code for code, _ in ends] or end(start(*words, "--out", run))[0] == 0
    assert len(answers(run)) == 24
    assert json.loads((run / "manifest.json").read_text())["circumstances"]


def test_scoring_one_more_metric_keeps_the_earlier_ones_of_the_same_texts(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    before = metrics(run)
    assert cli("score", run, "--metrics", "rouge-l:rouge-score", "--replicates", 0)[0] == 0
    assert metrics(run).keys() == before.keys() | {"rouge-l:rouge-score"}
    assert {key: value for key, value in metrics(run).items() if key in before} == before
    file = run / "predictions/0000.jsonl"
    file.write_text(file.read_text().replace(rows(run)[0]["text"], "Other words."))
    assert cli("score", run, "--metrics", "length", "--replicates", 0)[0] == 0
    assert metrics(run).keys() == {"length:words"}
