"""Baseline files: statistics without text, ids that only holders of the data can link, private where the data are."""

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.gate import check
from cxrbench.gate_evidence import (
    aligned,
    evidence_of,
    find_baseline,
    read_baseline,
    shipped_baselines,
    write_baseline,
)
from cxrbench.gate_policy import Check, Policy, find_policy, gates_folder, read_policy
from cxrbench.hashed_ids import hashed_id, reference_key
from cxrbench.metrics.base import comparable
from cxrbench.scoring import make_metric
from cxrbench.spec import find_task
from cxrbench.store import RunFolder
from cxrbench.tables import read_samples
from cxrbench.types import Sample
from tests.commands import cli, small_run  # noqa: F401  (a fixture)
from tests.small_task import write_small


@pytest.fixture
def run(cli, tmp_path):
    return RunFolder(small_run(cli, tmp_path)[0])


@pytest.fixture
def credentialed(cli, tmp_path):
    task = write_small(tmp_path, access="credentialed")
    path = tmp_path / "private"
    words = ("run", "--model", "random-report", "--task", task, "--replicates", 0, "--out", path)
    assert cli(*words)[0] == 0
    return RunFolder(path)


def test_a_baseline_comes_back_as_it_was_written(run, tmp_path):
    made = evidence_of(run)
    write_baseline(made, tmp_path / "b.parquet")
    found = read_baseline(tmp_path / "b.parquet")
    assert (found.ids, found.clusters, found.about) == (made.ids, made.clusters, made.about)
    assert found.columns.keys() == made.columns.keys()
    for key, column in made.columns.items():
        assert np.array_equal(found.columns[key].rows, column.rows)
        assert found.columns[key].signature == column.signature
    assert len(made.ids) == 24
    assert "distinct:exact" not in made.columns  # hashes of texts, and nothing that could be gated


