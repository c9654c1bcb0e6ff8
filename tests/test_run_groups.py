"""`cxrbench groups`: values and gaps of one run, beside values computed by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cxrbench.metrics.base import SKIPPED
from cxrbench.stats import Table, point
from tests.commands import cli, small_run  # noqa: F401  (a fixture)


@pytest.fixture
def found(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    code, out, err = cli("groups", run, "--by", "sex,length", "--min-patients", 1, "--replicates", 200, "--json")
    assert code == 0, err
    return run, json.loads(out)


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


def test_what_a_gap_and_a_total_tell_of_the_hidden_is_of_enough_patients():
    """Two small cells hide each other by name only: the shown group and the total tell what both are together."""
    from cxrbench.run_groups import _hidden

    def masks(**sizes):
        starts = np.cumsum([0, *sizes.values()])
        places = np.arange(starts[-1])
        return {
            name: (places >= start) & (places < start + size)
            for (name, size), start in zip(sizes.items(), starts[:-1], strict=True)
        }

    def hidden(fewest, **sizes):
        groups = masks(**sizes)
        return _hidden(groups, [str(n) for n in range(sum(sizes.values()))], fewest)

    assert hidden(10, a=100, b=2, c=3) == {"a", "b", "c"}
    assert hidden(10, a=100, b=6, c=7) == {"b", "c"}
    assert hidden(10, a=100, b=50, c=4) == {"b", "c"}
    assert hidden(10, a=100, b=50, c=0) == set()
    assert hidden(10, a=100, b=50) == set()


def test_a_cell_is_as_small_as_what_was_scored_in_it(cli, found):
    """Of a group of many patients a metric may have scored few."""
    from cxrbench import run_groups
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
    cells = run_groups._values(few, groups, 10, patients, Confidence(replicates=0), None)["rouge_l"]["groups"]
    assert cells == {"all": {"hidden": True}}
    # All but five: the group may be shown, what it is held against may not.
    groups = {"most": np.arange(n) >= 5}
    cells = run_groups._values(scored, groups, 10, patients, Confidence(replicates=0), None)["rouge_l"]["groups"]
    assert cells["most"]["n"] == n - 5
    assert cells["most"]["gap"] is None


def test_it_reads_well_and_says_what_a_gap_is(cli, found, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, err = cli("groups", found[0], "--by", "abnormal", "--metrics", "bleu:raw", "--replicates", 200)
    assert code == 0, err
    assert "gap = the group minus all other samples" in out
    assert max(map(len, out.splitlines())) <= 100
    code, out, _ = cli("groups", found[0], "--by", "abnormal", "--metrics", "bleu:raw", "--against", "no")
    assert "minus the group no" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--by", "colour"), "no column 'colour'"),
        (("--by", "sex", "--against", "X"), "no group 'X'"),
        (("--by", ","), "no column is named"),
        (("--by", "sex", "--metrics", "blue"), "blue"),
        (("--by", "sex", "--replicates", "5"), "cannot carry an interval"),
    ],
)
def test_what_cannot_be_told_is_named(cli, found, words, said):
    code, _, err = cli("groups", found[0], *words)
    assert code != 0
    assert said in err
