"""1, 2, 4, 8 workers with a model, or an annotator, that only sleeps: what the harness costs when workers are added.

    python -m benchmarks.scaling [--batches 200] [--sleep 0.1] [--stage answer|score]

Every worker gets as many batches of four samples (weak scaling), each of which sleeps; reports per second are those of
the run's summary: reports over the window from the first worker's first batch to the last one's last. Efficiency is
that rate over the rate of one worker times their number. Starting Python eight times takes a machine of few processors
seconds, in which the first workers are at work already: that is part of the window. The rate while all are at work
stands beside it: the sum of the workers' own rates.

With `score` the batches are blocks of two texts that an annotator reads while it sleeps, the window is that from the
first worker's first block to the last one's last.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from cxrbench.store import RunFolder
from tests.workers.trial import Scoring, Trial

ASKED = 0.9


def measure(place: Path, workers: int, batches: int, sleep: float) -> tuple[float, float]:
    """Reports per second over the window, and the sum of the workers' own rates."""
    trial = Trial(place / str(workers), samples=4 * batches * workers, seconds=sleep, batch=4)
    out = trial.place / "run"
    trial.finish(out, "--launcher", "processes", "--workers", str(workers))
    speed = json.loads((out / "summary.json").read_text())["speed"]
    claims = RunFolder(out).claims
    rates = []
    for claim in claims.claims():
        beat = claims.beat(claim.shard)
        assert beat is not None
        assert beat.state == "done"
        rates.append(beat.answered / (beat.clock - claim.place.clock))
    return speed["reports_per_s"], sum(rates)


def measure_scoring(place: Path, workers: int, batches: int, sleep: float) -> tuple[float, float]:
    """Texts per second over the window, and the sum of the workers' own rates."""
    trial = Trial(place / str(workers), samples=batches * workers, seconds=0, batch=64)
    trial.finish(trial.place / "made")
    scoring = Scoring(trial, trial.place / "made", sleep=sleep)
    at = scoring.place("scored")
    scoring.finish(at, "--launcher", "processes", "--workers", str(workers))
    ends: dict[str, list[float]] = {}
    for line in (at / "log").read_text().splitlines():
        _, pid, clock, annotator = line.split()
        if annotator == "slow-counts":
            ends.setdefault(pid, []).append(float(clock))
    assert len(ends) == workers
    begins = [min(clocks) - sleep for clocks in ends.values()]
    window = max(map(max, ends.values())) - min(begins)
    own = sum(len(clocks) / (max(clocks) - began) for clocks, began in zip(ends.values(), begins, strict=True))
    return sum(map(len, ends.values())) / window, own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--sleep", type=float, default=0.1)
    parser.add_argument("--stage", choices=["answer", "score"], default="answer")
    given = parser.parse_args()
    what, count = ("reports/s", measure) if given.stage == "answer" else ("texts/s", measure_scoring)
    print(f"{'workers':>8}{what:>12}{'efficiency':>12}{'all at work':>14}{'efficiency':>12}")
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for workers in (1, 2, 4, 8):
            found[workers] = count(Path(place), workers, given.batches, given.sleep)
            window, own = (found[workers][i] / (workers * found[1][i]) for i in (0, 1))
            print(
                f"{workers:>8}{found[workers][0]:>12.1f}{window:>12.1%}{found[workers][1]:>14.1f}{own:>12.1%}",
                flush=True,
            )
    if found[8][0] / (8 * found[1][0]) < ASKED:
        raise SystemExit(f"missed: less than {ASKED:.0%} at 8 workers")


if __name__ == "__main__":
    main()
