"""The code in the pages on how to add a model, a metric and a task: written to files, declared, run."""

import json
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from cxrbench import registry
from tests.commands import cli  # noqa: F401  (a fixture)

DOCS = Path(__file__).resolve().parent.parent / "docs"


def block(page, language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.S)
    return found


def lines(code):
    return [line for line in code.splitlines() if line.strip() and not line.strip().startswith(("#", '"""'))]


@pytest.fixture
def declared(tmp_path, monkeypatch):
    """Put a page's code on the path under the name its pyproject.toml block says, with that block's entry point."""

    def make(page):
        kind, name, module, attr = re.search(
            r'entry-points\."cxrbench\.(\w+)"\]\n([\w-]+) = "([\w.]+):(\w+)"', block(page, "toml")
        ).groups()
        place = tmp_path / "site" / Path(*module.split(".")).with_suffix(".py")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.with_name("__init__.py").touch()
        place.write_text(block(page, "python"))
        info = tmp_path / "site" / "my_package-1.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[cxrbench.{kind}]\n{name} = {module}:{attr}\n")
        for loaded in [each for each in sys.modules if each.split(".")[0] == "my_package"]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        registry._plug_ins.cache_clear()
        assert EntryPoint(name, f"{module}:{attr}", f"cxrbench.{kind}").load()
        return name

    yield make
    registry._plug_ins.cache_clear()


def test_a_model_in_forty_lines_runs(cli, tmp_path, declared):
    name = declared("add-a-model.md")
    assert len(lines(block("add-a-model.md", "python"))) <= 40
    code, _, err = cli(
        *("run", "--model", name, "--task", "demo-findings", "--limit", 20, "--metrics", "length"),
        *("--replicates", 0, "--out", "r"),
    )
    assert code == 0, err
    summary = json.loads((tmp_path / "r/summary.json").read_text())
    assert summary["n"] == 20
    assert summary["speed"]["latency_p50"] > 0


@pytest.mark.slow
def test_a_metric_is_scored(cli, tmp_path, declared):
    name = declared("add-a-metric.md")
    words = (
        "run",
        "--model",
        "always-normal",
        "--task",
        "demo-findings",
        "--limit",
        40,
        "--metrics",
        name,
        "--out",
        "r",
    )
    code, _, err = cli(*words, "--replicates", 200)
    assert code == 0, err
    (found,) = json.loads((tmp_path / "r/summary.json").read_text())["metrics"][f"{name}:word"].values()
    assert found["value"] == 1.0  # the constant report says "normal"


def test_a_task_is_run(cli, tmp_path):
    body = block("add-a-task.md", "yaml")
    (tmp_path / "my-findings.yaml").write_text(body)
    words = ("run", "--model", "demo", "--task", "my-findings.yaml", "--limit", 8, "--replicates", 0)
    code, out, err = cli(*words)
    assert code == 0, err
    assert "scored 8 of 8" in out
