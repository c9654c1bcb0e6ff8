"""From grey pixels to a model's input, bit for bit what the stock PIL image processor makes of the RGB image.

A radiograph has one channel; the stock processors (transformers 5) resize three equal ones and then normalise in
float64 and float32. Here one channel is resized, and every step after that is a function of one byte, so it is a table
of 256 float32 values per channel, worked out with the stock operations in the stock order. numpy and Pillow only,
never torch. What cannot be done exactly is not done: `transform_for` returns None and the stock processor runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5)
_SQUARE_224 = {"height": 224, "width": 224}
_BILINEAR, _BICUBIC = 2, 3

_COMMON = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255, "resample": _BICUBIC}
_CLIP = _COMMON | {
    "size": {"shortest_edge": 224},
    "default_to_square": False,
    "crop_size": _SQUARE_224,
    "do_center_crop": True,
    "image_mean": _CLIP_MEAN,
    "image_std": _CLIP_STD,
}
_HALVES = _COMMON | {"size": _SQUARE_224, "default_to_square": True, "image_mean": _HALF, "image_std": _HALF}

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "CLIP": _CLIP,
    "Bit": _CLIP,
    "Llava": _CLIP,
    "Blip": _COMMON
    | {
        "size": {"height": 384, "width": 384},
        "default_to_square": True,
        "image_mean": _CLIP_MEAN,
        "image_std": _CLIP_STD,
    },
    "Siglip": _HALVES | {"default_to_square": False},
    "ViT": _HALVES | {"resample": _BILINEAR},
    "DeiT": _HALVES | {"size": {"height": 256, "width": 256}, "crop_size": _SQUARE_224, "do_center_crop": True},
}
"""Class attributes of the stock processors of transformers 5 (`models/*/image_processing_pil_*.py`), by class stem.

Only classes that use the plain pipeline, and Llava, which may pad to a square first, are here.
"""

_WIDEST_FILTER = 3
"""Reach of Pillow's widest filter (Lanczos) to either side, in source pixels per output pixel."""

_SUFFIXES = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")


_SIZE_KEYS = (
    {"shortest_edge"},
    {"shortest_edge", "longest_edge"},
    {"height", "width"},
    {"max_height", "max_width"},
)


@dataclass(frozen=True, slots=True, eq=False)
class PixelTransform:
    """A stock processor for grey images: immutable, picklable, safe to share between threads.

    `resize` is the stock size dictionary, empty for none; `crop` is (height, width) or None; `fills` are the levels
    an image is padded to a square with, one per channel (Llava with do_pad), else empty; `table` is float32 (3, 256):
    channel and resized level -> model input.
    """

    resize: Mapping[str, int]
    resample: int
    crop: tuple[int, int] | None
    fills: tuple[int, ...]
    table: NDArray[np.float32]

    def __call__(self, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn uint8 (H, W) into float32 (3, h, w).

        Raises:
            ValueError: the array is not grey uint8.
        """
        planes = self.planes(grey)
        out = np.empty((3, *planes[0].shape), np.float32)
        for channel in range(3):
            # A byte is always inside 256 entries; "clip" only spares numpy the copy it makes to be able to raise.
            np.take(self.table[channel], planes[channel % len(planes)], out=out[channel], mode="clip")
        return out

    def planes(self, grey: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Return the resized and cropped levels (h, w): one plane, or three where padding differs by channel."""
        if grey.ndim != 2 or grey.dtype != np.uint8:
            raise ValueError(f"expected grey uint8 (H, W), got {grey.dtype} {grey.shape}")
        if not self.fills or grey.shape[0] == grey.shape[1]:
            return [self._resized(grey)]
        made = {level: self._resized(_square(grey, level)) for level in dict.fromkeys(self.fills)}
        return [made[level] for level in self.fills]

    def _resized(self, plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.resize:
            size = _target(self.resize, *plane.shape)
            kept = size[0] if self.crop is None else self.crop[0]
            plane = np.asarray(_resize(plane, size, Image.Resampling(self.resample), kept))
        return plane if self.crop is None else _center_crop(plane, *self.crop)


def transform_for(config: Mapping[str, Any]) -> PixelTransform | None:
    """Build the transform of a `preprocessor_config.json`, or of `image_processor` in a `processor_config.json`.

    Returns None for every class, key or value that is not known to give exactly the stock pixels.
    """
    config = config.get("image_processor", config)
    stem = _stem(config)
    if stem is None:
        return None
    try:
        # As in the stock constructor, an absent key takes the value of the class, and null is null.
        return _build({**DEFAULTS[stem], **config}, can_pad=stem == "Llava")
    except (KeyError, TypeError, ValueError):
        return None


def _stem(config: Mapping[str, Any]) -> str | None:
    """Name the stock class without its suffix: `CLIPImageProcessorFast` and `CLIPFeatureExtractor` are CLIP."""
    name = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    stem = next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), "")
    return stem if stem in DEFAULTS else None


def _build(settings: Mapping[str, Any], *, can_pad: bool) -> PixelTransform | None:
    pads = bool(settings.get("do_pad"))
    if (pads and not can_pad) or settings.get("input_data_format") or settings.get("use_square_size"):
        return None
    resize = _size(settings["size"], square=bool(settings["default_to_square"])) if settings["do_resize"] else {}
    crop = _size(settings["crop_size"], square=True) if settings.get("do_center_crop") else None
    if crop is not None and set(crop) != {"height", "width"}:
        return None
    table = _table(settings)
    if table is None:
        return None
    return PixelTransform(
        resize=resize,
        resample=int(Image.Resampling(settings["resample"])),
        crop=None if crop is None else (crop["height"], crop["width"]),
        fills=tuple(int(mean * 255) for mean in settings["image_mean"]) if pads else (),
        table=table,
    )


