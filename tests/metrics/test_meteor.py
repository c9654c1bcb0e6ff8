"""METEOR: the final formula, the paraphrase table, equality with pycocoevalcap, and processes that misbehave."""

from __future__ import annotations

import gc
import gzip
import hashlib
import json
import os
import random
import select
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_texts import PAIRS, few, own_package, score
from scored_texts import rows_of as score_rows

from cxrbench.errors import CxrbenchError
from cxrbench.metrics import java, meteor_stripped
from cxrbench.metrics.base import FAILED, SCORED, Context, Corpus, Pairs
from cxrbench.metrics.meteor import Meteor, Scorer, final_score, private_part, rows_of
from cxrbench.metrics.meteor_jvm import Pool, Settings, score_line
from cxrbench.metrics.meteor_paraphrases import Table, words_of
from cxrbench.metrics.tokens import TokenPairs

NEEDS = java.ready(java.METEOR_JAR, java.PARAPHRASES)
needs_java = [pytest.mark.java, pytest.mark.skipif(NEEDS is not None, reason=f"METEOR {NEEDS}")]

AWKWARD = [
    *((p.replace("\n", " "), r) for p, r in PAIRS),
    ("heart 😀 large 👨‍👩‍👧", "the heart 😀 is large"),
    ("a ||| b||||c", "a b c"),
    ("nul \0 and \x01 and \x1f unit \x7f", "nul and \x0b feed"),
    ("next\u0085line\u2028separator\u00a0space", "next line separator space"),
    ("seen in the U.S. and the u.k..a.b. today", "seen in us and uk today"),
    ("size 3.5 x 1,000 cm&quot; &amp; <b> don't e.g. No. 5", "size 3.5 cm, do not e.g. number 5"),
    ("“quoted” ‘text’ – dash -- dash … dots... ``x''", "\"quoted\" 'text' - dash dots"),
    ("HEART", "heart"),
    ("SCORE", "EVAL"),
    ("1.2.3. a.. b", "123 a b"),
    ("ΝΑΤΟ péry İstanbul K", "nato pery istanbul k"),
]
WORDS = """
heart cardiac silhouette size is are was normal within limits enlarged big large small tiny mild mildly
slight no not without there evidence of any sign signs effusion effusions fluid pleural lung lungs pulmonary clear
free focal consolidation opacity opacities airspace disease seen noted identified observed demonstrated stable
unchanged compared prior previous study examination , . ( ) a the left right both bilateral lower upper lobe
lobes base bases
""".split()  # noqa: SIM905


def made_up(seed: int, count: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    return [tuple(" ".join(draw.choices(WORDS, k=draw.randint(1, 40))) for _ in "ab") for _ in range(count)]


EQUAL = [*AWKWARD, *made_up(1, 150)]


# The final formula, without Java. Golden numbers: what the archive answers to `EVAL ||| <the 23 numbers>`.

STAGES = {"stem": 4, "synonym": 8, "paraphrase": 12}


def archive_row(stage: int, lengths=(10, 10), function=(2, 2), matches=(3, 3, 1, 1), tail=(2, 4, 4)) -> list[float]:
    stages = [0.0] * 16
    stages[stage : stage + 4] = matches
    return [*lengths, *function, *stages, *tail]


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        (archive_row(STAGES["stem"]), 0.11023146046669048),
        (archive_row(STAGES["synonym"]), 0.14697528062225404),
        (archive_row(STAGES["paraphrase"]), 0.11023146046669048),
        (archive_row(12, (5, 4), (2, 2), (3, 2, 0, 0), (1, 3, 2)), 0.22806140152050053),
        (archive_row(0, matches=(8, 8, 2, 2), tail=(1, 10, 10)), 1.0),
        ([0.0] * 23, 0.0),
    ],
)
def test_the_formula_gives_the_archives_numbers(row, answer):
    assert final_score(rows_of([row]))[0] == pytest.approx(answer, abs=1e-15)


def test_one_piece_has_no_chunk_so_that_rows_add_up_as_in_the_archive():
    whole, two_pieces = archive_row(0, matches=(8, 8, 2, 2), tail=(1, 10, 10)), archive_row(4)
    rows = rows_of([whole, two_pieces])
    assert rows[:, 21].tolist() == [0, 2]
    assert rows[:, 0].tolist() == [1, 1]
    # each side: 16 content words, 4 function words; chunks 0 + 2, matched words 10 + 4
    precision = (0.75 * 8 + 0.25 * 2 + 0.6 * (0.75 * 3 + 0.25)) / (0.75 * 16 + 0.25 * 4)
    expected = precision * (1 - 0.6 * (2 / 14) ** 0.2)
    assert final_score(rows.sum(axis=0)) == pytest.approx(expected, abs=1e-15)


