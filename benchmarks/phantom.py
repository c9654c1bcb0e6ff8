"""What the phantom data set promises, measured: `python benchmarks/phantom.py` (half a minute on one core).

Side by side in one run: a linear probe on 16 x 16 thumbnails beside the constant answers that need no picture; the
constant normal report beside the references; how fast studies are written and drawn beside the time that is allowed.
`--sheet FILE.png` draws every finding at every severity and stops: for eyes.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrbench import registry
from cxrbench.data.chexpert import LABELS
from cxrbench.data.phantom import SIZES, draw, labels_of, report, studies, study_id, truth
from cxrbench.data.phantom_draw import render
from cxrbench.data.phantom_world import GRADED, KINDS, SIDED, Finding, case
from cxrbench.metrics.base import Corpus, Pairs
from cxrbench.metrics.bleu import Bleu
from cxrbench.models.baselines import NORMAL

Floats = NDArray[np.float64]
SCORED = [name for name in LABELS if name != "No Finding"]
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)


def thumbnail(picture: NDArray[np.uint8], cells: int = 16) -> Floats:
    """Means of cells x cells blocks, as numbers of 0..1."""
    step = picture.shape[0] // cells
    blocks = picture[: step * cells, : step * cells].reshape(cells, step, cells, step)
    return np.asarray(blocks.mean(axis=(1, 3)).ravel() / 255.0)


def probe_set(split: str, count: int, size: int = 128) -> tuple[Floats, NDArray[np.bool_]]:
    """Thumbnails (n, 256) and label presence (n, 13) of the first studies of a split."""
    pictures, present = [], []
    for index in range(count):
        name = study_id(0, split, index)
        pictures.append(thumbnail(draw(f"{name}-frontal-{size}")))
        labels = labels_of(truth(name), report(name))["phantom"]
        present.append([labels.get(label, 0) != 0 for label in SCORED])
    return np.array(pictures), np.array(present)


def micro_f1(said: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """2 tp / (2 tp + fp + fn), 0 where nothing is said and nothing true."""
    hits = 2 * int((said & true).sum())
    total = int(said.sum() + true.sum())
    return hits / total if total else 0.0


def fit(x: Floats, y: Floats, penalty: float) -> Floats:
    """Ridge regression with an intercept: weights (features + 1, labels)."""
    x = np.hstack([x, np.ones((len(x), 1))])
    ridge = penalty * np.eye(x.shape[1])
    ridge[-1, -1] = 0.0
    return np.asarray(np.linalg.solve(x.T @ x + ridge, x.T @ y))


def predict(x: Floats, weights: Floats) -> Floats:
    """Scores (n, labels)."""
    return np.asarray(np.hstack([x, np.ones((len(x), 1))]) @ weights)


def best_cut(scores: Floats, true: NDArray[np.bool_]) -> Floats:
    """Per label, the threshold with the best F1 of that label."""
    cuts = []
    for column in range(scores.shape[1]):
        tries = np.quantile(scores[:, column], np.linspace(0.02, 0.98, 49))
        best = max(tries, key=lambda cut, c=column: micro_f1(scores[:, c] > cut, true[:, c]))
        cuts.append(best)
    return np.array(cuts)


Sets = list[tuple[Floats, NDArray[np.bool_]]]
"""Thumbnails and label presence of train, validate and test."""


def linear_probe(train: int, validate: int, test: int) -> dict[str, float]:
    """Micro-F1 over 13 labels of linear probes and, beside them, of answers that need no picture."""
    sets = [probe_set(split, count) for split, count in (("train", train), ("validate", validate), ("test", test))]
    present, true = sets[0][1], sets[2][1]
    plain, per_label = probe(sets)
    centred = [((x - x.mean(1, keepdims=True)) / (x.std(1, keepdims=True) + 1e-6), y) for x, y in sets]
    common = np.broadcast_to(present.mean(0) > 0.2, true.shape)
    return {
        "linear probe, 16 x 16 thumbnails": plain,
        "linear probe, each thumbnail at mean 0, spread 1": probe(centred)[0],
        "every label present, always": micro_f1(np.ones_like(true), true),
        "the labels above 20 % in train, always": micro_f1(common, true),
        "nothing, always (the constant normal report)": micro_f1(np.zeros_like(true), true),
        **per_label,
    }


def probe(sets: Sets) -> tuple[float, dict[str, float]]:
    """Micro-F1 on test, and F1 by label, of a ridge regression whose penalty and thresholds were chosen on validate."""
    (x, y), (xv, yv), (xt, yt) = sets
    mean, spread = x.mean(0), x.std(0) + 1e-6
    x, xv, xt = ((part - mean) / spread for part in (x, xv, xt))
    results = []
    for penalty in PENALTIES:
        weights = fit(x, y.astype(np.float64), penalty)
        cut = best_cut(predict(xv, weights), yv)
        results.append((micro_f1(predict(xv, weights) > cut, yv), weights, cut))
    _, weights, cut = max(results, key=lambda result: result[0])
    said = predict(xt, weights) > cut
    per_label = {f"  {SCORED[i]}": micro_f1(said[:, i], yt[:, i]) for i in range(len(SCORED)) if yt[:, i].any()}
    return micro_f1(said, yt), per_label


def bleu_4(prediction: str, references: list[str]) -> float:
    """BLEU-4 of one constant text by `bleu:raw`, as `cxrbench run` scores it."""
    metric = Bleu("raw")
    pairs = Pairs([str(number) for number in range(len(references))], [prediction] * len(references), references)
    context = metric.fit(Corpus(references))
    features = {
        request: registry.load("features", request.name)().extract(pairs, dict(request.settings))
        for request in metric.needs(context)
    }
    rows = metric.statistics(pairs, features, context).rows[:, 0]
    return float(metric.value(rows.sum(axis=0))["bleu_4"])


def contact_sheet(file: Path, size: int = 256, columns: int = 6) -> None:
    """Every finding (sided ones on the left) at every severity, in two patients each, with its name above."""
    from PIL import Image, ImageDraw

    cells: list[tuple[str, Finding]] = []
    for kind in KINDS:
        for severity in (1, 2, 3) if kind in GRADED else (0,):
            zone = ("upper", "mid", "lower")[severity - 1] if kind in ("consolidation", "nodule") else ""
            side = "left" if kind in SIDED else ""
            for number in range(2):
                finding = Finding(kind, side, zone, severity, shape=number)
                cells.append((f"{finding.fine} {zone}", finding))
    sheet = Image.new("L", (columns * (size + 4), -(-len(cells) // columns) * (size + 18)), 128)
    text = ImageDraw.Draw(sheet)
    for number, (name, finding) in enumerate(cells):
        left, top = number % columns * (size + 4), number // columns * (size + 18)
        picture, _ = render(replace(case(99, "train", number), findings=(finding,)), "frontal", size)
        sheet.paste(Image.fromarray(picture), (left, top + 16))
        text.text((left + 2, top + 2), name, fill=255)
    sheet.save(file)


def show(rows: dict[str, float], unit: str = "") -> None:
    for name, value in rows.items():
        print(f"  {name:<52}{value:>9.3f}{unit}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=SIZES["train"])
    parser.add_argument("--validate", type=int, default=SIZES["validate"])
    parser.add_argument("--test", type=int, default=SIZES["test"])
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write a contact sheet of all findings and stop")
    args = parser.parse_args()
    if args.sheet:
        contact_sheet(args.sheet)
        return

    print("Micro-F1 over 13 labels on the test split (the probe must stay below 0.5)")
    show(linear_probe(args.train, args.validate, args.test))

    test = list(studies("test", args.test))
    findings = [study.sections["findings"] for study in test]
    abnormal = [study.sections["findings"] for study in test if study.columns["abnormal"] == "yes"]
    print("\nTexts of the test split")
    show(
        {
            "distinct findings among abnormal studies (>= 0.9)": len(set(abnormal)) / len(abnormal),
            "distinct findings among all": len(set(findings)) / len(findings),
            "BLEU-4 of always-normal, bleu:raw (< 0.15)": bleu_4(NORMAL["findings"], findings),
            "words per findings section": float(np.mean([len(text.split()) for text in findings])),
        }
    )

    print("\nTime on one core")
    total = sum(SIZES.values())
    start = time.process_time()
    for split, count in SIZES.items():
        for _ in studies(split, count):
            pass
    times = {f"{total} studies written": time.process_time() - start}
    for size in (128, 256):
        start = time.process_time()
        for index in range(300):
            draw(f"{study_id(0, 'test', index)}-frontal-{size}")
        times[f"1,500 pictures of {size} px (allowed: 15)"] = (time.process_time() - start) * 5
    show(times, " s")


if __name__ == "__main__":
    main()
