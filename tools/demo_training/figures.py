"""Findings with their side in reports against those drawn: the figures everything about the demo models is told in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from cxrbench.data.phantom_world import GRADED, KINDS, Finding, grade
from cxrbench.features.phantom_labels import read


def said(report: str) -> dict[str, str]:
    """Places a report names, and the word of their severity ("" where it names none)."""
    found: dict[str, str] = {}
    for name in read(report).fine:
        kind, *rest = name.split("/")
        sides = [part for part in rest if part in ("left", "right")]
        words = [part for part in rest if part not in ("left", "right")]
        found["/".join([kind, *sides])] = words[0] if words else ""
    return found


def compare(reports: Iterable[str], truths: Iterable[Sequence[Finding]]) -> dict[str, Any]:
    """Micro F1, precision and recall over (finding, side), F1 by kind, and the share of right severity words.

    A finding on both sides is two. A sided finding named without its side is a false alarm, and its truth missed.
    """
    hits: Counter[str] = Counter()
    alarms: Counter[str] = Counter()
    misses: Counter[str] = Counter()
    graded = right = 0
    for report, findings in zip(reports, truths, strict=True):
        named = said(report)
        true = {finding.place: finding for finding in findings}
        hits.update(place.split("/")[0] for place in named.keys() & true.keys())
        alarms.update(place.split("/")[0] for place in named.keys() - true.keys())
        misses.update(place.split("/")[0] for place in true.keys() - named.keys())
        for place in named.keys() & true.keys():
            if true[place].kind in GRADED:
                graded += 1
                right += named[place] == grade(true[place].kind, true[place].severity)
    return {
        **rates(hits.total(), alarms.total(), misses.total()),
        "severity": right / graded if graded else 0.0,
        "kinds": {kind: rates(hits[kind], alarms[kind], misses[kind])["f1"] for kind in KINDS},
    }


def rates(hits: int, alarms: int, misses: int) -> dict[str, float]:
    """F1, precision and recall; 0 where there is nothing to divide by.

    >>> rates(3, 1, 2)
    {'f1': 0.6666666666666666, 'precision': 0.75, 'recall': 0.6}
    """
    return {
        "f1": 2 * hits / max(2 * hits + alarms + misses, 1),
        "precision": hits / max(hits + alarms, 1),
        "recall": hits / max(hits + misses, 1),
    }