def test_equal_runs_give_equal_files(run, tmp_path):
    for name in ("one", "two"):
        write_baseline(evidence_of(run), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("public", [False, True])
def test_a_baseline_holds_no_text_and_no_id(run, tmp_path, public):
    file = tmp_path / "b.parquet"
    write_baseline(evidence_of(run), file, public=public)
    table = pq.read_table(file)
    seen = json.dumps(table.to_pydict(), default=str) + str(table.schema.metadata)
    for sample in read_samples(run.samples_file).samples:
        assert sample.sample_id not in seen
        assert sample.patient_id not in seen
        assert sample.target not in seen
        assert not any(word in seen for word in sample.target.split() if len(word) > 9)
    assert str(tmp_path) not in seen


def test_the_file_is_its_owners_alone_unless_public(run, tmp_path):
    file = tmp_path / "b.parquet"
    old = os.umask(0)
    try:
        write_baseline(evidence_of(run), file)
    finally:
        os.umask(old)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    write_baseline(evidence_of(run), file, public=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_a_credentialed_baseline_is_refused_by_public_sinks(credentialed, tmp_path):
    made = evidence_of(credentialed)
    file = tmp_path / "b.parquet"
    with pytest.raises(CxrbenchError, match="stays private"):
        write_baseline(made, file, public=True)
    assert not file.exists()
    write_baseline(made, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not read_baseline(file).public


def test_ids_cannot_be_linked_without_the_reference_texts():
    samples = [Sample(f"s{i}", f"s{i}", "p", f"text {i}") for i in range(3)]
    key = reference_key(samples)
    assert reference_key(reversed(samples)) == key
    other = [*samples[:2], replace(samples[2], target="another text")]
    assert reference_key(other) != key
    assert hashed_id(key, "sample", "s1") != hashed_id(reference_key(other), "sample", "s1")
    assert hashed_id(key, "sample", "s1") != hashed_id(key, "cluster", "s1")
    assert len(hashed_id(key, "sample", "s1")) == 24


def test_ids_do_not_depend_on_the_limit(cli, run, tmp_path):
    words = ("run", "--model", "random-report", "--task", write_small(tmp_path), "--replicates", 0)
    assert cli(*words, "--limit", 9, "--out", tmp_path / "part")[0] == 0
    part = evidence_of(RunFolder(tmp_path / "part"))
    assert set(part.ids) < set(evidence_of(run).ids)
    with pytest.raises(CxrbenchError, match="same samples"):
        aligned(evidence_of(run), part)


def test_a_partial_run_is_no_evidence(run):
    file = run.shard_file("predictions")
    lines = file.read_text().splitlines(keepends=True)
    summary = json.loads((run.path / "summary.json").read_text())
    summary["outcomes"]["ok"] -= 4
    (run.path / "summary.json").write_text(json.dumps(summary))
    file.write_text("".join(lines[:-4]))
    with pytest.raises(CxrbenchError, match="4 of 24 samples are not answered yet") as caught:
        evidence_of(run)
    assert caught.value.code == Exit.UNDECIDED


def test_a_run_of_random_weights_is_no_evidence(run):
    manifest = run.manifest()
    identity = {**manifest.identity, "model": {**manifest.identity["model"], "load_format": "dummy"}}
    run.write_manifest(replace(manifest, identity=identity))
    with pytest.raises(CxrbenchError, match="random weights"):
        evidence_of(run)


def test_what_is_no_baseline_is_refused(run, tmp_path):
    text = tmp_path / "x.parquet"
    text.write_text("no")
    for file in (text, run.samples_file):
        with pytest.raises(CxrbenchError, match="no baseline of a gate"):
            read_baseline(file)
    with pytest.raises(CxrbenchError, match="did you mean 'demo-findings'"):
        find_baseline("demo-finding")
    table = pq.read_table(run.samples_file)
    meta = json.dumps({"format": 99})
    pq.write_table(table.replace_schema_metadata({"cxrbench-gate": meta}), text)
    with pytest.raises(CxrbenchError, match="format 99"):
        read_baseline(text)


def test_a_run_folder_is_a_baseline_too(run):
    found, name = find_baseline(str(run.path))
    assert name is None
    assert found.ids == evidence_of(run).ids


# What travels with cxrbench


def test_shipped_baselines_are_of_open_tasks_and_current():
    known = shipped_baselines()
    assert "demo-findings" in known
    for name, file in known.items():
        found = read_baseline(file)
        assert found.public, f"{name}: a baseline of credentialed data may not travel"
        spec = find_task(found.about["task"]["name"])
        assert found.about["task"] == {"name": spec.name, "version": spec.version, "hash": spec.hash}
        for key, column in found.columns.items():
            assert column.signature.endswith(f"|v:{make_metric(key).version}"), f"{name}: make it again"


def test_every_shipped_policy_can_be_read_and_the_default_blocks_on_three_at_most():
    for file in gates_folder().glob("*.yaml"):
        read_policy(file)
    policy, source = find_policy(None, None)
    assert (policy.most, source) == (3, "default")
    assert find_policy(None, "demo-findings")[0].name == "demo-findings"


def test_the_shipped_demo_baseline_is_what_demo_writes_now(cli, tmp_path):
    """12 studies of the real task: their statistics are those of the shipped file."""
    path = tmp_path / "demo"
    metrics = "bleu:raw,rouge-l:raw,label-f1:phantom,length"
    words = ("run", "--model", "demo", "--task", "demo-findings", "--limit", 12, "--metrics", metrics)
    assert cli(*words, "--replicates", 0, "--out", path)[0] == 0
    now, shipped = evidence_of(RunFolder(path)), read_baseline(shipped_baselines()["demo-findings"])
    assert now.about["data"] == shipped.about["data"]
    place = {name: i for i, name in enumerate(shipped.ids)}
    order = [place[name] for name in now.ids]
    assert [shipped.clusters[i] for i in order] == list(now.clusters)
    for key, column in now.columns.items():
        assert comparable(column.signature) == comparable(shipped.columns[key].signature)
        theirs = shipped.columns[key].rows[order]
        # Another processor may round a logit otherwise and choose another word now and then.
        same = np.isclose(column.rows, theirs).all(axis=1)
        assert same.sum() >= 11, f"{key}: regenerate baselines/gates/demo-findings.parquet (baselines/README.md)"


def test_the_default_policy_takes_the_first_three_that_are_there():
    shipped = read_baseline(shipped_baselines()["demo-findings"])
    policy, _ = find_policy(None, None)
    found = check(shipped, shipped, policy, replicates=200)
    named = [each.name for each in found.findings if each.kind == "metric"]
    assert named == [check.name for check in policy.metrics[:3]]
    few = replace(shipped, columns={key: shipped.columns[key] for key in ("rouge-l:raw", "length:words")})
    assert [each.name for each in check(few, few, policy, replicates=200).findings] == [
        "rouge-l:raw rouge_l",
        "output length",
    ]
    none = replace(shipped, columns={"length:words": shipped.columns["length:words"]})
    with pytest.raises(CxrbenchError, match="holds none of the metrics"):
        check(none, none, policy, replicates=200)


# Policies


POLICY = """\
name: mine
metrics:
  - {metric: "rouge-l:raw", value: rouge_l, margin: 0.01}
"""


@pytest.mark.parametrize(
    ("change", "said", "line"),
    [
        (("margin: 0.01", "margin: 0"), "metrics.0.margin", 3),
        (("margin", "margni"), "did you mean 'margin'", 3),
        (("rouge-l:raw", "rouge-l"), "metrics.0.metric", 3),
        (("name: mine", "name: My Policy"), "name", 1),
        (("name: mine", "name: mine\nname: mine"), "stands twice", 2),
        (("metrics:\n", "metrics: []\nother:\n"), "'other' is not known", 3),
        (("name: mine\n", "name: mine\nalpha: 0.9\n"), "alpha", 2),
        (("name: mine\n", "name: mine\nlength: {}\n"), "needs max_ratio or min_ratio", 2),
        (("name: mine\n", "name: mine\nspeed: {min_ratio: -1}\n"), "speed.min_ratio", 2),
        (("0.01}\n", '0.01}\n  - {metric: "rouge-l:raw", value: rouge_l, margin: 0.2}\n'), "named twice", 1),
    ],
)
def test_a_wrong_policy_is_named_with_its_line(tmp_path, change, said, line):
    file = tmp_path / "p.yaml"
    assert change[0] in POLICY
    file.write_text(POLICY.replace(*change))
    with pytest.raises(CxrbenchError) as caught:
        read_policy(file)
    assert said in str(caught.value)
    assert f"line {line}" in caught.value.where


@pytest.mark.parametrize(
    ("text", "said"),
    [("name: mine\n", "names nothing that could block"), ("- a\n", "is a mapping"), ("a: [\n", "not valid YAML")],
)
def test_what_is_no_policy_is_refused(tmp_path, text, said):
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(CxrbenchError, match=said):
        read_policy(file)
    with pytest.raises(CxrbenchError, match="cannot be read: No such file"):
        read_policy(Path(tmp_path / "none.yaml"))


def test_a_policy_reads_as_written(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(POLICY + "length: {max_ratio: 1.5}\nspeed: {min_ratio: 0.8}\nmemory: {max_ratio: 1.1}\n")
    found = read_policy(file)
    assert found == Policy.model_validate(
        {
            "name": "mine",
            "metrics": [Check(metric="rouge-l:raw", value="rouge_l", margin=0.01)],
            "length": {"max_ratio": 1.5},
            "speed": {"min_ratio": 0.8},
            "memory": {"max_ratio": 1.1},
        }
    )
    assert (found.alpha, found.max_failed_share, found.most) == (0.05, 0.02, None)
