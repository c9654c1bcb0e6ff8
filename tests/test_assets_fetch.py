"""Fetching from a real HTTP server: pinned, resumable, checked, asked for; and no network at any other time."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.small_hub import (
    FIRST,
    HARD_LIMIT,
    RADGRAPH,
    SECOND,
    WEIGHTS,
    Hub,
    Session,
    environment,
    tar_gz,
)

pytest.importorskip("huggingface_hub")
YES = "--accept-licence"
SCORERS = "StanfordAIMI/RRG_scorers"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    hub = Hub()
    session = Session(hub.url, tmp_path_factory.mktemp("hf"))
    yield hub, session
    session.stop()
    hub.stop()


@pytest.fixture
def hub(served):
    served[0].reset()
    return served[0]


@pytest.fixture
def cli(hub, served, tmp_path):
    return lambda *words, **options: served[1](tmp_path, *words, **options)


def folder(tmp_path, name):
    return tmp_path / "cache/cxrbench/assets" / name


def record(tmp_path, name):
    return json.loads((folder(tmp_path, name) / "cxrbench-asset.json").read_text())


def parts(tmp_path):
    return [path.name for path in (tmp_path / "cache/cxrbench/assets").glob(".*.part")]


# The first fetch


def test_the_first_fetch_brings_the_files_and_records_what_they_are(cli, tmp_path):
    code, out, err = cli("assets", "fetch", "chexbert", YES)
    assert code == 0, err
    assert (folder(tmp_path, "chexbert") / "chexbert.pth").read_bytes() == WEIGHTS
    lock = record(tmp_path, "chexbert")
    assert (lock["repository"], lock["revision"], lock["commit"]) == (SCORERS, "main", FIRST)
    assert lock["files"]["chexbert.pth"]["size"] == len(WEIGHTS)
    assert lock["fetched"].startswith("20")
    assert lock["endpoint"].startswith("http://127.0.0.1:")
    assert "non-commercial" in lock["terms"]
    assert sorted(path.name for path in folder(tmp_path, "bert-base-uncased").iterdir()) == [
        "config.json",
        "cxrbench-asset.json",
        "vocab.txt",
    ]
    assert f"chexbert: fetched, commit {FIRST}, 0.3 MB" in out
    assert parts(tmp_path) == []
    assert cli("assets", "verify")[0] == 0


def test_of_alternatives_the_first_that_is_there_is_taken(cli, tmp_path):
    assert cli("assets", "fetch", "distilroberta-base", YES)[0] == 0
    names = {path.name for path in folder(tmp_path, "distilroberta-base").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "merges.txt", "cxrbench-asset.json"}


def test_licence_and_terms_are_printed_and_asked_for_before_the_download(cli, hub, tmp_path):
    code, out, _ = cli("assets", "fetch", "chexbert", answer="n\n")
    assert code == 2
    assert "licence  CheXbert's own (Stanford" in out
    assert "terms    internal academic, non-commercial use; no redistribution" in out
    assert "fetch chexbert, bert-base-uncased under these terms?" in out
    assert all(path.startswith("/api/") for path, _ in hub.requests)
    assert not folder(tmp_path, "chexbert").exists()
    code, _, err = cli("assets", "fetch", "chexbert", answer="")
    assert code == 2
    assert "the question was not answered" in err
    assert cli("assets", "fetch", "chexbert", answer="y\n")[0] == 0
    assert (folder(tmp_path, "chexbert") / "chexbert.pth").exists()


def test_files_are_as_open_as_the_umask_has_them(cli, tmp_path):
    cli("assets", "fetch", "radgraph", YES)
    mask = os.umask(0)
    os.umask(mask)
    place = folder(tmp_path, "radgraph")
    assert {path.stat().st_mode & 0o777 for path in place.rglob("*") if path.is_file()} == {0o666 & ~mask}
    assert place.stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_folder_named_in_the_settings_is_used(cli, tmp_path):
    (tmp_path / "cxrbench.toml").write_text('[assets]\nfolder = "weights"\n')
    assert cli("assets", "fetch", "bert-base-uncased", YES)[0] == 0
    assert (tmp_path / "weights/bert-base-uncased/config.json").exists()
    assert not (tmp_path / "cache").exists()


# Commits


def test_what_is_here_is_not_asked_for_again(cli, hub):
    cli("assets", "fetch", "bert-base-uncased", YES)
    hub.requests.clear()
    code, out, _ = cli("assets", "fetch", "bert-base-uncased")
    assert (code, out) == (0, "bert-base-uncased: here already\n")
    assert hub.requests == []


def test_another_commit_is_taken_only_when_asked_for(cli, hub, tmp_path):
    cli("assets", "fetch", "chexbert", YES)
    hub.behaviour.main[SCORERS] = SECOND
    assert "here already" in cli("assets", "fetch", "chexbert", YES)[1]
    code, _, err = cli("assets", "fetch", "chexbert", YES, "--revision", "main")
    assert code == 2
    assert f"chexbert is recorded at commit {FIRST[:12]}, and main is commit {SECOND[:12]}" in err
    assert "--update takes it" in err
    assert record(tmp_path, "chexbert")["commit"] == FIRST
    assert cli("assets", "fetch", "chexbert", "--update")[0] == 0  # the same terms: not asked again
    assert record(tmp_path, "chexbert")["commit"] == SECOND
    assert (folder(tmp_path, "chexbert") / "chexbert.pth").read_bytes() == b"retrained" * 100
    assert "here already" in cli("assets", "fetch", "chexbert", "--update")[1]


def test_a_damaged_copy_is_replaced_by_the_recorded_commit(cli, hub, tmp_path):
    cli("assets", "fetch", "chexbert", YES)
    hub.behaviour.main[SCORERS] = SECOND
    (folder(tmp_path, "chexbert") / "chexbert.pth").write_bytes(b"short")
    code, out, _ = cli("assets", "verify")
    assert code == 1
    assert "chexbert: damaged: chexbert.pth has 5 bytes, not 307200" in out
    assert cli("assets", "fetch", "chexbert")[0] == 0
    assert (folder(tmp_path, "chexbert") / "chexbert.pth").read_bytes() == WEIGHTS
    assert record(tmp_path, "chexbert")["commit"] == FIRST


def test_other_bytes_under_the_recorded_commit_are_refused(cli, hub, tmp_path):
    cli("assets", "fetch", "chexbert", YES)
    (folder(tmp_path, "chexbert") / "chexbert.pth").unlink()
    hub.repositories[SCORERS][FIRST]["chexbert.pth"] = b"x" * len(WEIGHTS)
    code, _, err = cli("assets", "fetch", "chexbert", YES)
    assert code == 1
    assert f"chexbert.pth of {SCORERS} is not what was recorded at the first fetch" in err


def test_a_revision_can_be_named(cli, tmp_path):
    assert cli("assets", "fetch", "chexbert", YES, "--revision", SECOND)[0] == 0
    assert record(tmp_path, "chexbert")["commit"] == SECOND
    assert record(tmp_path, "bert-base-uncased")["commit"] == FIRST
    code, _, err = cli("assets", "fetch", "chexbert", "radgraph", YES, "--revision", SECOND)
    assert code == 2
    assert "--revision is for one asset" in err


# What breaks


def test_a_connection_that_breaks_is_gone_on_with_at_once(cli, hub, tmp_path):
    hub.behaviour.cut["chexbert.pth"] = [100_000, 50_000]
    assert cli("assets", "fetch", "chexbert", YES)[0] == 0
    assert hub.ranges_asked("chexbert.pth") == [None, "bytes=100000-", "bytes=150000-"]
    assert (folder(tmp_path, "chexbert") / "chexbert.pth").read_bytes() == WEIGHTS


def test_a_download_that_keeps_breaking_is_kept_and_gone_on_with_by_the_same_command(cli, hub, tmp_path):
    hub.behaviour.cut["chexbert.pth"] = [10_000] * 5
    code, _, err = cli("assets", "fetch", "chexbert", YES)
    assert code == 4
    assert "chexbert was not fetched: the connection broke off" in err
    assert "what came is kept" in err
    assert parts(tmp_path) == [f".chexbert.{FIRST[:12]}.part"]
    assert not folder(tmp_path, "chexbert").exists()
    hub.requests.clear()
    assert cli("assets", "fetch", "chexbert", YES)[0] == 0
    assert hub.ranges_asked("chexbert.pth") == ["bytes=50000-"]
    assert (folder(tmp_path, "chexbert") / "chexbert.pth").read_bytes() == WEIGHTS
    assert parts(tmp_path) == []


def test_a_try_that_brings_nothing_ends_the_fetch_and_spoils_nothing(cli, hub, tmp_path):
    hub.behaviour.cut["chexbert.pth"] = [10_000, 0, 0, 0]
    assert cli("assets", "fetch", "chexbert", YES)[0] == 4
    assert len(hub.ranges_asked("chexbert.pth")) == 2
    part = next((tmp_path / "cache/cxrbench/assets").rglob("chexbert.pth.part"))
    assert part.read_bytes() == WEIGHTS[:10_000]


def test_a_server_without_ranges_begins_again(cli, hub, tmp_path):
    hub.behaviour.cut["chexbert.pth"] = [100_000]
    hub.behaviour.ranges = False
    assert cli("assets", "fetch", "chexbert", YES)[0] == 0
    assert (folder(tmp_path, "chexbert") / "chexbert.pth").read_bytes() == WEIGHTS


def test_a_part_that_is_longer_than_the_file_is_not_gone_on_with(cli, hub, tmp_path):
    downloads = tmp_path / f"cache/cxrbench/assets/.chexbert.{FIRST[:12]}.part/downloads"
    downloads.mkdir(parents=True)
    (downloads / "chexbert.pth.part").write_bytes(b"?" * (len(WEIGHTS) + 1))
    assert cli("assets", "fetch", "chexbert", YES)[0] == 0
    assert hub.ranges_asked("chexbert.pth") == [None]


def test_a_mirror_that_lists_no_sizes_still_serves(cli, hub, tmp_path):
    hub.behaviour.sizes = False
    code, out, _ = cli("assets", "fetch", "chexbert", YES)
    assert code == 0
    assert "size not listed" in out
    assert record(tmp_path, "chexbert")["files"]["chexbert.pth"]["size"] == len(WEIGHTS)


@pytest.mark.parametrize("name", ["chexbert.pth", "config.json"])
def test_a_file_that_is_not_what_the_hub_lists_is_deleted(cli, hub, tmp_path, name):
    right = hub.repositories[SCORERS][FIRST].get(name, b'{"model_type": "bert"}')
    hub.behaviour.served[name] = b"?" * len(right)
    code, _, err = cli("assets", "fetch", "chexbert", YES)
    assert code == 1
    assert f"{name} of " in err
    assert "is not what the hub lists; it was deleted" in err
    assert not any(path.name.startswith(name) for path in (tmp_path / "cache").rglob("*") if path.is_file())
    hub.behaviour.served.clear()
    assert cli("assets", "fetch", "chexbert", YES)[0] == 0


@pytest.mark.parametrize(
    ("behaviour", "what", "fix"),
    [
        ({"status": 500}, "the hub cannot be reached (HTTP 500)", "the same command goes on"),
        ({"gated": True}, f"{SCORERS} is given only to those who agreed to its terms", "hf auth login"),
    ],
)
def test_a_hub_that_refuses_is_named(cli, hub, behaviour, what, fix):
    for key, value in behaviour.items():
        setattr(hub.behaviour, key, value)
    code, _, err = cli("assets", "fetch", "chexbert", YES)
    assert code == 4
    assert what in err
    assert fix in err
    assert hub.url in err


def test_what_the_hub_does_not_have_is_named(cli, hub):
    code, _, err = cli("assets", "fetch", "chexbert", YES, "--revision", "nonsense")
    assert (code, f"{SCORERS} has no such revision" in err) == (4, True)
    del hub.repositories[SCORERS][FIRST]["chexbert.pth"]
    code, _, err = cli("assets", "fetch", "chexbert", YES)
    assert (code, f"{SCORERS} has no chexbert.pth at commit {FIRST[:12]}" in err) == (4, True)
    del hub.repositories["distilbert/distilroberta-base"]
    code, _, err = cli("assets", "fetch", "distilroberta-base", YES)
    assert (code, "the hub has no distilbert/distilroberta-base, or shows it to others only" in err) == (4, True)


# Archives


def test_an_archive_is_unpacked_and_its_own_sum_recorded(cli, tmp_path):
    code, _, err = cli("assets", "fetch", "radgraph", YES)
    assert (code, err) == (0, "")
    place = folder(tmp_path, "radgraph")
    assert (place / "weights.th").read_bytes() == RADGRAPH["./weights.th"]
    assert (place / "vocabulary/a.txt").exists()
    assert not list(place.glob("*.gz"))
    lock = record(tmp_path, "radgraph")
    assert set(lock["downloads"]) == {"radgraph.tar.gz"}
    assert set(lock["files"]) == {"config.json", "weights.th", "vocabulary/a.txt"}
    assert cli("assets", "verify", "radgraph")[0] == 0


def test_an_archive_that_names_another_encoder_is_reported(cli, hub):
    config = RADGRAPH["./config.json"].replace(b"microsoft/BiomedNLP-PubMedBERT", b"someone/else")
    hub.repositories[SCORERS][FIRST]["radgraph.tar.gz"] = tar_gz({**RADGRAPH, "./config.json": config})
    code, _, err = cli("assets", "fetch", "radgraph", YES)
    assert code == 0
    assert "note: radgraph says that its encoder is someone/else-base-uncased" in err


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"../evil": b"", **RADGRAPH}, "a name that leads out of its folder"),
        ({"cxrbench-asset.json": b"{}", **RADGRAPH}, "brings a lock record of its own"),
        ({"config.json": b"{}"}, "holds no weights.th"),
    ],
)
def test_a_bad_archive_leaves_nothing_installed(cli, hub, tmp_path, files, what):
    hub.repositories[SCORERS][FIRST]["radgraph.tar.gz"] = tar_gz(files)
    code, _, err = cli("assets", "fetch", "radgraph", YES)
    assert code == 1
    assert what in err
    assert not folder(tmp_path, "radgraph").exists()
    assert not list(tmp_path.rglob("evil"))
    assert not list((tmp_path / "cache").rglob("files"))


# Processes of their own


def child(tmp_path, url, *words, **further):
    places = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    return subprocess.Popen(
        [sys.executable, "-m", "cxrbench", *words],
        env=environment(url, HF_HOME=str(tmp_path / "hf"), **places, **further),
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_stopped_in_the_middle_is_gone_on_with(cli, hub, tmp_path, signal_):
    hub.behaviour.stall["chexbert.pth"] = 200_000
    process = child(tmp_path, hub.url, "assets", "fetch", "chexbert", YES)
    part = tmp_path / f"cache/cxrbench/assets/.chexbert.{FIRST[:12]}.part/downloads/chexbert.pth.part"
    deadline = time.monotonic() + HARD_LIMIT
    while not (part.exists() and part.stat().st_size > 100_000) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    busy = cli("assets", "fetch", "chexbert", YES)
    assert busy[0] == 4
    assert "another process is fetching or unpacking assets" in busy[2]
    process.send_signal(signal_)
    _, err = process.communicate(timeout=HARD_LIMIT)
    if signal_ == signal.SIGINT:
        assert process.returncode == 4
        assert "stopped; what was written is kept" in err
    came = part.stat().st_size
    hub.behaviour.stall.clear()
    hub.requests.clear()
    assert cli("assets", "fetch", "chexbert", YES)[0] == 0
    assert hub.ranges_asked("chexbert.pth") == [f"bytes={came}-"]
    assert (folder(tmp_path, "chexbert") / "chexbert.pth").read_bytes() == WEIGHTS


def test_offline_is_one_clear_sentence(hub, tmp_path):
    process = child(tmp_path, hub.url, "assets", "fetch", "chexbert", YES, HF_HUB_OFFLINE="1")
    _, err = process.communicate(timeout=HARD_LIMIT)
    assert process.returncode == 4
    assert err.startswith("error: chexbert was not fetched: HF_HUB_OFFLINE forbids the network\n")
    assert "cxrbench assets pack" in err
    assert hub.requests == []


def test_a_hub_that_is_not_there_is_one_clear_sentence(tmp_path):
    process = child(tmp_path, "http://someone:secret@127.0.0.1:9", "assets", "fetch", "chexbert", YES)
    _, err = process.communicate(timeout=HARD_LIMIT)
    assert process.returncode == 4
    assert err.startswith("error: chexbert was not fetched: the hub cannot be reached (ConnectError)\n")
    assert "  where: http://127.0.0.1:9\n" in err
    assert "secret" not in err


def test_only_fetch_touches_the_network(cli, hub, tmp_path):
    cli("assets", "fetch", "bert-base-uncased", YES)
    hub.requests.clear()
    for words in (
        ("list",),
        ("plan", "--task", "demo-findings", "--metrics", "radcliq"),
        ("verify",),
        ("pack", "a.tar", "bert-base-uncased"),
        ("unpack", "a.tar"),
    ):
        assert cli("assets", *words)[0] == 0
    assert hub.requests == []
