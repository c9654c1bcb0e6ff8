"""What workers of a scoring hand over, planted, swapped or damaged: it decides later scores, so it is looked at."""

import json
import math
import os
import stat

import pytest

from cxrbench.errors import CxrbenchError
from cxrbench.features.base import Pairs, Resources
from cxrbench.features.store import SharedStore, Store, keys_of, row_key
from cxrbench.http_limits import Policy
from cxrbench.judges.store import JudgeStore, Stored, Told, told_of
from cxrbench.parts import LARGEST, LONGEST, Parts
from cxrbench.privacy import MARKER
from cxrbench.shares import Plan, Share, even
from cxrbench.store import RunFolder
from cxrbench.workers.annotate import came_to_its_end, take_over
from cxrbench.workers.signs import Life, signs_of
from tests.security.limits import blocked_is_caught, within
from tests.security.test_hostile_stores import Letters

ABOUT = {"rubric": "a.1", "who": {"model": "m"}}


def row(text="a", value="MQ=="):
    """An annotation, as a worker hands it over."""
    return json.dumps({"key": row_key("letters", text).hex(), "value": value}) + "\n"


def answered(**changes):
    """A judge's answer, as a worker hands it over, with some of it changed."""
    whole = Told(b"q" * 16, b"k" * 16, Stored("x", readable=True, about=json.dumps(ABOUT), body=b"{}", at=1.0)).row()
    return {**whole, **{k: v for k, v in changes.items() if k in whole}, "answer": (
        {**whole["answer"], **{k: v for k, v in changes.items() if k not in whole}} if "answer" not in changes
        else changes["answer"]
    )}  # fmt: skip


@pytest.fixture
def parts(tmp_path):
    return Parts(tmp_path / "features", tmp_path / "run")


@pytest.fixture
def merge(parts, tmp_path):
    """Merge what is there, as every scoring does first."""
    store = Store(parts.folder.parent.parent)
    return lambda: take_over(RunFolder(tmp_path / "run"), Resources(store=store))


def kept(parts, *texts):
    return Store(parts.folder.parent.parent).get("letters", texts)


def given_away(monkeypatch, path):
    """Make a file or folder another user's; who may not do that is made to see it so."""
    if os.geteuid() == 0:
        os.chown(path, 54321, -1)
    else:
        me, whole = os.geteuid(), path.is_dir()
        monkeypatch.setattr("cxrbench.parts._owners", lambda folder: {me + (whole or folder == path.parent)})


@pytest.mark.parametrize("kind", ["link", "device", "dangling", "pipe", "folder", "foreign", "foreign and open"])
def test_a_part_is_a_file_of_this_user_and_no_link(parts, merge, tmp_path, monkeypatch, kind):
    (parts.make() / "r0001-00.part").write_text(row("b"))
    path = parts.folder / "r0000-00.part"
    (tmp_path / "elsewhere").write_text(row())
    if kind in ("link", "device", "dangling"):
        path.symlink_to({"link": tmp_path / "elsewhere", "device": "/dev/zero", "dangling": tmp_path / "no"}[kind])
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text(row())
        path.chmod(0o666 if kind == "foreign and open" else 0o600)
        given_away(monkeypatch, path)
    with (
        within(megabytes=8),
        blocked_is_caught(),
        pytest.raises(CxrbenchError, match="cannot be read") as caught,
    ):
        merge()
    assert caught.value.where == str(path)
    with within(megabytes=8), blocked_is_caught(), pytest.raises(CxrbenchError):  # a worker that begins reads it too
        keys_of(path)
    assert kept(parts, "a", "b") == {}
    assert (tmp_path / "elsewhere").read_text() == row()


