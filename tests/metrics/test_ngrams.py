"""N-gram counts against collections.Counter."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from scored_texts import few, report_pairs

from cxrbench.metrics import ngrams, tokens


def grams(text: str, order: int) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


@few
@given(report_pairs)
def test_both_counts_of_every_distinct_ngram(pairs):
    texts = [text for pair in pairs for text in pair]
    documents = tokens.documents(texts)
    found = ngrams.count(documents, np.arange(0, len(texts), 2), np.arange(1, len(texts), 2))
    for order, counted in enumerate(found, start=1):
        for i, (left, right) in enumerate(pairs):
            mine = counted.pair == i
            expected = [grams(left, order), grams(right, order)]
            both = sorted((expected[0][gram], expected[1][gram]) for gram in expected[0] | expected[1])
            assert sorted(zip(counted.left[mine].tolist(), counted.right[mine].tolist(), strict=True)) == both


@few
@given(report_pairs)
def test_document_frequency_does_not_depend_on_how_texts_are_split_or_weighted(pairs):
    texts = [text for pair in pairs for text in pair]
    whole = ngrams.document_frequency(tokens.documents(texts), np.ones(len(texts), np.int64))
    single = [ngrams.document_frequency(tokens.documents([text]), np.ones(1, np.int64)) for text in texts]
    times = Counter(texts)
    weighted = ngrams.document_frequency(tokens.documents(list(times)), np.array(list(times.values())))
    for other in (ngrams.merge(single), weighted):
        assert np.array_equal(whole[0], other[0])
        assert np.array_equal(whole[1], other[1])
    expected = Counter(gram for text in texts for order in range(1, 5) for gram in grams(text, order))
    assert len(whole[0]) == len(expected)
    assert int(whole[1].max(initial=0)) <= len(texts)


def test_blocks_of_very_different_lengths_cover_every_pair_once():
    lengths = [0, 1, 5, 200_000, 3, 40, 700]
    documents = tokens.documents(["a " * n for n in lengths])
    found = ngrams.count(documents, np.arange(7), np.zeros(7, np.int64))
    assert sorted(zip(found[0].pair.tolist(), found[0].left.tolist(), strict=True)) == [
        (i, n) for i, n in enumerate(lengths) if n > 0
    ]


def test_word_hashes_are_the_same_everywhere():
    # printf effusion | b2sum -l 64
    assert ngrams.hash_words(["effusion"]).tolist() == [int.from_bytes(bytes.fromhex("f3762144cef9d142"), "little")]
    assert len(ngrams.hash_words([])) == 0
