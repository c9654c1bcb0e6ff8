"""What stands in the README and in docs/ beside `cxrbench ...`: Python, YAML, TOML and JSON, schedulers, scripts.

Python runs, with the sizes cut that `CUT` names. A file is read by the code that reads such files. What a scheduler
starts is started by a stand-in of its command, with the environment it would give. Of other commands the script, the
environment or the extra they name must exist, with the options they have; those that change a machine or need a
network are in `NOT_TYPED`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests import commands
from tests.data import mimic_tree
from tests.docs_commands import ROOT, pages
from tests.docs_world import block

cli = commands.cli
PAGES = {page.name: page.read_text(encoding="utf-8") for page in pages()}

# Python

CUT = {"100_000": "3"}
"""What is made smaller in Python of the pages."""
PROSE_IS_CODE = ("add-a-model.md", "add-a-metric.md")
"""Pages whose Python is a module of a package: tests/test_docs_code.py installs and runs it."""


def python_of(page):
    """The fenced blocks of Python, and what is given to `python -` in a block of commands."""
    fenced = [each for _, each in re.findall(r"^( *)```python\n(.*?)^ *```", PAGES[page], re.S | re.M)]
    typed = re.findall(r"python -[^\n]* <<'EOF'\n(.*?)\n +EOF", PAGES[page], re.S)
    return [textwrap.dedent(each) for each in (*fenced, *typed)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(name, marks=pytest.mark.slow) if name == "bridges.md" else name  # seconds to import evaluate
        for name in PAGES
        if name not in PROSE_IS_CODE and python_of(name)
    ],
)
def test_python_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if page == "bridges.md":
        pytest.importorskip("evaluate")
    if page == "demo.md":
        demo_run(tmp_path)
    if page == "first-mimic.md":
        mimic_tree.write_tables(tmp_path / "mimic-cxr-jpg", mimic_tree.cases())
    for code in python_of(page):
        for large, small in CUT.items():
            code = code.replace(large, small)
        exec(compile(code, page, "exec"), {"__name__": page})
    if page == "demo.md":
        assert len(list(tmp_path.glob("*.png"))) == 3
        assert capsys.readouterr().out.count("demo: Invented.") == 3
    if page == "first-mimic.md":
        mimic_tree.write_images(tmp_path, mimic_tree.cases())
        said = [line.partition("/mimic-cxr-jpg/2.1.0/")[2] for line in capsys.readouterr().out.splitlines()]
        assert said
        assert all((tmp_path / place).is_file() for place in said)


def demo_run(folder):
    """The predictions of a run under the name the README's first command gives it."""
    file = folder / "runs/demo-findings/demo-1a2b3c4d/predictions/0000.jsonl"
    file.parent.mkdir(parents=True)
    rows = [{"sample_id": f"ph1-s0-test-{number:06d}", "text": "Invented."} for number in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_no_python_hides_in_other_blocks():
    for page, text in PAGES.items():
        fenced = re.sub(r"```.*?```|<<'EOF'.*?EOF", "", text, flags=re.S)
        assert not re.search(r"^ +(import \w|from \w\S* import )", fenced, re.M), (
            f"{page}: put it between ```python and ```"
        )


# Files


def test_rows_of_own_data_are_read(cli, tmp_path):
    """Both rows of the page: the one with every key as it stands, the smallest one in a file of its own."""
    whole, smallest = (json.loads(each) for each in re.findall(r"```json\n(.*?)```", PAGES["data-jsonl.md"], re.S))
    for name, row in (("whole", whole), ("smallest", smallest)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
        for image in row["images"]:
            file = tmp_path / (image if isinstance(image, str) else image["path"])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        code, out, err = cli("data", "add", "jsonl", "--reports", f"{name}.jsonl")
        assert code == 0, out + err
        code, out, err = cli("data", "check", "jsonl")
        assert code == 0, out + err
    named = {key for key in re.findall(r"^\| `([a-z_`, ]+)` \|", PAGES["data-jsonl.md"], re.M)}
    assert set(whole) - {"abnormal", "site"} <= set("`, `".join(named).split("`, `"))


def test_settings_of_the_pages_are_settings(tmp_path):
    from cxrbench.config import load_config

    found = [
        each for text in PAGES.values() for each in re.findall(r"^( +\[\w+\]\n(?: +.*\n|\n(?= +\[))+)", text, re.M)
    ]
    bodies = [tomllib.loads(textwrap.dedent(each)) for each in found]
    assert {key for body in bodies for key in body} == {"assets", "trusted_endpoints"}
    for number, each in enumerate(found):
        file = tmp_path / f"{number}.toml"
        file.write_text(textwrap.dedent(each))
        config = load_config(file)
        told = bodies[number].get("trusted_endpoints", {})
        assert dict(config.trusted_endpoints) == told


def test_policy_rubric_and_board_of_the_pages_are_read(tmp_path):
    from cxrbench.gate_policy import read_policy
    from cxrbench.judges.rubric import read_rubric

    policy = tmp_path / "my-policy.yaml"
    policy.write_text(block("gate.md", "name: my-policy"))
    assert [check.name for check in read_policy(policy).metrics] == [
        "radgraph-f1:partial f1",
        "chexbert-f1:miura micro_f1_14",
    ]
    rubric = tmp_path / "green.yaml"
    rubric.write_text(block("judges.md", "name: green"))
    assert read_rubric(rubric).name == "green"


def test_the_workflow_gives_the_action_what_it_takes():
    import yaml

    step = yaml.safe_load(block("gate.md", "name: checkpoint gate").replace("on: workflow", '"on": workflow'))
    steps = yaml.safe_load(textwrap.dedent(re.search(r"( +- uses: actions/checkout.*?)```", PAGES["gate.md"], re.S)[1]))
    action = yaml.safe_load((ROOT / ".github/actions/cxrbench-gate/action.yml").read_text())
    (gate,) = [each for each in steps if "cxrbench-gate" in each.get("uses", "")]
    assert set(gate["with"]) <= set(action["inputs"])
    assert step["name"] == "checkpoint gate"
    for output in ("verdict", "exit-code", "junit"):
        assert output in action["outputs"]


# Schedulers

SCHEDULED = [
    (page, each) for page, text in PAGES.items() for each in re.findall(r"`((?:sbatch|srun|torchrun) [^`]+)`", text)
]
STAND_INS = {
    "sbatch": """
array, command = sys.argv[1], sys.argv[3]
assert array.startswith("--array=0-") and sys.argv[2] == "--wrap"
last = int(array.removeprefix("--array=0-"))
for number in range(last + 1):  # jobs of an array may run one after another
    given = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": str(last + 1), "SLURM_ARRAY_TASK_MIN": "0"}
    subprocess.run(["sh", "-c", command], env=os.environ | given, check=True)
""",
    "srun": """
assert sys.argv[1] == "-n"
count, command = int(sys.argv[2]), sys.argv[3:]
given = {"SLURM_NTASKS": str(count), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(count)}
step = [subprocess.Popen(command, env=os.environ | given | {"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)})
        for n in range(count)]
assert [each.wait() for each in step] == [0] * count
""",
    "cxrbench": "from cxrbench.cli.main import run\nrun()\n",
}
"""Slurm's commands as far as these lines use them, and the program itself."""


@pytest.mark.slow
@pytest.mark.parametrize(("page", "line"), SCHEDULED, ids=[" ".join(line.split()[:5]) for _, line in SCHEDULED])
def test_what_a_scheduler_starts_is_one_run(page, line, tmp_path, monkeypatch):
    if line.startswith("torchrun") and not (Path(sys.executable).parent / "torchrun").exists():
        pytest.skip("torch, which brings torchrun, is not installed")
    for name, body in STAND_INS.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!{sys.executable}\nimport os, subprocess, sys\n{body}")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    cut = line.replace("0-7", "0-1").replace(" 8 ", " 2 ").replace("--model M", "--model always-normal")
    cut = cut.replace("--task T", "--task demo-findings --limit 40 --batch-size 4 --replicates 0 --out run")
    cut = cut.replace("score RUN", "score run --metrics length --replicates 0")
    if "cxrbench score" in line:
        words = "cxrbench run --model always-normal --task demo-findings --limit 40 --metrics length --out run"
        subprocess.run(words.split(), cwd=tmp_path, capture_output=True, check=True)
        (tmp_path / "run/summary.json").unlink()
    done = subprocess.run(["sh", "-c", cut], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert json.loads((tmp_path / "run/summary.json").read_text())["n"] == 40
    if "cxrbench score" in line:
        return
    shards = sorted((tmp_path / "run/predictions").glob("*.jsonl"))
    said = [json.loads(row)["sample_id"] for file in shards for row in file.read_text().splitlines()]
    assert len(shards) == 2
    assert (len(said), len(set(said))) == (40, 40)


# Scripts, environments, extras

NOT_TYPED = {
    "python3 -m venv": "makes an environment and fills it from the network; .ci/run types the README's two lines",
    "python3 -m pip": "builds and installs wheels of torch and the others; .ci/run installs the project's own",
    "apt-get install": "changes the machine",
    "npm pack": "fetches from a registry",
    "hf download": "fetches from the hub",
    "hf auth login": "asks for somebody's token of the hub",
    "wget": "fetches credentialed files from PhysioNet",
    "java -version": "tells the version of a program that is none of ours",
    "mkdocs serve": "a server that does not end; tox -e docs builds the same site",
    "sha256sum": "not ours; that pack prints what it would is in tests/test_assets_pack.py",
    "chmod -R": "not ours",
    "mkdir -p": "not ours",
    "pip install rouge-score": "somebody else's package",
    "bin/pip install -c constraints.txt tox": "the same; .ci/run types the line it stands in",
    "oracle/bin/pip": "the same, of the reference packages",
}
"""Commands of other programs that no test types, by how they begin, and why."""
PROGRAM = re.compile(
    r"^(?:OMP_\w+=\S+ )?(?:\S*/)?(?:python3?|pip|wget|hf|tox|pytest|npm|apt-get|mkdocs|sha256sum|chmod|java|mkdir)(?= )"
)


def others():
    """(page, command) of every other program: whole lines of blocks, parts joined by &&, and code in sentences."""
    for page, text in PAGES.items():
        lines = re.findall(r"^ {0,4}(?: {4})?(\S.*)$", re.sub(r"\\\n\s*", " ", text), re.M)
        inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
        for line in (*lines, *inline):
            if line.startswith("DEMO=") or "<<" in line:
                continue  # run by docs_world.demo_folder, and as Python above
            for each in line.split("&&"):
                each = each.partition("  #")[0].strip()
                if PROGRAM.match(each) and not re.match(r"java -version \S", each) and "cxrbench " not in each:
                    yield page, re.sub(r"^OMP_\w+=\S+ ", "", each)


FOUND = sorted(set(others()))


def script(words):
    """The file that `python FILE` or `python -m MODULE` runs, and the words behind it."""
    name = words[2].replace(".", "/") + ".py" if words[1] == "-m" else words[1]
    file = ROOT / name
    return (file if file.exists() else file.with_suffix("") / "__main__.py"), words[3 if words[1] == "-m" else 2 :]


def untyped(command):
    return any(begins in command for begins in NOT_TYPED)


@pytest.mark.parametrize("command", sorted({each for _, each in FOUND if not untyped(each)}))
def test_other_commands_name_what_there_is(command):
    words = shlex.split(command)
    program = Path(words[0]).name
    if program.startswith("python"):
        file, rest = script(words)
        body = file.read_text(encoding="utf-8")
        for option in (word for word in rest if word.startswith("--")):
            assert f'"{option}"' in body, f"{file.name} has no {option}"
    elif program == "tox":
        known = ConfigParser(interpolation=None)
        known.read(ROOT / "tox.ini")
        wanted = words[words.index("-e") + 1].split(",") if "-e" in words else []
        assert {each for each in wanted if each not in ("py", "build")} <= {
            name.removeprefix("testenv:") for name in known.sections()
        }
    elif program == "pytest":
        assert all((ROOT / word).exists() for word in words[1:] if word.startswith("tests"))
    else:
        assert program == "pip", f"{command} is neither checked nor in NOT_TYPED"
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        wanted = re.findall(r"\[([\w,-]+)\]", command)
        assert wanted
        assert {each for some in wanted for each in some.split(",")} <= set(extras)


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted({each for _, each in FOUND if "python" in each and not untyped(each)}))
def test_scripts_start(command):
    """`-h` of those that read arguments: they import what there is, and know the options the page gives them."""
    file, rest = script(shlex.split(command))
    if "argparse" not in file.read_text(encoding="utf-8"):
        pytest.skip("takes no arguments")
    words = ["-m", file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__main__"), "-h"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
    assert all(word in done.stdout for word in rest if word.startswith("--"))


def test_every_reason_has_its_command():
    assert all(any(begins in each for _, each in FOUND) for begins in NOT_TYPED)
