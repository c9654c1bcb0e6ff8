"""Words, characters and the verbosity ratio, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from scored_texts import few, report_pairs, rows_of, score

from cxrbench.metrics.length import Length


def test_by_hand():
    pairs = [("the heart is large", "large heart"), ("", "clear\nlungs here"), ("é x", "")]
    whole, single = score(Length(), pairs)
    assert whole["words"] == pytest.approx((4 + 0 + 2) / 3)
    assert whole["reference_words"] == pytest.approx((2 + 3 + 0) / 3)
    assert whole["chars"] == pytest.approx((18 + 0 + 3) / 3)
    assert whole["reference_chars"] == pytest.approx((11 + 16 + 0) / 3)
    assert whole["ratio"] == pytest.approx(6 / 5)
    assert single["ratio"][:2].tolist() == [2, 0]
    assert np.isnan(single["ratio"][2])  # a reference without words has no ratio


@few
@given(report_pairs)
def test_chunks_and_order_do_not_matter(pairs):
    rows, _ = rows_of(Length(), pairs)
    assert np.array_equal(rows_of(Length(), pairs, chunk=2)[0], rows)
    assert np.array_equal(rows_of(Length(), pairs[::-1])[0][::-1], rows)


def test_nothing_scored_is_not_a_number():
    rows, _ = rows_of(Length(), [])
    assert all(np.isnan(value) for value in Length().value(rows.sum(axis=0)).values())
