"""The pool of samples whose images are read: those of a task, drawn ones as real files. Never torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cxrbench.errors import CxrbenchError
from cxrbench.types import Image, Sample

if TYPE_CHECKING:
    from cxrbench.config import Config

DRAWN = "phantom:"


def pool(task: str, count: int, config: Config, folder: Path) -> tuple[Sample, ...]:
    """The first `count` samples of a task; drawn images are written into `folder`, so that reading is reading.

    Raises:
        CxrbenchError: the task has fewer samples.
    """
    from cxrbench.data.load import TaskData
    from cxrbench.spec import find_task

    spec = find_task(task)
    if spec.dataset.name == "phantom":
        options = {**spec.dataset.options, spec.dataset.split: count}
        spec = spec.model_copy(update={"dataset": spec.dataset.model_copy(update={"options": options})})
    samples = TaskData.find(spec, config).samples.samples
    if len(samples) < count:
        raise CxrbenchError(
            f"{task} has {len(samples)} samples, and no image may come twice in a window",
            where=f"--images {count}",
            fix=f"--images {len(samples)}, or a larger task",
        )
    return tuple(_with_files(sample, folder) for sample in samples[:count])


def _with_files(sample: Sample, folder: Path) -> Sample:
    """The sample with drawn images as PNG files."""
    if not any(image.path.startswith(DRAWN) for image in sample.images):
        return sample
    return replace(sample, images=tuple(_as_file(image, folder) for image in sample.images))


def _as_file(image: Image, folder: Path) -> Image:
    from PIL import Image as Picture

    from cxrbench.data.images import read_grey

    file = folder / f"{image.path.removeprefix(DRAWN).replace('/', '_').replace(':', '_')}.png"
    if not file.exists():
        Picture.fromarray(read_grey(image.path)).save(file, compress_level=1)
    return replace(image, path=str(file))


def chars_per_token(texts: Sequence[str], tokenizer: object) -> float:
    """Characters of the texts over the tokens a tokenizer makes of them, without special tokens."""
    assert callable(tokenizer)
    tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    return sum(map(len, texts)) / tokens
