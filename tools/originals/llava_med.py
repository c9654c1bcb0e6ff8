"""LLaVA-Med v1.5 (Mistral) run by the LLaVA package itself, and v1 (LLaMA deltas) on transformers' LLaMA."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from llava.model.language_model.llava_mistral import LlavaMistralConfig, LlavaMistralForCausalLM
from torch import nn
from transformers import CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from tools.originals.clip import HIDDEN, describe_tower
from tools.originals.layout import Layout, Rule, array, logits, rule, shapes_of, words

IMAGE = -200
IMAGE_SIZE = 56
PATCHES = 16
BASE_VOCABULARY = 32000
IM_PATCH, IM_START, IM_END = 32001, 32002, 32003  # in the order v1's training added them, after [PAD] at 32000


def mistral_config() -> dict[str, Any]:
    """The hub's config.json at small size; grouped keys and values, no sliding window, theta 1e6."""
    config = LlavaMistralConfig(
        vocab_size=BASE_VOCABULARY,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rms_norm_eps=1e-5,
        rope_theta=1e6,
        sliding_window=None,
        bos_token_id=1,
        eos_token_id=2,
    )
    return config.to_dict() | {
        "architectures": ["LlavaMistralForCausalLM"],
        "torch_dtype": "float32",
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "mm_hidden_size": HIDDEN,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_mm_proj": True,
        "image_aspect_ratio": "pad",
        "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": 2048,
    }


def mistral(config: dict[str, Any], tower: Path, own_tower: bool) -> LlavaMistralConfig:
    """The config with the tower's name replaced by a folder; `own_tower` keeps the checkpoint's tower tensors."""
    made_of = LlavaMistralConfig(**config)
    made_of.mm_vision_tower = str(tower)
    if own_tower:
        made_of.unfreeze_mm_vision_tower = True
    return made_of


def load_mistral(folder: Path, own_tower: bool) -> LlavaMistralForCausalLM:
    """The package's model from the files on disk.

    As released (`own_tower` false) the tower is not built when the weights are read, so the checkpoint's tower is
    passed over and OpenAI's is loaded afterwards.
    """
    config = mistral(LlavaMistralConfig.from_pretrained(folder / "model").to_dict(), folder / "tower", own_tower)
    model, told = LlavaMistralForCausalLM.from_pretrained(folder / "model", config=config, output_loading_info=True)
    unused = [key for key in told["unexpected_keys"] if "vision_tower" not in key or own_tower]
    if unused or told["missing_keys"]:
        raise ValueError(f"not the original's keys: unused {unused}, missing {told['missing_keys']}")
    if not own_tower:
        model.get_vision_tower().load_model()
    return model.eval()


@torch.no_grad()
def record_v15() -> dict[str, Any]:
    """The golden of v1.5: each prompt with the checkpoint's own tower and with OpenAI's, as the release runs it."""
    packages = ("torch", "transformers", "llava-torch")
    layout = Layout("llava-med", "LLaVA-Med v1.5 (Mistral), by the LLaVA package", packages)
    describe_tower(layout, "tower", IMAGE_SIZE)
    layout.json("model/config.json", mistral_config())
    with TemporaryDirectory() as name:
        folder = layout.golden().materialise(Path(name))
        whole = LlavaMistralForCausalLM(mistral(mistral_config(), folder / "tower", own_tower=True))
        layout.shards("model", "model", ".safetensors", shapes_of(whole), parts=4)
        layout.golden().materialise(folder)
        rng = np.random.Generator(np.random.PCG64(6))
        prompts = {
            "image-inside": [1, *words(rng, 4, 3, BASE_VOCABULARY), IMAGE, *words(rng, 6, 3, BASE_VOCABULARY)],
            "image-second": [1, IMAGE, *words(rng, 3, 3, BASE_VOCABULARY)],
        }
        for tower in ("checkpoint", "openai"):
            model = load_mistral(folder, own_tower=tower == "checkpoint")
            for prompt, ids in prompts.items():
                _case(layout, f"{prompt}/{tower}-tower", prompt, ids, model)
    return layout.data


def _case(layout: Layout, name: str, prompt: str, ids: list[int], model: LlavaMistralForCausalLM) -> None:
    pixels = layout.image_case(name, ids, f"{prompt}/pixels", IMAGE_SIZE)
    layout.output("image_features", array(model.encode_images(pixels)[0]))
    layout.output("logits", logits(model(input_ids=torch.tensor([ids]), images=pixels).logits[0], columns=24))


def llama_config(vocabulary: int) -> LlamaConfig:
    """LLaMA-7B's shape, small."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        bos_token_id=1,
        eos_token_id=2,
    )


def old_config(config: LlamaConfig) -> dict[str, Any]:
    """What the releases of that time wrote: without the fields that came later."""
    later = ("num_key_value_heads", "rope_theta", "rope_scaling", "attention_bias", "attention_dropout")
    return {key: value for key, value in config.to_dict().items() if key not in (*later, "pretraining_tp")}


def with_inverse_frequencies(shapes: dict[str, tuple[int, ...]], layers: int, half: int) -> dict[str, tuple[int, ...]]:
    """Adds the rotary buffers which releases before 4.32 stored beside every layer's weights."""
    buffers = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": (half,) for layer in range(layers)}
    return shapes | buffers


