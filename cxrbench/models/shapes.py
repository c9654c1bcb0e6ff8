"""Sizes of LLaVA-shaped networks as plain numbers: what a speed follows from, without weights. Standard library only.

`SHAPES` are named sizes: the published ones, and small ones that a processor can run. The adapter `shape` builds a
network of a shape with random weights (shape.py), throughput/roofline.py computes from it. Sources of the published
sizes: knowlab/SLaVA-CXR 81e4b09, microsoft/LLaVA-Med d406e3f, microsoft/LLaVA-Rad 1fc4409, and the configurations of
Phi-2, Mistral-7B-Instruct-v0.2 and Vicuna-7B-v1.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt
from typing import Literal

from cxrbench.errors import CxrbenchError, suggest

Decoding = Literal["phi", "llama", "mistral"]
Towering = Literal["clip", "dinov2"]


@dataclass(frozen=True, slots=True)
class Tower:
    """An image tower: `side` and `patch` in pixels, `mlp` the width of the hidden layer."""

    kind: Towering
    hidden: int
    layers: int
    mlp: int
    side: int
    patch: int = 14

    @property
    def tokens(self) -> int:
        """Image tokens the decoder sees: one per patch, the class token is left out."""
        return (self.side // self.patch) ** 2

    @property
    def parameters(self) -> int:
        """Weights, biases and norms of the tower."""
        layer = 4 * (self.hidden**2 + self.hidden) + 2 * self.hidden * self.mlp + self.mlp + self.hidden
        layer += 4 * self.hidden  # two norms
        layer += 2 * self.hidden if self.kind == "dinov2" else 0  # two layer scales
        patches = 3 * self.patch**2 * self.hidden
        return self.layers * layer + patches + (self.tokens + 2) * self.hidden


@dataclass(frozen=True, slots=True)
class Decoder:
    """A decoder-only language model; `kv_heads` heads share keys and values, `mlp` is the width of the hidden layer."""

    kind: Decoding
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int

    @property
    def body(self) -> int:
        """Parameters of all layers and the last norm: neither the input embedding nor the output layer."""
        width, keys = self.hidden, self.kv_heads * (self.hidden // self.heads)
        if self.kind == "phi":  # biases everywhere, two matrices in the MLP, one norm with a bias
            layer = 2 * (width**2 + width) + 2 * (width * keys + keys)
            layer += 2 * width * self.mlp + self.mlp + width + 2 * width
            return self.layers * layer + 2 * width
        layer = 2 * width**2 + 2 * width * keys + 3 * width * self.mlp + 2 * width
        return self.layers * layer + width

    @property
    def head(self) -> int:
        """Parameters of the output layer; Phi's has a bias."""
        return self.vocabulary * self.hidden + (self.vocabulary if self.kind == "phi" else 0)

    @property
    def embedding(self) -> int:
        """Parameters of the input embedding."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.body + self.head + self.embedding

    @property
    def read(self) -> int:
        """Parameters a decoding step reads: all but the input embedding, of which it looks up rows."""
        return self.body + self.head

    def kv_values(self) -> int:
        """Numbers kept per token: keys and values of every layer."""
        return 2 * self.layers * self.kv_heads * (self.hidden // self.heads)


@dataclass(frozen=True, slots=True)
class Shape:
    """A LLaVA: a tower, a projector of two layers, a decoder. `text` is how many prompt tokens there are beside images.

    The projector (under 1 % of all parameters and operations) is left out of the counts.
    """

    name: str
    tower: Tower
    decoder: Decoder
    text: int = 60

    @property
    def prompt(self) -> int:
        """Prompt tokens with the image."""
        return self.text + self.tower.tokens

    @property
    def parameters(self) -> int:
        """Of tower and decoder."""
        return self.tower.parameters + self.decoder.parameters

    def with_image_tokens(self, count: int) -> Shape:
        """The same network looking at a larger or smaller image, so that it gives `count` tokens.

        Raises:
            CxrbenchError: `count` is not the square of a whole number.
        """
        side = isqrt(max(count, 0))
        if side < 1 or side**2 != count:
            raise CxrbenchError(
                f"{count} image tokens are no square of patches",
                where="image_tokens",
                fix="a square number: 576 is 24 x 24, 1369 is 37 x 37",
            )
        return replace(self, tower=replace(self.tower, side=side * self.tower.patch))


_CLIP_L = Tower("clip", 1024, 24, 4096, 336)
_DINO_B = Tower("dinov2", 768, 12, 3072, 518)
_VICUNA = Decoder("llama", 4096, 32, 32, 32, 11008, 32000)
_SMALL_TOWER = Tower("clip", 64, 2, 256, 112)

SHAPES: Mapping[str, Shape] = {
    each.name: each
    for each in (
        Shape("slava", _CLIP_L, Decoder("phi", 2560, 32, 32, 32, 10240, 51200)),
        Shape("llava-med", _CLIP_L, Decoder("mistral", 4096, 32, 32, 8, 14336, 32000)),
        Shape("vicuna-576", _CLIP_L, _VICUNA),
        Shape("llava-rad", _DINO_B, _VICUNA, text=80),
        Shape("small-phi", _SMALL_TOWER, Decoder("phi", 128, 4, 4, 4, 512, 2048), text=40),
        Shape("small-llama", _SMALL_TOWER, Decoder("llama", 256, 6, 4, 4, 688, 2048), text=40),
    )
}
"""By name; the first four are those of the speed claims, the small ones run on a processor."""


def find_shape(name: str) -> Shape:
    """The shape called `name`.

    Raises:
        CxrbenchError: there is none.
    """
    if name not in SHAPES:
        raise CxrbenchError(
            f"there is no shape {name!r}{suggest(name, SHAPES)}",
            where=f"--model shape:{name}",
            fix=f"one of: {', '.join(SHAPES)}",
        )
    return SHAPES[name]
