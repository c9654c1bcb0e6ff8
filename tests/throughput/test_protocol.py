"""The protocol on a simulated engine with known step times: every figure within 1 %, bad blocks never counted."""

import random
from dataclasses import replace

import pytest

from cxrbench.errors import CxrbenchError
from cxrbench.models.shapes import SHAPES
from cxrbench.throughput import roofline as roof
from cxrbench.throughput.anatomy import anatomy_entry, dissect
from cxrbench.throughput.block import Block
from cxrbench.throughput.configuration import Configuration, Trace, chain
from cxrbench.throughput.device_state import DeviceState, NoDevice, Nvml, shared
from cxrbench.throughput.energy import cost_per_report, energy_entry, joules_per_report
from cxrbench.throughput.facts import Gpu
from cxrbench.throughput.figures import figures, used
from cxrbench.throughput.protocol import Rules, measure, warm_up
from cxrbench.types import Generation
from tests.throughput.simulated import Simulated, Times, VirtualClock, arm

RULES = Rules(blocks=6, seconds=0, block_seconds=5)


def noisy(seed, share=0.01):
    draw = random.Random(seed)
    return lambda: max(0.5, 1 + draw.gauss(0, share))


def test_offline_figures_are_those_of_the_step_times():
    one = arm(times=Times(noise=noisy(1)), batch=4, tokens=100)
    found = figures(measure([one], RULES).of("a"))
    model = Simulated(VirtualClock(), Times())
    seconds = model.seconds(4, 4, 100) / 4
    assert found["reports_per_s"] == pytest.approx(1 / seconds, rel=0.01)
    assert found["engine_reports_per_s"] == pytest.approx(1 / (seconds - 0.015), rel=0.01)
    assert found["tokens_per_s"] == pytest.approx(100 / seconds, rel=0.01)
    assert found["words_per_s"] == pytest.approx(100 / seconds, rel=0.01)
    assert found["chars_per_s"] == pytest.approx(500 / seconds, rel=0.01)
    assert found["stages_per_report"] == pytest.approx(
        {"image_read": 0.01, "preprocess": 0.005, "encode": 0.02, "prefill": 0.0636, "decode": 99 * 0.01 / 4}, rel=0.01
    )
    assert (found["tokens_per_report"], found["image_tokens"]) == (100, 576)
    assert found["latency"] is None


def test_single_stream_figures_are_those_of_the_step_times():
    one = arm(times=Times(noise=noisy(2)), batch=1, tokens=50, scenario="single-stream")
    found = figures(measure([one], RULES).of("a"))
    latency = 0.01 + 0.005 + 0.02 + 0.0636 + 49 * 0.0085
    assert found["latency"]["mean"] == pytest.approx(latency, rel=0.01)
    assert found["latency"]["p50"] == pytest.approx(latency, rel=0.01)
    assert found["latency"]["p50_ci"][0] <= latency <= found["latency"]["p50_ci"][1]
    assert found["ttft"]["mean"] == pytest.approx(latency - 49 * 0.0085, rel=0.01)
    assert found["tpot"]["mean"] == pytest.approx(0.0085, rel=0.01)
    assert found["latency"]["p99"] is None  # too few reports for an interval


def test_bandwidth_and_operations_used():
    shape, gpu = SHAPES["slava"], Gpu("g", 1e12, 1e14, 80e9)
    one = arm(batch=4, tokens=100)
    found = used(measure([one], RULES).of("a"), shape, gpu, "bf16")
    assert found["mbu"] == pytest.approx(roof.step_seconds(shape, gpu, 4, 636 + 50) / 0.010, rel=0.01)
    assert found["mfu"] == pytest.approx(roof.prefill_flops(shape) / 1e14 / 0.0836, rel=0.01)


def test_bandwidth_used_where_lengths_differ_and_a_batch_is_not_full():
    """Rows of 3, 9 and 6 tokens in batches of two: 8 + 5 steps read the weights, each row its own keys and values."""
    shape, gpu = SHAPES["slava"], Gpu("g", 1e12, 1e14, 80e9)
    one = arm(batch=2, pool=3)
    one.tokens = [3, 9, 6]
    one.requests = [
        replace(each, generation=Generation(max_new_tokens=tokens))
        for each, tokens in zip(one.requests, one.tokens, strict=True)
    ]
    block = one.block(3)
    assert block.invalid == ()
    read = sum(636 + each for tokens in one.tokens for each in range(1, tokens))
    moved = 13 * roof.read_bytes(shape) + read * roof.kv_bytes(shape)
    found = used([block], shape, gpu, "bf16")
    assert found["mbu"] == pytest.approx(moved / block.stages["decode"] / 1e12, rel=1e-9)
    one.window = 3  # refilled: as few steps as two full places can take, and never fewer than the longest text
    assert one.block(3).steps == 8
    one.batch = 1
    assert one.block(3).steps == 2 + 8 + 5


