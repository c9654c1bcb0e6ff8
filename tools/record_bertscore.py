"""Record what the package bert-score says: tests/features/golden_bertscore.json.

    python3 -m venv oracle
    oracle/bin/pip install 'torch==2.13.0' 'transformers<5' bert-score==0.3.13
    oracle/bin/python -m tools.record_bertscore

It runs in an environment of its own, since the package needs transformers below 5; cxrbench is only read from the
checkout, for its phantom texts. Encoders are the embedded one and tiny ones with random weights in the other layouts
(tools/tiny_encoders.py). Pairs go in one at a time, since the package's numbers depend on what a pair is padded to:
against a padded text no cosine is below 0. With this file the ordinary tests prove equality with the package without
it. To be run again whenever the embedded encoder was trained again.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import random
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cxrbench.data.phantom import report, study_id
from tools.tiny_encoders import KINDS, make

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "tests/features/golden_bertscore.json"
COMMAND = "python -m tools.record_bertscore"
STUDIES = 10
SETTINGS = ((3, False, False), (2, False, False), (3, True, False), (3, True, True))
"""Layer, idf, rescaled."""
PUBLISHED = (("distilroberta-base", 5), ("distilbert-base-uncased", 5), ("roberta-large", 17))

ODD = [
    ("", "Lungs are clear."),
    ("Lungs are clear.", ""),
    ("", ""),
    (" \n\t ", "effusion"),
    ("effusion", "effusion"),
    ("Effusion", "No"),
    ("Small  left   effusion.", "Small left effusion."),
    ("  Small left effusion. \n", "small LEFT effusion"),
    ("line\nline\ttab\r\nend", "line line tab end"),
    ("Größe naïve œdème ½ ° 5 × 3 cm — “quoted” 心臓 🙂 é", "Grosse naive oedeme 1/2 degree 5 x 3 cm 心 臓"),
    ("Épanchement pleural à gauche", "E\u0301panchement pleural a\u0300 gauche"),
    ("a\u00a0b\u2009c\u3000d\u200be", "a b c d e"),
    ("\u200b", "clear"),
    ("\x00", "\x00"),
    ("1. Stable 4.8 cm mass. 2. No edema/effusion.", "There's a 4.8cm mass; it's stable & they'll follow-up (2 mo)."),
    ("[SEP] small effusion [CLS] [MASK]", "small effusion"),
    ("<s> small <mask> effusion </s>", "small <unk> effusion"),
    ("...,,;;!?()", "?!"),
    ("a" * 150 + " effusion", "pseudopseudohypoparathyroidism effusion"),
    ("XXXX opacity , XXXX opacity .", "XXXX opacity , no effusion ."),
]
"""What no radiologist writes and some model will."""


def pairs() -> list[tuple[str, str]]:
    """Phantom reports against their own and against others', odd texts, and some longer than an encoder takes."""
    made = [report(study_id(0, "test", index)) for index in range(STUDIES)]
    written = [(each.findings.text, each.impression.text) for each in made]
    found = [(findings, impression) for findings, impression in written]
    found += [(written[i - 1][0], written[i][0]) for i in range(STUDIES)]
    words = " ".join(written[0]).split()
    rng = random.Random(1)
    long = [" ".join(rng.choices(words, k=count)) for count in (600, 100, 60)]
    return [*found, *ODD, (long[0], written[0][0]), (written[1][0], long[0]), (long[1], long[2]), found[0]]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what the package prints and warns of to itself."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def baseline(model: str, layer: int) -> list[float]:
    """P, R, F of a layer in the package's table."""
    import bert_score

    file = Path(bert_score.__file__).parent / "rescale_baseline/en" / f"{model}.tsv"
    with file.open(encoding="utf-8") as lines:
        row = list(csv.reader(lines))[layer + 1]
    assert int(row[0]) == layer
    return [float(each) for each in row[1:]]


def taken(name: str, pair: tuple[str, str]) -> bool:
    """Whether the package scores a pair at all: with ModernBERT's tokenizer it fails on an empty text alone."""
    return name != "modernbert" or all(text.strip() for text in pair)


def main() -> None:
    """Record precision, recall and F of all pairs under every encoder, layer, weighting and scale."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    import torch
    from bert_score import score

    torch.set_num_threads(1)
    given = pairs()
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work, quiet():
        folders = {kind: make(kind, Path(work) / kind) for kind in KINDS}
        folders["embedded"] = ROOT / "cxrbench/embedded/encoder"
        table = Path(work) / "baseline.tsv"
        row = ",".join(map(str, baseline(*PUBLISHED[0])))
        table.write_text("LAYER,P,R,F\n" + "".join(f"{layer},{row}\n" for layer in range(4)))
        for name, folder in folders.items():
            kept = [pair for pair in given if taken(name, pair)]
            for layer, idf, rescaled in SETTINGS if name != "modernbert" else SETTINGS[:2]:
                found = score(
                    [said for said, _ in kept],
                    [true for _, true in kept],
                    model_type=str(folder),
                    num_layers=layer,
                    idf=idf,
                    nthreads=0,
                    batch_size=1,
                    device="cpu",
                    lang="en",
                    rescale_with_baseline=rescaled,
                    baseline_path=str(table) if rescaled else None,
                )
                rows = iter(torch.stack(found, dim=1).tolist())
                scores = [
                    [float(f"{each:.8g}") for each in next(rows)] if taken(name, pair) else None for pair in given
                ]
                cases.append({"encoder": name, "layer": layer, "idf": idf, "rescaled": rescaled, "scores": scores})
    about = {"command": COMMAND, **{name: version(name) for name in ("bert-score", "torch", "transformers")}}
    about["embedded"] = hashlib.sha256((folders["embedded"] / "model.safetensors").read_bytes()).hexdigest()[:8]
    baselines = {model: {"layer": layer, "baseline": baseline(model, layer)} for model, layer in PUBLISHED}
    text = json.dumps({**about, "baselines": baselines, "pairs": given, "cases": cases}, separators=(",", ":"))
    OUT.write_text(text + "\n", encoding="utf-8")
    print(f"{OUT.name}: {len(given)} pairs, {len(cases)} settings")


if __name__ == "__main__":
    main()
