"""`cxrbench groups`: values and gaps of one run, beside values computed by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cxrbench.metrics.base import SKIPPED
from cxrbench.stats import Table, point
from tests.commands import cli, small_run  # noqa: F401  (a fixture)
from tests.small_task import write_small

MADE = []


@pytest.fixture
def found(cli, tmp_path_factory):
    """A scored run and its groups; made once, the tests only read it."""
    if MADE:
        return MADE[0]
    run, _ = small_run(cli, tmp_path_factory.mktemp("groups"))
    code, out, err = cli("groups", run, "--by", "sex,length", "--min-patients", 1, "--replicates", 200, "--json")
    assert code == 0, err
    MADE.append((run, json.loads(out)))
    return MADE[0]


def test_values_and_gaps_are_those_of_the_rows(found):
    from cxrbench.scores import load_scores
    from cxrbench.store import RunFolder
    from cxrbench.tables import read_samples

    folder, summary = found
    run = RunFolder(folder)
    samples = read_samples(run.samples_file).chosen
    for scored in load_scores(run, ["bleu:raw", "rouge-l:raw"]):
        (name,) = [n for n, value in scored.metric.values.items() if value.primary]
        table = Table(scored.rows(), scored.metric)
        cells = summary["groups"]["sex"][scored.metric.key][name]["groups"]
        for group, cell in cells.items():
            mask = np.array([sample.subgroups["sex"] == group for sample in samples])
            inside, outside = (point(table.take(each))[name] for each in (mask, ~mask))
            assert cell["value"] == pytest.approx(inside)
            assert cell["gap"] == pytest.approx(inside - outside)
            assert cell["ci"][0] <= cell["value"] <= cell["ci"][1]
            assert cell["n"] == mask.sum()


def test_a_hidden_cell_is_never_alone(cli, tmp_path, found):
    run, _ = found
    code, out, err = cli("groups", run, "--by", "sex", "--min-patients", 12, "--replicates", 0, "--json")
    assert code == 0, err
    cells = json.loads(out)["groups"]["sex"]["bleu:raw"]["bleu_4"]["groups"]
    hidden = [name for name, cell in cells.items() if cell["hidden"]]
    assert len(hidden) in (0, 2)
    assert all(set(cells[name]) == {"hidden"} for name in hidden)


def test_a_cell_is_as_small_as_what_was_scored_in_it(found, monkeypatch):
    """Of a group of many patients a metric may have scored few."""
    from cxrbench import group_values
    from cxrbench.scores import load_scores
    from cxrbench.stats import Table
    from cxrbench.store import RunFolder
    from cxrbench.summary import Confidence

    (scored,) = load_scores(RunFolder(found[0]), ["rouge-l:raw"])
    n = len(scored.sample_ids)
    rows, status = np.array(scored.statistics.rows), np.array(scored.statistics.status)
    rows[3 : n - 3], status[3 : n - 3] = 0, SKIPPED
    few = replace(scored, statistics=replace(scored.statistics, rows=rows, status=status))
    assert Table(few.rows(), few.metric).scored.sum() == 6
    groups = {"all": np.ones(n, bool)}
    patients = [str(number) for number in range(n)]
    monkeypatch.setattr(group_values, "clusters_of", lambda samples: patients)

    def cells(scored, groups):
        found = group_values.group_values([], [scored], {"c": groups}, Confidence(replicates=0))
        return found["c"]["rouge-l:raw"]["rouge_l"]["groups"]

    assert cells(few, groups) == {"all": {"hidden": True}}
    # All but five: the total and the group would tell of the five.
    assert cells(scored, {"most": np.arange(n) >= 5}) == {"most": {"hidden": True}}
    half = cells(scored, {"half": np.arange(n) >= 12})["half"]
    assert half["n"] == n - 12
    assert half["gap"] is not None


def test_it_reads_well_and_says_what_a_gap_is(cli, found, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, err = cli("groups", found[0], "--by", "abnormal", "--metrics", "bleu:raw", "--replicates", 200)
    assert code == 0, err
    assert "gap = the group minus all other samples" in out
    assert max(map(len, out.splitlines())) <= 100
    code, out, _ = cli("groups", found[0], "--by", "abnormal", "--metrics", "bleu:raw", "--against", "no")
    assert "minus the group no" in out


def test_a_gap_that_is_not_told_says_why():
    """Against a hidden group there is none, nor where too few are left outside."""
    from cxrbench.cli.layout import console
    from cxrbench.cli.show_groups import TABLES, show_groups

    cell = {"hidden": False, "n": 30, "clusters": 20, "value": 0.5, "ci": None, "gap": None, "gap_ci": None}
    body = {"higher_is_better": True, "groups": {"a": cell, "b": {"hidden": True}}, "spread": None}
    about = {"fewest": 10, "ci_level": None, "left_out": {"m:p": "why"}}

    def shown(against, values):
        out = console()
        with out.capture() as told:
            show_groups(out, {**about, "against": against, "groups": {"c": {"k:p": values}}}, "patients")
        return told.get()

    assert "no gap: the group b is hidden" in shown({"c": "b"}, {"v": body})
    said = " ".join(shown({}, {"v": body}).split())
    assert "no gap of a: what is left to hold it against has fewer than 10 patients, or no such number" in said
    undefined = {**body, "groups": {"a": {**cell, "value": None}}}
    assert "no gap" not in shown({}, {"v": undefined})
    assert "no gap" not in shown({"c": "a"}, {"v": body})
    many = shown({}, {f"v{number}": body for number in range(TABLES + 3)})
    assert many.count("by c") == TABLES + 1
    assert "3 further tables (by c 3) with --json" in many
    assert "not told by groups: m:p: why" in many


def test_hidden_groups_make_no_table(cli, found, monkeypatch):
    """One line names what has no group to show; a table of hidden cells says nothing."""
    monkeypatch.setenv("COLUMNS", "100")
    code, out, err = cli("groups", found[0], "--by", "sex", "--min-patients", 100, "--replicates", 0)
    assert code == 0, err
    assert "by sex, no group to show (one is shown from 100 patients on, where it tells of no smaller one)" in out
    assert "bleu:raw bleu_4" in out
    assert out.count("distinct:exact") == 1
    assert "not told by groups: distinct:exact: no function of sums over samples" in out
    assert "patients  value" not in out
    assert "hidden: fewer than 100 patients" in out
    assert max(map(len, out.splitlines())) <= 100


def test_quality_by_verbosity(cli, found):
    """Bands of words written per word of the reference; the ratio in a band is within it."""
    code, out, err = cli("groups", found[0], "--by", "verbosity", "--min-patients", 1, "--replicates", 0, "--json")
    assert code == 0, err
    by_metric = json.loads(out)["groups"]["verbosity"]
    ratios = by_metric["length:words"]["ratio"]["groups"]
    assert sum(cell["n"] for cell in ratios.values()) == 24
    ends = {"under 0.5": (0, 0.5), "0.5 to 0.8": (0.5, 0.8), "0.8 to 1.25": (0.8, 1.25), "1.25 to 2": (1.25, 2)}
    ends |= {"2 and over": (2, 1e9)}
    assert len(ratios) > 1
    assert list(ratios) == [name for name in ends if name in ratios]
    for name, cell in ratios.items():
        assert ends[name][0] <= cell["value"] <= ends[name][1]
    assert {name: cell["n"] for name, cell in by_metric["bleu:raw"]["bleu_4"]["groups"].items()} == {
        name: cell["n"] for name, cell in ratios.items()
    }


GROUPS = """groups:
  by:
    sex: {values: {female: [F], male: [M]}}
    age: {cuts: [50]}
    verbosity: {cuts: [1]}
  against: {sex: male}
