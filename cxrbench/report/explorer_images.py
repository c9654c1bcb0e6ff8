"""Thumbnails for pages: every image that a sample offers, as large as the room on the page allows. Never torch.

The pictures are those the run's data set has on this machine, checked to be the data of the run. One size for all
images of a page: the largest whose bytes, measured on a fixed part of the images, fit.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image as Picture

from cxrbench.data.confined import Confined
from cxrbench.data.image_cache import CachedReader
from cxrbench.data.images import ImageFailure, read_grey
from cxrbench.data.load import TaskData
from cxrbench.errors import CxrbenchError
from cxrbench.spec import TaskSpec
from cxrbench.store import RunFolder
from cxrbench.types import Image, Sample

if TYPE_CHECKING:
    from cxrbench.config import Config
    from cxrbench.data.base import Roots
    from cxrbench.models.base import ReadImage

Pictures = Literal["all", "key", "none"]
Progress = Callable[[str, int, int], None]

ROOM = 17_000_000
"""Bytes of images in a page, in base64: with the texts of 3,858 samples the page stays well below 30 MB."""

SIZES = (768, 512, 384, 320, 256, 224, 192, 160, 128, 96)
"""Pixels of the longer side, largest first."""

MEASURED = 24
"""Images a size is tried on."""

QUALITY = 55
"""Of WebP."""


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Images of a page: `data` base64 WebP by image number; `of` sample id -> (view, image number or why it is not)."""

    data: tuple[str, ...] = ()
    of: Mapping[str, tuple[tuple[str, int | str], ...]] = field(default_factory=dict)
    size: int = 0
    notes: tuple[str, ...] = ()


def find_samples(run: RunFolder, config: Config, roots: Roots) -> tuple[Mapping[str, Sample], ReadImage]:
    """The samples of a run with the paths of their images, and how these are read.

    Raises:
        CxrbenchError: the data are not at hand, or they are not those of the run.
    """
    manifest = run.manifest()
    task = {key: value for key, value in manifest.task.items() if key != "run_notes"}
    try:
        data = TaskData.find(TaskSpec.model_validate(task), config, roots)
        found = data.samples
    except CxrbenchError as error:
        fix = f"{error.fix}; " if error.fix else ""
        raise CxrbenchError(error.what, where=error.where, fix=f"{fix}--pictures none for a page of texts") from error
    if found.fingerprint != manifest.identity["data"]:
        raise CxrbenchError(
            "the data here are not those of the run, so its images may be others",
            where=str(run.path),
            fix="--images with those of the run, or --pictures none for a page of texts",
        )
    read = CachedReader(data.entry.image_cache) if data.entry.image_cache is not None else read_grey
    return {sample.sample_id: sample for sample in found.samples}, Confined(read, data.entry.roots)


def thumbnails(
    samples: Sequence[Sample], read: ReadImage, pictures: Pictures, progress: Progress, room: int = ROOM
) -> Thumbnails:
    """Draw the thumbnails of samples; an image that gives no pixels is named with its outcome and counted."""
    wanted = [(sample, _chosen(sample, pictures)) for sample in samples]
    images = [image for _, some in wanted for image in some]
    if not images:
        return Thumbnails()
    size = _fitting(images, read, room)
    data: list[str] = []
    seen: dict[str, int | str] = {}
    failed: Counter[str] = Counter()
    of: dict[str, tuple[tuple[str, int | str], ...]] = {}
    for number, (sample, some) in enumerate(wanted):
        progress("drawing images", number, len(wanted))
        row: list[tuple[str, int | str]] = []
        for image in some:
            if image.path not in seen:
                seen[image.path] = _add(image, read, size, data)
            place = seen[image.path]
            failed.update([place] if isinstance(place, str) else [])
            row.append((image.view, place))
        of[sample.sample_id] = tuple(row)
    progress("drawing images", len(wanted), len(wanted))
    notes = tuple(f"{count} images without pixels: {outcome}" for outcome, count in sorted(failed.items()))
    return Thumbnails(tuple(data), of, size, notes)


def _add(image: Image, read: ReadImage, size: int, data: list[str]) -> int | str:
    """Put an image among the others; its number, or why there is none."""
    try:
        drawn = encoded(read(image.path), size)
    except ImageFailure as failure:
        return failure.outcome
    data.append(base64.b64encode(drawn).decode("ascii"))
    return len(data) - 1


def _chosen(sample: Sample, pictures: Pictures) -> tuple[Image, ...]:
    if pictures == "none":
        return ()
    if pictures == "all":
        return sample.images
    return tuple(image for image in sample.images if image.image_id == sample.key_image) or sample.images[:1]


def _fitting(images: Sequence[Image], read: ReadImage, room: int) -> int:
    """The largest size at which as many images as these, as large as those tried, fit into the room."""
    distinct = list({image.path: image for image in images}.values())
    step = max(1, len(distinct) // MEASURED)
    tried = []
    for image in distinct[::step][:MEASURED]:
        try:
            tried.append(read(image.path))
        except ImageFailure:  # counted where all images are drawn
            continue
    for size in SIZES[:-1]:
        if sum(len(encoded(grey, size)) for grey in tried) * 4 / 3 * len(distinct) <= room * len(tried):
            return size
    return SIZES[-1]


def encoded(grey: Any, size: int) -> bytes:
    """An image, uint8 (H, W), as WebP whose longer side has at most `size` pixels."""
    picture = Picture.fromarray(grey)
    picture.thumbnail((size, size), Picture.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.convert("L").save(out, "WEBP", quality=QUALITY, method=4)
    return out.getvalue()
