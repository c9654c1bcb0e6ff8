"""Experiments: the shipped ones are read, errors name file, line and key."""

import json
import math
import re
from pathlib import Path

import pytest

from cxrbench.errors import CxrbenchError
from cxrbench.shipped import shipped
from cxrbench.throughput import page_plots as plots
from cxrbench.throughput.configuration import chain
from cxrbench.throughput.experiment import configuration, find_experiment, only, read_experiment
from cxrbench.throughput.recorded import joined, read_result

FILES = ("slava-6x", "slava-6x-short")

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
    assert {file.stem for file in files} == {*FILES, "small-cpu", "steps"}
    for file in files:
        assert read_experiment(file).name == file.stem


def test_shipped_experiments_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_experiment(find_experiment(Path("slava-6x"))).name == "slava-6x"
    with pytest.raises(CxrbenchError, match=r"no speed experiment 'slava-6'.*did you mean 'slava-6x'"):
        find_experiment(Path("slava-6"))
    (tmp_path / "slava-6x").write_text(SMALL)
    assert read_experiment(find_experiment(Path("slava-6x"))).name == "x"  # a file of one's own comes first


def test_the_short_experiment_is_the_same_but_for_what_makes_it_short():
    full, short = (read_experiment(shipped("baselines") / f"throughput/{name}.yaml") for name in FILES)
    assert (full.modes, full.anatomies) == (short.modes, short.anatomies)
    ends = {"rad-slow", "slava-fast", "med-slow", "slava-graph"}
    for name, each in full.configurations.items():
        other = short.configurations[name]
        changes = {"tokens": other.tokens, "batch": other.batch} if name in ends else {}
        assert each.model_copy(update=changes) == other
    assert short.configurations["rad-slow"].tokens * 4 == full.configurations["rad-slow"].tokens
    assert short.images < full.images


def test_a_part_of_an_experiment_keeps_what_it_needs():
    spec = only(read_experiment(shipped("baselines") / "throughput/slava-6x.yaml"), ["matched batch 1"])
    assert ([each.name for each in spec.modes], spec.anatomies) == (["matched batch 1"], ())
    assert set(spec.configurations) == {"slava", "llava-med", "llava-rad"}


def test_parts_of_a_result_are_put_together_again():
    whole = read_result(shipped("baselines") / "throughput/small-cpu.json")
    count = len(whole["modes"])
    first = {**whole, "modes": whole["modes"][:2], "anatomies": [], "sessions": whole["sessions"][:2]}
    second = {**whole, "modes": whole["modes"][2:], "sessions": whole["sessions"][2:]}
    found = joined([first, second])
    assert {key: found[key] for key in ("modes", "anatomies", "sessions")} == {
        key: whole[key] for key in ("modes", "anatomies", "sessions")
    }
    assert [part["rules"] for part in found["parts"]] == [whole["rules"]] * 2
    assert len(found["modes"]) == count
    assert joined([whole]) == whole
    with pytest.raises(CxrbenchError, match="was measured in two of them"):
        joined([whole, whole])
    with pytest.raises(CxrbenchError, match="no parts of one result: experiment small-cpu and other"):
        joined([first, {**second, "name": "other"}])
    with pytest.raises(CxrbenchError, match="no parts of one result: device cpu and H200"):
        joined([first, {**second, "machine": {"gpu": "H200"}}])


def test_what_is_no_result_is_refused(tmp_path):
    file = tmp_path / "r.json"
    for text, message in (("{", "this is no JSON"), ("[]", "no result of"), ('{"kind": "run"}', "no result of")):
        file.write_text(text)
        with pytest.raises(CxrbenchError, match=message):
            read_result(file)
    with pytest.raises(CxrbenchError, match="cannot be read"):
        read_result(tmp_path / "missing.json")


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


def test_of_many_configurations_a_colour_is_a_model_and_a_symbol_a_mode():
    entries = read_result(shipped("baselines") / "throughput/small-cpu.json")["modes"]
    offline = [(entry, arm) for entry in entries if entry["scenario"] == "offline" for arm in entry["arms"]]
    few = [trace.name for trace in plots.batches(offline).data]
    assert few[:2] == ["small-phi (matched sweep)", "small-phi: roofline"]
    many = [({**entry, "mode": f"mode {number}"}, arm) for number in range(4) for entry, arm in offline]
    named = [trace.name for trace in plots.batches(many).data if trace.showlegend is None]
    models = [
        line for name in ("phi", "llama") for line in (f"shape:small-{name}", f"shape:small-{name} in fp32: roofline")
    ]
    assert named == [*models, *(f"mode {number}" for number in range(4))]
