"""The findings of the phantom, each drawn where its side and zone say and as large as its severity says.

One function per kind, in a table at the end. Sizes keep every finding at 64 units (half a patch of 16 at 128 pixels)
or more, since a small vision tower does not learn less. Integer arithmetic only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cxrbench.data.phantom_anatomy import Chest, chest_wall, rib_height
from cxrbench.data.phantom_canvas import Box, Canvas, Ints, Point, bend, disc, ramp, smooth_noise
from cxrbench.data.phantom_rng import Stream, random_bytes
from cxrbench.data.phantom_world import Finding

FLUID = 166

_EVERYTHING = (slice(None), slice(None))
_ZONES = {"upper": (250, 300), "mid": (400, 460), "lower": (555, 610)}


def zone_centre(chest: Chest, finding: Finding, s: Stream, room: int) -> Point:
    """A point in the middle of a lung zone, `room` units away from the wall where the lung is wide enough."""
    low, high = _ZONES[finding.zone]
    y = s.between(low, high) - (20 if finding.zone == "lower" and finding.side == "left" else 0)
    inner = 120 + room // 2
    if finding.side == "left" and finding.zone != "upper":
        # Beside the heart as far as the lung has room there.
        inner = max(inner, chest.body.heart * (55 if finding.zone == "lower" else 35) // 100)
    outer = chest.body.half * (190 if finding.zone == "upper" else 270) // 332 - room // 3
    inner = min(inner, outer)
    away = s.between(inner, outer)
    return chest.cx + chest.sign(finding.side) * away, y


def effusion(canvas: Canvas, chest: Chest, finding: Finding, s: Stream) -> None:
    """Fluid from the diaphragm up, its level rising to the lateral wall (the meniscus)."""
    sign = chest.sign(finding.side)
    away = (canvas.x - chest.cx) * sign
    lateral = np.clip(away - chest.body.half // 3, 0, 400)
    rise = lateral * lateral * 130 // (chest.body.half * chest.body.half // 2)
    level = chest.body.fluid[finding.side] - rise + s.between(-18, 18)
    cover = np.minimum(ramp(canvas.y - level, 30), chest.cavity[finding.side])
    canvas.blend(_EVERYTHING, np.maximum(canvas.grey, FLUID), cover * 236 >> 8)


def pneumothorax(canvas: Canvas, chest: Chest, finding: Finding, s: Stream) -> None:
    """Black, empty space between the chest wall and a thin bright pleural line; the lung falls towards the hilum."""
    y = canvas.y
    drop = (66, 96, 140)[finding.severity - 1] + s.between(-6, 6)
    width = (46, 92, 160)[finding.severity - 1] + s.between(-6, 6)
    reach = (360, 570, 1400)[finding.severity - 1]
    # The fallen lung is the lung itself, lower by `drop` and narrower by a gap that closes at `reach`.
    gap = np.minimum(width, np.clip(reach - y, 0, 400) * width // 150)
    edge = np.minimum(chest_wall(y - drop, chest.body), chest.wall) - gap
    inside = edge - (canvas.x - chest.cx) * chest.sign(finding.side)
    lung = chest.lung[finding.side] * (edge < chest.wall - 4)
    canvas.blend(_EVERYTHING, 18, np.minimum(256 - ramp(inside + 8, 8), lung) * 220 >> 8)
    line = np.clip(256 - np.abs(inside) * 256 // 12, 0, 256)
    canvas.add(_EVERYTHING, np.minimum(line, lung) * 62 >> 8)


def _lay(canvas: Canvas, chest: Chest, finding: Finding, box: Box, cover: Ints, grey: int) -> None:
    """Lay a density into the lung; what lies behind the heart or the diaphragm only brightens them a little."""
    lung, cavity = chest.lung[finding.side][box], chest.cavity[finding.side][box]
    canvas.blend(box, grey, np.minimum(cover, lung) * 228 >> 8)
    canvas.add(box, np.minimum(cover, cavity - lung) * 36 >> 8)


def consolidation(canvas: Canvas, chest: Chest, finding: Finding, s: Stream) -> None:
    """A cloudy white patch with a ragged edge."""
    radius = (74, 112, 160)[finding.severity - 1]
    cx, cy = zone_centre(chest, finding, s, radius)
    a, b = radius + s.between(-8, 12), radius * 9 // 10 + s.between(-10, 8)
    box = canvas.box(cx - a * 3 // 2, cy - b * 3 // 2, cx + a * 3 // 2, cy + b * 3 // 2)
    x, y = canvas.grid(box)
    u, v = (x - cx) * 256 // a, (y - cy) * 256 // b
    ragged = smooth_noise(random_bytes(s.bits(), 29 * 29), 28, canvas.size)[box]
    body = np.clip((62000 - u * u - v * v + ragged * 230) // 240, 0, 256)
    _lay(canvas, chest, finding, box, body, 158)


def edema(canvas: Canvas, chest: Chest, finding: Finding, s: Stream) -> None:
    """Haze around both hila (bat's wings), coarse markings, and septal lines at the lung bases."""
    strength = (52, 80, 110)[finding.severity - 1]
    coarse = smooth_noise(random_bytes(s.bits(), 57 * 57), 56, canvas.size)
    for side in ("right", "left"):
        centre = (chest.cx + chest.sign(side) * 125, 440)
        wing = disc(canvas.x, canvas.y, centre, 205, 285, 256)
        haze = wing * strength >> 8
        grain = (coarse * (128 + wing) >> 8) * (5 + 3 * finding.severity) >> 6
        canvas.add(_EVERYTHING, ((haze + grain) * chest.lung[side]) >> 8)
        foot = chest.cx + chest.sign(side) * (chest.body.half - 14)
        for row in range(2 + finding.severity):
            y = chest.body.dome[side] - 30 - 34 * row
            canvas.curve([(foot, y), (foot - chest.sign(side) * 62, y + 4)], 8, 14 + 5 * finding.severity)


def atelectasis(canvas: Canvas, chest: Chest, finding: Finding, s: Stream) -> None:
    """Plates of collapsed lung above the diaphragm: one, two or three slanting bands."""
    sign = chest.sign(finding.side)
    inner = max(110, chest.body.heart // 3 if finding.side == "left" else 110)
    within = np.maximum(chest.lung[finding.side], chest.cavity[finding.side] * 5 // 8)
    for plate in range(finding.severity):
        y = chest.body.fluid[finding.side] - 52 - 54 * plate + s.between(-8, 8)
        start = (chest.cx + sign * min(inner + 14 * plate + s.between(-10, 10), 215), y + 30)
        end = (chest.cx + sign * (chest.body.half - 24 - 18 * plate), y - 34 + s.between(-8, 8))
        middle = ((start[0] + end[0]) // 2, y - 14 + s.between(-6, 10))
        canvas.curve(bend(start, middle, end, 3), 24 + s.between(0, 6), 86, soft=13, within=within)


def nodule(canvas: Canvas, chest: Chest, finding: Finding, s: Stream) -> None:
    """A round, dense spot with a clear edge."""
    radius = (39, 53, 78)[finding.severity - 1] + s.between(-1, 4)
    centre = zone_centre(chest, finding, s, radius * 2)
    box = canvas.box(centre[0] - radius - 8, centre[1] - radius - 8, centre[0] + radius + 8, centre[1] + radius + 8)
    x, y = canvas.grid(box)
    cover = disc(x, y, centre, radius, radius, 120)
    _lay(canvas, chest, finding, box, cover, 172)


def fracture(canvas: Canvas, chest: Chest, finding: Finding, s: Stream) -> None:
    """A broken lateral rib: a dark gap, and two thick bright ends out of line with each other."""
    sign = chest.sign(finding.side)
    away = chest.body.half * 74 // 100 + s.between(-14, 14)
    level = s.between(4, 7) * chest.body.rib_step + chest.body.rib_start
    x = chest.cx + sign * away
    y = level + int(rib_height(chest.body, away)) + chest.body.rib_step * 23 // 128
    slope = away * 2 * 46 // 760
    up = s.pick((-1, 1)) * 15
    inner, outer = (x - sign * 60, y - slope - up), (x - sign * 14, y - slope // 4 - up)
    canvas.curve([(x - sign * 46, y - slope * 3 // 4), (x + sign * 46, y + slope * 3 // 4)], 40, -26, soft=14)
    canvas.curve([inner, outer], 29, 104, soft=9)
    canvas.curve([(x + sign * 14, y + slope // 4 + up), (x + sign * 58, y + slope + up)], 29, 104, soft=9)


def endotracheal_tube(canvas: Canvas, chest: Chest, finding: Finding, s: Stream) -> None:
    """Two parallel lines in the trachea that end above the carina."""
    tip = s.between(262, 312)
    lean = chest.body.trachea
    middle = [(chest.cx + lean // 2, 0), (chest.cx + lean, 170), (chest.cx + lean * 3 // 10, tip)]
    for off in (-15, 15):
        canvas.curve([(x + off, y) for x, y in middle], 13, 116)
    canvas.curve(middle, 18, 30)


def central_line(canvas: Canvas, chest: Chest, finding: Finding, s: Stream) -> None:
    """A catheter from below the clavicle to the superior vena cava, right of the midline."""
    sign = chest.sign(finding.side)
    tip = (chest.cx - 48, s.between(410, 480))
    start = (chest.cx + sign * (chest.body.half - 60), s.between(215, 265))
    entry = (chest.cx + sign * 40, 205 if sign < 0 else 215)
    down = (chest.cx - 46, 330)
    path = bend(start, (chest.cx + sign * 170, s.between(120, 150)), entry, 5)
    canvas.curve([*path, *bend(entry, (chest.cx - 50, 235), down, 3)[1:], tip], 15, 92)


def pacemaker(canvas: Canvas, chest: Chest, finding: Finding, s: Stream) -> None:
    """A metal box below the clavicle and a lead to the right ventricle."""
    sign = chest.sign(finding.side)
    x, y = chest.cx + sign * (chest.body.half - 70 + s.between(-15, 15)), 245 + s.between(-15, 20)
    box = canvas.box(x - 70, y - 60, x + 70, y + 60)
    gx, gy = canvas.grid(box)
    off_x, off_y = np.abs(gx - x), np.abs(gy - y)
    away = np.maximum(np.maximum(off_x - 54, off_y - 44), (off_x + off_y - 78) * 3 // 4)
    canvas.blend(box, 246, ramp(4 - away, 8))
    vein = (chest.cx - 30, 300)
    apex = (chest.cx + chest.body.heart * 22 // 100, chest.body.dome["left"] - 50)
    lead = bend((x - sign * 40, y - 44), (chest.cx + sign * 70, 165), vein, 6)
    canvas.curve([*lead, *bend(vein, (chest.cx - 90, chest.body.dome["left"] - 60), apex, 5)[1:]], 13, 92)


def feeding_tube(canvas: Canvas, chest: Chest, finding: Finding, s: Stream) -> None:
    """One line down the oesophagus, across the diaphragm and into the stomach on the left."""
    cx, low = chest.cx + 38, chest.body.dome["left"] + 70
    tip = (cx + s.between(90, 145), low + s.between(50, 90))
    canvas.curve([(cx, 0), (cx - 6, 400), (cx + 8, low), *bend((cx + 8, low), (cx + 28, low + 80), tip, 4)[1:]], 15, 76)


Sign = Callable[[Canvas, Chest, Finding, Stream], None]

UNDER_BONES: dict[str, Sign] = {
    "edema": edema,
    "atelectasis": atelectasis,
    "consolidation": consolidation,
    "nodule": nodule,
    "effusion": effusion,
    "pneumothorax": pneumothorax,
}
"""Findings of the lung and pleura in the order in which they are drawn; cardiomegaly is part of the anatomy."""

OVER_BONES: dict[str, Sign] = {
    "fracture": fracture,
    "endotracheal-tube": endotracheal_tube,
    "central-line": central_line,
    "pacemaker": pacemaker,
    "feeding-tube": feeding_tube,
}
