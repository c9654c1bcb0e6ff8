"""Engine slots beside engine transformers: reports per second of the demo model, and what the runner costs.

    python -m benchmarks.slots [--studies 256] [--rounds 3] [--also 32 64]

The shipped demo model writes the findings of drawn studies of phantom, greedy, at their natural lengths, on the CPU.
`engine` is generate alone, with images read before; `run` is the loop of `cxrbench run` (reading and drawing images as
it does, answering, writing predictions to disk), without loading and scoring. `runner` is the share of the run in which
the loop's own thread neither answers a batch nor waits for images. Each engine has the batches it takes by default;
`--also` adds transformers with larger ones, since a larger batch alone is part of what is gained. Rounds take turns
(A B C, C B A, ...) in one process and the fastest of each counts. Required: slots at least 1.5 times transformers
(default batches; engine and run), equal texts, and less than 5 % of a run for the runner.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxrbench.config import load_config
from cxrbench.data.image_processes import ImageProcesses, reader
from cxrbench.data.load import TaskData
from cxrbench.engines.build import make_model
from cxrbench.models.base import ModelOptions, Prepared
from cxrbench.plan import Plan, RunSettings, plan_run
from cxrbench.runner import Arriving, execute, peak_rss
from cxrbench.spec import find_task
from cxrbench.store import RunFolder

REQUIRED, OVERHEAD, WORKERS = 1.5, 0.05, 2


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
    own: float = float("inf")


def make_side(engine: str, studies: int, size: int | None) -> Side:
    data = TaskData.find(find_task("demo-findings"), load_config())
    read = reader(WORKERS)
    options = ModelOptions(device="cpu", extra={"target": "findings"}, read_image=read)
    model = make_model("demo", options, engine)
    plan = plan_run(data, model, RunSettings(limit=studies, batch_size=size, generation=model.generation))
    if isinstance(read, ImageProcesses):
        read.start()
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
def at_work(model: Any) -> Iterator[list[float]]:
    """Collect the seconds in which the loop's own thread answers a batch or waits for images."""
    found: list[float] = []

    def timed(work: Callable[..., Any]) -> Any:
        def done(*given: Any) -> Any:
            begin = time.perf_counter()
            try:
                return work(*given)
            finally:
                found.append(time.perf_counter() - begin)

        return done

    stock = {name: getattr(model, name) for name in ("generate", "stream")}
    wait = Arriving.wait
    Arriving.wait = timed(wait)  # type: ignore[method-assign]
    for name, work in stock.items():
        setattr(model, name, work and timed(work))
    try:
        yield found
    finally:
        Arriving.wait = wait  # type: ignore[method-assign]
        for name, work in stock.items():
            setattr(model, name, work)


def whole_run(side: Side) -> None:
    """Seconds of the loop, and the share of it that is the runner's own."""
    with tempfile.TemporaryDirectory() as place, at_work(side.model) as spent_there:
        begin = time.perf_counter()
        execute(RunFolder(Path(place) / "run"), side.plan, side.model, {}, WORKERS, lambda done, total: None)
        spent = time.perf_counter() - begin
    if spent < side.run:
        side.run, side.own = spent, 1 - sum(spent_there) / spent


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
            f"{side.run:>8.2f}{studies / side.run:>11.1f}{side.own:>8.1%}"
        )
    for side in sides[:-1]:
        print(f"slots over {side.name:32} engine {side.engine / ours.engine:.2f}, run {side.run / ours.run:.2f}")
    equal = sum(ours.texts[key] == text for key, text in first.texts.items())
    print(f"texts equal: {equal} of {studies}; peak memory of the process {peak_rss() / 2**20:.0f} MiB")
    gained = {"engine": first.engine / ours.engine, "run": first.run / ours.run}
    rows = (
        *(
            (value >= REQUIRED, f"slots over transformers, {what}: {value:.2f}, required {REQUIRED}")
            for what, value in gained.items()
        ),
        (equal == studies, f"{studies - equal} texts differ"),
        *((s.own < OVERHEAD, f"{s.name}: runner {s.own:.1%}, required below {OVERHEAD:.0%}") for s in sides),
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
    whole_run(sides[0])  # what is imported once is no batch's
    sides[0].run = sides[0].own = float("inf")
    for turn in range(wanted.rounds):
        for side in sides if turn % 2 == 0 else sides[::-1]:
            engine_alone(side, prepared[side.name])
            whole_run(side)
    missed = show(sides, wanted.studies)
    if missed:
        raise SystemExit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
