"""Packages run apart: texts by private files, no network, no secrets, no leftovers; and what the worker does there."""

import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from cxrbench import reference_runs, reference_worker
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.metrics.base import Context


def fake(tmp_path, body):
    """An interpreter that does `body` instead of running what it is given."""
    tmp_path.mkdir(exist_ok=True)
    file = tmp_path / "python"
    file.write_text(f"#!{sys.executable} -S\nimport json, os, sys\n{body}\n")
    file.chmod(0o755)
    return file


JOB = {"task": "rouge_score", "versions": ["rouge-score"], "stems": False, "key": "rouge-l:rouge-score"}
SECRET = {"predictions": ["Xylophone effusion."], "references": ["No xylophone."], "texts": []}


def left():
    """What lies in the folder of jobs."""
    return list((reference_runs.cache_dir() / "reference-runs").glob("*"))


def test_texts_go_by_a_private_file_and_nothing_is_online(tmp_path, monkeypatch):
    secrets = (
        "HF_TOKEN",
        "OPENAI_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "PYTHONPATH",
        "NO_SUCH_THING",
        "MLFLOW_TRACKING_URI",
    )
    for name in secrets:
        monkeypatch.setenv(name, "tell nobody")
    monkeypatch.setenv("JAVA_HOME", "/java")
    seen = tmp_path / "seen.json"
    body = (
        "found = {'argv': sys.argv, 'env': dict(os.environ), 'mode': os.stat('job.json').st_mode & 0o777,\n"
        "         'folder': os.stat('.').st_mode & 0o777, 'cwd': os.getcwd()}\n"
        f"json.dump(found, open({str(seen)!r}, 'w'))\n"
        "print('Xylophone'); print('Xylophone', file=sys.stderr)\n"
        "json.dump({'versions': {}, 'python': '3', 'pairs': {}}, open('result.json', 'w'))"
    )
    reference_runs.run(fake(tmp_path, body), {**JOB, **SECRET}, {}, "rouge-score", "pip install rouge-score")
    found = json.loads(seen.read_text())
    assert found["mode"] == 0o600
    assert found["folder"] == 0o700
    assert not os.path.exists(found["cwd"]), "deleted afterwards"
    assert "ylophone" not in json.dumps([found["argv"], found["env"]])
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    assert [found["env"][name] for name in offline] == ["1"] * 4
    assert not set(secrets) & set(found["env"])
    assert found["env"]["JAVA_HOME"] == "/java"
    assert found["env"]["PATH"] == os.environ["PATH"]
    assert found["env"]["HF_HOME"] == found["env"]["TMPDIR"] == found["cwd"]
    assert found["cwd"].startswith(str(reference_runs.cache_dir()))
    assert not left()


def test_what_a_killed_process_left_goes_with_the_next_one(tmp_path):
    """SIGKILL while the package runs leaves the texts; nobody holds them any longer, so the next call removes them."""
    body = f"open({str(tmp_path / 'runs')!r}, 'w').close()\nimport time; time.sleep(60)"
    words = f"""
import json
from pathlib import Path
from cxrbench import reference_runs
reference_runs.run(Path({str(fake(tmp_path, body))!r}), { {**JOB, **SECRET}!r}, {{}}, "p", "i")
"""
    parent, folder = subprocess.Popen([sys.executable, "-c", words], start_new_session=True), None
    try:
        while not (tmp_path / "runs").exists():
            assert parent.poll() is None
            time.sleep(0.02)
        (folder,) = left()
        assert "ylophone" in (folder / "job.json").read_text()
        alive = fake(tmp_path / "env", "json.dump({'versions': {}}, open('result.json', 'w'))")
        reference_runs.run(alive, JOB, {}, "p", "i")
        assert left() == [folder], "a process at work keeps its own"
        parent.kill()
        parent.wait()
        assert left() == [folder]
        reference_runs.run(alive, JOB, {}, "p", "i")
        assert left() == []
    finally:
        for pid in children(folder):
            os.kill(pid, signal.SIGKILL)


def children(folder):
    """Processes that work in a folder (or did, before it was removed)."""
    found = []
    for place in reference_runs.Path("/proc").glob("[0-9]*/cwd"):
        try:
            if os.readlink(place).removesuffix(" (deleted)") == str(folder):
                found.append(int(place.parts[2]))
        except OSError:
            continue
    return found


def lives(pid):
    """Whether a process runs; one that is dead and not buried yet does not."""
    try:
        return reference_runs.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_package_that_hangs_is_stopped_with_what_it_started(tmp_path):
    pids = tmp_path / "pids"
    body = (
        "import subprocess, time\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(60)"
    )
    with pytest.raises(CxrbenchError, match="did not end within 1 s and was stopped") as caught:
        reference_runs.run(fake(tmp_path, body), {**JOB, **SECRET}, {}, "rouge-score", "i", limit=1.0)
    assert caught.value.code == Exit.UNDECIDED
    assert "--limit" in caught.value.fix
    assert not left()
    # SIGKILL is on its way when `run` ends; the kernel may take a moment to carry it out on a grandchild.
    until = time.monotonic() + 10
    while (left_over := [pid for pid in pids.read_text().split() if lives(pid)]) and time.monotonic() < until:
        time.sleep(0.01)
    assert not left_over


