"""Names, shapes and counts of the originals at full size, built on the meta device, where nothing is allocated."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from llava.model.language_model.llava_mistral import LlavaMistralForCausalLM
from llava.model.multimodal_projector.builder import build_vision_projector
from taming.models.vqgan import VQModel
from transformers import (
    Blip2Config,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PhiConfig,
    PretrainedConfig,
)

from tests.parity_models.restated import CheXagent, CheXagent2, CheXagent2Visual, Maira2, SiglipTower
from tools.originals import llava_med, llava_phi, llava_rad, llm_cxr
from tools.originals.bridges import chexagent2_shapes
from tools.originals.layout import Layout, Shapes, shapes_of

PHI_2 = PhiConfig(
    hidden_size=2560, intermediate_size=10240, num_hidden_layers=32, num_attention_heads=32, partial_rotary_factor=0.4
)
LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
MISTRAL_7B = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
MISTRAL_7B |= {"num_key_value_heads": 8, "vocab_size": 32000}


def clip_large(size: int) -> CLIPVisionConfig:
    """CLIP ViT-L/14."""
    return CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=size,
        patch_size=14,
        projection_dim=768,
    )


def slava() -> dict[str, Shapes]:
    """CLIP-L/14-336 and Phi-2."""
    return {"model": shapes_of(llava_phi.LlavaPhi(PHI_2, clip_large(336)))}


@contextmanager
def _folder(*configs: PretrainedConfig | CLIPImageProcessor) -> Iterator[Path]:
    with TemporaryDirectory() as name:
        for config in configs:
            config.save_pretrained(name)
        yield Path(name)


def llava_med_v15() -> dict[str, Shapes]:
    """CLIP-L/14-336 and Mistral-7B; the tower is built beside the model, since the package builds it from files."""
    with _folder(clip_large(336), CLIPImageProcessor()) as folder:
        fields = llava_med.mistral_config() | MISTRAL_7B | {"mm_hidden_size": 1024}
        model = shapes_of(LlavaMistralForCausalLM(llava_med.mistral(fields, folder, own_tower=False)))
    tower = shapes_of(CLIPVisionModel(clip_large(336)))
    return {"model": model | {f"model.vision_tower.vision_tower.{key}": shape for key, shape in tower.items()}}


def llava_med_v1() -> dict[str, Shapes]:
    """LLaMA-7B, the delta over it, and CLIP-L/14-224."""
    delta = shapes_of(LlamaForCausalLM(LlamaConfig(**LLAMA_7B, vocab_size=32004)))
    delta |= {"model.mm_projector.weight": (4096, 1024), "model.mm_projector.bias": (4096,)}
    base = shapes_of(LlamaForCausalLM(LlamaConfig(**LLAMA_7B)))
    return {"base": base, "delta": delta, "tower (vision part)": shapes_of(CLIPVisionModel(clip_large(224)))}


def llava_rad_parts() -> dict[str, Shapes]:
    """Vicuna-7B, LoRA of rank 64, the projector, and the DINOv2 trunk."""
    base = shapes_of(LlamaForCausalLM(LlamaConfig(**LLAMA_7B)))
    small = llava_rad.adapter_shapes(base)
    ranked = {key: tuple(64 if side == llava_rad.RANK else side for side in shape) for key, shape in small.items()}
    fields = llava_rad.llava_fields() | {"mm_hidden_size": 768}
    projector = shapes_of(build_vision_projector(llava_rad.LlavaConfig(**fields, hidden_size=4096)))
    trunk = shapes_of(timm.create_model("vit_base_patch14_dinov2", num_classes=0))
    return {
        "base": base,
        "adapter_model.bin": ranked,
        "non_lora_trainables.bin": {f"base_model.model.model.mm_projector.{key}": at for key, at in projector.items()},
        "biomedclipcxr_518_checkpoint.pt (trunk)": {f"module.visual.trunk.{key}": at for key, at in trunk.items()},
    }


def llm_cxr_parts() -> dict[str, Shapes]:
    """dolly-v2-3b with 1024 more words, and taming's VQ-GAN f16."""
    config = llm_cxr.neox_config().to_dict() | {"hidden_size": 2560, "intermediate_size": 10240}
    config |= {"num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 2048}
    params = llm_cxr.vqgan_config()["model"]["params"]
    autoencoder = params["ddconfig"] | {"z_channels": 256, "resolution": 256, "ch": 128, "ch_mult": [1, 1, 2, 2, 4]}
    params |= {"embed_dim": 256, "ddconfig": autoencoder, "lossconfig": {"target": "torch.nn.Identity"}}
    return {"llm": shapes_of(GPTNeoXForCausalLM(GPTNeoXConfig(**config))), "vqgan": shapes_of(VQModel(**params))}


def chexagent_2() -> dict[str, Shapes]:
    """SigLIP-L/16-512 and Phi-2's shape."""
    tower = SiglipTower(1024, 16, 24, 512, 16)
    return {"model": chexagent2_shapes(CheXagent2(PHI_2, CheXagent2Visual(tower, 1024, 32, 2560)))}


def chexagent_8b() -> dict[str, Shapes]:
    """The 40-layer ViT, the Q-Former with 128 queries, Mistral-7B."""
    text = MistralConfig(**MISTRAL_7B)
    vision = {"num_hidden_layers": 40, "image_size": 448, "patch_size": 14}
    config = Blip2Config(vision, {"vocab_size": 30523}, text.to_dict(), num_query_tokens=128)
    return {"model": shapes_of(CheXagent(config, text))}


def maira_2() -> dict[str, Shapes]:
    """DINOv2 B/14-518 and Vicuna-7B with 32207 words."""
    vision = Dinov2Config(image_size=518, patch_size=14, out_features=["stage12"], reshape_hidden_states=False)
    text = LlamaConfig(**LLAMA_7B, vocab_size=32207)
    return {"model": shapes_of(Maira2(vision, text, depth=4, image_token=32204))}


MODELS: dict[str, Callable[[], dict[str, Shapes]]] = {
    "slava": slava,
    "llava-med": llava_med_v15,
    "llava-med-v1": llava_med_v1,
    "llava-rad": llava_rad_parts,
    "llm-cxr": llm_cxr_parts,
    "chexagent-2": chexagent_2,
    "chexagent": chexagent_8b,
    "maira-2": maira_2,
}


def summary(shapes: Shapes) -> dict[str, Any]:
    """Totals, and each name once with `*` for the layer's number: {"name": [how many, shape]}."""
    names: dict[str, list[Any]] = {}
    for key, shape in shapes.items():
        name = re.sub(r"(?<=\.)\d+(?=\.)", "*", key)
        if name in names and names[name][1] != list(shape):
            name = key  # numbered places of different shape, such as those of a Sequential, stay apart
        names.setdefault(name, [0, list(shape)])[0] += 1
    total = sum(math.prod(shape) for shape in shapes.values())
    return {"tensors": len(shapes), "parameters": total, "names": names}


def record() -> dict[str, Any]:
    """The document: per model and part, its tensors and parameters."""
    packages = ("transformers", "llava-torch", "timm", "taming-transformers-rom1504")
    layout = Layout("full-size", "state dicts of the originals at full size, from the meta device", packages)
    del layout.data["files"], layout.data["cases"], layout.data["seed"]
    with torch.device("meta"):
        built: Mapping[str, dict[str, Shapes]] = {name: build() for name, build in MODELS.items()}
    layout.data["models"] = {
        name: {part: summary(shapes) for part, shapes in parts.items()} for name, parts in built.items()
    }
    return layout.data
