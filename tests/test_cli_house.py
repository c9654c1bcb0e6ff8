"""The commands around a run: settings, caches, modes of files, Ctrl-C, what is listed when something is broken."""

import json
import os
import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cxrbench.privacy import MARKER, claim_folder
from tests import commands
from tests.commands import answers, small_run
from tests.data import iu_xray_tree, mimic_tree
from tests.small_task import write_small

HARD_LIMIT = 120

cli, no_java = commands.cli, commands.no_java


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# Files are private


@pytest.fixture
def created_modes(monkeypatch):
    """A careless umask, and no later chmod: what is found is how files were created."""
    monkeypatch.setattr(os, "chmod", lambda *_, **__: None)
    monkeypatch.setattr(Path, "chmod", lambda *_, **__: None)
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder):
    return {path.relative_to(folder.parent).as_posix(): mode(path) for path in (folder, *folder.rglob("*"))}


@pytest.mark.usefixtures("created_modes")
@pytest.mark.parametrize("access", ["open", "credentialed"])
def test_every_file_of_a_run_is_created_for_its_owner_alone(cli, tmp_path, access):
    task = write_small(tmp_path, access=access)
    run = tmp_path / "runs/one"
    words = ("run", "--model", "random-report", "--task", task, "--replicates", 0, "--out", run)
    for _ in range(2):
        assert cli(*words)[0] == 0
    assert cli("score", run, "--metrics", "rouge-l:rouge-score", "--replicates", 0)[0] == 0
    found = modes(run)
    assert len(found) > 12
    assert {name for name, bits in found.items() if bits & 0o077} == set()


def test_a_resumed_run_takes_back_what_others_were_left(cli, tmp_path):
    task = write_small(tmp_path, access="credentialed")
    run = tmp_path / "run"
    words = ("run", "--model", "random-report", "--task", task, "--replicates", 0, "--out", run)
    cli(*words)
    for path in (run, *run.rglob("*")):
        path.chmod(0o755)
    assert cli(*words)[0] == 0
    assert not any(bits & 0o077 for bits in modes(run).values())


def test_an_open_run_its_owner_shares_stays_shared(cli, tmp_path):
    run, words = small_run(cli, tmp_path)
    run.chmod(0o755)
    assert cli(*words)[0] == 0
    assert mode(run) == 0o755


@pytest.mark.usefixtures("created_modes")
def test_every_file_of_an_index_is_created_for_its_owner_alone(cli, tmp_path):
    add_mimic(cli, tmp_path)
    assert cli("data", "prepare", "mimic-cxr")[0] == 0
    found = modes(tmp_path / "cache/cxrbench/data/mimic-cxr")
    assert len(found) > 5
    assert {name for name, bits in found.items() if bits & 0o077} == set()


