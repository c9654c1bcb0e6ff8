"""Caches and stores that were swapped, poisoned or left open: damage is named, nothing runs, others see nothing."""

import hashlib
import json
import os
import shutil
import sqlite3
import stat

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest

from benchmarks._fuzz_runs import _KEY
from benchmarks._fuzz_targets import target
from cxrbench.artifacts import read_picture, read_vectors
from cxrbench.claims import MOST, Claims
from cxrbench.cli.options import read_vocabulary
from cxrbench.counts import Counting
from cxrbench.data.image_cache import CachedReader, _load
from cxrbench.errors import CxrbenchError
from cxrbench.features.base import Pairs, Resources, TextFeature
from cxrbench.features.store import FILE, FORMAT, Store, row_key
from cxrbench.judges.store import FILE as JUDGES
from cxrbench.judges.store import JudgeStore
from cxrbench.metrics.base import Context, Corpus, Statistics
from cxrbench.metrics.cider import Cider
from cxrbench.metrics.tokens import Tokens
from cxrbench.models.checkpoint import _remembered
from cxrbench.privacy import MARKER, claim_folder
from cxrbench.report.reader_study_files import Key, read_responses
from cxrbench.scores import _read_context, _write_context
from cxrbench.tables import Scores, read_samples, read_scores, write_samples, write_scores
from cxrbench.types import Image, Sample
from tests.commands import cli  # noqa: F401  (a fixture)
from tests.security.limits import blocked_is_caught, within
from tests.security.test_hostile_images import png
from tests.small_task import write_small


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
    for data in (vectors("(4, 3)", bytes(12), "<,f4"), vectors("(4, 3")):
        (tmp_path / "c.npy").write_bytes(data)
        assert _load(tmp_path / "c.npy") is None
    (tmp_path / "cxrbench-image-cache.json").write_text("[" * 5000)
    with within(), pytest.raises(CxrbenchError):
        CachedReader(tmp_path)


def named(run, data, kind):
    """The reference of an artifact that a stranger has named by what it holds, as a run does."""
    (run / "artifacts").mkdir(exist_ok=True)
    reference = f"artifacts/{hashlib.sha256(data).hexdigest()[:16]}.{kind}"
    (run / reference).write_bytes(data)
    return reference


