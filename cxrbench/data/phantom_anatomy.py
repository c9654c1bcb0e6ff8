"""The normal chest of the phantom: one patient's anatomy, seen from the front. Integer arithmetic only.

Draws on a `Canvas` before any finding is there; `phantom_signs` adds the findings. Image left is the patient's right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from cxrbench.data.phantom_canvas import Canvas, Ints, Point, bend, disc, ramp, smooth_noise
from cxrbench.data.phantom_rng import Stream, fold, random_bytes
from cxrbench.data.phantom_world import Case

AIR, SOFT, LUNG, HEART, ABDOMEN = 8, 128, 58, 176, 170
"""Grey levels of the tissues before exposure."""

FIELD_CENTRE = 512
"""The midline of every chest, in units; where it comes to lie on the film is a matter of exposure."""

_VESSEL_MAPS = 6
_CHEST = (
    (-130, -750),
    (118, 40),
    (150, 142),
    (190, 196),
    (260, 248),
    (350, 288),
    (450, 312),
    (560, 326),
    (700, 332),
    (1024, 332),
)
"""Lung half-width (of a chest of half-width 332) by height, from the apex down."""
_SHOULDERS = ((50, 118), (72, 160), (86, 260), (106, 360), (140, 425), (200, 462), (330, 474), (420, 440), (600, 0))
"""Half-width of neck, shoulders and upper arms by height."""


@dataclass(frozen=True, slots=True)
class Body:
    """Measures of one chest in units.

    `heart` is the width of the heart, `dome` the height of each diaphragm, `fluid` that of the fluid on it, if any.
    """

    sex: str
    half: int
    heart: int
    dome: dict[str, int]
    knob: int
    rib_step: int
    rib_start: int
    trachea: int
    fat: int
    texture: int
    hila: int
    vessels: int
    breast: int
    bubble: bool
    ribs: int
    fluid: dict[str, int]


def fluid_level(dome: int, severity: int) -> int:
    """Height of an effusion's surface at its lowest, towards the midline; without one, the diaphragm itself."""
    return dome + 62 - (96, 225, 390)[severity - 1] if severity else dome


def body_of(case: Case) -> Body:
    """Anatomy of the patient, with what the findings change: a large heart, a raised diaphragm."""
    s = Stream(case.patient.body, 3)
    half = s.between(280, 368)
    grade = max((f.severity for f in case.findings if f.kind == "cardiomegaly"), default=0)
    low, high = ((385, 465), (545, 575), (620, 655), (705, 745))[grade]
    # A finding that stays the same from study to study keeps its size: the share comes from the patient.
    heart = 2 * half * (low + s.below(high - low + 1)) // 1000
    right = s.between(615, 745)
    dome = {"right": right, "left": right + s.between(5, 40)}
    for finding in case.findings:
        if finding.kind == "atelectasis" and finding.severity == 3:
            dome[finding.side] -= 55
    fluid: dict[str, int] = {f.side: f.severity for f in case.findings if f.kind == "effusion"}
    return Body(
        sex=case.patient.sex,
        half=half,
        heart=heart,
        dome=dome,
        knob=s.between(26, 50),
        rib_step=s.between(62, 76),
        rib_start=s.between(0, 60),
        trachea=s.between(-14, 14),
        fat=s.between(34, 130),
        texture=s.between(10, 22),
        hila=s.between(26, 48),
        vessels=s.below(_VESSEL_MAPS),
        breast=s.between(6, 20),
        bubble=s.chance(55),
        ribs=s.between(10, 20),
        fluid={side: fluid_level(height, fluid.get(side, 0)) for side, height in dome.items()},
    )


@dataclass(frozen=True, slots=True)
class Chest:
    """Where things lie on the canvas once the chest is drawn; what the findings need to find their place.

    `lung` is the cover (0..256) of each lung field, heart and diaphragm left out; `cavity` the same with both, so that
    fluid lies against them without a seam; `wall` the outer half-width per row.
    """

    body: Body
    cx: int
    wall: Ints
    lung: dict[str, Ints]
    cavity: dict[str, Ints]

    def sign(self, side: str) -> int:
        """-1 for the patient's right (image left), +1 for the left."""
        return -1 if side == "right" else 1


