"""What a gate writes: JSON, JUnit, Markdown, annotations; within the limits, escaped, numbers only."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from cxrbench.gate import Gate, check, refused
from cxrbench.gate_metrics import Finding
from cxrbench.gate_policy import Check, LengthGuard, MemoryGuard, Policy
from cxrbench.gate_report import as_json, junit, markdown, workflow_commands
from cxrbench.types import Verdict
from tests.gate_runs import ROUGE, evidence

POLICY = Policy(
    name="p", metrics=(Check(metric=ROUGE, value="rouge_l", margin=0.01),), length=LengthGuard(max_ratio=1.2)
)


@pytest.fixture(scope="module")
def failed():
    return check(evidence(1), evidence(2, level=0.25, words=60), POLICY, replicates=500)


def many(count, status):
    made = [Finding("metric", f"m{i}:raw v", status, True, "why", 0.01, 0.5, 0.4, -0.1, -0.2, -0.05, 0.01, 0.02, 0.03)
            for i in range(count)]  # fmt: skip
    about = evidence(1).about
    return Gate(Verdict(status, ("r",)), tuple(made), POLICY, about, about, 100, 0)


def test_json_is_the_verdict_unrounded(failed):
    body = json.loads(json.dumps(as_json(failed)))
    assert body["verdict"] == "fail"
    assert body["exit_code"] == 1
    assert body["task"] == "small"
    assert [each["status"] for each in body["checks"]] == ["fail", "fail"]
    assert body["checks"][0]["change"] == failed.findings[0].change
    assert body["policy"]["metrics"][0]["margin"] == 0.01


def test_junit_has_a_case_per_check(failed):
    root = ET.fromstring(junit(failed))
    (suite,) = root.findall("testsuite")
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ("small", "2", "2")
    case = suite.find("testcase")
    assert case.get("name") == "rouge-l:raw rouge_l"
    message = case.find("failure").get("message")
    assert "margin 0.01, n = 200 in 100 clusters" in message
    named = {each.get("name"): each.get("value") for each in suite.find("properties")}
    assert named["verdict"] == "fail"
    assert named["baseline.run"] == "12345678"
    assert named["signature.rouge-l:raw rouge_l"] == "rouge-l|preset:raw|v:1"


def test_undecided_is_skipped_and_advisory_never_fails():
    gate = many(2, "undecided")
    gate = replace(gate, findings=(gate.findings[0], replace(gate.findings[1], blocking=False, status="fail")))
    first, second = ET.fromstring(junit(gate)).findall("testsuite")
    assert (first.get("skipped"), first.get("failures")) == ("1", "0")
    assert second.get("name") == "small (advisory)"
    assert second.get("failures") == "0"
    assert second.find("testcase/failure") is None


def test_xml_survives_what_xml_cannot_write(failed):
    about = {**failed.candidate, "model": "bad\x00\x1b<&>\ud800"}
    root = ET.fromstring(junit(replace(failed, candidate=about)))
    named = {each.get("name"): each.get("value") for each in root.find("testsuite/properties")}
    assert named["candidate.model"] == "bad??<&>?"


def test_a_refused_gate_says_why_everywhere():
    gate = refused(POLICY, "the runs differ in:\n    data: 1 -> 2", evidence(1), None, 100, 0)
    assert as_json(gate)["exit_code"] == 3
    assert ET.fromstring(junit(gate)).find("testsuite/testcase/skipped") is not None
    assert "data: 1 -&gt; 2" in markdown(gate)
    assert workflow_commands(gate)[0].startswith("::warning title=gate%3A undecided::the runs differ in:%0A    data")


def test_markdown_begins_with_the_verdict_and_folds_the_rest(failed):
    lines = markdown(failed).splitlines()
    assert lines[0] == "## cxrbench gate: FAIL · small"
    assert sum(line.startswith("| ") for line in lines) == 3
    assert lines.index("<details><summary>What was asked</summary>") > 6


def test_markdown_says_memory_in_mebibytes():
    asked = Policy(name="p", memory=MemoryGuard(max_ratio=1.1))
    about = {"speed": {"peak_rss": 544.0 * 2**20}}
    assert "| 544 MiB | 544 MiB |" in markdown(check(evidence(1, **about), evidence(2, **about), asked, replicates=200))


def test_markdown_escapes_tables_and_tags(failed):
    about = {**failed.candidate, "model": "a|b <script>x</script> `c`\nd"}
    made = markdown(replace(failed, candidate=about))
    assert "<script>" not in made
    assert "a\\|b &lt;script&gt;x&lt;/script&gt; 'c' d" in made


def test_a_summary_stays_below_githubs_limit():
    gate = many(3_000, "fail")
    made = markdown(gate)
    assert len(made.encode()) <= 1_000_000
    small = markdown(gate, limit=20_000)
    assert len(small.encode()) <= 20_000
    assert "more checks are left out" in small
    assert small.startswith("## cxrbench gate: FAIL")


@pytest.mark.parametrize(("status", "command"), [("fail", "error"), ("undecided", "warning")])
def test_annotations_stay_within_ten_of_a_kind(status, command):
    lines = workflow_commands(many(25, status))
    shown = [line for line in lines if line.startswith(f"::{command} ")]
    assert len(shown) == 10
    assert "16 more" in shown[-1]
    assert len([line for line in workflow_commands(many(10, status)) if line.startswith(f"::{command} ")]) == 10
    assert lines[-1] == f"::notice title=gate%3A {status}::" + ", ".join(
        f"{25 if each == status else 0} {each}" for each in ("pass", "fail", "undecided")
    )


def test_annotations_escape_what_would_end_them():
    gate = many(1, "fail")
    gate = replace(gate, findings=(replace(gate.findings[0], name="a:b,c\n%", reason="50 %\r\nx", change=None),))
    line = workflow_commands(gate)[0]
    assert line == "::error title=gate%3A a%3Ab%2Cc%0A%25::50 %25%0D%0Ax"


def test_nothing_names_a_sample_or_a_path(failed):
    for made in (junit(failed), markdown(failed), "\n".join(workflow_commands(failed)), json.dumps(as_json(failed))):
        assert "s199" not in made
        assert "p99" not in made
        assert "run 2" not in made
