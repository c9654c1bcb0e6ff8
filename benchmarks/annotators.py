"""What the embedded annotators reach on phantom's test split, required beside found (a minute on one core).

`--studies N` measures on fewer. Ends with an error when a row is missed. Beside the labeler stands what knowing nothing
gives: the most frequent class of every condition, always.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from cxrbench.features import chexbert_net, radgraph_net
from cxrbench.features.embedded import ANNOTATORS, folder
from tools.annotator_training.figures import (
    STUDIES,
    annotator_figures,
    encoder_figures,
    held_out,
    labeler_figures,
    recombined,
    truth_agreement,
)
from tools.annotator_training.labeler import classes

LIMIT_MB = 1.5

REQUIRED: dict[str, dict[str, tuple[str, float]]] = {
    "labeler": {
        "accuracy": (">", 0.98),
        "negative": (">", 0.95),
        "uncertain": (">", 0.95),
        "positive": (">", 0.95),
    },
    "annotator": {"same words": (">=", 1.0), "entity F1": (">", 0.97), "relation F1": (">", 0.93)},
    "encoder": {"own report above another's": (">", 0.98)},
}
"""On texts as written and, but for the encoder, on recombined ones."""

TESTS: dict[str, Callable[[float, float], bool]] = {
    ">": lambda found, limit: found > limit,
    ">=": lambda found, limit: found >= limit,
    "<=": lambda found, limit: found <= limit,
}


class Table:
    """Rows as they are measured; remembers whether one was missed."""

    def __init__(self) -> None:
        self.missed = 0

    def row(self, what: str, found: float, required: tuple[str, float] | None = None, unit: str = "") -> None:
        sign, limit = required or ("", 0.0)
        bad = required is not None and not TESTS[sign](found, limit)
        self.missed += bad
        asked = f"{sign} {limit:g}" if required else ""
        print(f"  {what:<58}{asked:>9}{found:>10.4f}{unit}{'  MISSED' if bad else ''}", flush=True)


def nothing_known(texts: list[str]) -> float:
    """Share of right cells of the most frequent class of each condition."""
    true = np.array([classes(text) for text in texts])
    return float(np.mean([np.bincount(column).max() / len(column) for column in true.T]))


def speed(annotate: Callable[[list[str]], object], texts: list[str]) -> float:
    """Reports per second, all of them at once."""
    start = time.perf_counter()
    annotate(texts)
    return len(texts) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=STUDIES)
    studies = parser.parse_args().studies
    torch.set_num_threads(1)
    table = Table()
    passages = held_out(studies)
    kinds = {"as written": passages, "recombined": recombined(passages)}

    print(f"{2 * studies:,} texts of {studies:,} test studies{'':28}required     found")
    table.row("truth: studies whose shipped labels the exact reader reads", truth_agreement(studies), (">=", 1.0))
    table.row("truth: always the most frequent class", nothing_known([each.text for each in passages]))
    measures = {"labeler": labeler_figures, "annotator": annotator_figures, "encoder": encoder_figures}
    for name, measure in measures.items():
        path = folder(name, "phantom")
        for kind, texts in kinds.items() if name != "encoder" else [("as written", passages)]:
            for what, found in measure(path, texts).items():
                table.row(f"{name}, {kind}: {what}", found, REQUIRED[name].get(what))
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
        table.row(f"{name}: megabytes of {ANNOTATORS[name].about}", size, ("<=", LIMIT_MB))

    print("\nReports per second on one thread")
    given = [each.text for each in passages]
    path = folder("labeler", "phantom")
    table.row("labeler", speed(chexbert_net.load(path / "chexbert.pth", path).label, given))
    table.row("annotator", speed(radgraph_net.load(folder("annotator", "phantom")).annotate, given))
    if table.missed:
        raise SystemExit(f"\n{table.missed} rows missed")


if __name__ == "__main__":
    main()
