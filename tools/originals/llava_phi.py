"""SLaVA-CXR: LLaVA-Phi as its authors wrote it for transformers 4.36.2, whose Phi fuses query, key and value.

No package holds LLaVA-Phi itself; transformers 4.36.2 holds its two parts. What joins them (the second-to-last CLIP
layer without CLS, a projector, features in the place of the image token) is restated in `LlavaPhi` from
the description in the authors' repository.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, PhiConfig, PhiModel

from tools.originals.clip import processor, vision_config
from tools.originals.layout import Layout, array, logits, shapes_of, words

IMAGE = -200  # what the authors' tokenising puts where the image goes
IMAGE_SIZE = 56


class LlavaPhi(nn.Module):
    """Names of the modules are the names in the checkpoint."""

    def __init__(self, text: PhiConfig, vision: CLIPVisionConfig) -> None:
        super().__init__()
        self.model = PhiModel(text)
        self.model.vision_tower = CLIPVisionModel(vision)
        self.model.mm_projector = nn.Sequential(
            nn.Linear(vision.hidden_size, text.hidden_size),
            nn.GELU(),
            nn.Linear(text.hidden_size, text.hidden_size),
        )
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=True)

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(batch, 3, height, width) to (batch, patches, hidden)."""
        states = self.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        return self.model.mm_projector(states[-2][:, 1:])

    def forward(self, ids: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Token ids (length) with one `IMAGE`, pixels (1, 3, height, width); logits (length - 1 + patches, vocab)."""
        at = int((ids == IMAGE).nonzero()[0, 0])
        embed = self.model.embed_tokens
        joined = torch.cat([embed(ids[:at]), self.image_features(pixels)[0], embed(ids[at + 1 :])])
        return self.lm_head(self.model(inputs_embeds=joined[None]).last_hidden_state)[0]


def configs() -> tuple[PhiConfig, CLIPVisionConfig]:
    """Phi-2's shape at four heads of 20 (8 rotated) and a CLIP tower of three layers."""
    text = PhiConfig(
        vocab_size=51200,
        hidden_size=80,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=4,
        partial_rotary_factor=0.4,
        max_position_embeddings=2048,
        bos_token_id=50256,
        eos_token_id=50256,
    )
    return text, vision_config(IMAGE_SIZE)


def config_json(text: PhiConfig, vision: CLIPVisionConfig) -> dict[str, Any]:
    """`LlavaPhiConfig`: Phi's fields, with tower and projector under `vision_config`."""
    tower = vision.to_dict() | {
        "model_type": "llava_phi_clip_vision_model",
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
    }
    projector = {
        "model_type": "llava_phi_projector",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": vision.hidden_size,
        "hidden_size": text.hidden_size,
    }
    return text.to_dict() | {
        "model_type": "llava_phi",
        "architectures": ["LlavaPhiForCausalLM"],
        "torch_dtype": "float32",
        "vision_config": {"vision_tower": tower, "mm_projector": projector},
    }


def describe() -> Layout:
    """The checkpoint folder: sharded safetensors, config, and CLIP's preprocessor config."""
    text, vision = configs()
    layout = Layout("slava", "SLaVA-CXR (LLaVA-Phi) on transformers 4.36.2's fused Phi", ("torch", "transformers"))
    layout.json("model/config.json", config_json(text, vision))
    layout.json("model/preprocessor_config.json", processor(IMAGE_SIZE).to_dict())
    layout.shards("model", "model", ".safetensors", shapes_of(LlavaPhi(text, vision)), parts=3)
    return layout


def load(folder: Path) -> LlavaPhi:
    """The original filled strictly from the files on disk."""
    model = LlavaPhi(*configs())
    state = {key: value for shard in folder.glob("*.safetensors") for key, value in load_file(shard).items()}
    model.load_state_dict(state, strict=True)
    return model.eval()


@torch.no_grad()
def record() -> dict[str, Any]:
    """The golden document."""
    layout = describe()
    rng = np.random.Generator(np.random.PCG64(5))
    prompts = {
        "image-inside": [*words(rng, 5, 0, 50257), IMAGE, *words(rng, 6, 0, 50257)],
        "image-first": [IMAGE, *words(rng, 3, 0, 50257)],
    }
    with TemporaryDirectory() as folder:
        model = load(layout.golden().materialise(Path(folder)) / "model")
        for name, ids in prompts.items():
            pixels = layout.image_case(name, ids, f"{name}/pixels", IMAGE_SIZE)
            layout.output("image_features", array(model.image_features(pixels)[0]))
            layout.output("logits", logits(model(torch.tensor(ids), pixels), special=(50256, 50295, 51199)))
    return layout.data
