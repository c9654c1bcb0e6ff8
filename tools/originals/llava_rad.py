"""LLaVA-Rad: a timm DINOv2 inside an open_clip checkpoint, LoRA over Vicuna merged by peft, LLaVA's own language model.

The tower is read from the training checkpoint by open_clip itself, and what LLaVA-Rad takes from it (the output of
the block before the last, without the final norm and without CLS) is restated in `Tower`.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import timm
import torch
from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM
from llava.model.multimodal_projector.builder import build_vision_projector
from open_clip.factory import load_checkpoint
from open_clip.model import CustomTextCLIP
from peft import PeftModel
from timm.models import VisionTransformer, register_model
from torch import nn
from transformers import BertConfig, LlamaForCausalLM

from tools.originals.clip import HIDDEN
from tools.originals.layout import Layout, array, logits, shapes_of, words
from tools.originals.llava_med import IMAGE, llama_config, old_config, with_inverse_frequencies

IMAGE_SIZE = 56
VOCABULARY = 32000
RANK = 4
EMBED = 32  # of the contrastive space
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@register_model
def cxrbench_small_dinov2(pretrained: bool = False, **settings: Any) -> VisionTransformer:
    """DINOv2 B/14 as timm has it, four blocks of width 128 at 56 pixels; open_clip finds it by this name."""
    small = {"img_size": IMAGE_SIZE, "depth": 4, "embed_dim": HIDDEN, "num_heads": HIDDEN // 64}
    return timm.create_model("vit_base_patch14_dinov2", pretrained=pretrained, **small, **settings)


def open_clip_config() -> dict[str, Any]:
    """`biomedclipcxr_518.json`: names of the full-size parts; only the image size says that this one is small."""
    return {
        "embed_dim": EMBED,
        "vision_cfg": {
            "timm_model_name": "vit_base_patch14_dinov2.lvd142m",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": IMAGE_SIZE,
        },
        "text_cfg": {
            "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
            "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 256,
        },
    }


def bert_config() -> BertConfig:
    """The text tower at two layers of width 64, one head of 64."""
    return BertConfig(
        vocab_size=30522, hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=256
    )


def contrastive(scratch: Path) -> CustomTextCLIP:
    """open_clip's model of the config above, with the small parts in the places of the named ones."""
    bert_config().save_pretrained(scratch / "bert")
    config = open_clip_config()
    vision = config["vision_cfg"] | {"timm_model_name": "cxrbench_small_dinov2"}
    text = config["text_cfg"] | {"hf_model_name": str(scratch / "bert"), "hf_model_pretrained": False}
    return CustomTextCLIP(embed_dim=EMBED, vision_cfg=vision, text_cfg=text)


class Tower(nn.Module):
    """What LLaVA-Rad feeds its projector: the state before the last block, CLS dropped."""

    def __init__(self, trunk: VisionTransformer) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, 3, height, width) to (batch, patches, width)."""
        states = self.trunk.norm_pre(self.trunk._pos_embed(self.trunk.patch_embed(images)))
        for block in self.trunk.blocks[:-1]:
            states = block(states)
        return states[:, 1:]


def llava_fields() -> dict[str, Any]:
    """What LLaVA adds to Vicuna's config."""
    return {
        "model_type": "llava",
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_vision_tower": "biomedclip_cxr_518",
        "mm_vision_tower_config": "biomedclipcxr_518.json",
        "mm_vision_tower_checkpoint": "biomedclipcxr_518_checkpoint.pt",
        "mm_hidden_size": HIDDEN,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "square",
        "use_mm_proj": True,
        "pad_token_id": 0,
    }


def adapter_config() -> dict[str, Any]:
    """What peft saves, with the released ratio alpha / r = 2."""
    return {
        "auto_mapping": None,
        "base_model_name_or_path": "lmsys/vicuna-7b-v1.5",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": 2 * RANK,
        "lora_dropout": 0.05,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": RANK,
        "revision": None,
        "target_modules": list(TARGETS),
        "task_type": "CAUSAL_LM",
    }


