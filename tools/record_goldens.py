"""Record what the reference packages say with the embedded weights: tests/features/golden_{chexbert,radgraph}.json.

    python3 -m venv oracle
    oracle/bin/pip install 'torch==2.13.0' 'transformers<5' 'scikit-learn<1.8' radgraph==0.1.18 f1chexbert==0.0.2
    oracle/bin/python -m tools.record_goldens

It runs in an environment of its own, since the packages need transformers below 5; cxrbench is only read from the
checkout, for its phantom texts. With these files the ordinary tests prove equality with both packages without them.
To be run again whenever the embedded labeler or annotator was trained again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cxrbench.data.phantom import report, study_id

ROOT = Path(__file__).resolve().parents[1]
EMBEDDED = ROOT / "cxrbench/embedded"
OUT = ROOT / "tests/features"
STUDIES = 16

ODD = (
    "",
    "effusion",
    ".",
    "...,,;;!?()",
    "\x00",
    "\u200b",
    "[SEP] small effusion [CLS] [MASK]",
    "/. a /? b",
    "Größe naïve œdème ½ ° 5 × 3 cm — “quoted” 心臓 🙂 é",
    "a" * 150 + " effusion",
    'a-b-c/d (e).f\'g %, 5%. "x" \\n new\\f \\u2122 line\nnext\ttab\r\nx',
    "UPPER CASE EFFUSION.  No   Pneumothorax\n\n.",
)
"""What no radiologist writes and some model will."""


def texts() -> list[str]:
    """Findings and impressions of test studies, odd texts, and some longer than the encoder takes at once."""
    made = [report(study_id(0, "test", index)) for index in range(STUDIES)]
    written = [section.text for each in made for section in (each.findings, each.impression)]
    words = " ".join(written).split()
    rng = random.Random(1)
    long = [" ".join(rng.choices(words, k=count)) for count in (400, 520)]
    return [*written, *ODD, *long]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what the packages print and warn of to themselves."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def radgraph(work: Path) -> list[dict[str, Any]]:
    """Annotations of the package radgraph with the embedded archive."""
    archive = work / "cache/radgraph"
    shutil.copytree(EMBEDDED / "annotator", archive)
    os.chdir(archive)  # the archive names its encoder `bert`, which is looked for from here
    from radgraph.radgraph import RadGraph

    package = RadGraph(model_type="radgraph", model_cache_dir=str(work / "cache"), cuda=-1)
    given = texts()
    found = package(given)
    keys = ("text", "entities")
    return [{"report": each, **{key: found[str(i)][key] for key in keys}} for i, each in enumerate(given)]


def chexbert(work: Path) -> list[dict[str, Any]]:
    """Token ids, labels and the first numbers at [CLS] of the package f1chexbert with the embedded weights."""
    import pandas as pd
    import torch

    cache = work / "xdg/chexbert"
    cache.mkdir(parents=True)
    shutil.copy(EMBEDDED / "labeler/chexbert.pth", cache)
    shutil.copytree(EMBEDDED / "labeler", work / "bert-base-uncased")
    os.environ["XDG_CACHE_HOME"] = str(work / "xdg")
    os.chdir(work)  # the package asks for `bert-base-uncased`, which is looked for from here
    from f1chexbert.f1chexbert import F1CheXbert, tokenize

    package = F1CheXbert(device="cpu")
    out = []
    for each in texts():
        ids = tokenize(pd.Series([each]), package.tokenizer)
        batch = torch.tensor(ids)
        hidden = package.model.bert(batch, attention_mask=torch.ones_like(batch).float())[0][0, 0]
        out.append(
            {
                "report": each,
                "ids": ids[0],
                "classification": package.get_label(each, mode="classification"),
                "rrg": package.get_label(each, mode="rrg"),
                "vector": [round(value, 5) for value in hidden[:8].tolist()],
            }
        )
    return out


def main() -> None:
    """Record both; each in a folder of its own, since both look for files in the working directory."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    for record in (chexbert, radgraph):
        name = record.__name__
        with tempfile.TemporaryDirectory() as work, quiet():
            cases = record(Path(work))
            os.chdir(ROOT)
        made = {"command": "python -m tools.record_goldens", **{p: version(p) for p in PACKAGES[name]}, "cases": cases}
        OUT.mkdir(parents=True, exist_ok=True)
        (OUT / f"golden_{name}.json").write_text(json.dumps(made, separators=(",", ":")) + "\n", encoding="utf-8")
        print(f"golden_{name}.json: {len(cases)} texts")


PACKAGES = {"chexbert": ("f1chexbert", "torch", "transformers"), "radgraph": ("radgraph", "torch", "transformers")}

if __name__ == "__main__":
    main()
