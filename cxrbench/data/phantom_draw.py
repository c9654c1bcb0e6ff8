"""From the truth about a study to its picture: chest, findings, position, exposure, noise, collimation, marker.

Every step is integer arithmetic on numpy int32 and on Python integers; no float, no libm, no font, no resampling of a
library. The same `Case` gives the same bytes on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cxrbench.data import phantom_lateral
from cxrbench.data.phantom_anatomy import Chest, body_of, draw_bones, draw_chest, draw_distractors
from cxrbench.data.phantom_canvas import FIELD, Canvas, Ints, resample, smooth_noise, warp
from cxrbench.data.phantom_rng import Stream, random_bytes
from cxrbench.data.phantom_signs import OVER_BONES, UNDER_BONES
from cxrbench.data.phantom_world import Case

Grey = NDArray[np.uint8]
Masks = dict[str, NDArray[np.bool_]]


def render(case: Case, view: str, size: int, *, masks: bool = False) -> tuple[Grey, Masks]:
    """Draw one view (`frontal` or `lateral`) at `size` pixels; with `masks`, where each finding changed the picture.

    Masks are (size, size) booleans by `Finding.place` ("effusion/left", "edema", ...). Cardiomegaly is the heart
    itself, so its mask is the heart.
    """
    canvas = Canvas(size, masks=masks)
    s = Stream(case.key, 11 if view == "frontal" else 12)
    if view == "frontal":
        _frontal(canvas, case, s)
    else:
        phantom_lateral.draw(canvas, case, s)
    return _expose(canvas, s, case.portable)


def _frontal(canvas: Canvas, case: Case, s: Stream) -> None:
    chest = draw_chest(canvas, body_of(case), s)
    _mark_heart(canvas, case, chest)
    _findings(canvas, case, chest, under=True)
    draw_bones(canvas, chest)
    draw_distractors(canvas, chest, s)
    _findings(canvas, case, chest, under=False)


def _findings(canvas: Canvas, case: Case, chest: Chest, *, under: bool) -> None:
    """Draw the findings below or above the bones, in the order of the table (not of the report)."""
    for kind, sign in (UNDER_BONES if under else OVER_BONES).items():
        for finding in case.findings:
            if finding.kind == kind:
                canvas.pen = finding.place
                sign(canvas, chest, finding, Stream(finding.shape, 5))
    canvas.pen = ""


def _mark_heart(canvas: Canvas, case: Case, chest: Chest) -> None:
    if canvas.masks is not None and any(f.kind == "cardiomegaly" for f in case.findings):
        reach = chest.body.heart
        box = canvas.box(
            chest.cx - reach // 3,
            chest.body.dome["left"] - reach * 3 // 4,
            chest.cx + reach * 7 // 10,
            chest.body.dome["left"],
        )
        mask = np.zeros((canvas.size, canvas.size), np.bool_)
        mask[box] = True
        canvas.masks["cardiomegaly"] = mask


def _expose(canvas: Canvas, s: Stream, portable: bool) -> tuple[Grey, Masks]:
    """Position, contrast, brightness, uneven field, noise, collimation and marker: what differs between two films."""
    size = canvas.size
    loose = 3 if portable else 2
    turn, scale = s.around(0, 3000 * loose // 2), s.around(1170, 150)
    shift = (s.around(0, 38 * loose), s.around(10, 32 * loose))
    index, right, down, inside = warp(size, turn, scale, shift)
    grey = resample(canvas.grey, index, right, down)
    grey *= inside
    gain, lift = s.around(256, 90), s.around(0, 30)
    tilt_x, tilt_y = s.around(0, 40), s.around(0, 40)
    grey *= gain
    grey >>= 8
    grey += (canvas.x - 512) * tilt_x >> 9
    grey += ((canvas.y - 512) * tilt_y >> 9) + (lift + ((256 - gain) * 110 >> 8))
    noise = smooth_noise(random_bytes(s.bits(), 6 * 6), 5, size)
    noise *= s.between(4, 34)
    noise += _grain(s.bits(), size) * s.between(5, 15)
    noise >>= 7
    grey += noise
    _curve(grey, s.around(0, 70))
    _collimate(grey, s, size)
    _marker(grey, s, size)
    out = np.clip(grey, 0, 255).astype(np.uint8)
    if canvas.masks is None:
        return out, {}
    nearest = index + (right >> 7) + (down >> 7) * size
    return out, {name: mask.ravel()[nearest] & (inside > 0) for name, mask in canvas.masks.items()}


def _grain(key: int, size: int) -> Ints:
    """Film noise: per pixel the sum of two bytes, centred on 0 (-255..255)."""
    raw = random_bytes(key, 2 * size * size).astype(np.int32).reshape(2, size, size)
    out: Ints = raw[0] + raw[1] - 255
    return out


def _curve(grey: Ints, bow: int) -> None:
    """Bend the tone curve in place: middle greys move by up to bow / 4 levels, black and white stay."""
    np.clip(grey, 0, 255, out=grey)
    grey += grey * (255 - grey) * bow >> 16


def _collimate(grey: Ints, s: Stream, size: int) -> None:
    """Blacken what the beam did not reach: margins of random width on some films."""
    if not s.chance(45):
        return
    top, bottom, left, right = (s.below(46) * size // FIELD for _ in range(4))
    grey[:top], grey[size - bottom :] = 3, 3
    grey[:, :left], grey[:, size - right :] = 3, 3


_GLYPHS = {
    "R": (0b1110, 0b1001, 0b1001, 0b1110, 0b1100, 0b1010, 0b1001),
    "L": (0b1000, 0b1000, 0b1000, 0b1000, 0b1000, 0b1000, 0b1111),
}


def _marker(grey: Ints, s: Stream, size: int) -> None:
    """A lead letter near an upper corner on most films: R on the patient's right or L on the left."""
    letter = s.weighted({"R": 35, "L": 40, "": 25})
    if not letter:
        return
    dot = s.between(7, 10)
    left = s.between(50, 110) if letter == "R" else s.between(860, 920)
    top = s.between(40, 110)
    for row, bits in enumerate(_GLYPHS[letter]):
        for col in range(4):
            if bits >> (3 - col) & 1:
                y0, x0 = (top + row * dot) * size // FIELD, (left + col * dot) * size // FIELD
                y1, x1 = (top + row * dot + dot) * size // FIELD, (left + col * dot + dot) * size // FIELD
                grey[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = 235
