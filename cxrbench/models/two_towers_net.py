"""A DINOv2 and a BERT that meet in one space: open_clip's CustomTextCLIP from stock parts. Imports torch.

open_clip 2.23.0: timm_model.py (class token after the last norm, then a linear layer without bias) and hf_model.py
(the last state of [CLS], then two linear layers without bias and a GELU between them).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model, PretrainedConfig, PreTrainedModel


class TwoTowersConfig(PretrainedConfig):  # type: ignore[misc]
    """`vision` and `text` are settings of Dinov2Config and BertConfig, `space` is the width of the joint space."""

    model_type = "cxrbench_two_towers"

    def __init__(
        self, vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, space: int = 512, **more: Any
    ) -> None:
        self.vision, self.text, self.space = dict(vision or {}), dict(text or {}), space
        super().__init__(**more)


class TwoTowers(PreTrainedModel):  # type: ignore[misc]
    """`embed_image` and `embed_text`: unit vectors (n, space)."""

    config_class = TwoTowersConfig
    _supports_sdpa = True

    def __init__(self, config: TwoTowersConfig) -> None:
        super().__init__(config)
        vision, text, space = Dinov2Config(**config.vision), BertConfig(**config.text), config.space
        for part in (vision, text):
            part._attn_implementation = config._attn_implementation
        middle = (text.hidden_size + space) // 2
        self.image = Dinov2Model(vision)
        self.image_head = nn.Linear(vision.hidden_size, space, bias=False)
        self.text = BertModel(text, add_pooling_layer=False)
        self.text_head = nn.Sequential(
            nn.Linear(text.hidden_size, middle, bias=False), nn.GELU(), nn.Linear(middle, space, bias=False)
        )
        self.post_init()

    def embed_image(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(n, 3, side, side) -> (n, space)."""
        first = self.image(pixel_values=pixel_values).last_hidden_state[:, 0]
        return nn.functional.normalize(self.image_head(first), dim=-1)

    def embed_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(n, tokens) -> (n, space)."""
        first = self.text(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]
        return nn.functional.normalize(self.text_head(first), dim=-1)
