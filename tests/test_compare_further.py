"""Subgroups, samples that moved and suites of tasks, on small real runs; each number is made a second way."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from cxrbench.compare import pair_runs
from cxrbench.compare_groups import compare_groups
from cxrbench.compare_moved import moved
from cxrbench.errors import CxrbenchError
from cxrbench.scoring import make_metric
from cxrbench.stats import Table, point
from cxrbench.store import RunFolder
from cxrbench.subgroups import gap_table, groups_of
from cxrbench.summary import Confidence
from cxrbench.tables import read_samples
from cxrbench.types import Sample
from tests.commands import cli  # noqa: F401  (a fixture)
from tests.small_task import write_small

FEW = Confidence(replicates=200)


def make(cli, folder, *, access="open"):
    """Runs `one` (random reports) and `two` (nearest image) of 40 studies; made once and copied."""
    names = ("small.yaml", "one", "two")
    if access not in MADE:
        MADE[access] = TemporaryDirectory(prefix="cxrbench-tests-")
        place = Path(MADE[access].name)
        task = write_small(place, test=40, access=access)
        task.write_text(task.read_text().replace("required: [", "required: [label-f1:phantom, "))
        for name, model in zip(names[1:], ("random-report", "nearest-image"), strict=True):
            words = ("run", "--model", model, "--task", task, "--replicates", 0, "--out", place / name)
            assert cli(*words)[0] == 0
    place = Path(MADE[access].name)
    shutil.copyfile(place / names[0], folder / names[0])
    for name in names[1:]:
        shutil.copytree(place / name, folder / name)
    return RunFolder(folder / "one"), RunFolder(folder / "two")


MADE = {}


@pytest.fixture
def pair(cli, tmp_path):
    return pair_runs(*make(cli, tmp_path), ())


def test_every_sample_is_won_tied_or_lost(cli, pair):
    body = json.loads(cli("compare", "one", "two", "--replicates", 200, "--json")[1])["comparisons"][0]["metrics"]
    tally = body["rouge-l:raw"]["values"]["rouge_l"]["samples"]
    assert sum(tally.values()) == 40
    shared = next(each for each in pair.shared if each.metric.key == "rouge-l:raw")
    assert tally["win"] == int((shared.two.rows[:, 1] > shared.one.rows[:, 1] + 1e-12).sum())
    assert body["length:words"]["values"]["ratio"]["samples"] is None  # no direction: nothing to win
    assert "samples better/equal/worse: " in cli("compare", "one", "two", "--replicates", 200)[1]


def test_groups_are_the_samples_of_the_group_and_nobody_else(pair):
    found = compare_groups(pair, ["sex"], FEW, 1)["groups"]["sex"]["label-f1:phantom"]["micro_f1"]
    sexes = [sample.subgroups["sex"] for sample in pair.samples]
    assert set(found["groups"]) == set(sexes)
    shared = next(each for each in pair.shared if each.metric.key == "label-f1:phantom")
    for name, cell in found["groups"].items():
        inside = np.array([sex == name for sex in sexes])
        values = [point(table.take(inside))["micro_f1"] for table in (shared.one, shared.two)]
        rest = [point(table.take(~inside))["micro_f1"] for table in (shared.one, shared.two)]
        assert [cell["baseline"], cell["candidate"]] == pytest.approx(values)
        assert cell["difference"] == pytest.approx(values[1] - values[0])
        assert cell["gap"]["candidate"]["value"] == pytest.approx(values[1] - rest[1])
        assert cell["ci"][0] <= cell["ci"][1]
        assert cell["n"] == inside.sum()
        assert cell["p"] <= cell["p_holm"] <= 1
    sides = [cell["candidate"] for cell in found["groups"].values()]
    assert found["spread"]["candidate"] == pytest.approx(max(sides) - min(sides))


def test_two_groups_have_opposite_gaps(pair):
    cells = compare_groups(pair, ["sex"], FEW, 1)["groups"]["sex"]["rouge-l:raw"]["rouge_l"]["groups"]
    one, two = cells.values()
    for side in ("baseline", "candidate"):
        assert one["gap"][side]["value"] == pytest.approx(-two["gap"][side]["value"])
        assert one["gap"][side]["ci"] == pytest.approx([-end for end in reversed(two["gap"][side]["ci"])])


def samples(*rows):
    return [Sample(f"s{i}", f"s{i}", f"p{i}", **row) for i, row in enumerate(rows)]


def test_labels_overlap_and_lengths_are_thirds():
    made = samples(
        {"target": "a", "labels": {"x": {"Edema": 1, "Fracture": 1}}},
        {"target": "a b c", "labels": {"x": {"Edema": 0, "Fracture": 1}}},
        {"target": "a b c d e f", "labels": {"x": {"Edema": -1}}},
    )
    labels = groups_of(made, "label")
    assert {name: mask.tolist() for name, mask in labels.items()} == {
        "Edema": [True, False, False],
        "Fracture": [True, True, False],
    }
    lengths = groups_of(made, "length")
    assert list(lengths) == ["1-1 words", "2-3 words", "4-6 words"]
    assert sum(mask.astype(int) for mask in lengths.values()).tolist() == [1, 1, 1]
    assert list(groups_of(samples({"target": "a b"}, {"target": "a b"}), "length")) == ["2-2 words"]


def test_a_column_that_is_not_there_is_refused_with_those_that_are():
    made = samples({"target": "a", "subgroups": {"sex": "F", "race": "unknown"}})
    with pytest.raises(CxrbenchError, match="did you mean 'sex'") as caught:
        groups_of(made, "sexx")
    assert caught.value.fix == "one of: label, length, race, sex"
    with pytest.raises(CxrbenchError, match="nothing is known of 'race'"):
        groups_of(made, "race")
    with pytest.raises(CxrbenchError, match="nothing is known of 'label'"):
        groups_of(made, "label")


def test_a_gap_counts_only_scored_samples():
    metric = make_metric("rouge-l:raw")
    rows = np.array([[1, 0.5], [1, 0.7], [0, 0], [1, 0.1]])
    table = gap_table(Table(rows, metric), np.array([True, True, True, False]))
    assert point(table)["rouge_l"] == pytest.approx(0.6 - 0.1)
    assert table.scored.tolist() == [True, True, False, True]


def test_the_samples_that_moved_most_come_first(pair):
    found = moved(pair, 3)["moved"]
    assert (found["metric"], found["value"]) == ("label-f1:phantom", "micro_f1")
    worse = [row["difference"] for row in found["worse"]]
    better = [row["difference"] for row in found["better"]]
    assert worse == sorted(worse)
    assert better == sorted(better, reverse=True)
    assert all(change < 0 for change in worse)
    assert all(change > 0 for change in better)
    shared = next(each for each in pair.shared if each.metric.key == "label-f1:phantom")
    with np.errstate(invalid="ignore", divide="ignore"):
        change = shared.metric.value(shared.two.rows)["micro_f1"] - shared.metric.value(shared.one.rows)["micro_f1"]
    assert worse[0] == pytest.approx(np.nanmin(change))
    ids = {sample.sample_id for sample in pair.samples}
    assert {row["sample"] for row in found["worse"] + found["better"]} <= ids


def test_a_credentialed_sample_is_named_by_a_hash(cli, tmp_path):
    make(cli, tmp_path, access="credentialed")
    words = ("compare", "one", "two", "--moved", 5, "--by", "sex,label", "--replicates", 200)
    code, out, _ = cli(*words)
    assert code == 0
    shown = out + cli(*words, "--json")[1]
    stored = read_samples(RunFolder(tmp_path / "one").samples_file).samples
    for sample in stored:
        assert sample.sample_id not in shown
        assert sample.patient_id not in shown
    assert "samples that moved most" in out


def test_tables_of_groups_fit_100_columns(cli, pair):
    words = ("compare", "one", "two", "--by", "sex,race,length,label", "--moved", 2, "--replicates", 200)
    code, out, _ = cli(*words, "--min-patients", 1)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 100
    assert "rouge-l:raw rouge_l ↑ by race" in out
    assert "largest minus smallest group" in out
    assert "not told by groups: distinct:exact: no function of sums over samples" in out
    assert "further tables" not in out


def test_of_very_many_tables_of_groups_the_first_are_shown(cli, pair, monkeypatch):
    monkeypatch.setattr("cxrbench.cli.show_compare.TABLES", 3)
    words = ("compare", "one", "two", "--by", "sex,race", "--min-patients", 1, "--replicates", 100)
    code, out, _ = cli(*words)
    assert code == 0
    assert out.count(" by sex\n") + out.count(" by race\n") == 3
    told = next(line for line in out.splitlines() if "further tables" in line)
    whole = json.loads(cli(*words, "--json")[1])["comparisons"][0]["groups"]
    tables = sum(len(values) for metrics in whole.values() for values in metrics.values())
    assert told.startswith(f"{tables - 3} further tables (by ")


def test_small_cells_are_hidden_here_as_in_one_run(cli, pair):
    """What `groups` hides of a run, a comparison of the run with another does not tell."""
    words = ("--by", "sex,race", "--min-patients", 5)
    code, out, err = cli("compare", "one", "two", *words, "--replicates", 200, "--json")
    assert code == 0, err
    both = json.loads(out)["comparisons"][0]
    one = json.loads(cli("groups", "two", *words, "--replicates", 0, "--json")[1])["groups"]
    cells = hidden = 0
    for column, by_metric in both["groups"].items():
        for key, values in by_metric.items():
            for name, body in values.items():
                for group, cell in body["groups"].items():
                    cells += 1
                    hidden += cell["hidden"]
                    assert cell["hidden"] == one[column][key][name]["groups"][group]["hidden"]
                    assert set(cell) == {"hidden"} if cell["hidden"] else cell["clusters"] >= 5
    assert 0 < hidden < cells
    assert both["group_tests"] == cells - hidden
    code, out, _ = cli("compare", "one", "two", *words, "--replicates", 200)
    assert "groups of fewer than 5 patients, or that would tell of one, are hidden" in out
    assert max(map(len, out.splitlines())) <= 100


# Suites


SUITE = """\
name: two tasks
metrics: ["rouge-l:raw rouge_l", "label-f1:phantom micro_f1"]
tasks:
  - {name: forth, baseline: one, candidate: tw*}
  - {name: back, baseline: two, candidate: one}
