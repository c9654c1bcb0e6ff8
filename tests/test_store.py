"""The run folder survives what happens to files: torn lines, full disks, read-only places, two processes."""

import json
import os
import select
import signal
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrbench.atomic import write_atomic
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.lock import last_holder
from cxrbench.metrics.base import Statistics
from cxrbench.rows import Forcing
from cxrbench.store import Appender, RunFolder, differences, find_run, prediction_row, run_folder
from cxrbench.tables import Scores, read_samples, read_scores, write_samples, write_scores
from cxrbench.types import BatchTiming, Image, Manifest, Prediction, Sample


def manifest(**identity):
    return Manifest(
        format=1,
        identity={"task": {"name": "t"}, "model": {}, "seed": 0, **identity},
        access="credentialed",
        n_expected=3,
        clusters=3,
        patient_ids=True,
        batch_size=2,
    )


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.begin(manifest())
    return folder


def test_a_run_is_read_as_it_was_written(run):
    run.add_segment({"host": "a"})
    found = run.manifest()
    assert found.identity == manifest().identity
    assert found.circumstances == ({"host": "a"},)
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700


def test_another_identity_is_refused_with_each_difference(run):
    with pytest.raises(CxrbenchError) as caught:
        run.begin(manifest(seed=1, dtype="bf16"))
    assert 'dtype: none -> "bf16"' in caught.value.what
    assert "seed: 0 -> 1" in caught.value.what


def test_equal_settings_find_the_same_folder(tmp_path):
    one = run_folder(tmp_path, "t", "hf:/models/x", {"a": 1, "b": {"c": 2}})
    two = run_folder(tmp_path, "t", "hf:/models/x", {"b": {"c": 2}, "a": 1})
    other = run_folder(tmp_path, "t", "hf:/models/x", {"a": 2, "b": {"c": 2}})
    assert one.path == two.path != other.path
    assert one.path.parent == tmp_path / "t"


def test_a_damaged_or_foreign_manifest_is_named(run):
    run.manifest_file.write_text("{")
    with pytest.raises(CxrbenchError, match="damaged"):
        run.manifest()
    run.manifest_file.write_text(json.dumps({"format": 99}))
    with pytest.raises(CxrbenchError, match="format 99"):
        run.manifest()
    with pytest.raises(CxrbenchError, match="no run here"):
        RunFolder(run.path / "none").manifest()


ROWS = st.lists(
    st.builds(
        Prediction,
        sample_id=st.text(min_size=1),
        outcome=st.sampled_from(["ok", "empty", "broken_image"]),
        text=st.none() | st.text(),
        finish_reason=st.sampled_from(["stop", "length"]),
        output_tokens=st.none() | st.integers(0, 300),
        inputs=st.lists(st.text(max_size=5)).map(tuple),
        times=st.dictionaries(st.text(max_size=5), st.floats(0, 10)),
        batch=st.integers(0, 9),
    ),
    unique_by=lambda row: row.sample_id,
    max_size=6,
)


@given(ROWS)
def test_predictions_come_back_as_they_were(tmp_path_factory, rows):
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    writer = Appender(folder.shard_file("predictions"))
    writer.write(prediction_row(row) for row in rows)
    writer.close()
    assert list(folder.predictions().values()) == rows


def test_a_torn_last_line_is_passed_over_and_cut_off_when_writing_goes_on(run):
    file = run.shard_file("predictions")
    writer = Appender(file)
    writer.write([{"sample_id": "a", "outcome": "ok", "text": "x" * 70000}])
    writer.close()
    with file.open("ab") as handle:
        handle.write(b'{"sample_id": "b", "outc')
    assert set(run.predictions()) == {"a"}
    writer = Appender(file)
    writer.write([{"sample_id": "b", "outcome": "ok"}])
    writer.close()
    assert set(run.predictions()) == {"a", "b"}


@pytest.mark.parametrize("torn", [b"", b"{", b'{"sample_id": "b"'])
def test_a_file_that_is_nothing_but_a_torn_line_starts_again(run, torn):
    file = run.shard_file("predictions")
    file.write_bytes(torn)
    writer = Appender(file)
    writer.write([{"sample_id": "b", "outcome": "ok"}])
    writer.close()
    assert set(run.predictions()) == {"b"}


