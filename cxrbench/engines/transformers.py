"""Engine `transformers`: batches through stock `generate()`, times taken where they arise.

How times are taken (docs/models-hf.md, Times): `latency` of a sample runs from the moment its request is taken up,
before its first image byte is read, until its text is decoded; `wait` is the part of it between tensors that are ready
and the start of their batch. Of a batch, `encode` is the image tower, `prefill` the rest up to the first scores,
`decode` everything from there to the last token, `wall` the whole call. On a GPU each border waits for the device.
torch is imported inside functions.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from cxrbench.engines import checks
from cxrbench.engines import device as devices
from cxrbench.engines.batching import collate, shape_key
from cxrbench.engines.outputs import embedded, painted, vectors
from cxrbench.engines.sampling import SeededSampler, Watch
from cxrbench.engines.scoring import score_options
from cxrbench.models.adapter import Adapter, Encoded, Face, LoadSettings, Network
from cxrbench.models.base import BatchResult, ModelOptions, Prepared
from cxrbench.models.generation import Preset
from cxrbench.types import EMPTY, OK, REQUEST_KINDS, BatchTiming, Generation, Prediction, Request, RequestKind

WRITTEN = ("generate", "generate_image")
"""Requests that are answered token by token."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A request as tensors; when it was taken up, and when the tensors were ready (`time.perf_counter`)."""

    encoded: Encoded
    accepted: float
    ready: float

    def times(self, begin: float) -> dict[str, float]:
        """Times of a sample whose text was decoded just now, in a batch that started at `begin`."""
        return {"wait": begin - self.ready, "latency": time.perf_counter() - self.accepted}


@dataclass(slots=True)
class Stages:
    """Seconds of a batch by stage, added over its parts, which run one after another; `begin` is its start.

    `outputs` are its pictures and vectors by sample id.
    """

    begin: float
    encode: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    parts: int = 0
    outputs: dict[str, Any] = field(default_factory=dict)


