"""Retrieval: recall at k and median rank against a search written out in Python; ties, equal texts, missing vectors."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrbench.artifacts import Answered, keep
from cxrbench.errors import CxrbenchError
from cxrbench.features.base import Resources
from cxrbench.features.vectors import AnswerVectors
from cxrbench.metrics.base import Corpus, Pairs
from cxrbench.metrics.median_rank import MedianRank, weighted_median
from cxrbench.metrics.ranks import VECTORS
from cxrbench.metrics.retrieval import Retrieval
from cxrbench.stats import Table, point


class World:
    """A run of retrieval on disk: vectors by sample id, texts by study."""

    def __init__(self, folder, vectors, texts, asked=None, open_=()):
        self.ids = [f"{name}/{side}" for name in texts for side in ("image", "text")]
        self.texts = [text for text in texts.values() for _ in range(2)]
        references = keep(folder, {name: np.asarray(row, np.float32) for name, row in vectors.items()})
        asked = frozenset(self.ids if asked is None else asked)
        self.answered = Answered(folder, references, asked, frozenset(open_))

    def score(self, kind=Retrieval, preset=None):
        metric = kind(preset)
        context = metric.fit(Corpus(self.texts, form="vectors", sample_ids=self.ids))
        kept = [i for i, name in enumerate(self.ids) if name in self.answered.references]
        pairs = Pairs([self.ids[i] for i in kept], [""] * len(kept), [self.texts[i] for i in kept])
        features = {VECTORS: AnswerVectors().extract(pairs, {}, Resources(answered=self.answered))}
        made = metric.statistics(pairs, features, context)
        return point(Table(made.rows[:, 0], metric)), pairs, made


def brute(vectors, texts, preset, cuts=(1, 5, 10, 50)):
    """Recall at k and median ranks by counting with exact fractions: cos^2 with its sign orders like the cosine."""

    def alike(a, b):
        dot, aa, bb = (sum(x * y for x, y in zip(p, q, strict=True)) for p, q in ((a, b), (a, a), (b, b)))
        return Fraction(abs(dot) * dot, aa * bb) if aa and bb else Fraction(0)

    out = {}
    for way, here, there in (("image_to_text", "image", "text"), ("text_to_image", "text", "image")):
        ranks = []
        for name in texts:
            if f"{name}/{here}" not in vectors:
                continue
            query = vectors[f"{name}/{here}"]
            score = {
                other: alike(query, vectors[f"{other}/{there}"]) if f"{other}/{there}" in vectors else Fraction(-9)
                for other in texts
            }
            same = [other for other in texts if texts[other] == texts[name]]
            right = same if preset == "same-text" else [name]
            wrong = [other for other in texts if other not in right]
            best = max(score[other] for other in right)
            ranks.append(1 + sum(score[other] >= best for other in wrong))
        out |= {f"{way}_{k}": float(np.mean([rank <= k for rank in ranks])) for k in cuts}
        out[way] = float(np.median(ranks))
    return out


@settings(max_examples=25, deadline=None)
@given(data=st.data(), preset=st.sampled_from(["same-text", "own"]))
def test_recall_and_median_rank_are_those_of_a_search_written_out(tmp_path_factory, data, preset):
    n = data.draw(st.integers(2, 14))
    texts = {f"s{i}": data.draw(st.sampled_from("abcdefgh"), label="text") for i in range(n)}
    # Small whole numbers of one length make many exact ties, which the rule must settle.
    row = st.sampled_from([(3, 4, 0), (4, 3, 0), (0, 5, 0), (5, 0, 0), (0, -5, 0), (0, 0, 5), (-3, 0, 4), (0, 0, 0)])
    names = [f"{name}/{side}" for name in texts for side in ("image", "text")]
    vectors = {name: data.draw(row) for name in names if data.draw(st.integers(0, 9)) or name == "s0/image"}
    if not any(name.endswith("text") for name in vectors):
        vectors["s0/text"] = (3, 4, 0)
    world = World(tmp_path_factory.mktemp("run"), vectors, texts)
    expected = brute(vectors, texts, preset)
    recall, medians = world.score(Retrieval, preset)[0], world.score(MedianRank, preset)[0]
    for name, value in expected.items():
        assert {**recall, **medians}[name] == value, name
    assert recall["mean"] == pytest.approx(np.mean([recall[name] for name in recall if name != "mean"]))


def test_random_vectors_of_real_size(tmp_path):
    rng = np.random.default_rng(0)
    texts = {f"s{i:03d}": f"text {i % 60}" for i in range(80)}
    shared = rng.integers(-40, 40, (80, 6))
    vectors = {}
    for i, name in enumerate(texts):
        vectors[f"{name}/image"] = (shared[i] + rng.integers(-40, 40, 6)).tolist()
        vectors[f"{name}/text"] = (shared[i % 60] + rng.integers(-40, 40, 6)).tolist()
    world = World(tmp_path, vectors, texts)
    for preset in ("same-text", "own"):
        expected = brute(vectors, texts, preset)
        found = {**world.score(Retrieval, preset)[0], **world.score(MedianRank, preset)[0]}
        assert {name: found[name] for name in expected} == expected
        assert 0 < expected["image_to_text_5"] < 1


def test_a_model_that_finds_everything_alike_is_last(tmp_path):
    texts = {f"s{i}": f"text {i}" for i in range(60)}
    world = World(tmp_path, {name: (1, 2) for s in texts for name in (f"{s}/image", f"{s}/text")}, texts)
    found = world.score()[0]
    assert found["image_to_text_50"] == found["mean"] == 0
    assert world.score(MedianRank)[0] == {"image_to_text": 60, "text_to_image": 60}


def test_each_sample_is_a_query_of_one_way(tmp_path):
    texts = {"a": "x", "b": "y"}
    vectors = {"a/image": (1, 0), "a/text": (1, 0), "b/image": (0, 1), "b/text": (0, 1)}
    found, pairs, made = World(tmp_path, vectors, texts).score()
    assert made.rows[:, 0].tolist() == [
        [1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0] if name.endswith("image") else [1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
        for name in pairs.sample_ids
    ]
    assert set(found.values()) == {1.0}


def test_an_item_without_a_vector_is_found_by_nobody(tmp_path):
    texts = {"a": "x", "b": "y", "c": "z"}
    vectors = {"a/image": (1, 0), "b/image": (0, 1), "c/image": (1, 1), "b/text": (0, 1), "c/text": (1, 1)}
    found, pairs, made = World(tmp_path, vectors, texts).score(MedianRank)
    ranks = dict(zip(pairs.sample_ids, made.rows[:, 0, 2], strict=True))
    assert (ranks["a/image"], ranks["b/image"]) == (3, 1)
    assert found["image_to_text"] == 1


def test_a_part_of_the_gallery_is_refused(tmp_path):
    texts = {"a": "x", "b": "y"}
    vectors = {"a/image": (1, 0), "a/text": (1, 0)}
    with pytest.raises(CxrbenchError, match="was to embed 2 of its 4 samples"):
        World(tmp_path, vectors, texts, asked=vectors).score()
    with pytest.raises(CxrbenchError, match="2 of 4 samples of the gallery are not embedded yet"):
        World(tmp_path, vectors, texts, open_=("b/image", "b/text")).score()


def test_the_signature_names_the_gallery_and_the_rule():
    corpus = Corpus(["x", "x", "y", "y"], form="vectors", sample_ids=["a/image", "a/text", "b/image", "b/text"])
    metric = Retrieval()
    signature = metric.signature(metric.fit(corpus), "whitespace:v1")
    assert signature.startswith("retrieval|preset:same-text|alike:cosine|ties:lost|gallery:2.")
    other = Corpus(["x", "x", "x", "x"], form="vectors", sample_ids=corpus.sample_ids)
    assert metric.signature(metric.fit(other), "whitespace:v1") != signature


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 4)), min_size=1, max_size=12).filter(
        lambda rows: any(weight for _, weight in rows)
    )
)
def test_a_weighted_median_is_that_of_the_copies(rows):
    values, weights = (np.array(column, float) for column in zip(*rows, strict=True))
    copies = np.repeat(values, weights.astype(int))
    assert weighted_median(values, weights[None])[0] == np.median(copies)
    assert np.isnan(weighted_median(values, 0 * weights[None])[0])
