"""What readers are asked: scales, error categories, preferences. Data only; the form and its analysis share them."""

from __future__ import annotations

from collections.abc import Mapping

POINTS = (1, 2, 3, 4, 5)
"""Of every scale; higher is better."""

SCALES: Mapping[str, tuple[str, str, str]] = {
    "correctness": ("Correctness", "wrong in what matters", "nothing in it is wrong"),
    "completeness": ("Completeness", "what matters is missing", "nothing that matters is missing"),
    "coherence": ("Coherence", "contradictory or unreadable", "clear, consistent, well ordered"),
}
"""Scale -> its title, what 1 means, what 5 means."""

ERRORS: Mapping[str, str] = {
    "false_finding": "finding that is not there",
    "missed_finding": "finding that is missing",
    "wrong_location": "wrong place of a finding",
    "wrong_severity": "wrong severity of a finding",
    "false_comparison": "comparison that cannot be made",
    "missed_comparison": "change from before that is missing",
}
"""The six categories of Yu et al. (Patterns 2023, the ReXVal study), each counted as significant or not."""

SIGNIFICANCE = ("significant", "insignificant")
"""Clinically significant errors and the others, in the order in which counts stand."""

CHOICES = ("first", "second", "equal")
"""Answers to "which report is better?"."""