def vectors(shape, body=b"", dtype="<f4"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize(
    "data",
    [
        png(60_000, 60_000),
        png(2**31 - 1, 2**31 - 1),
        png(4, 4),
        b"\x89PNG\r\n\x1a\n",
        b"BM" + bytes(60),
        b"",
    ],
    ids=["large", "largest", "no-pixels", "cut", "bitmap", "empty"],
)
def test_a_picture_of_somebody_elses_run_is_no_bomb(tmp_path, data):
    with within(megabytes=16), pytest.raises(CxrbenchError, match="does not hold a picture"):
        read_picture(tmp_path, named(tmp_path, data, "png"))


@pytest.mark.parametrize(
    "data",
    [
        vectors("(9000000000, 9000000000)"),
        vectors("(-1, 5)", bytes(20)),
        vectors("(1, 5)", bytes(16)),
        vectors("(5,)", bytes(20)),
        vectors("(1, 5)", bytes(40), "<f8"),
        vectors("(1, 1)", b"\x80\x04N.", "|O"),
        vectors("(1," * 500 + ")" * 500),
        vectors("(4, 3)", bytes(48), "<,f4"),
        vectors("(4, 3"),
        b"PK\x03\x04",
        b"",
    ],
)
def test_vectors_of_somebody_elses_run_are_all_there_and_never_a_pickle(tmp_path, data):
    with within(megabytes=16), pytest.raises(CxrbenchError, match="does not hold vectors"):
        read_vectors(tmp_path, [named(tmp_path, data, "npy") + "#0"])


def test_an_artifact_that_is_missing_a_pipe_or_a_row_too_far_is_refused(tmp_path):
    good = named(tmp_path, vectors("(1, 2)", bytes(8)), "npy")
    assert read_vectors(tmp_path, [f"{good}#0"]).shape == (1, 2)
    with pytest.raises(CxrbenchError, match="as many vectors"):
        read_vectors(tmp_path, [f"{good}#1"])
    (tmp_path / good).unlink()
    os.mkfifo(tmp_path / good)
    with blocked_is_caught(), pytest.raises(CxrbenchError, match="cannot be read"):
        read_vectors(tmp_path, [f"{good}#0"])
    (tmp_path / good).unlink()
    (tmp_path / good).symlink_to("/dev/zero")
    with within(), blocked_is_caught(), pytest.raises(CxrbenchError, match="cannot be read"):
        read_vectors(tmp_path, [f"{good}#0"])


@pytest.mark.parametrize("body", ["[" * 100_000, "[" + "9" * 5000 + "]", "[1]", "[[]]", ""])
def test_word_lists_and_readers_answers_made_to_break_are_refused(tmp_path, body):
    words, answers = tmp_path / "words.txt", tmp_path / "answers.json"
    words.write_text(body)
    answers.write_text(body)
    key = Key.model_validate(_KEY)
    with within(), pytest.raises(CxrbenchError):
        read_vocabulary(words)
    with within(), pytest.raises(CxrbenchError):
        read_responses([answers], key)
    answers.unlink()
    os.mkfifo(answers)
    with blocked_is_caught(), pytest.raises(CxrbenchError, match="regular"):
        read_responses([answers], key)


RECORDS = {"epoch-0001.json": 0, "0001.json": 1, "0001.beat": 2}
"""File of a record of a run's workers -> number of the seed that is one."""


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("epoch-0001.json", {"world": 0}),
        ("epoch-0001.json", {"batches": [[0, 10 * MOST]]}),
        ("epoch-0001.json", {"batches": [[5, 2]]}),
        ("epoch-0001.json", {"sealed": {"0000": "10"}}),
        ("epoch-0001.json", {"sealed": {"0000": -1}}),
        ("epoch-0001.json", {"number": 2}),
        ("0001.json", {"shard": 10**300}),
        ("0001.json", {"rank": 7}),
        ("0001.json", {"place": {"pid": "../../etc"}}),
        ("0001.json", {"place": {"clock": None}}),
        ("0001.json", {"circumstances": []}),
        ("0001.beat", {"answered": -1}),
        ("0001.beat", {"error": "x"}),
        ("0001.beat", {"clock": "soon"}),
    ],
)
def test_records_of_workers_that_say_what_cannot_be_are_refused(tmp_path, name, change):
    folder = tmp_path / "workers"
    folder.mkdir()
    body = json.loads(target("run-workers").seeds()[RECORDS[name]][1:])
    (key, value), *_ = change.items()
    body[key] = {**body[key], **value} if key == "place" else value
    (folder / name).write_text(json.dumps(body))
    claims = Claims(tmp_path)
    with within(megabytes=8):
        if name.endswith("beat"):
            assert claims.beat(1) is None  # a sign of life and no more
        else:
            with pytest.raises(CxrbenchError, match="damaged"):
                claims.seals()


@pytest.mark.parametrize("body", ["[" * 100_000, "9" * 5000, "{}", '{"place": {}}', "", "\0"])
def test_records_of_workers_that_are_none_are_refused(tmp_path, body):
    folder, claims = tmp_path / "workers", Claims(tmp_path)
    folder.mkdir()
    for name in RECORDS:
        (folder / name).write_text(body)
    for read in (claims.epochs, claims.claims):
        with within(), pytest.raises(CxrbenchError, match="damaged"):
            read()
    with within():
        assert claims.beat(1) is None
    for name in RECORDS:
        (folder / name).unlink()
        os.mkfifo(folder / name)
    for read in (claims.epochs, claims.claims):
        with blocked_is_caught(), pytest.raises(CxrbenchError):
            read()
    with blocked_is_caught():
        assert claims.beat(1) is None
    for name in RECORDS:
        (folder / name).unlink()
    (folder / "epoch-x.json").touch()
    with pytest.raises(CxrbenchError, match="damaged"):
        claims.epochs()


def test_a_damaged_memory_of_hashes_is_no_memory(tmp_path):
    for body in ("[" * 100_000, "9" * 5000, "[]", "\xff"):
        (tmp_path / "m.json").write_text(body)
        with within():
            assert _remembered(tmp_path / "m.json") == {}


