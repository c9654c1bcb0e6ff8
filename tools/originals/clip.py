"""A small OpenAI CLIP on disk as the hub has it: both towers and their projections in one file."""

from __future__ import annotations

from typing import Any

from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPVisionConfig

from tools.originals.layout import Layout, rule, shapes_of

HIDDEN = 128  # two heads of 64, the head size of every CLIP, DINOv2 and SigLIP tower of these models
PATCH = 14


def vision_config(image_size: int, layers: int = 3) -> CLIPVisionConfig:
    """A ViT with patch 14 like CLIP-L/14, `layers` deep."""
    return CLIPVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=HIDDEN // 64,
        image_size=image_size,
        patch_size=PATCH,
        projection_dim=32,
    )


def describe_tower(layout: Layout, folder: str, image_size: int, layers: int = 3) -> CLIPVisionConfig:
    """Adds a CLIP folder to the layout: config, preprocessor config and weights of both towers.

    The hub's file was written by releases that stored `position_ids`; so is this one.
    """
    vision = vision_config(image_size, layers)
    text: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": 99,
        "max_position_embeddings": 8,
    }
    config = CLIPConfig(text_config=text, vision_config=vision.to_dict(), projection_dim=32)
    config.architectures = ["CLIPModel"]
    shapes = dict(shapes_of(CLIPModel(config)))
    shapes["text_model.embeddings.position_ids"] = (1, 8)
    shapes["vision_model.embeddings.position_ids"] = (1, (image_size // PATCH) ** 2 + 1)
    layout.json(f"{folder}/config.json", config.to_dict())
    layout.json(f"{folder}/preprocessor_config.json", processor(image_size).to_dict())
    layout.tensors(f"{folder}/pytorch_model.bin", shapes, rule)
    return vision


def processor(size: int) -> CLIPImageProcessor:
    """The processor OpenAI ships with CLIP, at the tower's size."""
    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