def test_warm_up_goes_on_until_the_rate_is_stable():
    cold = arm(times=Times(cold=3), batch=4)
    warm_up(cold, RULES)
    assert cold.stable
    assert cold.model.calls > 3 + RULES.agreeing
    draw = random.Random(0)
    restless = arm(times=Times(noise=lambda: draw.uniform(0.5, 2)), batch=4)
    session = measure([restless], RULES)
    assert not session.arms[0].stable
    assert session.arms[0].spread > RULES.within


def test_blocks_that_were_too_short_do_not_count_against_the_warm_up():
    """Three sizes come before the one that lasts: of three blocks at most, three can still agree."""
    one = arm(batch=1, pool=640, tokens=10)
    warm_up(one, replace(RULES, warm_most=3))
    assert one.stable


def test_blocks_are_interleaved_as_abba():
    clock = VirtualClock()
    arms = [arm("a", clock=clock), arm("b", Times(step=0.016), clock=clock)]
    session = measure(arms, RULES)
    order = sorted((block.order, name) for turn in session.rounds for name, block in turn.items())
    assert "".join(name for _, name in order) == "abba" * 3


def test_an_invalid_round_is_made_again_in_its_own_order():
    """Else one order would come more often than the other, and drift would reach the ratio."""
    clock = VirtualClock()
    arms = [arm("a", clock=clock), arm("b", Times(step=0.016), clock=clock)]
    for each in arms:
        warm_up(each, RULES)
    arms[0].model.spoil = {arms[0].model.calls + 40: {"tokens": 99}}
    session = measure(arms, RULES)
    order = sorted((block.order, name) for turn in session.rounds for name, block in turn.items())
    reasons = {block.configuration: block.invalid[0] for block in session.discarded}
    assert "did not come out as forced" in reasons["a"]
    assert reasons["b"] == "its partner in the round was invalid"
    assert len(session.invalid) == 1
    assert "".join(name for _, name in order) == "abba" * 3


def test_rounds_come_in_both_orders_equally_often():
    clock = VirtualClock()
    arms = [arm("a", clock=clock), arm("b", clock=clock)]
    assert len(measure(arms, replace(RULES, blocks=5)).rounds) == 6
    assert len(measure([arm("alone")], replace(RULES, blocks=5)).rounds) == 5


def test_progress_never_counts_beyond_what_is_left():
    told = []
    measure([arm()], replace(RULES, blocks=2, seconds=60), lambda *line: told.append(line))
    assert told
    assert all(done <= total for _, done, total in told)


def test_a_warm_up_that_cannot_agree_is_refused():
    with pytest.raises(CxrbenchError, match="12 blocks cannot agree among 5"):
        Rules(agreeing=12, warm_most=5)


def test_all_arms_answer_the_same_images_in_whole_batches():
    clock = VirtualClock()
    arms = [arm("a", clock=clock, batch=1), arm("b", Times(step=0.1), clock=clock, batch=8)]
    session = measure(arms, RULES)
    sizes = {block.reports for turn in session.rounds for block in turn.values()}
    assert len(sizes) == 1
    assert sizes.pop() % 8 == 0
    assert arms[0]._next == arms[1]._next


def test_drift_does_not_reach_the_ratio():
    clock = VirtualClock()

    def slower():
        return 1 + clock.now / 4000

    arms = [arm(name, Times(step=step, noise=slower), clock=clock) for name, step in (("a", 0.008), ("b", 0.016))]
    model = [each.model for each in arms]
    truth = model[1].seconds(4, 4, 100) / model[0].seconds(4, 4, 100)
    session = measure(arms, replace(RULES, within=1.0))
    assert session.ratio("a", "b").value == pytest.approx(truth, rel=0.01)


