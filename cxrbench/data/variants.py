"""The same study under changes that should not change its report: what a robustness task asks about.

A changed image is named by a path with the change in front (`variant:jpeg-30:/data/x.jpg`), so that it is read like any
other; changes are made on grey pixels, without chance, before the model's own pre-processing. Sections can be changed
too: de-identification leaves other marks in other data sets.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxrbench.spec import VARIANTS, Variant
from cxrbench.types import Sample

if TYPE_CHECKING:
    from PIL import Image as Picture

Pixels = NDArray[np.uint8]
SCHEME = "variant:"
MARKS = re.compile(r"_{2,}|\bX{3,}\b|\[\*\*.*?\*\*\]")
"""What stands for a removed word: underscores in MIMIC-CXR, XXXX in Open-i, [**...**] in MIMIC-III."""

REDACTED = "[REDACTED]"
ANGLE, SHARE, CONTRAST, QUALITY = 5.0, 0.9, 0.7, 30


def _picture(pixels: Pixels) -> Picture.Image:
    from PIL import Image

    return Image.fromarray(pixels)


def _whole(values: NDArray[np.float64]) -> Pixels:
    return np.asarray(np.rint(values).clip(0, 255), dtype=np.uint8)


def _jpeg(pixels: Pixels) -> Pixels:
    """JPEG at quality 30, there and back."""
    from PIL import Image

    data = io.BytesIO()
    _picture(pixels).save(data, "JPEG", quality=QUALITY)
    return np.asarray(Image.open(data), dtype=np.uint8)


def _rotate(pixels: Pixels) -> Pixels:
    """Five degrees counter-clockwise, same size, black where nothing was."""
    from PIL.Image import Resampling

    return np.asarray(_picture(pixels).rotate(ANGLE, Resampling.BILINEAR, fillcolor=0), dtype=np.uint8)


def _crop(pixels: Pixels) -> Pixels:
    """The middle nine tenths of both sides."""
    height, width = pixels.shape
    top, left = round(height * (1 - SHARE) / 2), round(width * (1 - SHARE) / 2)
    return pixels[top : height - top, left : width - left]


def _contrast(pixels: Pixels) -> Pixels:
    """Grey values drawn to their mean by three tenths."""
    values = pixels.astype(np.float64)
    return _whole(values.mean() + CONTRAST * (values - values.mean()))


def _window(pixels: Pixels) -> Pixels:
    """A narrower window: the 5th percentile becomes black, the 95th white."""
    low, high = np.percentile(pixels, (5, 95))
    if high <= low:
        return pixels
    return _whole((pixels.astype(np.float64) - low) * 255 / (high - low))


CHANGES: Mapping[Variant, Callable[[Pixels], Pixels]] = {
    "jpeg-30": _jpeg,
    "rotate-5": _rotate,
    "crop-90": _crop,
    "contrast-70": _contrast,
    "window-90": _window,
}
"""Variants that change pixels; `original` changes nothing, `redacted` the marks of removed words in what is offered."""


def vary(sample: Sample, name: Variant) -> Sample:
    """The sample under the change called `name`: id `.../NAME`, subgroup `variant`; target and patient stay."""
    if name not in VARIANTS:
        raise ValueError(f"{name!r} is no variant; known: {', '.join(VARIANTS)}")
    images = sample.images
    if name in CHANGES:
        images = tuple(replace(image, path=f"{SCHEME}{name}:{image.path}") for image in images)
    sections = dict(sample.sections)
    if name == "redacted":
        sections = {key: MARKS.sub(REDACTED, text) for key, text in sections.items()}
    return replace(
        sample,
        sample_id=f"{sample.sample_id}/{name}",
        images=images,
        sections=sections,
        subgroups={**sample.subgroups, "variant": name},
    )


def file_of(path: str) -> str:
    """The path of the image that is changed, which is what lies on disk.

    >>> file_of("variant:jpeg-30:/data/x.jpg"), file_of("/data/x.jpg")
    ('/data/x.jpg', '/data/x.jpg')
    """
    return path.split(":", 2)[2] if path.startswith(SCHEME) else path


class Varied:
    """Reads images as `read` does, and changes those whose path says so."""

    def __init__(self, read: Callable[[str], Pixels]) -> None:
        self.read = read

    def __call__(self, path: str) -> Pixels:
        """Grey pixels, uint8 (H, W).

        Raises:
            ImageFailure: as `read`.
        """
        pixels = self.read(file_of(path))
        if not path.startswith(SCHEME):
            return pixels
        name = path.split(":", 2)[1]
        change = next(make for known, make in CHANGES.items() if known == name)
        return np.ascontiguousarray(change(pixels))
