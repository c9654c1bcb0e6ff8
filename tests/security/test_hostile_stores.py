"""Caches and stores that were swapped, poisoned or left open: damage is named, nothing runs, others see nothing."""

import json
import os
import sqlite3
import stat

import numpy as np
import pytest

from cxrbench.data.image_cache import CachedReader, _load
from cxrbench.errors import CxrbenchError
from cxrbench.features.base import Pairs, Resources, TextFeature
from cxrbench.features.store import FILE, FORMAT, Store, row_key
from cxrbench.judges.store import FILE as JUDGES
from cxrbench.judges.store import JudgeStore
from cxrbench.models.checkpoint import _remembered
from cxrbench.privacy import MARKER, claim_folder
from tests.security.limits import within


class Letters(TextFeature):
    """A feature whose annotations are JSON."""

    name = "letters"

    def ready(self, settings):
        return None

    def scope(self, settings, resources):
        return "letters"

    def annotate(self, texts, settings, resources):
        return [len(text) for text in texts]

    def pack(self, annotation):
        return json.dumps(annotation).encode()

    def unpack(self, stored):
        return json.loads(stored.decode())


def swapped(folder, *statements, version=FORMAT, name=FILE):
    claim_folder(folder)
    with sqlite3.connect(folder / name) as base:
        for each in statements:
            base.execute(*each) if isinstance(each, tuple) else base.execute(each)
        base.execute(f"PRAGMA user_version = {version}")
    base.close()
    return folder


@pytest.mark.parametrize("value", [b"\xff", b"[" * 100_000, b"9" * 5000, "text", 5, None, b""])
def test_a_poisoned_row_is_named_and_never_a_score(tmp_path, value):
    table = "CREATE TABLE feature (key BLOB PRIMARY KEY, value)"
    insert = "INSERT INTO feature VALUES (?, ?)", (row_key("letters", "a"), value)
    store = Store(swapped(tmp_path / "s", table, insert))
    with within(), pytest.raises(CxrbenchError, match="damaged"):
        Letters().extract(Pairs(["s"], ["a"], ["b"]), {}, Resources(store=store))


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\0" + b"\xff" * 4000, b"\0" * 8192])
def test_a_file_that_is_no_store_is_named(tmp_path, content):
    claim_folder(tmp_path / "s")
    for name in (FILE, JUDGES):
        (tmp_path / "s" / name).write_bytes(content)
    with pytest.raises(CxrbenchError):
        Store(tmp_path / "s").get("scope", ["a"])
    with pytest.raises(CxrbenchError):
        JudgeStore(tmp_path / "s").get([b"k"])


@pytest.mark.parametrize(
    "attack",
    [
        ("CREATE TABLE other (x)",),
        ("CREATE VIEW feature AS SELECT x'00' AS key, load_extension('/tmp/x') AS value",),
        ("CREATE VIEW feature AS SELECT x'00' AS key, writefile('/tmp/cxrbench-owned', 'x') AS value",),
        ("CREATE TABLE feature (value)",),
    ],
)
def test_a_swapped_store_runs_nothing(tmp_path, attack):
    store = Store(swapped(tmp_path / "s", *attack))
    with within(), pytest.raises(CxrbenchError):
        store.get("scope", ["a"])
        store.put("scope", {"a": b"1"})
    assert not os.path.exists("/tmp/cxrbench-owned")


def test_an_answer_of_a_judge_that_is_no_text_is_named(tmp_path):
    with JudgeStore(tmp_path / "s"):
        pass
    base = sqlite3.connect(tmp_path / "s" / JUDGES)
    columns = [row[1] for row in base.execute("PRAGMA table_info(answer)")]
    base.execute(f"INSERT INTO answer (key, {columns[1]}) VALUES (?, ?)", (b"k", b"\xff"))
    base.commit()
    base.close()
    with JudgeStore(tmp_path / "s") as store, pytest.raises(CxrbenchError):
        store.get([b"k"])


def test_a_cache_that_others_could_write_is_taken_back(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    (folder / MARKER).touch()
    Store(folder).put("scope", {"a": b"1"})
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / FILE).stat().st_mode) == 0o600


def test_a_cache_of_somebody_elses_files_is_not_taken_over(tmp_path):
    (tmp_path / "report.txt").write_text("x")
    assert not Store(tmp_path).usable()
    with pytest.raises(CxrbenchError, match="did not make it"):
        claim_folder(tmp_path)


def test_a_cached_image_is_pixels_and_never_a_pickle(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    np.save(tmp_path / "a.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    assert _load(tmp_path / "a.npy") is None
    assert not (tmp_path / "ran").exists()
    head = b"\x93NUMPY\x01\x00"
    for shape in ("(9000000000, 9000000000)", "(-1, 5)", "(1," * 500 + ")" * 500):
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        (tmp_path / "b.npy").write_bytes(head + len(text).to_bytes(2, "little") + text)
        with within():
            assert _load(tmp_path / "b.npy") is None
    (tmp_path / "cxrbench-image-cache.json").write_text("[" * 5000)
    with within(), pytest.raises(CxrbenchError):
        CachedReader(tmp_path)


def test_a_damaged_memory_of_hashes_is_no_memory(tmp_path):
    for body in ("[" * 100_000, "9" * 5000, "[]", "\xff"):
        (tmp_path / "m.json").write_text(body)
        with within():
            assert _remembered(tmp_path / "m.json") == {}
