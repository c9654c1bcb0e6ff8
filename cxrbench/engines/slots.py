"""Engine `slots`: continuous batching on fixed slots, with the stock modules and the results of `transformers`.

A batch of the run is a window: some hundred requests, of which as many as there are slots are answered at a time, and
a slot that becomes free is given to the next one (slots_loop.py). docs/engines.md is the user's page. In fp32 greedy
texts and draws are those of engine `transformers`; beams are refused. torch is imported inside functions.

Times: `wait` of a sample ends when its prefill begins, `latency` when its own text is decoded; both before the window
ends. `encode`, `prefill` and `decode` of a window are sums over its calls, which run one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.engines import device as devices
from cxrbench.engines import slots_size as size
from cxrbench.engines.base import Stream
from cxrbench.engines.slots_source import Source
from cxrbench.engines.transformers import TransformersEngine, failed
from cxrbench.errors import CxrbenchError
from cxrbench.models.adapter import Adapter, Network
from cxrbench.models.base import BatchResult, ModelOptions, Prepared
from cxrbench.models.generation import Preset
from cxrbench.types import BatchTiming, Generation, Prediction, Request, RequestKind

if TYPE_CHECKING:
    from cxrbench.engines.slots_cache import Pool
    from cxrbench.engines.slots_loop import Row, Spent
    from cxrbench.engines.slots_steps import Steps

WINDOW, CHUNK, MEMORY = {"cpu": 128, "cuda": 512}, {"cpu": 2048, "cuda": 16384}, {"cpu": 0.5, "cuda": 0.9}
"""By device: requests of a window, tokens of a prefill, share of the free memory."""

DECODERS: Mapping[str, str | None] = {"llama": None, "mistral": "sliding_window", "phi": None, "gpt_neox": None}
"""Decoders whose attention was proven to work on slots, and the setting that holds how far back it looks."""

WRAPPERS = ("llava", *DECODERS)
"""Classes around them that do nothing to positions, masks or logits."""

WORKING = 16
"""Activations of a prefill at once, in units of one hidden state per token: a bound, not an estimate."""


class SlotsEngine(TransformersEngine):
    """See `cxrbench.engines.base.Engine`; loading, reading and scoring of options are those of `transformers`."""

    name: ClassVar[str] = "slots"
    serves: ClassVar[frozenset[RequestKind]] = frozenset({"generate", "score_options"})
    refuses: ClassVar[Mapping[RequestKind, str]] = {
        "embed_image": "a vector is no text that grows: use engine transformers",
        "embed_text": "a vector is no text that grows: use engine transformers",
        "generate_image": "it has not been built here: use engine transformers",
    }
    settings: ClassVar[Mapping[str, str]] = {
        "attention": "sdpa (the default) or eager",
        "threads": TransformersEngine.settings["threads"],
        "slots": "texts written at a time; found from memory and the roofline by default",
        "chunk": f"tokens of a prefill ({CHUNK['cpu']} on the CPU, {CHUNK['cuda']} on a GPU)",
        "memory": f"share of free memory for slots ({MEMORY['cpu']} on the CPU, {MEMORY['cuda']} on a GPU)",
        "graphs": "on or off: record the decoding step as a CUDA graph (on by default on a GPU, impossible on the CPU)",
        "preprocess": "threads (the default on the CPU) or processes (on a GPU): where images become tensors",
    }

    def __init__(self, adapter: Adapter, options: ModelOptions, preset: Preset) -> None:
        super().__init__(adapter, options, preset)
        kind = "cpu" if self.device == "cpu" else "cuda"
        self._options = options
        self._preset = preset
        self.window = WINDOW[kind]
        self.chunk = _whole(options.extra, "chunk") or CHUNK[kind]
        self.memory = _share(options.extra.get("memory")) or MEMORY[kind]
        self.graphs = _choice(options.extra, "graphs", ("on", "off"), "off" if kind == "cpu" else "on") == "on"
        self.preprocess = _choice(
            options.extra, "preprocess", ("threads", "processes"), "threads" if kind == "cpu" else "processes"
        )
        self.wanted = _whole(options.extra, "slots")
        _choice(options.extra, "attention", ("sdpa", "eager"), "sdpa")
        if self.graphs and kind == "cpu":
            raise CxrbenchError("there are no CUDA graphs on the CPU", where="--set graphs=on", fix="leave it out")
        refuse_beams({**preset.generation, **options.generation}.get("num_beams", 1))
        self._pool: tuple[Pool, Steps] | None = None
        self._target = 0
        self._most: int | None = None
        self._machine: size.Machine | None = None
        self._workers: Any = None
        self.lengths: Mapping[str, int] = {}
        """Tokens after which the texts of these samples end, for speed alone (engines/forced.py)."""

    @property
    def batch_size(self) -> int:
        """Requests of a window: enough for refills, little enough to lose when a run is killed."""
        return self.window

    def circumstances(self) -> dict[str, Any]:
        """As of `transformers`, and how slots are sized and fed."""
        return {
            **super().circumstances(),
            "slots": self.wanted or "auto",
            "chunk": self.chunk,
            "graphs": self.graphs,
            "preprocess": self.preprocess,
        }

    def load(self) -> Network:
        """The network, refused where its attention was not proven to work on slots; and the processes, if any."""
        network = super().load()
        if self._pool is None:
            refuse_unproven(network.module.config)
            refuse_own_generate(network.module)
        if self.preprocess == "processes":
            self._processes()
        return network

    def close(self) -> None:
        """Give back slots, network and processes."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None
        self._pool = None
        super().close()

    def prepare(self, request: Request) -> Prepared:
        """Read the images and make tensors, here or in a process; see `Model.prepare`."""
        if self.preprocess == "threads":
            return super().prepare(request)
        self.load()
        made: Prepared = self._workers.prepare(request)
        return made

    def _processes(self) -> None:
        """Start what reads images, once, before anything is timed."""
        from cxrbench.engines.slots_workers import Recipe, Workers

        with self._lock:
            if self._workers is None:
                apart = replace(self._options, device="cpu")  # a reader that asks a GPU would take memory there
                recipe = Recipe(reader_of, (type(self.adapter), apart, self._preset))
                self._workers = Workers(recipe, self._options.workers)

    @property
    def stream(self) -> Stream | None:
        """Takes a window up before all of it is read; a recorded step has to know the longest prompt first."""
        return None if self.graphs else self._window

    def generate(self, batch: int, prepared: Sequence[Prepared]) -> BatchResult:
        """Answer a window. Where memory runs out, the slots are halved and what was being answered begins again."""
        return self._window(batch, prepared)

    def _window(self, batch: int, prepared: Iterable[Prepared]) -> BatchResult:
        from cxrbench.engines.slots_loop import Spent

        network = self.load()
        self._clock.forget_peak()
        begin = self._clock.now()
        source = Source(prepared, self._clock.now)
        if source.first is not None and source.first.request.kind == "score_options":
            source.wait_for_all()
            return super().generate(batch, source.here)
        answers: dict[str, Prediction] = {}
        parts = 0
        with self._timing_encoder(network) as encoding:
            spent = Spent(encoding)
            while source.first is not None:
                generation = source.first.request.generation
                refuse_beams(generation.num_beams)
                parts += self._answer(network, generation, source, spent, answers)
        timing = BatchTiming(
            batch=batch,
            size=len(source.arrived),
            wall=self._clock.now() - begin - source.waited,
            encode=sum(spent.encode) if network.encoder is not None else None,
            prefill=spent.prefill,
            decode=spent.decode,
            peak_memory=self._clock.peak(),
            parts=parts,
            slots=self._pool[0].slots if self._pool is not None else 1,
        )
        return BatchResult(tuple(answers[each.request.sample_id] for each in source.arrived), timing)

    def _answer(
        self,
        network: Network,
        generation: Generation,
        source: Source,
        spent: Spent,
        answers: dict[str, Prediction],
    ) -> int:
        """Answer requests of one setting into `answers`; how many attempts it took."""
        parts = 1
        while not self._attempt_group(network, generation, source, spent, answers):
            parts += 1
        return parts

    def _attempt_group(
        self,
        network: Network,
        generation: Generation,
        source: Source,
        spent: Spent,
        answers: dict[str, Prediction],
    ) -> bool:
        """Answer what memory allows, and whether that was all; where it ran out, half the slots are left."""
        import torch

        from cxrbench.engines.slots_feed import Feeder
        from cxrbench.engines.slots_loop import Loop

        def done(row: Row, bad: bool) -> None:
            each = row.prepared
            answers[each.request.sample_id] = (
                failed(each, "nan_logits", "a NaN or infinite score before the text ended")
                if bad
                else self._text(each, row.tokens, network.eos, row.begun)
            )

        held: list[Prepared] | None = None
        with torch.inference_mode():
            pool, steps = self._pool_for(network, source.most, _room(source, generation))
            feeder = Feeder(network.entry, network.module.dtype)
            loop = Loop(network, pool, steps, feeder, self._clock, generation, self.chunk, spent, done, self.lengths)
            try:
                loop.run(source)
            except (RuntimeError, MemoryError) as error:
                if source.broken is not None or not devices.is_out_of_memory(error):
                    raise
                held = loop.in_hand
        if held is None:
            return True
        slots = pool.slots
        del loop, pool, steps, feeder
        self._pool = None
        devices.release()
        self._most = max(1, slots // 2)
        if slots > 1:
            source.give_back(held)
            return False
        lost = held or _next(source, generation)
        source.take(lost)
        answers |= {
            each.request.sample_id: failed(each, "engine_error", "out of memory with one sample") for each in lost
        }
        return not _next(source, generation)

    def _pool_for(self, network: Network, requests: int, room: int) -> tuple[Pool, Steps]:
        """The pool, made anew where the one at hand has too few positions or slots; its size is found here."""
        from cxrbench.engines.slots_cache import STEP, Pool
        from cxrbench.engines.slots_steps import Steps

        if self._pool is not None:
            at_hand = self._pool[0]
            if at_hand.room >= room and at_hand.slots >= min(requests, self._target):
                return self._pool
        self._pool = None
        text = network.module.config.get_text_config(decoder=True)
        room = -(-room // STEP) * STEP
        self._target = self._size(network, text, max(requests, self.window), room)
        window = DECODERS[text.model_type]
        pool = Pool(
            layers=text.num_hidden_layers,
            slots=min(requests, self._target),
            room=room,
            window=getattr(text, window) if window else None,
            device=network.entry,
            dtype=network.module.dtype,
        )
        self._pool = (pool, Steps(network.module, pool, graphs=self.graphs))
        return self._pool

    def _size(self, network: Network, text: Any, most: int, room: int) -> int:
        """Slots: what the user wants, or what fits and is worth having; never more than memory allowed before."""
        most = min(most, self._most or most)
        if self.wanted is not None:
            return min(self.wanted, most)
        decoder = size.decoder_of(network.module, text)
        working = self.chunk * text.hidden_size * decoder.width * WORKING
        most = min(most, size.fitting(size.free_bytes(self.device), self.memory, room, decoder, working))
        if self._machine is None:
            self._machine = size.measure(self.device, network.module.dtype)
        machine = self._machine
        return size.worth_having(lambda rows: size.step_seconds(decoder, machine, rows, room, graphs=self.graphs), most)


def reader_of(adapter: type[Adapter], options: ModelOptions, preset: Preset) -> Any:
    """For a child process: what reads requests; it never loads a network."""
    return TransformersEngine(adapter(options), options, preset).read


def refuse_beams(beams: Any) -> None:
    """Raise where beam search is asked for.

    Raises:
        CxrbenchError: more than one beam.
    """
    if int(beams) > 1:
        raise CxrbenchError(
            f"engine slots does not search with {beams} beams: a slot holds one text",
            where="num_beams",
            fix="--engine transformers, or --set num_beams=1",
        )


def refuse_unproven(config: Any) -> None:
    """Raise for a network that was not proven to give the same text on slots.

    Raises:
        CxrbenchError: an encoder-decoder, or a class or decoder that is not in `WRAPPERS` and `DECODERS`.
    """
    text = config.get_text_config(decoder=True)
    if config.is_encoder_decoder or text.is_encoder_decoder:
        reason = "an encoder-decoder keeps other keys and values than those of its own text"
    elif config.model_type not in WRAPPERS:
        reason = f"a {config.model_type!r} model may treat positions or masks in its own way"
    elif text.model_type not in DECODERS:
        reason = f"a {text.model_type!r} decoder may treat its cache in its own way"
    else:
        return
    raise CxrbenchError(
        f"engine slots does not run this model: {reason}, and equal texts were not proven",
        where="--engine slots",
        fix="--engine transformers",
    )


def refuse_own_generate(module: Any) -> None:
    """Raise for a network whose generate() does more than the stock one, such as ending a text at certain words.

    Raises:
        CxrbenchError: it has a generate() of its own.
    """
    from transformers import GenerationMixin

    if "generate" in vars(module) or type(module).generate is not GenerationMixin.generate:
        raise CxrbenchError(
            "engine slots does not run this model: it has a generate() of its own, which would be passed over",
            where="--engine slots",
            fix="--engine transformers",
        )


def _next(source: Source, generation: Generation) -> list[Prepared]:
    """The first that waits with this setting, if any does."""
    found = next((each for each in source if each.request.generation == generation), None)
    return [] if found is None else [found]


def _room(source: Source, generation: Generation) -> int:
    """Positions for the longest that is known; the pool grows for longer ones."""
    here = [each.payload.encoded.prompt_tokens for each in source.here if each.request.generation == generation]
    return max(here, default=0) + generation.max_new_tokens


def _whole(extra: Mapping[str, str], key: str) -> int | None:
    text = extra.get(key)
    if text is not None and (not text.isdecimal() or int(text) < 1):
        raise CxrbenchError(f"{key} must be a whole number from 1, not {text!r}", where=f"--set {key}=")
    return int(text) if text is not None else None


def _share(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise CxrbenchError(f"memory must be a number above 0 and up to 1, not {text!r}", where="--set memory=")
    return share


def _choice(extra: Mapping[str, str], key: str, allowed: tuple[str, ...], default: str) -> str:
    value = extra.get(key, default)
    if value not in allowed:
        raise CxrbenchError(f"{key} must be {' or '.join(allowed)}, not {value!r}", where=f"--set {key}=")
    return value
