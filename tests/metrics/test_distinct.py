"""Distinct reports: counts against Python sets, under any weights."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scored_texts import few, report_pairs, rows_of

from cxrbench.metrics.distinct import Distinct


def test_a_constant_report_shows():
    pairs = [("Normal chest.", f"Finding {i}.") for i in range(10)]
    rows, _ = rows_of(Distinct(), pairs)
    found = Distinct().value_weighted(rows, np.ones((1, 10)))
    assert {name: value.tolist() for name, value in found.items()} == {
        "distinct": [0.1],
        "reference_distinct": [1.0],
        "distinct_count": [1],
        "reference_distinct_count": [10],
    }


def test_whitespace_does_not_make_a_report_different_but_case_does():
    rows, _ = rows_of(Distinct(), [("No  effusion.\n", "a"), ("No effusion.", "a"), ("no effusion.", "a")])
    assert Distinct().value_weighted(rows, np.ones((1, 3)))["distinct_count"].tolist() == [2]


@few
@given(report_pairs, st.data())
def test_counts_are_those_of_the_samples_with_a_weight(pairs, data):
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(pairs), max_size=len(pairs))), float)
    rows, _ = rows_of(Distinct(), pairs, chunk=3)
    found = Distinct().value_weighted(rows, np.stack([weights, np.ones(len(pairs))]))
    for side, name in ((0, "distinct"), (1, "reference_distinct")):
        for row, chosen in enumerate([[p for p, w in zip(pairs, weights, strict=True) if w], pairs]):
            count = len({" ".join(pair[side].split()) for pair in chosen})
            assert found[f"{name}_count"][row] == count
            size = weights.sum() if row == 0 else len(pairs)
            assert found[name][row] == count / size if size else np.isnan(found[name][row])


def test_samples_that_were_not_scored_are_no_report():
    rows, _ = rows_of(Distinct(), [("a", "b"), ("c", "d")])
    rows[1] = 0  # as the scorer leaves a sample whose prediction failed
    assert Distinct().value_weighted(rows, np.ones((1, 2)))["distinct"].tolist() == [1.0]


def test_nothing_scored_is_not_a_number():
    rows, _ = rows_of(Distinct(), [])
    found = Distinct().value_weighted(rows, np.ones((1, 0)))
    assert np.isnan(found["distinct"][0])
    assert found["distinct_count"].tolist() == [0]


def test_there_is_no_interval():
    assert not any(value.interval for value in Distinct.values.values())
    assert not Distinct.additive
