"""Pixel tensors of the image pipelines the authors call, all through PIL, on two pictures made by a formula."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from llava.mm_utils import process_images
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transform import image_transform
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as on_images
from transformers import BitImageProcessor, BlipImageProcessor

from tools.originals.clip import processor
from tools.originals.layout import Layout, loader, sampled


def clip(size: int) -> Callable[[Image.Image], torch.Tensor]:
    """OpenAI's processor: shortest edge, centre crop."""
    return lambda image: processor(size)(image, return_tensors="pt")["pixel_values"][0]


def padded(image: Image.Image) -> torch.Tensor:
    """LLaVA's own code: a square of CLIP's mean colour, then its processor at 336."""
    return process_images([image], processor(336), SimpleNamespace(image_aspect_ratio="pad"))[0]


def open_clip_518(image: Image.Image) -> torch.Tensor:
    """open_clip's evaluation transform with its defaults at 518."""
    return image_transform(518, is_train=False, mean=OPENAI_DATASET_MEAN, std=OPENAI_DATASET_STD)(image)


def siglip_512(image: Image.Image) -> torch.Tensor:
    """CheXagent-2: squeezed to 512 x 512, bicubic, mean and deviation one half."""
    steps = [
        transforms.Resize((512, 512), interpolation=InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize(mean=[0.5] * 3, std=[0.5] * 3),
    ]
    return transforms.Compose(steps)(image)


def blip_448(image: Image.Image) -> torch.Tensor:
    """CheXagent: BLIP's processor at 448 x 448."""
    return BlipImageProcessor(size={"height": 448, "width": 448})(image, return_tensors="pt")["pixel_values"][0]


def rad_dino_518(image: Image.Image) -> torch.Tensor:
    """MAIRA-2: grey, stretched to 0..255 and cut to whole numbers, then the processor of its DINOv2."""
    grey = np.array(image.convert("L")).astype(float)
    grey -= grey.min()
    grey /= grey.max()
    stretched = Image.fromarray((grey * 255).astype(np.uint8))
    settings = {
        "size": {"shortest_edge": 518},
        "crop_size": {"height": 518, "width": 518},
        "image_mean": [0.5307] * 3,
        "image_std": [0.2583] * 3,
    }
    return BitImageProcessor(**settings)(stretched, return_tensors="pt")["pixel_values"][0]


def vqgan_256(image: Image.Image) -> torch.Tensor:
    """LLM-CXR: shortest edge 256 with Lanczos, centre crop, -1..1."""
    ratio = 256 / min(image.size)
    size = [round(ratio * image.size[1]), round(ratio * image.size[0])]
    resized = on_images.resize(image, size, interpolation=InterpolationMode.LANCZOS)
    return 2.0 * transforms.ToTensor()(on_images.center_crop(resized, [256, 256])) - 1.0


PIPELINES: dict[str, tuple[str, Callable[[Image.Image], torch.Tensor]]] = {
    "clip-336": ("SLaVA-CXR, and LLaVA-Med's tower: CLIPImageProcessor", clip(336)),
    "clip-224": ("LLaVA-Med v1: CLIPImageProcessor", clip(224)),
    "pad-clip-336": ("LLaVA-Med v1.5: llava.mm_utils.process_images with image_aspect_ratio pad", padded),
    "open-clip-518": ("LLaVA-Rad: open_clip.transform.image_transform", open_clip_518),
    "siglip-512": ("CheXagent-2: torchvision Resize, ToTensor, Normalize", siglip_512),
    "blip-448": ("CheXagent 8B: BlipImageProcessor", blip_448),
    "rad-dino-518": ("MAIRA-2: per-image stretch (restated), BitImageProcessor", rad_dino_518),
    "vqgan-256": ("LLM-CXR: torchvision resize, center_crop, ToTensor", vqgan_256),
}


def record() -> dict[str, Any]:
    """The golden: for each pipeline and picture the float32 tensor's SHA-256 and a few hundred of its values."""
    packages = ("torch", "transformers", "torchvision", "open-clip-torch", "llava-torch", "numpy", "pillow")
    layout = Layout("pixels", "image pipelines of the authors, through PIL", packages)
    del layout.data["files"]
    for pipeline, (what, run) in PIPELINES.items():
        for picture in loader().PICTURES:
            image = Image.fromarray(loader().picture(picture)).convert("RGB")
            tensor = run(image).to(torch.float32).contiguous()
            layout.case(f"{pipeline}/{picture}", {"picture": picture}, what)
            kept = sampled(tensor, every=tensor.numel() // 64 + 1)
            sha = hashlib.sha256(tensor.numpy().astype("<f4").tobytes()).hexdigest()
            layout.output("pixel_values", kept | {"sha256": sha})
    return layout.data
