"""Grey pixels decoded once: what `data prepare --image-cache full|SHORT_SIDE` builds and runs read from. Never torch.

One uncompressed `.npy` file per image, under a key made of the source's path, size and modification time and the
version of the pixel rules, so that a changed source or rule is a miss and never a stale picture. A miss is read from
the source and reduced the same way: a run's pixels do not depend on how full the cache is. `full` keeps every pixel;
a short side changes them, and `CachedReader.identity` says so. The folder holds patients' images: mode 0700.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrbench.data.base import Progress
from cxrbench.data.images import PHANTOM, RULES, ImageFailure, read_grey
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.privacy import claim_folder, private_file

_META = "image-cache.json"
_FORMAT = 1
_STALE_AFTER = 3600.0
"""Seconds after which an unfinished file can only be a killed build's: one image takes less than a second."""


@dataclass(frozen=True, slots=True)
class Built:
    """What a build did: images written and already there, bytes written, and broken files by outcome."""

    written: int
    kept: int
    size: int
    failed: Mapping[str, int]


def build(
    images: Iterable[str], out: Path, short_side: int | None, workers: int, progress: Progress, total: int | None = None
) -> Built:
    """Decode images into the cache folder `out`; run again after an interruption, it goes on where it stopped.

    Args:
        images: paths as `types.Image.path` has them; each is read once however often it is named.
        out: the folder, made if need be.
        short_side: None keeps every pixel; else the shorter side is reduced to this many pixels, never enlarged.
        workers: threads. Pillow decodes without holding the interpreter.
        progress: called with (done, total).
        total: number of images, where it is known.

    Raises:
        CxrbenchError: the folder holds another kind of cache, or cannot be written.
    """
    _prepare(out, short_side)
    outcomes: Counter[str] = Counter()
    size = done = 0
    paths = iter(dict.fromkeys(path for path in images if not path.startswith(PHANTOM)))
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        while batch := list(islice(paths, 16 * max(workers, 1))):
            for outcome, written in pool.map(lambda path: _store(path, out, short_side), batch):
                outcomes[outcome] += 1
                size += written
            done += len(batch)
            progress(done, total)
    written, kept = outcomes.pop("written", 0), outcomes.pop("kept", 0)
    return Built(written, kept, size, dict(sorted(outcomes.items())))


class CachedReader:
    """Reads images as `images.read_grey` does, from a cache folder where it can. Safe to share between threads.

    `hits` and `misses` count where the pixels came from; misses are right, only slower.
    """

    def __init__(self, folder: Path) -> None:
        """Open a cache folder.

        Raises:
            CxrbenchError: the folder is not a cache this version can read.
        """
        self.folder = folder
        self.short_side = _short_side(folder)
        self.hits = 0
        self.misses = 0
        self._counting = Lock()

    @property
    def identity(self) -> Mapping[str, Any]:
        """What belongs into a run's identity: nothing for a full cache, for its pixels are those of the files."""
        if self.short_side is None:
            return {}
        return {"images_reduced": {"short_side": self.short_side, "filter": "pillow-bicubic"}}

    def __call__(self, path: str) -> NDArray[np.uint8]:
        """Read grey pixels, uint8 (H, W).

        Raises:
            ImageFailure: the source is missing, or it is not in the cache and gives no pixels.
        """
        cached = None if path.startswith(PHANTOM) else _load(_place(path, self.folder))
        with self._counting:
            self.hits += cached is not None
            self.misses += cached is None
        return reduced(read_grey(path), self.short_side) if cached is None else cached


def reduced(grey: NDArray[np.uint8], short_side: int | None) -> NDArray[np.uint8]:
    """Reduce the shorter side to `short_side`, the other in proportion (at least 1); never enlarge.

    >>> reduced(np.zeros((600, 400), np.uint8), 100).shape
    (150, 100)
    """
    height, width = grey.shape
    if short_side is None or min(height, width) <= short_side:
        return grey
    scale = short_side / min(height, width)
    size = (round(width * scale), round(height * scale))
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC))


