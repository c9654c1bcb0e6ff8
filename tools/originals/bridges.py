"""CheXagent-2, CheXagent and MAIRA-2: checkpoints in the hub's layout, answered by the restated models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import Blip2Config, Dinov2Config, LlamaConfig, MistralConfig, PhiConfig

from tests.parity_models.restated import CheXagent, CheXagent2, CheXagent2Visual, Maira2, SiglipTower
from tools.originals.clip import HIDDEN
from tools.originals.layout import Layout, Rule, array, logits, rule, shapes_of, words

PACKAGES = ("torch", "transformers")
LAYERS = 3


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder of safetensors shards."""
    return {key: value for shard in sorted(folder.glob("*.safetensors")) for key, value in load_file(shard).items()}


def written(layout: Layout, load: Callable[[Mapping[str, torch.Tensor]], Any]) -> None:
    """Writes the layout, reads its tensors back and hands them to `load`."""
    with TemporaryDirectory() as name:
        load(state_of(layout.golden().materialise(Path(name)) / "model"))


# CheXagent-2 -------------------------------------------------------------------------------------------------------

SIGLIP_SIZE, SIGLIP_PATCH = 64, 16
IMG_START, IMG_END, IMG_PAD = 50295, 50296, 50297


def phi_config() -> PhiConfig:
    """RadPhi-2's shape at four heads of 20."""
    return PhiConfig(
        vocab_size=51200,
        hidden_size=80,
        intermediate_size=320,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        partial_rotary_factor=0.4,
        bos_token_id=50256,
        eos_token_id=50256,
    )


