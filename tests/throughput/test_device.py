"""What a device tells around and within blocks: energy, company, slowdowns, memory. Drivers here are made up."""

import threading
from dataclasses import replace

import pytest

from cxrbench.errors import CxrbenchError
from cxrbench.throughput.block import Block, Expected, problems
from cxrbench.throughput.device_state import DeviceState, During, NoDevice, Nvml, shared
from cxrbench.throughput.energy import cost_per_report, energy_entry, joules_per_report
from cxrbench.throughput.figures import device
from cxrbench.throughput.protocol import Rules, measure
from cxrbench.throughput.sampler import Sampler
from cxrbench.types import OK, BatchTiming, Prediction
from tests.throughput.simulated import arm


def window(seconds, before, after, reports=100):
    states = [DeviceState(joules=each) for each in (before, after)]
    return Block("a", 0, reports, 1, seconds, seconds, {}, 0, 0, 0, 0, 0, before=states[0], after=states[1])


def test_energy_per_report_and_its_cost():
    blocks = [window(20, 1000, 9000), window(20, 9000, 15000)]
    assert joules_per_report(blocks) == 70
    assert energy_entry(blocks)["mean_watts"] == 350
    assert cost_per_report(10, 3.6) == pytest.approx(1e-4)
    with pytest.raises(CxrbenchError, match="cannot cost 0"):
        cost_per_report(10, 0)


def test_windows_are_long_enough_for_the_counter_where_they_were_asked_to_be():
    """A block of 6 s would have been taken for one of 12 while warming up, and refused at the end of everything."""
    session = measure([arm(batch=4, pool=640)], Rules(blocks=2, seconds=0, block_seconds=12))
    assert min(block.seconds for block in session.of("a")) >= 12


def test_energy_that_cannot_be_given_is_refused_before_anything_is_measured():
    from cxrbench.throughput.conduct import Conductor
    from cxrbench.throughput.experiment import ExperimentSpec

    class Counter(NoDevice):
        def read(self):
            return DeviceState(joules=5.0)

    class NoBench:
        monitor = Counter()

    spec = {"name": "x", "energy": True, "rules": {"block_seconds": 2}, "configurations": {"a": {"model": "m"}}}
    spec = ExperimentSpec.model_validate({**spec, "modes": [{"name": "one", "configurations": ["a"]}]})
    with pytest.raises(CxrbenchError, match="blocks of 2 s are too short for the energy counter"):
        Conductor(spec, NoBench(), lambda dtype: None).run()
    NoBench.monitor = NoDevice()
    with pytest.raises(CxrbenchError, match="energy was asked for and cannot be given: the device has no energy"):
        Conductor(spec, NoBench(), lambda dtype: None).run()


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (window(20, None, None), "no energy counter"),
        (window(3, 0, 900), "a window of 3.0 s is too short"),
        (window(20, 100, 100), "moved by 0 J in 20 s: it does not work"),
    ],
)
def test_energy_is_absent_or_loud_but_never_zero(block, message):
    with pytest.raises(CxrbenchError, match=message):
        joules_per_report([block])
    entry = energy_entry([block])
    assert entry["joules_per_report"] is None
    assert message in entry["why_not"]


def test_a_shared_device_is_seen():
    gib = 2**30
    quiet = DeviceState(used_bytes=5 * gib, own_bytes=4 * gib)
    assert shared(quiet, 0) == []
    assert shared(DeviceState()) == []
    found = shared(DeviceState(used_bytes=30 * gib, own_bytes=4 * gib), 60)
    assert "26.0 GiB of the device's memory are not ours" in found[0]
    assert "60 % busy" in found[1]


def test_blocks_beside_somebody_else_are_marked_and_warned_of():
    """A driver that reports 30 GiB in use, of which 4 are ours, and no counters at all on a laptop."""
    from cxrbench.throughput.conduct import Conductor
    from cxrbench.throughput.experiment import ExperimentSpec
    from cxrbench.throughput.nvml import Device

    class Crowded(Driver):
        def nvmlDeviceGetMemoryInfo(self, handle, pointer):
            pointer._obj.used = 30 * 2**30
            return 0

    class SimulatedBench:
        def __init__(self, monitor):
            self.monitor = monitor

        def arms(self, wanted, *, alone):
            made = arm(tokens=10)
            made.configuration, made.monitor = wanted[0], self.monitor
            return [made]

    spec = ExperimentSpec.model_validate(
        {
            "name": "x", "rules": {"blocks": 2, "seconds": 0},
            "configurations": {"a": {"model": "m"}}, "modes": [{"name": "one", "configurations": ["a"]}],
        }
    )  # fmt: skip
    crowded = Nvml(Device(Crowded(), "1234"), lambda: 4 * 2**30)
    found = Conductor(spec, SimulatedBench(crowded), lambda dtype: None, idle_load=40).run()
    assert found["warnings"] == [
        "26.0 GiB of the device's memory are not ours: somebody else is on it",
        "the device was 40 % busy before anything was given to it: somebody else is on it",
        "a: somebody else was on the device in 2 of 2 blocks",
    ]
    assert [block["shared"] for block in found["sessions"][0]["blocks"]] == [True, True]
    unseen = Conductor(spec, SimulatedBench(NoDevice("not seen")), lambda dtype: None).run()
    assert unseen["warnings"] == ["not seen"]
    laptop = Conductor(spec, SimulatedBench(NoDevice()), lambda dtype: None).run()
    assert laptop["warnings"] == []
    (block, _) = laptop["sessions"][0]["blocks"]
    assert (block["shared"], block["joules"], block["before"]["watts"]) == (False, None, None)


