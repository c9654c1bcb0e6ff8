"""What a judge's counts come to: the published formulas, as pure functions. Touches the standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ERRORS = (
    "false_positive_finding",
    "omission_finding",
    "incorrect_location",
    "incorrect_severity",
    "false_positive_comparison",
    "omission_comparison",
)
"""The six kinds of errors of ReXVal, CheXprompt (A-F) and GREEN (a-f), in this order."""


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Errors by kind in the order of `ERRORS`; `matched` findings where the judge counts them."""

    significant: tuple[int, ...]
    insignificant: tuple[int, ...]
    matched: int = 0


def green(matched: int, significant: int) -> float:
    """GREEN: matched findings over these and the significant errors; 0 where nothing matched (Ostmeier et al. 2024).

    >>> green(2, 4), green(0, 0)
    (0.3333333333333333, 0.0)
    """
    return matched / (matched + significant) if matched else 0.0


def verbosity(candidate: str, reference: str) -> float:
    """Words of the candidate over those of the reference, which counts as one word where it is empty."""
    return len(candidate.split()) / max(len(reference.split()), 1)


def length_controlled(score: float, relative: float) -> float:
    """A score over relative verbosity, where that is above 1: LC-GREEN of CheXalign (preference tuning).

    >>> length_controlled(0.6, 1.5), length_controlled(0.6, 0.5)
    (0.39999999999999997, 0.6)
    """
    return score / max(relative, 1.0)


SIGNIFICANCE: Mapping[str, float] = {
    "urgent": 1.0,
    "actionable_not_urgent": 0.5,
    "not_actionable_not_urgent": 0.25,
    "benign_expected": 0.0,
}
UNKNOWN_SIGNIFICANCE = 0.25
ATTRIBUTE: Mapping[str, float] = {"significant": 0.5, "negligible": 0.0}
UNKNOWN_ATTRIBUTE = 0.25


@dataclass(frozen=True, slots=True)
class Crimson:
    """What a judge found for CRIMSON: weights of findings by id, matches, and errors.

    `attributes` are (reference id, weight) of errors in attributes of matched findings.
    """

    reference: Mapping[str, float]
    predicted: Mapping[str, float]
    matched: Sequence[tuple[str, str]]
    false: Sequence[str]
    missing: Sequence[str]
    attributes: Sequence[tuple[str, float]]


def weight(significance: object) -> float:
    """The weight of a finding by its clinical significance; 0.25 where the judge named another."""
    return SIGNIFICANCE.get(significance, UNKNOWN_SIGNIFICANCE) if isinstance(significance, str) else 0.25


def crimson(found: Crimson) -> float:
    """CRIMSON in (-1, 1] (Baharoon et al. 2026, arXiv 2603.06183), rounded to four decimals as published.

    Each matched reference finding of weight w counts w * w / (w + its attribute errors); false findings are taken off;
    both over the weight of the reference. Missing findings count through that weight alone.
    """
    attributes: dict[str, float] = {}
    for name, amount in found.attributes:
        attributes[name] = attributes.get(name, 0.0) + amount
    matched = dict.fromkeys(name for name, _ in found.matched)
    correct = 0.0
    for name in matched:
        own = found.reference.get(name, UNKNOWN_SIGNIFICANCE)
        correct += own * own / (own + attributes.get(name, 0.0)) if own else 0.0
    false = sum(found.predicted.get(name, UNKNOWN_SIGNIFICANCE) for name in found.false)
    missing = sum(found.reference.get(name, UNKNOWN_SIGNIFICANCE) for name in found.missing)
    whole = sum(found.reference.values()) if found.reference else len(matched) + missing
    nothing = 1.0 if not false and not missing else -(false + missing + 1.0)
    score = (correct - false) / whole if whole else nothing
    if score < 0:
        over = max(false - correct, 0.0)
        score = -over / (1.0 + over)
    return round(score, 4) + 0.0  # never -0.0


def share(statuses: Sequence[str]) -> float | None:
    """Share of phrases that are entailed; None where there is no phrase."""
    return sum(each == "entailment" for each in statuses) / len(statuses) if statuses else None
