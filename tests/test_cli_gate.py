"""`cxrbench gate` as it is typed, and the composite action as a workflow runs it."""

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from tests.commands import cli  # noqa: F401  (a fixture)
from tests.small_task import write_small

ROOT = Path(__file__).resolve().parent.parent
ACTION = ROOT / ".github/actions/cxrbench-gate/action.yml"
POLICY = """\
name: strict
metrics:
  - {metric: "rouge-l:raw", value: rouge_l, margin: 0.05}
length: {max_ratio: 1.25}
"""


def run_model(cli, folder, model, name, *more):
    task = write_small(folder, test=60)
    words = ("run", "--model", model, "--task", task, "--replicates", 0, "--out", folder / name)
    assert cli(*words, *more)[0] == 0
    return folder / name


@pytest.fixture
def world(cli, tmp_path):
    """Runs `good` (random reports), `bad` (cut to one word), `long` (written twice); a baseline file and a policy."""
    good = run_model(cli, tmp_path, "random-report", "good")
    rows = [json.loads(line) for line in (good / "predictions/0000.jsonl").read_text().splitlines()]
    made = [{"sample_id": row["sample_id"], "prediction": row["text"].split()[0]} for row in rows]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    long = [{"sample_id": row["sample_id"], "prediction": f"{row['text']} {row['text']}"} for row in rows]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in long))
    run_model(cli, tmp_path, f"replay:{tmp_path / 'bad.jsonl'}", "bad")
    run_model(cli, tmp_path, f"replay:{tmp_path / 'long.jsonl'}", "long")
    (tmp_path / "policy.yaml").write_text(POLICY)
    assert cli("gate", "baseline", good, "-o", tmp_path / "b.parquet")[0] == 0
    return tmp_path


def check(cli, run, *more):
    words = ("gate", "check", run, "--baseline", "b.parquet", "--policy", "policy.yaml", "--replicates", 500)
    return cli(*words, *more)


def test_the_exit_code_is_the_verdict(cli, world):
    code, out, _ = check(cli, "good")
    assert code == 0
    assert out.startswith("PASS · small · policy strict (policy.yaml)")
    assert max(map(len, out.splitlines())) <= 100
    code, out, _ = check(cli, "bad")
    assert code == 1
    assert out.startswith("FAIL")
    (world / "policy.yaml").write_text(POLICY.replace("0.05", "0.000001"))
    again = run_model(cli, world, "random-report", "other", "--seed", 5)
    code, out, _ = check(cli, again)
    assert code in (1, 3)  # a random report may be worse beyond doubt, but cannot pass a margin of nothing
    assert out.startswith(("UNDECIDED", "FAIL"))


def test_longer_reports_are_caught(cli, world):
    (world / "policy.yaml").write_text("name: length-only\nlength: {max_ratio: 1.25}\n")
    code, out, _ = check(cli, "long")
    assert code == 1
    assert "too long" in out


def test_json_and_files(cli, world):
    code, out, _ = check(cli, "bad", "--json", "--junit", "ci/gate.xml", "--markdown", "ci/gate.md")
    assert code == 1
    body = json.loads(out)
    assert (body["verdict"], body["exit_code"], body["policy_source"]) == ("fail", 1, "policy.yaml")
    suite = ET.parse(world / "ci/gate.xml").getroot().find("testsuite")
    assert suite.get("failures") == "1"
    assert (world / "ci/gate.md").read_text().startswith("## cxrbench gate: FAIL · small")


def test_annotations_are_printed_when_asked_for(cli, world):
    assert "::error" not in check(cli, "bad")[1]
    assert "::error title=gate%3A rouge-l%3Araw rouge_l::" in check(cli, "bad", "--annotations")[1]


def test_runs_that_differ_are_undecided_with_what_differs_and_leave_their_report(cli, world):
    part = run_model(cli, world, "random-report", "part", "--limit", 9)
    code, out, err = check(cli, part, "--junit", "gate.xml")
    assert code == 3
    assert out.startswith("UNDECIDED")
    assert "limit: none -> 9" in err
    assert "cannot be compared" not in out
    assert ET.parse(world / "gate.xml").getroot().find("testsuite/testcase/skipped") is not None


