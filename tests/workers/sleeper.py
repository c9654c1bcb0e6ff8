"""A model for trials with many workers: it sleeps, and answers with a text that only its request decides.

`install` makes a package of it that every process finds by its entry point, as a user's own model would be.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from cxrbench.models.base import ModelCard
from cxrbench.models.baselines import Lookup
from tests.workers.reader import POINTS

ROOT = Path(__file__).resolve().parents[2]


class Sleeper(Lookup):
    """`--model sleeper:SECONDS`: every batch takes so long; `sleeper:SECONDS:DIE` dies in the batch numbered DIE."""

    card = ModelCard("sleeper", "sleeps and answers", revision="1")
    batch_size = 4

    def __init__(self, options):
        seconds, _, die = options.argument.partition(":")
        self.seconds = float(seconds or 0)
        self.die = int(die) if die else None

    def identity(self):
        return {"name": "sleeper"}

    def circumstances(self):
        return {**super().circumstances(), "timed": True}

    def generate(self, batch, prepared):
        time.sleep(self.seconds)
        if batch == self.die:
            os.kill(os.getpid(), 9)
        return super().generate(batch, prepared)

    def text(self, request):
        return f"Draw {request.seed % 997} of {request.sample_id}."


def install(place: Path) -> dict[str, str]:
    """Make the package in a folder; returns the environment in which processes find it."""
    info = place / "sleeper-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sleeper\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[cxrbench.models]\nsleeper = tests.workers.sleeper:Sleeper\n{POINTS}")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(place)])}
