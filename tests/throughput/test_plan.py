"""What an experiment would take: counted as the protocol counts, from sizes alone."""

import pytest

from cxrbench.models.shapes import SHAPES
from cxrbench.shipped import shipped
from cxrbench.throughput import roofline as roof
from cxrbench.throughput.configuration import Configuration, Trace
from cxrbench.throughput.experiment import ExperimentSpec, read_experiment
from cxrbench.throughput.facts import GPUS, Gpu
from cxrbench.throughput.plan import EAGER, LOAD, MBU, MFU, plan, planned

H200 = GPUS["H200"]


def sizes(wanted):
    return SHAPES[wanted.model.removeprefix("shape:")]


def test_a_report_takes_what_the_roofline_says_of_slower_figures():
    wanted = Configuration("a", "shape:slava", engine="slots", dtype="bf16", batch=8, load_format="dummy")
    slower = Gpu("slower", MBU * H200.bandwidth, MFU * H200.flops, H200.memory)
    found = planned(wanted, H200, SHAPES["slava"], 64)
    assert found.per_report == pytest.approx(1 / roof.reports_per_second(SHAPES["slava"], slower, 8), rel=0.05)
    assert found.weights + found.kv == pytest.approx(roof.memory_bytes(SHAPES["slava"], 8))


def test_without_graphs_every_step_has_to_be_started():
    wanted = Configuration("a", "shape:slava", dtype="bf16", load_format="dummy")
    assert planned(wanted, H200, SHAPES["slava"], 64).per_report == pytest.approx(100 * EAGER)
    slots = Configuration("a", "shape:slava", "slots", dtype="bf16", load_format="dummy", settings={"graphs": "off"})
    assert planned(slots, H200, SHAPES["slava"], 64).per_report == pytest.approx(100 * EAGER)


def test_a_static_batch_lasts_as_long_as_its_longest_text():
    trace = Trace((10, 30), "written down")
    more = {"dtype": "bf16", "batch": 2, "lengths": "trace", "trace": trace, "load_format": "dummy"}
    static = planned(Configuration("a", "shape:slava", **more), H200, SHAPES["slava"], 64)
    assert static.per_report == pytest.approx(30 * EAGER / 2)
    refilled = planned(Configuration("a", "shape:slava", "slots", **more), H200, SHAPES["slava"], 64)
    assert refilled.per_report < static.per_report


def test_the_largest_batch_is_a_power_of_two_that_fits_alone():
    wanted = Configuration("a", "shape:llava-rad", "slots", dtype="bf16", batch=0, load_format="dummy")
    assert planned(wanted, H200, SHAPES["llava-rad"], 512).batch == 128  # of 148 (throughput.md R.3)
    assert planned(wanted, H200, SHAPES["llava-rad"], 100).batch == 64  # whole batches of the pool


def test_blocks_rounds_and_seconds_are_those_of_the_protocol():
    configurations = {
        name: {"model": "shape:slava", "dtype": "bf16", "batch": batch, "load_format": "dummy"}
        for name, batch in (("one", 1), ("eight", 8))
    }
    spec = ExperimentSpec.model_validate(
        {
            "name": "x", "rules": {"blocks": 3, "seconds": 0, "block_seconds": 1, "agreeing": 2},
            "configurations": configurations, "modes": [{"name": "m", "configurations": ["one", "eight"]}],
        }
    )  # fmt: skip
    (part,) = plan(spec, H200, sizes)
    assert (part.reports, part.rounds) == (8, 4)  # both orders equally often
    one, eight = (each.per_report for each in part.planned)
    warming = (1 + 2 * 1 + 8) * one + (8 + 2 * 8 + 8) * eight
    assert part.seconds == pytest.approx(2 * LOAD + warming + 4 * 8 * (one + eight))
    assert part.bytes_needed == pytest.approx(roof.memory_bytes(SHAPES["slava"], 8))  # one network for both


@pytest.mark.parametrize(("name", "gpu"), [("slava-6x-short", "H100-80"), ("slava-6x", "H200"), ("steps", "H100-80")])
def test_every_mode_of_the_shipped_experiments_fits(name, gpu):
    """Weights and keys and values of each, as laid out; an anatomy that does not fit at once is measured in pairs."""
    parts = plan(read_experiment(shipped("baselines") / f"throughput/{name}.yaml"), GPUS[gpu], sizes)
    assert all(part.fits(GPUS[gpu]) for part in parts if not part.name.startswith("anatomy"))
    if name != "slava-6x":
        assert all(part.seconds < 600 for part in parts if not part.name.startswith("anatomy"))
