"""The side view of the phantom chest: enough for a second view that agrees with the first. Integer arithmetic only.

The patient faces image left: sternum on the left, spine on the right. Sides cannot be told, as on a real side view.
"""

from __future__ import annotations

import numpy as np

from cxrbench.data.phantom_anatomy import ABDOMEN, AIR, HEART, LUNG, SOFT, Body, body_of, profile
from cxrbench.data.phantom_canvas import Canvas, Ints, bend, disc, ramp, smooth_noise
from cxrbench.data.phantom_rng import Stream, random_bytes
from cxrbench.data.phantom_world import Case, Finding

_FRONT = ((90, 430), (200, 300), (420, 215), (640, 195), (1024, 205))
_BACK = ((90, 640), (220, 740), (420, 800), (640, 815), (1024, 790))
_EVERYTHING = (slice(None), slice(None))


def draw(canvas: Canvas, case: Case, s: Stream) -> None:
    """Draw chest and findings from the side."""
    body = body_of(case)
    x, y = canvas.x, canvas.y
    front, back = profile(y, _FRONT), profile(y, _BACK)
    canvas.grey[:] = AIR
    trunk = np.minimum(ramp(x - front + 46 + body.fat // 3, 14), ramp(back + 90 + body.fat // 3 - x, 14))
    canvas.blend(_EVERYTHING, SOFT + body.fat // 8, trunk)
    floor = _floor(x, body)
    under = ramp(y - floor, 12)
    lung = np.minimum(np.minimum(ramp(x - front, 12), ramp(back - x, 12)), np.minimum(ramp(y - 120, 60), 256 - under))
    canvas.blend(_EVERYTHING, LUNG, lung)
    canvas.blend(_EVERYTHING, ABDOMEN, np.minimum(trunk, under))
    mottle = smooth_noise(random_bytes(s.bits(), 15 * 15), 14, canvas.size)
    canvas.add(_EVERYTHING, (mottle * lung >> 8) * body.texture >> 7)
    heart = body.heart * 46 // 100 + 30
    hy = body.dome["left"] - heart * 3 // 4
    cover = disc(x, y - (x - 390) * 30 // 100, (270 + heart * 7 // 10, hy), heart * 9 // 10, heart, 64)
    canvas.blend(_EVERYTHING, HEART - 12, np.minimum(cover, 256 - under) * 230 >> 8)
    lung = np.minimum(lung, 256 - cover)
    _findings(canvas, case, body, lung)
    _bones(canvas, body, back, s)
    _devices(canvas, case, body, heart, hy)


def _floor(x: Ints, body: Body) -> Ints:
    """The diaphragm from the side: a dome in front, a deep recess behind."""
    off = x - 430
    return body.dome["right"] + off * off * np.where(off > 0, 12, 4) // 10000


def _bones(canvas: Canvas, body: Body, back: Ints, s: Stream) -> None:
    """Spine behind the lungs, sternum in front, ribs running down and forward, airway."""
    x, y = canvas.x, canvas.y
    spine = ramp(44 - np.abs(x - back - 6), 12)
    canvas.add(_EVERYTHING, (spine * np.where((y % 70) < 12, 8, 34)) >> 8)
    phase = ((y + (x - 300) * 2 // 5 + body.rib_start) * (128 * 64 // body.rib_step) >> 6) & 127
    band = np.where(phase < 34, body.ribs // 2, 0)
    inside = np.minimum(ramp(back - x, 20), ramp(x - 200, 60))
    rows = ramp(y - 150, 40) * ramp(800 - y, 120) >> 8
    canvas.add(_EVERYTHING, band * (inside * rows >> 8) >> 8)
    canvas.curve([(320, 190), (238, 400), (212, 560)], 26, 26)
    canvas.curve([(560, 0), (540, 200), (520, 390)], 30, -20)


def _findings(canvas: Canvas, case: Case, body: Body, lung: Ints) -> None:
    for finding in case.findings:
        canvas.pen = finding.place
        s = Stream(finding.shape, 6)
        if finding.kind == "effusion":
            height = (110, 210, 340)[finding.severity - 1]
            rise = np.clip(canvas.x - 520, 0, 300) // 4
            level = body.dome[finding.side] + 90 - height - rise
            canvas.blend(_EVERYTHING, 160, np.minimum(ramp(canvas.y - level, 26), lung) * 200 >> 8)
        elif finding.kind == "edema":
            haze = disc(canvas.x, canvas.y, (500, 450), 230, 260, 256) * (24, 44, 68)[finding.severity - 1] >> 8
            canvas.add(_EVERYTHING, haze * lung >> 8)
        elif finding.kind == "atelectasis":
            for plate in range(finding.severity):
                y = body.dome[finding.side] - 40 - 50 * plate
                canvas.curve([(500, y + 20), (600, y - 6), (700, y - 10)], 24, 64, soft=13, within=lung)
        elif finding.kind in ("consolidation", "nodule"):
            _spot(canvas, finding, lung, s)
    canvas.pen = ""


def _spot(canvas: Canvas, finding: Finding, lung: Ints, s: Stream) -> None:
    """A patch or a nodule at the height of its zone."""
    cloudy = finding.kind == "consolidation"
    radius = ((74, 108, 150) if cloudy else (39, 53, 78))[finding.severity - 1]
    y = {"upper": 290, "mid": 430, "lower": 580}[finding.zone]
    centre = (s.between(480, 640), y + s.between(-20, 20))
    box = canvas.box(centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
    gx, gy = canvas.grid(box)
    cover = disc(gx, gy, centre, radius, radius, 200 if cloudy else 72)
    canvas.blend(box, 160, np.minimum(cover, lung[box]) * 205 >> 8)


def _devices(canvas: Canvas, case: Case, body: Body, heart: int, hy: int) -> None:
    for finding in case.findings:
        canvas.pen = finding.place
        if finding.kind == "endotracheal-tube":
            canvas.curve([(558, 0), (540, 180), (530, 270)], 20, 80)
        elif finding.kind == "feeding-tube":
            canvas.curve([(590, 0), (580, 300), (600, 640), (520, body.dome["left"] + 110)], 14, 74)
        elif finding.kind == "central-line":
            canvas.curve([(470, 170), (480, 260), (470, 440)], 14, 80)
        elif finding.kind == "pacemaker":
            box = canvas.box(250, 190, 370, 310)
            gx, gy = canvas.grid(box)
            away = np.maximum(np.abs(gx - 310) - 20, np.abs(gy - 245) - 46)
            canvas.blend(box, 246, ramp(4 - away, 8))
            canvas.curve([(320, 200), *bend((430, 180), (500, 400), (300 + heart // 4, hy + heart // 2), 5)], 12, 88)
    canvas.pen = ""
