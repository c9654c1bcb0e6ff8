"""From configurations to arms: models brought up, lengths forced, memory checked. torch stays inside the engines."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from cxrbench.data.image_processes import ImageProcesses, reader
from cxrbench.errors import CxrbenchError
from cxrbench.models.generation import resolve
from cxrbench.throughput import roofline as roof
from cxrbench.throughput.arm import AfterBlock, Arm
from cxrbench.throughput.block import Memory
from cxrbench.throughput.configuration import UNEVEN, Configuration, network_key
from cxrbench.throughput.device_state import Monitor, NoDevice
from cxrbench.throughput.images import chars_per_token
from cxrbench.throughput.sizes import shape_of
from cxrbench.types import Request, Sample

if TYPE_CHECKING:
    from cxrbench.config import Config
    from cxrbench.engines.base import Joined
    from cxrbench.models.base import ReadImage
    from cxrbench.models.shapes import Shape


Beside = Literal["all", "weights", "nothing"]
"""What of other models may lie on the device while one is measured."""


@dataclass
class Loaded:
    """A model in memory, what ends its rows where a trace does, and the processor threads it is measured on."""

    model: Joined
    rows: Any
    about: dict[str, Any]
    threads: int
    parked: bool = False


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

    def arms(self, configurations: Sequence[Configuration], *, alone: bool = False) -> list[Arm]:
        """Arms of these configurations; models that none of them needs are closed.

        All lie on the device together. `alone`: while one is measured the others keep no slots there, and where the
        weights of all would leave too little room, not even these: they wait in the host's memory. So it always is
        where one of them asks for its largest batch.

        Raises:
            CxrbenchError: one of them cannot be built, does not fit, or its lengths cannot be forced.
        """
        beside: Beside = "all"
        if not all(each.batch for each in configurations):
            beside = "nothing"
        configurations = self._with_largest(configurations)
        self._put_away({network_key(each) for each in configurations})
        if alone and beside == "all":
            beside = "weights" if self.fit_in_turns(configurations) else "nothing"
        if beside == "all":
            self._together(configurations)
        return [self._arm(each, beside) for each in configurations]

    def _together(self, configurations: Sequence[Configuration]) -> None:
        """Refuse weights that do not fit side by side before the first are loaded."""
        from cxrbench.engines.ceilings import make_room
        from cxrbench.engines.slots_size import free_bytes

        new = {network_key(each): each for each in configurations if network_key(each) not in self._loaded}
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

    def shape(self, wanted: Configuration) -> Shape:
        """Sizes of a configuration's network; nothing is loaded.

        Raises:
            CxrbenchError: a network of another class, whose sizes are not known.
        """
        found = shape_of(self._build(wanted).adapter)
        if found is None:
            raise CxrbenchError("the sizes of a network of this class are not known", where=wanted.name)
        return found

    def fit(self, configurations: Sequence[Configuration]) -> bool:
        """Whether all of these fit side by side: all weights, the slots of each, and one batch of the largest.

        No where a size is not known.
        """
        self._put_away()
        return self._fit(configurations, in_turns=False)

    def fit_in_turns(self, configurations: Sequence[Configuration]) -> bool:
        """Whether all weights fit beside the slots or the batch of the largest alone."""
        self._put_away()
        return self._fit(configurations, in_turns=True)

    def _fit(self, configurations: Sequence[Configuration], *, in_turns: bool) -> bool:
        from cxrbench.engines.slots_size import free_bytes

        models = {network_key(each): each for each in configurations}
        kept = largest = 0.0
        for each in configurations:
            model = self._build(each)
            shape, settings = shape_of(model.adapter), getattr(model.engine, "load_settings")  # noqa: B009  (see `_load`)
            if shape is None:
                return False
            weights = roof.weight_bytes(shape, settings.dtype)
            load = roof.Load(self._longest(each, model), settings.dtype)
            batch = roof.memory_bytes(shape, max(each.batch, 1), load) - weights
            kept += weights if models[network_key(each)] is each else 0
            keeps = each.engine == "slots" and not in_turns
            kept, largest = (kept + batch, largest) if keeps else (kept, max(largest, batch))
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

    def _turn_of(self, loaded: Loaded, beside: Beside) -> None:
        """Before a block: its threads, its network on the device, and beside it what may be there."""
        from cxrbench.engines.ceilings import use_threads
        from cxrbench.engines.memory import unpark

        self._clear(beside, loaded)
        if loaded.parked:
            unpark(loaded.model.engine, self.device)
            loaded.parked = False
        use_threads(loaded.threads)

    def _memory(self, loaded: Loaded, computed: float | None) -> AfterBlock:
        """Whose bytes a block's peak will be; `computed` are those of keys and values where no engine keeps them."""
        from cxrbench.engines.memory import allocated, slot_bytes, weight_bytes

        engine: Any = loaded.model.engine
        weights, held = weight_bytes(engine.load().module), allocated(self.device)
        others = None if held is None else max(0, held - weights - (slot_bytes(engine) or 0))

        def after(peak: int | None) -> Memory:
            kept = slot_bytes(engine)
            kv = kept if kept is not None else None if computed is None else round(computed)
            rest = None if peak is None or others is None or kv is None else max(0, peak - others - weights - kv)
            return Memory(weights, kv, others, rest)

        return after

    def _arm(self, wanted: Configuration, beside: Beside) -> Arm:
        loaded = self._load(wanted, beside)
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
            ready=partial(self._turn_of, loaded, beside),
            memory=partial(self._memory, loaded, self._kv_bytes(wanted, model, shape, dtype)),
            settle=beside != "all",
        )

    def _kv_bytes(self, wanted: Configuration, model: Joined, shape: Shape | None, dtype: str) -> float | None:
        """Of one full batch at its longest; None where the sizes are not known."""
        if shape is None:
            return None
        load = roof.Load(self._longest(wanted, model), dtype)
        return roof.memory_bytes(shape, wanted.batch, load) - roof.weight_bytes(shape, dtype)

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
        """Batch 0 becomes the largest power of two that fits on the device with nothing beside it.

        A power of two, since all answer blocks of one size, and a batch that is not full is slow for its reports.
        What is in memory is put away first: it would count against the room that is measured.
        """
        self._fitting = {}
        if all(each.batch for each in configurations):
            return list(configurations)
        self._put_away()
        from cxrbench.engines.ceilings import make_room
        from cxrbench.engines.slots_size import free_bytes

        free = free_bytes(self.device)
        made = []
        for each in configurations:
            if each.batch:
                made.append(each)
                continue
            shape, dtype, longest = self._sized(each)
            load = roof.Load(longest, dtype)
            make_room(
                f"{each.name}: one report of {each.model}",
                roof.memory_bytes(shape, 1, load),
                roof.MEMORY_SHARE * free,
            )
            fitting = _power_of_two(roof.largest_batch(shape, free, load))
            self._fitting[each.name] = fitting
            made.append(replace(each, batch=min(fitting, _power_of_two(len(self.samples)))))
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

    def _load(self, wanted: Configuration, beside: Beside) -> Loaded:
        """From memory, or brought up, with what may lie beside it on the device."""
        from cxrbench.engines.ceilings import threads, use_threads
        from cxrbench.engines.forced import end_rows, never_end

        key = network_key(wanted)
        if key in self._loaded:
            loaded = self._loaded[key]
            self._turn_of(loaded, beside)
            self._fits(wanted, loaded.model, loaded=True)
            return loaded
        self._clear(beside)
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

    def _clear(self, beside: Beside, but: Loaded | None = None) -> None:
        """Take off the device what may not lie there, without forgetting it."""
        from cxrbench.engines.memory import give_slots_back, park

        for each in self._loaded.values():
            if each is but or beside == "all":
                continue
            give_slots_back(each.model.engine)
            if beside == "nothing" and not each.parked:
                park(each.model.engine)
                each.parked = True

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


def _real(model: Joined) -> dict[str, Any]:
    """Precision and attention as the loaded network has them."""
    engine: Any = model.engine
    network = engine.load()
    name = str(network.module.dtype).removeprefix("torch.")
    return {
        "dtype": {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.get(name, name),
        "attention": network.attention,
    }
