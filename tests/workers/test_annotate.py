"""`score --workers N`: annotators and judges shared by workers; nothing made twice, the same summary as one process."""

import json
import os
import re
import signal
import sqlite3
import stat
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrbench.cli.status import _show_scoring
from cxrbench.errors import CxrbenchError
from cxrbench.features.base import Resources
from cxrbench.features.store import SharedStore, Store, keys_of, row_key
from cxrbench.judges.ask import PENDING
from cxrbench.judges.engine import Hands
from cxrbench.judges.feature import PairVerdicts
from cxrbench.judges.store import JudgeStore, Stored, Told, told_of
from cxrbench.parts import Parts
from cxrbench.shares import ElsewhereError, Plan, Share, even, fair, owner, place
from cxrbench.workers import annotate
from cxrbench.workers.annotate import (
    WHOLE,
    Open,
    annotate_share,
    annotate_with_workers,
    even_plan,
    look_ahead,
    take_over,
)
from cxrbench.workers.share import StoppedError
from cxrbench.workers.signs import Life, signs_of
from cxrbench.workers.view import _of_scoring
from tests import commands
from tests.chat_server import ChatServer, answer
from tests.judges.answers import chexprompt_answer
from tests.workers.inline import ABOUT, TEXTS, Inline, behave, judged, nothing, requests, shared, world_in
from tests.workers.reader import Counts, Doubled
from tests.workers.trial import (
    JUDGED,
    Scoring,
    Trial,
    annotated,
    end,
    ends_when_asked,
    handed_over,
    kept_keys,
    parts_in,
    scorers_of,
)  # fmt: skip

cli = commands.cli


@given(
    st.sets(st.binary(min_size=16, max_size=16), max_size=40),
    st.sets(st.binary(min_size=16, max_size=16)),
    st.integers(1, 9),
)
def test_every_key_is_the_share_of_one_worker_and_all_have_equally_many(keys, others, world):
    for begins in (even(world), fair(keys, world)):
        assert len(begins) == world
        for key in keys | others:
            assert [Share(rank, begins).wants(key) for rank in range(world)].count(True) == 1
            assert not any(Share(rank, begins, {key}).wants(key) for rank in range(world))
    counts = Counter(owner(key, fair(keys, world)) for key in keys)
    if len({place(key) for key in keys}) == len(keys) >= world:
        assert max(counts.values()) - min(counts[rank] for rank in range(world)) <= 1


@pytest.fixture
def world(tmp_path, monkeypatch):
    return world_in(tmp_path, monkeypatch)


def test_workers_annotate_every_text_once_and_what_rests_on_others_in_a_second_round(world, tmp_path):
    ahead = world.ahead()
    resources, rounds = shared(world, 3, ahead)
    assert rounds == 2
    log = annotated(tmp_path)
    assert len(log) == len(set(log)) == len(set(TEXTS)) + len({Counts().number(text) for text in TEXTS})
    assert not look_ahead(ahead, {})
    alone = Resources(store=Store(tmp_path / "other"))
    for feature in (Counts(), Doubled()):
        assert feature.extract(world.pairs, {}, resources) == feature.extract(world.pairs, {}, alone)
    assert not list((tmp_path / "features").rglob("*.part"))


def test_what_a_killed_worker_handed_over_is_not_annotated_again(world, tmp_path):
    calls = []

    def die():
        calls.append(None)
        if len(calls) in (9, 20, 24):
            raise InterruptedError

    shared(world, 2, world.ahead(), die)
    log = annotated(tmp_path)
    assert len(calls) > 24
    assert len(log) == len(set(log))
    assert not look_ahead(world.ahead(), {})