def test_no_file_of_somebody_elses_run_is_waited_for(cli, tmp_path):
    task = write_small(tmp_path, test=6)
    assert cli("run", "--model", "always-normal", "--task", task, "--out", "whole", "--replicates", 0)[0] == 0
    whole = tmp_path / "whole"
    names = [file.relative_to(whole) for file in whole.rglob("*") if file.is_file()]
    assert len(names) > 8
    commands = (("runs", "show", "run"), ("run", "--resume", "run"), ("status", "run"), ("score", "run"))
    for place, name in enumerate(names):
        shutil.copytree(whole, tmp_path / "run")
        (tmp_path / "run" / name).unlink()
        os.mkfifo(tmp_path / "run" / name)
        with blocked_is_caught():
            code, _, err = cli(*commands[place % len(commands)])
        assert code != 0, name
        assert "a pipe or a device" in err or "there is no run here" in err, (name, err)
        shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize(
    "change",
    [
        {"counts": "../../predictions/0000.jsonl"},
        {"counts": "0" * 64},
        {"counts": ["0" * 64]},
        {"data": {"documents": 1}},
        {"data": {"documents": float("inf")}},
        {"hash": "00000000"},
    ],
)
def test_a_context_that_is_another_is_refused(tmp_path, change):
    made = Counting()
    made.add(np.array([5, 9], np.uint64), np.array([2, 3]))
    file = tmp_path / "cider.raw.json"
    _write_context(file, 1, Context.of({"documents": 4}, made.finish(2)))
    assert _read_context(file)[1].counts.look_up(np.array([9, 5, 7], np.uint64)).tolist() == [3, 2, 0]
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(CxrbenchError, match="a stored context"):
        _read_context(file)


@pytest.mark.parametrize(
    ("column", "value"),
    [("sample_id", b"s1"), ("sample_id", None), ("study_id", 5), ("patient_id", 5.0), ("target", None), ("images", "7"),
     ("images", "null"), ("images", "[[7, null]]"), ("options", "[7]"),
     ("subgroups", '{"sex": ["F"]}'), ("subgroups", '{"sex": 1}'), ("sections", '{"findings": null}'),
     ("labels", '{"gold": []}'), ("labels", '{"gold": {"Edema": "1"}}'),
     ("labels", "[]"), ("subgroups", '"x"'), ("sections", "null"), ("question", b"x")],
)  # fmt: skip
def test_samples_of_somebody_elses_run_have_the_kinds_they_need(tmp_path, column, value):
    file = tmp_path / "samples.parquet"
    write_samples(file, [Sample("s1", "s1", "p", "Clear.", images=(Image("i", "", "PA"),))], {"s1"})
    row = {**pq.read_table(file).to_pylist()[0], column: value}
    pq.write_table(pyarrow.Table.from_pylist([row]), file)
    with pytest.raises(CxrbenchError, match="a file of the run is damaged"):
        read_samples(file)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("sample_id", b"s1"),
        ("s0", None),
        ("status", None),
        ("reason", 5),
        ("repeat", 2**40),
        ("status", 0.5),
        ("status", "0"),
        ("s0", "1"),
        ("s0", True),
    ],
)
def test_statistics_of_somebody_elses_run_have_the_kinds_they_need(tmp_path, column, value):
    file = tmp_path / "scores.parquet"
    statistics = Statistics(np.ones((1, 1, 2)), np.zeros((1, 1), np.uint8), ("",))
    write_scores(file, Scores(("s1",), statistics, {"signature": "x|v:1"}))
    table = pq.read_table(file)
    row = {**table.to_pylist()[0], column: value}
    pq.write_table(pyarrow.Table.from_pylist([row]).replace_schema_metadata(table.schema.metadata), file)
    with pytest.raises(CxrbenchError, match="a file of the run is damaged"):
        read_scores(file)


