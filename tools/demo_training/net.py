"""The network: a stock LLaVA small enough to ship, the temporary head its tower learns with, and the optimisers."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from demo_training.pool import GRID, PATCH, PIXELS, PLACES
from demo_training.words import BOS, EOS, IMAGE, PAD

WIDTH, LAYERS, HEADS, MLP = 160, 6, 4, 480
TEXT_WIDTH, TEXT_LAYERS, TEXT_HEADS, TEXT_MLP, POSITIONS = 128, 4, 4, 256, 384
LEVELS = 3
DECAY, WARMUP = 0.03, 150
IMAGE_TOKENS = GRID * GRID
MEAN, SPREAD = 0.45, 0.25
"""Pixel normalisation of the processor (grey levels as 0..1)."""


def llava(vocabulary: int) -> Any:
    """A fresh network."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        image_size=PIXELS, patch_size=PATCH, hidden_size=WIDTH, intermediate_size=MLP, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, hidden_act="relu", projection_dim=WIDTH,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=vocabulary, hidden_size=TEXT_WIDTH, intermediate_size=TEXT_MLP, num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=TEXT_HEADS, num_key_value_heads=TEXT_HEADS // 2, max_position_embeddings=POSITIONS,
        tie_word_embeddings=True, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_layer=-1,
        vision_feature_select_strategy="default", image_seq_length=IMAGE_TOKENS, tie_word_embeddings=True,
    )  # fmt: skip
    config._attn_implementation = "eager"  # the fastest on a CPU with bf16 autocast
    return LlavaForConditionalGeneration(config)


class Head(nn.Module):
    """Says from patch tokens what each patch shows and what the picture shows, at three levels of severity each."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.patch = nn.Linear(WIDTH, len(PLACES) * LEVELS)
        self.whole = nn.Linear(2 * WIDTH, len(PLACES) * LEVELS)
        for layer in (self.patch, self.whole):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.constant_(layer.bias, -3.0)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(n, patches, width) -> logits (n, patches, places, levels) and (n, places, levels)."""
        tokens = self.norm(tokens.float())
        whole = self.whole(torch.cat([tokens.mean(1), tokens.amax(1)], dim=1))
        shape = (len(PLACES), LEVELS)
        return self.patch(tokens).unflatten(-1, shape).float(), whole.unflatten(-1, shape).float()


def planes(pixels: Tensor) -> Tensor:
    """Grey levels (n, 160, 160) -> three equal, normalised planes, as the processor makes them."""
    return ((pixels.float() / 255 - MEAN) / SPREAD)[:, None].expand(-1, 3, -1, -1)


def see(model: Any, pixels: Tensor) -> Tensor:
    """Grey levels (n, 160, 160) -> patch tokens (n, patches, width) as the projector gets them."""
    tokens: Tensor = model.model.vision_tower(planes(pixels).to(model.dtype)).last_hidden_state[:, 1:]
    return tokens


def head_loss(head: Head, tokens: Tensor, severity: Tensor, shown: Tensor) -> Tensor:
    """Binary cross-entropy per patch and per picture against what was drawn (severity int (n, places))."""
    patch, whole = head(tokens)
    level = torch.arange(1, LEVELS + 1)
    present = (severity[:, :, None] >= level).float()
    bits = (shown.flatten(1)[:, :, None] >> torch.arange(len(PLACES))) & 1
    per_patch = bits[..., None].float() * present[:, None]
    where = nn.functional.binary_cross_entropy_with_logits(patch, per_patch, pos_weight=torch.tensor(3.0))
    what = nn.functional.binary_cross_entropy_with_logits(whole, present)
    return 3 * where + what


def write_loss(model: Any, tokens: Tensor, prompt: Tensor, answer: Tensor) -> Tensor:
    """Mean cross-entropy of the answers (n, m; PAD after the end) given patch tokens and prompts (n, p)."""
    inner = model.model
    embed = inner.language_model.embed_tokens
    pictures = inner.multi_modal_projector(tokens)
    start = embed(prompt[:, :1])
    sequence = torch.cat(
        [start, pictures.to(start.dtype), embed(prompt[:, 1 + IMAGE_TOKENS :]), embed(answer[:, :-1])], dim=1
    )
    hidden = inner.language_model(inputs_embeds=sequence, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, prompt.shape[1] - 1 :]).float()
    return nn.functional.cross_entropy(logits.flatten(0, 1), answer.flatten(), ignore_index=PAD)


class Shadow:
    """A bf16 copy of a network that does the work; gradients go back to the fp32 weights, which are updated.

    A fifth faster on a CPU than autocast, which casts the same tensors again and again.
    """

    def __init__(self, model: Any) -> None:
        self.model = copy.deepcopy(model)
        for parameter in self.model.parameters():  # not the buffers: rotary frequencies need fp32
            parameter.data = parameter.data.bfloat16()
        self.ours, self.theirs = list(self.model.parameters()), list(model.parameters())
        self.model.train()

    def pull(self) -> None:
        """Take over the weights."""
        with torch.no_grad():
            torch._foreach_copy_(self.ours, self.theirs)

    def push(self) -> None:
        """Hand over the gradients."""
        for ours, theirs in zip(self.ours, self.theirs, strict=True):
            theirs.grad = None if ours.grad is None else ours.grad.float()
            ours.grad = None


class Optimiser:
    """Muon for the matrices inside the layers, AdamW for all else; one learning rate, warmed up and cooled down."""

    def __init__(
        self, groups: Iterable[tuple[nn.Module, float]], rate: float, steps: int, *, cooling: bool = False
    ) -> None:
        matrices: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for module, share in groups:
            inside, outside = _split(module)
            if inside:
                matrices.append({"params": inside, "lr": rate * share, "base": rate * share})
            others.append({"params": outside, "lr": rate * share, "base": rate * share})
        self.steps, self.cooling, self.done = steps, cooling, 0
        self.parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=DECAY)]
        if matrices:
            self.parts.append(torch.optim.Muon(matrices, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"))
        self.parameters = [each for part in self.parts for group in part.param_groups for each in group["params"]]

    def step(self) -> None:
        """One update; the gradients are clipped to length 1 before and gone afterwards."""
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        share = schedule(self.done, self.steps, cooling=self.cooling)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["base"] * share
            part.step()
            part.zero_grad(set_to_none=True)
        self.done += 1


def schedule(step: int, steps: int, *, cooling: bool) -> float:
    """Up in a line, then level; or, cooling, after a short rise down in a line to a fiftieth.

    >>> [round(schedule(step, 600, cooling=False), 2) for step in (0, 74, 149, 599)]
    [0.01, 0.5, 1.0, 1.0]
    >>> [round(schedule(step, 100, cooling=True), 2) for step in (0, 4, 50, 99)]
    [0.2, 0.96, 0.51, 0.03]
    """
    if not cooling:
        return min(1.0, (step + 1) / WARMUP)
    return min(1.0, (step + 1) / max(steps // 20, 1)) * (0.02 + 0.98 * (1 - step / steps))


def _split(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weight matrices of the transformer layers, and all other parameters."""
    inside, outside = [], []
    for name, parameter in module.named_parameters():
        (inside if parameter.ndim == 2 and "layers." in name else outside).append(parameter)
    return inside, outside
