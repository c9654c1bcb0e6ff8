"""The published formulas: worked examples, bounds, and that more errors never score better."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrbench.judges import formulas
from cxrbench.judges.expression import Expression
from cxrbench.judges.formulas import Crimson, crimson, green, length_controlled, verbosity, weight
from cxrbench.judges.pairwise import length_controlled as length_controlled_rate

small = st.integers(0, 30)
LEVELS = ("urgent", "actionable_not_urgent", "not_actionable_not_urgent", "benign_expected")


@pytest.mark.parametrize(
    ("matched", "errors", "score"), [(0, 6, 0.0), (2, 4, 1 / 3), (1, 1, 0.5), (0, 0, 0.0), (3, 0, 1.0)]
)
def test_green_of_the_worked_examples(matched, errors, score):
    assert green(matched, errors) == score


@given(small, small)
def test_green_is_bounded_and_falls_with_errors(matched, errors):
    assert 0 <= green(matched, errors + 1) <= green(matched, errors) <= 1
    assert green(matched + 1, errors) >= green(matched, errors)


@given(st.floats(0, 1), st.floats(0, 20))
def test_lc_green_never_exceeds_green(score, relative):
    assert length_controlled(score, relative) <= score
    assert relative > 1 or length_controlled(score, relative) == score


def test_verbosity_counts_words():
    assert verbosity("a b c", "a b") == 1.5
    assert verbosity("a b", "") == 2
    assert verbosity("", "a") == 0


def found(reference=(), predicted=(), matched=0, attributes=()):
    """A judge's findings: weights of the reference and of false findings; the first so many reference ones matched."""
    refs = {f"R{i}": weight(each) for i, each in enumerate(reference)}
    preds = {f"P{i}": weight(each) for i, each in enumerate(predicted)}
    names = list(refs)
    return Crimson(refs, preds, [(n, "M") for n in names[:matched]], list(preds), names[matched:], list(attributes))


@pytest.mark.parametrize(
    ("judged", "score"),
    [
        (found(["actionable_not_urgent"], matched=1), 1.0),
        (found(["actionable_not_urgent"], ["urgent"]), -0.5),
        (found(), 1.0),
        (found([], ["urgent"]), -0.5),  # N_G = 0: S = -(1 + 0 + 1) < 0, d = 1
        (found(["benign_expected"]), 1.0),
        (found(["urgent"], matched=1, attributes=[("R0", 0.5)]), 0.6667),  # 1 * 1 / 1.5
        (found(["urgent"], ["urgent"], matched=1), 0.0),
        (found(["urgent", "actionable_not_urgent"], matched=1), 0.6667),  # 1 / 1.5
        (found(["strange"], matched=1, attributes=[("R0", 0.25)]), 0.5),  # 0.25 * 0.25 / 0.5 over 0.25
        (Crimson({}, {}, [("R1", "P1")], [], [], []), 0.25),  # N_G falls back to one match
    ],
)
def test_crimson_of_worked_examples(judged, score):
    assert crimson(judged) == score


levels = st.lists(st.sampled_from(LEVELS), max_size=6)


@given(levels, levels, small, st.sampled_from(LEVELS[:3]))
def test_crimson_is_bounded_and_falls_with_false_findings_and_attribute_errors(reference, predicted, matched, more):
    matched = min(matched, len(reference))
    score = crimson(found(reference, predicted, matched))
    assert -1 < score <= 1
    assert crimson(found(reference, [*predicted, more], matched)) <= score
    assert crimson(found(reference, predicted, matched, [("R0", 0.5)])) <= score


@given(levels.filter(bool), levels, st.integers(1, 6))
def test_crimson_falls_with_missing_findings(reference, predicted, matched):
    matched = min(matched, len(reference))
    assert crimson(found(reference, predicted, matched - 1)) <= crimson(found(reference, predicted, matched))


def test_share_of_entailed_phrases():
    assert formulas.share(["entailment", "neutral", "contradiction", "entailment"]) == 0.5
    assert formulas.share([]) is None


def test_an_expression_is_arithmetic_and_nothing_else():
    value = Expression.of("max(0, 1 - 0.25 * (a + -b)) / min(a, b, 4)", ["a", "b"]).value
    assert value({"a": 3, "b": 1}) == 0.5
    assert value({"a": 3, "b": 0}) is None
    for text in ("a.b", "a ** 9", "__import__('os')", "open(a)", "[a]", "a if a else b", "c", "'a'", "a(", "max(a)",
                 "abs(a, b)", "True", "a and b", "lambda: a", "a" * 600):  # fmt: skip
        with pytest.raises(ValueError, match=r"score|abs"):
            Expression.of(text, ["a", "b"])


# Length-controlled win rate


def test_a_system_that_wins_by_length_alone_does_not_win_at_equal_length():
    rng = np.random.default_rng(0)
    lengths = rng.normal(30, 20, 4000)
    wins = (rng.random(4000) < 1 / (1 + np.exp(-2 * np.tanh(lengths / lengths.std())))).astype(float)
    rate = float(length_controlled_rate(wins, lengths, np.ones((1, 4000)))[0])
    assert wins.mean() > 0.7
    assert abs(rate - 0.5) < 0.05


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-50, 50)), min_size=1, max_size=40))
def test_swapping_the_two_systems_mirrors_the_rate(pairs):
    wins, lengths = np.array([w for w, _ in pairs]), np.array([float(n) for _, n in pairs])
    weights = np.ones((1, len(pairs)))
    one = length_controlled_rate(wins, lengths, weights)[0]
    two = length_controlled_rate(1 - wins, -lengths, weights)[0]
    assert 0 <= one <= 1
    assert one == pytest.approx(1 - two, abs=1e-8)