@pytest.mark.parametrize("written", ['{"pairs": {', "", "[]"])
def test_a_result_that_is_no_whole_one_is_told(tmp_path, written):
    body = f"open('result.json', 'w').write({written!r})"
    with pytest.raises(CxrbenchError, match="exit code 0 and no result"):
        reference_runs.run(fake(tmp_path, body), {**JOB, **SECRET}, {}, "rouge-score", "i")


def test_the_worker_writes_its_result_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = {"task": "texts", "versions": [], "package": "no-such-package", "debug": False}
    (tmp_path / "job.json").write_text(json.dumps(job))
    real, steps = reference_worker.json.dump, []

    def dump(value, file):
        steps.append(sorted(os.listdir()))
        return real(value, file)

    monkeypatch.setattr(reference_worker.json, "dump", dump)
    assert reference_worker.main() == 0
    assert steps == [["job.json", "result.part"]]
    assert json.loads((tmp_path / "result.json").read_text())["absent"]
    assert stat.S_IMODE((tmp_path / "result.json").stat().st_mode) == 0o600
    assert not (tmp_path / "result.part").exists()


class Labeler:
    """f1chexbert's two modes of class indices."""

    def __init__(self, uncertain):
        self.uncertain, self.asked = uncertain, []

    def get_label(self, text, mode="rrg"):
        assert mode == "rrg"
        self.asked.append(text)
        return [self.uncertain if each == "?" else int(each == "+") for each in text]


def test_the_package_s_own_rule_for_doubt_is_run():
    said = {"+": 1, "-": 0, "?": -1, " ": ""}
    texts = ["+-", "-+", "--", "++", " +", "+ ", "  ", "- ", " -", "+?", "?-"]
    labels = {text: [said[each] for each in text] for text in texts}
    labeler = Labeler(1)
    positive = reference_worker.positive_of(labeler, labels)
    assert positive["+?"] == [1, 1]
    assert positive["?-"] == [1, 0]
    assert labeler.asked[:2] == ["+?", "?-"]
    assert len(labeler.asked) == reference_worker.PROBED
    with pytest.raises(ValueError, match="another one"):
        reference_worker.positive_of(Labeler(0), labels)


def test_a_scorer_that_folds_case_is_known():
    def words(report, folded):
        return {each["tokens"].lower() if folded else each["tokens"] for each in report["entities"].values()}

    for folded in (False, True):
        scorer = lambda a, b, level, folded=folded: float(words(a, folded) == words(b, folded))  # noqa: E731
        assert reference_worker.folds(scorer) is folded


def test_a_package_that_is_not_there_is_named():
    job = {**JOB, **SECRET, "task": "ratescore"}
    with pytest.raises(CxrbenchError, match="no module RaTEScore") as caught:
        reference_runs.run(
            reference_runs.interpreter(reference_runs.Path(sys.executable)), job, {}, "x", "pip install x"
        )
    assert caught.value.code == Exit.UNDECIDED
    assert "pip install x" in caught.value.fix


def test_a_package_that_fails_says_no_text():
    job = {**JOB, **SECRET, "stems": False, "predictions": [["Xylophone"]]}
    with pytest.raises(CxrbenchError, match="rouge-score failed in the environment: ") as caught:
        reference_runs.run(reference_runs.interpreter(reference_runs.Path(sys.executable)), job, {}, "rouge-score", "i")
    assert "ylophone" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [("sys.exit(3)", "exit code 3 and no result"), ("os.kill(os.getpid(), 9)", "exit code -9 and no result")],
)
def test_an_interpreter_that_dies_is_told(tmp_path, body, said):
    with pytest.raises(CxrbenchError, match=said):
        reference_runs.run(fake(tmp_path, body), {**JOB, **SECRET}, {}, "rouge-score", "pip install rouge-score")


def test_an_interpreter_is_found_by_folder_file_or_name(tmp_path):
    find, path = reference_runs.interpreter, reference_runs.Path
    made = tmp_path / "env/bin/python"
    made.parent.mkdir(parents=True)
    made.symlink_to(sys.executable)
    assert find(tmp_path / "env") == made, "a link stays a link"
    assert find(made) == made
    assert find(path("sh")).is_absolute()
    for wrong in (tmp_path, tmp_path / "nowhere", path("no-such-python")):
        with pytest.raises(CxrbenchError, match="no Python here"):
            find(wrong)


def test_a_file_that_is_no_program_is_told(tmp_path):
    (tmp_path / "python").write_text("")
    with pytest.raises(CxrbenchError, match="does not start"):
        reference_runs.run(tmp_path / "python", {**JOB, **SECRET}, {}, "rouge-score", "pip install rouge-score")


def test_an_archive_cannot_name_an_encoder_outside(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(
        json.dumps({"model": {"embedder": {"token_embedders": {"bert": {"model_name": "../../etc"}}}}})
    )
    monkeypatch.setattr(reference_runs, "folders", lambda weights, config: (tmp_path, tmp_path))
    context = Context.of({"weights": {"name": "radgraph", "hash": "1a2b3c4d"}})
    with pytest.raises(CxrbenchError, match="encoder outside"):
        reference_runs.find("radgraph-f1", "partial", context, None)
