"""README.md and training.json of an embedded annotator: what it is, how it was made, what it reaches."""

from __future__ import annotations

import hashlib
import json
import textwrap
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from cxrbench.data.phantom_world import VERSION
from cxrbench.features.embedded import ANNOTATORS
from tools.annotator_training.figures import Figures
from tools.annotator_training.loop import Plan

SHARED = ("texts.py", "vocabulary.py", "loop.py")
"""What decides, beside the file of its own, what the weights of each become."""

ABOUT = {
    "labeler": """# A CheXbert-shaped labeler of phantom reports

Reads a report and says of 14 conditions whether they are blank, positive, negative or uncertain. It has the network
and the file layout of CheXbert (Smit et al., EMNLP 2020): `chexbert.pth` with a BERT, 13 heads of four classes and one
of two, `module.` before every name. Beside it lie the configuration and the tokenizer of its BERT, in the layout of
bert-base-uncased, with a vocabulary of its own. Labels it was trained on are those phantom's exact reader reads; it
started from the encoder of the embedded annotator.""",
    "annotator": """# A RadGraph-shaped annotator of phantom reports

Finds entities (OBS-DP, OBS-U, OBS-DA, ANAT-DP) and relations (modify, located_at, suggestive_of) in a report. It has
the network of DyGIE++ (Wadden et al., EMNLP 2019) and the layout of RadGraph's published archive, unpacked:
`config.json`, `vocabulary/`, `weights.th`. Its BERT's configuration and tokenizer lie in `bert/`, which config.json
names as the model. Heads that every published archive carries and RadGraph never runs (coreference, events) are zeros.
Annotations it was trained on are those phantom writes together with its prose.""",
    "encoder": """# A BERT encoder of phantom reports

Gives vectors of the words of a report, as BERTScore needs them. An ordinary transformers folder
(`BertForMaskedLM`) with a vocabulary of its own, trained to fill in masked words of phantom prose and, for another
third of the steps, to find each word again after the sentences of its report have changed places.""",
}

LIMITS = """\
**Of no clinical use.** It has read nothing but texts written by code and knows their wording only; what it says about
any other report means nothing. cxrbench refuses to use it on other data; there the real weights are needed:
{real} of https://huggingface.co/{source}."""


def script_hash(name: str) -> str:
    """SHA-256 over the files that decide what the weights become."""
    folder = Path(__file__).resolve().parent
    return hashlib.sha256(b"".join((folder / file).read_bytes() for file in (*SHARED, f"{name}.py"))).hexdigest()


def write(folder: Path, name: str, plan: Plan, seconds: float, figures: dict[str, Figures], studies: int) -> None:
    """Write training.json and README.md into a folder of weights."""
    tiny = ANNOTATORS[name]
    facts = {
        "name": name,
        "command": f"python -m tools.train_annotators --only {name}",
        "plan": asdict(plan),
        "seconds": round(seconds),
        "phantom": VERSION,
        "split": "train",
        "test": {"split": "test", "studies": studies, "figures": figures},
        "script_sha256": script_hash(name),
        "weights_sha256": hashlib.sha256((folder / tiny.weights).read_bytes()).hexdigest(),
        "torch": version("torch").partition("+")[0],
        "transformers": version("transformers"),
    }
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    rows = [f"| {texts} | {what} | {value:.4f} |" for texts, each in figures.items() for what, value in each.items()]
    parts = [
        ABOUT[name],
        LIMITS.format(real=tiny.real, source=tiny.source),
        "## How it was made",
        textwrap.fill(
            f"`{facts['command']}`: {plan.steps:,} steps of {plan.batch} texts, {round(seconds / 60)} minutes on one "
            "thread, with fixed seeds. Texts are findings and impressions of fresh studies of the split `train`, as "
            "written and with sentences dropped, mixed, repeated or cut. The split `test` was never trained on. "
            "training.json has seeds, versions and hashes. Licence: that of cxrbench; no data from outside.",
            120,
            break_on_hyphens=False,
        ),
        f"## What it reaches\n\nOn findings and impressions of {studies:,} studies of the split `test`:",
        "\n".join(["| texts | what | value |", "|---|---|---|", *rows]),
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