"""


def test_no_row_of_a_comparison_is_broken_at_100_columns():
    """The longest names that a primary value has; notes about many values are counted, not listed."""
    from cxrbench.cli.show_compare import _cautions, _differences

    def value(note):
        return {
            "baseline": 0.97411111, "candidate": 0.97032222, "difference": -0.00378889, "ci": [-0.0157, -0.0122],
            "p": 0.675, "p_holm": 0.808, "mde": 0.0196, "primary": True, "higher_is_better": True,
            "notes": {"MDE": note} if note else {},
        }  # fmt: skip

    names = ["micro_precision_14", "micro_recall_14", "macro_f1_14", "f1_enlarged_heart"]
    metrics = {
        "chexbert-f1:nicolson-example": {"values": {name: value("only 12 clusters: optimistic") for name in names}},
        "semb-score:chexbert": {"values": {"semb_score": value("only 12 clusters: optimistic")}},
        "meteor:raw": {"values": {"meteor": value("")}},
    }
    made = _differences(metrics, 0.95)
    last = ["semb-score:chexbert semb_score", "meteor:raw meteor"]
    first = [str(cell) for cell in made.columns[0].cells]
    assert first == ["chexbert-f1:nicolson-example", *(f"  {name}" for name in names), *last]
    assert max(map(len, first)) + 70 <= 100
    assert _cautions(metrics) == ["MDE: only 12 clusters: optimistic (5 of 6 values (--json names them))"]


def test_a_suite_is_the_comparisons_of_its_tasks(cli, pair, tmp_path):
    (tmp_path / "suite.yaml").write_text(SUITE)
    code, out, _ = cli("compare", "--suite", "suite.yaml", "--replicates", 200, "--json")
    assert code == 0
    body = json.loads(out)
    forth, back = body["tasks"]
    single = json.loads(cli("compare", "one", "two", "--replicates", 200, "--json")[1])["comparisons"][0]["metrics"]
    for metric in ("rouge-l:raw rouge_l", "label-f1:phantom micro_f1"):
        key, name = metric.split()
        value = forth["values"][metric]
        assert value["ci"] == single[key]["values"][name]["ci"]
        assert value["p"] == single[key]["values"][name]["p"]
        assert value["relative"] == pytest.approx(value["difference"] / value["baseline"])
        assert back["values"][metric]["difference"] == pytest.approx(-value["difference"])
        assert value["p"] <= value["p_holm"] <= 1
    relative = [value["relative"] for task in body["tasks"] for value in task["values"].values()]
    assert body["mean_relative_change"]["value"] == pytest.approx(np.mean(relative))
    low, high = body["mean_relative_change"]["ci"]
    assert low <= body["mean_relative_change"]["value"] <= high
    words = single["length:words"]["values"]["words"]
    assert forth["length_ratio"]["value"] == pytest.approx(words["candidate"] / words["baseline"])
    assert forth["length_ratio"]["value"] * back["length_ratio"]["value"] == pytest.approx(1)
    assert body["tests"] == 4


def test_a_suite_fits_100_columns_and_says_what_is_missing(cli, pair, tmp_path):
    (tmp_path / "suite.yaml").write_text(SUITE.replace("label-f1:phantom micro_f1", "bleu:sacrebleu bleu_4"))
    code, out, err = cli("compare", "--suite", "suite.yaml", "--replicates", 200)
    assert code == 3
    assert "bleu:sacrebleu bleu_4 in forth" in err
    assert max(map(len, out.splitlines())) <= 100
    assert "mean relative change over 2 values" in out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("metrics:", "metric:"), "did you mean 'metrics'"),
        (("rouge-l:raw rouge_l", "rouge-l"), "is not `metric:preset value`"),
        (("tw*", "t*o*"), None),
        (("tw*", "'*'"), "folders match '*', not one"),
        (("tw*", "none"), "0 folders match 'none'"),
        (("rouge-l:raw rouge_l", "length:words ratio"), "has no value 'ratio' that can be better or worse"),
        (("candidate: one}", "candidate: one, by: x}"), "'by' is not known"),
    ],
)
def test_a_wrong_suite_is_one_sentence(cli, pair, tmp_path, change, said):
    (tmp_path / "suite.yaml").write_text(SUITE.replace(*change))
    code, _, err = cli("compare", "--suite", "suite.yaml", "--replicates", 200)
    if said is None:
        assert code == 0
    else:
        assert code == 2
        assert said in err


def test_a_suite_stands_alone(cli):
    code, _, err = cli("compare", "one", "two", "--suite", "suite.yaml", "--by", "sex")
    assert code == 2
    assert "RUN and --by cannot stand beside --suite" in err
    assert "two runs are needed" in cli("compare")[2]


def test_lower_is_better_counts_the_other_way_round():
    from cxrbench.compare import Shared
    from cxrbench.compare_suite import _Relative

    metric = make_metric("radcliq:v1")
    rows = np.ones((4, 6))
    shared = Shared(metric, "s", Table(rows, metric), Table(rows, metric), np.ones(4, bool))
    relative = _Relative(shared, "radcliq")._relative(
        {"radcliq": np.array([2.0, -2.0, 0.0])}, {"radcliq": np.array([1.0, -1.0, 1.0])}
    )[""]
    assert relative[:2].tolist() == [0.5, -0.5]
    assert np.isnan(relative[2])


def test_the_suite_in_the_documentation_can_be_read(tmp_path):
    import re
    from pathlib import Path

    from cxrbench.compare_suite import read_suite

    page = (Path(__file__).resolve().parent.parent / "docs/compare.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    (tmp_path / "suite.yaml").write_text(block)
    assert len(read_suite(tmp_path / "suite.yaml").tasks) == 2
