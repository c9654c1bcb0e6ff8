"""`openai:NAME`: a model without weights here, known by the name its server gives it (GPT-4V and newer, or one's own).

What is asked are cxrbench's instructions (instruction.py) or `--set prompt=...`. A provider may change what stands
behind a name: the revision that answered is recorded with every prediction. docs/openai.md is the user's page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from cxrbench.errors import CxrbenchError
from cxrbench.models.adapter import Encoded, Face, LoadSettings, Network
from cxrbench.models.base import ModelCard, ModelOptions
from cxrbench.models.generation import MATCHED, Preset
from cxrbench.models.instruction import Instruction, rough_cost
from cxrbench.types import Generation, Request, RequestKind, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHEXBENCH = Preset(
    name="reference",
    version=1,
    source="third-party",
    citation="GPT-4V as CheXagent's authors asked it for CheXbench (gpt-4-turbo): temperature 0, 512 tokens",
    generation={**MATCHED.generation, "max_new_tokens": 512},
)


class OpenAI:
    """See `cxrbench.models.adapter.Adapter`; only messages and images, so it runs on engine openai alone."""

    kinds: ClassVar[frozenset[RequestKind]] = frozenset({"generate"})
    offers: ClassVar[frozenset[Face]] = frozenset({"messages"})
    settings: ClassVar[Mapping[str, str]] = Instruction.settings

    def __init__(self, options: ModelOptions) -> None:
        self.model = options.argument
        if not self.model or not self.model.isprintable() or self.model != self.model.strip():
            raise CxrbenchError(
                "openai needs the name its server knows the model by",
                where="--model openai:",
                fix="--model openai:NAME --set url=http://127.0.0.1:8000/v1",
            )
        if options.load_format != "auto":
            raise CxrbenchError(
                "a model behind a server has no weights here", where="--load-format", fix="leave it out"
            )
        self.instruction = Instruction.of(options.extra, options.images)

    @property
    def card(self) -> ModelCard:
        """What can be known of a model that only its provider sees."""
        return ModelCard(
            name=f"openai:{self.model}",
            about="a model behind an OpenAI-compatible server",
            licence="its provider's terms",
            notes="no weights here: what it was trained on is not known, and the provider may change it at any time",
        )

    @property
    def consumes(self) -> frozenset[str]:
        """One or all images, the question, and the sections the prompt has room for."""
        return self.instruction.consumes

    @property
    def presets(self) -> Mapping[str, Preset]:
        """`matched`, and `reference`: the settings GPT-4V was measured with by others."""
        return {MATCHED.name: MATCHED, CHEXBENCH.name: CHEXBENCH}

    @property
    def context(self) -> int | None:
        """Only the server knows; what does not fit comes back as prompt_too_long."""
        return None

    def identity(self) -> dict[str, Any]:
        """The name, the instruction, the image policy and pixel rules."""
        from cxrbench.data.images import RULES

        return {
            "name": self.card.name,
            "revision": "",
            "weights": "not known",
            "load_format": "auto",
            "prompt": self.instruction.text,
            "images": self.instruction.images,
            "image_rules": RULES,
            "image_backend": "png",
        }

    def circumstances(self) -> dict[str, Any]:
        """Nothing lies here."""
        return {}

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """One user turn: the images, then the instruction with what the task offers."""
        return self.instruction.request(sample, kind, generation, seed)

    def cost(self, request: Request) -> int:
        """Rough prompt length in tokens."""
        return rough_cost(request)

    def render(self, request: Request) -> str:
        """The turns; how the server puts them together is its own."""
        return "\n".join(f"{message.role}: {message.text}" for message in request.messages)

    def encode(self, request: Request, images: Sequence[NDArray[np.uint8]]) -> Encoded:
        """Never asked for: see `offers`."""
        self._no_network()

    def encode_option(self, request: Request, option: str) -> tuple[int, ...]:
        """Never asked for: see `offers`."""
        self._no_network()

    def decode(self, tokens: Sequence[int]) -> str:
        """Never asked for: see `offers`."""
        self._no_network()

    def load(self, settings: LoadSettings) -> Network:
        """Never asked for: see `offers`."""
        self._no_network()

    def _no_network(self) -> NoReturn:
        raise CxrbenchError(f"{self.card.name} has no network here", where="--engine", fix="--engine openai")