def _size(value: Any, *, square: bool) -> dict[str, int]:
    """Read a size as configurations store it: a dictionary, a side, or [height, width]. Raises ValueError."""
    if isinstance(value, int):
        value = {"height": value, "width": value} if square else {"shortest_edge": value}
    elif isinstance(value, Sequence):
        height, width = value
        value = {"height": height, "width": width}
    known = set(value) in _SIZE_KEYS and all(type(side) is int and side > 0 for side in value.values())
    if not known:
        raise ValueError("not a size")
    return dict(value)


def _table(settings: Mapping[str, Any]) -> NDArray[np.float32] | None:
    """Rescale and normalise all 256 levels as the stock code does: float64 product, float32 difference and quotient.

    None where neither is asked for (the stock output is uint8 then), or the result would not be finite.
    """
    values = np.arange(256, dtype=np.float64)
    if settings["do_rescale"]:
        values = values * float(settings["rescale_factor"])
    levels = np.repeat(values.astype(np.float32)[None], 3, axis=0)
    if settings["do_normalize"]:
        mean, std = (_channels(settings[key]) for key in ("image_mean", "image_std"))
        if not std.all():
            return None
        levels = (levels - mean) / std
    elif not settings["do_rescale"]:
        return None
    return levels if np.isfinite(levels).all() else None


def _channels(value: Any) -> NDArray[np.float32]:
    """Three numbers, or one for all three channels, as float32 (3, 1)."""
    numbers = list(value) if isinstance(value, Sequence) else [value] * 3
    if len(numbers) != 3:
        raise ValueError("not three channels")
    return np.array(numbers, dtype=np.float32)[:, None]


def _target(size: Mapping[str, int], height: int, width: int) -> tuple[int, int]:
    """Work out (height, width) after resizing, with the stock rounding: towards zero, long side from the short one."""
    if "longest_edge" in size:
        return _between(size["shortest_edge"], size["longest_edge"], height, width)
    if "shortest_edge" in size:
        short, long = sorted((height, width))
        side = size["shortest_edge"]
        other = int(side * long / short)
        return (other, side) if width <= height else (side, other)
    if "max_height" in size:
        scale = min(size["max_height"] / height, size["max_width"] / width)
        return int(height * scale), int(width * scale)
    return size["height"], size["width"]


def _between(shortest: int, longest: int, height: int, width: int) -> tuple[int, int]:
    """Scale the short side to `shortest`, or less where the long side would pass `longest`."""
    short, long = sorted((height, width))
    exact = float(shortest)
    if float(long) / float(short) * shortest > longest:
        exact = longest * float(short) / float(long)
        shortest = round(exact)
    if short == shortest:
        return height, width
    other = int(exact * long / short)
    return (other, shortest) if width < height else (shortest, other)


def _resize(plane: NDArray[np.uint8], size: tuple[int, int], resample: Image.Resampling, kept: int) -> Image.Image:
    """Resize to (height, width); of the result only the `kept` rows in the middle need to be right.

    Pillow filters the bands of an RGB image one by one with the same integer weights, so one band is enough. It
    filters along the rows, rounds to bytes, then filters along the columns; source rows that no kept row is made of
    can be left out of the first pass. Images much taller than wide go the other way round since Pillow 13, so for
    them nothing is left out.
    """
    (rows, columns), (height, width) = plane.shape, size
    image = Image.fromarray(plane)
    columns_first = rows - height > 2 * (columns - width)
    if kept >= height or height == rows or columns_first or resample == Image.Resampling.NEAREST:
        return image.resize((width, height), resample)
    scale, top = rows / height, (height - kept) // 2
    reach = int(_WIDEST_FILTER * max(scale, 1)) + 2
    first, last = max(int(top * scale) - reach, 0), min(int((top + kept) * scale) + reach, rows)
    tall = Image.new("L", (width, rows))
    tall.paste(image.crop((0, first, columns, last)).resize((width, last - first), resample), (0, first))
    return tall.resize((width, height), resample)


def _square(plane: NDArray[np.uint8], level: int) -> NDArray[np.uint8]:
    """Centre an image in a square of one level; an odd pixel goes below or to the right."""
    height, width = plane.shape
    side = max(height, width)
    out = np.full((side, side), level, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = plane
    return out


def _center_crop(plane: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Cut the centre out; a side that is too short is padded with zeros, an odd one before the image."""
    (above, top), (left_pad, left) = _offsets(plane.shape[0], height), _offsets(plane.shape[1], width)
    part = plane[top : top + height, left : left + width]
    if part.shape == (height, width):
        return part
    out = np.zeros((height, width), np.uint8)
    out[above : above + part.shape[0], left_pad : left_pad + part.shape[1]] = part
    return out


def _offsets(have: int, want: int) -> tuple[int, int]:
    """Pixels to pad before and pixels to skip, one of which is zero."""
    return (0, (have - want) // 2) if have >= want else ((want - have + 1) // 2, 0)
