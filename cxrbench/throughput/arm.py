"""An arm: a configuration with its model and requests, that answers some reports in a measured window.

`Arm.block` works on anything that satisfies `cxrbench.models.base.Model`; the clock can be given, so a simulated
model is measured like a real one. No torch here.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.models.shapes import Shape
from cxrbench.throughput.block import Block, Expected, Memory, checked
from cxrbench.throughput.configuration import Configuration
from cxrbench.throughput.device_state import Monitor, NoDevice
from cxrbench.types import Prediction, Request

if TYPE_CHECKING:
    from cxrbench.models.base import BatchResult, Model, Prepared


def _nothing() -> None: ...


AfterBlock = Callable[[int | None], Memory | None]
"""Called with a block's peak of the allocator: whose bytes these were."""


def _unknown() -> AfterBlock:
    return lambda peak: None


AHEAD = 2
"""Batches whose images are read ahead in the offline scenario, as in a run."""


@dataclass
class Arm:
    """A configuration ready to be measured. `requests` are the pool; no request comes twice within a window.

    `tokens` are the lengths to come out, request by request (None: as they come); `announce` is told them before each
    batch where the model has to be forced row by row. `shape` is what a roofline is drawn from, where it is known.
    `window` are the requests handed over at once, where an engine refills `batch` places from more than these; None:
    `batch` of them. `about` is what the loaded model says of itself. `ready` is called
    before each block, for what the process has only one of, `memory` after that, to know later whose bytes were whose.
    `settle`: each block comes after a batch that does not count, for what has to be made anew when its turn comes.
    """

    configuration: Configuration
    model: Model
    requests: Sequence[Request]
    batch: int
    tokens: Sequence[int] | None = None
    announce: Callable[[Mapping[str, int]], None] | None = None
    image_tokens: int | None = None
    window: int | None = None
    shape: Shape | None = None
    dtype: str = "bf16"
    about: dict[str, Any] = field(default_factory=dict)
    workers: int = 2
    clock: Callable[[], float] = time.perf_counter
    monitor: Monitor = field(default_factory=NoDevice)
    ready: Callable[[], None] = _nothing
    memory: Callable[[], AfterBlock] = _unknown
    settle: bool = False
    stable: bool = True
    spread: float | None = None
    _next: int = 0
    _made: int = 0

    @property
    def name(self) -> str:
        """The configuration's."""
        return self.configuration.name

    @property
    def most(self) -> int:
        """Reports a window can hold without an image coming twice: whole batches of the pool."""
        return len(self.requests) // self.batch * self.batch

    def rewind(self, place: int = 0) -> None:
        """Go on with the image at this place of the pool."""
        self._next = place % len(self.requests)

    def block(self, reports: int) -> Block:
        """Answer so many reports in one window.

        Raises:
            CxrbenchError: more than the pool holds.
        """
        if reports > len(self.requests):
            raise CxrbenchError(
                f"a window of {reports} reports needs as many images, and the pool has {len(self.requests)}",
                where=self.name,
                fix=f"--images {reports}",
            )
        places = [(self._next + each) % len(self.requests) for each in range(reports)]
        self._next = (self._next + reports) % len(self.requests)
        single = self.configuration.scenario == "single-stream"
        self.ready()
        memory, before = self.memory(), self.monitor.read()
        with self.monitor.watch() as watching:
            begin = self.clock()
            answered = list(self._one_by_one(places) if single else self._in_batches(places))
            seconds = self.clock() - begin
        after = self.monitor.read()
        made = self._block(answered, seconds)
        made = replace(made, memory=memory(made.peak_memory), before=before, after=after, during=watching.seen)
        self._made += 1
        tokens = None if self.tokens is None else tuple(self.tokens[place] for place in places)
        answers = [each for result, _, _ in answered for each in result.predictions]
        timings = [result.timing for result, _, _ in answered]
        return checked(made, answers, timings, Expected(tokens, self.image_tokens, self.batch))

    def _batches(self, places: Sequence[int]) -> list[list[int]]:
        size = self.window or self.batch
        return [list(places[start : start + size]) for start in range(0, len(places), size)]

    def _in_batches(self, places: Sequence[int]) -> Iterator[tuple[BatchResult, list[Prepared], float]]:
        """Offline: images of the next batches are read while the model answers this one."""
        batches = self._batches(places)
        if self.workers < 1:  # a simulated model: one thing after another
            for number, batch in enumerate(batches):
                yield self._generate(number, batch, [self.model.prepare(self.requests[place]) for place in batch])
            return
        waiting: deque[tuple[int, list[int], list[Future[Prepared]]]] = deque()
        with ThreadPoolExecutor(self.workers, thread_name_prefix="cxrbench-images") as pool:
            for number, batch in enumerate(batches):
                waiting.append(
                    (number, batch, [pool.submit(self.model.prepare, self.requests[place]) for place in batch])
                )
                if len(waiting) > AHEAD:
                    yield self._generate_read(*waiting.popleft())
            while waiting:
                yield self._generate_read(*waiting.popleft())

    def _generate_read(
        self, number: int, batch: Sequence[int], futures: Sequence[Future[Prepared]]
    ) -> tuple[BatchResult, list[Prepared], float]:
        return self._generate(number, batch, [future.result() for future in futures])

    def _one_by_one(self, places: Sequence[int]) -> Iterator[tuple[BatchResult, list[Prepared], float]]:
        """Single-stream: the next report is taken up when the last one is done."""
        for number, place in enumerate(places):
            begin = self.clock()
            result, prepared, _ = self._generate(number, [place], [self.model.prepare(self.requests[place])])
            yield result, prepared, self.clock() - begin

    def _generate(
        self, number: int, places: Sequence[int], prepared: list[Prepared]
    ) -> tuple[BatchResult, list[Prepared], float]:
        bad = next((each for each in prepared if each.failure is not None), None)
        if bad is not None and bad.failure is not None:
            raise CxrbenchError(
                f"an image of the pool cannot be used: {bad.failure[0]} ({bad.failure[1]})",
                where=self.name,
                code=Exit.UNDECIDED,
            )
        if self.announce is not None and self.tokens is not None:
            self.announce({self.requests[place].sample_id: self.tokens[place] for place in places})
        return self.model.generate(number, prepared), prepared, 0.0

    def _block(self, answered: Sequence[tuple[BatchResult, list[Prepared], float]], seconds: float) -> Block:
        answers = [each for result, _, _ in answered for each in result.predictions]
        timings = [result.timing for result, _, _ in answered]
        stages: dict[str, float | None] = {}
        for stage in ("image_read", "preprocess"):
            known = [each.times[stage] for _, batch, _ in answered for each in batch if stage in each.times]
            stages[stage] = sum(known) if len(known) == len(answers) else None
        for stage in ("encode", "prefill", "decode"):
            wall = [getattr(timing, stage) for timing in timings]
            stages[stage] = sum(wall) if all(value is not None for value in wall) else None
        texts = [each.text or "" for each in answers]
        peaks = [timing.peak_memory for timing in timings if timing.peak_memory]
        latencies, first, per_token = self._single(answered)
        return Block(
            configuration=self.name,
            number=self._made,
            reports=len(answers),
            batches=len(answered),
            seconds=seconds,
            engine_seconds=sum(timing.wall for timing in timings),
            stages=stages,
            output_tokens=sum(each.output_tokens or 0 for each in answers),
            chars=sum(map(len, texts)),
            words=sum(len(text.split()) for text in texts),
            prompt_tokens=sum(each.prompt_tokens or 0 for each in answers),
            image_tokens=sum(each.image_tokens or 0 for each in answers),
            steps=sum(self._steps(result.predictions) for result, _, _ in answered),
            positions=sum(map(_positions, answers)),
            latencies=latencies,
            first_tokens=first,
            per_token=per_token,
            peak_memory=max(peaks, default=None),
        )

    def _steps(self, answers: Sequence[Prediction]) -> int:
        """Decoding steps of a batch, at least: those of its longest text, or of `batch` places that are always full."""
        further = [max(0, (each.output_tokens or 0) - 1) for each in answers]
        return max(*further, math.ceil(sum(further) / self.batch))

    def _single(
        self, answered: Sequence[tuple[BatchResult, list[Prepared], float]]
    ) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
        """Latency, time to the first token and time per further token of every report, of single-stream blocks."""
        if self.configuration.scenario != "single-stream":
            return (), (), ()
        whole, first, each_token = [], [], []
        for result, _, latency in answered:
            whole.append(latency)
            decode, tokens = result.timing.decode, result.predictions[0].output_tokens
            if decode is not None:
                first.append(latency - decode)
                if tokens is not None and tokens > 1:
                    each_token.append(decode / (tokens - 1))
        return tuple(whole), tuple(first), tuple(each_token)


def _positions(answer: Prediction) -> int:
    """Tokens whose keys and values the n - 1 steps of a text read: prompt + 1, ..., prompt + n - 1."""
    tokens, steps = answer.output_tokens or 0, max(0, (answer.output_tokens or 0) - 1)
    return steps * (answer.prompt_tokens or 0) + steps * tokens // 2
