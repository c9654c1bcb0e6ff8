"""What may happen between a worker and whoever merges what it made: late ranks, full disks, kills, two at once."""

import errno
import os
import resource
import sqlite3
import stat
import threading
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cxrbench.cli import annotating
from cxrbench.cli.launching import Way
from cxrbench.errors import CxrbenchError
from cxrbench.features.base import Resources
from cxrbench.features.store import SharedStore, Store, keys_of
from cxrbench.judges.feature import PairVerdicts
from cxrbench.judges.store import JudgeStore, Stored, Told
from cxrbench.metrics.base import FeatureRequest
from cxrbench.parts import HandOverError, Parts
from cxrbench.scores import Sources
from cxrbench.scoring import Ahead
from cxrbench.shares import Share
from cxrbench.store import RunFolder
from cxrbench.workers.annotate import (
    WHOLE,
    add_told,
    annotate_share,
    came_to_its_end,
    even_plan,
    look_ahead,
    take_over,
)
from cxrbench.workers.ranks import Rank
from cxrbench.workers.signs import signs_of
from tests import commands
from tests.chat_server import ChatServer, answer, status
from tests.judges.answers import chexprompt_answer
from tests.small_task import write_small
from tests.workers.inline import ABOUT, behave, judged, nothing, requests, shared, world_in
from tests.workers.reader import Counts
from tests.workers.trial import JUDGED, annotated

cli = commands.cli


@pytest.fixture
def world(tmp_path, monkeypatch):
    return world_in(tmp_path, monkeypatch)


def parts_of(world):
    return Parts(world.store.file.parent, world.run.path)


# Ranks that come late, or again


def test_a_rank_that_finds_the_run_scored_since_it_looked_leaves_nothing_behind(world, tmp_path, monkeypatch):
    looks, scored = [], []

    def look(run, named, sources, progress):
        looks.append(run)
        if len(looks) > 1:
            return Ahead({}, world.ahead().pairs, Resources(store=world.store)), "scoring"
        run.path.mkdir()
        for file in ("manifest.json", "summary.json"):  # another process comes to the end of this scoring meanwhile
            (run.path / file).write_text("{}")
        return world.ahead(), "scoring"

    monkeypatch.setattr("cxrbench.score_run.share_of_scoring", look)
    way = Way("rank", 2, Rank(1, 2, "torchrun (RANK)"))
    annotating._as_rank(way, world.run, [], Sources(), scored.append)
    assert (len(looks), len(scored)) == (2, 1)
    assert not parts_of(world).folder.exists()
    assert annotated(tmp_path) == []


def as_rank(monkeypatch, rank):
    """Be a rank of two; None: be alone."""
    for name, value in (("RANK", rank), ("WORLD_SIZE", 2), ("LOCAL_RANK", rank)):
        monkeypatch.delenv(name, raising=False) if rank is None else monkeypatch.setenv(name, str(value))


@pytest.mark.slow
def test_ranks_that_are_started_again_ask_again_and_any_scoring_forgets_who_had_ended(cli, tmp_path, monkeypatch):
    run, well = tmp_path / "run", []

    def behaves(heard):
        if heard.method == "GET":
            return answer()
        return answer(chexprompt_answer((1, 0, 0, 0, 0, 0))) if well else status(500)

    begun = ("run", "--model", "always-normal", "--task", write_small(tmp_path, test=6), "--metrics", "length")
    assert cli(*begun, "--replicates", "0", "--out", run)[0] == 0
    with ChatServer(behaves) as server:
        words = ("score", run, *JUDGED, server.url, "--judge-set", "retries=0", "--replicates", "0")
        as_rank(monkeypatch, 0)
        _, out, _ = cli(*words)
        assert "share 0 is annotated; others have work left" in out
        first = len(requests(server))
        folder = next((Path(os.environ["XDG_CACHE_HOME"]) / "cxrbench" / "features" / "phantom" / "scoring").iterdir())
        assert len(list(folder.glob("r0000-of-2-*.done"))) == len(list(folder.glob("*.part"))) == 1
        # One process scores instead of the ranks: it asks for everything, and nobody has ended a share of the next.
        as_rank(monkeypatch, None)
        assert cli(*words)[0] == 3
        whole = len(requests(server)) - first
        assert 0 < first < whole
        assert not folder.exists()
        # All ranks again, of a job that died while the judge was out of order: it is asked for what failed then.
        as_rank(monkeypatch, 0)
        cli(*words)
        well.append(True)
        cli(*words)
        as_rank(monkeypatch, 1)
        code, _, err = cli(*words)
        assert (code, "calls that failed" in err) == (0, False)
        assert len(requests(server)) - first - whole == first + whole
        assert not folder.exists()


def test_a_verdict_counts_whatever_another_process_was_told_before_or_after():
    good = Told(b"q" * 16, b"k" * 16, Stored("a", readable=True, about=ABOUT, at=1.0))
    bad, worse = replace(good, reason="unreadable"), Told(b"q" * 16, None, None, "refused")
    for said in ([good, bad, worse], [bad, good, worse], [worse, bad, good]):
        told = {}
        add_told(told, said)
        assert told == {good.question: good}