def test_parts_that_a_killed_scoring_left_are_merged_by_the_next_one(world, tmp_path):
    ahead = world.ahead()
    parts = Parts(world.store.file.parent, world.run.path)
    annotate_share(ahead, parts, 1, even_plan(ahead, 3), nothing, nothing)
    kept = {key for file in parts.files() for key in keys_of(file)}
    with parts.files()[0].open("ab") as file:
        file.write(b'{"key": "00')  # the row in flight
    assert stat.S_IMODE(parts.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(parts.files()[0].stat().st_mode) == 0o600
    before = look_ahead(ahead, {})
    assert not before.texts.isdisjoint(kept)
    take_over(world.run, ahead.resources)
    assert before.texts - look_ahead(ahead, {}).texts == kept
    assert not parts.folder.exists()


def test_a_part_that_is_merged_twice_changes_nothing(world, tmp_path):
    parts = Parts(tmp_path, world.run.path)
    part = parts.new(0)
    store = SharedStore(world.store, Share(0), part, nothing)
    store.put("scope", {"a": b"1", "b": b"\xff\x00"})
    part.close()
    assert (world.store.merge(part.path), world.store.merge(part.path)) == (2, 2)
    assert world.store.get("scope", ["a", "b", "c"]) == {"a": b"1", "b": b"\xff\x00"}


@pytest.mark.parametrize("row", ["[]", "{", '{"value": "!"}', '{"value": "YQ==", "key": "xyz"}'])
def test_a_damaged_part_is_named_and_nothing_of_it_is_kept(world, tmp_path, row):
    part = tmp_path / "r0000-00.part"
    part.write_text(f'{{"key": "{row_key("scope", "a").hex()}", "value": "YQ=="}}\n{row}\n')
    with pytest.raises(CxrbenchError, match="what a worker handed over is damaged") as caught:
        world.store.merge(part)
    assert str(part) in caught.value.where
    assert world.store.get("scope", ["a"]) == {}


@pytest.mark.parametrize("row", ['{"question": "00"}', '{"question": "0", "key": null, "answer": null, "reason": ""}'])
def test_a_damaged_answer_is_named(tmp_path, row):
    part = tmp_path / "r0000-00.part"
    part.write_text(row + "\n")
    with JudgeStore(tmp_path / "j") as store, pytest.raises(CxrbenchError, match="handed over is damaged"):
        store.merge(part)


def test_a_new_store_of_answers_waits_for_another_process_that_makes_it_as_well(tmp_path):
    JudgeStore(tmp_path / "j").close()
    file = tmp_path / "j" / "judges.sqlite"
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN IMMEDIATE")  # SQLite refuses to change the mode then, and does not wait
        later = threading.Timer(0.1, other.execute, ["ROLLBACK"])
        later.start()
        with JudgeStore(tmp_path / "j") as store:
            assert store.get([b"a" * 16]) == {}
        later.join()
    with closing(sqlite3.connect(file)) as base:
        assert base.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_end_of_a_share_is_said_though_a_scoring_that_ends_removes_the_folder(tmp_path, monkeypatch):
    parts, made = Parts(tmp_path, tmp_path), []

    def make():
        made.append(Parts.make(parts))
        if len(made) == 1:
            parts.clear()

    monkeypatch.setattr(parts, "make", make)
    parts.end_share(1, 2, "scoring")
    assert (len(made), parts.ended(1, 2, "scoring"), parts.ended(0, 2, "scoring")) == (2, True, False)


def test_answers_that_are_merged_keep_what_could_be_read_and_count_once(tmp_path):
    def told(key, text, at, *, readable):
        return Told(key * 16, key * 16, Stored(text, readable, ABOUT, body=b"\x00raw", at=at)).row()

    parts = Parts(tmp_path, tmp_path)
    part = parts.new(0)
    part.put([told(b"a", "first", 1.0, readable=True), told(b"b", "cut", 2.0, readable=False)])
    part.put([told(b"b", "whole", 3.0, readable=True), told(b"a", "late", 4.0, readable=False)])
    part.put([Told(b"c" * 16, None, None, f"{PENDING}: refused").row()])
    part.close()
    assert [each.answer.body if each.answer else None for each in told_of(part.path)] == [b"\x00raw"] * 4 + [None]
    with JudgeStore(tmp_path / "j") as store:
        assert (store.merge(part.path), store.merge(part.path)) == (4, 0)
        found = store.get([b"a" * 16, b"b" * 16, b"c" * 16])
        assert {key[:1]: each.text for key, each in found.items()} == {b"a": "first", b"b": "whole"}
        assert sorted(each.text for each in store.unread([b"a" * 16, b"b" * 16])) == ["cut", "late"]


def test_a_worker_whose_part_was_taken_over_stops(world):
    ahead = world.ahead()
    parts = Parts(world.store.file.parent, world.run.path)
    with pytest.raises(StoppedError, match="taken over this share"):
        annotate_share(ahead, parts, 0, even_plan(ahead, 2), lambda: [file.unlink() for file in parts.files()], nothing)
    assert [sign.state for sign in signs_of(parts)] == ["stopped"]


def test_a_worker_that_is_interrupted_has_stopped_and_not_failed(world):
    def interrupted():
        raise KeyboardInterrupt

    parts = Parts(world.store.file.parent, world.run.path)
    with pytest.raises(KeyboardInterrupt):
        annotate_share(world.ahead(), parts, 0, WHOLE, interrupted, nothing)
    assert [sign.state for sign in signs_of(parts)] == ["stopped"]


def test_a_full_disk_ends_the_worker(world, monkeypatch):
    monkeypatch.setattr("cxrbench.parts.Appender.put", _full)
    parts = Parts(world.store.file.parent, world.run.path)
    with pytest.raises(CxrbenchError, match="the disk is full"):
        annotate_share(world.ahead(), parts, 0, WHOLE, nothing, nothing)
    assert [sign.state for sign in signs_of(parts)] == ["failed"]


def _full(*_):
    raise CxrbenchError("the disk is full")


def test_workers_that_keep_what_they_make_elsewhere_are_an_error(world, tmp_path):
    ahead, elsewhere = world.ahead(), Parts(tmp_path / "elsewhere", world.run.path)
    with pytest.raises(CxrbenchError, match="does not find which share it is to annotate") as caught:
        annotate_with_workers(
            world.run, ahead, 2, lambda _, count: Inline(ahead, elsewhere, count), nothing, nothing, nothing
        )
    assert "XDG_CACHE_HOME" in caught.value.fix


def test_where_nothing_can_be_kept_it_is_said_and_nobody_is_started(world, monkeypatch):
    monkeypatch.setattr(Store, "usable", lambda self: False)
    notes = []
    _, crews = shared(world, 2, world.ahead(), notes=notes)
    assert crews == 0
    assert len(notes) == 1
    assert "the feature store, which cannot be written" in notes[0]


def test_an_annotator_that_breaks_is_noted_and_left_to_the_scoring(world, monkeypatch):
    def broken(self, texts, settings, resources):
        raise CxrbenchError("no weights")

    monkeypatch.setattr(Counts, "annotate", broken)
    notes = []
    _, crews = shared(world, 2, world.ahead(), notes=notes)
    assert crews == 1
    assert notes == ["worker 0: no weights", "worker 1: no weights"]


def test_progress_of_a_scoring_is_seen_from_outside(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    parts = Parts(world.store.file.parent, world.run.path)
    parts.make()
    life = Life(parts, 0, 2)
    assert [each.state for each in _of_scoring(parts)] == ["loading"]
    annotate_share(world.ahead(), parts, 1, even_plan(world.ahead(), 2), nothing, nothing)
    life.stage, life.done, life.made, life.total = "slow-counts", 5, 5, 12
    life.show("working")
    first, second = _of_scoring(parts)
    assert (first.state, first.done, first.total, first.stage) == ("working", 5, 12, "slow-counts")
    assert (second.state, second.done == second.total > 0) == ("done", True)
    _show_scoring((first, second))
    out = capsys.readouterr().out
    assert f"scoring: {5 + second.done} of {12 + second.total} annotations, 1 workers at work" in out
    assert "0 of 2" in out
    assert max(map(len, out.splitlines())) <= 100
    life.end("stopped")
    assert _of_scoring(parts)[0].state == "stopped"


# Judges


def test_workers_ask_every_question_once_and_failures_count_as_they_do_in_one_process(world, tmp_path):
    with ChatServer(behave) as server:
        judge, request = judged(world, server)
        settings = dict(request.settings)
        alone = replace(judge, folder=tmp_path / "alone", usage={})
        expected = PairVerdicts().extract(world.pairs, settings, Resources(judge=alone))
        once = len(requests(server))
        world.requests = (request,)
        resources, rounds = shared(world, 3, world.ahead(judge=judge))
        assert (rounds, len(requests(server))) == (1, 2 * once)
        assert sorted(requests(server)[once:]) == sorted(requests(server)[:once])
        assert PairVerdicts().extract(world.pairs, settings, resources) == expected
        assert len(requests(server)) == 2 * once
        mine, other = (resources.judge.usage[settings["rubrics"]], alone.usage[settings["rubrics"]])
        for name in ("used", "asked", "prompt_tokens", "output_tokens", "lost", "failures", "served"):
            assert getattr(mine, name) == getattr(other, name), name
        # The next command asks again for what failed, and for nothing else.
        again = replace(judge, usage={})
        PairVerdicts().extract(world.pairs, settings, Resources(judge=again))
        assert again.usage[settings["rubrics"]].asked == len(
            [e for row in expected for e in row if e.value is None]
        ) - (len([e for row in expected for e in row if e.value is None and "HTTP" in e.reason]))
        assert all(b"number 3 " in body or b"number 5 " in body for body in requests(server)[2 * once :])


@pytest.mark.parametrize(("settings", "lanes"), [({"concurrency": "5"}, [2, 2, 1]), ({"concurrency": "2"}, [1, 1])])
def test_the_connections_of_all_workers_are_those_of_one_process(world, settings, lanes):
    with ChatServer(behave) as server:
        judge, _ = judged(world, server, **settings, requests_per_minute="90", tokens_per_minute="3000")
    among = annotate.judging_workers(judge, 3)
    parts = [judge.asker.divided(rank, among) for rank in range(among)]
    assert [each.policy.concurrency for each in parts] == lanes
    assert sum(each.policy.requests_per_minute for each in parts) == pytest.approx(90)
    assert sum(each.policy.tokens_per_minute for each in parts) == pytest.approx(3000)


def test_a_budget_is_kept_by_one_process(world):
    from cxrbench.http_limits import Budget

    with ChatServer(behave) as server:
        judge, request = judged(world, server)
        judge.asker.budget = Budget(10)
        world.requests = (request,)
        assert annotate.judging_workers(judge, 3) == 0
        _, crews = shared(world, 3, world.ahead(judge=judge))
        assert (crews, requests(server)) == (0, [])


def test_a_share_that_is_only_counted_asks_nobody(world):
    with ChatServer(behave) as server:
        judge, request = judged(world, server)
        world.requests = (request,)
        ahead = world.ahead(judge=judge)
        open_ = look_ahead(ahead, {})
        own = [look_ahead(ahead, {}, even_plan(ahead, 2), rank) for rank in range(2)]
        assert (len(open_.texts), len(open_.questions)) == (0, 24)
        assert open_.questions == own[0].questions | own[1].questions
        assert own[0].questions.isdisjoint(own[1].questions)
        assert requests(server) == []
        dry = replace(judge, hands=Hands(Share(dry=True)))
        with pytest.raises(ElsewhereError):
            PairVerdicts().extract(world.pairs, dict(request.settings), Resources(judge=dry))


def test_what_another_judge_was_asked_by_a_killed_scoring_is_no_answer_of_this_one(world):
    with ChatServer(behave) as first, ChatServer(behave) as second:
        for server in (first, second):
            judge, request = judged(world, server)
            world.requests = (request,)
            ahead = world.ahead(judge=judge)
            parts = Parts(world.store.file.parent, world.run.path)
            annotate_share(ahead, parts, 0, WHOLE, nothing, nothing)  # a rank, which nobody merged before
            assert len(requests(server)) == 24
        told = take_over(world.run, ahead.resources)
        assert len(told) == 48
        shared_judge = replace(judge, hands=Hands(told=told), usage={})
        PairVerdicts().extract(world.pairs, dict(request.settings), Resources(judge=shared_judge))
        assert (len(requests(first)), len(requests(second))) == (24, 24)
        assert shared_judge.usage[dict(request.settings)["rubrics"]].asked == 22  # two calls came to nothing


def test_a_part_is_merged_to_disk_before_it_is_removed(tmp_path):
    part = Parts(tmp_path, tmp_path).new(0)
    part.put([Told(b"q" * 16, b"k" * 16, Stored("clear", readable=True, about=ABOUT, at=1.0), "").row()])
    part.close()
    with JudgeStore(tmp_path / "j") as store:
        said: list[str] = []
        store._base.set_trace_callback(said.append)
        assert store.merge(part.path) == 1
        assert said.index("PRAGMA synchronous = EXTRA") < said.index("BEGIN IMMEDIATE") < said.index("COMMIT")
        assert said.index("COMMIT") < said.index("PRAGMA synchronous = NORMAL")


def test_what_is_open_is_compared_with_what_was_open():
    few, more = Open(frozenset({b"a"})), Open(frozenset({b"a"}), frozenset({b"q"}))
    assert few.within(more)
    assert not more.within(few)
    found = Open(frozenset({bytes(16)}), frozenset({b"\xff" * 16}))
    assert found.ranks(Plan(even(4), even(3))) == {0, 2}
    assert found.plan(2, 0).questions == (0,)


# Whole commands


@pytest.fixture(scope="module")
def scoring(tmp_path_factory):
    trial = Trial(tmp_path_factory.mktemp("trial"), samples=24, seconds=0)
    trial.finish(trial.place / "made")
    made = Scoring(trial, trial.place / "made", sleep=0.05)
    whole = made.place("whole")
    made.finish(whole, environment={"TRIAL_SLEEP": "0"})
    made.summary = (whole / "run" / "summary.json").read_bytes()
    return made


def wait_for(place, wanted, process):
    """Until so many bytes were handed over, or the process has ended."""
    until = time.monotonic() + 60
    while process.poll() is None and handed_over(place) < wanted and time.monotonic() < until:
        time.sleep(0.002)
    return process.poll() is None


@pytest.mark.slow
def test_kills_of_a_worker_and_of_the_coordinator_cost_nothing_that_was_handed_over(scoring):
    place = scoring.place("killed")
    process = scoring.start(place, "--workers", 2)
    assert wait_for(place, 500, process)
    os.kill(scorers_of(place)[0], signal.SIGKILL)
    states = [(kept_keys(place), len(annotated(place)))]
    assert wait_for(place, handed_over(place) + 400, process)
    process.kill()
    end(process)
    states.append((kept_keys(place), len(annotated(place))))
    scoring.finish(place, "--workers", 3)
    assert (place / "run" / "summary.json").read_bytes() == scoring.summary
    for kept, seen in states:
        assert kept
        assert kept <= kept_keys(place)
        assert kept.isdisjoint(annotated(place)[seen:])
    assert not parts_in(place).folder.exists()


@pytest.mark.slow
def test_one_process_goes_on_with_what_workers_left(scoring):
    place = scoring.place("left")
    process = scoring.start(place, "--workers", 2)
    assert wait_for(place, 1500, process)
    for pid in [process.pid, *scorers_of(place)]:
        os.kill(pid, signal.SIGKILL)
    end(process)
    kept, seen = kept_keys(place), len(annotated(place))
    assert kept
    scoring.finish(place)
    assert (place / "run" / "summary.json").read_bytes() == scoring.summary
    assert kept.isdisjoint(annotated(place)[seen:])


@pytest.mark.slow
def test_pre_emption_keeps_what_was_handed_over(scoring):
    place = scoring.place("asked")
    process = scoring.start(place, "--workers", 2)
    assert wait_for(place, 1000, process)
    ends_when_asked(process)
    kept, seen = kept_keys(place), len(annotated(place))
    scoring.finish(place, "--workers", 2)
    assert (place / "run" / "summary.json").read_bytes() == scoring.summary
    assert kept.isdisjoint(annotated(place)[seen:])


@pytest.mark.slow
def test_ranks_of_a_scheduler_share_a_scoring_and_the_last_one_scores(scoring):
    place = scoring.place("ranks")
    ranks = [
        scoring.start(place, environment={"RANK": str(rank), "WORLD_SIZE": "3", "LOCAL_RANK": str(rank)})
        for rank in range(3)
    ]
    ends = [end(each) for each in ranks]
    assert [code for code, _ in ends] == [0, 0, 0], ends
    assert (place / "run" / "summary.json").read_bytes() == scoring.summary
    assert len(annotated(place)) == len(set(annotated(place)))
    assert not parts_in(place).folder.exists()
    # One that is queued again finds nothing left to share, and neither do ranks whose metrics no annotator serves.
    for named in ("slow", "bleu:raw"):
        scoring.finish(place, "--metrics", named, environment={"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1"})
        assert f"{named.partition(':')[0]}:" in (place / "run" / "summary.json").read_text()
    assert len(annotated(place)) == len(set(annotated(place)))
    assert not parts_in(place).folder.exists()


@pytest.mark.slow
def test_a_run_scores_with_the_workers_that_answered_it(scoring):
    trial = scoring.trial
    place = trial.place / "answered"
    trial.finish(place / "run", "--workers", 2, "--metrics", "slow", environment=scoring.environment(place))
    pids = {line.split()[1] for line in (place / "log").read_text().splitlines()}
    assert len(pids) >= 2
    assert len(annotated(place)) == len(set(annotated(place)))
    found, whole = json.loads((place / "run" / "summary.json").read_text()), json.loads(scoring.summary)
    assert found["metrics"]["slow:plain"] == whole["metrics"]["slow:plain"]


@pytest.mark.slow
def test_a_killed_judging_asks_nothing_again_that_was_answered(scoring):
    place = scoring.place("judged")
    with ChatServer(behave_slowly) as server:
        words = (*JUDGED, server.url, "--judge-set", "concurrency=2")
        process = scoring.start(place, *words, "--workers", 2)
        assert wait_for(place, 12_000, process)
        for pid in [scorers_of(place)[0], process.pid]:
            os.kill(pid, signal.SIGKILL)
        end(process)
        kept = sum(each.answer is not None for file in parts_in(place).files() for each in told_of(file))
        assert kept > 3
        scoring.finish(place, *words, "--workers", 3)
        twice = len(requests(server)) - len(set(requests(server)))
        assert twice <= 2  # in flight when all were killed
    summary = json.loads((place / "run" / "summary.json").read_text())
    assert any(re.search(r"24 answers, \d+ of them asked for now", note) for note in summary["notes"])


def behave_slowly(heard):
    reply = answer(chexprompt_answer((1, 0, 0, 0, 0, 0)))

    async def slowly(writer, server):
        import asyncio

        await asyncio.sleep(0.1)
        await reply(writer, server)

    return answer() if heard.method == "GET" else slowly


def test_a_file_has_no_workers(cli, tmp_path):
    file = tmp_path / "p.csv"
    file.write_text("study_id,prediction,reference\na,Clear.,Clear.\n")
    code, _, err = cli("score", file, "--workers", "2")
    assert code == 2
    assert "workers score a run folder, and this is a file" in err
    code, _, err = cli("score", tmp_path / "none", "--workers", "2")
    assert (code, "there is no such run folder or file" in err) == (2, True)
