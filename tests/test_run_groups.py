"""`cxrbench groups`: values and gaps of one run, beside values computed by hand."""

import json

import numpy as np
import pytest

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
