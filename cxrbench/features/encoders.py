"""Encoders of pictures for the Fréchet distance: `pixels`, the embedded demo model's tower, or a folder of yours.

torch is imported inside functions.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxrbench.data.phantom import Phantom
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.embedded import torch_missing
from cxrbench.shipped import embedded

if TYPE_CHECKING:
    from collections.abc import Callable

Picture = NDArray[np.uint8]
Floats = NDArray[np.float64]

PRESETS: Mapping[str, str] = {
    "pixels": "8 x 8 area means of the grey picture, 64 numbers from 0 to 1: layout and exposure, no findings",
    "demo-tower": "mean patch of the embedded demo model's image tower; it has seen phantom only",
}
GRID = 8
BATCH = 16


@dataclass(frozen=True, slots=True)
class Encoder:
    """`tag` names code and weights; `run` takes grey pictures and a device."""

    tag: str
    run: Callable[[Sequence[Picture], str], Floats]

    def features(self, pictures: Sequence[Picture], device: str) -> Floats:
        """(n, d) float64 of n grey pictures (H, W), of each the centre square: a generator draws nothing else."""
        return self.run([centre(each) for each in pictures], device) if pictures else np.zeros((0, 0))


def centre(picture: Picture) -> Picture:
    """The centre square of a picture, as wide as its short side."""
    side = min(picture.shape)
    top, left = ((edge - side) // 2 for edge in picture.shape)
    return picture[top : top + side, left : left + side]


def missing(name: str) -> str | None:
    """None where the encoder can run, else one sentence of what it needs."""
    return None if name == "pixels" else torch_missing()


def find(name: str, dataset: str | None) -> Encoder:
    """The encoder of a preset, or of a checkpoint folder.

    Raises:
        CxrbenchError: `demo-tower` for other data than phantom, or a folder that holds no image encoder.
    """
    if name == "pixels":
        return Encoder("pixels-1", means)
    if name == "demo-tower":
        if dataset != Phantom.name:
            raise CxrbenchError(
                f"the demo model's tower has seen phantom only, and these are pictures of {dataset!r}",
                where="--metrics frechet:demo-tower",
                fix="frechet:FOLDER with an encoder of real radiographs",
                code=Exit.UNDECIDED,
            )
        return Encoder(f"demo-{weights_hash(embedded('demo'))}", functools.partial(through, embedded("demo")))
    return Encoder(weights_hash(Path(name)), functools.partial(through, Path(name)))


def means(pictures: Sequence[Picture], device: str = "cpu") -> Floats:
    """Mean grey level of 8 x 8 areas, 0 to 1: (n, 64)."""
    from PIL import Image

    box = Image.Resampling.BOX
    small = [np.asarray(Image.fromarray(each.astype(np.float32)).resize((GRID, GRID), box)) for each in pictures]
    return np.stack(small).reshape(len(small), GRID * GRID).astype(np.float64) / 255


@functools.lru_cache(maxsize=8)
def weights_hash(folder: Path) -> str:
    """8 hex digits over the weight files of a folder and its configuration.

    Raises:
        CxrbenchError: there are none.
    """
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json")])
    if not any(file.suffix == ".safetensors" for file in files):
        raise CxrbenchError("there are no weights (*.safetensors) here", where=str(folder), code=Exit.UNDECIDED)
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:8]


def through(folder: Path, pictures: Sequence[Picture], device: str) -> Floats:
    """Features of a stock checkpoint's image tower: its pooled output, else the mean over patches; (n, d).

    Of a LLaVA the mean over the patches of the layer that its language model sees: what comes after is not trained.
    """
    import torch

    processor, tower, layer = tower_of(folder, device)
    rows = []
    for start in range(0, len(pictures), BATCH):
        pixels = processor(images=[rgb(each) for each in pictures[start : start + BATCH]], return_tensors="pt")
        with torch.inference_mode(), one_thread(small=folder == embedded("demo")):
            made = tower(pixel_values=pixels["pixel_values"].to(device), output_hidden_states=layer is not None)
        if layer is not None:
            found = made.hidden_states[layer][:, 1:].mean(dim=1)
        else:
            pooled = getattr(made, "pooler_output", None)
            found = pooled if pooled is not None else made.last_hidden_state.mean(dim=1)
        rows.append(found.double().cpu().numpy())
    return np.concatenate(rows)


@contextlib.contextmanager
def one_thread(*, small: bool) -> Iterator[None]:
    """Let torch use one thread for a tiny network: on a busy machine threads that wait for each other cost tenfold."""
    import torch

    before = torch.get_num_threads()
    if small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Load something stock without its progress bar, and leave the setting as it was."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def rgb(picture: Picture) -> Any:
    """A grey picture as what image processors take."""
    from PIL import Image

    return Image.fromarray(picture).convert("RGB")


@functools.lru_cache(maxsize=2)
def tower_of(folder: Path, device: str) -> tuple[Any, Any, int | None]:
    """Image processor and image tower of a stock checkpoint, and of a LLaVA the layer its language model sees.

    Raises:
        CxrbenchError: the folder holds none that transformers can read without code of its own.
    """
    import transformers

    try:
        with quiet():
            whole = transformers.AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype="float32"
            )
            processor = image_processor(folder)
    except (OSError, ValueError, KeyError) as error:
        raise CxrbenchError(
            f"no image encoder can be read here: {type(error).__name__}", where=str(folder), code=Exit.UNDECIDED
        ) from error
    tower = next((part for name in ("vision_model", "vision_tower") if (part := getattr(whole, name, None))), whole)
    return processor, tower.to(device).eval(), getattr(whole.config, "vision_feature_layer", None)


def image_processor(folder: Path) -> Any:
    """The stock image processor of a folder, always of the PIL kind."""
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
