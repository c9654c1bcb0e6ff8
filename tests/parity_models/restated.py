"""Bridges that no package holds, restated in plain torch from public descriptions of the authors' code.

What a package does hold is taken from it (Phi, LLaMA, Mistral, DINOv2, BLIP-2's tower and Q-Former of transformers
4.36.2). Module names are the names in the checkpoints. Nothing here has seen the converters it is compared with.

    CheXagent-2   SigLIP tower, its last hidden state before the tower's own norm; sincos table, MLP, LayerNorm, matrix;
                  written over the positions between the image tags; Phi with separate query, key and value
    CheXagent     BLIP-2's tower with its post-norm, CLS kept; Q-Former queries; one linear layer; before the prompt
    MAIRA-2       DINOv2 feature map with the final norm, CLS dropped; four linear layers with GELU between; at <image>
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import (
    Blip2Config,
    Blip2QFormerModel,
    Blip2VisionModel,
    Dinov2Backbone,
    Dinov2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)


class SiglipAttention(nn.Module):
    """Full self-attention with biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, width) to the same."""
        batch, tokens, width = states.shape

        def parted(values: torch.Tensor) -> torch.Tensor:
            return values.view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)

        query, key, value = parted(self.q_proj(states)), parted(self.k_proj(states)), parted(self.v_proj(states))
        weights = torch.softmax(query @ key.transpose(2, 3) / (width // self.heads) ** 0.5, dim=-1)
        return self.out_proj((weights @ value).transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Two layers with the tanh form of GELU between them, SigLIP's activation."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., width) to the same."""
        return self.fc2(functional.gelu(self.fc1(states), approximate="tanh"))


class SiglipLayer(nn.Module):
    """Norm, attention, norm, MLP, each added to its input."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.self_attn = SiglipAttention(width, heads)
        self.layer_norm1, self.layer_norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.mlp = Mlp(width, inner)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, width) to the same."""
        states = states + self.self_attn(self.layer_norm1(states))
        return states + self.mlp(self.layer_norm2(states))


class SiglipPool(nn.Module):
    """The tower's pooling head: in the checkpoint, used by nothing here."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.layernorm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, inner)


class SiglipTower(nn.Module):
    """A ViT without CLS; the forward pass ends before `post_layernorm`."""

    def __init__(self, width: int, heads: int, layers: int, image_size: int, patch: int) -> None:
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.patch_embedding = nn.Conv2d(3, width, patch, patch)
        self.embeddings.position_embedding = nn.Embedding((image_size // patch) ** 2, width)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(SiglipLayer(width, heads, 4 * width) for _ in range(layers))
        self.post_layernorm = nn.LayerNorm(width, eps=1e-6)
        self.head = SiglipPool(width, heads, 4 * width)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(batch, 3, height, width) to (batch, patches, width): the last layer's output."""
        states = self.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        states = states + self.embeddings.position_embedding.weight
        for layer in self.encoder.layers:
            states = layer(states)
        return states


def sincos_table(width: int, grid: int) -> torch.Tensor:
    """(grid * grid, width): first half from the column, second half from the row, each sines before cosines."""
    omega = 1.0 / 10000 ** (np.arange(width // 4, dtype=np.float32) / (width / 4.0))
    rows, columns = np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij")
    parts = []
    for place in (columns, rows):
        angles = place.reshape(-1, 1).astype(np.float32) * omega[None, :]
        parts += [np.sin(angles), np.cos(angles)]
    return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))


