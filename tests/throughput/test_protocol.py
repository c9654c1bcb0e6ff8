"""The protocol on a simulated engine with known step times: every figure within 1 %, bad blocks never counted."""

import random
from dataclasses import replace

import pytest

from cxrbench.errors import CxrbenchError
from cxrbench.models.shapes import SHAPES
from cxrbench.throughput import roofline as roof
from cxrbench.throughput.facts import Gpu
from cxrbench.throughput.figures import figures, used
from cxrbench.throughput.protocol import Rules, measure, warm_up
from cxrbench.types import Generation
from tests.throughput.simulated import RULES, Simulated, Times, VirtualClock, arm, noisy


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