def test_value_is_vectorised_and_states_its_zeros():
    rows = rows_of([archive_row(stage) for stage in STAGES.values()])
    weights = np.random.default_rng(0).integers(0, 3, (5, 7, 3)).astype(float)
    many = Meteor().value(weights @ rows)["meteor"]
    assert many.shape == (5, 7)
    assert many[2, 3] == Meteor().value(weights[2, 3] @ rows)["meteor"]
    nothing = np.zeros(24)
    assert np.isnan(Meteor().value(nothing)["meteor"])
    nothing[[0, 1]] = 1, 7  # one sample, an empty reference
    assert Meteor().value(nothing)["meteor"] == 0


def test_signature_and_presets():
    archive = java.identity(java.METEOR_JAR, java.PARAPHRASES)
    assert (archive == "absent") == (java.package_folder() is None)
    assert Meteor("raw").signature(Context(), "none") == (
        f"meteor|preset:raw|tokens:whitespace|case:kept|archive:{archive}|language:en|norm:yes|txt:none|v:2"
    )
    corpus = Corpus(["x"], vocabulary=frozenset({"heart"}), dataset="iu-xray")
    assert Meteor("r2gen").fit(corpus).data == {"vocabulary": ["heart"]}


def test_the_identity_of_files_is_that_of_their_contents(monkeypatch, tmp_path):
    for folder, content in (("a", b"one"), ("b", b"two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jar").write_bytes(content)
        (tmp_path / folder / "y.gz").write_bytes(b"")
    found = {}
    for folder in ("a", "b"):
        monkeypatch.setattr(java, "package_folder", lambda at=tmp_path / folder: at)
        found[folder] = java.identity("x.jar"), java.identity("x.jar", "y.gz"), java.identity("x.jar", "z.gz")
    assert found["a"][0] == hashlib.sha256(hashlib.sha256(b"one").digest()).hexdigest()[:8]
    assert len({*found["a"][:2], *found["b"][:2]}) == 4
    assert found["a"][2] == "absent"


def test_without_java_one_sentence_says_what_is_needed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert Meteor().ready() == ("needs Java 8 or newer on PATH or in JAVA_HOME, and pip install 'cxrbench[coco]'")
    with pytest.raises(CxrbenchError, match="needs Java 8"):
        Scorer()
    broken = tmp_path / "java"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert str(Meteor().ready()).endswith(f"; {broken} does not run")


def test_a_java_that_is_too_old_is_named(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    old = tmp_path / "bin" / "java"
    old.write_text("#!/bin/sh\necho 'java version \"1.7.0_80\"' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert str(Meteor().ready()).endswith(f"; {old} is Java 7")


# The protocol line and the paraphrase table, without Java.


@given(st.text(), st.text())
def test_a_pair_is_one_line_of_three_fields(prediction, reference):
    line = score_line(prediction, reference)
    assert line.endswith(b"\n")
    assert not set(line[:-1]) & set(b"\r\n")
    assert line.decode().count(" ||| ") == line.decode().count("|||") == 2


def test_half_a_surrogate_pair_becomes_a_question_mark():
    assert score_line("a \ud83d", "b\r\nc") == b"SCORE ||| b  c ||| a ?\n"


VOCABULARY = ["the", "heart", "size", "cardiac", "péry", "…", "12", "big", "normalities", "normalised"]
phrases = st.lists(st.sampled_from(VOCABULARY), min_size=1)
entries = st.lists(st.tuples(phrases.map(" ".join), phrases.map(" ".join)), min_size=1, max_size=30)


@given(entries, st.sets(st.sampled_from(VOCABULARY[:-1])))
@few
def test_the_table_keeps_what_the_words_can_use_in_order(tmp_path_factory, entries, words):
    folder = tmp_path_factory.getbasetemp()
    source, out = folder / "table.gz", folder / "part.gz"
    source.write_bytes(gzip.compress("".join(f"0.5\n{a}\n{b}\n" for a, b in entries).encode()))
    table = Table(source)
    count = table.write(words, out)
    lines = gzip.decompress(out.read_bytes()).decode().splitlines()
    kept = list(zip(lines[1::3], lines[2::3], strict=True))
    assert len(kept) == count
    assert kept == [pair for pair in entries if set(" ".join(pair).split()) <= words]
    there = {word for pair in entries for word in " ".join(pair).split()}
    assert all(table.has([word]) == (word in there) for word in [*words, "normalised", "absent"])


def test_a_table_that_is_cut_off_or_no_table_is_refused(tmp_path):
    whole = gzip.compress(b"1\nheart size\ncardiac size\n" * 50_000)
    for content in (whole[:-50], gzip.compress(b"1\nheart\n"), b"no gzip"):
        (tmp_path / "table.gz").write_bytes(content)
        with pytest.raises(CxrbenchError, match="damaged"):
            Table(tmp_path / "table.gz").write({"heart"}, tmp_path / "part.gz")


def stripped_once(source, monkeypatch):
    """Write a part of a table; returns it, and whether the table was unpacked for it."""
    read = []
    with monkeypatch.context() as patch:
        patch.setattr(meteor_stripped, "_strip", lambda path: read.append(path) or strip(path))
        count = Table(source).write({"heart", "size", "cardiac", "big"}, source.with_name("part.gz"))
    return count, gzip.decompress(source.with_name("part.gz").read_bytes()), bool(read)


strip = meteor_stripped._strip
ENTRIES = b"0.5\nheart size\ncardiac size\n0.2\nheart size\nlung\n0.1\nheart size\nbig heart\n0.7\nbig\nlarge\n"
PART = b"1\nheart size\ncardiac size\n1\nheart size\nbig heart\n"


def test_a_table_is_unpacked_once_and_what_is_kept_is_checked(tmp_path, monkeypatch):
    """A kept form that was cut, changed or made of another table is not used but made anew."""
    monkeypatch.setattr(meteor_stripped, "cache_dir", lambda: tmp_path / "cache")
    source = tmp_path / "table.gz"
    source.write_bytes(gzip.compress(ENTRIES))
    assert stripped_once(source, monkeypatch) == (2, PART, True)
    assert stripped_once(source, monkeypatch) == (2, PART, False)
    (kept,) = (tmp_path / "cache/metrics/meteor").glob("paraphrases-*")
    whole = kept.read_bytes()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    place = whole.index(b"cardiac")
    for damaged in (whole[:-1], whole[:100], b"", b"[" * 2000, whole[:place] + b"C" + whole[place + 1 :], whole + b"1"):
        kept.write_bytes(damaged)
        assert stripped_once(source, monkeypatch) == (2, PART, True)
        assert kept.read_bytes() == whole
    os.utime(source, (1, 1))
    assert stripped_once(source, monkeypatch)[2] is False
    source.write_bytes(gzip.compress(ENTRIES.replace(b"cardiac", b"big"), mtime=1))
    os.utime(source, (1, 1))
    count, part, read = stripped_once(source, monkeypatch)
    assert (count, part.count(b"big size"), read) == (2, 1, True)


def test_a_cache_that_cannot_be_written_says_nothing(tmp_path, monkeypatch, capfd):
    source, file = tmp_path / "table.gz", tmp_path / "file"
    source.write_bytes(gzip.compress(ENTRIES))
    file.write_text("no folder")
    monkeypatch.setattr(meteor_stripped, "cache_dir", lambda: file)
    assert [stripped_once(source, monkeypatch) for _ in range(2)] == [(2, PART, True)] * 2
    assert capfd.readouterr() == ("", "")


HOLDS_A_PART = """
import sys, tempfile
from cxrbench.metrics.meteor import private_part
tempfile.tempdir = sys.argv[1]
folder, handle = private_part()
(folder / "paraphrase-en.gz").write_bytes(b"words of reports")
print(folder, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_left_goes_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    command = [sys.executable, "-c", HOLDS_A_PART, str(tmp_path)]
    mine = tmp_path / "cxrbench-meteor-notes"
    mine.mkdir()
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in "ab"]
    try:
        for each in started:
            assert select.select([each.stdout], [], [], 120)[0], "the process hangs"
        live, dead = ({"process": each, "folder": Path(each.stdout.readline().strip())} for each in started)
        assert dead["folder"].name.startswith(f"cxrbench-meteor-{dead['process'].pid}-")
        assert stat.S_IMODE(dead["folder"].stat().st_mode) == 0o700
        dead["process"].kill()
        dead["process"].wait(60)
        folder, handle = private_part()
        assert {path for path in tmp_path.iterdir() if path != mine} == {folder, live["folder"]}
        assert mine.is_dir()
        again, other = private_part()  # a second one in the same process leaves the first alone
        assert folder.is_dir()
        assert again.is_dir()
        os.close(handle)
        os.close(other)
    finally:
        for each in started:
            each.kill()
            each.communicate()
    last, handle = private_part()
    os.close(handle)
    assert {path for path in tmp_path.iterdir() if path != mine} == {last}


def test_a_leftover_of_another_user_or_behind_a_link_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    target = tmp_path / "target"
    foreign = tmp_path / "temporary/cxrbench-meteor-1-foreign0"
    foreign.mkdir(parents=True)
    target.mkdir()
    (tmp_path / "temporary/cxrbench-meteor-1-link0000").symlink_to(target)
    me = os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: me + 1)
        os.close(private_part()[1])
    assert foreign.is_dir()
    os.close(private_part()[1])
    assert not foreign.exists()
    assert target.is_dir()


def test_the_part_of_the_table_is_its_owners_alone_whatever_the_umask(tmp_path):
    source, out = tmp_path / "table.gz", tmp_path / "part.gz"
    source.write_bytes(gzip.compress(b"1\nheart size\ncardiac size\n"))
    before = os.umask(0)
    try:
        for _ in range(2):
            assert Table(source).write({"heart", "size", "cardiac"}, out) == 1
            assert stat.S_IMODE(out.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_words_of_abbreviations_and_other_scripts():
    assert {"us", "u", "s"} <= words_of(["in the U.S."])
    assert {"cd", "abcd"} <= words_of(["a.b..c.d.", "a.b.c.d."])
    assert {"péry", "…", "k"} <= words_of(["Péry… K"])


# With Java: everything is compared with what pycocoevalcap's own wrapper said once, and (slow) with what it says now.

THEIRS = """
import json, sys
from pycocoevalcap.meteor.meteor import Meteor
pairs = json.load(sys.stdin)
refs, preds = {i: [r] for i, (_, r) in enumerate(pairs)}, {i: [p] for i, (p, _) in enumerate(pairs)}
print(json.dumps(Meteor().compute_score(refs, preds)))
"""


GOLDEN = json.loads(Path(__file__).with_name("golden_meteor.json").read_text(encoding="utf-8"))
"""What pycocoevalcap answers to EQUAL: of the corpus, of each pair, and a hash of the pairs."""


def theirs() -> dict[str, object]:
    """The same by the package now; it loads the full table, which takes seconds."""
    done = subprocess.run(
        [sys.executable, "-c", THEIRS], input=json.dumps(EQUAL), capture_output=True, text=True, check=True, timeout=300
    )
    corpus, each = json.loads(done.stdout)
    return {"pairs": hashlib.sha256(json.dumps(EQUAL).encode()).hexdigest(), "corpus": corpus, "each": each}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A package whose paraphrase table has two entries, where nothing hangs on the others."""
    package = own_package(java.package_folder(), tmp_path / "package")
    entries = package / java.PARAPHRASES
    entries.unlink()
    two = b"1\nheart size\ncardiac size\n1\nas far as possible\nto the extent possible\n"
    entries.write_bytes(gzip.compress(two))
    monkeypatch.setattr(java, "package_folder", lambda: package)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """A paraphrase table of one entry, so that processes start quickly."""
    file = tmp_path_factory.mktemp("table") / "tiny.gz"
    file.write_bytes(gzip.compress(b"1\nheart size\ncardiac size\n"))
    return file


@pytest.fixture
def pool(table):
    pools = []

    def make(**settings) -> Pool:
        program, (jar,) = java.require(java.METEOR_JAR)
        pools.append(Pool(program, jar, table, Settings(**{"processes": 2, "pairs_per_process": 1, **settings})))
        return pools[-1]

    yield make
    for made in pools:
        made.close()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


class TestWithJava:
    pytestmark = needs_java

    @pytest.mark.slow
    def test_the_golden_numbers_are_pycocoevalcaps(self):
        now = theirs()
        assert now["pairs"] == GOLDEN["pairs"]
        assert now["corpus"] == pytest.approx(GOLDEN["corpus"], abs=1e-15)
        assert now["each"] == pytest.approx(GOLDEN["each"], abs=1e-15)

    def test_equal_to_pycocoevalcap(self, monkeypatch, tmp_path):
        assert hashlib.sha256(json.dumps(EQUAL).encode()).hexdigest() == GOLDEN["pairs"], "record them again"
        package = own_package(java.package_folder(), tmp_path / "package")
        monkeypatch.setattr(java, "package_folder", lambda: package)
        before = sorted(package.rglob("*"))
        corpus, each = score(Meteor("raw"), EQUAL)
        assert corpus["meteor"] == pytest.approx(GOLDEN["corpus"], abs=1e-12)
        assert each["meteor"] == pytest.approx(GOLDEN["each"], abs=1e-12)
        assert sorted(package.rglob("*")) == before

    def test_coco_preset_is_the_tokenizer_then_meteor(self, small):
        metric = Meteor("coco")
        rows, _ = score_rows(metric, [("The heart (size) is big; no effusion.", "Heart size is large. No effusions!")])
        tokens = "the heart -lrb- size -rrb- is big no effusion", "heart size is large no effusions"
        assert rows[0, 1:].tolist() == metric._scorer.score([tokens])[0]
        metric._scorer.close()

    def test_value_of_resampled_sums_is_the_archives_eval(self, pool, table):
        rows = rows_of(answers := pool().score([*made_up(2, 40), ("heart size", "heart size"), ("", "heart")]))
        lines = []
        draws = np.random.default_rng(3).integers(0, len(rows), (20, len(rows)))
        for draw in draws:
            lines.append("EVAL ||| " + " ||| ".join(" ".join(map(str, answers[i])) for i in draw))
        program, (jar,) = java.require(java.METEOR_JAR)
        done = subprocess.run(
            [program, "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm", "-a", str(table)],
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        answered = np.array(done.stdout.split(), float).reshape(len(draws), len(rows) + 1)[:, -1]
        weights = np.array([np.bincount(draw, minlength=len(rows)) for draw in draws], float)
        assert Meteor().value(weights @ rows)["meteor"] == pytest.approx(answered, abs=1e-13)

    def test_line_ends_count_as_spaces_and_empty_texts_score_zero(self, pool):
        pairs = [("heart\nsize\r\nis\rlarge", "heart size"), ("", ""), ("", "heart"), ("heart", "")]
        broken, *empty = pool().score(pairs)
        assert broken == pool().score([("heart size is large", "heart size")])[0]
        assert final_score(rows_of(empty)).tolist() == [0, 0, 0]

    def test_comma_decimal_locale_and_java_options_of_the_user_change_nothing(self, pool, monkeypatch):
        expected = pool().score(AWKWARD)
        monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
        monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE -Dfile.encoding=ISO-8859-1")
        assert pool().score(AWKWARD) == expected

    def test_a_long_prediction_is_scored(self, pool):
        ((*numbers,),) = pool().score([("the lungs are clear and the heart is normal " * 556, "the lungs are clear")])
        assert numbers[:2] == [5004, 4]

    @pytest.mark.slow  # by default test_a_failed_pair_is_a_failed_sample
    def test_a_pair_that_ends_the_process_fails_alone(self, pool):
        deadly = ("heart " * 3000, "heart " * 3000)
        small = pool(memory=64, rescue_memory=72, processes=1)
        good = made_up(4, 60)
        answers = small.score([*good[:30], deadly, *good[30:]])
        assert answers.pop(30) == "METEOR needs more than 72 MB of memory for it"
        assert answers == pool().score(good)

    def test_a_second_try_has_more_memory(self, pool):
        (answer,) = pool(memory=64, rescue_memory=512, processes=1).score([("heart " * 200, "heart " * 200)])
        assert answer[:2] == [200, 200]

    def test_silence_is_an_answer_too(self, pool):
        slow = ("is normal the " * 300, "the is normal " * 300)
        (answer,) = pool(patience=0.05, rescue_patience=0.04, rescue_patience_per_word=1e-5, processes=1).score([slow])
        assert answer == "METEOR gave no answer within 0.058 s"  # 1,800 words

    def test_a_first_try_that_is_given_up_too_early_changes_no_number(self, pool):
        # as on a machine that is busy with something else: only the second try decides, and it waits for minutes
        slow = ("is normal the " * 60, "the is normal " * 60)
        assert pool(patience=0.05, processes=1).score([slow]) == pool(processes=1).score([slow])
        assert Settings(1).second_patience(*("word " * 900,) * 2) == 300 + 0.5 * 1800

    def test_a_process_that_hangs_or_is_killed_is_replaced(self, pool):
        pairs = made_up(5, 50)
        two = pool(patience=10.0)  # so long that no process is given up that a busy machine lets wait
        expected = two.score(pairs)
        hung, killed = two.pids()
        for pid in (hung, killed):
            os.kill(pid, signal.SIGSTOP)
        timer = threading.Timer(0.2, os.kill, (killed, signal.SIGKILL))
        timer.start()
        two._crew.patience = 1.0
        assert two.score(pairs) == expected
        timer.join()
        assert gone(hung)
        assert gone(killed)
        two._crew.patience = 10.0
        assert two.score(pairs) == expected
        idle, _ = two.pids()
        os.kill(idle, signal.SIGKILL)  # while nothing is asked of it
        assert two.score(pairs) == expected
        assert gone(idle)

    def test_java_that_cannot_run_meteor_is_an_error(self, pool, tmp_path):
        with pytest.raises(CxrbenchError, match="METEOR does not work here") as caught:
            Pool(java.executable(), tmp_path / "no.jar", tmp_path / "no.gz", Settings(1)).score([("a", "b")])
        assert "Unable to access jarfile" in caught.value.what
        with pytest.raises(CxrbenchError, match="Java does not start"):
            Pool(str(tmp_path / "java"), tmp_path / "no.jar", tmp_path / "no.gz", Settings(1)).score([("a", "b")])

    def test_an_interrupt_leaves_no_answers_behind(self, pool, monkeypatch):
        one = pool(processes=1)
        expected = one.score([("heart", "heart size")])

        def interrupt(line):
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("cxrbench.metrics.meteor_jvm._numbers", interrupt)
            with pytest.raises(KeyboardInterrupt):
                one.score(made_up(6, 40))
        assert one.score([("heart", "heart size")]) == expected

    def test_no_temporary_folder_is_an_error(self, monkeypatch, tmp_path):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
        with pytest.raises(CxrbenchError, match="METEOR cannot keep its paraphrases in the temporary folder"):
            Scorer()

    def test_nothing_is_left_behind(self, small):
        scorer = Scorer(Settings(processes=1))
        scorer.score([("heart size", "cardiac size")])
        (pid,) = scorer.pids()
        folder = scorer._folder
        assert folder.is_dir()
        del scorer
        gc.collect()
        assert gone(pid)
        assert not folder.exists()

    def test_new_words_bring_their_paraphrases(self, small):
        scorer = Scorer(Settings(processes=1))
        scorer.score([("heart", "heart")])
        first = scorer.pids()
        scorer.score([("heart zzqx", "heart")])  # a word the table does not have
        assert scorer.pids() == first
        (found,) = scorer.score([("as far as possible", "to the extent possible")])
        scorer.close()
        assert gone(first[0])
        by_paraphrase = found[16:20]
        assert sum(by_paraphrase) > 0

    def test_a_failed_pair_is_a_failed_sample(self, small):
        metric = Meteor("raw")
        metric._scorer = Scorer(Settings(processes=1, memory=64, rescue_memory=64))
        texts = TokenPairs(["heart", "heart " * 3000], ["heart", "heart " * 3000])
        pairs = Pairs(["a", "b"], texts.predictions, texts.references)
        found = metric.statistics(pairs, dict.fromkeys(metric.needs(Context()), texts), Context())
        metric._scorer.close()
        assert found.status[:, 0].tolist() == [SCORED, FAILED]
        assert found.rows[1].tolist() == [[0.0] * 24]
        assert found.reasons == ("", "METEOR needs more than 64 MB of memory for it")


@pytest.mark.slow
@pytest.mark.java
@pytest.mark.real_data
@pytest.mark.skipif(NEEDS is not None, reason=f"METEOR {NEEDS}")
def test_the_published_cvt2distilgpt2_meteor(real_data):
    case = json.loads((real_data / "metric_cases" / "iu_cvt2distilgpt2_r2gen_test_590.json").read_text("utf-8"))
    published = case["expected"]["corpus"]["METEOR"]
    raw = [(case["hypotheses_raw"][k], r) for k, r in case["references_raw"].items()]
    corpus = Corpus([r for _, r in raw], vocabulary=frozenset(case["train_vocabulary_min_count_3"]), dataset="iu-xray")
    assert score(Meteor("r2gen"), raw, corpus)[0]["meteor"] == pytest.approx(published, abs=1e-8)
