"""Experiments: the shipped ones are read, errors name file, line and key."""

import json
import math
import re
from pathlib import Path

import pytest

from cxrbench.errors import CxrbenchError
from cxrbench.shipped import shipped
from cxrbench.throughput.configuration import chain
from cxrbench.throughput.experiment import configuration, find_experiment, read_experiment

SMALL = """name: x
configurations:
  a: {model: demo, batch: 1}
  b: {model: demo, batch: 8}
modes:
  - {name: m, configurations: [a, b]}
"""


def read(tmp_path, text):
    file = tmp_path / "e.yaml"
    file.write_text(text)
    return read_experiment(file)


def test_the_shipped_experiments_are_read():
    files = sorted((shipped("baselines") / "throughput").glob("*.yaml"))
    assert {file.stem for file in files} >= {"slava-6x", "small-cpu"}
    for file in files:
        assert read_experiment(file).name == file.stem


def test_shipped_experiments_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_experiment(find_experiment(Path("slava-6x"))).name == "slava-6x"
    assert find_experiment(Path("no-such")) == Path("no-such")
    (tmp_path / "slava-6x").write_text(SMALL)
    assert read_experiment(find_experiment(Path("slava-6x"))).name == "x"  # a file of one's own comes first


def test_slava_6x_has_its_five_modes_and_a_chain_of_every_factor():
    spec = read_experiment(shipped("baselines") / "throughput/slava-6x.yaml")
    assert [mode.name for mode in spec.modes] == [
        "as released", "matched batch 1", "matched sweep", "own maximum batch", "natural lengths by trace",
    ]  # fmt: skip
    released = {name: spec.configurations[name] for name in spec.modes[0].configurations}
    assert [(each.dtype, each.batch) for each in released.values()] == [("fp32", 1), ("fp16", 1), ("fp16", 8)]
    each = spec.anatomies[0]
    ends = [configuration(name, spec.configurations[name], Path()) for name in (each.slow, each.fast)]
    assert len(chain(ends[0], ends[1], each.order)) == 7


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch: 8", "bach: 8", r"key 'bach' is not known.*e\.yaml, line 4, key configurations\.b\.bach"),
        ("batch: 8", "batch: 0", r"e\.yaml, line 4, key configurations\.b\.batch"),
        ("[a, b]", "[a, bb]", r"no configuration 'bb'.*mode 'm', key configurations"),
        ("batch: 8", "lengths: trace", r"lengths by trace need a trace.*key configurations\.b"),
        ("batch: 8", "lengths: trace, trace: {cv: 1}", r"either drawn \(mean\) or recorded \(file\)"),
        ("batch: 8", "lengths: natural, load_format: dummy", r"random weights end a text at random"),
        ("modes:", "modes: []\nx:", r"key 'x' is not known.*line 6"),
    ],
)  # fmt: skip
def test_errors_name_file_line_and_key(tmp_path, old, new, message):
    with pytest.raises(CxrbenchError) as error:
        read(tmp_path, SMALL.replace(old, new))
    assert re.search(message, str(error.value), re.DOTALL), str(error.value)


def test_an_order_that_leaves_a_factor_out_is_refused_before_anything_is_measured(tmp_path):
    text = SMALL + "anatomies:\n  - {name: z, slow: a, fast: b, order: [precision]}\n"
    with pytest.raises(CxrbenchError, match="differ in batch, which the order leaves out"):
        read(tmp_path, text)
    with pytest.raises(CxrbenchError, match="nothing is to be measured"):
        read(tmp_path, SMALL[: SMALL.index("modes:")])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: x", "name: x\nrules: {agreeing: 4, warm_most: 3}", "4 blocks cannot agree among 3"),
        ("[a, b]}", "[a, b], scenario: single-stream}", "b has batch 8, and single-stream is one report at a time"),
        ("[a, b]}", "[a], scenario: single-stream, batches: [4]}", "batch 4, and single-stream is one report"),
        ("batch: 8", "batch: max", "its largest batch depends on what else is in memory"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_while_reading(tmp_path, old, new, message):
    text = SMALL.replace(old, new) + "anatomies:\n  - {name: z, slow: a, fast: b, order: [batch]}\n"
    with pytest.raises(CxrbenchError) as error:
        read(tmp_path, text)
    assert message in str(error.value)
    assert "e.yaml" in str(error.value)


def test_the_recorded_experiment_closes_and_says_what_it_is():
    folder = shipped("baselines") / "throughput"
    result = json.loads((folder / "small-cpu.json").read_text())
    spec = read_experiment(folder / "small-cpu.yaml")
    assert "Small models on a CPU" in result["about"]
    assert (result["machine"]["device"], result["name"]) == ("cpu", spec.name)
    assert result["machine"]["processor"]
    sweep, single = (mode.name for mode in spec.modes)
    assert [e["arms"][0]["batch"] for e in result["modes"] if e["mode"] == sweep] == list(spec.modes[0].batches)
    assert [len(e["arms"]) for e in result["modes"] if e["mode"] == single and e["arms"][0]["latency"]] == [2]
    (anatomy,) = result["anatomies"]
    assert anatomy["interleaved"]
    order = list(spec.anatomies[0].order)
    assert [walk["order"] for walk in anatomy["walks"]] == [order, order[::-1]]
    for walk in anatomy["walks"]:
        low, high = walk["closure"]["ci"]
        assert low <= 1 <= high
        product = math.prod(step["ratio"] for step in walk["steps"])
        assert product == pytest.approx(walk["product"]["ratio"])
        assert product / anatomy["direct"]["ratio"] == pytest.approx(walk["closure"]["ratio"])