def test_a_slowed_device_makes_a_block_invalid():
    class Hot(NoDevice):
        def read(self):
            return DeviceState(throttle=("power cap", "thermal slowdown (hardware)"))

    one = arm(batch=4)
    one.monitor = Hot()
    assert one.block(4).invalid == ("the device was slowed down: thermal slowdown (hardware)",)


class Within(NoDevice):
    """Quiet at both ends of a block; `states` come and go while it runs, and `enough` is set when all were read."""

    def __init__(self, *states):
        super().__init__()
        self.states = list(states)
        self.enough = threading.Event()

    def watch(self):
        return Sampler(self.within, period=0.001)

    def within(self):
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            self.enough.set()
            raise state
        if len(self.states) == 1:
            self.enough.set()
        return state

    def block(self):
        """Of an arm that works until all states were read."""
        one = arm(batch=4)
        one.monitor, stock = self, one.model.generate
        one.model.generate = lambda *given: self.enough.wait(10) and stock(*given)
        return one.block(4)


def test_a_slowdown_that_comes_and_goes_within_a_block_makes_it_invalid():
    cool = DeviceState(sm_mhz=1980, memory_mhz=2619, celsius=60, watts=300.0)
    hot = DeviceState(sm_mhz=900, memory_mhz=2619, celsius=88, watts=600.0, throttle=("power brake", "power cap"))
    block = Within(cool, hot, cool).block()
    assert block.invalid == ("the device was slowed down: power brake",)
    seen = block.during
    assert (seen.sm_mhz_min, seen.memory_mhz_min, seen.celsius_max) == (900, 2619, 88)
    assert seen.throttle == {"power brake": 1, "power cap": 1}
    assert seen.watts_mean == pytest.approx((300 * (seen.samples - 1) + 600) / seen.samples)
    assert device([block, replace(block, during=During(2))])["throttle"] == {"power brake": 1, "power cap": 1}
    assert block.as_json()["during"]["samples"] == seen.samples


def test_somebody_who_comes_and_goes_within_a_block_marks_it():
    gib = 2**30
    block = Within(DeviceState(), DeviceState(used_bytes=30 * gib, own_bytes=4 * gib), DeviceState()).block()
    assert (block.shared, block.invalid) == (True, ())


def test_a_driver_that_fails_within_a_block_is_no_silence():
    with pytest.raises(OSError, match="the driver has gone"):
        Within(OSError("the driver has gone")).block()


def test_without_a_device_nobody_looks_and_no_thread_is_started():
    one, seen = arm(batch=4), []
    stock = one.model.generate
    one.model.generate = lambda *given: seen.extend(each.name for each in threading.enumerate()) or stock(*given)
    assert one.block(4).during is None
    assert "cxrbench-device" not in seen


def test_a_gpu_is_read_as_its_driver_tells_while_a_block_runs():
    from cxrbench.throughput.nvml import Device

    one = arm(batch=4)
    one.monitor = Nvml(Device(Driver(), "1234"))
    with one.monitor.watch() as watching:
        watching.states.append(one.monitor.read())
    assert (watching.seen.celsius_max, watching.seen.watts_mean, watching.seen.sm_mhz_min) == (61, 412.5, None)


def test_slots_that_memory_took_away_make_a_block_invalid():
    """The engine halves its slots where memory runs out and goes on: a block at half the batch is another's figure."""
    answers = [Prediction(f"s{i}", OK, text="a", output_tokens=1, image_tokens=4) for i in range(8)]
    expected = Expected(None, 4, batch=8)
    assert problems(answers, [BatchTiming(0, 8, 1.0, slots=8)], expected) == []
    assert problems(answers, [BatchTiming(0, 4, 1.0, slots=4)], expected) == []  # no more were asked for
    found = problems(answers, [BatchTiming(0, 8, 1.0, slots=4)], expected)
    assert found == ["4 texts were written at a time, not 8: memory was short"]


class Driver:
    """The library's functions, writing through pointers as the C library does."""

    values = {"nvmlDeviceGetTemperature": 61, "nvmlDeviceGetPowerUsage": 412_500}

    def nvmlDeviceGetHandleByUUID(self, uuid, handle):
        return 0 if uuid == b"GPU-1234" else 2

    def __getattr__(self, name):
        if name not in self.values:
            if name == "nvmlDeviceGetTotalEnergyConsumption":
                raise AttributeError(name)
            return lambda *arguments: 3  # not supported
        return lambda handle, *arguments: setattr(arguments[-1]._obj, "value", self.values[name]) or 0


def test_what_a_driver_does_not_tell_is_absent():
    from cxrbench.throughput.nvml import Device

    state = Nvml(Device(Driver(), "1234")).read()
    assert (state.celsius, state.watts) == (61, 412.5)
    assert (state.joules, state.sm_mhz, state.throttle, state.used_bytes) == (None, None, None, None)
    assert Nvml(Device(Driver(), "other")).read().celsius is None