def _place(path: str, folder: Path) -> Path:
    """Where the pixels of a source file lie, by its path, size, modification time and the pixel rules.

    Raises:
        ImageFailure: missing_image.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - the path is kept as the data set spells it
    except (OSError, ValueError):
        raise ImageFailure("missing_image", f"{Path(path).name} is not there") from None
    words = (RULES, os.path.abspath(path), found.st_size, found.st_mtime_ns)  # noqa: PTH100 - links stay as they are
    key = hashlib.blake2b(json.dumps(words).encode(), digest_size=16).hexdigest()
    return folder / key[:2] / f"{key}.npy"


def _load(place: Path) -> NDArray[np.uint8] | None:
    """Read a cached image; None where there is none, or the disk lost part of it."""
    try:
        with place.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, in_columns, dtype = np.lib.format.read_array_header_1_0(file)
            left = os.fstat(file.fileno()).st_size - file.tell()
            # A header may speak of more bytes than there are: held against the file before there is room for them.
            if dtype != np.uint8 or in_columns or len(shape) != 2 or min(shape) < 0 or math.prod(shape) != left:
                return None
            return np.fromfile(file, np.uint8).reshape(shape)
    except (OSError, ValueError, EOFError, MemoryError, RecursionError, TypeError, SyntaxError, TokenError):
        return None


def _store(path: str, out: Path, short_side: int | None) -> tuple[str, int]:
    """Cache one image; returns the outcome and the bytes written. Whole or not at all: renamed into its place."""
    try:
        place = _place(path, out)
        if place.exists():
            return "kept", 0
        grey = reduced(read_grey(path), short_side)
    except ImageFailure as failure:
        return failure.outcome, 0
    unfinished = place.with_suffix(f".{os.getpid()}.tmp")
    try:
        place.parent.mkdir(mode=0o700, exist_ok=True)
        with open(unfinished, "wb", opener=private_file) as file:
            np.save(file, grey)
        unfinished.replace(place)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise _unwritable(out, error) from error
    return "written", grey.nbytes


def _prepare(out: Path, short_side: int | None) -> None:
    """Make the folder, or see that it is of the same kind and sweep out what killed builds left."""
    try:
        if not (out / _META).exists():
            _begin(out, short_side)
        for unfinished in _unfinished(out):
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(out, error) from error
    kept = _short_side(out)
    if kept != short_side:
        raise CxrbenchError(
            f"the image cache keeps {_in_words(kept)}, not {_in_words(short_side)}",
            where=str(out),
            fix="give the same --image-cache as before, or another folder",
        )


def _begin(out: Path, short_side: int | None) -> None:
    claim_folder(out)
    unfinished = out / f"{_META}.{os.getpid()}"
    with open(unfinished, "w", encoding="utf-8", opener=private_file) as file:
        json.dump({"format": _FORMAT, "short_side": short_side}, file)
    unfinished.replace(out / _META)


def _unfinished(out: Path) -> Iterator[Path]:
    limit = time.time() - _STALE_AFTER
    return (path for path in out.glob("??/*.tmp") if path.stat().st_mtime < limit)


def _short_side(folder: Path) -> int | None:
    meta = folder / _META
    try:
        content = json.loads(meta.read_text())
        if content["format"] == _FORMAT and isinstance(content["short_side"], int | None):
            return content["short_side"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise CxrbenchError(
        "this folder is not an image cache this version of cxrbench can read",
        where=str(meta),
        fix="build it again: cxrbench data prepare NAME --image-cache full --task TASK; "
        "or take image_cache out of cxrbench.toml: images are then read from their files",
    )


def _in_words(short_side: int | None) -> str:
    return "every pixel" if short_side is None else f"a short side of {short_side} pixels"


def _unwritable(out: Path, error: OSError) -> CxrbenchError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return CxrbenchError(
        "the disk of the image cache is full"
        if full
        else f"the image cache cannot be written ({type(error).__name__})",
        where=str(out),
        fix="free some space and run the command again: it goes on where it stopped, or give a short side"
        if full
        else "check the folder's permissions, or give another folder",
        code=Exit.INFRASTRUCTURE,
    )
