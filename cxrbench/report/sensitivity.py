"""The sensitivity profile of metrics as a picture (SVG), from what `judge_study.planted_study` found.

One column per planted change, one row per metric. Metrics have units of their own, so a loss is drawn in units of what
another patient's report in its place costs by the same metric. Pure text: the same numbers make the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cxrbench.errors import CxrbenchError, Exit

LEFT, RIGHT, TOP, ROW, PANEL, GAP = 200, 92, 92, 30, 92, 10
FIRST = ("paraphrase", "negation flip")
"""The columns that say most, drawn before the others."""
UNIT = "other report"
LOW = -0.1
BLUE, ORANGE, GREY, INK = "#1f5fa8", "#c2560a", "#c8ccd2", "#1d2733"
ASKED: Mapping[str, str] = {"paraphrase": "should be 0", "negation flip": "must be above 0"}

Found = Mapping[str, Any]


def draw(found: Found) -> str:
    """The picture.

    Args:
        found: with `profile[metric][kind]` (n, loss, ci, moved) and `kinds`.

    Raises:
        CxrbenchError: there is no profile in it, or not one metric has a loss.
    """
    profile: Mapping[str, Found] = found.get("profile") or {}
    if not any(row[UNIT]["loss"] for row in profile.values()):
        raise CxrbenchError("there is no sensitivity profile to draw", code=Exit.UNDECIDED)
    kinds = [*FIRST, *(kind for kind in found["kinds"] if kind not in (*FIRST, UNIT))]
    shares = [share for row in profile.values() for kind in kinds if (share := _share(row, kind)) is not None]
    high = max(1.0, *shares)
    width, height = LEFT + len(kinds) * (PANEL + GAP) + RIGHT, TOP + len(profile) * ROW + 66
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">',
        "<title>Sensitivity profile: loss of each metric by planted change</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *_heads(kinds, width),
        *_grid(len(kinds), TOP + len(profile) * ROW, high),
    ]
    for number, (metric, row) in enumerate(profile.items()):
        parts += _row(metric, row, kinds, TOP + number * ROW, high)
    parts += _notes(TOP + len(profile) * ROW + 38, found["ci_level"])
    return "\n".join([*parts, "</svg>"]) + "\n"


def _share(row: Found, kind: str) -> float | None:
    """A loss in units of another patient's report; None where either is not known or that report costs nothing."""
    whole, own = row[UNIT]["loss"], row[kind]["loss"]
    return own / whole if whole and own is not None else None


def _text(x: float, y: float, words: str, anchor: str = "middle", size: int = 13, colour: str = INK) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(words)}</text>'


def _place(kind: int) -> float:
    return LEFT + kind * (PANEL + GAP)


def _heads(kinds: Sequence[str], width: int) -> list[str]:
    parts = [_text(8, 24, "What each planted change costs, by metric", "start", 16)]
    for number, kind in enumerate(kinds):
        first, _, second = kind.partition(" ")
        middle = _place(number) + PANEL / 2
        parts += [_text(middle, 50, first), _text(middle, 65, second)]
        if kind in ASKED:
            parts.append(_text(middle, 82, ASKED[kind], size=11, colour=ORANGE if kind == FIRST[0] else BLUE))
    middle = width - RIGHT / 2
    return [*parts, _text(middle, 50, UNIT), _text(middle, 65, "costs"), _text(middle, 82, "(= 1)", size=11)]


def _row(metric: str, row: Found, kinds: Sequence[str], top: float, high: float) -> list[str]:
    name, _, value = metric.partition(" ")
    middle = top + ROW / 2
    parts = [
        f'<line x1="8" x2="{_place(len(kinds)) + RIGHT - 12:g}" y1="{top:g}" y2="{top:g}" stroke="#eceef1"/>',
        _text(LEFT - 12, middle - 1, name, "end"),
        _text(LEFT - 12, middle + 12, value, "end", 11, "#5b6675"),
    ]
    for number, kind in enumerate(kinds):
        parts += _mark(metric, row, kind, _place(number), middle, high)
    whole = row[UNIT]["loss"]
    return [*parts, _text(_place(len(kinds)) + RIGHT / 2 - 4, middle + 4, "-" if whole is None else f"{whole:.3g}")]


def _mark(metric: str, row: Found, kind: str, left: float, middle: float, high: float) -> list[str]:
    """A dot with its interval; hollow where fewer than half of the reports moved."""

    def at(share: float) -> str:
        return f"{left + PANEL * (min(max(share, LOW), high) - LOW) / (high - LOW):.2f}"

    found, share, whole = row[kind], _share(row, kind), row[UNIT]["loss"]
    if share is None:
        return [_text(left + PANEL / 2, middle + 4, "-")]
    colour = ORANGE if kind == FIRST[0] else BLUE
    ci = found["ci"]
    told = f"{metric}, {kind}: {found['loss']:+.3f} ({found['moved']:.0%} of {found['n']} reports moved)"
    bar = ""
    if ci is not None:
        ends = [at(each / whole) for each in ci]
        bar = (
            f'<line x1="{ends[0]}" x2="{ends[1]}" y1="{middle:g}" y2="{middle:g}" stroke="{colour}" stroke-width="2"/>'
        )
    fill = colour if found["moved"] >= 0.5 else "#ffffff"
    dot = f'<circle cx="{at(share)}" cy="{middle:g}" r="4.5" fill="{fill}" stroke="{colour}" stroke-width="1.5"/>'
    return [f"<g><title>{escape(told)}</title>{bar}{dot}</g>"]


def _grid(panels: int, bottom: float, high: float) -> list[str]:
    """Lines at no loss, half and all of what another patient's report costs; under the dots."""
    parts = []
    for number in range(panels):
        for share, label in ((0.0, "0"), (0.5, "½"), (1.0, "1")):
            x = _place(number) + PANEL * (share - LOW) / (high - LOW)
            dash = "" if share == 0 else ' stroke-dasharray="2 3"'
            parts.append(f'<line x1="{x:.2f}" x2="{x:.2f}" y1="{TOP}" y2="{bottom:g}" stroke="{GREY}"{dash}/>')
            parts.append(_text(x, bottom + 15, label, size=11, colour="#5b6675"))
    return parts


def _notes(top: float, level: float) -> list[str]:
    lines = (
        f"Dots: mean loss, in units of what another patient's report costs; bars: {level:.0%} intervals, patients"
        " resampled.",
        "Hollow: fewer than half of the reports moved. Phantom reports, embedded annotators: what a metric can see.",
    )
    return [_text(8, top + 16 * number, line, "start", 12) for number, line in enumerate(lines)]
