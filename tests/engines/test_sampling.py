"""Seeded sampling draws from the distribution stock sampling draws from."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from cxrbench.engines.device import Clock
from cxrbench.engines.sampling import SeededSampler, Watch, warp
from cxrbench.types import Generation

IDS = torch.zeros((1, 1), dtype=torch.int64)


@given(
    st.lists(st.lists(st.floats(-8, 8, width=32), min_size=6, max_size=6), min_size=1, max_size=4),
    st.floats(0.1, 4),
    st.integers(0, 7),
    st.floats(0.01, 1),
)
def test_warping_equals_the_stock_warpers(rows, temperature, top_k, top_p):
    scores = torch.tensor(rows)
    expected = TemperatureLogitsWarper(temperature)(IDS, scores)
    if top_k:
        expected = TopKLogitsWarper(top_k)(IDS, expected)
    kept = warp(scores, Generation(temperature=temperature, top_k=top_k, top_p=top_p))
    if top_p < 1:
        stock = TopPLogitsWarper(top_p)(IDS, expected)
        shares = expected.softmax(-1).sort(descending=True).values
        edges = (shares.cumsum(-1) - top_p).abs().amin(-1) < 1e-5  # rounding decides there, ties included
        ties = (expected.sort(-1).values.diff(dim=-1) == 0).any(-1)
        sure = ~(edges | ties)
        assert torch.equal(kept[sure], stock[sure])
    else:
        assert torch.equal(kept, expected)


@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=9), st.floats(1e-6, 1))
def test_the_likeliest_token_always_stays(row, top_p):
    kept = warp(torch.tensor([row]), Generation(temperature=1.0, top_p=top_p))
    assert kept.amax() == torch.tensor(row).amax()


def test_draws_follow_the_distribution():
    """8,000 rows, five tokens: every count within 4.5 standard deviations of its binomial mean."""
    rows, logits = 8000, torch.tensor([2.0, 1.0, 0.0, -1.0, -torch.inf])
    sampler = SeededSampler(Generation(temperature=0.7), range(rows), "cpu")
    draws = sampler(IDS, logits.expand(rows, 5)).argmax(-1)
    shares = (logits / 0.7).softmax(-1)
    counts = torch.bincount(draws, minlength=5)
    spread = (rows * shares * (1 - shares)).sqrt()
    assert ((counts - rows * shares).abs() <= 4.5 * spread).all()
    assert counts[4] == 0


def test_successive_draws_of_a_row_differ():
    sampler = SeededSampler(Generation(temperature=1.0), [5], "cpu")
    flat = torch.zeros((1, 1000))
    assert len({int(sampler(IDS, flat).argmax()) for _ in range(10)}) > 8


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_the_watch_names_the_step_at_which_a_row_went_bad(bad):
    watch = Watch(Clock(["cpu"]))
    for rows in ([[0.0, 1.0], [2.0, -torch.inf]], [[0.0, 1.0], [0.0, bad]], [[bad, 1.0], [0.0, 1.0]]):
        watch.see(torch.tensor(rows)[:, None])
    assert watch.bad_before([3, 3]) == [True, True]
    assert watch.bad_before([2, 1]) == [False, False]


def test_the_watch_looks_at_the_last_position_alone():
    watch = Watch(Clock(["cpu"]))
    watch.see(torch.tensor([[[torch.nan], [0.0]], [[0.0], [torch.nan]]]))
    assert watch.bad_before([1, 1]) == [False, True]


def test_a_row_without_any_allowed_token_is_bad():
    watch = Watch(Clock(["cpu"]))
    watch.see(torch.full((1, 1, 4), -torch.inf))
    assert watch.bad_before([1]) == [True]


def test_a_sample_is_bad_when_one_of_its_beams_is():
    watch = Watch(Clock(["cpu"]))
    watch.see(torch.tensor([[[0.0]], [[0.0]], [[torch.nan]], [[0.0]]]))
    assert watch.bad_before([1, 1]) == [False, True]


def test_the_watch_is_gone_after_its_block():
    class Head(torch.nn.Module):
        def forward(self, scores):
            return SimpleNamespace(logits=scores)

    head, watch = Head(), Watch(Clock(["cpu"]))
    bad, good = torch.full((1, 1, 2), torch.nan), torch.zeros((1, 1, 2))
    with watch.over(head):
        head(good)
    head(bad)
    assert watch.first is not None
    assert watch.bad_before([1]) == [False]