def test_a_against_a_contains_one():
    clock = VirtualClock()
    arms = [arm(name, Times(noise=noisy(seed)), clock=clock) for seed, name in ((5, "a"), (6, "again"))]
    ratio = measure(arms, replace(RULES, blocks=10)).ratio("a", "again")
    assert ratio.has_one()
    assert ratio.width() < 0.05


@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [
        ({"tokens": 99}, "lengths did not come out as forced (99 tokens for 100)"),
        ({"image_tokens": 0}, "0 image tokens for 576"),
        ({"outcome": "nan_logits"}, "NaN or infinite logits"),
    ],
)
def test_an_invalid_block_is_discarded_counted_and_made_again(spoiled, reason):
    one = arm(batch=4)
    warm_up(one, RULES)
    one.model.spoil = {one.model.calls + 20: spoiled}
    session = measure([one], replace(RULES, warm_most=3, agreeing=2))
    assert len(session.of("a")) == RULES.blocks
    assert len(session.discarded) == 1
    assert reason in session.discarded[0].invalid[0]
    assert not any(block.invalid for block in session.of("a"))


def test_nothing_is_published_where_every_block_is_invalid():
    one = arm(batch=4)
    one.model.spoil = {call: {"tokens": 7} for call in range(10_000)}
    with pytest.raises(CxrbenchError, match=r"7 blocks were invalid, with 0 of 6 measured.*\(7 tokens for 100\)"):
        measure([one], RULES)


def test_an_image_never_comes_twice_in_a_window():
    one = arm(pool=8, batch=4)
    with pytest.raises(CxrbenchError, match="a window of 12 reports needs as many images, and the pool has 8"):
        one.block(12)
    assert warm_up(one, replace(RULES, block_seconds=1000)) == 8


A = Configuration("a", "small", batch=1, tokens=50, dtype="fp32", load_format="dummy")
B = Configuration("b", "large", batch=8, tokens=100, dtype="bf16", engine="slots", load_format="dummy")
ORDER = ("model", "output length", "precision", "batch", "engine")


def simulated_arms(clock, noise=None):
    """Factors that depend on each other, as real ones do: precision scales the step, the engine its overhead."""

    def make(configurations):
        made = []
        for each in configurations:
            step = {"small": 0.004, "large": 0.010}[each.model] * {"fp32": 2, "bf16": 1}[each.dtype]
            step += 0.003 if each.engine == "transformers" else 0.001
            made.append(arm(each.name, Times(step=step, noise=noise), clock, each.tokens, each.batch))
        return made

    return make


def test_the_product_of_a_chain_is_the_end_to_end_ratio_in_both_orders():
    clock = VirtualClock()
    found = dissect(A, B, ORDER, simulated_arms(clock, noisy(0)), replace(RULES, blocks=8))
    a, b = simulated_arms(VirtualClock())([A, B])
    truth = (a.model.seconds(8, 1, 50) / 8) / (b.model.seconds(8, 8, 100) / 8)
    assert found.direct.value == pytest.approx(truth, rel=0.01)
    assert [walk.order for walk in found.walks] == [ORDER, ORDER[::-1]]
    for walk in found.walks:
        assert walk.product.value == pytest.approx(truth, rel=0.01)
        assert found.closure(walk).has_one()
        assert len(walk.steps) == 5
    shares = found.by_order()
    assert set(shares) == set(ORDER)
    assert max(abs(value - 1) for value in shares.values()) > 0.05  # which order matters, and is shown
    entry = anatomy_entry(found)
    assert entry["walks"][0]["steps"][0]["factor"] == "model"
    blocks = {id(block) for block in found.sessions[0].of("a")}
    others = {id(block) for session in found.sessions[1:] for turn in session.rounds for block in turn.values()}
    assert len(others) == 10 * 2 * 8
    assert not blocks & others


def test_what_a_block_leaves_behind_for_the_next_does_not_reach_the_product():
    """A block after one of its own configuration is 4 % faster: caches, clocks. Neighbours in a chain share one."""
    clock, last = VirtualClock(), []

    def make(configurations):
        made = simulated_arms(clock)(configurations)
        for each in made:
            each.model.times.noise = lambda name=each.name: 0.96 if last[:1] == [name] else 1.0

            def block(reports, each=each, stock=each.block):
                try:
                    return stock(reports)
                finally:
                    last[:] = [each.name]

            each.block = block
        return made

    found = dissect(A, B, ORDER, make, replace(RULES, blocks=24))
    for walk in found.walks:
        assert found.closure(walk).value == pytest.approx(1, abs=0.02)
        assert found.closure(walk).has_one()


