"""The real pictures of a task, for metrics that hold generated ones against them. Never torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxrbench.data.images import ImageFailure

if TYPE_CHECKING:
    from cxrbench.data.load import TaskData

Reader = Callable[[str], NDArray[np.uint8]]
Pictures = Callable[[], Iterable[NDArray[np.uint8] | None]]


def pictures_of(data: Callable[[], TaskData], reader: Callable[[TaskData], Reader]) -> Pictures:
    """The key image of every sample of a task in grey, None where it cannot be read; read when it is asked for.

    Args:
        data: gives the task joined to its data.
        reader: gives what reads an image of these data.
    """

    def read() -> Iterator[NDArray[np.uint8] | None]:
        found = data()
        pixels = reader(found)
        for sample in found.samples.samples:
            image = next((each for each in sample.images if each.image_id == sample.key_image), None)
            try:
                yield pixels(image.path) if image is not None else None
            except ImageFailure:
                yield None

    return read
