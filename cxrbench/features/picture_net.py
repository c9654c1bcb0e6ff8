"""The networks that read pictures: the embedded demo model, and image classifiers in stock layout. Imports torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from cxrbench.artifacts import Picture
from cxrbench.data.chexpert import LABELS
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.encoders import image_processor, one_thread, quiet, rgb
from cxrbench.shipped import embedded

PROMPT = "Findings:"
NEW_TOKENS = 160
BATCH = 16
THRESHOLD = 0.5


@functools.lru_cache(maxsize=1)
def _demo(device: str) -> tuple[Any, Any, str]:
    folder = embedded("demo")
    processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
    processor.image_processor = image_processor(folder)
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}]
    prompt = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    with quiet():
        module = transformers.LlavaForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype="float32"
        )
    return processor, module.to(device).eval(), prompt


def described(pictures: Sequence[Picture], device: str) -> list[str]:
    """What the embedded demo model writes about grey pictures (H, W): its findings, greedy, at most 160 tokens."""
    processor, module, prompt = _demo(device)
    bos = processor.tokenizer.bos_token
    texts: list[str] = []
    for start in range(0, len(pictures), BATCH):
        block = [rgb(each) for each in pictures[start : start + BATCH]]
        inputs = processor(
            images=block,
            text=[prompt] * len(block),
            return_tensors="pt",
            add_special_tokens=not (bos and prompt.startswith(bos)),
        ).to(device)
        with torch.inference_mode(), one_thread(small=True):
            made = module.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)
        new = made[:, inputs["input_ids"].shape[1] :]
        texts += [text.strip() for text in processor.tokenizer.batch_decode(new, skip_special_tokens=True)]
    return texts


def names_of(folder: Path) -> dict[int, str]:
    """Which outputs of a classifier are CheXpert labels: place -> name.

    Raises:
        CxrbenchError: none of them, or no classifier that transformers can read.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CxrbenchError(
            f"no classifier can be read here: {type(error).__name__}", where=str(folder), code=Exit.UNDECIDED
        ) from error
    known = {label.lower(): label for label in LABELS}
    said = {int(place): str(name).replace("_", " ").lower() for place, name in config.id2label.items()}
    found = {place: known[name] for place, name in said.items() if name in known}
    if not found:
        raise CxrbenchError(
            "none of the classifier's labels (id2label) is a CheXpert label",
            where=str(folder / "config.json"),
            fix=f"names such as {LABELS[2]} or {LABELS[-5]}",
            code=Exit.UNDECIDED,
        )
    return found


@functools.lru_cache(maxsize=1)
def _classifier(folder: Path, device: str) -> tuple[Any, Any, dict[int, str]]:
    names = names_of(folder)
    with quiet():
        module = transformers.AutoModelForImageClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype="float32"
        )
    return image_processor(folder), module.to(device).eval(), names


def classified(folder: Path, pictures: Sequence[Picture], device: str) -> list[dict[str, int]]:
    """Labels whose sigmoid is above one half, of a stock image classifier with several labels: 1, the others 0."""
    processor, module, names = _classifier(folder, device)
    found: list[dict[str, int]] = []
    for start in range(0, len(pictures), BATCH):
        pixels = processor(images=[rgb(each) for each in pictures[start : start + BATCH]], return_tensors="pt")
        with torch.inference_mode():
            shares = module(pixel_values=pixels["pixel_values"].to(device)).logits.sigmoid().cpu()
        found += [{name: int(row[place] > THRESHOLD) for place, name in names.items()} for row in shares]
    return found
