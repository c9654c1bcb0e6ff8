"""What the timing of a run costs: the demo model with its stage times, and with every clock taken out.

    python -m benchmarks.timing_overhead [--studies 32] [--rounds 12]

`run` reads clocks around images, tower, first scores, batches and samples, and writes a row of times per batch. Without
timing, the clock always says 0, the tower has no hooks and no row is written; the watch for NaN stays, since it guards
scores. The model is tiny, so fixed costs weigh the most they can. Rounds take turns (with, without, without, with,
...), on one thread, in processor time; of every batch the fastest of all rounds counts.
Required: an overhead below 1 %.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cxrbench.config import load_config
from cxrbench.data.load import TaskData
from cxrbench.engines.build import make_model
from cxrbench.models.base import ModelOptions, Prepared
from cxrbench.plan import RunSettings, plan_run
from cxrbench.spec import find_task
from cxrbench.store import Appender

REQUIRED = 0.01


class NoClock:
    """Says that it is always the same time, and has no peaks."""

    def now(self) -> float:
        return 0.0

    def forget_peak(self) -> None: ...

    def peak(self) -> None: ...


@contextmanager
def no_encoder_times(network: Any) -> Iterator[list[float]]:
    """Hooks on nothing."""
    yield []


@contextmanager
def untimed(engine: Any) -> Iterator[None]:
    """The engine without its clocks inside the block."""
    clock = engine._clock
    engine._clock, engine._timing_encoder = NoClock(), no_encoder_times
    try:
        yield
    finally:
        engine._clock = clock
        del engine._timing_encoder


def once(model: Any, number: int, batch: Sequence[Prepared], times: Appender | None) -> float:
    """Processor seconds of one batch: answered, and its row of times written where there are times."""
    begin = time.thread_time()
    result = model.generate(number, batch)
    if times is not None:
        times.write([{key: value for key, value in asdict(result.timing).items() if value is not None}])
    return time.thread_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=12)
    wanted = parser.parse_args()
    data = TaskData.find(find_task("demo-findings"), load_config())
    model: Any = make_model("demo", ModelOptions(device="cpu", extra={"target": "findings", "threads": "1"}))
    plan = plan_run(data, model, RunSettings(limit=wanted.studies, generation=model.generation))
    model.circumstances()
    batches = [[model.prepare(request) for request in batch] for batch in plan.batches]
    best = {name: [float("inf")] * len(batches) for name in ("timed", "untimed")}
    with tempfile.TemporaryDirectory() as place:
        times = Appender(Path(place) / "batches.jsonl")
        for turn in range(wanted.rounds):
            for number, batch in enumerate(batches):
                for name in ("timed", "untimed") if (turn + number) % 2 == 0 else ("untimed", "timed"):
                    if name == "timed":
                        spent = once(model, number, batch, times)
                    else:
                        with untimed(model.engine):
                            spent = once(model, number, batch, None)
                    if turn:  # the first round warms up
                        best[name][number] = min(best[name][number], spent)
        times.close()
    seconds = {name: sum(values) for name, values in best.items()}
    overhead = seconds["timed"] / seconds["untimed"] - 1
    print(json.dumps({**seconds, "overhead": overhead, "required": REQUIRED}, indent=1))
    if overhead >= REQUIRED:
        raise SystemExit(f"missed: timing costs {overhead:.2%}, required below {REQUIRED:.0%}")


if __name__ == "__main__":
    main()