"""


def test_a_task_with_groups_tells_them_when_it_is_scored(cli, tmp_path, monkeypatch):
    """`run` prints the gaps, summary.json and `groups` without --by have the same; an old run gets them by `run`."""
    monkeypatch.setenv("COLUMNS", "100")
    run, task = tmp_path / "runs" / "small", write_small(tmp_path, test=80)
    words = ("run", "--model", "random-report", "--task", task, "--metrics", "bleu:raw,length", "--out", run)
    code, out, err = cli(*words, "--replicates", 0)
    assert code == 0, err
    assert "groups" not in json.loads((run / "summary.json").read_text())
    predictions = [file.read_bytes() for file in sorted(run.glob("predictions/*"))]
    task.write_text(task.read_text().replace("citation:", GROUPS + "citation:"))
    code, out, err = cli(*words, "--replicates", 200)
    assert code == 0, err
    assert [file.read_bytes() for file in sorted(run.glob("predictions/*"))] == predictions
    assert max(map(len, out.splitlines())) <= 100
    assert "bleu:raw bleu_4 ↑ by sex" in out
    assert "gap = the group minus the group male (sex), all other samples" in out
    kept = json.loads((run / "summary.json").read_text())["groups"]
    code, out, err = cli("groups", run, "--replicates", 200, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["groups"] == kept["groups"]
    assert list(kept["groups"]) == ["sex", "age", "verbosity"]
    cells = kept["groups"]["sex"]["length:words"]["ratio"]["groups"]
    shown = [cell for cell in cells.values() if not cell["hidden"]]
    assert len(shown) == 2
    assert all(cell["clusters"] >= 10 for cell in shown)
    assert cells["male"]["gap"] is None
    assert cells["female"]["gap"] == pytest.approx(cells["female"]["value"] - cells["male"]["value"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--by", "colour"), "no column 'colour'"),
        (("--by", "variant", "--against", "original"), "a task with variants (demo-robustness, say), or one of:"),
        (("--by", "sex", "--metrics", "distinct"), "(distinct:exact: no function of sums over samples)"),
        (("--by", "sex", "--against", "X"), "no group 'X'"),
        (("--by", ","), "no column is named"),
        ((), "the task groups by none"),
        (("--by", "sex", "--metrics", "blue"), "blue"),
        (("--by", "sex", "--replicates", "5"), "cannot carry an interval"),
    ],
)
def test_what_cannot_be_told_is_named(cli, found, words, said):
    code, _, err = cli("groups", found[0], *words)
    assert code != 0
    assert said in err
