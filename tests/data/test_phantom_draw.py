"""Phantom pictures: findings lie where they should, are large enough to learn, and no thumbnail gives them away."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cxrbench.data.phantom_draw as drawing
from cxrbench.data.chexpert import LABELS
from cxrbench.data.phantom import draw, labels_of, report, study_id, truth
from cxrbench.data.phantom_canvas import Canvas, bend, disc, ramp, resample, smooth_noise, warp
from cxrbench.data.phantom_draw import render
from cxrbench.data.phantom_rng import random_bytes
from cxrbench.data.phantom_world import GRADED, KINDS, SIDED, Finding, case

FOLDER = Path(drawing.__file__).parent
HALF_PATCH = 8 * 8
"""Half a patch of 16 pixels each way, at 128 pixels: what a small vision tower has been seen to learn."""


def normal(index):
    """A study with nothing in it but its patient and exposure."""
    return replace(case(8, "train", index), findings=())


def examples():
    for kind in KINDS:
        for side in ("left", "right") if kind in SIDED else ("",):
            for severity in (1, 2, 3) if kind in GRADED else (0,):
                zones = ("upper", "mid", "lower") if kind in ("consolidation", "nodule") else ("",)
                for zone in zones:
                    yield Finding(kind, side, zone, severity, shape=severity + 11)


@pytest.mark.parametrize("finding", list(examples()), ids=lambda f: f.fine + ("/" + f.zone if f.zone else ""))
def test_a_finding_changes_enough_pixels_on_its_side(finding):
    for index in range(4):
        empty = normal(index)
        before, _ = render(empty, "frontal", 128)
        after, masks = render(replace(empty, findings=(finding,)), "frontal", 128, masks=True)
        change = np.abs(after.astype(int) - before) > 8
        assert change.sum() >= HALF_PATCH
        mask = masks[finding.place]
        if finding.kind == "cardiomegaly":
            continue  # the heart changes the picture at its border, the mask is all of the heart
        assert mask.sum() >= HALF_PATCH
        if finding.kind != "atelectasis" or finding.severity < 3:  # a raised diaphragm changes more than the plates
            assert change[mask].sum() > 0.7 * change.sum()
        if finding.side and finding.kind not in ("central-line", "pacemaker"):
            off = np.nonzero(mask)[1].mean() - midline(empty)
            assert (off > 0) == (finding.side == "left"), "the patient's left is on the right of the picture"


def midline(empty):
    """Column of the midline, as the middle of both lungs: edema is drawn in both."""
    _, masks = render(replace(empty, findings=(Finding("edema", severity=3, shape=1),)), "frontal", 128, masks=True)
    columns = np.nonzero(masks["edema"])[1]
    return (columns.min() + columns.max()) / 2


def test_severity_grows():
    for kind in ("effusion", "pneumothorax", "consolidation", "nodule", "edema"):
        side = "left" if kind in SIDED else ""
        zone = "mid" if kind in ("consolidation", "nodule") else ""
        for index in range(3):
            sizes = []
            for severity in (1, 2, 3):
                finding = Finding(kind, side, zone, severity, shape=3)
                shown = replace(normal(index), findings=(finding,))
                before, after = (render(c, "frontal", 128)[0].astype(int) for c in (normal(index), shown))
                sizes.append(np.abs(after - before).sum())
            assert sizes[0] * 1.25 < sizes[1] < sizes[2] / 1.15, kind


def test_a_large_heart_is_wider_than_any_normal_one():
    from cxrbench.data.phantom_anatomy import body_of

    def ratio(severity, index):
        found = (Finding("cardiomegaly", "", "", severity),) if severity else ()
        body = body_of(replace(normal(index), findings=found))
        return body.heart / (2 * body.half)

    shares = [[ratio(severity, index) for index in range(200)] for severity in range(4)]
    assert max(shares[0]) < 0.47
    assert [min(s) > 0.54 for s in shares[1:]] == [True] * 3
    assert max(shares[1]) < min(shares[2]) < max(shares[2]) < min(shares[3])


def test_lungs_are_dark_and_the_middle_bright():
    for index in range(6):
        picture, _ = render(normal(index), "frontal", 128)
        _, masks = render(
            replace(
                normal(index), findings=(Finding("edema", severity=3, shape=1), Finding("cardiomegaly", "", "", 1))
            ),
            "frontal",
            128,
            masks=True,
        )
        heart = masks["cardiomegaly"] & ~masks["edema"]
        assert picture[heart].mean() > picture[masks["edema"]].mean() + 30


def test_all_findings_of_a_study_leave_a_mask():
    for index in range(60):
        true = case(1, "validate", index)
        picture, masks = render(true, "frontal", 128, masks=True)
        assert set(masks) == {f.place for f in true.findings}
        assert all(mask.sum() >= 20 for mask in masks.values()), true.findings
        assert np.array_equal(picture, render(true, "frontal", 128)[0]), "asking for masks changes no pixel"


@pytest.mark.parametrize("view", ["frontal", "lateral"])
@pytest.mark.parametrize("size", [64, 128, 250, 512])
def test_shape_and_range(view, size):
    picture, _ = render(case(0, "test", 3), view, size)
    assert picture.shape == (size, size)
    assert picture.dtype == np.uint8
    assert picture.std() > 20


def test_the_lateral_view_shows_what_it_can():
    for kind in ("effusion", "cardiomegaly", "edema", "consolidation", "nodule", "atelectasis", "pacemaker"):
        zone = "upper" if kind in ("consolidation", "nodule") else ""
        finding = Finding(kind, "left" if kind in SIDED else "", zone, 2 if kind in GRADED else 0, shape=4)
        before, after = (
            render(c, "lateral", 128)[0].astype(int) for c in (normal(2), replace(normal(2), findings=(finding,)))
        )
        assert (np.abs(after - before) > 8).sum() >= HALF_PATCH, kind


# No finding can be read off a thumbnail ---


def test_a_linear_probe_on_thumbnails_stays_below_one_half():
    """A reduced form of benchmarks/phantom.py: ridge regression; penalty and threshold are chosen in its favour."""
    x, y = _thumbnails("train", 500)
    xt, yt = _thumbnails("test", 150)
    mean, spread = x.mean(0), x.std(0)
    x, xt = (np.hstack([(part - mean) / spread, np.ones((len(part), 1))]) for part in (x, xt))
    best = 0.0
    for penalty in (30.0, 100.0, 300.0):
        weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
        for cut in (0.2, 0.25, 0.3, 0.35, 0.4):
            said = xt @ weights > cut
            best = max(best, 2 * (said & yt).sum() / (said.sum() + yt.sum()))
    assert 0.25 < best < 0.5, "below 0.25 the probe itself is broken"


def _thumbnails(split, count):
    pictures, present = [], []
    for index in range(count):
        name = study_id(0, split, index)
        blocks = draw(f"{name}-frontal-64").reshape(16, 4, 16, 4).mean(axis=(1, 3))
        pictures.append(((blocks - blocks.mean()) / blocks.std()).ravel())
        labels = labels_of(truth(name), report(name))["phantom"]
        present.append([labels.get(label, 0) != 0 for label in LABELS if label != "No Finding"])
    return np.array(pictures), np.array(present)


# Integers only ---

DRAWING = ("rng", "world", "canvas", "anatomy", "signs", "lateral", "draw")


@pytest.mark.parametrize("name", DRAWING)
def test_the_drawing_code_holds_no_float(name):
    """No true division, no float literal, no float function: what makes pictures equal on every machine."""
    tree = ast.parse((FOLDER / f"phantom_{name}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        assert not (isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.Div)), node.lineno
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), node.lineno
        if isinstance(node, ast.ImportFrom) and node.module == "math":
            assert [alias.name for alias in node.names] == ["isqrt"]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
            assert node.attr not in ("random", "sqrt", "sin", "cos", "exp", "float32", "float64", "mean", "interp")


def test_every_canvas_operation_stays_in_integers():
    canvas = Canvas(64)
    x, y = canvas.x, canvas.y
    raw = random_bytes(1, 36)
    made = [
        ramp(x - 500, 10),
        disc(x, y, (500, 500), 100, 50),
        smooth_noise(raw, 5, 64),
        resample(canvas.grey, *warp(64, 3000, 1100, (10, -5))[:3]),
    ]
    canvas.curve(bend((0, 0), (500, 0), (1000, 900)), 60, 50)
    assert all(each.dtype == np.int32 for each in (*made, canvas.grey))
    assert canvas.grey.max() == 50


def test_an_unturned_picture_is_itself_apart_from_its_rim():
    grey = np.arange(64 * 64, dtype=np.int32).reshape(64, 64)
    index, right, down, inside = warp(64, 0, 1024, (0, 0))
    same = resample(grey, index, right, down)
    assert np.array_equal(same[inside > 0], grey[inside > 0])
    assert inside[:63, :63].all()


def test_a_shifted_picture_moves_by_whole_pixels():
    grey = np.arange(64 * 64, dtype=np.int32).reshape(64, 64)
    index, right, down, _ = warp(64, 0, 1024, (32, -16))  # 2 pixels to the right, 1 up
    moved = resample(grey, index, right, down)
    assert np.array_equal(moved[:62, 2:63], grey[1:63, :61])