def test_damage_in_the_middle_and_double_rows_are_errors(run):
    file = run.shard_file("predictions")
    file.write_text('{"sample_id": "a", "outcome": "ok"}\n{{{\n{"sample_id": "b", "outcome": "ok"}\n')
    with pytest.raises(CxrbenchError, match="row is damaged") as caught:
        run.predictions()
    assert "line 2" in caught.value.where
    file.write_text('{"sample_id": "a", "outcome": "ok"}\n' * 2)
    with pytest.raises(CxrbenchError, match="two rows"):
        run.predictions()
    file.write_text('{"sample_id": "a", "outcome": "ok", "mood": "good"}\n')
    with pytest.raises(CxrbenchError, match="does not know"):
        run.predictions()


FULL_DISK = """
import resource, sys
from pathlib import Path
from cxrbench.errors import CxrbenchError
from cxrbench.store import Appender
file = Path(sys.argv[1])
writer = Appender(file)
writer.write([{"sample_id": "a", "outcome": "ok"}])
size = file.stat().st_size
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, size + 20))
try:
    writer.write([{"sample_id": "b", "outcome": "ok", "text": "long enough not to fit"}])
except CxrbenchError as error:
    assert error.code == 4, error
    print(error.what)
assert file.stat().st_size == size
"""


def test_a_write_that_does_not_fit_is_taken_back_whole(run):
    """A file size limit makes the kernel write part of the row and refuse the rest, as a full disk does."""
    file = run.shard_file("predictions")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(file)], capture_output=True, text=True, check=True)
    assert "cannot be written" in done.stdout
    assert set(run.predictions()) == {"a"}


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of 64 KiB, where the machine lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_keeps_what_was_written_and_says_so(tiny_disk):
    run = RunFolder(tiny_disk / "run")
    run.begin(manifest())
    writer = Appender(run.shard_file("predictions"))
    written = 0
    with pytest.raises(CxrbenchError, match="the disk is full") as caught:
        for number in range(1000):
            writer.write([{"sample_id": f"s{number}", "outcome": "ok", "text": "x" * 1000}])
            written += 1
    writer.close()
    assert caught.value.code == Exit.INFRASTRUCTURE
    assert "repeat the same command" in caught.value.fix
    assert len(run.predictions()) == written > 10
    with pytest.raises(CxrbenchError, match="the disk is full"):
        write_samples(
            run.samples_file, [Sample(f"s{n}", "s", None, os.urandom(50).hex()) for n in range(9000)], frozenset()
        )
    assert sorted(p.name for p in run.path.iterdir()) == ["batches", "manifest.json", "predictions", "scores"]


HARD_LIMIT = 120
"""Seconds after which a process counts as hanging."""


