"""`cxrbench throughput` where nothing is measured: a recorded result again, a plan, the roofline."""

import json

import pytest

from cxrbench.shipped import shipped
from cxrbench.throughput.page import page
from tests.commands import cli  # noqa: F401  (a fixture)

RECORDED = shipped("baselines") / "throughput" / "small-cpu.json"


def test_an_interval_too_wide_to_tell_decides_nothing(cli, tmp_path):
    result = json.loads(RECORDED.read_text())
    code, out, err = cli("throughput", "--from", RECORDED)
    assert (code, err) == (0, "")
    assert "decides nothing" not in out
    result["anatomies"][0]["walks"][0]["closure"] |= {"ratio": 1.5, "ci": [0.5, 4.5], "has_one": True}
    result["anatomies"][0]["walks"][1]["closure"] |= {"ratio": 1.5, "ci": [1.1, 2.0], "has_one": False}
    (tmp_path / "wide.json").write_text(json.dumps(result))
    code, out, err = cli("throughput", "--from", "wide.json")
    assert (code, err) == (0, "")
    stated = next(line for line in out.splitlines() if "[0.500, 4.500]" in line)
    assert stated.endswith("decides nothing: 267 % wide")
    assert next(line for line in out.splitlines() if "[1.100, 2.000]" in line).endswith("NO")
    assert max(map(len, out.splitlines())) <= 100
    made = page(result)
    assert "contains 1, decides nothing: 267 % wide" in made
    assert "does not contain 1" in made


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--from", RECORDED, "--blocks", 2, "--task", "demo-findings"), "--task, --blocks would be passed over"),
        (("--from", RECORDED, "--plan", "H200"), "--plan would be passed over"),
        (("--from", RECORDED, "--energy"), "--energy would be passed over"),
        (("--paper", "-o", "paper.html"), "--output would be passed over"),
        (("--experiment", "slava-6x", "--plan", "H200", "-o", "x.json", "--json"), "--output, --json would be passed"),
    ],
)
def test_options_of_a_measurement_are_refused_where_nothing_is_measured(cli, tmp_path, words, told):
    code, out, err = cli("throughput", *words)
    assert (code, out) == (2, "")
    assert told in err
    assert not list(tmp_path.glob("*.html"))


def test_what_belongs_to_a_plan_may_stand_beside_it(cli):
    code, out, err = cli("throughput", "--experiment", "slava-6x", "--plan", "H200", "--blocks", 4, "--energy")
    assert (code, err) == (0, "")
    assert "nothing is measured" in out
