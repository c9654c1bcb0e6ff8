"""`cxrbench data` as it is typed: exit codes, where settings go, and what a small copy of a known split may not do."""

import json
import stat
from dataclasses import replace

import pytest

from tests import commands
from tests.data import mimic_tree

cli = commands.cli


def own_file(folder, **row):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.png").touch()
    file = folder / "own.jsonl"
    file.write_text(json.dumps({"study_id": "a", "images": ["a.png"], "sections": {"findings": "Clear."}, **row}))
    return file


def mimic(tmp_path, items=None):
    roots = mimic_tree.build(tmp_path / "mimic", items)
    return [word for name, paths in roots.items() for path in paths for word in (f"--{name}", path)]


def test_adding_what_is_wrong_is_remembered_and_exits_1(cli, tmp_path):
    code, out, _ = cli("data", "add", "jsonl", "--reports", own_file(tmp_path / "d", age="63"))
    assert code == 1
    assert "remembered all the same in" in out
    assert str(tmp_path / "d/own.jsonl") in (tmp_path / "config/cxrbench/cxrbench.toml").read_text()


def test_adding_one_root_after_the_other_is_no_problem(cli, tmp_path):
    words = mimic(tmp_path)
    for pair in (words[:2], words[2:4], words[4:]):
        assert cli("data", "add", "mimic-cxr", *pair)[0] == 0


def test_preparing_what_is_wrong_is_remembered_and_exits_1(cli, tmp_path):
    items = mimic_tree.cases()
    items[6] = replace(items[6], text=b"\xff")
    assert cli("data", "add", "mimic-cxr", *mimic(tmp_path, items))[0] == 0
    code, out, _ = cli("data", "prepare", "mimic-cxr")
    assert code == 1
    assert "remembered all the same in" in out
    assert "prepared" in cli("data", "list")[1]


def test_a_settings_file_that_is_not_there_yet_is_made_by_adding(cli, tmp_path):
    file = own_file(tmp_path / "d")
    assert cli("data", "add", "jsonl", "--reports", file, "--config", "sub/new.toml")[0] == 0
    assert stat.S_IMODE((tmp_path / "sub/new.toml").stat().st_mode) == 0o600
    assert cli("data", "check", "jsonl", "--config", "sub/new.toml")[0] == 0
    assert not (tmp_path / "config").exists()
    code, _, err = cli("data", "check", "jsonl", "--config", "none.toml")
    assert code == 2
    assert "there is no such settings file" in err
    assert "cxrbench data add NAME ... --config none.toml makes one" in err


def test_paths_are_remembered_without_detours(cli, tmp_path):
    own_file(tmp_path / "d")
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "d")
    given = ("--reports", "x/../d/own.jsonl", "--images", "link", "--config", "x/../s.toml")
    code, out, _ = cli("data", "add", "jsonl", *given)
    assert code == 0
    assert f"remembered in {tmp_path / 's.toml'}" in out
    text = (tmp_path / "s.toml").read_text()
    assert f'"{tmp_path}/d/own.jsonl"' in text
    assert f'"{tmp_path}/link"' in text, "a link of the user's own stays one"


def test_the_help_of_check_speaks_of_its_own_lines(cli):
    _, out, _ = cli("data", "check", "--help")
    words = " ".join(out.split())
    assert "unrounded" not in words
    assert "Print the lines as JSON" in words


@pytest.mark.parametrize("command", ["run", "score"])
def test_a_small_copy_of_the_official_split_does_not_pass_for_it(cli, tmp_path, command):
    cli("data", "add", "mimic-cxr", *mimic(tmp_path))
    file = tmp_path / "p.csv"
    file.write_text("sample_id,prediction\n59999001,clear\n59999002,clear\n59999005,clear\n59999006,clear\n")
    first = ("run", "--model", f"replay:{file}") if command == "run" else ("score", file)
    words = (*first, "--task", "mimic-findings", "--metrics", "bleu:raw", "--replicates", 0)
    code, _, err = cli(*words)
    assert code == 2
    assert "the split test of mimic-cxr has 6 studies here, but 3269 in full" in err
    assert "--allow-partial" in err
    code, out, _ = cli(*words, "--allow-partial", "--json")
    assert code == 0
    assert any("6 studies of the split test, 3269 expected" in line for line in json.loads(out)["notes"])
