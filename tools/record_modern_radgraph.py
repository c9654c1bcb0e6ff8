"""Record what the package radgraph says with a ModernBERT in the archive: tests/features/golden_radgraph_modern.json.

    oracle/bin/python -m tools.record_modern_radgraph        (the environment of tools/record_goldens.py)

The tokenizer of ModernBERT is of a class that puts no marks around the package's rows (radgraph_rows.py), which
no other archive shows. The archive is tiny, drawn from a seed, and made anew by the tests.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from cxrbench.features.bert import read_config
from cxrbench.features.radgraph_archive import read_shape
from cxrbench.features.radgraph_net import NAMES, DyGIE
from tools.oracle_weights import ENTITIES, RELATIONS, archive_settings, draw, probes, unused
from tools.tiny_encoders import make

KIND = "modern-radgraph-xl"
OUT = Path(__file__).resolve().parents[1] / "tests/features/golden_radgraph_modern.json"
LONGEST = 90
"""Tokens of a row: short, so that short reports are cut."""

RARE = {"tagger": (-0.36, -2.6, -1.1, -0.8), "relator": (-2.6, -3.2, -2.2)}
"""Biases with which most spans and pairs have no label, and every label occurs."""

WORDS = ("small", "left", "pleural", "effusion", "heart", "lungs", "clear", "normal", "The", "no", "edema")


def texts() -> list[str]:
    """Invented reports, odd ones, and lengths around the ends of one, two and three rows."""
    rng = random.Random(0)
    lengths = (1, 2, 3, 20, 40, 60, 100)
    drawn = [" ".join(rng.choice(WORDS) for _ in range(count)) for count in lengths]
    ends = [" ".join(["effusion"] * count) for count in (88, 89, 90, 91, 92, 93, 179, 180, 181, 182, 183, 271)]
    odd = ["", "effusion", ".", "Größe 心臓 🙂 é", "[SEP] small [CLS] effusion", "No   effusion\n\n."]
    return [*probes(12, seed=3), *odd, *drawn, *ends]


def archive(folder: Path) -> tuple[Path, Path]:
    """Write the encoder's folder and the unpacked archive; returns the archive and the encoder."""
    encoder, place = folder / "encoder", folder / KIND
    make("modernbert", encoder, layers=2)
    settings = archive_settings(8)
    for part in (settings["model"]["embedder"]["token_embedders"], settings["dataset_reader"]["token_indexers"]):
        part["bert"] |= {"model_name": str(encoder), "max_length": LONGEST}
    settings["model"]["feature_size"] = 20
    (place / "vocabulary").mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    for name, labels in {"ner": ENTITIES, "relation": RELATIONS}.items():
        (place / f"vocabulary/{KIND}__{name}_labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    (place / "vocabulary/non_padded_namespaces.txt").write_text("*tags\n*labels\n", encoding="utf-8")
    net = DyGIE(read_shape(place), read_config(encoder))
    draw(net, 1)
    with torch.no_grad():
        for value in net.bert.parameters():  # drawn as small as BERT's, every word would look like every other
            value.mul_(12.0 if value.dim() > 1 else 1.0)
        net.tagger.out.bias.copy_(torch.tensor(RARE["tagger"]))
        net.relator.out.bias.copy_(torch.tensor(RARE["relator"]))
    names = {new: old.format(kind=KIND) for old, new in NAMES.items()}
    state = unused(2 * net.size + 20)
    for name, value in net.state_dict().items():
        prefix = next(each for each in names if name.startswith(each))
        state[names[prefix] + name.removeprefix(prefix)] = value.contiguous()
    torch.save(state, place / "weights.th")
    return place, encoder


def main() -> None:
    """Run the package and write the file."""
    from radgraph import RadGraph

    given = texts()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive(Path(folder))
        with contextlib.redirect_stdout(io.StringIO()):
            found: dict[str, Any] = RadGraph(model_type=KIND, model_cache_dir=folder, cuda=-1)(given)
    entities = [found[str(i)]["entities"] for i in range(len(given))]
    OUT.write_text(
        json.dumps({"radgraph": "0.1.18", "entities": entities}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    links = sum(len(each["relations"]) for report in entities for each in report.values())
    print(f"{len(given)} texts, {sum(map(len, entities))} entities, {links} relations, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
