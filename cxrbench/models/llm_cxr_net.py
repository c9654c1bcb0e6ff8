"""GPT-NeoX that reads pictures as words: the VQ-GAN in front of stock code. Imports torch: inside functions only."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GPTNeoXForCausalLM

from cxrbench.models.bridges_net import with_prompt_only
from cxrbench.models.vqgan_net import VqGan


class LlmCxrNet(GPTNeoXForCausalLM):  # type: ignore[misc]
    """`pixel_values` are grey levels, uint8 (images, 1, side, side).

    Their codes, each plus `image_token_id` (the first row of the table that stands for a code), take the places of
    `image_token_id` in `input_ids`. The VQ-GAN stays in float32, whatever the language model is loaded in: a code is
    the nearest of many vectors, and half precision picks others.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.vqgan = VqGan(config.vqgan)
        self.post_init()

    def codes(self, levels: torch.Tensor) -> torch.Tensor:
        """Token ids (images, places) of grey levels: divided by 255 in float32, then 2 x - 1, as the authors do."""
        values = levels.to(torch.float32) / 255 * 2 - 1
        made: torch.Tensor = self.vqgan.encode(values.expand(-1, 3, -1, -1)) + self.config.image_token_id
        return made

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **others: Any,
    ) -> Any:
        """The stock call; with `pixel_values`, codes are put into `input_ids` first."""
        if pixel_values is not None and input_ids is not None:
            places = input_ids == self.config.image_token_id
            input_ids = input_ids.masked_scatter(places, self.codes(pixel_values))
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **others)

    def prepare_inputs_for_generation(self, *arguments: Any, **kwargs: Any) -> dict[str, Any]:
        """Pictures go in with the prompt and not with later tokens."""
        return with_prompt_only(super().prepare_inputs_for_generation(*arguments, **kwargs), kwargs)