def test_a_folder_with_other_files_is_no_place_for_a_run(cli, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    mine.chmod(0o755)
    task = write_small(tmp_path, access="credentialed")
    code, _, err = cli("run", "--model", "random-report", "--task", task, "--replicates", 0, "--out", mine)
    assert code == 2
    assert "the folder holds other files and no run" in err
    assert mode(mine) == 0o755
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


def test_a_run_killed_before_its_manifest_is_gone_on_with(cli, tmp_path):
    run = tmp_path / "run"
    (run / "predictions").mkdir(parents=True)
    for name in ("lock", ".manifest.json.cxrbench-0123456789abcdef.part"):
        (run / name).touch()
    words = ("run", "--model", "random-report", "--task", write_small(tmp_path), "--replicates", 0, "--out", run)
    assert cli(*words)[0] == 0
    assert not list(run.rglob("*.part"))


def test_a_summary_beside_a_file_with_a_similar_name_leaves_it_alone(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    (tmp_path / "sum.json.part").write_text("mine")
    assert cli("score", run, "--out", "sum.json", "--replicates", 0)[0] == 0
    assert (tmp_path / "sum.json").exists()
    assert (tmp_path / "sum.json.part").read_text() == "mine"


# Caches and what is deleted


def own_data(folder, count=6):
    """Someone's own studies, with real PNG files, added to the settings; returns a task over them."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    rows = []
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 255, (90, 120), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
        row = {"study_id": f"s{number}", "split": "train" if number % 2 else "test", "images": [f"{number}.png"]}
        rows.append(json.dumps({**row, "sections": {"findings": f"Study number {number} is clear."}}))
    (folder / "own.jsonl").write_text("\n".join(rows) + "\n")
    task = write_small(folder.parent, access="credentialed")
    text = task.read_text().replace("name: phantom", "name: jsonl").replace("offer: [indication]", "offer: []")
    text = text.replace("  options: {train: 30, validate: 5, test: 24, size: 64}\n", "").replace("n: 24", "n: 3")
    text = text.replace("slices: [abnormal, seen-in-train, duplicate]\n", "")
    task.write_text(text.replace("key: [PA, AP]", "key: first"))
    return task


@pytest.fixture
def own(cli, tmp_path):
    task = own_data(tmp_path / "originals")
    assert cli("data", "add", "jsonl", "--reports", tmp_path / "originals/own.jsonl")[0] == 0
    return task


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("own")
def test_prepare_takes_no_folder_that_holds_other_files(cli, tmp_path):
    originals = tmp_path / "originals"
    originals.chmod(0o755)
    before = contents(originals)
    code, _, err = cli("data", "prepare", "jsonl", "--out", originals)
    assert code == 2
    assert "holds other files" in err
    assert mode(originals) == 0o755
    assert cli("cache", "purge", "--yes")[0] == 0
    assert contents(originals) == before


def test_a_prepare_that_fails_leaves_the_place_as_it_was(cli, tmp_path):
    roots = add_mimic(cli, tmp_path)
    (table,) = roots["tables"][0].rglob("*split*")
    whole, settings = table.read_bytes(), tmp_path / "config/cxrbench/cxrbench.toml"
    table.write_bytes(whole[:-20])
    (tmp_path / "empty").mkdir(mode=0o755)
    before, said = modes(tmp_path), settings.read_text()
    for further in ((), ("--out", tmp_path / "new/index"), ("--out", "empty")):
        code, _, err = cli("data", "prepare", "mimic-cxr", *further)
        assert code == 2
        assert "the table cannot be read" in err
        assert modes(tmp_path) == before
    table.write_bytes(whole)
    # A task of another data set is found before anything is made.
    code, _, err = cli("data", "prepare", "mimic-cxr", "--image-cache", "full", "--task", "demo-findings")
    assert code == 2
    assert "is a task on phantom, not on mimic-cxr" in err
    assert modes(tmp_path) == before
    assert settings.read_text() == said
    # What an earlier prepare made is kept.
    assert cli("data", "prepare", "mimic-cxr", "--out", "empty")[0] == 0
    kept = contents(tmp_path / "empty")
    table.write_bytes(whole[:-20])
    assert cli("data", "prepare", "mimic-cxr", "--out", "empty")[0] == 2
    assert contents(tmp_path / "empty") == kept


@pytest.mark.usefixtures("own")
def test_purge_deletes_only_what_carries_the_mark(cli, tmp_path):
    originals, settings = tmp_path / "originals", tmp_path / "config/cxrbench/cxrbench.toml"
    settings.write_text(settings.read_text() + f'prepared = "{originals}"\n')
    unmarked = tmp_path / "cache/cxrbench/data/elsewhere"
    unmarked.mkdir(parents=True)
    (unmarked / "x").touch()
    before = contents(originals)
    code, out, err = cli("cache", "purge", "--yes")
    assert code == 3
    assert "deleted" not in out
    assert f"left alone: {originals}: it holds no {MARKER}" in err
    assert f"left alone: {unmarked}" in err
    assert contents(originals) == before
    assert (unmarked / "x").exists()
    table = claim_folder(tmp_path / "cache/cxrbench/metrics/meteor")  # METEOR's, of no data set
    assert cli("cache", "purge", "--dataset", "jsonl", "--yes")[0] == 3
    assert table.is_dir()
    assert "deleted" in cli("cache", "purge", "--yes")[1]
    assert not table.exists()


@pytest.mark.usefixtures("own")
def test_purge_leaves_a_marked_folder_that_original_data_were_moved_into(cli, tmp_path):
    cache = claim_folder(tmp_path / "cache/cxrbench/data/jsonl")
    shutil.move(tmp_path / "originals", cache / "originals")
    cli("data", "add", "jsonl", "--reports", cache / "originals/own.jsonl")
    code, _, err = cli("cache", "purge", "--yes")
    assert code == 3
    assert "original data that the settings name lie in it" in err
    assert (cache / "originals/own.jsonl").exists()


def test_after_a_purge_a_run_works_from_the_sources(cli, own, tmp_path):
    settings = tmp_path / "config/cxrbench/cxrbench.toml"
    settings.write_text("# the hospital's export\n" + settings.read_text())
    before = settings.read_text()
    words = ("run", "--model", "nearest-image", "--task", own, "--replicates", 0)
    out = tmp_path / "fast"
    assert cli("data", "prepare", "jsonl", "--image-cache", "full", "--task", own, "--out", out)[0] == 0
    assert "image_cache" in settings.read_text()
    assert cli(*words)[0] == 0
    code, said, _ = cli("cache", "purge", "--dataset", "jsonl", "--yes")
    assert code == 0
    assert str(out) in said
    assert not out.exists()
    assert settings.read_text() == before
    assert cli(*words)[0] == 0
    assert cli("cache", "purge", "--yes")[1] == "nothing is kept\n"


def test_purge_through_a_link_deletes_what_it_points_to(cli, tmp_path):
    real = claim_folder(tmp_path / "big-disk")
    link = tmp_path / "cache/cxrbench/data/phantom"
    link.parent.mkdir(parents=True)
    link.symlink_to(real)
    assert cli("cache", "purge", "--yes")[0] == 0
    assert not real.exists()
    assert not link.is_symlink()


@pytest.mark.parametrize(("answer", "said"), [("n\n", ""), ("", "the question was not answered")])
def test_purge_asks_first(cli, tmp_path, monkeypatch, answer, said):
    import io

    kept = claim_folder(tmp_path / "cache/cxrbench/data/phantom")
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    code, _, err = cli("cache", "purge")
    assert code == 2
    assert said in err
    assert kept.exists()


def test_an_image_cache_deleted_by_hand_is_named_with_a_command_that_works(cli, own, tmp_path):
    cli("data", "prepare", "jsonl", "--image-cache", "full", "--task", own)
    shutil.rmtree(tmp_path / "cache")
    words = ("run", "--model", "nearest-image", "--task", own, "--replicates", 0)
    code, _, err = cli(*words)
    assert code == 2
    assert "cxrbench data prepare NAME --image-cache full --task TASK" in err
    assert cli("data", "prepare", "jsonl", "--image-cache", "full", "--task", own)[0] == 0
    assert cli(*words)[0] == 0


# Settings


@pytest.mark.usefixtures("own")
def test_adding_here_writes_what_was_given_and_hides_nothing(cli, tmp_path):
    assert cli("data", "add", "jsonl", "--images", tmp_path / "originals", "--here")[0] == 0
    assert "own.jsonl" not in (tmp_path / "cxrbench.toml").read_text()
    code, out, _ = cli("data", "check", "jsonl")
    assert code == 0
    assert "6 studies" in out


def test_a_folders_settings_cannot_open_an_endpoint(cli, tmp_path):
    (tmp_path / "cxrbench.toml").write_text('[trusted_endpoints]\n"evil.example" = "ours"\n')
    code, _, err = cli("data", "list")
    assert code == 2
    assert "trusted_endpoints is not read from the working directory" in err


# Checks of data


def test_a_check_prints_its_commands_whole_below_the_table(cli, tmp_path):
    reports, _ = iu_xray_tree.kaggle(
        tmp_path / "a folder with a long name that would be wrapped in any table" / "of tables"
    )
    assert cli("data", "add", "iu-xray", "--tables", reports)[0] == 0
    code, out, _ = cli("data", "check", "iu-xray")
    assert code == 1
    todo = [line for line in out.splitlines() if line.startswith("to do (")]
    command = f"cxrbench data add iu-xray --tables '{reports}' --tables PATH/indiana_projections.csv"
    assert [line for line in todo if line.endswith(f"): {command}")] == [
        f"to do (iu-findings, iu-impression, iu-impression-given-findings, views): {command}"
    ]
    assert "cxrbench data add" not in out[: out.index("to do (")]


def test_a_check_exits_1_only_when_something_is_wrong(cli, tmp_path):
    assert cli("data", "check", "iu-xray")[0] == 1  # nothing at all
    split = iu_xray_tree.r2gen(tmp_path)
    cli("data", "add", "iu-xray", "--annotations", split)
    assert cli("data", "check", "iu-xray")[0] == 0
    assert cli("data", "check", "iu-xray", "--json")[0] == 0
    split.write_text("[]")
    assert cli("data", "check", "iu-xray")[0] == 1


def test_own_data_without_a_train_split_run_but_for_what_learns(cli, no_java, own, tmp_path):
    file = tmp_path / "originals/own.jsonl"
    file.write_text("".join(line + "\n" for line in file.read_text().splitlines() if '"test"' in line))
    words = ("--task", "custom-findings", "--replicates", 0)
    assert cli("run", "--model", "always-normal", *words)[0] == 0
    code, _, err = cli("run", "--model", "random-report", *words)
    assert code == 2
    assert "no study has the split 'train'" in err
    assert "or use a model and metrics that need none" in err
    code, out, err = cli("data", "prepare", "jsonl", "--image-cache", "full", "--task", own)
    assert code == 0
    assert "images: 3 decoded" in out
    assert "no image of the train split is cached: no study has the split 'train'" in err


# The index of MIMIC-CXR


def add_mimic(cli, tmp_path):
    roots = mimic_tree.build(tmp_path / "mimic")
    given = [word for name, paths in roots.items() for path in paths for word in (f"--{name}", path)]
    assert cli("data", "add", "mimic-cxr", *given)[0] == 0
    return roots


def index_line(cli):
    lines = json.loads(cli("data", "check", "mimic-cxr", "--json")[1])
    found = [line for line in lines if line["item"] == "index"]
    return found[0] if found else None


def test_check_says_how_old_the_index_is_and_when_it_is_not_used(cli, tmp_path):
    roots = add_mimic(cli, tmp_path)
    assert index_line(cli) is None
    before = datetime.now(UTC).replace(second=0, microsecond=0)  # the note is to the minute
    cli("data", "prepare", "mimic-cxr")
    line = index_line(cli)
    assert line["status"] == "ok"
    assert before <= datetime.fromisoformat(line["found"].split()[1].rstrip(",")) <= datetime.now(UTC)
    assert "8 studies" in line["found"]
    noticed = "in use; a later change of single files may go unnoticed: after one, `cxrbench data prepare mimic-cxr`"
    assert line["found"].endswith(noticed)
    next((roots["reports"][0] / "files").rglob("*.txt")).write_text("edited")
    line = index_line(cli)
    assert line["status"] == "note"
    assert "not used" in line["found"]
    assert line["fix"] == "cxrbench data prepare mimic-cxr"
    shutil.rmtree(tmp_path / "cache")
    assert index_line(cli)["status"] == "problem"


# Ctrl-C


INTERRUPTED = """
import signal, sys
from cxrbench.cli.main import run
from cxrbench.models.baselines import RandomReport

answered, generate = [], RandomReport.generate

def interrupted(self, batch, prepared):
    answered.append(batch)
    if len(answered) == 6:
        signal.raise_signal(signal.SIGINT)
    return generate(self, batch, prepared)

RandomReport.generate = interrupted
run()
"""
"""The program, to which Ctrl-C comes in the middle of a run, between the fifth answer and the sixth."""


def test_ctrl_c_is_a_sentence_and_the_same_command_goes_on(tmp_path):
    task = write_small(tmp_path, test=60)
    run = tmp_path / "run"
    words = ("run", "--model", "random-report", "--task", task, "--batch-size", 1, "--replicates", 0, "--out", run)
    command = [sys.executable, "-m", "cxrbench", *map(str, words)]
    file = run / "predictions/0000.jsonl"
    child = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *command[3:]], capture_output=True, text=True, timeout=HARD_LIMIT
    )
    said = child.stderr
    assert child.returncode == 4
    assert "stopped; what was written is kept" in said
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    before = file.read_bytes()
    assert before.count(b"\n") == 5
    done = subprocess.run(command, capture_output=True, text=True, timeout=HARD_LIMIT)
    assert done.returncode == 0, done.stderr
    assert file.read_bytes().startswith(before)
    assert len(answers(run)) == 60


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("run", "--nonsense"), 2, "Usage:"),
        (("nonsense",), 2, "No such command"),
        (("score",), 2, "Missing argument"),
        (("--version",), 0, ""),
        (("run", "--help"), 0, ""),
        (("data", "check", "iu-xray"), 1, ""),
    ],
)
def test_usage_errors_and_exit_codes_are_as_they_were(cli, words, code, said):
    found, _, err = cli(*words)
    assert found == code
    assert said in err


# Lists


def test_listed_runs_can_be_pasted_and_damaged_ones_take_a_line(cli, tmp_path):
    long = "a-model-with-a-very-long-name-" * 3
    run, _ = small_run(cli, tmp_path)
    shutil.copytree(run, tmp_path / "runs" / long)
    broken = {
        "identity": lambda place: (place / "manifest.json").write_text(
            (run / "manifest.json").read_text().replace('"task"', '"tusk"')
        ),
        "summary": lambda place: (place / "summary.json").write_text("[]"),
        "row": lambda place: (place / "predictions/0000.jsonl").write_text("{}\n"),
        "folder": lambda place: ((place / "summary.json").unlink(), (place / "summary.json").mkdir()),
    }
    for name, damage in broken.items():
        shutil.copytree(run, tmp_path / "runs" / name)
        damage(tmp_path / "runs" / name)
    code, out, _ = cli("runs", "list")
    assert code == 0
    lines = out.splitlines()
    paths = [at for at, line in enumerate(lines) if not line.startswith(" ")]
    ends = [*paths[1:], len(lines)]
    listed = {lines[at]: " ".join(lines[at + 1 : end]) for at, end in zip(paths, ends, strict=True)}
    assert set(listed) == {f"runs/{name}" for name in ("small", long, *broken)}
    assert all("damaged" in listed[f"runs/{name}"] for name in broken if name != "folder")
    assert "the summary cannot be read: Is a directory" in listed["runs/folder"]
    assert "24/24 answered" in listed[f"runs/{long}"]
    assert cli("score", f"runs/{long}", "--replicates", 0)[0] == 0
    assert "runs/small" in cli("runs", "list", tmp_path / "runs")[1].splitlines()


def test_answered_samples_are_counted_once_and_torn_rows_not(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    (run / "summary.json").unlink()
    file = run / "predictions/0000.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:10], lines[0], lines[11][:-20]]))
    assert "10/24 answered" in cli("runs", "list")[1]


# Doctor


def plug_in(place, name, group, body):
    """An installed package with an entry point, as pip leaves it."""
    module = f"{name.replace('-', '_')}_module"
    info = place / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[cxrbench.{group}]\n{name} = {module}:Thing\n")
    (place / f"{module}.py").write_text(body)


def test_doctor_outlives_broken_plug_ins_and_packages_without_metadata(cli, tmp_path, monkeypatch):
    place = tmp_path / "site"
    place.mkdir()
    plug_in(place, "rude", "metrics", "raise RuntimeError('no device')\n")
    plug_in(place, "odd", "metrics", "class Thing:\n    def __init__(self):\n        pass\n")
    plug_in(place, "lost", "models", "import not_installed_anywhere\n")
    plug_in(place, "good", "models", "class Thing:\n    pass\n")
    (place / "pylibjpeg.py").touch()
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "pylibjpeg", raising=False)
    monkeypatch.setattr("cxrbench.cli.doctor.OPTIONAL", {"rude_module": "nothing", "pylibjpeg": "images"})
    (tmp_path / "cxrbench.toml").write_text("data = 5\n")
    code, out, _ = cli("doctor")
    assert code == 0
    rows = {line.split("  ")[0]: line for line in out.splitlines()}
    assert "unknown version" in rows["rude_module"]
    assert all("broken" in rows[name] for name in ("metric rude", "metric odd", "model lost"))
    assert "ready" in rows["model good"]
    assert "ready" in rows["metric bleu"]
    assert any(line.startswith("settings: broken") for line in out.splitlines())


def test_doctor_prints_paths_whole(cli, tmp_path, monkeypatch):
    deep = tmp_path / ("a-folder-name-of-forty-and-more-characters/" * 4)
    monkeypatch.setenv("XDG_CACHE_HOME", str(deep))
    assert f"caches: {deep / 'cxrbench'}" in cli("doctor")[1].splitlines()
