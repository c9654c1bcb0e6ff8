"""A grey canvas for phantom drawings: integer shapes with soft edges on a field of 1024 x 1024 units.

Everything is integer arithmetic (add, multiply, floor shifts and floor division of numpy int32), so a picture is the
same on every machine. Coordinates are in units whatever the size in pixels: x to the right, y down. Touches numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isqrt

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Index = NDArray[np.intp]
Point = tuple[int, int]
Box = tuple[slice, slice]

FIELD = 1024
"""Width and height of the field in units."""


class Canvas:
    """Attenuation in grey levels (int32, roughly 0..255, clipped only at the end), and one mask per finding.

    `pen` names the finding being drawn; with `masks`, every pixel that it changes by `MARK` or more is in its mask.
    """

    MARK = 6

    def __init__(self, size: int, *, masks: bool = False) -> None:
        centres = (2 * np.arange(size, dtype=np.int32) + 1) * (FIELD // 2) // size
        self.size = size
        self.x: Ints = centres[None, :]
        self.y: Ints = centres[:, None]
        self.grey: Ints = np.zeros((size, size), np.int32)
        self.edge = max(1, FIELD // size)
        self.masks: dict[str, NDArray[np.bool_]] | None = {} if masks else None
        self.pen = ""

    def box(self, left: int, top: int, right: int, bottom: int) -> Box:
        """The pixels whose centres may lie in a rectangle of units, clipped to the field."""

        def cut(low: int, high: int) -> slice:
            first = max(0, min(self.size, low * self.size // FIELD - 1))
            return slice(first, max(first, min(self.size, high * self.size // FIELD + 2)))

        return cut(top, bottom), cut(left, right)

    def grid(self, box: Box) -> tuple[Ints, Ints]:
        """Coordinates (x as a row, y as a column) of a box."""
        return self.x[:, box[1]], self.y[box[0]]

    def add(self, box: Box, change: Ints) -> None:
        """Add grey levels to a box."""
        self.grey[box] += change
        self._mark(box, change)

    def blend(self, box: Box, target: int | Ints, cover: Ints) -> None:
        """Move a box towards a grey level; `cover` 0..256 says how far."""
        here = self.grey[box]
        change: Ints = target - here
        change *= cover
        change >>= 8
        here += change
        self._mark(box, change)

    def _mark(self, box: Box, change: Ints) -> None:
        if self.masks is not None and self.pen:
            mask = self.masks.setdefault(self.pen, np.zeros((self.size, self.size), np.bool_))
            mask[box] |= np.abs(change) >= self.MARK

    def curve(
        self, points: Sequence[Point], width: int, grey: int, *, soft: int = 0, within: Ints | None = None
    ) -> None:
        """Add a line of `width` units through the points, evenly bright where segments meet.

        `soft` units of its edge fade out; `within` (a cover 0..256 of the whole field) clips it.
        """
        soft = max(soft, self.edge)
        half = width // 2
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        margin = half + soft
        box = self.box(min(xs) - margin, min(ys) - margin, max(xs) + margin, max(ys) + margin)
        layer = np.zeros(self.grey[box].shape, np.int32)
        rows0, cols0 = box[0].start, box[1].start
        for (x0, y0), (x1, y1) in pairwise(points):
            part = self.box(min(x0, x1) - margin, min(y0, y1) - margin, max(x0, x1) + margin, max(y0, y1) + margin)
            x, y = self.grid(part)
            away = _distance(x, y, x0, y0, x1, y1)
            local = (
                slice(part[0].start - rows0, part[0].stop - rows0),
                slice(part[1].start - cols0, part[1].stop - cols0),
            )
            np.maximum(layer[local], ramp(half - away, soft), out=layer[local])
        if within is not None:
            layer = layer * within[box] >> 8
        self.add(box, (layer * grey) >> 8)


def _distance(x: Ints, y: Ints, x0: int, y0: int, x1: int, y1: int) -> Ints:
    """Distance in units to a segment (square ends)."""
    dx, dy = x1 - x0, y1 - y0
    length = max(1, isqrt(dx * dx + dy * dy))
    u, v = x - x0, y - y0
    across = np.abs(u * dy - v * dx) // length
    along = (u * dx + v * dy) // length
    out: Ints = np.maximum(across, np.maximum(-along, along - length))
    return out


def ramp(depth: Ints, soft: int) -> Ints:
    """A soft edge: 0 outside, 256 about `soft` units inside (the slope is a whole number of 1/256 per unit)."""
    out: Ints = depth * (256 // soft)
    np.maximum(out, 0, out=out)
    np.minimum(out, 256, out=out)
    return out


def disc(x: Ints, y: Ints, centre: Point, a: int, b: int, soft: int = 96) -> Ints:
    """Cover 0..256 of an ellipse with half-axes a and b; `soft` (of 256) is how far in its edge reaches."""
    u = (x - centre[0]) * 256 // a
    v = (y - centre[1]) * 256 // b
    inside = 65536 - u * u - v * v
    out: Ints = np.clip(inside // soft, 0, 256)
    return out


def bend(start: Point, middle: Point, end: Point, steps: int = 8) -> list[Point]:
    """Points of a quadratic Bezier curve from start to end, drawn towards `middle`."""
    square = steps * steps
    out = []
    for t in range(steps + 1):
        a, b, c = (steps - t) ** 2, 2 * t * (steps - t), t * t
        out.append(
            (
                (a * start[0] + b * middle[0] + c * end[0]) // square,
                (a * start[1] + b * middle[1] + c * end[1]) // square,
            )
        )
    return out


def smooth_noise(raw: NDArray[np.uint8], cells: int, size: int) -> Ints:
    """A (size, size) field of -128..127 that varies over `cells` cells: `raw` ((cells + 1)**2 bytes), interpolated."""
    lattice = raw.reshape(cells + 1, cells + 1).astype(np.int32) - 128
    where = (2 * np.arange(size, dtype=np.int32) + 1) * (cells * 128) // size
    low, part = where >> 8, where & 255
    # Columns first, on the few lattice rows; then whole rows are blended.
    few = (lattice[:, low] * (256 - part) + lattice[:, low + 1] * part) >> 8
    out: Ints = few[low] * (256 - part)[:, None]
    out += few[low + 1] * part[:, None]
    out >>= 8
    return out


def warp(size: int, turn: int, scale: int, shift: Point) -> tuple[Index, Ints, Ints, Ints]:
    """Where each pixel of the turned picture comes from: index, right, down (for `resample`) and inside.

    `turn` is the sine of the angle in 1/65536, `scale` the zoom in 1/1024, `shift` in units. Returns the flat index of
    the upper left source pixel, the two fractions (0..255), and whether the source lies in the field (0 or 1).
    """
    # cos = 1 - sin^2 / 2 to first order: exact enough below ten degrees, and integer.
    cos = 65536 - turn * turn // 131072
    a = cos * 1024 // scale
    b = turn * 1024 // scale
    centre = np.arange(size, dtype=np.int64) * 2 - (size - 1)
    # Source position in 1/256 pixel: half of (2 p) * a / 65536 * 256.
    dx, dy = shift[0] * size * 256 // FIELD, shift[1] * size * 256 // FIELD
    middle = (size - 1) * 128
    across_x, across_y = (centre * a) >> 9, (centre * b) >> 9
    sx = (across_x[None, :] + across_y[:, None] + (middle - dx)).astype(np.int32)
    sy = (across_x[:, None] - across_y[None, :] + (middle - dy)).astype(np.int32)
    limit = (size - 1) * 256 - 1
    inside = ((sx >= 0) & (sx <= limit) & (sy >= 0) & (sy <= limit)).astype(np.int32)
    np.clip(sx, 0, limit, out=sx)
    np.clip(sy, 0, limit, out=sy)
    return ((sy >> 8) * size + (sx >> 8)).astype(np.intp), sx & 255, sy & 255, inside


def resample(grey: Ints, index: Index, right: Ints, down: Ints) -> Ints:
    """Bilinear picture at the positions `warp` gave."""
    flat = grey.ravel()
    size = grey.shape[0]
    upper = flat.take(index, mode="wrap")
    upper += ((flat.take(index + 1, mode="wrap") - upper) * right) >> 8
    index = index + size
    lower = flat.take(index, mode="wrap")
    lower += ((flat.take(index + 1, mode="wrap") - lower) * right) >> 8
    upper += ((lower - upper) * down) >> 8
    return upper
