"""What is a combination of what, against ranks and least weights in floats, which are sure of small rows."""

import numpy as np

from cxrbench import spans
from cxrbench.spans import Span, products


def test_what_is_given_by_which_is_what_ranks_and_least_weights_say():
    answers = {(gives, still): 0 for gives in (False, True) for still in (False, True)}
    for seed in range(60):
        draw = np.random.default_rng(seed)
        m, n = int(draw.integers(3, 9)), int(draw.integers(1, 9))
        rows = draw.random((m, n)) < draw.choice([0.2, 0.5, 0.8])
        rows[-1] = rows[0] | rows[1] if draw.random() < 0.5 else False
        made_of = draw.permutation(m)[: draw.integers(1, m)]
        pairs = draw.integers(0, m, (6, 2))
        span = Span.of(products(rows), made_of)
        basis = rows[made_of].astype(int)
        for pair, gives in zip(pairs, span.gives(pairs), strict=True):
            wanted = rows[pair[0]].astype(int) - rows[pair[1]]
            assert gives == in_span(basis, wanted)
            answers[gives, False] += not gives
            if gives:
                weights = wanted @ np.linalg.pinv(basis)
                assert span.parts(pair).tolist() == np.flatnonzero(np.abs(weights) > 1e-9).tolist()
                gone = draw.permutation(len(made_of))[: draw.integers(1, 3)]
                still = span.gives_without(pair, gone)
                assert still == in_span(np.delete(basis, gone, axis=0), wanted)
                answers[True, still] += 1
    assert min(answers[False, False], answers[True, False], answers[True, True]) > 20


def in_span(basis, wanted):
    ranks = [np.linalg.matrix_rank(np.vstack([np.zeros_like(wanted), *rows])) for rows in (basis, [*basis, wanted])]
    return ranks[0] == ranks[1]


def test_a_row_that_is_all_but_a_combination_is_none():
    """Floats say that the first of independent rows is one: what the others leave of it is shorter than 1e-6."""
    n = 70
    places = np.subtract.outer(np.arange(n), np.arange(n))
    rows = (places == 0) | ((places > 0) & (places % 2 == 1))  # ones on the diagonal, none above it
    first, others = rows[0].astype(float), rows[1:].astype(float).T
    weights = np.linalg.lstsq(others, first, rcond=None)[0]
    assert np.linalg.norm(others @ weights - first) < 1e-6
    shared = products(np.vstack([rows, np.zeros((1, n), bool)]))
    assert not Span.of(shared, range(1, n)).gives(np.array([[0, n]])).any()
    assert Span.of(shared, range(n)).gives(np.array([[0, n]])).all()


def test_rows_are_multiplied_in_parts(monkeypatch):
    rows = np.random.default_rng(0).random((5, 40)) < 0.5
    monkeypatch.setattr(spans, "_SLICE", 7)
    assert (products(rows) == rows.astype(int) @ rows.astype(int).T).all()
