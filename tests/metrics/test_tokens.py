"""The shared feature: asked for once by all metrics of a convention, the same for equal pairs."""

from __future__ import annotations

import numpy as np
import pytest

from cxrbench import registry
from cxrbench.metrics.base import Corpus
from cxrbench.metrics.bleu import Bleu
from cxrbench.metrics.cider import Cider
from cxrbench.metrics.rouge import RougeL
from cxrbench.metrics.tokens import TokenPairs, Tokens


@pytest.mark.parametrize("preset", ["raw", "r2gen"])
def test_metrics_of_one_convention_share_one_feature(preset):
    corpus = Corpus(["the heart", "the lungs"], train=lambda: ["the heart. the lungs. the heart. the heart."])
    metrics = [Bleu(preset), RougeL(preset), Cider(preset)]
    requests = {request for metric in metrics for request in metric.needs(metric.fit(corpus))}
    assert len(requests) == 1
    assert registry.load("features", requests.pop().name) is Tokens


def test_the_train_split_is_read_once_for_all_metrics():
    calls = []

    def train():
        calls.append(1)
        return ["the heart."] * 3

    contexts = [metric("r2gen").fit(Corpus(["the heart"], train=train)) for metric in (Bleu, RougeL, Cider)]
    assert len(calls) == 1
    assert {tuple(context.data["vocabulary"]) for context in contexts} == {(".", "heart", "the")}


def test_repeated_pairs_are_counted_once_and_found_again():
    texts = TokenPairs(["a b", "c", "a b", "a b"], ["a b c", "c", "a b c", "c"])
    assert texts.matches().tolist() == [[2, 1, 0, 0], [1, 0, 0, 0], [2, 1, 0, 0], [0, 0, 0, 0]]
    grams, each = texts.grams()
    assert len(np.unique(grams[0].pair)) == 3
    assert each[0] == each[2]
    assert [side.tolist() for side in texts.lengths()] == [[2, 1, 2, 2], [3, 1, 3, 1]]


def test_subsequences_of_either_splitting():
    texts = TokenPairs(["a  b", "", "a\nb"], ["a  c", "", "a b"])
    common, predicted, reference = texts.subsequences(single_spaces=True)
    assert (common.tolist(), predicted.tolist(), reference.tolist()) == ([2, 1, 0], [3, 1, 1], [3, 1, 2])
    common, predicted, reference = texts.subsequences(single_spaces=False)
    assert (common.tolist(), predicted.tolist(), reference.tolist()) == ([1, 0, 2], [2, 0, 2], [2, 0, 2])
