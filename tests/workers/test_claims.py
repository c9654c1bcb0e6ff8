"""Epochs, claims and seals: one winner, no row counted twice, whatever writes on after it was taken for dead."""

import errno
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrbench import claims as claims_module
from cxrbench.claims import Beat, Claims, Epoch, Place, runs_of, shard_name
from cxrbench.errors import CxrbenchError
from cxrbench.rows import Appender
from cxrbench.store import RunFolder, started_after
from cxrbench.workers.view import look


def epoch(number=1, world=2, sealed=None, *, batches=((0, 9),)):
    return Epoch(number, world, "processes", True, "0" * 16, batches, (), sealed or {}, Place.here())


@pytest.fixture
def run(tmp_path):
    (tmp_path / "predictions").mkdir()
    return RunFolder(tmp_path)


def write(run, shard, *ids):
    rows = Appender(run.shard_file("predictions", shard))
    rows.write({"sample_id": each, "outcome": "ok", "text": each} for each in ids)
    rows.close()


@given(st.sets(st.integers(0, 60)), st.integers(1, 9))
def test_shares_are_the_open_batches_each_once(numbers, world):
    made = epoch(world=world, batches=runs_of(sorted(numbers)))
    assert made.open() == sorted(numbers)
    assert sorted(number for rank in range(world) for number in made.share(rank)) == sorted(numbers)


def test_of_many_that_open_an_epoch_one_does(run):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda world: run.claims.open_epoch(epoch(world=world)), range(1, 41)))
    assert made.count(True) == 1
    assert run.claims.last_epoch().world == made.index(True) + 1


def test_of_many_that_claim_one_share_the_last_alone_may_still_write(run):
    run.claims.open_epoch(epoch())
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: run.claims.claim(epoch(), 0, {}), range(24)))
    assert sorted(claim.shard for claim in made) == list(range(1, 25))
    for claim in made:
        write(run, claim.shard, "a")
    # Every one of them has written the same sample; that of the last claim counts, and reading finds no double.
    assert list(run.predictions()) == ["a"]
    assert [run.claims.superseded(claim) for claim in sorted(made, key=lambda each: each.shard)] == [True] * 23 + [
        False
    ]


def test_rows_behind_a_seal_do_not_count_and_a_torn_row_is_not_sealed_in(run):
    run.claims.open_epoch(epoch())
    first = run.claims.claim(epoch(), 0, {})
    write(run, first.shard, "a", "b")
    with run.shard_file("predictions", first.shard).open("ab") as file:
        file.write(b'{"sample_id": "c", "outc')
    second = run.claims.claim(epoch(), 0, {})
    with run.shard_file("predictions", first.shard).open("ab") as file:
        file.write(b'ome": "ok"}\n')  # the process that was taken for dead goes on
    write(run, second.shard, "c", "d")
    assert set(run.predictions()) == {"a", "b", "c", "d"}
    assert run.answered_ids() == {"a", "b", "c", "d"}


def test_a_worker_of_an_epoch_that_is_over_writes_for_nothing(run):
    run.claims.open_epoch(epoch())
    write(run, run.claims.claim(epoch(), 0, {}).shard, "a")
    seals = run.claims.to_seal(["0001"])
    run.claims.open_epoch(epoch(2, sealed=seals))
    late = run.claims.claim(epoch(), 1, {})  # it read of the first epoch before the second was there
    write(run, late.shard, "b")
    assert run.claims.superseded(late)
    assert set(run.predictions()) == {"a"}
    run.claims.open_epoch(epoch(3, sealed=run.claims.to_seal(["0001", "0002"])))
    assert set(run.predictions()) == {"a"}


def test_a_double_in_shards_that_count_is_said(run):
    run.claims.open_epoch(epoch())
    for rank in (0, 1):
        write(run, run.claims.claim(epoch(), rank, {}).shard, "a")
    with pytest.raises(CxrbenchError, match="a sample has two rows"):
        run.predictions()


