"""What is promised of the shipped demo models, measured on studies they never met: required beside found.

    python -m benchmarks.demo                 about three minutes on two cores
    python -m benchmarks.demo --studies 200   quicker, and less certain

Reports are made by the path every user takes, from the drawing to the text, and read by the exact reader of phantom
prose. Findings count with their side; one on both sides counts twice.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

from demo_training.measure import figures, test_studies

from benchmarks._promises import ABOVE_ZERO, NO_LIMIT, Row, at_least, at_most
from cxrbench.compare import compare
from cxrbench.shipped import embedded
from cxrbench.store import find_run
from cxrbench.summary import Confidence

MODELS = ("demo", "demo-regressed", "demo-verbose")
BASELINES = ("always-normal", "random-report", "nearest-image")
LARGE = ("effusion", "cardiomegaly", "pneumothorax", "edema", "endotracheal-tube")
BETTER = (("bleu:raw", "bleu_4"), ("rouge-l:raw", "rouge_l"), ("cider:raw", "cider"), ("label-f1:phantom", "micro_f1"))
MEGABYTE = 1_000_000


def of_demo(found: dict[str, Any]) -> Iterator[Row]:
    """What `demo` sees and says."""
    yield at_least("demo: findings with their side, micro F1", 0.85, found["f1"])
    for kind, value in found["kinds"].items():
        yield at_least(f"demo: {kind}, F1", 0.9 if kind in LARGE else 0.5, value)
    yield at_least("demo: right word of severity", 0.75, found["severity"])
    yield at_most("demo: micro F1 with another patient's picture", 0.25, found["shuffled"])
    yield at_most("demo: micro F1 with a blank picture", 0.40, found["blank"])
    yield at_least("demo: a mirrored picture changes the side", 0.80, found["flips"])


def of_the_others(found: dict[str, dict[str, Any]]) -> Iterator[Row]:
    """What makes the other two worth having."""
    demo, regressed, verbose = (found[name] for name in MODELS)
    yield Row("demo-regressed: micro F1", 0.50, 0.75, regressed["f1"])
    yield at_least("demo-verbose: words per report, as a multiple of demo's", 1.3, verbose["words"] / demo["words"])
    yield at_most("demo-verbose: micro F1 above demo's", 0.02, max(verbose["f1"] - demo["f1"], 0.0))


def of_the_folders() -> Iterator[Row]:
    """Megabytes that travel in the wheel."""
    sizes = {name: sum(file.stat().st_size for file in embedded(name).iterdir()) / MEGABYTE for name in MODELS}
    for name, size in sizes.items():
        yield at_most(f"{name}: megabytes", 5.0, size)
    yield at_most("all three: megabytes", 15.0, sum(sizes.values()))


def run(model: str, out: Path) -> float:
    """`cxrbench run` on demo-findings in a process of its own; seconds."""
    begin = time.monotonic()
    words = [sys.executable, "-m", "cxrbench", "run", "--model", model, "--task", "demo-findings", "--out", str(out)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin


def of_the_runs(folder: Path) -> Iterator[Row]:
    """Speed of the command, and `demo` against models that need no training: the low end of each paired interval."""
    yield at_most("demo: seconds of `cxrbench run` on demo-findings, 300 studies", 60, run("demo", folder / "demo"))
    demo = find_run(str(folder / "demo"))
    for name in BASELINES:
        run(name, folder / name)
        pair = compare([find_run(str(folder / name)), demo], (), Confidence(replicates=2000))["comparisons"][0]
        for metric, value in BETTER:
            result = pair["metrics"][metric]["values"][value]
            what = f"demo over {name}: {metric} {value} {result['difference']:+.3f}, low end"
            yield Row(what, ABOVE_ZERO, NO_LIMIT, result["ci"][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=900, help="of the test split")
    args = parser.parse_args()
    chosen = test_studies(args.studies)
    found = {name: figures(name, chosen) for name in MODELS}
    rows = [*of_demo(found["demo"]), *of_the_others(found), *of_the_folders()]
    with tempfile.TemporaryDirectory() as folder:
        rows += of_the_runs(Path(folder))
    print(f"{args.studies} studies of phantom's test split{'required':>42}{'found':>10}")
    for row in rows:
        print(row)
    for name in MODELS:
        print(f"  {name}: precision {found[name]['precision']:.3f}, recall {found[name]['recall']:.3f}, "
              f"{found[name]['words']:.1f} words per report")  # fmt: skip
    missed = [row.what for row in rows if not row.kept]
    if missed:
        raise SystemExit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