def delta_rule(key: str, shape: Any) -> Rule:
    """Differences are around zero; a rotary buffer minus itself is zero."""
    if key.endswith("inv_freq"):
        return ["full", 0.0]
    _, scale = rule(key, shape)
    return [0.0, scale if "mm_projector" in key else round(scale / 2, 6)]


class LlavaMedV1(nn.Module):
    """LLaMA with one linear projector; patches replace the placeholder tokens between start and end."""

    def __init__(self, config: LlamaConfig, tower: CLIPVisionModel) -> None:
        super().__init__()
        self.language = LlamaForCausalLM(config)
        self.language.model.mm_projector = nn.Linear(HIDDEN, config.hidden_size)
        self.tower = [tower]  # in a list, so that it stays out of the state dict, as in the release

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1, 3, height, width) to (patches, hidden)."""
        states = self.tower[0](pixels, output_hidden_states=True).hidden_states
        return self.language.model.mm_projector(states[-2][:, 1:])[0]

    def forward(self, ids: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Token ids (length) with start, placeholders and end already in place; logits (length, vocabulary)."""
        embedded = self.language.model.embed_tokens(ids)
        start = int((ids == IM_START).nonzero()[0, 0])
        features = self.image_features(pixels)
        joined = torch.cat([embedded[: start + 1], features, embedded[start + 1 + len(features) :]])
        return self.language(inputs_embeds=joined[None]).logits[0]


def load_v1(folder: Path) -> LlavaMedV1:
    """Base plus delta in float32; the delta's four added vocabulary rows have no counterpart in the base."""
    tower = CLIPVisionModel.from_pretrained(folder / "tower")
    model = LlavaMedV1(llama_config(BASE_VOCABULARY + 4), tower)
    base, delta = (_bin_tensors(folder / part) for part in ("base", "delta"))
    for key, value in delta.items():
        if key in base:
            value[: len(base[key])] += base[key]
    told = model.language.load_state_dict(delta, strict=False)
    if told.missing_keys or any("inv_freq" not in key for key in told.unexpected_keys):
        raise ValueError(f"not the original's keys: {told}")
    return model.eval()


def _bin_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        key: value
        for shard in sorted(folder.glob("*.bin"))
        for key, value in torch.load(shard, weights_only=True).items()
    }


@torch.no_grad()
def record_v1() -> dict[str, Any]:
    """The golden of v1: a base, a delta over it, and OpenAI's tower, each in its own folder."""
    what = "LLaVA-Med v1 (LLaMA deltas), restated on transformers' LLaMA"
    layout = Layout("llava-med-v1", what, ("torch", "transformers"))
    vision = describe_tower(layout, "tower", IMAGE_SIZE)
    model = LlavaMedV1(llama_config(BASE_VOCABULARY + 4), CLIPVisionModel(vision))
    shapes = with_inverse_frequencies(shapes_of(model.language), layers=3, half=8)
    base_config = old_config(llama_config(BASE_VOCABULARY)) | {"architectures": ["LlamaForCausalLM"]}
    base = with_inverse_frequencies(shapes_of(LlamaForCausalLM(llama_config(BASE_VOCABULARY))), layers=3, half=8)
    layout.json("base/config.json", base_config)
    layout.shards("base", "pytorch_model", ".bin", base, parts=2)
    layout.json("delta/config.json", old_config(llama_config(BASE_VOCABULARY + 4)) | _v1_fields())
    layout.shards("delta", "pytorch_model", ".bin", shapes, 3, delta_rule)
    rng = np.random.Generator(np.random.PCG64(7))
    image = [IM_START, *[IM_PATCH] * PATCHES, IM_END]
    ids = [1, *words(rng, 6, 3, BASE_VOCABULARY), *image, *words(rng, 4, 3, BASE_VOCABULARY)]
    with TemporaryDirectory() as name:
        original = load_v1(layout.golden().materialise(Path(name)))
        pixels = layout.image_case("image-after-question", ids, "pixels", IMAGE_SIZE)
        layout.output("image_features", array(original.image_features(pixels)))
        answer = original(torch.tensor(ids), pixels)
        layout.output("logits", logits(answer, special=(BASE_VOCABULARY, IM_PATCH, IM_START, IM_END)))
    return layout.data


def _v1_fields() -> dict[str, Any]:
    return {
        "model_type": "llava",
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_vision_tower": "openai/clip-vit-large-patch14",
        "mm_hidden_size": HIDDEN,
        "mm_vision_select_layer": -2,
        "mm_use_im_start_end": True,
        "use_mm_proj": True,
        "pad_token_id": 32000,
    }
