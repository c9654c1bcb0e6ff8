"""The texts both sides read: real IU-Xray reports, a real system's predictions, invented probes, and awkward ones.

The real ones lie outside the repository and never enter it; what is recorded names them by position and hash.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tools.oracle_weights import probes
from tools.record_goldens import ODD

REAL = {"chexbert": 1500, "radgraph": 1000}
"""Distinct real reports that each annotator reads."""
SCORED = 200
"""Pairs that BERTScore compares, beside the awkward ones."""
REPORTS = "iu_xray/kaggle/indiana_reports.csv"
SYSTEM = "metric_cases/iu_cvt2distilgpt2_r2gen_test_590.json"


@dataclass(frozen=True, slots=True)
class Texts:
    """`real` distinct real reports, `others` of every other kind, `pairs` of prediction and reference among them."""

    real: tuple[str, ...]
    others: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]

    @property
    def all(self) -> list[str]:
        """Every distinct text, real ones first."""
        return list(dict.fromkeys([*self.real, *self.others]))

    @property
    def hash(self) -> str:
        """Of all texts and pairs, in order."""
        return hashlib.sha256(json.dumps([self.all, self.pairs]).encode()).hexdigest()[:16]


def read(data: Path, annotator: str) -> Texts:
    """The texts of an annotator, and the pairs its scores are compared on."""
    system = read_system(data)
    references = dict.fromkeys(reference for _, reference in system)
    written = dict.fromkeys([*references, *read_reports(data)])
    real = tuple(text for text, _ in zip(written, range(REAL[annotator]), strict=False))
    awkward = odd()
    pairs = (*system, *zip(awkward, [*awkward[3:], *awkward[:3]], strict=True))
    predictions = [prediction for prediction, _ in system]
    return Texts(real, tuple(dict.fromkeys([*predictions, *probes(100), *awkward])), pairs)


def scored(data: Path) -> list[tuple[str, str]]:
    """Pairs for BERTScore; one by one, so that padding changes nothing in the package."""
    awkward = [text for text in odd() if text.strip()]
    return [*read_system(data)[:SCORED], *pairwise(awkward)]


def odd() -> list[str]:
    """Empty, one word, marks only, other scripts, and longer than an encoder takes at once."""
    words = " ".join(probes(200, seed=3)).split()
    rng = random.Random(1)
    return [*ODD, *(" ".join(rng.choices(words, k=count)) for count in (400, 600)), "." * 90]


def read_reports(data: Path) -> list[str]:
    """Findings and impressions of the Kaggle form, in the order of the file."""
    with (data / REPORTS).open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [text for row in rows for text in (row["findings"].strip(), row["impression"].strip()) if text]


def read_system(data: Path) -> Sequence[tuple[str, str]]:
    """(prediction, reference) of a published system on a test split, as they were written."""
    case = json.loads((data / SYSTEM).read_text(encoding="utf-8"))
    said, true = case["hypotheses_raw"], case["references_raw"]
    return [(said[name], true[name]) for name in true]
