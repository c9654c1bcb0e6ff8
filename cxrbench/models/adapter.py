"""The adapter contract: what a model is, apart from how it runs. Nothing here imports torch.

An adapter knows its checkpoint, its exact prompt, its image transform and its presets; an engine (engines/base.py)
knows how output is produced. `engines.base.join` puts the two together, or refuses the pair with the reason.

An adapter *offers* what an engine may *need*:

    network    stock transformers modules and tensors: `load`, `encode`, `decode`       engines transformers, slots
    folder     a checkpoint folder in stock layout, and `render`: a prompt as text      engine vllm
    messages   nothing but the request's messages and images                            engine openai
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from cxrbench.models.base import ModelCard, ModelOptions
from cxrbench.models.generation import Preset
from cxrbench.types import Generation, Request, RequestKind, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Face = Literal["network", "folder", "messages"]
"""A side of an adapter that an engine can hold."""

IMAGE = "<image>"
"""Stands for one image in `Message.text`."""


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How to bring a network up. `dtype` is bf16, fp16 or fp32: an engine resolves "auto" before it loads."""

    dtype: str
    device: str
    device_map: str | None = None
    attention: str = "sdpa"
    load_format: str = "auto"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Encoded:
    """One request as tensors, unpadded.

    `tensors` are keyword arguments of the network: `input_ids` and other per-token tensors are (1, n), the rest
    (pixel_values, image_grid_thw, ...) have images or patches as their first axis. `sequence` names the per-token ones.
    `cut`: a text to embed was longer than its tower reads.
    """

    tensors: Mapping[str, Any]
    sequence: frozenset[str]
    prompt_tokens: int
    image_tokens: int
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Network:
    """A loaded network. `encoder` is the image tower (to time it), None where there is none to be found.

    `eos` are all token ids that end a text, `pad` fills rows, `rules` are the checkpoint's token rules for
    generate() (suppressed and forced tokens); `attention` is what the modules really use, `entry` the device that
    takes the inputs.
    """

    module: Any
    encoder: Any
    eos: tuple[int, ...]
    pad: int
    attention: str
    entry: str
    rules: Mapping[str, Any] = field(default_factory=dict)


class Adapter(Protocol):
    """What a model is.

    The class is built with `ModelOptions`; building reads small files only and raises CxrbenchError for a checkpoint
    that cannot work. `settings` are the `--set` keys it understands, each with one line of explanation. It may declare
    `not_on`, why an engine cannot hold it, and `depends`, what of its folder decides whether one can
    (engines/base.py, `held`).
    """

    kinds: ClassVar[frozenset[RequestKind]]
    offers: ClassVar[frozenset[Face]]
    settings: ClassVar[Mapping[str, str]]

    def __init__(self, options: ModelOptions) -> None: ...

    @property
    def card(self) -> ModelCard:
        """What is known of the model."""

    @property
    def consumes(self) -> frozenset[str]:
        """What of a sample it can use (see `Model.consumes`)."""

    @property
    def presets(self) -> Mapping[str, Preset]:
        """By name; always `matched`, and `reference` or `documented`."""

    @property
    def context(self) -> int | None:
        """Positions the network has for prompt, image and new tokens together; None where there is no limit."""

    def identity(self) -> dict[str, Any]:
        """Name, revision, hashes, prompt, image backend: what changes the text."""

    def circumstances(self) -> dict[str, Any]:
        """Where the checkpoint lies, which pixel path is taken."""

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """Make the one request for a sample."""

    def cost(self, request: Request) -> int:
        """A cheap proxy for the length of the prompt."""

    def render(self, request: Request) -> str:
        """The exact prompt as text, one image token per image (`--dry-run` shows it)."""

    def encode(self, request: Request, images: Sequence[NDArray[np.uint8]]) -> Encoded:
        """Prompt and grey images (H, W) as tensors. Thread-safe. Raises ValueError for a sample it cannot encode."""

    def encode_option(self, request: Request, option: str) -> tuple[int, ...]:
        """Token ids of an answer option as it would follow the prompt."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of new tokens, without special tokens."""

    def load(self, settings: LoadSettings) -> Network:
        """Bring the network up, in evaluation mode."""
