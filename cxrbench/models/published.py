"""What adapters of published checkpoints beyond the LLaVA family share: views, templates, tidied text, Phi's sizes.

torch and transformers are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from cxrbench.models.checkpoint import read_json
from cxrbench.types import Image, Sample

PHI = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "partial_rotary_factor",
    "max_position_embeddings",
)
"""Sizes of a Phi-2 a configuration must state."""

PHI_MORE = ("num_key_value_heads", "rope_theta", "qk_layernorm", "bos_token_id", "eos_token_id")

LATERAL_VIEWS = frozenset({"LATERAL", "LL", "XTABLE LATERAL"})
"""Views of the data sets that show the patient from the side."""


def is_lateral(image: Image) -> bool:
    """Whether an image is known to show the patient from the side."""
    return image.view in LATERAL_VIEWS


def key_image(sample: Sample) -> Image | None:
    """The key image of a sample, or its first; None where it has none."""
    wanted = sample.key_image or (sample.images[0].image_id if sample.images else "")
    return next((image for image in sample.images if image.image_id == wanted), None)


def sections_used(sample: Sample, names: Sequence[str]) -> dict[str, str]:
    """Sections of these names that the sample offers, without anything that would pass for an image."""
    found = {name: sample.sections.get(name, "").replace("<image>", "image").strip() for name in names}
    return {name: text for name, text in found.items() if text}


def cleans(folder: Path | None) -> bool:
    """Whether `decode` of transformers 4 tidied spaces before punctuation: yes unless the tokenizer says no."""
    file = folder / "tokenizer_config.json" if folder is not None else None
    said = read_json(file) if file is not None and file.is_file() else {}
    return bool(said.get("clean_up_tokenization_spaces", True))


def find_template(folder: Path) -> str | None:
    """The chat template of a checkpoint, from the three places transformers has kept it; None where there is none."""
    file = folder / "tokenizer_config.json"
    found = read_json(file).get("chat_template") if file.is_file() else None
    if isinstance(found, str):
        return found
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    file = folder / "chat_template.json"
    found = read_json(file).get("chat_template") if file.is_file() else None
    return found if isinstance(found, str) else None


@cache
def dinov2_attention() -> Mapping[str, str]:
    """What the installed DINOv2 calls the four parts of its attention: transformers renamed them after 5.17."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    with torch.device("meta"):
        names = Dinov2Model(Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).state_dict()
    if "encoder.layer.0.attention.q_proj.weight" in names:
        return {part: f"attention.{part[0]}_proj" for part in ("query", "key", "value", "output")}
    return {
        **{part: f"attention.attention.{part}" for part in ("query", "key", "value")},
        "output": "attention.output.dense",
    }