def test_a_call_that_failed_is_not_asked_again_in_a_further_round(world):
    with ChatServer(behave) as server:
        judge, request = judged(world, server)
        world.requests = (request, FeatureRequest("slow-counts"), FeatureRequest("slow-doubled"))
        resources, rounds = shared(world, 3, world.ahead(judge=judge))
        assert rounds == 2
        PairVerdicts().extract(world.pairs, dict(request.settings), resources)
        assert len(requests(server)) == len(set(requests(server))) == 24
        assert sum(resources.judge.usage[dict(request.settings)["rubrics"]].failures.values()) > 2


# Who removes a folder while another makes it


def test_a_folder_that_others_make_and_remove_at_the_same_moment_is_made(tmp_path, monkeypatch):
    parts, real, made = Parts(tmp_path / "features", tmp_path), os.mkdir, []

    def mkdir(path, mode=0o777, **further):
        made.append(Path(path))
        if made.count(parts.folder) == 1 and made[-1] == parts.folder:
            os.rmdir(parts.folder.parent)
            raise FileExistsError(errno.EEXIST, "it was there a moment ago", str(path))
        real(path, mode, **further)

    monkeypatch.setattr(os, "mkdir", mkdir)
    assert parts.make().is_dir()
    assert [stat.S_IMODE(each.stat().st_mode) for each in (parts.folder, parts.folder.parent)] == [0o700, 0o700]
    part = parts.new(0)
    parts.clear()  # before the first row
    part.put([{"key": "00" * 16, "value": "YQ=="}])
    part.close()
    assert [stat.S_IMODE(each.stat().st_mode) for each in (parts.folder, parts.folder.parent)] == [0o700, 0o700]
    assert keys_of(part.path) == {bytes(16)}


def test_a_plan_that_a_killed_coordinator_left_unfinished_keeps_no_folder(tmp_path):
    parts = Parts(tmp_path / "features", tmp_path)
    (parts.make() / f".plan.json.cxrbench-{'0' * 16}.part").touch()
    parts.clear()
    assert not parts.folder.exists()


SIGNS = ("r0000.sign", "r0000.ab.new", "plan.json", "r0000-of-2-s.done")


@pytest.mark.parametrize("name", SIGNS)
def test_a_folder_in_the_place_of_a_sign_ends_no_scoring(world, name):
    parts = parts_of(world)
    (parts.make() / name).mkdir()
    for other in SIGNS:
        if other != name:
            (parts.folder / other).touch()
    assert take_over(world.run, Resources(store=world.store)) == {}
    came_to_its_end(world.run, Resources(store=world.store), "s")
    assert [file.name for file in parts.folder.iterdir()] == [name]  # what can be removed is


