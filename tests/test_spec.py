"""Task files: every shipped one is valid; every mistake is one sentence with file, line and key."""

from pathlib import Path

import pytest

from cxrbench.errors import CxrbenchError
from cxrbench.spec import find_task, read_task, task_files

GOOD = """\
name: my-task
version: 1
title: A task
kind: findings
access: open
dataset:
  name: phantom
  split: test
images:
  offer: all
target: findings
text: whitespace:v1
metrics:
  required: [bleu:raw]
citation: nobody
"""


def write(tmp_path: Path, text: str, name: str = "my-task") -> Path:
    file = tmp_path / f"{name}.yaml"
    file.write_text(text)
    return file


def fails(tmp_path: Path, text: str) -> CxrbenchError:
    with pytest.raises(CxrbenchError) as caught:
        read_task(write(tmp_path, text))
    return caught.value


def test_every_shipped_task_can_be_read():
    names = set(task_files())
    assert {"demo-findings", "iu-findings-r2gen", "mimic-findings", "custom-findings"} <= names
    for name in names:
        spec = find_task(name)
        assert spec.citation
        assert spec.expected.n is None or spec.expected.source


def test_a_good_file_is_read(tmp_path):
    spec = read_task(write(tmp_path, GOOD))
    assert spec.dataset.split == "test"
    assert spec.images.key == "first"


@pytest.mark.parametrize(
    ("old", "new", "what", "line"),
    [
        (
            "target: findings",
            "target: findings\ntexts: none",
            "the key 'texts' is not known (did you mean 'text'?)",
            12,
        ),
        ("  offer: all", "  ofer: all", "the key 'ofer' is not known (did you mean 'offer'?)", 10),
        ("version: 1", "version: zero", "version", 2),
        ("kind: findings", "kind: finding", "kind", 4),
        ("citation: nobody\n", "", "the key 'citation' is missing", 1),
        ("title: A task", "title: A task\ntitle: Again", "the key 'title' stands twice", 4),
        ("target: findings", "target: findings\noffer: [findings]", "findings is the target and cannot be offered", 1),
    ],
)
def test_a_mistake_names_line_and_key(tmp_path, old, new, what, line):
    error = fails(tmp_path, GOOD.replace(old, new))
    assert what in error.what
    assert f"line {line}" in error.where
    assert error.fix == "keep one of them" if "twice" in what else "--show custom-findings" in error.fix


def test_what_is_no_yaml_or_no_text_is_refused(tmp_path):
    assert "line 2" in fails(tmp_path, "a: [1\n").where
    file = tmp_path / "my-task.yaml"
    file.write_bytes(b"name: \xff\n")
    with pytest.raises(CxrbenchError, match="not UTF-8"):
        read_task(file)
    with pytest.raises(CxrbenchError, match="cannot be read"):
        read_task(tmp_path / "none.yaml")
    assert "mapping" in fails(tmp_path, "- 1\n").what


def test_the_name_is_the_file_name(tmp_path):
    with pytest.raises(CxrbenchError, match="called 'my-task' but its file"):
        read_task(write(tmp_path, GOOD, "other"))


def test_the_hash_moves_with_what_moves_scores_and_not_with_prose(tmp_path):
    base = read_task(write(tmp_path, GOOD))
    prose = read_task(write(tmp_path, GOOD.replace("A task", "Another title")))
    rule = read_task(write(tmp_path, GOOD.replace("whitespace:v1", "none")))
    assert base.hash == prose.hash != rule.hash


def test_an_unknown_task_suggests_a_name():
    with pytest.raises(CxrbenchError, match="did you mean 'demo-findings'"):
        find_task("demo-finding")