def test_a_file_system_without_hard_links_is_named_and_leaves_nothing(run, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(CxrbenchError, match="cannot be written"):
        run.claims.open_epoch(epoch())
    assert list(run.claims.folder.iterdir()) == []
    monkeypatch.undo()
    assert run.claims.open_epoch(epoch())


def test_a_link_that_is_reported_as_failed_and_was_made_counts(run, monkeypatch):
    """A network file system repeats a call whose answer was lost, and the repetition finds the file there."""
    link = os.link

    def twice(source, target):
        link(source, target)
        raise FileExistsError(errno.EEXIST, "exists")

    monkeypatch.setattr(os, "link", twice)
    assert run.claims.open_epoch(epoch())


def test_a_heartbeat_that_cannot_be_renamed_stops_nobody(run, monkeypatch):
    run.claims.open_epoch(epoch())
    claim = run.claims.claim(epoch(), 0, {})
    beat = Beat(1, "working", 5, 1, 0, time.monotonic(), time.time())
    run.claims.write_beat(claim.shard, beat)

    def refuse(*_):
        raise OSError(errno.EIO, "rename failed")

    monkeypatch.setattr(Path, "replace", refuse)
    run.claims.write_beat(claim.shard, replace(beat, count=2))
    monkeypatch.undo()
    assert run.claims.beat(claim.shard) == beat
    assert not list(run.claims.folder.glob("*.part"))


def test_a_damaged_record_is_named(run):
    run.claims.open_epoch(epoch())
    file = run.claims.folder / "epoch-0001.json"
    file.write_text('{"number": 1')
    with pytest.raises(CxrbenchError, match="a record of the run's workers is damaged") as caught:
        run.predictions()
    assert caught.value.where == str(file)


def test_a_clock_that_jumps_moves_no_window(run):
    run.claims.open_epoch(epoch())
    for rank in (0, 1):
        run.claims.claim(epoch(), rank, {})
    first, second = run.claims.claims()
    jumped = replace(second, place=replace(second.place, wall=second.place.wall - 86_400, clock=first.place.clock + 3))
    assert started_after([first, jumped]) == {1: 0.0, 2: 3.0}
    elsewhere = replace(jumped, place=replace(jumped.place, machine="another", wall=first.place.wall + 5))
    assert started_after([first, elsewhere]) == {1: 0.0, 2: 5.0}


def test_a_process_is_told_from_a_later_one_of_the_same_number():
    here = Place.here()
    assert here.alive()
    assert not replace(here, started="1").alive()
    assert replace(here, machine="another").alive() is None


def test_status_tells_dead_from_silent_and_says_what_to_type(run, monkeypatch):
    body = {
        "format": 1, "identity": {"task": {"name": "t"}, "model": {"name": "m"}}, "access": "open", "n_expected": 10,
        "clusters": 10, "patient_ids": False, "batch_size": 1, "circumstances": [],
    }  # fmt: skip
    run.manifest_file.write_text(json.dumps(body))
    run.claims.open_epoch(epoch(world=3))
    monkeypatch.setattr(claims_module, "BEAT", 0.1)
    monkeypatch.setattr("cxrbench.lock.BEAT", 0.1)
    again = f"repeat the command that began it (cxrbench run --model m --task t ... --out {run.path})"
    assert look(run).todo == again  # nobody has said yet which it was
    places = [Place.here(), replace(Place.here(), started="1"), replace(Place.here(), machine="another", host="far")]
    for rank, place in enumerate(places):
        monkeypatch.setattr(Place, "here", classmethod(lambda cls, place=place: place))
        claim = run.claims.claim(epoch(world=3), rank, {"command": "cxrbench run --model m --task t"})
        write(run, claim.shard, f"{rank}-a", f"{rank}-b")
        clock = place.clock + 2
        run.claims.write_beat(claim.shard, Beat(3, "working", 3, 2, 0, clock, time.time()))
    view = look(run)
    assert [shard.state for shard in view.shards] == ["working", "dead", "silent"]
    assert (view.answered, view.left, view.workers, view.dead, view.late) == (6, 4, 1, 2, 0)
    assert [shard.left for shard in view.shards] == [1, 1, 1]
    assert view.rate == pytest.approx(1.0)
    assert view.todo == "wait: it is at work"
    claim = run.claims.claims()[0]
    run.claims.write_beat(claim.shard, Beat(4, "done", 2, 2, 0, clock, time.time()))
    assert look(run).todo == f"cxrbench run --resume {run.path} --workers 3"
    run.claims.claim(epoch(world=3), 1, {})
    write(run, 2, "late")
    assert look(run).late == 1
    with run.writing():  # a coordinator whose workers have not begun
        view = look(run)
        assert (view.workers, view.holder, view.todo) == (0, os.getpid(), "wait: it is at work")
    assert look(run).holder is None


def test_names_of_shards_keep_their_order(run):
    for shard in (2, 10_001, 9_999):
        write(run, shard, str(shard))
    assert [file.stem for file in run.shards("predictions")] == ["0002", "9999", "10001"]
    assert shard_name(3) == "0003"
    assert Claims(run.path).claims() == []
