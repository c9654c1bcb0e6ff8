"""What both annotators' tests need: the recorded lines, and the weights on our side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tools.parity.record import hashed

DTYPES = {"fp32": torch.float32, "fp64": torch.float64}
CASES = [(chosen, name) for chosen in ("full", "embedded") for name in DTYPES]
LEAST = {"chexbert": 1500, "radgraph": 1000}
"""Distinct real reports that are to be compared."""
CLOSE = 1e-4
"""Margin of the reference's decision below which single precision may decide otherwise."""


def recorded(work: Path, annotator: str, case: tuple[str, str], texts: list[str]) -> list[dict[str, Any]]:
    """The lines of a recording, which must be of exactly these texts."""
    file = work / f"{annotator}-{case[0]}-{case[1]}.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [line["text_hash"] for line in lines] == [hashed(text) for text in texts], f"{file} is of other texts"
    return lines


def on_pairs(work: Path, annotator: str, case: tuple[str, str]) -> dict[str, Any]:
    """What the package's scorer said of the pairs."""
    found: dict[str, Any] = json.loads((work / f"{annotator}-{case[0]}-{case[1]}.pairs.json").read_text())
    return found


def place(work: Path, chosen: str) -> Path:
    """The folder of a set of weights."""
    return work / ("weights" if chosen == "full" else chosen)
