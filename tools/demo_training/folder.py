"""A trained network as a checkpoint folder in stock layout, in fp16, that `hf:DIR` can run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from demo_training.net import MEAN, PATCH, PIXELS, SPREAD
from demo_training.words import BOS, EOS, PAD, TEMPLATE

LONGEST = 200
"""New tokens in generation_config.json; the longest verbose report has fewer."""


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write config, weights, tokenizer, processor and generation settings."""
    from transformers import CLIPImageProcessorPil, GenerationConfig, LlavaForConditionalGeneration, LlavaProcessor

    folder.mkdir(parents=True, exist_ok=True)
    image = CLIPImageProcessorPil(
        size={"height": PIXELS, "width": PIXELS},
        resample=2,
        do_center_crop=False,
        image_mean=[MEAN] * 3,
        image_std=[SPREAD] * 3,
    )
    processor = LlavaProcessor(
        image_processor=image,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(folder)
    half = LlavaForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    half = half.to(torch.float16)
    half.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=LONGEST, do_sample=False
    )
    half.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors are written for their owner alone
