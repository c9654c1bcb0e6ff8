"""A simulated model with known step times: it moves a clock of its own and answers like an engine."""

import random
from dataclasses import dataclass, field

from cxrbench.models.base import BatchResult, ModelCard, Prepared
from cxrbench.throughput.arm import Arm
from cxrbench.throughput.configuration import Configuration
from cxrbench.throughput.protocol import Rules
from cxrbench.types import OK, BatchTiming, Generation, Prediction, Request

RULES = Rules(blocks=6, seconds=0, block_seconds=5)


def noisy(seed, share=0.01):
    draw = random.Random(seed)
    return lambda: max(0.5, 1 + draw.gauss(0, share))


class VirtualClock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds
        return seconds


@dataclass
class Times:
    """Seconds: per image, per image, per image, per prompt token, per step, per row and step."""

    read: float = 0.010
    pixels: float = 0.005
    encode: float = 0.020
    prompt: float = 0.0001
    step: float = 0.008
    row: float = 0.0005
    cold: int = 0
    noise: object = None


@dataclass
class Simulated:
    clock: VirtualClock
    times: Times
    image_tokens: int = 576
    prompt_tokens: int = 636
    lengths: list = field(default_factory=list)
    spoil: dict = field(default_factory=dict)
    calls: int = 0
    card = ModelCard("simulated", "known step times")

    def spent(self, seconds):
        factor = 1.0 if self.times.noise is None else self.times.noise()
        return self.clock.spend(seconds * factor)

    def prepare(self, request):
        times = {"image_read": self.spent(self.times.read), "preprocess": self.spent(self.times.pixels)}
        return Prepared(request, payload=True, times=times)

    def generate(self, number, prepared):
        self.calls += 1
        if self.calls <= self.times.cold:
            self.clock.spend(1.0)  # a compilation
        begin, rows = self.clock(), len(prepared)
        lengths = [each.request.generation.max_new_tokens for each in prepared]
        encode = self.spent(rows * self.times.encode)
        prefill = self.spent(rows * self.prompt_tokens * self.times.prompt)
        decode = self.spent((max(lengths) - 1) * (self.times.step + rows * self.times.row))
        wrong = self.spoil.get(self.calls, {})
        answers = tuple(
            Prediction(
                each.request.sample_id,
                wrong.get("outcome", OK),
                text="word " * length,
                finish_reason="length",
                prompt_tokens=self.prompt_tokens,
                image_tokens=wrong.get("image_tokens", self.image_tokens),
                output_tokens=wrong.get("tokens", length),
            )
            for each, length in zip(prepared, lengths, strict=True)
        )
        timing = BatchTiming(number, rows, self.clock() - begin, encode, prefill, decode)
        return BatchResult(answers, timing)

    def seconds(self, reports, batch, tokens):
        """What a window takes, by hand."""
        t = self.times
        batches = reports // batch
        alone = t.read + t.pixels + t.encode + self.prompt_tokens * t.prompt
        return reports * alone + batches * (tokens - 1) * (t.step + batch * t.row)


def arm(name="a", times=None, clock=None, tokens=100, batch=4, pool=64, scenario="offline", **more):
    clock = clock or VirtualClock()
    model = Simulated(clock, times or Times(), **more)
    requests = [Request(f"s{i}", "generate", generation=Generation(max_new_tokens=tokens)) for i in range(pool)]
    configuration = Configuration(name, "simulated", batch=batch, tokens=tokens, scenario=scenario)
    return Arm(configuration, model, requests, batch, tokens=[tokens] * pool, image_tokens=576, workers=0, clock=clock)
