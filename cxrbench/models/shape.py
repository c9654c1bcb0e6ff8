"""`shape:NAME`: a network of published or small sizes with random weights, for speed only.

Where `slava --load-format dummy` is one published model, a shape can be varied one factor at a time:

    cxrbench throughput --models shape:slava,shape:llava-rad --load-format dummy --set image_tokens=576

It is never scored. torch and transformers are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.errors import CxrbenchError
from cxrbench.models import llava_shared as llava
from cxrbench.models.adapter import IMAGE
from cxrbench.models.base import ModelCard, ModelOptions
from cxrbench.models.generation import MATCHED, Preset
from cxrbench.models.released import Asked, Opened, ReleasedModel
from cxrbench.models.shapes import Decoder, Tower, find_shape
from cxrbench.types import Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPECIAL, TEXT_FROM = 3, 8
"""The id of the image token, and the first id of text: those before it are left for special tokens."""


class ShapeModel(ReleasedModel):
    """See `cxrbench.models.released.ReleasedModel`; the prompt is a fixed number of random tokens."""

    name: ClassVar[str] = "shape"
    targets: ClassVar[tuple[str, ...]] = ("findings", "impression", "report")
    places: ClassVar[Mapping[str, str]] = {}
    settings: ClassVar[Mapping[str, str]] = {
        "target": "does not matter: random weights answer nothing",
        "image_tokens": "tokens of the image, a square number: the tower looks at a larger or smaller image",
    }
    CARD: ClassVar[ModelCard] = ModelCard(
        name="shape",
        about="a LLaVA of given sizes with random weights, for speed only",
        source="cxrbench/models/shapes.py",
        licence="Apache-2.0, as cxrbench",
        inputs=("the key image",),
    )

    def __init__(self, options: ModelOptions) -> None:
        self.shape = find_shape(options.argument)
        wanted = options.extra.get("image_tokens")
        if wanted is not None:
            if not wanted.isdecimal():
                raise CxrbenchError(f"image_tokens must be a whole number, not {wanted!r}", where="--set image_tokens=")
            self.shape = self.shape.with_image_tokens(int(wanted))
        if options.load_format != "dummy":
            raise CxrbenchError(
                f"shape:{self.shape.name} has no weights but random ones",
                where="--load-format",
                fix="--load-format dummy",
            )
        super().__init__(replace(options, argument="", places={}))

    def network_class(self) -> Any:
        """Stock LLaVA, with a bias in the output layer where the decoder has one."""
        from cxrbench.models.llava_net import PublishedLlava

        return PublishedLlava

    def open_original(self, folder: Path) -> Opened:
        """There is none: nobody published weights of a shape."""
        raise CxrbenchError("a shape has no checkpoint", where="shape", fix="--model shape:NAME --load-format dummy")

    def full_size(self) -> Opened:
        """The configuration of the shape."""
        decoder = self.shape.decoder
        config = llava.llava_config(
            _tower(self.shape.tower), _decoder(decoder), SPECIAL, lm_head_bias=decoder.kind == "phi"
        )
        return Opened(config)

    @classmethod
    def reference(cls, target: str) -> Preset:
        """There are no authors: what is documented is `matched`."""
        return replace(MATCHED, name="documented")

    @property
    def card(self) -> ModelCard:
        """The shape's name behind the model's."""
        return replace(super().card, name=f"shape:{self.shape.name}")

    def identity(self) -> dict[str, Any]:
        """As of every model, and the shape."""
        return {**super().identity(), "shape": self.shape.name, "image_tokens": self.shape.tower.tokens}

    def ask(self, sample: Sample) -> Asked | None:
        """Always the same."""
        return IMAGE, []

    def wrap(self, question: str) -> str:
        """Random tokens need no words."""
        return question

    def tokens(self, prompt: str) -> list[int]:
        """The image, then `text` tokens spread over the vocabulary."""
        rows = self.shape.decoder.vocabulary - TEXT_FROM
        text = [TEXT_FROM + (7919 * place) % rows for place in range(1, self.shape.text + 1)]
        return [self.image_token] * self.image_tokens() + text

    def transform(self) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        """CLIP's, at the tower's side."""
        return llava.clip_pixels(self.shape.tower.side)

    def decode(self, tokens: Sequence[int]) -> str:
        """Numbers in words' places."""
        return str(self.tokenizer.decode(list(tokens)))


def _tower(tower: Tower) -> Any:
    from transformers import CLIPVisionConfig, Dinov2Config

    heads = max(1, tower.hidden // llava.HEAD_WIDTH)
    if tower.kind == "clip":
        return CLIPVisionConfig(
            hidden_size=tower.hidden,
            intermediate_size=tower.mlp,
            num_hidden_layers=tower.layers,
            num_attention_heads=heads,
            image_size=tower.side,
            patch_size=tower.patch,
        )
    return Dinov2Config(
        hidden_size=tower.hidden,
        mlp_ratio=tower.mlp // tower.hidden,
        num_hidden_layers=tower.layers,
        num_attention_heads=heads,
        image_size=tower.side,
        patch_size=tower.patch,
    )


def _decoder(decoder: Decoder) -> Any:
    from transformers import LlamaConfig, MistralConfig, PhiConfig

    sizes: dict[str, Any] = {
        "vocab_size": decoder.vocabulary,
        "hidden_size": decoder.hidden,
        "intermediate_size": decoder.mlp,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "max_position_embeddings": 4096,
    }
    if decoder.kind == "phi":
        return PhiConfig(**sizes, partial_rotary_factor=0.4)
    kind = MistralConfig if decoder.kind == "mistral" else LlamaConfig
    return kind(**sizes)