def test_signs_in_a_cache_that_only_another_user_may_write_end_no_scoring(world, monkeypatch):
    resources, parts = Resources(store=world.store), parts_of(world)
    parts.end_share(0, 2, "s")

    def refused(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        came_to_its_end(world.run, resources, "s")
        patch.setattr(Store, "usable", lambda self: False)
        patch.setattr(Parts, "forget", refused)
        came_to_its_end(world.run, resources, "s")
    assert parts.ended(0, 2, "s")
    came_to_its_end(world.run, resources, "s")
    assert not parts.folder.exists()


@pytest.mark.slow
def test_scorings_of_two_runs_of_a_data_set_hand_over_at_the_same_time(world, tmp_path):
    errors, often = [], 40

    def score(name):
        run = RunFolder(tmp_path / name)
        parts = Parts(world.store.file.parent, run.path)
        try:
            for number in range(often):
                part = parts.new(0)
                SharedStore(world.store, Share(0), part, nothing).put(name, {f"{number}": b"1"})
                part.close()
                take_over(run, Resources(store=world.store))
        except (CxrbenchError, OSError) as error:
            errors.append(error)

    together = [threading.Thread(target=score, args=(name,)) for name in ("run-a", "run-b", "run-c")]
    for each in together:
        each.start()
    for each in together:
        each.join()
    assert errors == []
    for name in ("run-a", "run-b", "run-c"):
        assert len(world.store.get(name, [str(number) for number in range(often)])) == often
    assert not (world.store.file.parent / "scoring").exists()


# Disks that are full, and machines that stop


@contextmanager
def files_of_at_most(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_rows_before_the_one_that_does_not_fit_are_kept_and_the_next_scoring_goes_on(world, monkeypatch):
    monkeypatch.delenv("TRIAL_LOG")
    read, parts = [], parts_of(world)
    annotate = Counts.annotate
    monkeypatch.setattr(Counts, "annotate", lambda self, *given: read.extend(given[0]) or annotate(self, *given))
    with files_of_at_most(700), pytest.raises(HandOverError):
        annotate_share(world.ahead(), parts, 0, WHOLE, nothing, nothing)
    (part,) = parts.files()
    assert part.read_bytes().endswith(b"\n")
    kept = keys_of(part)
    assert 0 < len(kept) == len(read) - 2  # the block that did not fit is taken back as a whole
    again = len(read)
    shared(world, 2, world.ahead())
    assert not set(read[: again - 2]) & set(read[again:])
    assert not look_ahead(world.ahead(), {})


def test_a_disk_that_refuses_what_it_had_taken_costs_what_it_had_not_confirmed(tmp_path, monkeypatch):
    monkeypatch.setattr("cxrbench.parts.FORCE", -1.0)
    part = Parts(tmp_path, tmp_path).new(0)
    rows = [{"key": f"{number:032x}", "value": "YQ=="} for number in range(3)]
    part.put(rows[:1])
    part.put(rows[1:2])

    def refused(handle):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patch, pytest.raises(HandOverError, match="the disk is full"):
        patch.setattr(os, "fsync", refused)
        part.put(rows[2:])
    assert len(keys_of(part.path)) == 2
    part.close()
    assert len(keys_of(part.path)) == 2


def test_annotations_are_merged_to_disk_before_the_part_is_removed(world, tmp_path, monkeypatch):
    part = Parts(tmp_path, tmp_path).new(0)
    SharedStore(world.store, Share(0), part, nothing).put("scope", {"a": b"1"})
    part.close()
    said, connect = [], sqlite3.connect

    def traced(*given, **named):
        base = connect(*given, **named)
        base.set_trace_callback(said.append)
        return base

    monkeypatch.setattr(sqlite3, "connect", traced)
    assert world.store.merge(part.path) == 1
    merged = [each for each in said if each.startswith(("PRAGMA synchronous", "BEGIN", "INSERT", "COMMIT"))]
    assert [each.split(" VALUES")[0] for each in merged[-4:]] == [
        "PRAGMA synchronous = EXTRA", "BEGIN IMMEDIATE", "INSERT OR REPLACE INTO feature", "COMMIT",
    ]  # fmt: skip


def test_a_part_is_merged_block_by_block_and_a_damaged_one_not_at_all(world, tmp_path, monkeypatch):
    monkeypatch.setattr("cxrbench.features.store._MERGED", 2)
    part, texts = Parts(tmp_path, tmp_path).new(0), [str(number) for number in range(5)]
    SharedStore(world.store, Share(0), part, nothing).put("scope", dict.fromkeys(texts, b"1"))
    part.close()
    sizes, keep = [], Store._keep
    monkeypatch.setattr(Store, "_keep", lambda self, rows, **how: sizes.append(len(rows)) or keep(self, rows, **how))
    whole = part.path.read_bytes()
    part.path.write_bytes(whole + b"{}\n[]\n")
    with pytest.raises(CxrbenchError, match="damaged"):
        world.store.merge(part.path)
    assert (sizes, world.store.get("scope", texts)) == ([], {})
    part.path.write_bytes(whole)
    assert (world.store.merge(part.path), sizes) == (5, [2, 2, 1])
    assert len(world.store.get("scope", texts)) == 5


def test_a_kill_between_the_merge_and_the_removal_of_a_part_changes_nothing(world, tmp_path, monkeypatch):
    with ChatServer(behave) as server:
        judge, request = judged(world, server)
        world.requests = (request, FeatureRequest("slow-counts"))
        ahead, parts = world.ahead(judge=judge), parts_of(world)
        annotate_share(ahead, parts, 0, even_plan(ahead, 2), nothing, nothing)

        def killed(*_, **__):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "unlink", killed)
            take_over(world.run, ahead.resources)
        before, asked = rows(world, judge), len(requests(server))
        assert len(parts.files()) == 1
        assert len(take_over(world.run, ahead.resources)) == asked
        assert rows(world, judge) == before
        assert not parts.folder.exists()
        shared(world, 2, ahead)
        assert len(annotated(tmp_path)) == len(set(annotated(tmp_path)))
        failed = {body for body in requests(server)[:asked] if b"number 3 " in body or b"number 5 " in body}
        assert set(requests(server)[:asked]) & set(requests(server)[asked:]) == failed


def rows(world, judge):
    """All that both stores hold."""
    found = []
    tables = {world.store.file: ["feature"], judge.folder / "judges.sqlite": ["answer", "earlier"]}
    for file, names in tables.items():
        with closing(sqlite3.connect(file)) as base:
            found += [row for name in names for row in base.execute(f"SELECT * FROM {name} ORDER BY key")]
    return found


def test_a_part_that_cannot_be_removed_is_one_sentence(world, monkeypatch):
    parts = parts_of(world)
    annotate_share(world.ahead(), parts, 0, WHOLE, nothing, nothing)

    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch, pytest.raises(CxrbenchError, match="cannot be written"):
        patch.setattr(Path, "unlink", refused)
        take_over(world.run, Resources(store=world.store))


def test_a_damaged_part_is_told_once_and_before_anybody_is_started(world):
    parts, notes = parts_of(world), []
    (parts.make() / "r0000-00.part").write_text("{}\nno row\n")
    with pytest.raises(CxrbenchError, match="what a worker handed over is damaged"):
        shared(world, 2, world.ahead(), notes=notes)
    assert (notes, signs_of(parts)) == ([], [])
    with JudgeStore(None) as store, pytest.raises(CxrbenchError, match="line 2"):
        store.merge(parts.files()[0])