def test_a_machine_that_drifts_for_some_configurations_alone_still_closes():
    """A neighbour takes cache from the larger model, more and more: sessions in a row would not multiply."""
    closures = {}
    for interleaved in (True, False):
        clock = VirtualClock()

        def drifting(configurations, clock=clock):
            made = simulated_arms(clock)(configurations)
            for each, wanted in zip(made, configurations, strict=True):
                if wanted.model == "large":
                    each.model.times.noise = lambda: 1 + clock() / 20_000
            return made

        found = dissect(A, B, ORDER, drifting, replace(RULES, blocks=8), fit=lambda _, answer=interleaved: answer)
        assert found.interleaved == interleaved
        sizes = {block.reports for session in found.sessions for turn in session.rounds for block in turn.values()}
        assert len(sizes) == 1  # a window has costs of its own: rates of other sizes do not multiply
        closures[interleaved] = [found.closure(walk) for walk in found.walks]
    assert all(each.has_one() for each in closures[True])
    assert not any(each.has_one() for each in closures[False])


def test_each_step_has_the_ratio_of_its_one_factor():
    clock = VirtualClock()
    found = dissect(A, B, ORDER, simulated_arms(clock), RULES)
    for walk in found.walks:
        for configurations in [chain(A, B, walk.order)]:
            for step, old, new in zip(walk.steps, configurations, configurations[1:], strict=False):
                x, y = simulated_arms(VirtualClock())([old, new])
                truth = x.model.seconds(8, x.batch, old.tokens) / y.model.seconds(8, y.batch, new.tokens)
                assert step.ratio.value == pytest.approx(truth, rel=0.01)


def test_a_chain_leaves_no_residual():
    with pytest.raises(CxrbenchError, match="differ in engine, which the order leaves out"):
        chain(A, B, ORDER[:-1])
    with pytest.raises(CxrbenchError, match="no factor 'colour'"):
        chain(A, B, ("colour",))
    with pytest.raises(CxrbenchError, match="differ in load format or scenario"):
        chain(A, replace(B, scenario="single-stream"), ORDER)
    steps = chain(A, B, ORDER)
    assert (steps[0], steps[-1].name) == (A, "b")
    assert replace(steps[-1], name="b") == B


def test_configurations_that_mean_nothing_are_refused():
    with pytest.raises(CxrbenchError, match="random weights end a text at random"):
        Configuration("x", "m", lengths="natural", load_format="dummy")
    with pytest.raises(CxrbenchError, match="lengths cannot be 'long'"):
        Configuration("x", "m", lengths="long")
    with pytest.raises(CxrbenchError, match="equal-chars needs a number"):
        Configuration("x", "m", lengths="equal-chars")
    with pytest.raises(CxrbenchError, match="need a trace"):
        Configuration("x", "m", lengths="trace")


def test_drawn_traces_have_the_mean_they_say():
    trace = Trace.drawn(100, 0.45)
    assert sum(trace.values) / len(trace.values) == pytest.approx(100, rel=0.04)
    assert "drawn, not recorded" in trace.source
    assert trace == Trace.drawn(100, 0.45)


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

        def arms(self, wanted):
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


def test_batches_that_were_not_full_or_not_the_largest_are_warned_of():
    from cxrbench.throughput.conduct import _partly

    clock = VirtualClock()
    arms = [arm("a", clock=clock, batch=8, pool=20), arm("b", clock=clock, batch=12, pool=20)]
    arms[1].about = {"fitting": 32}
    assert _partly(measure(arms, replace(RULES, blocks=2))) == [
        "a: blocks of 12 reports are no whole batches of 8",
        "b: a batch of 32 fits, 12 was measured: --images 32 or more",
    ]
    assert _partly(measure([arm("a", batch=8, pool=20)], replace(RULES, blocks=2))) == []


def test_a_slowed_device_makes_a_block_invalid():
    class Hot:
        def read(self):
            return DeviceState(throttle=("power cap", "thermal slowdown (hardware)"))

        def idle_load(self):
            return 0

    one = arm(batch=4)
    one.monitor = Hot()
    assert one.block(4).invalid == ("the device was slowed down: thermal slowdown (hardware)",)


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
