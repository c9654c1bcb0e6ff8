"""Image file to model tensor on one core: RGB decode + stock PIL processor, and ours, in the same run.

    python benchmarks/images.py [--rounds 9] [--size 2544x3056]

The picture is procedural texture with the statistics of a radiograph (smooth shapes, noise at every scale), saved as a
grey JPEG of quality 95, the form of MIMIC-CXR-JPG. Its noise is set so that it takes 0.2 bytes per pixel: open
radiographs of full size, saved the same way, take 0.16 to 0.23. The process is pinned to one core and its processor
time is taken, so that other work on the machine is not counted; the two paths take turns and the least of the rounds
is compared. Every output is compared bit for bit. Goal: at least 2 times for CLIP-L/14-336. Needs the extra `models`.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from cxrbench.data.images import read_grey
from cxrbench.data.pixels import transform_for

CLIP_336 = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "CLIP-L/14-336": ("clip", CLIP_336 | {"image_processor_type": "CLIPImageProcessor"}),
    "CLIP-B/16-224": ("clip", {"image_processor_type": "CLIPImageProcessor"}),
    "LLaVA 336, padded to a square": (
        "llava",
        CLIP_336 | {"image_processor_type": "LlavaImageProcessor", "do_pad": True},
    ),
    "DINOv2 518": (
        "bit",
        {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": 518},
            "crop_size": {"height": 518, "width": 518},
        },
    ),
    "SigLIP 384": ("siglip", {"image_processor_type": "SiglipImageProcessor", "size": {"height": 384, "width": 384}}),
    "ViT 224": ("vit", {"image_processor_type": "ViTImageProcessor"}),
}


def texture(width: int, height: int) -> np.ndarray:
    """Draw smooth shapes plus noise at octaves from 512 pixels down to one: uint8 (H, W)."""
    rng = np.random.default_rng(20261121)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    picture = 120 + 70 * np.cos(2 * np.pi * x / width) * np.sin(np.pi * y / height) + 15 * np.sin(y / 90 + x / 700)
    for step in (512, 128, 32, 8, 4):
        grain = rng.normal(size=(height // step + 3, width // step + 3)).astype(np.float32)
        picture += (
            np.asarray(Image.fromarray(grain).resize((width, height), Image.Resampling.BICUBIC)) * step**0.5 * 0.6
        )
    picture += rng.normal(size=picture.shape) * 2.0
    return np.clip(picture, 0, 255).astype(np.uint8)


def stock_processor(module: str, config: dict[str, Any]) -> Callable[[str], np.ndarray]:
    stem = config["image_processor_type"].removesuffix("ImageProcessor")
    kept = {key: value for key, value in config.items() if key != "image_processor_type"}
    cls = getattr(
        import_module(f"transformers.models.{module}.image_processing_pil_{module}"), f"{stem}ImageProcessorPil"
    )
    processor = cls(**kept)

    def run(path: str) -> np.ndarray:
        with Image.open(path) as picture:
            return processor(picture.convert("RGB"), return_tensors="np")["pixel_values"][0]

    return run


def our_path(config: dict[str, Any]) -> Callable[[str], np.ndarray]:
    transform = transform_for(config)
    assert transform is not None
    return lambda path: transform(read_grey(path))


def best(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """Milliseconds of processor time in the fastest of some interleaved rounds."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, taken in zip(calls, times, strict=True):
            start = time.process_time()
            call()
            taken.append((time.process_time() - start) * 1e3)
    return [min(taken) for taken in times]


def stages(path: str, rounds: int) -> None:
    """Where the time of CLIP-L/14-336 goes on either side."""
    with Image.open(path) as picture:
        rgb = picture.convert("RGB")
    grey = read_grey(path)
    transform = transform_for(CONFIGS["CLIP-L/14-336"][1])
    assert transform is not None
    plane = transform.planes(grey)[0]
    stock = stock_processor(*CONFIGS["CLIP-L/14-336"])
    rgb_decode, processor_and_decode, grey_decode, resize, everything = best(
        rounds,
        lambda: Image.open(path).convert("RGB"),
        lambda: stock(path),
        lambda: read_grey(path),
        lambda: transform.planes(grey),
        lambda: transform(grey),
    )
    print(f"stock: decode to RGB {rgb_decode:.1f} ms, processor {processor_and_decode - rgb_decode:.1f} ms")
    print(
        f"ours:  decode grey {grey_decode:.1f} ms, resize and crop {resize:.1f} ms, table {everything - resize:.1f} ms"
    )
    print(f"       {plane.shape} bytes instead of {rgb.size[0]} x {rgb.size[1]} x 3 go through the table\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", default="2544x3056")
    arguments = parser.parse_args()
    width, height = (int(side) for side in arguments.size.split("x"))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "texture.jpg"))
        Image.fromarray(texture(width, height)).save(path, quality=95)
        size = os.path.getsize(path) / 1e6  # noqa: PTH202 - the path is a string for both readers
        print(f"{width} x {height} grey JPEG, {size:.2f} MB, {size * 1e6 / width / height:.2f} bytes per pixel")
        print(f"processor time on one core, best of {arguments.rounds}")
        print(f"Python {platform.python_version()}, Pillow {PIL.__version__}, numpy {np.__version__}\n")
        stages(path, arguments.rounds)
        print(f"{'configuration':32}{'stock ms':>10}{'ours ms':>10}{'ratio':>8}  same bits")
        for name, (module, config) in CONFIGS.items():
            stock, ours = stock_processor(module, config), our_path(config)
            same = stock(path).tobytes() == ours(path).tobytes()
            theirs_ms, ours_ms = best(arguments.rounds, lambda run=stock: run(path), lambda run=ours: run(path))
            print(f"{name:32}{theirs_ms:10.1f}{ours_ms:10.1f}{theirs_ms / ours_ms:8.2f}  {'yes' if same else 'NO'}")


if __name__ == "__main__":
    main()
