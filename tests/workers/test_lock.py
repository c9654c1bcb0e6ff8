"""Who holds a run folder between machines: a sign that is renewed counts, whatever the system's locks say."""

import fcntl
import os
import sqlite3
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from cxrbench import lock
from cxrbench.atomic import locks_reach_all, on_local_disk, write_atomic
from cxrbench.claims import Claims, Place
from cxrbench.errors import CxrbenchError
from cxrbench.judges.store import JudgeStore
from cxrbench.lock import Holder, OccupiedError, holder_elsewhere, holding, last_holder
from cxrbench.runner import StrangersError, execute
from cxrbench.store import RunFolder
from cxrbench.workers.view import look
from tests.workers.trial import Trial

FAR = "another boot"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.1)
    monkeypatch.setattr(lock, "LOOK", 0.03)


def elsewhere(file, *, shared=False, ended=False, machine=FAR):
    """A sign that a process of another machine left."""
    sign = Holder(replace(Place.here(), machine=machine, host="far"), shared, ended, strangers=False)
    handle = os.open(file, os.O_RDWR | os.O_CREAT)
    lock._write(handle, sign)
    os.close(handle)
    return sign


@contextmanager
def renewed(file):
    """The process of the sign lives."""
    ended = threading.Event()

    def keep_on():
        while not ended.wait(0.02):
            with suppress(FileNotFoundError):
                os.utime(file)

    thread = threading.Thread(target=keep_on)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def kept_by_the_server(file, monkeypatch):
    """The system's lock is refused, and no process of this machine holds it."""
    handle = os.open(file, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    monkeypatch.setattr(lock, "holder_here", lambda _: None)
    try:
        yield handle
    finally:
        os.close(handle)


def test_where_locks_do_not_reach_the_other_machine_a_renewed_sign_refuses(tmp_path):
    file = tmp_path / "lock"
    sign = elsewhere(file)
    with renewed(file):
        with pytest.raises(OccupiedError, match=f"pid {sign.place.pid} on far"), holding(file, shared=False):
            pass
        assert holder_elsewhere(file) == sign
    assert last_holder(file) == sign


def test_a_machine_that_is_gone_keeps_nobody_out_though_its_lock_is_kept(tmp_path, monkeypatch):
    file = tmp_path / "lock"
    elsewhere(file)
    with kept_by_the_server(file, monkeypatch):
        for shared in (False, True):
            with holding(file, shared=shared) as strangers:
                assert strangers
        with renewed(file), pytest.raises(OccupiedError), holding(file, shared=False):
            pass
    assert holder_elsewhere(file) is None


def test_a_lock_that_is_given_back_while_one_looks_is_taken(tmp_path, monkeypatch):
    file = tmp_path / "lock"
    elsewhere(file, ended=True)
    with kept_by_the_server(file, monkeypatch) as handle:
        threading.Timer(0.05, lambda: fcntl.flock(handle, fcntl.LOCK_UN)).start()
        with holding(file, shared=False) as strangers:
            assert not strangers


@pytest.mark.parametrize("left", ["ended", "of this machine", "of an earlier version", "damaged"])
def test_whoever_has_certainly_ended_is_not_waited_for(tmp_path, monkeypatch, left):
    file = tmp_path / "lock"
    if left in ("of an earlier version", "damaged"):
        file.write_text("pid 5" if left == "of an earlier version" else '{"place": 1}')
    else:
        elsewhere(file, ended=left == "ended", machine=FAR if left == "ended" else lock.this_machine())
    monkeypatch.setattr(lock, "looks", lambda: pytest.fail("it looks"))
    with holding(file, shared=False) as strangers:
        assert not strangers
        assert not last_holder(file).ended
    assert last_holder(file).ended


def test_of_those_who_share_nobody_says_that_another_has_ended(tmp_path, monkeypatch):
    file = tmp_path / "lock"
    monkeypatch.setattr(lock, "looks", lambda: pytest.fail("it looks"))
    with holding(file, shared=True):
        elsewhere(file, shared=True)
        with holding(file, shared=True):  # beside a worker of another machine
            assert last_holder(file).here
        assert last_holder(file).ended
        sign = elsewhere(file, shared=True)
    assert last_holder(file) == sign


def test_a_holder_renews_its_sign(tmp_path):
    file = tmp_path / "lock"
    with holding(file, shared=False):
        before, until = lock.sign_of_life(file), time.monotonic() + 10
        while lock.sign_of_life(file) == before and time.monotonic() < until:
            time.sleep(0.02)
        assert lock.sign_of_life(file) != before


def test_without_any_locks_a_process_of_this_machine_is_known_by_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_lock", lambda *_: None)
    file = tmp_path / "lock"
    with holding(file, shared=False), pytest.raises(OccupiedError, match=str(os.getpid())), holding(file, shared=False):
        pass


@pytest.mark.slow
def test_one_process_does_not_write_on_in_the_shard_of_another_machine(tmp_path):
    trial = Trial(tmp_path, samples=12)
    trial.finish(tmp_path / "whole")
    out = tmp_path / "run"
    (out / "predictions").mkdir(parents=True)
    rows = (tmp_path / "whole" / "predictions" / "0000.jsonl").read_bytes().splitlines(keepends=True)
    for name in ("manifest.json", "samples.parquet"):
        (out / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    (out / "predictions" / "0000.jsonl").write_bytes(b"".join(rows[:5]))
    elsewhere(out / "lock")
    with pytest.raises(StrangersError):
        execute(RunFolder(out), *_as_planned(out), {}, 1, lambda *_: None)
    trial.finish(out)
    with (out / "predictions" / "0000.jsonl").open("ab") as late:  # it was only slow
        late.write(b"".join(rows[5:8]))
    assert trial.answers(out) == trial.answers(tmp_path / "whole")
    assert look(RunFolder(out)).late == 3


def _as_planned(out):
    class Plan:
        manifest = RunFolder(out).manifest()
        batches = ()
        stored = RunFolder(out).samples_file

    class Model:
        independent = True

        def circumstances(self):
            return {}

    return Plan(), Model()


def test_of_two_that_begin_shard_0_at_the_same_moment_one_is_refused(tmp_path, monkeypatch):
    from cxrbench.runner import _own_shard

    run = RunFolder(tmp_path)
    (tmp_path / "predictions").mkdir()
    _own_shard(run, strangers=True)
    monkeypatch.setattr(Path, "exists", lambda _: False)  # as it was a moment before
    with pytest.raises(OccupiedError, match="begins this run at the same moment"):
        _own_shard(run, strangers=False)
    monkeypatch.undo()
    _own_shard(run, strangers=False)
    with pytest.raises(StrangersError):
        _own_shard(run, strangers=True)


def test_a_newer_epoch_is_seen_though_names_are_remembered(tmp_path, monkeypatch):
    """As a network file system does it: what was missing stays missing until somebody opens the folder."""
    claims = Claims(tmp_path)
    claims.folder.mkdir()
    exists, opened, missing = Path.exists, os.open, set()

    def remembered(path):
        if path in missing:
            return False
        there = exists(path)
        missing.update([] if there else [path])
        return there

    def asking(path, *words, **more):
        missing.difference_update({each for each in missing if each.parent == Path(path)})
        return opened(path, *words, **more)

    monkeypatch.setattr(Path, "exists", remembered)
    monkeypatch.setattr(os, "open", asking)
    assert not claims.epoch_after(0)
    (claims.folder / "epoch-0001.json").touch()
    assert claims.epoch_after(0)


def test_a_lock_that_is_a_folder_or_a_link_is_said_and_a_pipe_is_not_waited_for(tmp_path):
    (tmp_path / "kept").write_text("somebody's")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path, tmp_path / "link", tmp_path / "pipe"):
        with pytest.raises(CxrbenchError, match=r"a file cannot be written|a link stands"), holding(file, shared=False):
            pass
    assert (tmp_path / "kept").read_text() == "somebody's"
    assert holder_elsewhere(tmp_path / "pipe") is None


def test_on_a_disk_of_many_machines_the_judge_store_needs_no_memory_that_they_share(tmp_path, monkeypatch):
    def journal():
        with closing(sqlite3.connect(tmp_path / "judges.sqlite")) as base:
            return base.execute("PRAGMA journal_mode").fetchone()[0]

    JudgeStore(tmp_path).close()
    assert journal() == "wal"
    monkeypatch.setattr("cxrbench.judges.store.on_local_disk", lambda _: False)
    JudgeStore(tmp_path).close()
    assert journal() == "delete"


def test_a_disk_of_many_machines_is_known_by_its_kind_and_options(tmp_path, monkeypatch):
    device = os.stat(tmp_path).st_dev
    line = "{} 16 {}:{} / /far rw,relatime shared:1 - {} server:/far rw,{},vers=4.2\n"

    def mounted(kind, option):
        other = line.format(20, os.major(device), os.minor(device) + 1, "nfs", "local_lock=all")
        table = other + line.format(24, os.major(device), os.minor(device), kind, option)
        monkeypatch.setattr(Path, "read_text", lambda *_, **__: table)
        return on_local_disk(tmp_path), locks_reach_all(tmp_path)

    assert mounted("ext4", "discard") == (True, True)
    assert mounted("lustre", "localflock") == (False, False)
    left = tmp_path / ".a.cxrbench-0123456789abcdef.part"
    left.touch()
    assert mounted("nfs", "local_lock=all") == (False, False)
    write_atomic(tmp_path / "a", b"")
    assert left.exists()  # another machine may be writing it
    assert mounted("nfs4", "local_lock=none") == (False, True)
    write_atomic(tmp_path / "a", b"")
    assert not left.exists()
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "")
    assert on_local_disk(tmp_path)  # not found: a volume of btrfs
    assert on_local_disk(tmp_path / "nothing")
