"""A Pillow image that is read when it is first looked at.

lm-eval collects the images of all documents before the first is answered: 2,347 decoded radiographs would be 19 GB,
and as many opened files are more than a process may hold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from cxrbench.data.images import ImageFailure, read_grey
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.types import Image


class LazyImage(PIL.Image.Image):
    """Becomes the picture it stands for as soon as its size or its pixels are asked for.

    Grey values stand in all three channels of mode RGB, which is what processors expect.
    """

    def __init__(self, image: Image, max_side: int | None) -> None:
        super().__init__()
        self._mode = "RGB"
        self.cxrbench = image
        self._max_side = max_side

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels; reads the file."""
        self._become()
        return self.size

    @property
    def width(self) -> int:
        """Width in pixels; reads the file."""
        return self.size[0]

    @property
    def height(self) -> int:
        """Height in pixels; reads the file."""
        return self.size[1]

    def load(self) -> Any:
        """Read the file; Pillow calls this before it touches pixels."""
        self._become()
        return self.load()

    def _become(self) -> None:
        image = self.cxrbench
        try:
            made = rgb(read_grey(image.path))
        except ImageFailure as error:
            raise CxrbenchError(
                f"an image cannot be read: {error.detail}",
                fix="`cxrbench run` counts such samples and goes on",
                code=Exit.INFRASTRUCTURE,
            ) from error
        if self._max_side is not None and max(made.size) > self._max_side:
            made.thumbnail((self._max_side, self._max_side))
        # What Pillow's own stub of an image does once it knows better (ImageFile.StubImageFile).
        self.__class__ = made.__class__  # type: ignore[assignment]
        self.__dict__ = {**made.__dict__, "cxrbench": image}


def rgb(grey: NDArray[np.uint8]) -> PIL.Image.Image:
    """Grey pixels, uint8 (H, W), as a picture of mode RGB."""
    return PIL.Image.fromarray(grey).convert("RGB")


def lazy_image(image: Image, max_side: int | None = None) -> PIL.Image.Image:
    """The picture behind `image`, unread; `max_side` reduces its longest side to so many pixels."""
    return LazyImage(image, max_side)