@pytest.mark.parametrize("level", ["run", "scoring"])
@pytest.mark.parametrize("kind", ["link", "dangling", "file", "foreign"])
def test_nothing_is_read_written_or_removed_through_a_folder_that_is_a_link_or_another_users(
    parts, merge, tmp_path, monkeypatch, level, kind
):
    victim = tmp_path / "victim"
    names = ("r0000-00.part", "r0000.sign", "r0000.ab.new", "plan.json", "r0000-of-2-s.done")
    for folder in (victim, victim / parts.folder.name):
        folder.mkdir()
        for name in names:
            (folder / name).write_text(row())
    place = parts.folder if level == "run" else parts.folder.parent
    parts.make()
    parts.clear()
    place.parent.mkdir(exist_ok=True, mode=0o700)
    if kind == "foreign":
        victim.rename(place)
        given_away(monkeypatch, place)
    elif kind == "file":
        place.write_text(row())
    else:
        place.symlink_to(victim if kind == "link" else tmp_path / "nowhere")
    before = everything(tmp_path)
    run, store = RunFolder(tmp_path / "run"), Store(parts.folder.parent.parent)
    for attacked in (
        merge, parts.make, parts.files, parts.clear, parts.plan,
        lambda: signs_of(parts),
        lambda: parts.new(0).put([{}]),
        lambda: parts.write_plan(Plan((0,), (0,))),
        lambda: parts.end_share(1, 2, "s"),
        lambda: parts.forget("s"),
        lambda: came_to_its_end(run, Resources(store=store), "s"),
    ):  # fmt: skip
        with pytest.raises(CxrbenchError):
            attacked()
    assert everything(tmp_path) == before


def everything(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def test_the_end_of_a_share_is_written_through_no_link(parts, tmp_path):
    (parts.make() / "r0001-of-2-s.done").symlink_to(tmp_path / "made")
    with pytest.raises(CxrbenchError):
        parts.end_share(1, 2, "s")
    assert not (tmp_path / "made").exists()


def test_what_workers_hand_over_is_nobody_elses_to_read_or_to_write(parts, tmp_path):
    before = os.umask(0)
    try:
        folders = (parts.make(), parts.folder.parent, parts.folder.parent.parent)
        for folder in folders:
            folder.chmod(0o777)
        part = parts.new(0)
        SharedStore(Store(parts.folder.parent.parent), Share(0), part, lambda _: None).put("letters", {"a": b"1"})
        parts.write_plan(Plan((0,), (0,)))
        Life(parts, 0, 1).end("done")
        parts.end_share(0, 1, "s")
    finally:
        os.umask(before)
    part.close()
    assert len(list(parts.folder.iterdir())) == 4
    assert {stat.S_IMODE(file.stat().st_mode) for file in parts.folder.iterdir()} == {0o600}
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


def test_rights_are_taken_back_before_the_first_folder_of_a_run_is_made(parts):
    before = os.umask(0)
    try:
        parts.folder.parent.mkdir(parents=True)  # as somebody's script may have made it
        (parts.folder.parent.parent / MARKER).touch()
    finally:
        os.umask(before)
    assert stat.S_IMODE(parts.folder.parent.stat().st_mode) == 0o777
    parts.make()
    folders = (parts.folder, parts.folder.parent, parts.folder.parent.parent)
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


NESTED = "[" * 100_000


@pytest.mark.parametrize(
    "line",
    [
        NESTED, '{"value": ' + NESTED, "9" * 5000, "null", "\x00" * 60, '{"value": "MQ=="}', "\xff",
        row(value="!").strip(), row(value=5).strip(), row(value=None).strip(), row(value=["MQ=="]).strip(),
        '{"key": "00", "value": "MQ=="}', '{"key": 5, "value": "MQ=="}', '{"key": "' + "0 " * 16 + '", "value": ""}',
    ],
)  # fmt: skip
def test_a_part_with_one_row_that_no_worker_writes_is_named_and_nothing_of_it_is_kept(parts, merge, line):
    (parts.make() / "r0000-00.part").write_text(row() + line + "\n" + row("b"), encoding="latin-1")
    with within(), pytest.raises(CxrbenchError, match="damaged"):
        merge()
    assert kept(parts, "a", "b") == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"text": 5}, {"text": None}, {"readable": 1}, {"about": "{}"}, {"about": NESTED}, {"about": '{"who": []}'},
        {"cost": math.nan}, {"cost": math.inf}, {"cost": "1"}, {"seconds": "soon"}, {"prompt_tokens": 1.5},
        {"body": 5}, {"body": "!"}, {"at": None}, {"other": 1}, {"question": "00"}, {"question": None},
        {"key": "q" * 32}, {"key": None}, {"answer": None}, {"answer": []}, {"reason": None}, {"reason": 5},
    ],
    ids=str,
)  # fmt: skip
def test_an_answer_that_no_judge_gave_is_named_and_never_kept(parts, merge, tmp_path, changes):
    good = Told(b"g" * 16, b"g" * 16, Stored("x", readable=True, about=json.dumps(ABOUT), at=1.0)).row()
    part = parts.make() / "r0000-00.part"
    part.write_text(row() + json.dumps(good) + "\n" + json.dumps(answered(**changes)) + "\n")
    with within(), pytest.raises(CxrbenchError, match="damaged"):
        merge()
    with JudgeStore(tmp_path / "j") as store:
        with within(), pytest.raises(CxrbenchError, match="damaged"):
            store.merge(part)
        assert store.get([b"g" * 16, b"k" * 16]) == {}
    assert kept(parts, "a") == {}


