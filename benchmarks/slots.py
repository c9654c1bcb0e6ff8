"""Engine slots beside engine transformers: reports per second of the demo model, and what the runner costs.

    python -m benchmarks.slots [--studies 256] [--rounds 3] [--also 32 64]

The shipped demo model writes the findings of drawn studies of phantom, greedy, at their natural lengths, on the CPU.
`engine` is generate alone, with images read before; `run` is the loop of `cxrbench run` (reading and drawing images
with two threads, answering, writing predictions), without loading and scoring. Each engine has the batches it takes by
default; `--also` adds transformers with larger ones, since a larger batch alone is part of what is gained. Rounds take
turns (A B C, C B A, ...) in one process and the fastest of each counts. Required: slots at least 1.5 times transformers
(engine, default batches), equal texts, and less than 5 % of a run in which nobody reads or answers.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxrbench.config import load_config
from cxrbench.data.load import TaskData
from cxrbench.engines.build import make_model
from cxrbench.models.base import ModelOptions, Prepared
from cxrbench.plan import Plan, RunSettings, plan_run
from cxrbench.runner import execute, peak_rss
from cxrbench.spec import find_task
from cxrbench.store import RunFolder

REQUIRED, OVERHEAD = 1.5, 0.05


@dataclass
class Side:
    """An engine with a batch size, and the fastest of what was measured."""

    name: str
    model: Any
    plan: Plan
    texts: dict[str, str] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    engine: float = float("inf")
    run: float = float("inf")
    idle: float = float("inf")


def make_side(engine: str, studies: int, size: int | None) -> Side:
    data = TaskData.find(find_task("demo-findings"), load_config())
    model = make_model("demo", ModelOptions(device="cpu", extra={"target": "findings"}), engine)
    plan = plan_run(data, model, RunSettings(limit=studies, batch_size=size, generation=model.generation))
    model.circumstances()
    return Side(f"{engine}, batches of {plan.manifest.batch_size}", model, plan)


def engine_alone(side: Side, prepared: Sequence[Sequence[Prepared]]) -> None:
    """Seconds of generate over all batches."""
    begin = time.perf_counter()
    results = [side.model.generate(number, batch) for number, batch in enumerate(prepared)]
    spent = time.perf_counter() - begin
    side.texts = {each.sample_id: each.text or "" for result in results for each in result.predictions}
    if spent < side.engine:
        side.engine = spent
        side.stages = {
            name: sum(getattr(result.timing, name) or 0.0 for result in results)
            for name in ("encode", "prefill", "decode")
        }


@contextmanager
def at_work(model: Any) -> Iterator[list[tuple[float, float]]]:
    """Collect when the model reads or answers, as (begin, end)."""
    found: list[tuple[float, float]] = []
    lock = threading.Lock()
    stock = {name: getattr(model, name) for name in ("prepare", "generate")}

    def timed(work: Any) -> Any:
        def done(*given: Any) -> Any:
            begin = time.perf_counter()
            try:
                return work(*given)
            finally:
                with lock:
                    found.append((begin, time.perf_counter()))

        return done

    for name, work in stock.items():
        setattr(model, name, timed(work))
    try:
        yield found
    finally:
        for name in stock:
            delattr(model, name)


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds in which at least one span was open."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def whole_run(side: Side) -> None:
    """Seconds of the loop, and its share in which the model neither read nor answered."""
    with tempfile.TemporaryDirectory() as place, at_work(side.model) as spans:
        begin = time.perf_counter()
        execute(RunFolder(Path(place) / "run"), side.plan, side.model, {}, 2, lambda done, total: None)
        spent = time.perf_counter() - begin
    if spent < side.run:
        side.run, side.idle = spent, 1 - covered(spans) / spent


def show(sides: Sequence[Side], studies: int) -> list[str]:
    """Print the figures; what was missed."""
    first, ours = sides[0], sides[-1]
    print(f"{studies} studies of phantom, model demo, CPU, {len(set(ours.texts.values()))} different texts")
    heads = (
        ("encode", 8),
        ("prefill", 9),
        ("decode", 8),
        ("engine", 8),
        ("reports/s", 11),
        ("run", 8),
        ("reports/s", 11),
    )
    print(f"{'seconds':32}" + "".join(f"{head:>{width}}" for head, width in heads) + f"{'runner':>8}")
    for side in sides:
        stages = "".join(f"{side.stages[name]:>{width}.2f}" for name, width in heads[:3])
        print(
            f"{side.name:32}{stages}{side.engine:>8.2f}{studies / side.engine:>11.1f}"
            f"{side.run:>8.2f}{studies / side.run:>11.1f}{side.idle:>8.1%}"
        )
    for side in sides[:-1]:
        print(f"slots over {side.name:32} engine {side.engine / ours.engine:.2f}, run {side.run / ours.run:.2f}")
    equal = sum(ours.texts[key] == text for key, text in first.texts.items())
    print(f"texts equal: {equal} of {studies}; peak memory of the process {peak_rss() / 2**20:.0f} MiB")
    gained = first.engine / ours.engine
    rows = (
        (gained >= REQUIRED, f"slots over transformers {gained:.2f}, required {REQUIRED}"),
        (equal == studies, f"{studies - equal} texts differ"),
        *((s.idle < OVERHEAD, f"{s.name}: runner {s.idle:.1%}, required below {OVERHEAD:.0%}") for s in sides),
    )
    return [what for holds, what in rows if not holds]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--also", type=int, nargs="*", default=[32, 64], help="further batch sizes of transformers")
    wanted = parser.parse_args()
    sides = [make_side("transformers", wanted.studies, size) for size in (None, *wanted.also)]
    sides.append(make_side("slots", wanted.studies, None))
    prepared = {s.name: [[s.model.prepare(each) for each in batch] for batch in s.plan.batches] for s in sides}
    for turn in range(wanted.rounds):
        for side in sides if turn % 2 == 0 else sides[::-1]:
            engine_alone(side, prepared[side.name])
            whole_run(side)
    missed = show(sides, wanted.studies)
    if missed:
        raise SystemExit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
