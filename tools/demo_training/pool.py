"""Drawn training pictures, made once and kept: pixels as the processor yields them, and what each patch shows.

A pool is a folder of memory maps over studies `0 .. n - 1` of one seed of a split. It is written in chunks by several
processes and goes on where it was stopped.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrbench.data.phantom import IMAGE_SIZE
from cxrbench.data.phantom_draw import render
from cxrbench.data.phantom_world import KINDS, SIDED, VERSION, Case, Finding, case

PIXELS, PATCH = 160, 16
GRID = PIXELS // PATCH
PLACES = tuple(
    f"{kind}/{side}" if side else kind for kind in KINDS for side in (("left", "right") if kind in SIDED else ("",))
)
"""What the tower is taught to see: every finding, each side for itself."""
OTHER_SIDE = [
    PLACES.index(place.replace("left", "?").replace("right", "left").replace("?", "right")) for place in PLACES
]
"""For every place, the same on the other side of a mirrored picture."""

CHUNK = 500
_COVERED = 8
"""Pixels of a patch (of 256) a finding must have changed to count as shown there."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Arrays over studies.

    `pixels` uint8 (n, 160, 160); `severity` int8 (n, places), 0 where absent, 1 where it has none; `shown` uint32
    (n, 10, 10), bit `i` for place `i`.
    """

    split: str
    seed: int
    pixels: NDArray[np.uint8]
    severity: NDArray[np.int8]
    shown: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.pixels)


def shrink(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture at the size of the tower, exactly as the shipped processor resizes it."""
    return np.asarray(Image.fromarray(picture).resize((PIXELS, PIXELS), Image.Resampling.BILINEAR))


def severities(findings: Iterable[Finding]) -> NDArray[np.int8]:
    """Severity by place (int8, (places,)); 0 absent, 1 where the kind has no severity."""
    row = np.zeros(len(PLACES), np.int8)
    for finding in findings:
        row[PLACES.index(finding.place)] = max(finding.severity, 1)
    return row


def open_pool(folder: Path, split: str, seed: int, count: int, workers: int) -> Pool:
    """Draw what is missing of a pool and return it."""
    place = folder / f"phantom{VERSION}-{split}-{seed}-{PIXELS}"
    place.mkdir(parents=True, exist_ok=True)
    jobs = [(place, split, seed, part) for part in _parts(count) if not _file(place, part).exists()]
    if workers > 1 and len(jobs) > 1:
        with multiprocessing.get_context("spawn").Pool(workers) as team:
            for _ in team.imap_unordered(_draw_chunk, jobs):
                pass
    else:
        for job in jobs:
            _draw_chunk(job)
    return _gather(place, split, seed, count)


def _parts(count: int) -> list[range]:
    return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def _file(place: Path, part: range) -> Path:
    return place / f"{part.start:08d}-{part.stop:08d}.npz"


def _draw_chunk(job: tuple[Path, str, int, range]) -> None:
    place, split, seed, part = job
    rows = [_study(case(seed, split, index)) for index in part]
    file = _file(place, part)
    unfinished = file.with_suffix(".part")
    with unfinished.open("wb") as out:
        np.savez(
            out,
            pixels=np.stack([row[0] for row in rows]),
            severity=np.stack([row[1] for row in rows]),
            shown=np.stack([row[2] for row in rows]),
        )
    unfinished.replace(file)


def _study(true: Case) -> tuple[NDArray[np.uint8], NDArray[np.int8], NDArray[np.uint32]]:
    picture, masks = render(true, "frontal", IMAGE_SIZE, masks=True)
    shown = np.zeros((GRID, GRID), np.uint32)
    for name, mask in masks.items():
        shown |= _patches(mask).astype(np.uint32) << np.uint32(PLACES.index(name))
    return shrink(picture), severities(true.findings), shown


def _patches(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The patches a finding is shown in; the one with the most of it where it is nowhere more than a trace."""
    steps = (np.arange(PIXELS) * IMAGE_SIZE + IMAGE_SIZE // 2) // PIXELS
    area = mask[np.ix_(steps, steps)].reshape(GRID, PATCH, GRID, PATCH).sum(axis=(1, 3))
    return np.asarray(area >= max(1, min(_COVERED, int(area.max()))))


def _gather(place: Path, split: str, seed: int, count: int) -> Pool:
    """All chunks in memory."""
    pixels = np.empty((count, PIXELS, PIXELS), np.uint8)
    severity = np.empty((count, len(PLACES)), np.int8)
    shown = np.empty((count, GRID, GRID), np.uint32)
    for part in _parts(count):
        with np.load(_file(place, part)) as chunk:
            for name, whole in (("pixels", pixels), ("severity", severity), ("shown", shown)):
                whole[part.start : part.stop] = chunk[name]
    return Pool(split, seed, pixels, severity, shown)
