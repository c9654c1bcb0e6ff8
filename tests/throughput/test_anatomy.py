"""Chains of configurations on a simulated engine with known step times: the product is the end-to-end ratio."""

from dataclasses import replace

import pytest

from cxrbench.errors import CxrbenchError
from cxrbench.throughput.anatomy import anatomy_entry, dissect
from cxrbench.throughput.configuration import Configuration, Trace, chain
from tests.throughput.simulated import RULES, Times, VirtualClock, arm, noisy

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
