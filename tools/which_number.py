"""Make docs/which-number.md from the presets of the metrics and from baselines/, by `python tools/which_number.py`."""

from __future__ import annotations

from pathlib import Path

from cxrbench import registry
from cxrbench.anchors import anchor_files, read_anchors
from cxrbench.papers import paper_files, read_paper
from cxrbench.report.published import published_table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "which-number.md"

HEAD = """\
# Which number can I compare with which paper

One name, several numbers: BLEU on R2Gen's cleaned text and BLEU on raw text differ by more than most published gains,
and RadGraph F1 of one and the same text by nine points between its levels. So every convention is a named preset, part
of the signature that stands with every number, and numbers of different signatures are never compared silently. This
page is made from the presets and from `baselines/` by `python tools/which_number.py`.

Four things must agree before two numbers may stand side by side: the preset (first table), the samples (task, split,
filters, how many), what the model was shown, and how many samples were scored. A paper often tells one of them.

## Presets

| metric | what is done |
|---|---|
"""

FIGURES = """
## Papers' figures, and the number of ours that comes nearest

`same`: the source says how the figure was made, and ours is made so. `unknown`: it does not say enough; `cxrbench
reproduce PAPER --assume convention` compares all the same. `-`: nothing of ours is near.

| table | figure | nearest here | convention | why |
|---|---|---|---|---|
"""

BOARDS = """
## Tables without a number of ours beside them

Shown on boards as reported, and by `cxrbench reproduce PAPER`; never ranked with what was measured.

| table | evidence | what keeps it apart |
|---|---|---|
"""


def page() -> str:
    """The whole page."""
    return "".join([HEAD, *_presets(), FIGURES, *_figures(), BOARDS, *_tables()])


def _presets() -> list[str]:
    rows = []
    for entry in registry.BUILTIN["metrics"]:
        metric = entry.load()
        for preset, about in metric.presets.items():
            star = " (default)" if preset == metric.default_preset else ""
            rows.append(f"| `{entry.name}:{preset}`{star} | {_cell(about)} |\n")
    return rows


def _figures() -> list[str]:
    rows: dict[str, None] = {}
    for model in anchor_files():
        for anchor in read_anchors(model).anchors:
            for figure in anchor.figures:
                here = f"`{figure.here}`" if figure.here else "-"
                cells = (f"`{anchor.table}`", figure.column, here, figure.convention, _cell(figure.why))
                rows[f"| {' | '.join(cells)} |\n"] = None
    return sorted(rows)


def _tables() -> list[str]:
    held = {anchor.table for model in anchor_files() for anchor in read_anchors(model).anchors}
    named = sorted({table for paper in paper_files() for table in read_paper(paper).tables} - held)
    tables = [published_table(name) for name in named]
    return [f"| `{table.name}` | {table.evidence} | {_cell(table.differs)} |\n" for table in tables]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")  # what looks like a tag would vanish


if __name__ == "__main__":
    PAGE.write_text(page())