def test_wrong_calls_are_one_sentence(cli, world):
    for words, said in (
        (("check", "none", "--baseline", "b.parquet"), "there is no run here"),
        (("check", "good", "--baseline", "none"), "there is no baseline 'none'"),
        (("check", "good", "--baseline", "policy.yaml"), "no baseline of a gate"),
        (("check", "good", "--baseline", "b.parquet", "--policy", "none.yaml"), "a gate policy cannot be read"),
        (("plan", "--task", "demo-findings", "--baseline", "b.parquet"), "the baseline is of another task"),
    ):
        code, _, err = cli("gate", *words)
        assert code in (2, 3)
        assert said in err


def test_plan_tells_before_the_run(cli, world):
    words = ("gate", "plan", "--task", "small.yaml", "--baseline", "b.parquet", "--policy", "policy.yaml")
    code, out, _ = cli(*words)
    assert code == 0
    assert out.count("assumed") == 3
    assert max(map(len, out.splitlines())) <= 100
    code, out, _ = cli(*words, "--pilot", "bad", "--json")
    assert code == 0
    (plan,) = json.loads(out)["plans"]
    assert plan["noise"] == "measured on the pilot"
    assert sum(plan["unchanged"].values()) == pytest.approx(1)


def test_a_credentialed_baseline_is_private_and_its_reports_hold_numbers_only(cli, tmp_path):
    task = write_small(tmp_path, access="credentialed")
    for name, model in (("a", "always-normal"), ("b", "random-report")):
        words = ("run", "--model", model, "--task", task, "--replicates", 0, "--out", tmp_path / name)
        assert cli(*words)[0] == 0
    code, _, err = cli("gate", "baseline", "a", "-o", "b.parquet", "--public")
    assert code == 2
    assert "stays private" in err
    assert "keep it where the data are kept" in cli("gate", "baseline", "a", "-o", "b.parquet")[1]
    words = ("gate", "check", "b", "--baseline", "b.parquet", "--replicates", 200, "--annotations")
    _, out, err = cli(*words, "--junit", "g.xml", "--markdown", "g.md")
    from cxrbench.store import RunFolder
    from cxrbench.tables import read_samples

    run = RunFolder(tmp_path / "b")
    written = out + err + (tmp_path / "g.xml").read_text() + (tmp_path / "g.md").read_text()
    texts = [row.text for row in run.predictions().values()]
    for sample in read_samples(run.samples_file).samples:
        assert sample.sample_id not in written
        assert sample.patient_id not in written
        texts.append(sample.target)
    words = {word for text in texts for word in text.split() if len(word) > 8}
    assert not {word for word in words if word in written}


# The composite action


@pytest.fixture
def github(world, monkeypatch):
    """Run the action's steps as a runner does: expressions filled in, outputs and summaries in files."""
    action = yaml.safe_load(ACTION.read_text())
    bin_folder = world / "bin"
    bin_folder.mkdir()
    program = bin_folder / "cxrbench"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cxrbench "$@"\n')
    program.chmod(0o755)

    def play(**inputs):
        given = {name: str(body.get("default", "")) for name, body in action["inputs"].items()}
        given |= {name.replace("_", "-"): str(value) for name, value in inputs.items()}
        missing = [name for name, body in action["inputs"].items() if body.get("required") and not given[name]]
        assert not missing
        steps: dict[str, dict[str, str]] = {}
        summary = world / "summary.md"
        summary.write_text("")
        log, code = "", 0

        def fill(text):
            def value(match):
                parts = match[1].strip().split(".")
                if parts[0] == "inputs":
                    return given[parts[1]]
                assert (parts[0], parts[2]) == ("steps", "outputs")
                return steps[parts[1]].get(parts[3], "")

            return re.sub(r"\$\{\{(.*?)\}\}", value, text)

        for number, step in enumerate(action["runs"]["steps"]):
            assert step["shell"] == "bash"
            assert "${{" not in step["run"], "an input could end the script it is pasted into"
            output = world / f"output{number}"
            output.write_text("")
            env = {
                **os.environ,
                **{name: fill(value) for name, value in step.get("env", {}).items()},
                "PATH": f"{bin_folder}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "RUNNER_TEMP": str(world),
                "GITHUB_OUTPUT": str(output),
                "GITHUB_STEP_SUMMARY": str(summary),
            }
            script = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
            done = subprocess.run(script, env=env, cwd=world, capture_output=True, text=True)
            log += done.stdout + done.stderr
            code = done.returncode
            if "id" in step:
                steps[step["id"]] = dict(line.split("=", 1) for line in output.read_text().splitlines())
            if code:
                break
        outputs = {name: fill(body["value"]) for name, body in action["outputs"].items()}
        return code, outputs, summary.read_text(), log

    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    return play