def adapter_shapes(base: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Two low-rank factors beside each targeted weight of the base."""
    shapes = {}
    for key, shape in base.items():
        if key.removesuffix(".weight").rsplit(".", 1)[-1] in TARGETS:
            stem = f"base_model.model.{key.removesuffix('.weight')}"
            shapes[f"{stem}.lora_A.weight"] = (RANK, shape[1])
            shapes[f"{stem}.lora_B.weight"] = (shape[0], RANK)
    return shapes


def describe(scratch: Path) -> Layout:
    """Vicuna's folder and LLaVA-Rad's, which holds no language model."""
    packages = ("torch", "transformers", "llava-torch", "peft", "timm", "open-clip-torch")
    layout = Layout("llava-rad", "LLaVA-Rad by LLaVA, peft, timm and open_clip", packages)
    config = llama_config(VOCABULARY)
    config.rms_norm_eps, config.max_position_embeddings = 1e-5, 4096
    base = shapes_of(LlamaForCausalLM(config))
    layout.json("base/config.json", old_config(config) | {"architectures": ["LlamaForCausalLM"], "pad_token_id": 0})
    layout.shards("base", "pytorch_model", ".bin", with_inverse_frequencies(base, layers=3, half=8), parts=2)
    layout.json("model/config.json", config.to_dict() | llava_fields())
    layout.json("model/adapter_config.json", adapter_config())
    layout.tensors("model/adapter_model.bin", adapter_shapes(base))
    projector = build_vision_projector(LlavaConfig(**llava_fields(), hidden_size=config.hidden_size))
    prefix = "base_model.model.model.mm_projector."
    trainables = {prefix + key: shape for key, shape in shapes_of(projector).items()}
    layout.tensors("model/non_lora_trainables.bin", trainables)
    layout.json("model/biomedclipcxr_518.json", open_clip_config())
    trained = dict(shapes_of(contrastive(scratch)))
    trained |= {"text.transformer.pooler.dense.weight": (64, 64), "text.transformer.pooler.dense.bias": (64,)}
    layout.tensors(
        "model/biomedclipcxr_518_checkpoint.pt",
        {f"module.{key}": shape for key, shape in trained.items()},
        inside="state_dict",
        beside={"epoch": 20, "name": "biomedclip_cxr_518"},
    )
    return layout


def load_contrastive(folder: Path, scratch: Path) -> CustomTextCLIP:
    """The model from the training checkpoint, without the text pooler, which LLaVA-Rad's code removes too."""
    state = torch.load(folder / "biomedclipcxr_518_checkpoint.pt", weights_only=True)["state_dict"]
    kept = {key.removeprefix("module."): value for key, value in state.items() if ".pooler." not in key}
    torch.save(kept, scratch / "without_pooler.pt")
    model = contrastive(scratch)
    told = load_checkpoint(model, str(scratch / "without_pooler.pt"), strict=True)
    if told.missing_keys or told.unexpected_keys:
        raise ValueError(f"not the original's keys: {told}")
    return model.eval()


def load(root: Path, trunk: VisionTransformer) -> LlavaLlamaForCausalLM:
    """Vicuna, then tower and projector, then LoRA merged by peft: the order of the authors' builder."""
    config = LlavaConfig.from_pretrained(root / "model")
    fields = {name: getattr(config, name) for name in llava_fields()}
    del config.mm_vision_tower  # the package would look the tower up by name; it is attached below
    model, told = LlavaLlamaForCausalLM.from_pretrained(root / "base", config=config, output_loading_info=True)
    if told["missing_keys"] or any("inv_freq" not in key for key in told["unexpected_keys"]):
        raise ValueError(f"not the original's keys: {told}")
    model.model.vision_tower = Tower(trunk)
    model.model.mm_projector = build_vision_projector(LlavaConfig(**fields, hidden_size=config.hidden_size))
    trained = torch.load(root / "model" / "non_lora_trainables.bin", weights_only=True)
    renamed = {key.removeprefix("base_model.model."): value for key, value in trained.items()}
    if model.load_state_dict(renamed, strict=False).unexpected_keys:
        raise ValueError(f"not the original's keys: {list(trained)}")
    return PeftModel.from_pretrained(model, str(root / "model")).merge_and_unload().eval()


@torch.no_grad()
def record() -> dict[str, Any]:
    """The golden: reports' logits, and the contrastive model's embeddings that retrieval uses."""
    with TemporaryDirectory() as name:
        scratch = Path(name)
        layout = describe(scratch)
        root = layout.golden().materialise(scratch / "root")
        both = load_contrastive(root / "model", scratch)
        model = load(root, both.visual.trunk)
        rng = np.random.Generator(np.random.PCG64(8))
        prompts = {
            "image-inside": [1, *words(rng, 5, 3, VOCABULARY), IMAGE, *words(rng, 5, 3, VOCABULARY)],
            "image-second": [1, IMAGE, *words(rng, 3, 3, VOCABULARY)],
        }
        for case, ids in prompts.items():
            pixels = layout.image_case(case, ids, f"{case}/pixels", IMAGE_SIZE)
            layout.output("tower_features", array(model.model.vision_tower(pixels)[0]))
            layout.output("image_features", array(model.encode_images(pixels)[0]))
            layout.output("logits", logits(model(input_ids=torch.tensor([ids]), images=pixels).logits[0], columns=20))
        text = [2, *words(rng, 6, 1000, 30522), 3, 0, 0]
        pixels = layout.image_case("retrieval", text, "retrieval/pixels", IMAGE_SIZE)
        layout.output("image_embedding", array(both.encode_image(pixels, normalize=True)[0]))
        layout.output("text_embedding", array(both.encode_text(torch.tensor([text]), normalize=True)[0]))
    return layout.data