@contextmanager
def process(code, *words):
    """A Python process that is killed when the block ends, however it ends."""
    command = [sys.executable, "-c", code, *map(str, words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            yield other
        finally:
            other.kill()


def first_line(other):
    """The first line a process prints, "" where it ends without one."""
    ready, _, _ = select.select([other.stdout], [], [], HARD_LIMIT)
    assert ready, "the process hangs"
    return other.stdout.readline()


def test_two_processes_cannot_write_one_folder(run):
    code = (
        "import sys\nfrom pathlib import Path\nfrom cxrbench.store import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).writing():\n    print('in', flush=True)\n    sys.stdin.read()\n"
    )
    with process(code, run.path) as other:
        assert first_line(other) == "in\n"
        with pytest.raises(CxrbenchError, match=f"pid {other.pid}") as caught, run.writing():
            pass
        assert caught.value.code == Exit.INFRASTRUCTURE
    with run.writing():
        assert last_holder(run.path / "lock").place.pid == os.getpid()


def test_a_read_only_place_is_named(tiny_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(CxrbenchError, match="cannot be written") as caught:
        RunFolder(tiny_disk / "run").begin(manifest())
    assert caught.value.code == Exit.INFRASTRUCTURE
    assert "--out" in caught.value.fix


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a folder without write permission")
def test_a_folder_without_write_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CxrbenchError, match="cannot be written"):
        RunFolder(tmp_path / "run").begin(manifest())
    tmp_path.chmod(0o700)


def test_a_path_that_is_a_file_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(CxrbenchError):
        RunFolder(tmp_path / "run").begin(manifest())


def test_batches_come_back(run):
    writer = Appender(run.shard_file("batches"))
    writer.write([{"batch": 0, "size": 2, "wall": 0.5, "segment": 0, "ended": 0.6}])
    writer.close()
    assert run.batches() == [BatchTiming(0, 2, 0.5, segment=0, ended=0.6)]


def test_samples_come_back_whole(tmp_path):
    samples = (
        Sample(
            "s/1", "s", "p", "Normal.", (Image("i", "/somewhere/i.png", "PA"),), "i", {"indication": "cough"},
            None, ("a", "b"), {"sex": "F"}, {"gold": {"Edema": 1.0}},
        ),
        Sample("s/2", "s", None, "Ünïcode\n\"quoted\""),
    )  # fmt: skip
    write_samples(tmp_path / "samples.parquet", samples, frozenset({"s/2"}))
    stored = read_samples(tmp_path / "samples.parquet")
    assert stored.selected == {"s/2"}
    assert [s.sample_id for s in stored.chosen] == ["s/2"]
    assert stored.samples[1] == samples[1]
    assert stored.samples[0].images == (Image("i", "", "PA"),)
    assert stored.samples[0].labels == {"gold": {"Edema": 1.0}}


@given(m=st.integers(0, 5), r=st.integers(1, 3), k=st.integers(1, 4), seed=st.integers(0, 9))
def test_statistics_come_back_exactly(tmp_path_factory, m, r, k, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(m, r, k))
    statistics = Statistics(rows, rng.integers(0, 3, (m, r)).astype(np.uint8), tuple("r" * i for i in range(m)))
    file = tmp_path_factory.mktemp("scores") / "x.parquet"
    write_scores(file, Scores(tuple(f"s{i:d}" for i in range(m)), statistics, {"signature": "x"}))
    ids = tuple(f"s{i}" for i in range(m))
    found = read_scores(file, ids)
    assert found.about == {"signature": "x"}
    assert found.sample_ids == read_scores(file).sample_ids == read_scores(file, ids[1:]).sample_ids == ids
    assert all(given is expected for given, expected in zip(found.sample_ids, ids, strict=True))
    if m:
        assert np.array_equal(found.statistics.rows, rows)
        assert np.array_equal(found.statistics.status, statistics.status)
        assert found.statistics.reasons == statistics.reasons


# Files that take the place of another


def test_a_file_that_only_looks_like_ours_is_left_alone(tmp_path):
    mine = {tmp_path / name for name in ("sum.json.part", ".sum.json.part", ".sum.json.cxrbench-notes.part")}
    for file in mine:
        file.write_text("mine")
    write_atomic(tmp_path / "sum.json", b"{}")
    assert (tmp_path / "sum.json").read_bytes() == b"{}"
    write_scores(tmp_path / "sum.json", Scores(("a",), Statistics.scored(np.ones((1, 2))), {"signature": "x"}))
    assert {file for file in tmp_path.iterdir() if file.name != "sum.json"} == mine
    assert {file.read_text() for file in mine} == {"mine"}


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=["disk", "ctrl-c"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error):
    file = tmp_path / "x.json"
    write_atomic(file, b"old")

    def fail(*_):
        (part,) = set(tmp_path.iterdir()) - {file}
        assert stat.S_IMODE(part.stat().st_mode) == 0o600
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((CxrbenchError, KeyboardInterrupt)):
        write_atomic(file, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert file.read_bytes() == b"old"


STOPPED = """
import os, signal, sys
from pathlib import Path
from cxrbench.atomic import write_atomic
def stop(handle):
    print("in", flush=True)
    signal.pause()
os.fsync = stop
write_atomic(Path(sys.argv[1]), b"words of a report")
"""
"""Writes a file and stops before it takes its place."""


def test_what_a_killed_process_left_goes_with_the_next_write_and_what_a_live_one_has_stays(tmp_path):
    file = tmp_path / "x.json"
    with process(STOPPED, file) as other:
        assert first_line(other) == "in\n"
        (part,) = tmp_path.iterdir()
        write_atomic(file, b"mine")
        assert part.exists()
        other.send_signal(signal.SIGKILL)
        other.wait(HARD_LIMIT)
        write_atomic(tmp_path / "other.json", b"mine")
        assert part.exists()
    write_atomic(file, b"again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.json", "x.json"]
    assert file.read_bytes() == b"again"


def test_a_rename_and_a_new_file_are_forced_to_disk_with_their_folder(tmp_path, monkeypatch):
    """After a power loss the name must be there, too: the folder is synced after the file and after the rename."""
    synced, fsync = [], os.fsync

    def record(handle):
        about = os.fstat(handle)
        synced.append("folder" if stat.S_ISDIR(about.st_mode) else "file")
        if synced[-1] == "folder":
            assert os.path.samestat(about, tmp_path.stat())
            assert [path.name for path in tmp_path.iterdir()] == [name]
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    name = "x.json"
    write_atomic(tmp_path / name, b"{}")
    assert synced == ["file", "folder"]
    write_scores(tmp_path / name, Scores(("a",), Statistics.scored(np.ones((1, 2))), {"signature": "x"}))
    assert synced == ["file", "folder"] * 2
    (tmp_path / name).unlink()
    synced.clear()
    name = "0000.jsonl"
    for _ in range(2):
        writer = Appender(tmp_path / name)
        writer.close()
    assert synced == ["folder"]


def test_rows_in_must_be_rows_out(tmp_path):
    with pytest.raises(CxrbenchError, match="2 samples went in, 1 rows came out"):
        write_scores(
            tmp_path / "x.parquet", Scores(("a", "b"), Statistics.scored(np.ones((1, 2))), {"signature": "bleu"})
        )


def test_a_damaged_table_is_named(tmp_path):
    (tmp_path / "samples.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(CxrbenchError, match="damaged"):
        read_samples(tmp_path / "samples.parquet")
    with pytest.raises(CxrbenchError, match="missing"):
        read_samples(tmp_path / "none.parquet")


def test_a_table_for_datasets_is_no_run_and_says_what_it_is(tmp_path):
    with pytest.raises(CxrbenchError, match="there is no run here"):
        find_run(str(tmp_path))
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(CxrbenchError, match="a table for the package datasets, not a run"):
        find_run(str(tmp_path))


def test_differences_name_nested_keys():
    assert differences({"a": {"b": 1}}, {"a": {"b": 2}, "c": 3}) == ["a.b: 1 -> 2", "c: none -> 3"]


def test_rows_are_forced_while_others_are_made_and_a_refusal_is_told(tmp_path, monkeypatch):
    """Appended rows are the system's at once; the disk's confirmation comes later, before the next are appended."""
    rows, times = Appender(tmp_path / "rows.jsonl"), Appender(tmp_path / "times.jsonl")
    allowed, order = threading.Event(), []
    stock = os.fsync

    def slow(number: int) -> None:
        allowed.wait(10)
        stock(number)
        order.append("forced")

    monkeypatch.setattr(os, "fsync", slow)
    with Forcing(rows, times) as forcing:
        rows.put([{"a": 1}])
        forcing.begin()
        order.append("next batch")
        assert (tmp_path / "rows.jsonl").read_text() == '{"a": 1}\n'
        allowed.set()
        forcing.wait()
        order.append("appended")
        rows.put([{"a": 2}])
        forcing.begin()
    assert order == ["next batch", "forced", "forced", "appended", "forced", "forced"]

    def refusing(number: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refusing)
    with pytest.raises(CxrbenchError), Forcing(rows, times) as forcing:
        rows.put([{"a": 3}])
        forcing.begin()
        forcing.wait()
    assert (tmp_path / "rows.jsonl").read_text() == '{"a": 1}\n{"a": 2}\n'
    rows.close()
    times.close()
