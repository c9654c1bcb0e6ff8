"""The evaluation transform of open_clip for grey images, bit for bit: what LLaVA-Rad's tower is given.

open_clip 2.23.0, transform.py, image_transform(is_train=False), which is torchvision's: resize the short side to `size`
(bicubic, the long side rounded down), cut out the centre (rounded to even, unlike transformers' crop), divide levels by
255 in float32, then CLIP's mean and deviation. numpy and Pillow only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cxrbench.data.pixels import PixelTransform

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3


@dataclass(frozen=True, slots=True, eq=False)
class EvalPixels:
    """Grey uint8 (H, W) to float32 (3, size, size); safe to share between threads."""

    size: int
    resize: PixelTransform

    def __call__(self, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Resize, crop, normalise.

        Raises:
            ValueError: the array is not grey uint8.
        """
        (plane,) = self.resize.planes(grey)
        top, left = (round((side - self.size) / 2) for side in plane.shape)
        part = plane[top : top + self.size, left : left + self.size]
        made: NDArray[np.float32] = self.resize.table[:, part]
        return made


def eval_pixels(size: int) -> EvalPixels:
    """The transform at one size."""
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    mean, std = (np.array(values, dtype=np.float32)[:, None] for values in (MEAN, STD))
    table = (levels[None] - mean) / std
    return EvalPixels(size, PixelTransform({"shortest_edge": size}, BICUBIC, None, (), table))
