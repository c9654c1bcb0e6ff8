"""Answers to questions: recall of open ones, accuracy of closed ones, as LLaVA-Med's evaluation counts them.

Words are those of the VQA challenge's normalisation as LLaVA-Med applies it (llava/eval/eval_metrics at ad758b6): lower
case, punctuation out, numbers as digits, articles dropped. Its table of contractions ("dont" for "don't") is not
applied, and its open accuracy against a list of candidate answers is not computed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from cxrbench.metrics.base import (
    SCORED,
    SKIPPED,
    Context,
    FeatureRequest,
    Floats,
    Metric,
    Pairs,
    Statistics,
    Value,
    ratio,
)

SIGNS = ';/[]"{}()=+\\_-><@`,?!'
"""Signs that are taken out; which way depends on the text they stand in."""

ARTICLES = frozenset({"a", "an", "the"})
DIGITS: Mapping[str, str] = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}  # fmt: skip
_THOUSANDS = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
YES_NO = frozenset({"yes", "no"})
STOPS = 32
"""Full stops that go: the original passes a flag where a count belongs, and the flag's value is 32."""


def words_of(text: str) -> list[str]:
    """The words of an answer, in order.

    A sign beside a space is taken out, one between letters becomes a space; in a text with a number like 1,000 every
    sign is taken out.

    >>> words_of("The X-ray shows two, maybe 3 masses.")
    ['x', 'ray', 'shows', '2', 'maybe', '3', 'masses']
    """
    out = text
    for sign in SIGNS:
        beside = f"{sign} " in text or f" {sign}" in text or _THOUSANDS.search(text)
        out = out.replace(sign, "" if beside else " ")
    words = _FULL_STOP.sub("", out, STOPS).lower().split()
    numbered = (DIGITS.get(word, word) for word in words)
    return [word.replace(",", "") for word in numbered if word not in ARTICLES]


class Vqa(Metric):
    """Columns: count; open questions with recall, F1, exact; closed ones counted and right.

    Recall counts an answer's word as often as the prediction says it, as the original does. `open_exact` is all words
    in order, where the original calls another number exact match (the share of said words that are the answer's).
    Nothing of a kind asked: not a number. A sample whose data set does not tell its kind (label `closed` of source
    `question`) is skipped.
    """

    name = "vqa"
    version = 1
    presets: ClassVar[Mapping[str, str]] = {
        "counted": "a closed question is right if the first yes or no said is the answer's, or its words are said",
        "llava-med": "as its script: a yes or no that is wrong is left out of the closed questions altogether",
    }
    default_preset = "counted"
    values: ClassVar[Mapping[str, Value]] = {
        "open_recall": Value(True, (0.0, 1.0), primary=True, counted_by="open_n"),
        "closed_accuracy": Value(True, (0.0, 1.0), primary=True, counted_by="closed_n"),
        "open_f1": Value(True, (0.0, 1.0), counted_by="open_n"),
        "open_exact": Value(True, (0.0, 1.0), counted_by="open_n"),
        "open_n": Value(None, (0.0, None), "questions", interval=False),
        "closed_n": Value(None, (0.0, None), "questions", interval=False),
    }
    citation = ("Li et al., LLaVA-Med, NeurIPS Datasets and Benchmarks, 2023 (open recall, closed accuracy).",)

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        rows = np.zeros((len(pairs), 1, 7))
        status = np.full((len(pairs), 1), SCORED, np.uint8)
        reasons = [""] * len(pairs)
        for at, (said, meant) in enumerate(zip(pairs.predictions, pairs.references, strict=True)):
            closed = (pairs.labels[at] if pairs.labels else {}).get("question", {}).get("closed")
            if closed is None:
                status[at], reasons[at] = SKIPPED, "the data set does not tell whether the question is open"
            elif closed:
                rows[at, 0] = (1, 0, 0, 0, 0, *self._closed(words_of(said), words_of(meant)))
            else:
                rows[at, 0] = (1, 1, *_open(words_of(said), words_of(meant)), 0, 0)
        return Statistics(rows, status, tuple(reasons))

    def _closed(self, said: list[str], meant: list[str]) -> tuple[int, int]:
        """(counted, right) of a closed question."""
        text, answer = " ".join(said), " ".join(meant)
        if self.preset == "counted":
            first = next((word for word in said if word in YES_NO), "")
            return 1, int(first == meant[0] if len(meant) == 1 and meant[0] in YES_NO else _contains(said, meant))
        if "yes" in text or "no" in text:  # of letters, not words: "nodule" says no
            return (1, 1) if answer in text else (0, 0)
        return 1, 0

    def value(self, sums: Floats) -> dict[str, Floats]:
        asked, recall, f1, exact, closed, right = (sums[..., at] for at in range(1, 7))
        return {
            "open_recall": ratio(recall, asked),
            "closed_accuracy": ratio(right, closed),
            "open_f1": ratio(f1, asked),
            "open_exact": ratio(exact, asked),
            "open_n": asked,
            "closed_n": closed,
        }


def _contains(said: list[str], meant: list[str]) -> bool:
    """Whether the words of the answer stand in a row in what is said; an empty answer in nothing."""
    size = len(meant)
    return bool(size) and any(said[at : at + size] == meant for at in range(len(said) - size + 1))


def _open(said: list[str], meant: list[str]) -> tuple[float, float, float]:
    """Recall, F1 and exact match of one open answer; nothing said or nothing meant: all 0."""
    ours, theirs = Counter(said), Counter(meant)
    both = sum(count for word, count in ours.items() if word in theirs)
    if not both:
        return 0.0, 0.0, 0.0
    missed = sum(count for word, count in theirs.items() if word not in ours)
    precision, recall = both / sum(ours.values()), both / (both + missed)
    return recall, 2 * precision * recall / (precision + recall), float(said == meant)