def chexagent2() -> CheXagent2:
    """The restated model, small."""
    grid = SIGLIP_SIZE // SIGLIP_PATCH
    tower = SiglipTower(HIDDEN, HIDDEN // 64, LAYERS, SIGLIP_SIZE, SIGLIP_PATCH)
    return CheXagent2(phi_config(), CheXagent2Visual(tower, HIDDEN, grid, phi_config().hidden_size)).eval()


def chexagent2_shapes(model: CheXagent2) -> dict[str, Sequence[int]]:
    """The checkpoint's names: the visual part inside `model`, query, key and value apart."""
    shapes: dict[str, Sequence[int]] = {}
    for key, shape in shapes_of(model.language).items():
        if "query_key_value" in key:
            third = (shape[0] // 3, *shape[1:])
            shapes |= {key.replace("query_key_value", f"{part}_proj"): third for part in "qkv"}
        else:
            shapes[key] = shape
    return shapes | {f"model.visual.{key}": shape for key, shape in shapes_of(model.visual).items()}


def chexagent2_rule(key: str, shape: Sequence[int]) -> Rule:
    """The position table is the sincos table, not random."""
    return ["sincos"] if key == "model.visual.pos_embed" else rule(key, shape)


@torch.no_grad()
def record_chexagent2() -> dict[str, Any]:
    """One image and two images; ids hold the tags and one filler per patch between them."""
    layout = Layout("chexagent-2", "CheXagent-2: bridge and SigLIP restated, Phi by transformers 4.36.2", PACKAGES)
    model = chexagent2()
    visual = {
        "image_size": SIGLIP_SIZE,
        "image_start_id": IMG_START,
        "output_dim": phi_config().hidden_size,
        "vision_model_name_or_path": "StanfordAIMI/XraySigLIP__vit-l-16-siglip-512__webli",
    }
    config = phi_config().to_dict() | {"model_type": "chexagent", "architectures": ["CheXagentForCausalLM"]}
    layout.json("model/config.json", config | {"visual": visual, "torch_dtype": "float32"})
    layout.shards("model", "model", ".safetensors", chexagent2_shapes(model), 3, chexagent2_rule)
    written(layout, model.load)
    rng = np.random.Generator(np.random.PCG64(10))
    patches = (SIGLIP_SIZE // SIGLIP_PATCH) ** 2
    for name, images in (("one-image", 1), ("two-images", 2)):
        ids, spans = words(rng, 4, 0, 50257), []
        for _ in range(images):
            spans.append([len(ids) + 1, len(ids) + 1 + patches])
            ids += [IMG_START, *[IMG_PAD] * patches, IMG_END, *words(rng, 3, 0, 50257)]
        pixels = layout.image_case(name, ids, name, SIGLIP_SIZE, images)
        layout.data["cases"][-1]["inputs"]["image_spans"] = spans
        layout.output("image_features", array(model.visual(pixels[:1])[0]))
        layout.output("logits", logits(model(torch.tensor(ids), pixels, spans), columns=24, every=images))
    return layout.data


# CheXagent 8B ------------------------------------------------------------------------------------------------------


def chexagent_configs() -> tuple[Blip2Config, MistralConfig]:
    """Two heads of 88 as in EVA-CLIP, 16 queries, Mistral with grouped keys."""
    vision = {
        "hidden_size": 176,
        "intermediate_size": 384,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "qkv_bias": True,
    }
    qformer = {
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 256,
        "vocab_size": 30523,
    }
    text = MistralConfig(
        vocab_size=32000,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=4096,
    )
    return Blip2Config(vision, qformer, text.to_dict(), num_query_tokens=16), text


@torch.no_grad()
def record_chexagent() -> dict[str, Any]:
    """One image in front of a prompt."""
    layout = Layout("chexagent", "CheXagent 8B's shape: BLIP-2's parts and Mistral by transformers 4.36.2", PACKAGES)
    config, text = chexagent_configs()
    model = CheXagent(config, text).eval()
    content = {
        "model_type": "chexagent",
        "architectures": ["CheXagentForConditionalGeneration"],
        "num_max_images": 2,
        "num_query_tokens": config.num_query_tokens,
        "vision_config": config.vision_config.to_dict() | {"model_type": "chexagent_vision_model"},
        "qformer_config": config.qformer_config.to_dict() | {"model_type": "chexagent_qformer"},
        "text_config": text.to_dict() | {"architectures": ["MistralForCausalLM"]},
    }
    layout.json("model/config.json", content)
    layout.shards("model", "model", ".safetensors", shapes_of(model), parts=3)
    written(layout, model.load_state_dict)
    rng = np.random.Generator(np.random.PCG64(11))
    ids = [1, *words(rng, 9, 3, 32000)]
    pixels = layout.image_case("image-in-front", ids, "pixels", 56)
    layout.output("image_features", array(model.image_features(pixels)))
    layout.output("logits", logits(model(torch.tensor(ids), pixels)))
    return layout.data


# MAIRA-2 -----------------------------------------------------------------------------------------------------------

MAIRA_IMAGE, MAIRA_VOCABULARY, MAIRA_SIZE = 32204, 32207, 56


def maira_configs() -> tuple[Dinov2Config, LlamaConfig]:
    """DINOv2 B/14 and Vicuna with positions divided by 1.5, small."""
    vision = Dinov2Config(
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HIDDEN // 64,
        image_size=MAIRA_SIZE,
        patch_size=14,
        out_features=[f"stage{LAYERS}"],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    text = LlamaConfig(
        vocab_size=MAIRA_VOCABULARY,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        rope_scaling={"type": "linear", "factor": 1.5},
    )
    return vision, text


@torch.no_grad()
def record_maira2() -> dict[str, Any]:
    """A frontal image alone, and frontal with lateral."""
    layout = Layout("maira-2", "MAIRA-2: bridge restated, DINOv2 backbone and LLaMA by transformers 4.36.2", PACKAGES)
    vision, text = maira_configs()
    model: nn.Module = Maira2(vision, text, depth=4, image_token=MAIRA_IMAGE).eval()
    content = {
        "model_type": "maira2",
        "architectures": ["Maira2ForConditionalGeneration"],
        "image_token_index": MAIRA_IMAGE,
        "image_seq_length": (MAIRA_SIZE // 14) ** 2,
        "projector_n_layers": 4,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "pad_token_id": 0,
        "text_config": text.to_dict(),
        "vision_config": vision.to_dict(),
        "torch_dtype": "float32",
    }
    layout.json("model/config.json", content)
    layout.shards("model", "model", ".safetensors", shapes_of(model), parts=6)
    written(layout, model.load_state_dict)
    rng = np.random.Generator(np.random.PCG64(12))
    patches = (MAIRA_SIZE // 14) ** 2
    for name, images in (("frontal", 1), ("frontal-and-lateral", 2)):
        ids = [1]
        for _ in range(images):
            ids += [*words(rng, 3, 3, 32000), *[MAIRA_IMAGE] * patches]
        ids += words(rng, 4, 3, 32000)
        pixels = layout.image_case(name, ids, name, MAIRA_SIZE, images)
        layout.output("image_features", array(model.image_features(pixels[:1])[0]))
        answer = model(torch.tensor(ids), pixels)
        layout.output("logits", logits(answer, columns=24, special=(MAIRA_IMAGE,), every=images))
    return layout.data
