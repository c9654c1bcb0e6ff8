"""Stock networks with the bridges of CheXagent-2, MAIRA-2 and CheXagent, which no stock class has.

Imports torch and transformers: import this file inside functions only. What is not written here is stock code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import Blip2ForConditionalGeneration, LlavaModel
from transformers import initialization as init
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling

from cxrbench.models.llava_net import PublishedLlava


def with_prompt_only(made: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Take the images out of the inputs of every step but the first; transformers 5.17 leaves them to the class."""
    if not given.get("is_first_iteration", False) and given.get("use_cache", True):
        made.pop("pixel_values", None)
    return made


BRIDGE_EPSILON = 1e-6
"""Of the LayerNorm in CheXagent-2's bridge (modeling_visual.py, CLIPModel)."""


def sines_and_cosines(grid: int, width: int) -> torch.Tensor:
    """Places on a grid as (grid * grid, width): sines and cosines of the column, then of the row.

    modeling_visual.py, get_2d_sincos_pos_embed: the column comes first, frequencies fall from 1 to 1/10000.
    """
    frequency = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    steps = torch.arange(grid, dtype=torch.float64)
    row, column = torch.meshgrid(steps, steps, indexing="ij")
    waves = [place.reshape(-1, 1) * frequency for place in (column, row)]
    return torch.cat([part for wave in waves for part in (wave.sin(), wave.cos())], dim=1).float()


class TokenBridge(nn.Module):
    """CheXagent-2's "resampler", which keeps every token: places added, two layers, a norm, a matrix."""

    def __init__(self, width: int, out: int, places: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(places, width))
        self.fc1 = nn.Linear(width, 4 * out)
        self.fc2 = nn.Linear(4 * out, out)
        self.ln_post = nn.LayerNorm(out, eps=BRIDGE_EPSILON)
        self.proj = nn.Parameter(torch.zeros(out, out))

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        """(images, places, width) -> (images, places, out)."""
        hidden = nn.functional.gelu(self.fc1(image_features + self.pos_embed))
        made: torch.Tensor = self.ln_post(self.fc2(hidden)) @ self.proj
        return made


class CheXagent2Net(PublishedLlava):
    """Stock LLaVA over SigLIP and Phi, with `TokenBridge` and a bias in the output layer."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        vision, text = config.vision_config, config.text_config
        places = (vision.image_size // vision.patch_size) ** 2
        self.model.multi_modal_projector = TokenBridge(vision.hidden_size, text.hidden_size, places)
        self.post_init()

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """As stock, and what of the bridge belongs to no layer; loaded weights are passed by."""
        super().initialize_weights()
        bridge = self.model.multi_modal_projector
        if isinstance(bridge, TokenBridge):
            places, width = bridge.pos_embed.shape
            init.copy_(bridge.pos_embed, sines_and_cosines(round(places**0.5), width))
            init.normal_(bridge.proj, std=len(bridge.proj) ** -0.5)


class NormedTower(LlavaModel):  # type: ignore[misc]
    """Stock LLaVA that takes the tower's last layer after its final norm, without the class token."""

    def get_image_features(self, pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Features of each image in `pooler_output`, a list of (patches, width)."""
        last = self.vision_tower(pixel_values).last_hidden_state[:, 1:]
        return BaseModelOutputWithPooling(last_hidden_state=last, pooler_output=list(self.multi_modal_projector(last)))


class Maira2Net(PublishedLlava):
    """MAIRA-2: DINOv2 as a backbone (final norm applied), a projector of `projector_depth` layers, LLaMA."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        made = NormedTower(config)
        made.multi_modal_projector = self.model.multi_modal_projector
        self.model: NormedTower = made
        self.post_init()


class CheXagentNet(Blip2ForConditionalGeneration):  # type: ignore[misc]
    """CheXagent (8B): stock BLIP-2 whose queries look at one or several images at once.

    `pixel_values` are (rows, images, 3, height, width). The queries' outputs take the places of `image_token_id`, which
    stand in front of the prompt: the same as joining them in front of its embeddings. `generate` is the plain one, so
    prompts come back with the text, as from other models.
    """

    main_input_name = "input_ids"
    generate = GenerationMixin.generate

    def get_image_features(self, pixel_values: torch.Tensor, **_: Any) -> Any:
        """Query outputs (rows, queries, width) in `pooler_output`: the towers' tokens of all images are joined."""
        rows, images = pixel_values.shape[:2]
        seen = self.vision_model(pixel_values=pixel_values.flatten(0, 1)).last_hidden_state
        seen = seen.reshape(rows, images * seen.shape[1], seen.shape[2])
        asked = self.qformer(
            query_embeds=self.query_tokens.expand(rows, -1, -1).to(self.qformer.dtype),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
        )
        answers = self.language_projection(asked.last_hidden_state.to(self.language_projection.weight.dtype))
        return _Features(answers)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **others: Any,
    ) -> Any:
        """Logits of the language model; without `pixel_values` its own text alone."""
        embedded = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            answers = self.get_image_features(pixel_values).pooler_output.to(embedded.dtype)
            embedded = embedded.masked_scatter(self.get_placeholder_mask(input_ids, embedded), answers)
        return self.language_model(
            inputs_embeds=embedded, attention_mask=attention_mask, position_ids=position_ids, **others
        )

    def prepare_inputs_for_generation(self, *arguments: Any, **kwargs: Any) -> dict[str, Any]:
        """Images go in with the prompt and not with later tokens."""
        return with_prompt_only(super().prepare_inputs_for_generation(*arguments, **kwargs), kwargs)


class _Features:
    """What stock code calls the features of an image."""

    def __init__(self, pooler_output: torch.Tensor) -> None:
        self.pooler_output = pooler_output
