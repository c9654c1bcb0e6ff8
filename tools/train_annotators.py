"""Make the embedded annotators again: the labeler, the annotator and the encoder of phantom reports.

    python -m tools.train_annotators                    all three into cxrbench/embedded/, half an hour on one thread
    python -m tools.train_annotators --only labeler     one of them
    python -m tools.train_annotators --micro --out DIR  a few steps into another folder: does everything still run?

The labeler starts from the embedded annotator, so a new annotator wants a new labeler. Seeds are fixed: on one kind of
machine and one version of torch the same weights come out again. Each folder gets its weights, its tokenizer, a card
(README.md) and training.json with what was measured.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from cxrbench.shipped import embedded
from tools.annotator_training import annotator, card, encoder, labeler
from tools.annotator_training.figures import (
    STUDIES,
    annotator_figures,
    encoder_figures,
    held_out,
    labeler_figures,
    recombined,
)

MAKERS = {"annotator": annotator, "labeler": labeler, "encoder": encoder}
"""In this order: the labeler starts from the embedded annotator."""
MEASURES = {"labeler": labeler_figures, "annotator": annotator_figures, "encoder": encoder_figures}


def run(name: str, folder: Path, *, micro: bool) -> None:
    """Train, measure and describe one of them."""
    plan = MAKERS[name].PLAN
    if micro:
        plan = replace(plan, steps=3, batch=4, warm_up=1)
    studies = 4 if micro else STUDIES
    print(f"{name}: {plan.steps} steps", flush=True)
    seconds = MAKERS[name].make(folder, plan)
    passages = held_out(studies)
    figures = {"as written": MEASURES[name](folder, passages)}
    if name != "encoder":
        figures["recombined"] = MEASURES[name](folder, recombined(passages))
    card.write(folder, name, plan, seconds, figures, studies)
    for texts, each in figures.items():
        print(f"  {texts}: " + ", ".join(f"{what} {value:.4f}" for what, value in each.items()))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=MAKERS, help="one of them instead of all")
    parser.add_argument("--out", type=Path, metavar="DIR", help="instead of cxrbench/embedded/")
    parser.add_argument("--micro", action="store_true", help="a few steps, to see that everything runs")
    given = parser.parse_args()
    if given.micro and given.out is None:
        parser.error("--micro needs --out: it would overwrite the shipped weights")
    for name in (given.only,) if given.only else MAKERS:
        run(name, given.out / name if given.out else embedded(name), micro=given.micro)


if __name__ == "__main__":
    main()
