"""CIDEr as pycocoevalcap computes it (CIDEr-D, Vedantam et al., CVPR 2015): mean over samples, times 10.

Weights are idf = log N - log max(1, documents with the n-gram) over a set of references. pycocoevalcap takes whatever
references are scored together, so a value depends on the size of the test set; here they are always the task's FULL
reference set, kept in the context, so a subset, a resample or a shard is scored with the same weights. On the full set
both are equal. The length in the penalty is that of the bigrams, as there.

What the context keeps: an n-gram seen in one document weighs as much as one never seen, so only those seen in two or
more are kept, as 64-bit hashes. With 3 million of them a look-up of an unseen n-gram errs with a chance of 3e-13. Up to
`INLINE` of them stand in the context itself, as those of every published test set do; more of them, of hundreds of
thousands of reports, are a file that is read in passing, so that memory does not grow with the reports.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from cxrbench.counts import Counting, merge
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.metrics import conventions, ngrams, tokens
from cxrbench.metrics.base import Context, Corpus, FeatureRequest, Floats, Metric, Pairs, Statistics, Value, ratio
from cxrbench.metrics.ngrams import Grams, Hashes, Integers
from cxrbench.spool import blocks

SIGMA = 6.0
"""Width of the length penalty in words."""

CHUNK = 10_000
"""References whose n-grams are counted at a time while fitting."""

INLINE = 1_000_000
"""N-grams up to which document frequencies stand in the context: some seven megabytes."""

PROCESSED = 50_000
"""References in memory at a time while fitting; a tokenizer in another process is started once for them."""


class Cider(Metric):
    """Statistics per sample: count, CIDEr. No samples: not a number. A text without n-grams: 0."""

    name = "cider"
    presets: ClassVar[Mapping[str, str]] = {
        "raw": "texts as they are: case kept, words between whitespace",
        "coco": "as raw on Stanford PTB tokens, lower case (COCO caption evaluation; needs Java)",
        "r2gen": "as raw on R2Gen's IU-Xray texts: both cleaned, references with <unk> and cut at 59 tokens",
        "r2gen-mimic": "as raw on R2Gen's MIMIC-CXR texts: both cleaned, references with <unk> and cut at 99 tokens",
    }
    default_preset = "raw"
    citation = ("Vedantam et al., CIDEr: Consensus-based Image Description Evaluation, CVPR 2015",)
    values: ClassVar[Mapping[str, Value]] = {"cider": Value(True, (0.0, 10.0), primary=True)}

    def ready(self) -> str | None:
        return conventions.ready(self.preset)

    def fit(self, corpus: Corpus) -> Context:
        data = conventions.fit(self.preset, corpus)
        vocabulary = conventions.words(data)
        counting = Counting()
        for block in blocks(corpus.references, PROCESSED):
            times = Counter(conventions.process(self.preset, (), block, vocabulary)[1])
            texts = list(times)
            weights = np.fromiter(times.values(), np.int64, len(texts))
            for at in range(0, len(texts), CHUNK):
                documents = tokens.documents(texts[at : at + CHUNK])
                counting.add(*ngrams.document_frequency(documents, weights[at : at + CHUNK]))
        shared = counting.finish(least=2)
        data = {**data, "documents": len(corpus.references)}
        if len(shared) > INLINE:
            return Context.of(data, shared)
        return Context.of({**data, **_pack(*merge(list(shared.blocks())))})

    def needs(self, context: Context) -> tuple[FeatureRequest, ...]:
        return (tokens.request(self.preset, context),)

    def settings(self) -> tuple[tuple[str, str], ...]:
        return (*conventions.find(self.preset).settings(), ("n", str(ngrams.ORDERS)), ("sigma", f"{SIGMA:g}"))

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        texts: tokens.TokenPairs = features[self.needs(context)[0]]
        orders, each = texts.grams()
        predicted, reference = (np.maximum(length - 1, 0) for length in texts.lengths())
        documents = max(_documents(context), 1)
        distinct = int(each.max(initial=-1)) + 1
        cosine = np.zeros(distinct)
        for grams in orders:
            idf = np.log(documents) - _log_frequency(context, grams.gram)
            cosine += _cosine(grams, idf, distinct)
        penalty = np.exp(-((predicted - reference) ** 2) / (2 * SIGMA**2))
        return Statistics.scored(np.stack([np.ones(len(pairs)), cosine[each] / ngrams.ORDERS * penalty * 10], axis=1))

    def value(self, sums: Floats) -> dict[str, Floats]:
        return {"cider": ratio(sums[..., 1], sums[..., 0])}


def _documents(context: Context) -> int:
    """How many documents the context knows; one that says what cannot be is refused.

    Raises:
        CxrbenchError: a stored context is another than `fit` makes.
    """
    number = context.data.get("documents")
    whole = context.counts is not None or all(type(context.data.get(key)) is str for key in PACKED)
    if type(number) is int and number >= 0 and whole:
        return number
    raise _damaged()


def _damaged() -> CxrbenchError:
    return CxrbenchError(
        "what an earlier scoring learnt of the references is damaged",
        fix="delete contexts/cider.* in the run folder and score again",
        code=Exit.INFRASTRUCTURE,
    )


def _log_frequency(context: Context, grams: Hashes) -> Floats:
    """Logarithms of the document frequencies of n-grams (g,), in nats; 0 for one of a single document, or of none."""
    if context.counts is not None:
        return np.asarray(np.log(np.maximum(context.counts.look_up(grams), 1)))
    return _unpack(context.data["grams"], context.data["frequency"], context.data["many"]).log_frequencies(grams)


def _cosine(grams: Grams, idf: Floats, pairs: int) -> Floats:
    """Clipped cosine of the tf-idf vectors of each pair, (pairs,); 0 where a vector is 0."""
    left, right = grams.left * idf, grams.right * idf
    product = ngrams.sums(grams, np.minimum(left, right) * right, pairs)
    norm: Floats = np.sqrt(ngrams.sums(grams, left**2, pairs)) * np.sqrt(ngrams.sums(grams, right**2, pairs))
    return np.asarray(np.divide(product, norm, out=np.zeros(pairs), where=norm > 0))


PACKED = ("grams", "frequency", "many")
"""Keys of what `_pack` makes."""

MANY = 255
"""From here on a document frequency is kept apart, so that the others need one byte."""


def _pack(grams: Hashes, frequency: Integers) -> dict[str, str]:
    """Pack n-grams, ascending, and their document frequencies for JSON, the same on every machine (no compression).

    N-grams are kept as the steps between them, in as many bytes as the largest step needs: about six for a million.
    """
    steps = np.diff(grams, prepend=np.uint64(0)).astype("<u8")
    width = (int(steps.max(initial=0)).bit_length() + 7) // 8
    return {
        "grams": _text(steps.view(np.uint8).reshape(len(steps), 8)[:, :width]),
        "frequency": _text(np.minimum(frequency, MANY).astype(np.uint8)),
        "many": _text(frequency[frequency >= MANY].astype("<u4")),
    }


def _text(numbers: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(numbers.tobytes()).decode("ascii")


@lru_cache(maxsize=4)
def _unpack(grams: str, frequency: str, many: str) -> _Table:
    """Return what `_pack` packed as a table; kept, as every batch needs it.

    Raises:
        CxrbenchError: it is not what `_pack` makes.
    """
    try:
        raw, times, rest = _numbers(grams, np.uint8), _numbers(frequency, np.uint8), _numbers(many, "<u4")
        width = len(raw) // max(len(times), 1)
        steps = np.zeros((len(times), 8), np.uint8)
        steps[:, :width] = raw.reshape(len(times), width)
    except (ValueError, TypeError) as error:
        raise _damaged() from error
    keys = np.cumsum(steps.view("<u8").ravel(), dtype=np.uint64)
    often, times = times == MANY, times.astype(np.int64)
    if often.sum() != len(rest) or times.min(initial=1) < 1 or not (keys[1:] > keys[:-1]).all():
        raise _damaged()
    times[often] = rest
    return _Table.of(keys, times)


def _numbers(text: str, kind: str | type) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(text, validate=True), kind)


@dataclass(frozen=True, slots=True)
class _Table:
    """Known n-grams in memory, ascending, an end mark behind them; log of their document frequency, 0 for the mark.

    `first` gives, for every value of the upper bits, where to start looking: hashes are evenly spread, so the n-gram is
    within a few places of it. This is four times as fast as a binary search.
    """

    grams: Hashes
    log_frequency: Floats
    first: Integers
    shift: np.uint64

    @classmethod
    def of(cls, grams: Hashes, frequency: Integers) -> _Table:
        bits = len(grams).bit_length() + 1
        shift = np.uint64(64 - bits)
        first = np.searchsorted(grams, np.arange(1 << bits, dtype=np.uint64) << shift)
        marked = np.append(grams, np.uint64(0xFFFF_FFFF_FFFF_FFFF))
        return cls(marked, np.append(np.log(frequency), 0.0), first, shift)

    def log_frequencies(self, grams: Hashes) -> Floats:
        """Those of n-grams (g,), 0 for unknown ones."""
        at = self.first[(grams >> self.shift).astype(np.intp)]
        behind = np.flatnonzero(self.grams[at] < grams)
        while len(behind):
            at[behind] += 1
            behind = behind[self.grams[at[behind]] < grams[behind]]
        return np.where(self.grams[at] == grams, self.log_frequency[at], 0.0)