@pytest.mark.parametrize(
    "data",
    [{"documents": 60}, {"documents": "many"}, {"documents": -5}, {"grams": "!!!"}, {"frequency": ""},
     {"many": "AAAAAA=="}, {"grams": ["x"]}, {"frequency": "AAAA"}],
)  # fmt: skip
def test_a_context_of_another_shape_is_damaged(data):
    metric = Cider("raw")
    references = ["the heart is normal", "the lungs are clear and the heart is normal"]
    made = metric.fit(Corpus(references)).data
    context = Context.of({**made, **data} if len(data) == 1 and "documents" not in data else data)
    pairs = Pairs(["a", "b"], references, references)
    features = {metric.needs(context)[0]: Tokens().extract(pairs, {"convention": "raw"})}
    with pytest.raises(CxrbenchError, match="is damaged"):
        metric.statistics(pairs, features, context)


def test_rows_are_never_appended_through_a_link(cli, tmp_path):
    task = write_small(tmp_path, test=6)
    words = ("run", "--model", "always-normal", "--task", task, "--out", "run", "--replicates", 0)
    assert cli(*words)[0] == 0
    rows = tmp_path / "run" / "predictions" / "0000.jsonl"
    victim = tmp_path / "victim"
    victim.write_bytes(rows.read_bytes().splitlines(keepends=True)[0])
    before = victim.read_bytes()
    rows.unlink()
    rows.symlink_to(victim)
    code, _, err = cli(*words)
    assert (code, "a link stands where a file is written" in err) == (4, True), err
    assert victim.read_bytes() == before


def test_what_of_a_run_cannot_be_looked_at_is_left_to_who_needs_it(cli, tmp_path):
    task = write_small(tmp_path, test=6)
    assert cli("run", "--model", "always-normal", "--task", task, "--out", "run", "--replicates", 0)[0] == 0
    for name in ("loop", "predictions/loop", "contexts/loop"):
        (tmp_path / "run" / name).symlink_to(tmp_path / "run" / name)
    assert cli("runs", "show", "run")[0] == 0
    (tmp_path / "run" / "summary.json").unlink()
    (tmp_path / "run" / "summary.json").mkdir()
    code, _, err = cli("export", "run", "run", "-o", "x.csv")
    assert (code, "the summary cannot be read: Is a directory" in err) == (4, True), err


def test_a_run_with_a_pipe_is_not_exported(cli, tmp_path):
    task = write_small(tmp_path, test=6)
    assert cli("run", "--model", "always-normal", "--task", task, "--out", "run", "--replicates", 0)[0] == 0
    os.mkfifo(tmp_path / "run" / "predictions" / "0001.jsonl")
    with blocked_is_caught():
        code, _, err = cli("export", "run", "run", "-o", "x.csv")
    assert (code, "a pipe or a device" in err) == (4, True), err


EDITS = (
    ("summary", {"cluster_unit": -1}), ("summary", {"cluster_unit": True}), ("summary", {"ci_method": [1, 2]}),
    ("summary", {"metrics": True}), ("summary", {"metrics": {"length:words": {"words": [1, 2]}}}),
    ("summary", {"metrics": {"length:words": {"words": {}}}}), ("summary", {"slices": {"view": {"AP": [1, 2]}}}),
    ("summary", {"replicates": 1e300}), ("summary", {"notes": 5}), ("summary", {"outcomes": {"ok": "6"}}),
    ("manifest", {"n_expected": "20"}), ("manifest", {"n_expected": [1, 2]}), ("manifest", {"task": {"version": None}}),
    ("manifest", {"identity": {"task": -1, "model": {}}}), ("manifest", {"access": "public"}),
    ("manifest", {"clusters": -1}), ("manifest", {"circumstances": [5]}), ("manifest", {"excluded": {"x": "y"}}),
)  # fmt: skip


def test_an_edited_manifest_or_summary_is_named(cli, tmp_path):
    task = write_small(tmp_path, test=6)
    assert cli("run", "--model", "always-normal", "--task", task, "--out", "run", "--replicates", 0)[0] == 0
    commands = (("runs", "show", "run"), ("groups", "run"), ("cite", "run"))
    for place, (name, change) in enumerate(EDITS):
        file = tmp_path / "run" / f"{name}.json"
        whole = file.read_text()
        file.write_text(json.dumps({**json.loads(whole), **change}))
        code, _, err = cli(*commands[place % len(commands)])
        assert (code, f"the {name} is damaged" in err) == (4, True), (change, err)
        file.write_text(whole)