class TransformersEngine:
    """See `cxrbench.engines.base.Engine`."""

    name: ClassVar[str] = "transformers"
    needs: ClassVar[Face] = "network"
    serves: ClassVar[frozenset[RequestKind]] = frozenset(REQUEST_KINDS)
    refuses: ClassVar[Mapping[RequestKind, str]] = {}
    settings: ClassVar[Mapping[str, str]] = {
        "device_map": "spread the network over devices: auto, balanced, sequential (needs accelerate)",
        "attention": "sdpa (the default), eager or another implementation transformers knows",
        "threads": "CPU threads of torch (its own choice by default); a tiny network is fastest with 1",
    }

    def __init__(self, adapter: Adapter, options: ModelOptions, preset: Preset) -> None:
        self.adapter = adapter
        self.read_image = options.read_image
        self.device = devices.pick_device(options.device)
        wanted = options.dtype if options.dtype != "auto" else preset.dtype
        self.load_settings = LoadSettings(
            dtype=devices.pick_dtype(wanted, self.device),
            device=self.device,
            device_map=options.extra.get("device_map"),
            attention=options.extra.get("attention", "sdpa"),
            load_format=options.load_format,
            seed=options.seed,
        )
        self.threads = checks.threads(options.extra.get("threads"))
        checks.check(self.load_settings)
        self._network: Network | None = None
        self._threads_before: int | None = None
        self._clock = devices.Clock([self.device])
        self._lock = threading.Lock()
        self._too_large: int | None = None

    @property
    def batch_size(self) -> int:
        """16 on a GPU, 8 on the CPU."""
        return 8 if self.device == "cpu" else 16

    def identity(self) -> dict[str, Any]:
        """What of the engine changes the text."""
        settings = self.load_settings
        return {"engine": self.name, "dtype": settings.dtype, "attention": settings.attention}

    def circumstances(self) -> dict[str, Any]:
        """Device, placement and what attention became; brings the network up."""
        network = self.load()
        return {
            **devices.describe(self.device),
            "placement": devices.devices_of(network.module),
            "attention": network.attention,
            "parameters": sum(parameter.numel() for parameter in network.module.parameters()),
        }

    def load(self) -> Network:
        """The network, loaded by the first caller; others wait."""
        with self._lock:
            if self._network is None:
                import torch

                self._threads_before = torch.get_num_threads()
                if self.threads is not None:
                    torch.set_num_threads(self.threads)
                self._network = self.adapter.load(self.load_settings)
                self._clock = devices.Clock(devices.devices_of(self._network.module))
            return self._network

    def close(self) -> None:
        """Drop the network, give its memory back, and torch the threads it had: what comes next may want them."""
        with self._lock:
            self._network = None
            if self._threads_before is not None:
                import torch

                torch.set_num_threads(self._threads_before)
                self._threads_before = None
        devices.release()

    def prepare(self, request: Request) -> Prepared:
        """Read the images and make tensors. Thread-safe; what is wrong with one sample is its `failure`."""
        self.load()
        return self.read(request)

    def read(self, request: Request) -> Prepared:
        """`prepare` without the network, which it does not need."""
        from cxrbench.data.images import ImageFailure

        accepted = time.perf_counter()
        if not request.images and not request.inputs:
            return Prepared(request, failure=("no_input", "the sample offers no image and no text to this model"))
        try:
            greys = [self.read_image(image.path) for image in request.images]
        except ImageFailure as error:
            spent = {"image_read": time.perf_counter() - accepted}
            return Prepared(request, failure=(error.outcome, error.detail), times=spent)
        read = time.perf_counter()
        payload, failure = None, None
        try:
            encoded = self.adapter.encode(request, greys)
            payload = Ready(encoded, accepted, time.perf_counter())
            failure = self._too_long(request, encoded)
        except ValueError as error:  # its words may repeat the sample's text, so only its kind is kept
            failure = ("engine_error", f"{type(error).__name__} while the processor made tensors")
        times = {"image_read": read - accepted, "preprocess": time.perf_counter() - read}
        return Prepared(request, payload if failure is None else None, failure, times)

    def _too_long(self, request: Request, encoded: Encoded) -> tuple[str, str] | None:
        """Nothing is ever cut: prompt and answer must fit into the decoder's positions together."""
        limit = self.adapter.context
        new = request.generation.max_new_tokens if request.kind in WRITTEN else 0
        if limit is None or encoded.prompt_tokens + new <= limit:
            return None
        detail = f"{encoded.prompt_tokens} prompt and image tokens and {new} new ones do not fit into {limit} positions"
        return "prompt_too_long", detail

    def generate(self, batch: int, prepared: Sequence[Prepared]) -> BatchResult:
        """Answer a batch. Where memory runs out, the part in hand is halved until it fits; see `BatchTiming.parts`."""
        network = self.load()
        self._clock.forget_peak()
        begin = self._clock.now()
        stages = Stages(begin)
        answers: dict[str, Prediction] = {}
        waiting = deque(_groups(prepared))
        while waiting:
            part = waiting.popleft()
            made = None if self._known_too_large(part) else self._attempt(network, part, stages)
            if made is not None:
                answers |= {prediction.sample_id: prediction for prediction in made}
            elif len(part) == 1:
                answers[part[0].request.sample_id] = failed(part[0], "engine_error", "out of memory with one sample")
            else:
                middle = (len(part) + 1) // 2
                waiting.extendleft((part[middle:], part[:middle]))
        timing = BatchTiming(
            batch=batch,
            size=len(prepared),
            wall=self._clock.now() - begin,
            encode=stages.encode if network.encoder is not None else None,
            prefill=stages.prefill,
            decode=stages.decode if any(each.request.kind in WRITTEN for each in prepared) else None,
            peak_memory=self._clock.peak(),
            parts=max(stages.parts, 1),
        )
        return BatchResult(tuple(answers[each.request.sample_id] for each in prepared), timing, stages.outputs)

    def _known_too_large(self, part: Sequence[Prepared]) -> bool:
        """Whether so many tokens ran out of memory before; a single sample is always tried."""
        return len(part) > 1 and self._too_large is not None and _volume(part) >= self._too_large

    def _attempt(self, network: Network, part: Sequence[Prepared], stages: Stages) -> list[Prediction] | None:
        """Answer one part, or None where memory ran out (and everything of the attempt is released)."""
        import torch

        kind = part[0].request.kind
        answer = self._texts if kind in WRITTEN else self._scores if kind == "score_options" else self._vectors
        try:
            with torch.inference_mode():
                made = answer(network, part, stages)
        except (RuntimeError, MemoryError) as error:
            if not devices.is_out_of_memory(error):
                raise
            made = None
        if made is None:
            self._too_large = min(_volume(part), self._too_large or _volume(part))
            devices.release()
            return None
        stages.parts += 1
        return made

    def _texts(self, network: Network, part: Sequence[Prepared], stages: Stages) -> list[Prediction]:
        generation = part[0].request.generation
        rows = [each.payload.encoded for each in part]
        inputs = collate(rows, network.pad, "left", network.entry, network.module.dtype)
        watch = Watch(self._clock)
        begin = self._clock.now()
        with self._timing_encoder(network) as spent, watch.over(network.module):
            made = network.module.generate(
                **inputs,
                generation_config=_stock(generation, network),
                logits_processor=_sampler(part, inputs["input_ids"].device),
            )
        end = self._clock.now()
        first = watch.first if watch.first is not None else end
        stages.encode += sum(spent)
        stages.prefill += first - begin - sum(spent)
        stages.decode += end - first
        new = [_cut(row, network.eos) for row in made[:, inputs["input_ids"].shape[1] :].tolist()]
        bad = watch.bad_before([len(tokens) for tokens in new])
        return [
            failed(each, "nan_logits", "a NaN or infinite score before the text ended")
            if broken
            else self._said(network, each, tokens, stages)
            for each, tokens, broken in zip(part, new, bad, strict=True)
        ]

    def _said(self, network: Network, prepared: Prepared, tokens: Sequence[int], stages: Stages) -> Prediction:
        """A text, or the picture whose codes were written."""
        if prepared.request.kind == "generate":
            return self._text(prepared, tokens, network.eos, stages.begin)
        made, picture = painted(self.adapter, network, self._text(prepared, tokens, network.eos, stages.begin), tokens)
        if picture is None:
            return made
        stages.outputs[made.sample_id] = picture
        return replace(made, times={**made.times, **prepared.payload.times(stages.begin)})

    def _vectors(self, network: Network, part: Sequence[Prepared], stages: Stages) -> list[Prediction]:
        begin = self._clock.now()
        inputs = collate(
            [each.payload.encoded for each in part], network.pad, "right", network.entry, network.module.dtype
        )
        with self._timing_encoder(network) as spent:
            made = vectors(self.adapter, network, part, inputs)
        stages.encode += sum(spent)
        stages.prefill += self._clock.now() - begin - sum(spent)
        stages.outputs |= {e.request.sample_id: row for e, row in zip(part, made, strict=True) if row is not None}
        return [
            failed(each, "nan_logits", "a NaN or infinite number in the vector")
            if row is None
            else embedded(each, stages.begin)
            for each, row in zip(part, made, strict=True)
        ]

    def _text(self, prepared: Prepared, tokens: Sequence[int], eos: Sequence[int], begin: float) -> Prediction:
        text = self.adapter.decode(tokens)
        ready: Ready = prepared.payload
        return Prediction(
            sample_id=prepared.request.sample_id,
            outcome=OK if text else EMPTY,
            text=text,
            finish_reason="stop" if tokens and tokens[-1] in eos else "length",
            prompt_tokens=ready.encoded.prompt_tokens,
            image_tokens=ready.encoded.image_tokens,
            output_tokens=len(tokens),
            inputs=prepared.request.inputs,
            times={**prepared.times, **ready.times(begin)},
        )

    def _scores(self, network: Network, part: Sequence[Prepared], stages: Stages) -> list[Prediction]:
        begin = self._clock.now()
        with self._timing_encoder(network) as spent:
            made = [self._score(network, each, stages.begin) for each in part]
        stages.encode += sum(spent)
        stages.prefill += self._clock.now() - begin - sum(spent)
        return made

    def _score(self, network: Network, prepared: Prepared, begin: float) -> Prediction:
        ready: Ready = prepared.payload
        request = prepared.request
        options = [self.adapter.encode_option(request, option) for option in request.options]
        scores = score_options(network, ready.encoded, options)
        if not all(score == score and abs(score) != float("inf") for score in scores):
            return failed(prepared, "nan_logits", "a NaN or infinite log-probability of an option")
        return Prediction(
            sample_id=request.sample_id,
            outcome=OK,
            text=request.options[max(range(len(scores)), key=scores.__getitem__)],
            prompt_tokens=ready.encoded.prompt_tokens,
            image_tokens=ready.encoded.image_tokens,
            option_logprobs=tuple(scores),
            option_tokens=tuple(len(tokens) for tokens in options),
            inputs=request.inputs,
            times={**prepared.times, **ready.times(begin)},
        )

    @contextmanager
    def _timing_encoder(self, network: Network) -> Iterator[list[float]]:
        """Collect the seconds of every call of the image tower."""
        spent: list[float] = []
        if network.encoder is None:
            yield spent
            return
        started: list[float] = []
        hooks = (
            network.encoder.register_forward_pre_hook(lambda *_: started.append(self._clock.now())),
            network.encoder.register_forward_hook(lambda *_: spent.append(self._clock.now() - started.pop())),
        )
        try:
            yield spent
        finally:
            for hook in hooks:
                hook.remove()