def test_the_answer_that_is_changed_above_would_be_kept_as_it_is(parts, tmp_path):
    part = parts.make() / "r0000-00.part"
    part.write_text(json.dumps(answered()) + "\n")
    with JudgeStore(tmp_path / "j") as store:
        assert store.merge(part) == 1
        assert store.get([b"k" * 16])[b"k" * 16].text == "x"


def test_a_part_with_a_row_of_gigabytes_is_left(parts, merge, monkeypatch):
    assert LONGEST <= 128 << 20
    monkeypatch.setattr("cxrbench.parts.LONGEST", 1 << 20)
    with open(parts.make() / "r0000-00.part", "wb") as file:
        file.write(row().encode())
        file.truncate(1 << 34)
    with within(megabytes=8), pytest.raises(CxrbenchError, match="damaged") as caught:
        merge()
    assert "line 2" in caught.value.where
    assert kept(parts, "a") == {}


LONG = 2 << 20
"""Bytes of a row that is looked at before it is unpacked."""


@pytest.mark.parametrize(
    "line",
    [
        "[" + "{}," * (LONG // 3) + "{}]", '{"value": [' + "1," * (LONG // 2) + "1]}", '{"a":' * (LONG // 5),
        "{" + '"":"",' * (LONG // 6) + '"":""}', " " * LONG + "{}", '{"a": "' + "\\\"" * (LONG // 2),
        json.dumps({"value": "\U0001f600" + "M" * LONG}, ensure_ascii=False),
    ],
    ids=["objects", "numbers", "depth", "strings", "blanks", "no end", "four bytes a letter"],
)  # fmt: skip
def test_a_long_row_is_looked_at_before_it_takes_many_times_its_size_of_memory(parts, merge, line):
    part = parts.make() / "r0000-00.part"
    part.write_text(row() + line + "\n", encoding="utf-8")
    with within(megabytes=4 * (LONG >> 20)), pytest.raises(CxrbenchError, match="damaged"):
        merge()
    assert kept(parts, "a") == {}


@pytest.mark.parametrize("size", [LONG // 6, pytest.param(Policy().largest, marks=pytest.mark.slow)])
def test_the_longest_answer_of_a_judge_is_handed_over(parts, size):
    text, about = "\x7f" * (size - 100), json.dumps(ABOUT)  # one byte in an answer's body, six in a row
    told = Told(b"q" * 16, b"k" * 16, Stored(text, readable=True, about=about, body=bytes(size), at=1.0))
    part = parts.new(0)
    part.put([told.row()])
    part.close()
    assert 7 * size < part.path.stat().st_size < LONGEST
    assert list(told_of(part.path)) == [told]


def test_an_annotation_is_found_under_the_hash_it_names_and_is_looked_at_like_any_other(parts, merge):
    said_of = {"a": row("a", "NQ=="), "b": row("b", "NQ=="), "damaged": row("damaged", "W1tb")}  # 5, 5, [[[
    (parts.make() / "r0000-00.part").write_text("".join(said_of.values()))
    merge()
    resources = Resources(store=Store(parts.folder.parent.parent))
    found = Letters().extract(Pairs(["s"], ["a"], ["ab"]), {}, resources)
    assert (found.predictions, found.references) == ([5], [2])  # of a it is believed; of ab nothing was said
    with within(), pytest.raises(CxrbenchError, match="damaged"):
        Letters().extract(Pairs(["s"], ["damaged"], ["ab"]), {}, resources)


PLANS = [
    NESTED, "9" * 5000, "{}", "[]", "", "\0", '{"texts": [], "questions": [0]}', '{"texts": [5], "questions": [0]}',
    '{"texts": [0, 9, 3], "questions": [0]}', '{"texts": ["0"], "questions": [0]}',
    '{"texts": [0.5], "questions": [0]}',
    '{"texts": [0, ' + "9" * 400 + '], "questions": [0]}', '{"texts": [0], "questions": [0], "failed": [1]}',
    '{"texts": [0], "questions": [0], "failed": ["zz"]}',
]  # fmt: skip


@pytest.mark.parametrize("body", PLANS)
def test_plans_that_leave_something_out_or_break_the_reader_are_no_plans(parts, body):
    (parts.make() / "plan.json").write_text(body)
    with within(), pytest.raises(CxrbenchError, match="does not find which share"):
        parts.plan()


def test_plans_and_signs_that_are_links_pipes_foreign_or_huge_are_not_read(parts, monkeypatch):
    parts.write_plan(Plan(even(2), (0,), ("00" * 16,)))
    assert parts.plan() == Plan(even(2), (0,), ("00" * 16,))
    Life(parts, 0, 2).end("done")
    plan, sign = parts.folder / "plan.json", parts.folder / "r0000.sign"
    for path in (plan, sign):
        moved = path.rename(parts.folder / f"x{path.name}")
        for make in (
            lambda path, moved: path.symlink_to(moved),
            lambda path, moved: path.symlink_to("/dev/zero"),
            lambda path, moved: os.mkfifo(path),
            lambda path, moved: path.mkdir(),
            lambda path, moved: path.write_bytes(b"") or os.truncate(path, LARGEST + 2),
        ):
            make(path, moved)
            with within(megabytes=8), blocked_is_caught():
                assert signs_of(parts) == [] or path == plan
                with pytest.raises(CxrbenchError, match="does not find which share"):
                    parts.plan()
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    (parts.folder / "xr0000.sign").rename(sign)
    assert [each.state for each in signs_of(parts)] == ["done"]
    given_away(monkeypatch, sign)
    assert signs_of(parts) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rank", -1), ("rank", 2), ("rank", "0"), ("rank", 0.0), ("world", 10**300), ("done", -1), ("total", None),
        ("state", "other"), ("stage", 5), ("clock", "soon"), ("clock", math.nan), ("wall", math.inf), ("note", []),
        ("place", {}), ("place", {"pid": "../../self"}), ("place", {"pid": -1}), ("other", 1), ("note", NESTED),
    ],
)  # fmt: skip
def test_signs_of_life_that_say_what_cannot_be_are_none(parts, key, value):
    parts.make()
    Life(parts, 1, 2).end("done")
    file = parts.folder / "r0001.sign"
    body = json.loads(file.read_text())
    body[key] = {**body[key], **value} if key == "place" and value else value
    raw = json.dumps(body)
    file.write_text(raw.replace(f'"{NESTED}"', NESTED))
    with within():
        assert signs_of(parts) == []
