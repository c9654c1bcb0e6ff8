"""From configurations to arms: models brought up, lengths forced, memory checked. torch stays inside the engines."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cxrbench.data.image_processes import ImageProcesses, reader
from cxrbench.errors import CxrbenchError
from cxrbench.models.generation import resolve
from cxrbench.models.shapes import Decoder, Shape, Tower, Towering
from cxrbench.throughput import roofline as roof
from cxrbench.throughput.arm import Arm
from cxrbench.throughput.configuration import Configuration
from cxrbench.throughput.device_state import Monitor, NoDevice, Nvml
from cxrbench.throughput.images import chars_per_token
from cxrbench.types import Request, Sample

if TYPE_CHECKING:
    from cxrbench.config import Config
    from cxrbench.engines.base import Joined
    from cxrbench.models.base import ReadImage


@dataclass
class Loaded:
    """A model in memory, what ends its rows where a trace does, and the processor threads it is measured on."""

    model: Joined
    rows: Any
    about: dict[str, Any]
    threads: int


@dataclass
class Bench:
    """Brings up what is asked for and puts away what is not."""

    samples: Sequence[Sample]
    config: Config
    device: str = "cpu"
    target: str = "findings"
    workers: int = 2
    seed: int = 0
    monitor: Monitor = field(default_factory=NoDevice)
    _loaded: dict[Any, Loaded] = field(default_factory=dict)
    _read: ReadImage | None = None
    _fitting: dict[str, int] = field(default_factory=dict)
    _threads: int = 0
    """Of torch, before any network asked for others; 0: not looked at yet."""

    def arms(self, configurations: Sequence[Configuration]) -> list[Arm]:
        """Arms of these configurations, all in memory together; models that none of them needs are closed.

        Raises:
            CxrbenchError: one of them cannot be built, does not fit, or its lengths cannot be forced.
        """
        configurations = self._with_largest(configurations)
        self._put_away({_key(each) for each in configurations})
        self._together(configurations)
        return [self._arm(each) for each in configurations]

    def _together(self, configurations: Sequence[Configuration]) -> None:
        """Refuse weights that do not fit side by side before the first are loaded."""
        from cxrbench.engines.ceilings import make_room
        from cxrbench.engines.slots_size import free_bytes

        new = {_key(each): each for each in configurations if _key(each) not in self._loaded}
        if len(new) < 2:
            return
        models = {each.name: self._build(each) for each in new.values()}
        shapes = {name: shape_of(model.adapter) for name, model in models.items()}
        need = sum(
            roof.weight_bytes(shape, getattr(models[name].engine, "load_settings").dtype)  # noqa: B009  (see `_load`)
            for name, shape in shapes.items()
            if shape is not None
        )
        make_room(f"the set of {', '.join(models)} (weights alone)", need, free_bytes(self.device))

    def fit(self, configurations: Sequence[Configuration]) -> bool:
        """Whether all of these fit side by side: all weights, the slots of each, and one batch of the largest.

        No where a size is not known.
        """
        from cxrbench.engines.slots_size import free_bytes

        self._put_away()
        models = {_key(each): each for each in configurations}
        kept = largest = 0.0
        for each in configurations:
            model = self._build(each)
            shape, settings = shape_of(model.adapter), getattr(model.engine, "load_settings")  # noqa: B009  (see `_load`)
            if shape is None:
                return False
            weights = roof.weight_bytes(shape, settings.dtype)
            load = roof.Load(self._longest(each, model), settings.dtype)
            batch = roof.memory_bytes(shape, max(each.batch, 1), load) - weights
            kept += weights if models[_key(each)] is each else 0
            kept, largest = (kept + batch, largest) if each.engine == "slots" else (kept, max(largest, batch))
        return kept + largest <= roof.MEMORY_SHARE * free_bytes(self.device)

    def _put_away(self, but: Collection[Any] = ()) -> None:
        """Close what is in memory, but for these."""
        for key in [key for key in self._loaded if key not in but]:
            self._loaded.pop(key).model.close()

    def close(self) -> None:
        """Give everything back, torch's threads too."""
        from cxrbench.engines.ceilings import use_threads

        self._put_away()
        if self._threads:
            use_threads(self._threads)
        if isinstance(self._read, ImageProcesses):
            self._read.close()

    def _arm(self, wanted: Configuration) -> Arm:
        from cxrbench.engines.ceilings import use_threads

        loaded = self._load(wanted)
        model = loaded.model
        shape, dtype = shape_of(model.adapter), str(loaded.about["dtype"])
        tokens = self._tokens(wanted, model)
        most = max(tokens) if tokens is not None else None
        settings = resolve({}, model.preset, {**wanted.generation, **({"max_new_tokens": most} if most else {})})
        requests: list[Request] = [
            model.request(sample, "generate", settings, self.seed + place) for place, sample in enumerate(self.samples)
        ]
        return Arm(
            configuration=wanted,
            model=model,
            requests=requests,
            batch=wanted.batch,
            tokens=tokens,
            announce=loaded.rows.announce if loaded.rows is not None else None,
            image_tokens=shape.tower.tokens if shape is not None else None,
            window=len(requests) if wanted.engine == "slots" and wanted.lengths in UNEVEN else None,
            shape=shape,
            dtype=dtype,
            about=loaded.about | ({"fitting": fitting} if (fitting := self._fitting.get(wanted.name)) else {}),
            workers=self.workers,
            monitor=self.monitor,
            ready=partial(use_threads, loaded.threads),
        )

    def _tokens(self, wanted: Configuration, model: Joined) -> list[int] | None:
        """Lengths in the order of the pool."""
        count = len(self.samples)
        if wanted.lengths == "natural":
            return None
        if wanted.lengths == "trace":
            values = wanted.trace.values if wanted.trace is not None else ()
            return [values[place % len(values)] for place in range(count)]
        if wanted.lengths == "equal-chars":
            return [max(1, round((wanted.chars or 0) / self._chars_per_token(model)))] * count
        return [wanted.tokens] * count

    def _longest(self, wanted: Configuration, model: Joined) -> int:
        """Tokens of the longest text: what it is forced to, or the length cap."""
        tokens = self._tokens(wanted, model)
        return max(tokens) if tokens is not None else resolve({}, model.preset, wanted.generation).max_new_tokens

    def _chars_per_token(self, model: Joined) -> float:
        adapter: Any = model.adapter
        opened = getattr(adapter, "opened", None)
        if opened is not None and opened.tokenizer is None:
            raise CxrbenchError(
                f"{model.card.name} has no tokenizer here: characters per token are not known",
                where="--lengths equal-chars",
                fix="give the checkpoint's folder (--models NAME:DIR), or --lengths equal-tokens",
            )
        tokenizer = adapter.tokenizer if opened is not None else adapter.processing.tokenizer
        return chars_per_token([sample.target for sample in self.samples], tokenizer)

    def _with_largest(self, configurations: Sequence[Configuration]) -> list[Configuration]:
        """Batch 0 becomes the largest power of two that fits beside the weights of all; slots of several share alike.

        A power of two, since all answer blocks of one size, and a batch that is not full is slow for its reports.
        What is in memory is put away first: it would count against the room that is measured.
        """
        self._fitting = {}
        if all(each.batch for each in configurations):
            return list(configurations)
        self._put_away()
        from cxrbench.engines.ceilings import make_room
        from cxrbench.engines.slots_size import free_bytes

        sized = [self._sized(each) for each in configurations]
        weights = sum(roof.weight_bytes(shape, dtype) for shape, dtype, _ in sized)
        keeping = sum(each.engine == "slots" for each in configurations)
        free = free_bytes(self.device) - weights
        made = []
        for each, (shape, dtype, longest) in zip(configurations, sized, strict=True):
            if not each.batch:
                report = (shape.prompt + longest) * roof.kv_bytes(shape, dtype)
                share = roof.MEMORY_SHARE * free / (max(1, keeping) if each.engine == "slots" else 1)
                make_room(f"{each.name}: one report of {each.model}", report, share)
                fitting = _power_of_two(int(share // report))
                self._fitting[each.name] = fitting
                made.append(replace(each, batch=min(fitting, _power_of_two(len(self.samples)))))
            else:
                made.append(each)
        return made

    def _sized(self, wanted: Configuration) -> tuple[Shape, str, int]:
        """Sizes, precision, and tokens of the longest text."""
        model = self._build(wanted)
        shape = shape_of(model.adapter)
        if shape is None:
            raise CxrbenchError(
                "the largest batch is not known for a network of this class", where=wanted.name, fix="name a batch size"
            )
        settings: Any = getattr(model.engine, "load_settings")  # noqa: B009  (see `_load`)
        return shape, str(settings.dtype), self._longest(wanted, model)

    def _room(self, wanted: Configuration, shape: Shape, load: roof.Load, batch: int, *, loaded: bool) -> None:
        """Refuse what cannot fit, before it is tried."""
        from cxrbench.engines.ceilings import make_room
        from cxrbench.engines.slots_size import free_bytes

        need = roof.memory_bytes(shape, batch, load) - (roof.weight_bytes(shape, load.dtype) if loaded else 0)
        make_room(f"{wanted.name}: {wanted.model} in {load.dtype} at batch {batch}", need, free_bytes(self.device))

    def _load(self, wanted: Configuration) -> Loaded:
        from cxrbench.engines.ceilings import threads, use_threads
        from cxrbench.engines.forced import end_rows, never_end

        key = _key(wanted)
        if key in self._loaded:
            loaded = self._loaded[key]
            self._fits(wanted, loaded.model, loaded=True)
            return loaded
        self._threads = self._threads or threads()
        use_threads(self._threads)  # what another network asked for is not for this one
        model = self._build(wanted)
        self._fits(wanted, model, loaded=False)
        rows = None
        if wanted.lengths == "trace":
            rows = end_rows(model.adapter, model.engine)
        elif wanted.lengths != "natural":
            never_end(model.adapter)
        about = {**model.circumstances(), **_real(model), "preset": model.preset.name}
        wanted_dtype = getattr(model.engine, "load_settings").dtype  # noqa: B009  (engines over HTTP have none)
        if about["dtype"] != wanted_dtype:
            raise CxrbenchError(
                f"the loaded network is in {about['dtype']}, not in {wanted_dtype} as asked", where=wanted.name
            )
        self._loaded[key] = Loaded(model, rows, about, threads())
        return self._loaded[key]

    def _build(self, wanted: Configuration) -> Joined:
        from cxrbench.engines.base import Joined
        from cxrbench.engines.build import make_model, split_name
        from cxrbench.models.base import ModelOptions

        name, argument = split_name(wanted.model)
        extra = {"target": self.target, **wanted.settings}
        if wanted.image_tokens is not None:
            extra["image_tokens"] = str(wanted.image_tokens)
        if wanted.engine == "slots" and wanted.batch:
            extra["slots"] = str(wanted.batch)
        self._read = self._read or reader(self.workers)  # as a run reads
        options = ModelOptions(
            argument=argument,
            preset=wanted.preset,
            dtype=wanted.dtype,
            device=self.device,
            load_format=wanted.load_format,
            generation=wanted.generation,
            workers=self.workers,
            seed=self.seed,
            read_image=self._read,
            extra=extra,
            places=self.config.models.get(name, {}),
        )
        try:
            model = make_model(name, options, wanted.engine)
        except CxrbenchError as error:
            if error.where.startswith("--engine") and "without an engine" in error.what:
                what = f"{name} has no network: there is no speed to measure"
                raise CxrbenchError(what, where=wanted.name) from error
            raise
        if not isinstance(model, Joined) or getattr(model.engine, "load_settings", None) is None:
            raise CxrbenchError(f"{name} runs elsewhere: it is not measured here", where=wanted.name)
        return model

    def _fits(self, wanted: Configuration, model: Joined, *, loaded: bool) -> None:
        shape = shape_of(model.adapter)
        if shape is None:
            return
        settings: Any = getattr(model.engine, "load_settings")  # noqa: B009  (see `_load`)
        load = roof.Load(self._longest(wanted, model), settings.dtype)
        self._room(wanted, shape, load, wanted.batch, loaded=loaded)


def _power_of_two(most: int) -> int:
    """The largest that is not above `most`, which is at least 1."""
    return 1 << (most.bit_length() - 1)


UNEVEN = ("natural", "trace")
"""Lengths that differ within a batch: what engine slots refills for, from all requests of a block."""


def _key(wanted: Configuration) -> Any:
    """What makes a loaded model another one."""
    forced = {"natural": "natural", "trace": "trace"}.get(wanted.lengths, "fixed")
    slots = wanted.batch if wanted.engine == "slots" else None
    return (
        wanted.model, wanted.engine, wanted.preset, wanted.dtype, wanted.image_tokens, wanted.load_format, forced,
        slots, tuple(sorted(wanted.settings.items())), tuple(sorted(wanted.generation.items())),
    )  # fmt: skip


def _real(model: Joined) -> dict[str, Any]:
    """Precision and attention as the loaded network has them."""
    engine: Any = model.engine
    network = engine.load()
    name = str(network.module.dtype).removeprefix("torch.")
    return {
        "dtype": {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.get(name, name),
        "attention": network.attention,
    }


def shape_of(adapter: Any) -> Shape | None:
    """The sizes of a LLaVA-shaped network from its configuration; None for another architecture."""
    opened = getattr(adapter, "opened", None)
    config = opened.config if opened is not None else getattr(adapter, "config", None)
    text, vision = getattr(config, "text_config", None), getattr(config, "vision_config", None)
    if text is None or vision is None or text.model_type not in ("phi", "llama", "mistral"):
        return None
    kind: Towering = "dinov2" if vision.model_type == "dinov2" else "clip"
    mlp = vision.intermediate_size if kind == "clip" else int(vision.hidden_size * vision.mlp_ratio)
    side, patch = vision.image_size, vision.patch_size
    tower = Tower(kind, vision.hidden_size, vision.num_hidden_layers, mlp, side, patch)
    heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    decoder = Decoder(
        text.model_type, text.hidden_size, text.num_hidden_layers, heads, kv_heads, text.intermediate_size,
        text.vocab_size,
    )  # fmt: skip
    return Shape(str(config.model_type if config is not None else ""), tower, decoder)


def monitor_of(device: str) -> Monitor:
    """What reads the device: NVML on a GPU whose driver is there, else the host's load alone."""
    from cxrbench.engines.ceilings import device_uuid, own_bytes
    from cxrbench.throughput.nvml import Device, open_library

    uuid = device_uuid(device)
    library = open_library() if uuid is not None else None
    if uuid is None:
        return NoDevice()
    found = Device(library, uuid) if library is not None else None
    return Nvml(found, lambda: own_bytes(device)) if found is not None and found.known else NoDevice(UNSEEN)


UNSEEN = (
    "NVML does not tell of this GPU: neither clocks, temperature and power are known, nor whether it was slowed down or"
    " shared, and no block was discarded for it"
)
