"""Task files, rubrics, policies, boards and settings of strangers: data only, and never too much of it."""

import os

import pytest

from benchmarks._fuzz_targets import target
from cxrbench.config import load_config
from cxrbench.data.load import TaskData
from cxrbench.errors import CxrbenchError
from cxrbench.gate_policy import read_policy
from cxrbench.judges.rubric import read_rubric
from cxrbench.metric_cases import read_case
from cxrbench.report.board_spec import find_board
from cxrbench.spec import read_task
from tests.security.limits import blocked_is_caught, within

READERS = {
    "task-yaml": read_task,
    "rubric-yaml": read_rubric,
    "policy-yaml": read_policy,
    "board-yaml": lambda file: find_board(str(file)),
}


@pytest.fixture(params=READERS)
def read(request):
    return READERS[request.param]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "t.yaml"


def laughs(levels=40, width=9):
    lines = ['a0: &a0 ["lol"]']
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines) + f"\nname: *a{levels - 1}\n"


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir", "!!python/name:os.mkdir"]
)
def test_no_tag_runs_code(read, file, tmp_path, tag):
    mark = tmp_path / "ran"
    file.write_text(f"name: {tag} [{mark}]\n")
    with pytest.raises(CxrbenchError, match="not valid YAML"):
        read(file)
    assert not mark.exists()


@pytest.mark.parametrize(
    "text",
    [
        laughs(),
        "name: &a [*a]\n",
        "name: &a {b: *a}\n",
        "&a name: {<<: *a}\n",
        "x: &x {a: 1}\n"
        + "".join(f"x{i}: &x{i} {{<<: [*x{i - 1 if i else ''}, *x{i - 1 if i else ''}]}}\n" for i in range(30)),
    ],
    ids=["laughs", "list-in-itself", "mapping-in-itself", "merged-into-itself", "merges"],
)
def test_anchors_that_multiply_are_refused_at_once(read, file, text):
    file.write_text(text)
    with within(megabytes=64), pytest.raises(CxrbenchError):
        read(file)


@pytest.mark.parametrize(
    "text",
    [
        "name: " + "[" * 300,
        "name: " + "{a: " * 300,
        "- " * 300 + "a",
        "? [a, b]\n: c\n",
        "? {a: b}\n: c\n",
        "name: 2001-99-99\n",
        "name: !!timestamp x\n",
        "name: !!int x\n",
        "name: !!binary x\n",
        "name: " + "1:" * 1200 + "1\n",
        "version: 0b" + "1" * 6_000 + "\n",
        "version: " + "9" * 6_000 + "\n",  # Python's own limit is 4,300 digits
        "name: \x00\n",
        '"\\ud800": 1\n',
        "name: 'x\n",
        "%YAML 9.9\n---\nname: x\n",
        "",
        "--- a\n--- b\n",
    ],
)
def test_yaml_made_to_break_the_reader_is_refused(read, file, text):
    file.write_text(text)
    with within(), pytest.raises(CxrbenchError):
        read(file)


def test_a_file_of_megabytes_is_not_parsed(read, file):
    file.write_text("name: t\n" + "# much\n" * 400_000)
    with within(megabytes=8), pytest.raises(CxrbenchError, match="bytes"):
        read(file)


def test_a_pipe_or_a_device_is_not_waited_for(read, file):
    os.mkfifo(file)
    with blocked_is_caught(), pytest.raises(CxrbenchError):
        read(file)
    file.unlink()
    file.symlink_to("/dev/zero")
    with within(), blocked_is_caught(), pytest.raises(CxrbenchError):
        read(file)


def test_published_cases_are_read_as_carefully(file):
    file.write_text(laughs())
    with within(), pytest.raises(CxrbenchError):
        read_case(file)


def test_what_is_well_made_is_still_read(tmp_path):
    for name, reader in READERS.items():
        file = tmp_path / "t.yaml"
        file.write_bytes(target(name).seeds()[0])
        assert reader(file)


def test_no_task_opens_credentialed_data(tmp_path):
    seed = (
        target("task-yaml").seeds()[0].decode().replace("{name: jsonl, split: test}", "{name: mimic-cxr, split: test}")
    )
    file = tmp_path / "t.yaml"
    file.write_text(seed)
    with pytest.raises(CxrbenchError, match="no task can open it"):
        TaskData.find(read_task(file), load_config(None))


def test_a_folder_cannot_bring_endpoints_to_be_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cxrbench.toml").write_text('[trusted_endpoints]\n"evil.example" = "an agreement"\n')
    with pytest.raises(CxrbenchError):
        load_config(None)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000,
        "a = " + "{a=" * 5000,
        "a = " + "9" * 5000,
        "[data.x]\nreports = '~nobody-here/x'\n",
        "a." * 5000 + "b = 1",
        '[data.x]\nreports = "\\u0000"\n',
        "\x00",
        "[data.x]\nreports = 9999-99-99\n",
    ],
)
def test_settings_made_to_break_the_reader_are_refused(tmp_path, text):
    file = tmp_path / "cxrbench.toml"
    file.write_text(text)
    with within(), pytest.raises(CxrbenchError):
        load_config(file)


def test_settings_that_are_a_pipe_or_huge_are_refused(tmp_path):
    file = tmp_path / "cxrbench.toml"
    os.mkfifo(file)
    with blocked_is_caught(), pytest.raises(CxrbenchError):
        load_config(file)
    file.unlink()
    file.write_text("# much\n" * 400_000)
    with within(megabytes=8), pytest.raises(CxrbenchError, match="bytes"):
        load_config(file)


@pytest.mark.parametrize(
    "score",
    [
        "().__class__",
        "__import__('os')",
        "9**9**9",
        "missed if 1 else 2",
        "max(*[1])",
        "missed.real",
        "[missed]",
        "abs(missed)()",
    ],
)
def test_the_score_of_a_rubric_is_arithmetic_alone(file, score):
    seed = target("rubric-yaml").seeds()[0].decode()
    file.write_text(seed[: seed.index("score:")] + f'score: "{score}"\n')
    with within(), pytest.raises(CxrbenchError):
        read_rubric(file)