def test_the_action_passes_and_fails_with_the_gate(github, world):
    code, outputs, summary, log = github(run="good", baseline="b.parquet", policy="policy.yaml")
    assert (code, outputs["verdict"], outputs["exit-code"]) == (0, "pass", "0")
    assert summary.startswith("## cxrbench gate: PASS")
    code, outputs, summary, log = github(run="bad", baseline="b.parquet", policy="policy.yaml", junit="ci.xml")
    assert (code, outputs["verdict"], outputs["junit"]) == (1, "fail", "ci.xml")
    assert summary.startswith("## cxrbench gate: FAIL")
    assert "::error title=gate" in log
    assert (world / "ci.xml").exists()


def test_the_action_on_an_undecided_gate(cli, github, world):
    run_model(cli, world, "random-report", "part", "--limit", 9)
    asked = {"run": "part", "baseline": "b.parquet", "policy": "policy.yaml"}
    code, outputs, summary, _ = github(**asked)
    assert (code, outputs["verdict"]) == (3, "undecided")
    assert summary.startswith("## cxrbench gate: UNDECIDED")
    assert github(**asked, on_undecided="pass")[0] == 0
    assert github(**asked, on_undecided="maybe")[0] == 2


def test_the_action_tells_a_wrong_call_from_a_verdict(github):
    code, outputs, summary, log = github(run="none", baseline="b.parquet")
    assert (code, outputs["verdict"], summary) == (2, "", "")
    assert "there is no run here" in log


def test_an_earlier_gates_file_does_not_stand_for_a_call_that_failed(github, world):
    old = world / "cxrbench-gate.xml"
    old.write_text("<testsuites/>")
    code, _, _, _ = github(run="none", baseline="b.parquet")
    assert code == 2
    assert not old.exists()


def test_an_input_cannot_become_a_command(github, world):
    code, _, _, _ = github(run="good; touch evil", baseline="b.parquet")
    assert code == 2
    assert not (world / "evil").exists()


def test_the_workflow_in_the_documentation_uses_the_action_as_it_is():
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/gate.md").read_text(), re.S)
    workflows = [body for block in blocks if "jobs" in (body := yaml.safe_load(block))]
    assert workflows
    known = yaml.safe_load(ACTION.read_text())["inputs"]
    used = [
        step
        for workflow in workflows
        for job in workflow["jobs"].values()
        for step in job["steps"]
        if "cxrbench-gate" in step.get("uses", "")
    ]
    assert used
    for step in used:
        assert set(step["with"]) <= set(known)
        assert {name for name, body in known.items() if body.get("required")} <= set(step["with"])


def test_policies_in_the_documentation_can_be_read(tmp_path):
    from cxrbench.gate_policy import read_policy

    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/gate.md").read_text(), re.S)
    policies = [block for block in blocks if "jobs" not in yaml.safe_load(block)]
    assert policies
    for number, block in enumerate(policies):
        (tmp_path / f"{number}.yaml").write_text(block)
        read_policy(tmp_path / f"{number}.yaml")