class CheXagent2Visual(nn.Module):
    """Tower and per-token resampler."""

    def __init__(self, tower: SiglipTower, width: int, grid: int, out: int) -> None:
        super().__init__()
        self.model = tower
        self.pos_embed = nn.Parameter(sincos_table(width, grid), requires_grad=False)
        self.attn_pool = nn.Sequential(nn.Linear(width, 4 * out), nn.GELU(), nn.Linear(4 * out, out))
        self.ln_post = nn.LayerNorm(out, eps=1e-6)
        self.proj = nn.Parameter(torch.zeros(out, out))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(images, 3, height, width) to (images, patches, out)."""
        return self.ln_post(self.attn_pool(self.model(pixels) + self.pos_embed)) @ self.proj


def fused_phi(state: Mapping[str, torch.Tensor], heads: int) -> dict[str, torch.Tensor]:
    """Separate query, key and value as 4.36.2's Phi keeps them: head by head, query before key before value."""
    fused = {}
    for key, value in state.items():
        if ".q_proj." in key:
            parts = [state[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            by_head = [part.view(heads, -1, *part.shape[1:]) for part in parts]
            joined = torch.stack(by_head, dim=1).reshape(-1, *value.shape[1:])
            fused[key.replace("q_proj", "query_key_value")] = joined
        elif ".k_proj." not in key and ".v_proj." not in key:
            fused[key] = value
    return fused


class CheXagent2(nn.Module):
    """`language` is 4.36.2's Phi; the checkpoint's names differ, so `load` maps them."""

    def __init__(self, config: PhiConfig, visual: CheXagent2Visual) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.visual = visual
        self.language = PhiForCausalLM(config)

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Strictly, from the checkpoint's names."""
        prefix = "model.visual."
        pictures = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        self.visual.load_state_dict(pictures)
        words = {key: value for key, value in state.items() if not key.startswith(prefix)}
        self.language.load_state_dict(fused_phi(words, self.heads))

    def forward(self, ids: torch.Tensor, pixels: torch.Tensor, spans: Sequence[Sequence[int]]) -> torch.Tensor:
        """Token ids (length), one image per span [first, past the last]; logits (length, vocabulary)."""
        embedded = self.language.model.embed_tokens(ids)
        for (first, past), features in zip(spans, self.visual(pixels), strict=True):
            embedded = torch.cat([embedded[:first], features, embedded[past:]])
        return self.language(inputs_embeds=embedded[None]).logits[0]


class CheXagent(nn.Module):
    """The 8B model of the paper: BLIP-2's parts, its features in front of the prompt instead of at placeholders."""

    def __init__(self, config: Blip2Config, text: MistralConfig) -> None:
        super().__init__()
        self.vision_model = Blip2VisionModel(config.vision_config)
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, config.qformer_config.hidden_size))
        self.qformer = Blip2QFormerModel(config.qformer_config)
        self.language_projection = nn.Linear(config.qformer_config.hidden_size, text.hidden_size)
        self.language_model = MistralForCausalLM(text)

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1, 3, height, width) to (queries, hidden)."""
        states = self.vision_model(pixels).last_hidden_state
        queries = self.qformer(query_embeds=self.query_tokens, encoder_hidden_states=states).last_hidden_state
        return self.language_projection(queries)[0]

    def forward(self, ids: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Token ids (length), one image; logits (queries + length, vocabulary)."""
        words = self.language_model.get_input_embeddings()(ids)
        joined = torch.cat([self.image_features(pixels), words])
        return self.language_model(inputs_embeds=joined[None]).logits[0]


class Maira2Projector(nn.Module):
    """`depth` linear layers with GELU between them."""

    def __init__(self, width: int, out: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(width, out)]
        for _ in range(depth - 1):
            layers += [nn.GELU(), nn.Linear(out, out)]
        self.layers = nn.Sequential(*layers)


class Maira2(nn.Module):
    """Images in the order of their placeholders: frontal, lateral, prior."""

    def __init__(self, vision: Dinov2Config, text: LlamaConfig, depth: int, image_token: int) -> None:
        super().__init__()
        self.image_token = image_token
        self.vision_tower = Dinov2Backbone(vision)
        self.multi_modal_projector = Maira2Projector(vision.hidden_size, text.hidden_size, depth)
        self.language_model = LlamaForCausalLM(text)

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(images, 3, height, width) to (images, patches, hidden)."""
        return self.multi_modal_projector.layers(self.vision_tower(pixels).feature_maps[-1][:, 1:])

    def forward(self, ids: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Token ids (length) with a placeholder per patch, pixels (images, 3, height, width); logits per token."""
        embedded = self.language_model.get_input_embeddings()(ids).clone()
        embedded[ids == self.image_token] = self.image_features(pixels).flatten(0, 1)
        return self.language_model(inputs_embeds=embedded[None]).logits[0]
