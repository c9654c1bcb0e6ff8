"""Stock LLaVA with the two things a published checkpoint may have that the stock class cannot hold.

Imports torch and transformers: import this file inside functions only. A configuration without the two extra keys is
the stock class, weight by weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration, StoppingCriteria, StoppingCriteriaList


class ProjectorStack(nn.Module):
    """`depth` linear layers with GELU between them, named linear_1, linear_2, ... as in the stock projector of two."""

    def __init__(self, width: int, out: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        for number in range(1, depth + 1):
            setattr(self, f"linear_{number}", nn.Linear(width if number == 1 else out, out))

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        """(..., width) -> (..., out)."""
        hidden = image_features
        for number in range(1, self.depth + 1):
            given = hidden if number == 1 else nn.functional.gelu(hidden)
            hidden = getattr(self, f"linear_{number}")(given)
        return hidden


class PublishedLlava(LlavaForConditionalGeneration):  # type: ignore[misc]
    """`lm_head_bias` of its configuration gives the output layer a bias, `projector_depth` another projector."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        text, depth = config.text_config, getattr(config, "projector_depth", 2)
        if getattr(config, "lm_head_bias", False):
            self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=True)
        if depth != 2:
            stack = ProjectorStack(config.vision_config.hidden_size, text.hidden_size, depth)
            self.model.multi_modal_projector = stack
        self.post_init()


class _Ends(StoppingCriteria):  # type: ignore[misc]
    """A row has ended once its new tokens, as text, hold `words`."""

    def __init__(self, tokenizer: Any, words: str, start: int) -> None:
        self.tokenizer, self.words, self.start = tokenizer, words, start

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        recent = input_ids[:, max(self.start, input_ids.shape[1] - len(self.words)) :].tolist()
        texts = [self.tokenizer.decode(row, skip_special_tokens=True) for row in recent]
        return torch.tensor([self.words in text for text in texts], device=input_ids.device)


def stop_at(module: Any, tokenizer: Any, words: str) -> None:
    """Make `module.generate` end a row at `words`, which may be several tokens.

    Where every row ended before the cap, one more token is put behind: the pad, which is an end token of these models,
    so that a text that ended so is told from one that was cut off.
    """
    stock = module.generate

    def generate(**inputs: Any) -> Any:
        start = inputs["input_ids"].shape[1]
        made = stock(**inputs, stopping_criteria=StoppingCriteriaList([_Ends(tokenizer, words, start)]))
        config = inputs["generation_config"]
        if made.shape[1] - start >= config.max_new_tokens:
            return made
        return torch.cat([made, made.new_full((made.shape[0], 1), config.pad_token_id)], dim=1)

    module.generate = generate
