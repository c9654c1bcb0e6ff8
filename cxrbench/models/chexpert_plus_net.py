"""Stock image encoder with a text decoder, called as the engines call a decoder. Imports torch."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from transformers import VisionEncoderDecoderModel


class ReportDecoder(VisionEncoderDecoderModel):  # type: ignore[misc]
    """`input_ids` are the text so far (one start token), `pixel_values` the images; nothing else differs from stock.

    Swinv2 has no attention but eager in transformers 5, so it is eager whatever is asked for; the network says so.
    """

    @classmethod
    def _from_config(cls, config: Any, **kwargs: Any) -> Any:
        return super()._from_config(config, **{**kwargs, "attn_implementation": "eager"})

    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **others: Any
    ) -> Any:
        """The stock call; a mask counts only for `input_ids`, since images have none."""
        if input_ids is not None:
            others |= {"decoder_input_ids": input_ids, "decoder_attention_mask": attention_mask}
        return super().forward(**others)

    def generate(self, input_ids: torch.Tensor, generation_config: Any, **others: Any) -> Any:
        """Start token and text, (rows, tokens)."""
        others.pop("attention_mask", None)  # rows of one token are never padded
        settings = copy(generation_config)
        settings.decoder_start_token_id = int(input_ids[0, 0])
        return super().generate(decoder_input_ids=input_ids, generation_config=settings, **others)
