"""What metrics read off generated pictures: an encoder's features, and labels that a classifier finds in them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrbench.artifacts import Picture, read_picture
from cxrbench.data.phantom import Phantom
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features import encoders
from cxrbench.features.base import ALONE, Feature, Pairs, Resources, device_of
from cxrbench.features.phantom_labels import read_all

READER = "demo-reader"
"""The embedded demo model describes the picture, and phantom's exact reader reads what it wrote."""

BLOCK = 256
"""Pictures in memory at a time."""


def pictures_of(pairs: Pairs, resources: Resources) -> Iterator[list[Picture]]:
    """The generated pictures of pairs in blocks, in grey.

    Raises:
        CxrbenchError: there is no run with pictures, or one of them is damaged.
    """
    if resources.answered is None:
        raise CxrbenchError("there are no pictures here: a run folder has them", code=Exit.UNDECIDED)
    for start in range(0, len(pairs), BLOCK):
        yield [read_picture(resources.answered.run, each) for each in pairs.artifacts[start : start + BLOCK]]


class PictureFeatures(Feature):
    """Features (n, d) float64 of the generated pictures by the encoder that the setting `encoder` names."""

    name = "picture-features"

    def extract(
        self, pairs: Pairs, settings: Mapping[str, Hashable], resources: Resources = ALONE
    ) -> NDArray[np.float64]:
        """Encode them, block by block; the encoder must be the one the metric was fitted with (`tag`)."""
        name = str(settings["encoder"])
        encoder = encoders.find(name, Phantom.name if name == "demo-tower" else None)
        if encoder.tag != settings["tag"]:
            raise CxrbenchError(
                f"the encoder {name} is another one than when the real pictures were read",
                fix="repeat the `cxrbench run` that made the run",
                code=Exit.UNDECIDED,
            )
        device = device_of(resources)
        rows = [encoder.features(block, device) for block in pictures_of(pairs, resources)]
        return np.concatenate(rows) if rows else encoder.features([np.zeros((8, 8), np.uint8)], device)[:0]


class PictureLabels(Feature):
    """Labels of the generated pictures, {CheXpert name: 1, 0, -1} each, by who the setting `reader` names."""

    name = "picture-labels"

    def extract(
        self, pairs: Pairs, settings: Mapping[str, Hashable], resources: Resources = ALONE
    ) -> list[dict[str, int]]:
        """Read them, block by block."""
        name, device = str(settings["reader"]), device_of(resources)
        found: list[dict[str, int]] = []
        for block in pictures_of(pairs, resources):
            found += labels_of(name, block, device)
        return found


def labels_of(reader: str, pictures: Sequence[Picture], device: str) -> list[dict[str, int]]:
    """Labels of grey pictures by `demo-reader`, or by a classifier's folder."""
    from cxrbench.features.picture_net import classified, described

    if reader == READER:
        return read_all(described(pictures, device))
    return classified(Path(reader), pictures, device)