def chest_wall(y: Ints, body: Body) -> Ints:
    """Outer half-width of the lungs per row; falls steeply (below zero) above the apex."""
    return profile(y, _CHEST, body.half, 332)


def profile(y: Ints, knots: Sequence[Point], scale: int = 1, unit: int = 1) -> Ints:
    """Piecewise linear function of the rows through (y, value) knots, times scale / unit; flat beyond the ends."""
    out = np.full(y.shape, knots[0][1], np.int32)
    for (y0, v0), (y1, v1) in pairwise(knots):
        out = np.where(y > y0, v0 + (np.minimum(y, y1) - y0) * (v1 - v0) // (y1 - y0), out)
    return out * scale // unit


def draw_chest(canvas: Canvas, body: Body, s: Stream) -> Chest:
    """Draw body outline, lungs, heart, abdomen and vessels; ribs come later (`draw_bones`), over the findings."""
    cx = FIELD_CENTRE
    x, y = canvas.x, canvas.y
    away = np.abs(x - cx)
    wall = chest_wall(y, body)
    canvas.grey[:] = AIR
    everything = (slice(None), slice(None))
    outline = np.maximum(profile(y, _SHOULDERS), wall + body.fat)
    trunk = ramp(outline - away, 14)
    canvas.blend(everything, SOFT + body.fat // 8, trunk)
    below = np.where(x < cx, _dome(x, cx, body, "right"), _dome(x, cx, body, "left"))
    under = ramp(y - below, 12)
    canvas.blend(everything, ABDOMEN, np.minimum(trunk, under))
    cavity = _cavities(canvas, cx, body, wall)
    both = np.minimum(cavity["right"] + cavity["left"], 256 - under)
    depth = LUNG - 8 + profile(y, ((120, 0), (420, 10), (760, 26)))
    canvas.blend(everything, depth, both)
    _lung_markings(canvas, cx, body, both, s)
    middle = _mediastinum(canvas, cx, body)
    canvas.blend(everything, HEART, middle)
    free = 256 - np.maximum(middle, under)
    lung = {side: np.minimum(cover, free) for side, cover in cavity.items()}
    _airway(canvas, cx, body)
    _spine(canvas, cx)
    return Chest(body, cx, wall, lung, cavity)


def _dome(x: Ints, cx: int, body: Body, side: str) -> Ints:
    """Height of a hemidiaphragm per column: a dome that falls to the costophrenic angle."""
    sign = -1 if side == "right" else 1
    off = (x - cx) * sign - body.half * 9 // 20
    steep = np.where(off > 0, 34, 16)
    return body.dome[side] + off * off * steep // 10000


def _cavities(canvas: Canvas, cx: int, body: Body, wall: Ints) -> dict[str, Ints]:
    """Cover of the right and left half of the chest, from the wall to the mediastinum and down without end."""
    off = canvas.x - cx
    outer = ramp(wall - np.abs(off), 10)
    inner = profile(canvas.y, ((118, 34), (300, 44 + body.knob // 6), (600, 52)))
    return {side: np.minimum(outer, ramp(off * sign - inner, 12)) for side, sign in (("right", -1), ("left", 1))}


def _lung_markings(canvas: Canvas, cx: int, body: Body, lungs: Ints, s: Stream) -> None:
    """Fine noise, vessels that fan out from the hila, and the hila themselves."""
    size = canvas.size
    mottle = smooth_noise(random_bytes(s.bits(), 15 * 15), 14, size)
    vessels = vessel_map(size, body.vessels)
    marks = mottle + 8 * vessels
    marks *= lungs
    marks >>= 8
    marks *= body.texture
    marks >>= 7
    canvas.add((slice(None), slice(None)), marks)
    for sign in (-1, 1):
        centre = (cx + sign * 88, 415 - 12 * sign)
        box = canvas.box(centre[0] - 75, centre[1] - 100, centre[0] + 75, centre[1] + 100)
        x, y = canvas.grid(box)
        canvas.add(box, disc(x, y, centre, 62, 96, 256) * body.hila >> 8)


@lru_cache(maxsize=64)
def vessel_map(size: int, number: int) -> Ints:
    """One of a few ready-made drawings of the lung vessels (brightness 0..~40), the same for every study."""
    canvas = Canvas(size)
    s = Stream(fold(77, number))
    for sign in (-1, 1):
        for branch in range(9):
            rise = -270 + branch * 68 + s.between(-20, 20)
            start = (FIELD_CENTRE + sign * s.between(64, 96), 415 + rise // 5)
            reach = s.between(170, 250) - abs(rise) // 4
            end = (start[0] + sign * reach, start[1] + rise * 4 // 5)
            middle = (start[0] + sign * s.between(20, 60), start[1] + rise // 2 + s.between(-30, 30))
            path = bend(start, middle, end, 6)
            canvas.curve(path[:3], 17, 24)
            canvas.curve(path[2:5], 12, 18)
            canvas.curve(path[4:], 8, 12)
            for fork in (path[2], path[4]):
                canvas.curve([fork, (fork[0] + sign * s.between(40, 90), fork[1] + s.between(-80, 80))], 8, 11)
    np.minimum(canvas.grey, 22, out=canvas.grey)
    grey = canvas.grey
    grey.setflags(write=False)
    return grey


def _mediastinum(canvas: Canvas, cx: int, body: Body) -> Ints:
    """Cover of mediastinum, aortic knob and heart together."""
    x, y = canvas.x, canvas.y
    width = profile(y, ((60, 52), (200, 56), (330, 60), (520, 70), (1024, 74)))
    middle = ramp(width - np.abs(x - cx), 16) * profile(y, ((60, 110), (130, 170), (230, 256))) >> 8
    knob = canvas.box(cx - 20, 190, cx + 120, 360)
    kx, ky = canvas.grid(knob)
    centre = (cx + 42 + body.knob // 4, 282)
    np.maximum(middle[knob], disc(kx, ky, centre, body.knob + 8, body.knob + 16), out=middle[knob])
    half = body.heart // 2
    tall = 80 + body.heart * 27 // 100
    # The heart leans on the diaphragm; a third of it lies to the right of the midline, its apex points down and left.
    hx, hy = cx + body.heart * _lean(body) // 100, body.dome["left"] + 24 - tall * 3 // 4
    box = canvas.box(hx - half - 20, hy - tall - 60, hx + half + 20, hy + tall + 80)
    bx, by = canvas.grid(box)
    lean = by - (bx - hx) * 22 // 100
    np.maximum(middle[box], disc(bx, lean, (hx, hy), half, tall, 48), out=middle[box])
    return middle


def _lean(body: Body) -> int:
    """How far the middle of the heart lies left of the midline, in hundredths of its width; less for a large heart."""
    return 19 if body.heart * 2 < body.half * 5 // 2 else 14


def _airway(canvas: Canvas, cx: int, body: Body) -> None:
    """The trachea, a dark band to the carina, and the main bronchi."""
    bottom = (cx, 335)
    canvas.curve([(cx + body.trachea // 2, 0), (cx + body.trachea, 170), bottom], 34, -42)
    canvas.curve([bottom, (cx - 62, 405)], 22, -26)
    canvas.curve([bottom, (cx + 78, 400)], 20, -26)


def _spine(canvas: Canvas, cx: int) -> None:
    """Vertebrae: a faint bright column with darker discs, clearer below the diaphragm."""
    box = canvas.box(cx - 46, 0, cx + 46, FIELD_CENTRE * 2)
    x, y = canvas.grid(box)
    column = ramp(40 - np.abs(x - cx), 10)
    joint = np.where((y % 62) < 11, 2, 15)
    canvas.add(box, (column * joint) >> 8)


def rib_height(body: Body, away: Ints | int) -> Ints | int:
    """How far a posterior rib has sunk at a distance from the midline."""
    return away * away // 760 - 30


def draw_bones(canvas: Canvas, chest: Chest) -> None:
    """Ribs (posterior, then the fainter anterior ones), clavicles and scapulae, over lungs and findings."""
    body, cx, y = chest.body, chest.cx, canvas.y
    away = np.abs(canvas.x - cx)
    cage = np.minimum(ramp(chest.wall + 16 - away, 10), ramp(away - 44, 16))
    rows = ramp(y - 100, 20) * ramp(840 - y, 100) >> 8
    scale = 128 * 64 // body.rib_step
    phase = ((y - rib_height(body, away) - body.rib_start) * scale >> 6) & 127
    marks = _RIB[phase]
    marks *= body.ribs
    front = ((y - (body.half - away) * 5 // 9 - body.rib_start // 2) * scale >> 6) & 127
    marks += (_RIB[front] * (ramp(away - 120, 90) * (body.ribs * 5 // 8))) >> 8
    cage *= rows
    cage >>= 8
    marks *= cage
    marks >>= 12
    canvas.add((slice(None), slice(None)), marks)
    for sign in (-1, 1):
        inner, outer = (cx + sign * 40, 176), (cx + sign * (body.half + 20), 112)
        canvas.curve(bend(inner, (cx + sign * 160, 178), outer, 5), 28, 30)
        canvas.curve([(cx + sign * (body.half - 20), 200), (cx + sign * (body.half + 16), 440)], 56, 12)


def _rib_profile() -> Ints:
    """Brightness (of 16) across one rib and the gap below it, over a phase of 128: bright edges, paler middle."""
    across = [0] * 128
    for i in range(46):
        edge = min(i, 45 - i)
        across[i] = min(16, 4 + 4 * edge) if edge < 7 else 12
    return np.array(across, np.int32)


_RIB = _rib_profile()


def draw_distractors(canvas: Canvas, chest: Chest, s: Stream) -> None:
    """What is no finding but there all the same: breasts, gastric bubble, electrodes, folds of clothing."""
    body, cx = chest.body, chest.cx
    if body.sex == "F":
        for sign in (-1, 1):
            centre = (cx + sign * body.half * 11 // 20, body.dome["right"] - 40 + s.between(-15, 15))
            box = canvas.box(centre[0] - 180, centre[1] - 170, centre[0] + 180, centre[1] + 170)
            x, y = canvas.grid(box)
            canvas.add(box, disc(x, y, centre, 165, 150, 128) * body.breast >> 8)
    if body.bubble:
        centre = (cx + body.half // 2, body.dome["left"] + 74)
        box = canvas.box(centre[0] - 80, centre[1] - 50, centre[0] + 80, centre[1] + 50)
        x, y = canvas.grid(box)
        canvas.add(box, -(disc(x, y, centre, 66, 34, 128) * 56 >> 8))
    if s.chance(18):
        for _ in range(s.between(1, 3)):
            _electrode(canvas, (cx + s.pick((-1, 1)) * s.between(120, 300), s.between(220, 700)))
    if s.chance(20):
        left, slope = s.between(150, 870), s.between(-160, 160)
        canvas.curve([(left, 560), (left + slope, 1024)], s.between(20, 60), s.between(5, 12))


def _electrode(canvas: Canvas, centre: Point) -> None:
    """A small metal ring, too small and too bright for a nodule."""
    box = canvas.box(centre[0] - 24, centre[1] - 24, centre[0] + 24, centre[1] + 24)
    x, y = canvas.grid(box)
    canvas.add(box, (disc(x, y, centre, 17, 17) - disc(x, y, centre, 8, 8)) * 90 >> 8)
