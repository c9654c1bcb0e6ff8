"""The feature store: what is kept is found again under exactly the same key, and nothing else is."""

import os
import sqlite3
import stat
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.base import BLOCK, PairFeature, Pairs, Resources, TextFeature
from cxrbench.features.store import FILE, Store, row_key


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_kept_is_found_by_another_process(tmp_path):
    texts = {f"text {i}": f"value {i}".encode() for i in range(1234)}
    Store(tmp_path / "s").put("scope", texts)
    assert Store(tmp_path / "s").get("scope", [*texts, "unknown"]) == texts
    assert Store(tmp_path / "s").get("other scope", list(texts)) == {}
    Store(tmp_path / "s").put("scope", {"text 0": b"new"})
    assert Store(tmp_path / "s").get("scope", ["text 0", "text 1"]) == {"text 0": b"new", "text 1": b"value 1"}


def test_a_store_is_its_owners_alone_and_may_be_purged(tmp_path):
    before = os.umask(0)
    try:
        Store(tmp_path / "s").put("scope", {"a": b"1"})
    finally:
        os.umask(before)
    assert mode(tmp_path / "s") == 0o700
    assert all(mode(file) & 0o077 == 0 for file in (tmp_path / "s").iterdir())
    from cxrbench.privacy import is_claimed

    assert is_claimed(tmp_path / "s")


def test_reading_makes_nothing(tmp_path):
    assert Store(tmp_path / "s").get("scope", ["a"]) == {}
    assert not (tmp_path / "s").exists()


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_different_scopes_or_texts_have_different_keys(one, two):
    assert (row_key(*one) == row_key(*two)) == (one == two)


@pytest.mark.parametrize("damage", ["not a database at all", "other version", "cut"])
def test_a_store_that_cannot_be_read_is_named(tmp_path, damage):
    store = Store(tmp_path)
    store.put("scope", {f"{i}": b"x" * 1000 for i in range(100)})
    file = tmp_path / FILE
    if damage == "other version":
        with sqlite3.connect(file) as base:
            base.execute("PRAGMA user_version = 99")
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:9000])
    else:
        file.write_text(damage * 100)
    with pytest.raises(CxrbenchError) as caught:
        store.get("scope", [str(i) for i in range(100)])
    assert caught.value.code == Exit.INFRASTRUCTURE
    assert caught.value.fix
    with pytest.raises(CxrbenchError):
        store.put("scope", {"a": b"b"})


def test_two_processes_may_fill_one_store(tmp_path):
    code = (
        "import sys; from pathlib import Path; from cxrbench.features.store import Store\n"
        "for i in range(60): Store(Path(sys.argv[1])).put('s', {f'{sys.argv[2]}{i}-{j}': b'v' for j in range(5)})"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "ab"]
    assert [child.wait(timeout=120) for child in children] == [0, 0]
    wanted = [f"{name}{i}-{j}" for name in "ab" for i in range(60) for j in range(5)]
    assert len(Store(tmp_path).get("s", wanted)) == len(wanted)


