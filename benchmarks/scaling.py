"""1, 2, 4, 8 workers with a model that only sleeps: what the harness itself costs when workers are added.

    python -m benchmarks.scaling [--batches 200] [--sleep 0.1]

Every worker gets as many batches of four samples (weak scaling), each of which sleeps; reports per second are those of
the run's summary: reports over the window from the first worker's first batch to the last one's last. Efficiency is
that rate over the rate of one worker times their number. Starting Python eight times takes a machine of few processors
seconds, in which the first workers are at work already: that is part of the window. The rate while all are at work
stands beside it: the sum of the workers' own rates.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from cxrbench.store import RunFolder
from tests.workers.trial import Trial

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--sleep", type=float, default=0.1)
    given = parser.parse_args()
    print(f"{'workers':>8}{'reports/s':>12}{'efficiency':>12}{'all at work':>14}{'efficiency':>12}")
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for workers in (1, 2, 4, 8):
            found[workers] = measure(Path(place), workers, given.batches, given.sleep)
            window, own = (found[workers][i] / (workers * found[1][i]) for i in (0, 1))
            print(
                f"{workers:>8}{found[workers][0]:>12.1f}{window:>12.1%}{found[workers][1]:>14.1f}{own:>12.1%}",
                flush=True,
            )
    if found[8][0] / (8 * found[1][0]) < ASKED:
        raise SystemExit(f"missed: less than {ASKED:.0%} at 8 workers")


if __name__ == "__main__":
    main()
