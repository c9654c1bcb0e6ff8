"""The engine contract, and `join`: an adapter (what a model is) and an engine (how it runs) become a Model.

Nothing here imports torch. The command line calls

    join(load("models", "hf"), load("engines", "transformers"), options) -> Joined

and hands the result to the runner. A pair that cannot work is refused with the reason before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from cxrbench.errors import CxrbenchError, suggest
from cxrbench.models.adapter import Adapter, Face
from cxrbench.models.base import BatchResult, ModelCard, ModelOptions, Prepared
from cxrbench.models.generation import FIELDS, Preset, pick, resolve
from cxrbench.types import Generation, Request, RequestKind, Sample

Stream = Callable[[int, Iterable[Prepared]], BatchResult]
"""Answers a batch in the order in which its requests arrive; `length_hint` of them says how many may come."""


class Engine(Protocol):
    """How output is produced.

    `needs` is the side of an adapter it holds; `serves` the kinds of request it can answer, `refuses` the reason for
    each other kind. `settings` are the `--set` keys it understands, each with one line of explanation.
    """

    name: ClassVar[str]
    needs: ClassVar[Face]
    serves: ClassVar[frozenset[RequestKind]]
    refuses: ClassVar[Mapping[RequestKind, str]]
    settings: ClassVar[Mapping[str, str]]

    def __init__(self, adapter: Adapter, options: ModelOptions, preset: Preset) -> None: ...

    @property
    def batch_size(self) -> int:
        """A sensible default."""

    def identity(self) -> dict[str, Any]:
        """Engine, dtype, attention: what changes the text. Reads no weights."""

    def circumstances(self) -> dict[str, Any]:
        """Device and versions. Brings the network up, so that a checkpoint that cannot be loaded fails here."""

    def prepare(self, request: Request) -> Prepared:
        """Read images, make tensors; see `Model.prepare`."""

    def generate(self, batch: int, prepared: Sequence[Prepared]) -> BatchResult:
        """Answer a batch of requests that were prepared without failure."""

    def close(self) -> None:
        """Give back memory and processes."""


class Joined:
    """An adapter on an engine: satisfies `cxrbench.models.base.Model`.

    `generation` is the preset with the user's settings on top: what the runner lays over the task's own settings.
    `independent` says that an answer does not depend on its batch, so that a resumed run asks only for what is missing;
    `remote` that each answer is asked of a server, so that a dry run asks for none. `stream` is `generate` for a batch
    whose images are still being read, where the engine can begin with it, else None.
    """

    needs_pool = False

    def __init__(self, adapter: Adapter, engine: Engine, preset: Preset, options: ModelOptions) -> None:
        self.adapter = adapter
        self.engine = engine
        self.preset = preset
        self.card: ModelCard = adapter.card
        self.kinds: frozenset[RequestKind] = adapter.kinds & engine.serves
        self.consumes: frozenset[str] = adapter.consumes
        self.batch_size: int = engine.batch_size
        self.independent: bool = getattr(engine, "independent", False)
        self.remote: bool = getattr(engine, "remote", False)
        self.stream: Stream | None = getattr(engine, "stream", None)
        pictures = preset.pictures if "generate_image" in options.asks else {}
        self.generation: Mapping[str, Any] = {**preset.generation, **pictures, **options.generation}
        resolve({}, preset, options.generation)  # a setting that cannot work is refused before data are read

    def identity(self) -> dict[str, Any]:
        """Model, preset and engine. The generation settings themselves are the runner's to record."""
        preset = {"name": self.preset.name, "version": self.preset.version, "source": self.preset.source}
        return {**self.adapter.identity(), "preset": preset, **self.engine.identity()}

    def circumstances(self) -> dict[str, Any]:
        """Device, versions and paths; brings the network up."""
        return {**self.engine.circumstances(), **self.adapter.circumstances()}

    def fit(self, pool: Callable[[], Iterable[Sample]]) -> None:
        """A network looks at no pool."""

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """The adapter's request; a kind the pair cannot answer is refused with the reason."""
        if kind not in self.kinds:
            raise CxrbenchError(
                f"{self.card.name} on engine {self.engine.name} cannot answer {kind!r}: {self._why_not(kind)}",
                fix=f"a task that asks for: {', '.join(sorted(self.kinds))}",
            )
        return self.adapter.request(sample, kind, generation, seed)

    def _why_not(self, kind: RequestKind) -> str:
        if kind not in self.adapter.kinds:
            return "the model does not do it"
        return self.engine.refuses.get(kind, "the engine does not serve it")

    def cost(self, request: Request) -> int:
        """Prompt length, roughly."""
        return self.adapter.cost(request)

    def render(self, request: Request) -> str:
        """The exact prompt as text, for `--dry-run`."""
        return self.adapter.render(request)

    def prepare(self, request: Request) -> Prepared:
        """Read images, make tensors."""
        return self.engine.prepare(request)

    def generate(self, batch: int, prepared: Sequence[Prepared]) -> BatchResult:
        """Answer a batch."""
        return self.engine.generate(batch, prepared)

    def close(self) -> None:
        """Give back memory."""
        self.engine.close()


@dataclass(frozen=True, slots=True)
class Held:
    """What a pair can answer, from what both declare; `why` says why nothing, `depends` what the folder decides."""

    kinds: frozenset[RequestKind] = frozenset()
    why: str = ""
    depends: str = ""


def held(adapter_class: type[Adapter], engine_class: type[Engine]) -> Held:
    """What an adapter answers on an engine: `cxrbench list models --engines` prints it, `join` goes by it.

    An adapter may declare `not_on` (engine name -> why it cannot hold the model, whatever the folder) and `depends`
    (engine name -> what of the folder decides).
    """
    name = engine_class.name
    reason = getattr(adapter_class, "not_on", {}).get(name)
    if engine_class.needs not in adapter_class.offers:
        offered = ", ".join(sorted(adapter_class.offers)) or "none of its sides"
        return Held(
            why=f"engine {name} needs a model's {engine_class.needs}, and {adapter_class.__name__} offers {offered}"
        )
    if reason is not None:
        return Held(why=f"engine {name} does not run this model: {reason}")
    kinds = adapter_class.kinds & engine_class.serves
    if not kinds:
        kind = min(adapter_class.kinds)
        return Held(
            why=f"engine {name} cannot answer {kind!r}: {engine_class.refuses.get(kind, 'it does not serve it')}"
        )
    return Held(kinds, depends=getattr(adapter_class, "depends", {}).get(name, ""))


def join(adapter_class: type[Adapter], engine_class: type[Engine], options: ModelOptions) -> Joined:
    """Put an adapter on an engine.

    `options.extra` (`--set`) may hold settings of either; `options.generation` fields of `Generation`.

    Raises:
        CxrbenchError: the engine cannot hold the adapter, they share no kind of request, or a setting is not known.
    """
    found = held(adapter_class, engine_class)
    if not found.kinds:
        raise CxrbenchError(found.why, where=f"--engine {engine_class.name}", fix="cxrbench list models --engines")
    known = {**adapter_class.settings, **engine_class.settings}
    for key in options.extra:
        if key not in known:
            names = sorted({*known, *FIELDS})
            raise CxrbenchError(
                f"there is no setting {key!r}{suggest(key, names)}", where="--set", fix=f"one of: {', '.join(names)}"
            )
    adapter = adapter_class(options)
    preset = pick(adapter.presets, options.preset, adapter.card.name)
    return Joined(adapter, engine_class(adapter, options, preset), preset, options)