def _groups(prepared: Sequence[Prepared]) -> list[list[Prepared]]:
    """Requests that fit into one call: same kind, same settings, tensors of one shape."""
    found: dict[Any, list[Prepared]] = {}
    for each in prepared:
        key = (each.request.kind, each.request.generation, shape_key(each.payload.encoded))
        found.setdefault(key, []).append(each)
    return list(found.values())


def _volume(part: Sequence[Prepared]) -> int:
    """Tokens a part holds at most: rows times the longest prompt with its new tokens and beams."""
    generation = part[0].request.generation
    longest: int = max(each.payload.encoded.prompt_tokens for each in part)
    return len(part) * (longest + generation.max_new_tokens) * generation.num_beams


def _stock(generation: Generation, network: Network) -> Any:
    """Our settings in stock terms; draws are made by `SeededSampler`, so the search itself is never random."""
    from transformers import GenerationConfig

    return GenerationConfig(
        **network.rules,
        do_sample=False,
        max_new_tokens=generation.max_new_tokens,
        num_beams=generation.num_beams,
        repetition_penalty=generation.repetition_penalty,
        no_repeat_ngram_size=generation.no_repeat_ngram_size,
        eos_token_id=list(network.eos),
        pad_token_id=network.pad,
    )


def _sampler(part: Sequence[Prepared], device: Any) -> Any:
    """What makes draws, empty for greedy search and beams."""
    from transformers import LogitsProcessorList

    generation = part[0].request.generation
    if generation.temperature == 0:
        return LogitsProcessorList()
    return LogitsProcessorList([SeededSampler(generation, [each.request.seed for each in part], device)])


def _cut(row: Sequence[int], eos: Sequence[int]) -> list[int]:
    """New tokens up to and including the first that ends the text; what follows it is padding."""
    ends = [row.index(token) for token in eos if token in row]
    return list(row[: min(ends) + 1]) if ends else list(row)


def failed(prepared: Prepared, outcome: str, detail: str) -> Prediction:
    """A sample without a text: how it ended and why."""
    ready: Ready = prepared.payload
    return Prediction(
        sample_id=prepared.request.sample_id,
        outcome=outcome,
        finish_reason="error",
        prompt_tokens=ready.encoded.prompt_tokens,
        image_tokens=ready.encoded.image_tokens,
        inputs=prepared.request.inputs,
        times=dict(prepared.times),
        detail=detail,
    )
