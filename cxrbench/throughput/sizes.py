"""The sizes of a network, from its configuration: what a roofline is drawn from. No torch."""

from __future__ import annotations

from typing import Any

from cxrbench.models.shapes import Decoder, Shape, Tower, Towering


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
