"""Multiple choice, by two protocols that give different numbers: option likelihood, and the letter that is written.

CheXbench's own scripts use the first for LLaVA-Med and other baselines and the second for CheXagent, Qwen-VL and GPT-4V
(evaluation_chexbench at 2e739c8), so its published table mixes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from cxrbench.metrics.base import (
    FAILED,
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

CITATION = ("Chen et al., CheXagent, arXiv:2401.12208, 2024 (CheXbench).",)
NOT_TOLD = "the data set does not tell which option is right"
LETTER = re.compile(r"\(([A-Z])\)")


def _asked(pairs: Pairs, at: int) -> tuple[int, int] | None:
    """(index of the right option, number of options), None where the data set does not tell."""
    told = (pairs.labels[at] if pairs.labels else {}).get("choice")
    return None if told is None else (int(told["answer"]), int(told["options"]))


class Choice(Metric):
    """Columns: count, right by mean and by sum of the option's token log-probabilities, one over the number of options.

    Ties go to the first option. `chance` is what guessing reaches on the average.
    """

    name = "choice"
    version = 2
    form = "choices"
    presets: ClassVar[Mapping[str, str]] = {"likelihood": "log-probability of each option after the question"}
    default_preset = "likelihood"
    values: ClassVar[Mapping[str, Value]] = {
        "accuracy": Value(True, (0.0, 1.0), primary=True),
        "accuracy_sum": Value(True, (0.0, 1.0)),
        "chance": Value(None, (0.0, 1.0), interval=False),
    }
    citation = CITATION

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        rows = np.zeros((len(pairs), 1, 4))
        status = np.full((len(pairs), 1), SCORED, np.uint8)
        reasons = [""] * len(pairs)
        for at, (scores, tokens) in enumerate(pairs.choices):
            told = _asked(pairs, at)
            if told is None:
                status[at], reasons[at] = SKIPPED, NOT_TOLD
            elif len(scores) != told[1] or len(tokens) != told[1]:
                status[at], reasons[at] = FAILED, f"the model scored {len(scores)} options of {told[1]}"
            elif min(tokens) < 1 or not np.isfinite(scores).all():
                status[at], reasons[at] = FAILED, "an option without tokens, or a log-probability that is no number"
            else:
                total, mean = np.array(scores), np.array(scores) / np.array(tokens)
                rows[at, 0] = (1, mean.argmax() == told[0], total.argmax() == told[0], 1 / told[1])
        return Statistics(rows, status, tuple(reasons))

    def value(self, sums: Floats) -> dict[str, Floats]:
        names = ("accuracy", "accuracy_sum", "chance")
        return {name: ratio(sums[..., at], sums[..., 0]) for at, name in enumerate(names, 1)}


class ChoiceLetter(Metric):
    """Columns: count, points, unread answers, one over the number of options.

    The first capital letter in brackets is what the model chose. `chance` is what guessing reaches on the average.
    """

    name = "choice-letter"
    version = 2
    presets: ClassVar[Mapping[str, str]] = {
        "strict": "an answer without a letter in brackets is wrong",
        "chexbench": "such an answer is worth a guess, 1 over the number of options; the authors' script draws one",
    }
    default_preset = "strict"
    values: ClassVar[Mapping[str, Value]] = {
        "accuracy": Value(True, (0.0, 1.0), primary=True),
        "unread": Value(False, (0.0, 1.0)),
        "chance": Value(None, (0.0, 1.0), interval=False),
    }
    citation = CITATION

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        rows = np.zeros((len(pairs), 1, 4))
        status = np.full((len(pairs), 1), SCORED, np.uint8)
        reasons = [""] * len(pairs)
        for at, said in enumerate(pairs.predictions):
            told = _asked(pairs, at)
            if told is None:
                status[at], reasons[at] = SKIPPED, NOT_TOLD
                continue
            letter = LETTER.search(said)
            guess = 1 / told[1] if self.preset == "chexbench" else 0.0
            points = guess if letter is None else float(ord(letter[1]) - ord("A") == told[0])
            rows[at, 0] = (1, points, letter is None, 1 / told[1])
        return Statistics(rows, status, tuple(reasons))

    def value(self, sums: Floats) -> dict[str, Floats]:
        names = ("accuracy", "unread", "chance")
        return {name: ratio(sums[..., at], sums[..., 0]) for at, name in enumerate(names, 1)}
