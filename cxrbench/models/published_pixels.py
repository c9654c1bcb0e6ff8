"""Image transforms of published models that no stock processor describes, for grey images, bit for bit.

What torchvision does to a PIL image: resize with Pillow, cut out the centre (offsets rounded to even), levels over 255
in float32, then mean and deviation. Each is a resize of one channel and a table of 256 values, as in data/pixels.py.
numpy and Pillow only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cxrbench.data.pixels import PixelTransform

if TYPE_CHECKING:
    from numpy.typing import NDArray

BICUBIC = 3


def unit_table(mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Give (3, 256): levels over 255 in float32, less the mean, over the deviation (ToTensor, Normalize)."""
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    wide = [np.array(values, dtype=np.float32)[:, None] for values in (mean, std)]
    made: NDArray[np.float32] = (levels[None] - wide[0]) / wide[1]
    return made


def square(side: int, mean: Sequence[float], std: Sequence[float]) -> PixelTransform:
    """Resize to side x side whatever the shape was, bicubic, then ToTensor and Normalize (CheXagent-2)."""
    return PixelTransform({"height": side, "width": side}, BICUBIC, None, (), unit_table(mean, std))


def stretched(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Spread the levels of one image over 0..255 in float64, rounded down (MAIRA-2, Maira2Processor).

    Raises:
        ValueError: all pixels have one level, which the original turns into zeros over zeros.
    """
    low, high = int(plane.min()), int(plane.max())
    if low == high:
        raise ValueError("an image of one level cannot be stretched")
    levels = np.arange(256, dtype=np.float64) - low
    levels = levels / (high - low) * 255
    made: NDArray[np.uint8] = np.clip(levels, 0, 255).astype(np.uint8)[plane]
    return made


@dataclass(frozen=True, slots=True, eq=False)
class Stretched:
    """`stretched`, then a stock transform; safe to share between threads."""

    stock: PixelTransform

    def __call__(self, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn uint8 (H, W) into float32 (3, h, w).

        Raises:
            ValueError: not grey uint8, or an image of one level.
        """
        if grey.ndim != 2 or grey.dtype != np.uint8:
            raise ValueError(f"expected grey uint8 (H, W), got {grey.dtype} {grey.shape}")
        return self.stock(stretched(grey))


@dataclass(frozen=True, slots=True)
class CentreSquare:
    """LLM-CXR's picture: short side to `side` with Lanczos, both sides rounded, then the centre; levels, not values.

    encode_cxr_all.py: `resize(round(r * height), round(r * width))`, `center_crop`.
    """

    side: int

    def levels(self, grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn uint8 (H, W) into uint8 (side, side).

        Raises:
            ValueError: not grey uint8.
        """
        if grey.ndim != 2 or grey.dtype != np.uint8:
            raise ValueError(f"expected grey uint8 (H, W), got {grey.dtype} {grey.shape}")
        height, width = grey.shape
        scale = self.side / min(height, width)
        size = (round(scale * width), round(scale * height))
        plane = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.LANCZOS))
        top, left = (round((edge - self.side) / 2) for edge in plane.shape)
        return plane[top : top + self.side, left : left + self.side]

    def __call__(self, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn uint8 (H, W) into float32 (3, side, side) from -1 to 1: ToTensor, then 2 x - 1."""
        values = np.arange(256, dtype=np.float32) / np.float32(255) * np.float32(2) - np.float32(1)
        return np.repeat(values[self.levels(grey)][None], 3, axis=0)
