"""Models without images: constant text, and a draw that no order can change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrbench.errors import CxrbenchError
from cxrbench.models.base import Model, ModelOptions
from cxrbench.models.baselines import NORMAL, AlwaysNormal, RandomReport, draw
from cxrbench.types import REQUEST_KINDS, Generation, Sample


def sample(name: str, target: str = "Lungs clear.") -> Sample:
    return Sample(name, name, None, target)


def answers(model: Model, samples, size=4, seed_of=lambda s: len(s.sample_id) * 7919):
    requests = [model.request(s, "generate", Generation(), seed_of(s)) for s in samples]
    out = []
    for number, start in enumerate(range(0, len(requests), size)):
        prepared = [model.prepare(request) for request in requests[start : start + size]]
        result = model.generate(number, prepared)
        assert result.timing.batch == number
        assert result.timing.size == len(prepared)
        assert result.timing.wall > 0
        out += result.predictions
    return out


@pytest.mark.parametrize("target", ["findings", "impression", "report"])
def test_always_normal_says_the_text_of_its_target(target):
    model = AlwaysNormal(ModelOptions(extra={"target": target}))
    for prediction in answers(model, [sample("a"), sample("b")]):
        assert (prediction.outcome, prediction.text, prediction.finish_reason) == ("ok", NORMAL[target], "none")
        assert (prediction.output_tokens, prediction.inputs) == (None, ())
        assert prediction.times["latency"] > 0
    assert model.identity()["text"] == NORMAL[target]


def test_the_report_is_findings_then_impression_and_finds_nothing():
    assert NORMAL["report"] == f"{NORMAL['findings']} {NORMAL['impression']}"
    assert len({NORMAL[target] for target in ("findings", "impression")}) == 2


def test_always_normal_defaults_to_findings_and_refuses_other_targets():
    assert AlwaysNormal(ModelOptions()).identity()["target"] == "findings"
    with pytest.raises(CxrbenchError, match="did you mean 'findings'"):
        AlwaysNormal(ModelOptions(extra={"target": "finding"}))


@pytest.mark.parametrize("kind", [AlwaysNormal, RandomReport])
def test_an_argument_is_refused(kind):
    with pytest.raises(CxrbenchError, match="takes no argument"):
        kind(ModelOptions(argument="x"))


@pytest.mark.parametrize("kind", [AlwaysNormal, RandomReport])
def test_the_contract(kind):
    model = kind(ModelOptions())
    assert model.kinds <= set(REQUEST_KINDS)
    assert model.consumes == frozenset()
    assert model.identity() == kind(ModelOptions()).identity()
    assert model.card.name == model.identity()["name"]
    assert model.circumstances()["engine"] == "none"
    model.close()


def pool():
    return [sample(f"t{i:02}", f"report {i}") for i in range(40)]


def fitted(samples) -> RandomReport:
    model = RandomReport(ModelOptions())
    model.fit(lambda: samples)
    return model


def test_random_report_does_not_depend_on_any_order():
    asked = [sample("x" * i) for i in range(1, 12)]
    first = {p.sample_id: p.text for p in answers(fitted(pool()), asked)}
    second = {p.sample_id: p.text for p in answers(fitted(pool()[::-1]), asked[::-1], size=1)}
    assert first == second
    assert len(set(first.values())) > 5
    assert set(first.values()) <= {s.target for s in pool()}


def test_random_report_follows_the_seed():
    model = fitted(pool())
    texts = [
        [
            p.text
            for p in answers(
                model, [sample("a"), sample("b")], seed_of=lambda s, run=run: 1000 * run + ord(s.sample_id)
            )
        ]
        for run in range(4)
    ]
    assert len({tuple(pair) for pair in texts}) > 1


def test_random_report_without_a_pool_is_refused_and_an_empty_report_is_named():
    with pytest.raises(CxrbenchError, match="no report to draw from"):
        fitted([])
    assert answers(fitted([sample("t", "")]), [sample("a")])[0].outcome == "empty"


@given(st.integers(0, 2**63), st.integers(1, 10**6))
def test_draws_are_below_n(seed, n):
    assert 0 <= draw(seed, n) < n


@pytest.mark.parametrize("step", [1, 2, 1000])
def test_draws_are_even_over_patterned_seeds(step):
    counts = np.bincount([draw(step * i, 10) for i in range(5000)], minlength=10)
    assert counts.min() > 400  # expected 500, standard deviation 21