def test_a_full_disk_keeps_all_or_nothing(tmp_path):
    """A quota of the process stands for a full disk: SQLite is told that a write failed."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from cxrbench.errors import CxrbenchError; from cxrbench.features.store import Store\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "store = Store(Path(sys.argv[1])); store.put('s', {'kept': b'1'})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000))\n"
        "try: store.put('s', {str(i): b'x' * 1000 for i in range(500)})\n"
        "except CxrbenchError as error: print(error); sys.exit(int(error.code))\n"
    )
    child = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert child.returncode == Exit.INFRASTRUCTURE, child.stderr
    assert Store(tmp_path).get("s", ["kept", *map(str, range(500))]) == {"kept": b"1"}


def test_without_a_place_to_keep_them_annotations_are_made_all_the_same(tmp_path):
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / "store")
    assert not store.usable()
    assert Shout().extract(PAIRS, {}, Resources(store)).predictions[0] == "A"


# What annotators get from the base class


class Shout(TextFeature):
    """Annotates a text with its capitals, and remembers what it was asked."""

    name = "shout"

    def __init__(self):
        self.asked = []

    def scope(self, settings, resources):
        return f"shout|{settings.get('mark', '')}"

    def annotate(self, texts, settings, resources):
        self.asked += texts
        return [text.upper() + str(settings.get("mark", "")) for text in texts]

    def pack(self, annotation):
        return annotation.encode()

    def unpack(self, stored):
        return stored.decode()


class Both(PairFeature):
    name = "both"

    def __init__(self):
        self.asked = []

    def scope(self, settings, resources):
        return "both"

    def annotate(self, pairs, settings, resources):
        self.asked += pairs
        return [f"{a}|{b}" for a, b in pairs]

    def pack(self, annotation):
        return annotation.encode()

    def unpack(self, stored):
        return stored.decode()


PAIRS = Pairs(["1", "2", "3"], ["a", "b", "a"], ["b", "", "b"])


def test_each_distinct_text_is_annotated_once_over_both_sides(tmp_path):
    feature = Shout()
    sides = feature.extract(PAIRS, {})
    assert list(sides.predictions) == ["A", "B", "A"]
    assert list(sides.references) == ["B", "", "B"]
    assert sorted(feature.asked) == ["", "a", "b"]


def test_predictions_alone_are_annotated_where_no_more_is_asked():
    feature = Shout()
    assert list(feature.extract(PAIRS, {"of": "predictions"}).references) == []
    assert sorted(feature.asked) == ["a", "b"]


@pytest.mark.parametrize("kind", [Shout, Both])
def test_what_the_store_knows_is_not_annotated_again(tmp_path, kind):
    resources = Resources(Store(tmp_path / "s"))
    first, again = kind(), kind()
    made = first.extract(PAIRS, {}, resources)
    assert again.extract(PAIRS, {}, resources) == made
    assert first.asked
    assert again.asked == []
    further = kind()
    further.extract(Pairs(["1", "4"], ["a", "new"], ["b", "b"]), {}, resources)
    assert further.asked == (["new"] if kind is Shout else [("new", "b")])


def test_another_setting_is_another_annotation(tmp_path):
    resources = Resources(Store(tmp_path / "s"))
    assert Shout().extract(PAIRS, {}, resources).predictions[0] == "A"
    assert Shout().extract(PAIRS, {"mark": "!"}, resources).predictions[0] == "A!"


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3))))
def test_every_pair_has_its_own_annotation(given_pairs):
    names = [str(i) for i in range(len(given_pairs))]
    pairs = Pairs(names, [a for a, _ in given_pairs], [b for _, b in given_pairs])
    assert Both().extract(pairs, {}) == [f"{a}|{b}" for a, b in given_pairs]


def test_a_lost_annotation_is_an_error_and_never_a_shifted_row():
    class Lossy(Shout):
        def annotate(self, texts, settings, resources):
            return super().annotate(texts, settings, resources)[1:]

    with pytest.raises(CxrbenchError, match="3 texts went in, 2 annotations came out"):
        Lossy().extract(PAIRS, {})


def test_a_killed_annotation_loses_at_most_a_block(tmp_path):
    class Dying(Shout):
        def annotate(self, texts, settings, resources):
            if self.asked:
                raise KeyboardInterrupt
            return super().annotate(texts, settings, resources)

    texts = [f"{i:05d}" for i in range(2 * BLOCK)]
    pairs = Pairs(texts, texts, [""] * len(texts))
    resources = Resources(Store(tmp_path / "s"))
    with pytest.raises(KeyboardInterrupt):
        Dying().extract(pairs, {"of": "predictions"}, resources)
    feature = Shout()
    feature.extract(pairs, {"of": "predictions"}, resources)
    assert len(feature.asked) == BLOCK
