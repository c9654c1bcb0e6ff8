"""Errors read as sentences; the registry is lazy, suggests names, and lets no plug-in take a built-in name."""

import importlib
import subprocess
import sys

import pytest

from cxrbench import registry
from cxrbench.errors import CxrbenchError, Exit, suggest


def test_an_error_says_what_where_and_what_to_do():
    error = CxrbenchError("it broke", where="file.yaml, line 3", fix="cxrbench doctor", code=Exit.INFRASTRUCTURE)
    assert str(error).splitlines() == ["it broke", "  where: file.yaml, line 3", "  to do: cxrbench doctor"]
    assert error.code == 4


def test_a_close_name_is_suggested_and_a_far_one_is_not():
    assert suggest("blue", ["bleu", "cider"]) == " (did you mean 'bleu'?)"
    assert suggest("zzzz", ["bleu", "cider"]) == ""


def test_an_unknown_name_names_the_nearest_and_the_command_that_lists():
    with pytest.raises(CxrbenchError, match="did you mean 'bleu'") as caught:
        registry.find("metrics", "blue")
    assert caught.value.fix == "cxrbench list metrics"


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_built_in_name_can_be_imported(kind):
    for entry in registry.BUILTIN[kind]:
        assert entry.load() is not None


def _install(tmp_path, monkeypatch, name, body):
    """A real distribution on the path, as `pip install` leaves one."""
    info = tmp_path / "plug-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    module = f"plug_{name.replace('-', '_')}"
    (info / "entry_points.txt").write_text(f"[cxrbench.metrics]\n{name} = {module}:Thing\n")
    (tmp_path / f"{module}.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()


def test_a_plug_in_is_found_by_its_entry_point(tmp_path, monkeypatch):
    _install(tmp_path, monkeypatch, "my-metric", "class Thing:\n    pass\n")
    entry = registry.find("metrics", "my-metric")
    assert entry.source == "plug"
    assert entry.load().__name__ == "Thing"


def test_a_plug_in_cannot_take_a_built_in_name(tmp_path, monkeypatch):
    _install(tmp_path, monkeypatch, "bleu", "class Thing:\n    pass\n")
    with pytest.raises(CxrbenchError, match="'bleu' is taken twice"):
        registry.entries("metrics")


def test_a_plug_in_that_cannot_be_imported_is_named_with_its_package(tmp_path, monkeypatch):
    _install(tmp_path, monkeypatch, "broken", "raise ImportError('no such library')\n")
    with pytest.raises(CxrbenchError, match="no such library") as caught:
        registry.load("metrics", "broken")
    assert "plug" in caught.value.where


LIGHT = ["cxrbench", "cxrbench.cli.main", "cxrbench.stats", "cxrbench.compare", "cxrbench.score_run", "cxrbench.gate"]


@pytest.mark.parametrize("module", LIGHT)
def test_importing_never_loads_torch_and_changes_nothing(module):
    code = (
        "import os, sys, warnings, logging, random\n"
        "before = (dict(os.environ), list(warnings.filters), list(logging.root.handlers), random.getstate())\n"
        f"import {module}\n"
        "after = (dict(os.environ), list(warnings.filters), list(logging.root.handlers), random.getstate())\n"
        "assert before[0] == after[0] and before[2:] == after[2:]\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
