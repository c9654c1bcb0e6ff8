"""A run that was scored with a metric which is not here any more can still be gated, exported and told by groups."""

import csv
import logging

import numpy as np
import pytest

from cxrbench import registry
from cxrbench.metrics.base import Metric, Statistics, Value, ratio
from tests.commands import cli, small_run  # noqa: F401  (a fixture)

POLICY = 'name: one\nmetrics: [{{metric: "{}", value: {}, margin: 0.5}}]\n'


class SaysNormal(Metric):
    """Share of reports that say "normal": what a plug-in of somebody's brings."""

    name = "says-normal"
    presets = {"word": "the word normal"}
    default_preset = "word"
    values = {"recall": Value(True, (0.0, 1.0), primary=True)}

    def statistics(self, pairs, features, context):
        return Statistics.scored(np.array([(1, "normal" in said.lower()) for said in pairs.predictions], float))

    def value(self, sums):
        return {"recall": ratio(sums[..., 1], sums[..., 0])}


@pytest.fixture
def run(cli, tmp_path, monkeypatch):
    """A run scored with the plug-in and with ROUGE-L, and a baseline of it; the plug-in is gone afterwards."""
    real = registry._plug_ins

    def with_it(kind, path):
        mine = (("says-normal", f"{__name__}:SaysNormal", "my-package"),) if kind == "metrics" else ()
        return (*real(kind, path), *mine)

    with monkeypatch.context() as patched:
        patched.setattr(registry, "_plug_ins", with_it)
        made, _ = small_run(cli, tmp_path, "--metrics", "says-normal,rouge-l:raw")
        assert cli("gate", "baseline", made, "-o", "b.parquet")[0] == 0
    return made


def test_what_does_not_need_it_goes_on_and_names_it_and_its_run(cli, tmp_path, run, caplog):
    (tmp_path / "other.yaml").write_text(POLICY.format("rouge-l:raw", "rouge_l"))
    for words in (
        ("gate", "check", run, "--baseline", "b.parquet", "--policy", "other.yaml", "--replicates", 200),
        ("export", "run", run, "-o", "t.csv"),
        ("groups", run, "--by", "sex", "--min-patients", 1, "--replicates", 0),
    ):
        caplog.clear()
        code, _, err = cli(*words)
        assert code == 0, err
        notes = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert any(f"{run} was scored with says-normal:word, which is left out" in note for note in notes)
    with (tmp_path / "t.csv").open() as file:
        columns = next(csv.reader(file))
    assert "rouge-l:raw/rouge_l" in columns
    assert not [name for name in columns if "says-normal" in name]


def test_where_it_is_needed_the_run_that_needs_it_is_named(cli, tmp_path, run):
    (tmp_path / "this.yaml").write_text(POLICY.format("says-normal:word", "recall"))
    code, _, err = cli("gate", "check", run, "--baseline", "b.parquet", "--policy", "this.yaml")
    assert code == 2
    assert "the policy names says-normal:word, which is not here" in err
    assert "b.parquet" in err
    for name in ("says-normal:word", "says-normal"):
        code, _, err = cli("groups", run, "--by", "sex", "--metrics", name)
        assert code == 2
        assert f"the run was scored with {name}, which is not here" in err
        assert str(run) in err
