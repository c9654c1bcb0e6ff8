"""Text and image side of a stock checkpoint that embeds, from its folder. torch is imported inside functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cxrbench.errors import CxrbenchError
from cxrbench.models import stock
from cxrbench.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Towers:
    """The text and the image side of a checkpoint that embeds. `pixels`: grey uint8 (H, W) to float32 (3, h, w)."""

    config: Any
    tokenizer: Any
    pixels: Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def read_towers(checkpoint: Checkpoint) -> Towers:
    """Configuration, tokenizer and image processor (PIL's) of a CLIP-shaped checkpoint.

    Raises:
        CxrbenchError: incomplete, or with an image processor that exists for torchvision only.
    """
    from transformers import AutoConfig, AutoTokenizer
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    folder = checkpoint.folder
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        # transformers would make a tokenizer that knows no word, without saying so.
        raise CxrbenchError(
            "the folder has no tokenizer", where=str(folder), fix="copy tokenizer.json, or vocab.json and merges.txt"
        )
    with stock._reading(folder, "processor"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        processor = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, backend="pil"
        )
    stock._refuse_torchvision(processor, folder)
    tokenizer("x")  # sets truncation and padding of the fast tokenizer once, before threads share it
    return Towers(config, tokenizer, stock._fast_transform(processor) or _slow_transform(processor))


def _slow_transform(processor: Any) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """The image processor itself, where there is no fast path with the same bits."""
    import numpy as np
    from PIL import Image

    def transform(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(processor(images=Image.fromarray(grey).convert("RGB"))["pixel_values"][0], np.float32)

    return transform
