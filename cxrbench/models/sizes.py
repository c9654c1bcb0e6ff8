"""Sizes of networks read off the shapes of their tensors.

A configuration inside another (text_config, vision_config) is stored without what equals its class's defaults, and some
of those have changed between releases. So sizes come from the tensors, the rest from the file or from the defaults of
the class at the time; what the file states counts, and contradicts the tensors at its own risk: shapes are compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cxrbench.errors import CxrbenchError
from cxrbench.models.keys import Source

LLAMA_USUAL: Mapping[str, Any] = {
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Defaults of LlamaConfig that no shape shows, the same from transformers 4.36 to 5.23."""

MISTRAL_USUAL: Mapping[str, Any] = {**LLAMA_USUAL, "max_position_embeddings": 131072, "sliding_window": 4096}
"""Those of MistralConfig."""


def layers(source: Source, pattern: str) -> int:
    """How many numbers the one group of a pattern over whole names takes."""
    return len({found[1] for name in source.names() if (found := re.fullmatch(pattern, name))})


def shape(source: Source, name: str) -> tuple[int, ...]:
    """Shape of a tensor the network cannot do without.

    Raises:
        CxrbenchError: it is not there.
    """
    if name not in source.names():
        raise CxrbenchError(
            f"the weight {name} is missing from the checkpoint", where=source.where, fix="copy all weight files"
        )
    return source.shape(name)


def grid_of_patches(source: Source, patches: str, places: str, extra: int) -> dict[str, int]:
    """Width, patch and side of a tower: `patches` is its first convolution, `places` its table of positions.

    Args:
        source: where the tensors are.
        patches: name of the convolution's weight (width, 3, patch, patch).
        places: name of the table, (places, width) or (1, places, width).
        extra: places that are no patch (the class token).
    """
    width, _, _, patch = shape(source, patches)
    count = shape(source, places)[-2] - extra
    return {"hidden_size": width, "patch_size": patch, "image_size": round(count**0.5) * patch}


def llama(source: Source, prefix: str, stated: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a LLaMA or Mistral under a prefix: `stated` over `usual` over what the shapes show.

    Args:
        source: where the tensors are.
        prefix: what stands before `embed_tokens` and `layers`.
        stated: its own part of config.json.
        usual: the class's defaults.
    """
    known = {**usual, **{key: value for key, value in stated.items() if value is not None or key in usual}}
    vocabulary, width = shape(source, f"{prefix}embed_tokens.weight")
    head = known.get("head_dim") or width // int(known["num_attention_heads"])
    first = f"{prefix}layers.0."
    found = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shape(source, f"{first}mlp.gate_proj.weight")[0],
        "num_hidden_layers": layers(source, rf"{re.escape(prefix)}layers\.(\d+)\.mlp\.gate_proj\.weight"),
        "num_key_value_heads": shape(source, f"{first}self_attn.k_proj.weight")[0] // head,
    }
    names = (*found, *usual, "head_dim")
    return {key: value for key, value in {**found, **known}.items() if key in names}
