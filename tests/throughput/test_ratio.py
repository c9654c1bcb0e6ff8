"""Ratios and percentiles against scipy and by simulation."""

import math
import random

import pytest
from scipy import stats as reference

from cxrbench.errors import CxrbenchError
from cxrbench.throughput.ratio import log_ratio, percentile, product, quotient, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3.7, 7, 15, 60, 1000])
@pytest.mark.parametrize("share", [0.6, 0.95, 0.975, 0.995])
def test_quantiles_of_students_t(share, freedom):
    assert t_quantile(share, freedom) == pytest.approx(reference.t.ppf(share, freedom), rel=1e-6)


def test_a_ratio_is_the_mean_of_logarithms_with_a_t_interval():
    a, b = [10.0, 11.0, 10.5, 9.8], [5.0, 5.2, 5.1, 5.0]
    found = log_ratio(a, b)
    logs = [math.log(x / y) for x, y in zip(a, b, strict=True)]
    low, high = reference.t.interval(0.95, 3, loc=sum(logs) / 4, scale=reference.sem(logs))
    assert found.value == pytest.approx(math.exp(sum(logs) / 4))
    assert found.interval() == pytest.approx((math.exp(low), math.exp(high)))


def test_intervals_hold_the_true_ratio_as_often_as_they_say():
    draw = random.Random(1)
    held = 0
    for _ in range(1000):
        a = [2 * math.exp(draw.gauss(0, 0.03)) for _ in range(8)]
        b = [math.exp(draw.gauss(0, 0.03)) for _ in range(8)]
        low, high = log_ratio(a, b).interval()
        held += low <= 2 <= high
    assert 0.93 < held / 1000 < 0.97


def test_products_and_quotients_of_independent_ratios():
    draw = random.Random(2)
    held = 0
    for _ in range(500):

        def rates(true):
            return [true * math.exp(draw.gauss(0, 0.02)) for _ in range(6)]

        steps = [log_ratio(rates(true), rates(1)) for true in (1.5, 2.0, 0.5)]
        direct = log_ratio(rates(1.5), [1.0] * 6)
        held += quotient(product(steps), direct).has_one()
    assert 0.92 < held / 500 < 0.98


def test_two_pairs_at_least():
    with pytest.raises(CxrbenchError, match="1 valid pairs of blocks carry no interval"):
        log_ratio([1.0], [1.0])


def test_percentiles_where_n_is_too_small_are_none():
    assert percentile(list(range(5)), 0.5) is None
    assert percentile(list(range(6)), 0.5) is not None
    assert percentile(list(range(30)), 0.9) is None
    assert percentile(list(range(100)), 0.99) is None
    assert percentile(list(range(600)), 0.99) is not None


def test_percentiles_of_as_many_values_as_a_long_session_has():
    values = [float(each) for each in range(24_576)]
    found = percentile(values, 0.9)
    assert found.value == pytest.approx(0.9 * 24_575)
    low, high = reference.binom.ppf(0.025, 24_576, 0.9), reference.binom.ppf(0.975, 24_576, 0.9)
    assert (found.low, found.high) == pytest.approx((low - 1, high), abs=1.01)


def test_order_statistics_cover_at_least_what_they_say():
    draw = random.Random(3)
    for share, n in ((0.5, 50), (0.9, 100)):
        truth = -math.log(1 - share)
        found = [percentile([draw.expovariate(1) for _ in range(n)], share) for _ in range(600)]
        assert all(each.level >= 0.95 for each in found)
        held = sum(each.low <= truth <= each.high for each in found) / 600
        assert held > 0.93
