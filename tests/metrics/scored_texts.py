"""Invented report pairs, and the scorer's own steps in a few lines: fit, features, statistics in chunks, value."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from cxrbench import registry
from cxrbench.metrics.base import Context, Corpus, Feature, Metric, Pairs

PAIRS = [
    ("No acute cardiopulmonary process.", "No acute cardiopulmonary process."),
    ("The heart is mildly enlarged. No effusion.", "Mild cardiomegaly. No pleural effusion or pneumothorax."),
    ("There is a small left effusion. There is a small left effusion.", "There is a small left pleural effusion."),
    ("", "Lungs are clear."),
    ("Lungs are clear.", ""),
    ("", ""),
    ("Normal", "Normal"),
    ("Normal", "Clear"),
    ("1. Stable 4.8 cm mass, right  upper lobe.\n2. No edema/effusion.", "Stable 4.8 cm mass in the right upper lobe."),
    ("Épanchement pleural à gauche, œdème — 20 %", "Épanchement pleural minime à gauche, sans œdème"),
    ("two  spaces here", "two  spaces there  too"),
    ("tab\tand space", "tab and\tspace"),
    ("XXXX opacity , XXXX opacity .", "XXXX opacity , no effusion ."),
]
"""(prediction, reference): the usual and the awkward."""

LONG = ("the lungs are clear and the heart is normal " * 556, "the heart is normal and the lungs are clear " * 400)

words = st.sampled_from(["the", "heart", "is", "large", "no", "effusion", ".", ",", "Heart", "é"])
reports = st.lists(words, max_size=30).map(" ".join)
report_pairs = st.lists(st.tuples(reports, reports), min_size=1, max_size=8)
any_text = st.text(st.characters(codec="utf-8"), max_size=60)
"""Any text at all, for tokenizers."""

few = settings(max_examples=30)
"""For properties compared with a slow reference implementation."""

Values = dict[str, np.ndarray]


@cache
def feature(name: str) -> Feature:
    """The registered feature; looked up once, as looking up reads the metadata of every installed package."""
    made: Feature = registry.load("features", name)()
    return made


def rows_of(
    metric: Metric, pairs: Sequence[tuple[str, str]], corpus: Corpus | None = None, chunk: int = 10_000
) -> tuple[np.ndarray, Context]:
    """Statistics (n, k) of the pairs, `chunk` at a time, with a context that went through JSON."""
    fitted = metric.fit(corpus or Corpus([reference for _, reference in pairs]))
    context = Context(json.loads(json.dumps(fitted.data)), fitted.hash, fitted.counts)
    parts = []
    for start in range(0, max(len(pairs), 1), chunk):
        some = pairs[start : start + chunk]
        batch = Pairs([str(i) for i in range(len(some))], [p for p, _ in some], [r for _, r in some])
        features = {
            request: feature(request.name).extract(batch, dict(request.settings)) for request in metric.needs(context)
        }
        parts.append(metric.statistics(batch, features, context).rows[:, 0])
    return np.concatenate(parts), context


def score(metric: Metric, pairs: Sequence[tuple[str, str]], corpus: Corpus | None = None) -> tuple[Values, Values]:
    """Corpus values and per-sample values."""
    rows, _ = rows_of(metric, pairs, corpus)
    return metric.value(rows.sum(axis=0)), metric.value(rows)


def own_package(package: Path, place: Path) -> Path:
    """A package folder that only the caller's tests use, in which nobody else's temporary files come and go.

    Its files are hard links where the file system allows that (100 MB), copies elsewhere.
    """

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)

    return shutil.copytree(package, place, copy_function=link, ignore=shutil.ignore_patterns("tmp*", "__pycache__"))


def as_coco(pairs: Sequence[tuple[str, str]]) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """References and predictions as pycocoevalcap takes them."""
    return {i: [r] for i, (_, r) in enumerate(pairs)}, {i: [p] for i, (p, _) in enumerate(pairs)}
