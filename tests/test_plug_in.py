"""The example package, installed by pip: found, run, scored; small enough to be an example."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples/cxrbench-change"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the package as pip puts it there, and a way to run cxrbench beside it."""
    place = tmp_path_factory.mktemp("plug-in")
    source = place / "source"
    subprocess.run(["cp", "-r", EXAMPLE, source], check=True)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    made = subprocess.run([*pip, "--target", place / "site", source], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    environment = {**os.environ, "PYTHONPATH": str(place / "site"), "COLUMNS": "100"}

    def call(*words, cwd, script=None):
        program = ["-c", script] if script else ["-m", "cxrbench"]
        done = subprocess.run(
            [sys.executable, *program, *map(str, words)],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr

    return call


LIST = "from cxrbench.cli.main import app\nfor kind in {!r}:\n    app(['list', kind], standalone_mode=False)\n"


def test_the_package_is_listed(installed, tmp_path):
    added = {"models": "echo-indication", "metrics": "change-f1", "datasets": "pairs"}
    code, out, err = installed(cwd=tmp_path, script=LIST.format(list(added)))
    assert code == 0, err
    assert all(name in out for name in added.values())


def test_its_model_is_run_and_its_metric_scored(installed, tmp_path):
    words = ("run", "--model", "echo-indication", "--task", "demo-findings", "--limit", 30, "--out", "run")
    code, _, err = installed(*words, "--metrics", "change-f1,length", "--replicates", 200, cwd=tmp_path)
    assert code == 0, err
    found = json.loads((tmp_path / "run/summary.json").read_text())["metrics"]["change-f1:kinds"]
    assert set(found) == {"f1", "precision", "recall"}
    assert found["recall"]["value"] < 0.2  # an indication says little of what changed
    assert found["f1"]["ci"] is not None


def test_its_data_set_is_read(installed, tmp_path):
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for number, text in enumerate(("A new effusion.", "Unchanged heart size. The nodule is larger.")):
        (pairs / f"{number}.txt").write_text(text)
        Image.new("L", (64, 64), 90).save(pairs / f"{number}.png")
    code, _, err = installed("data", "add", "pairs", "--reports", "pairs", cwd=tmp_path)
    assert code == 0, err
    task = EXAMPLE / "pairs-findings.yaml"
    code, out, err = installed("run", "--model", "always-normal", "--task", task, "--replicates", 0, cwd=tmp_path)
    assert code == 0, err
    assert "scored 2 of 2" in out


def test_it_stays_an_example():
    """Less than 60 lines without the metric's own mathematics: blank lines, comments and docstrings are not counted."""
    import ast

    lines = set()
    for file in ("model.py", "dataset.py"):
        tree = ast.parse((EXAMPLE / "cxrbench_change" / file).read_text())
        told = [n for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
        hidden = {line for node in told for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
        lines |= {(file, n.lineno) for n in ast.walk(tree) if hasattr(n, "lineno") and n.lineno not in hidden}
    assert len(lines) < 60
