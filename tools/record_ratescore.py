"""Record what the package RaTEScore 0.6.0 says: tests/features/golden_ratescore.json and tiny_rate/ beside it.

    python3.11 -m venv oracle
    oracle/bin/pip install 'medspacy==1.3.1' 'PyRuSH==1.0.13' 'spacy==3.7.5' 'numpy<2' 'pandas<3'
    oracle/bin/pip install 'torch==2.13.0' 'transformers==4.57.6' sentencepiece protobuf
    oracle/bin/pip install --no-deps RaTEScore==0.6.0
    oracle/bin/python -m tools.record_ratescore

It runs in an environment of its own, since medspaCy needs numpy below 2 and the package a transformers of its time. All
texts are invented and the weights are random, in the layout of the published ones: a DeBERTa that labels word pieces,
and an MPNet. With these files the ordinary tests prove equality with the package without it.
"""

from __future__ import annotations

import itertools
import json
import random
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import sentencepiece
import torch
import transformers
from loguru import logger

logger.remove()

from RaTEScore import scorer, utils  # noqa: E402 (medspaCy logs while it is imported)

OUT = Path(__file__).resolve().parents[1] / "tests/features"
TINY = OUT / "tiny_rate"

KINDS = ("ABNORMALITY", "NON-ABNORMALITY", "ANATOMY", "DISEASE", "NON-DISEASE")
LABELS = ["O", *(f"{place}-{kind}" for kind in KINDS for place in "BI")]

REPORTS = (
    "The heart is normal in size. The lungs are clear. No pleural effusion or pneumothorax.",
    "Heart size and mediastinal contours are within normal limits. There is a 1.5 cm nodule in the right upper lobe.",
    "1. Mild cardiomegaly. 2. No acute disease. 3. T12 compression fracture, unchanged.",
    "1. Mild cardiomegaly.\n2. No acute disease.\n3. Old rib fractures",
    "1) Clear lungs 2) No effusion 3) Normal heart",
    "1) Clear lungs.\n2) No effusion.\n10) Normal heart.",
    "- Clear lungs\n- No effusion\n- normal heart",
    "* Clear lungs.\n* no effusion.\n# Heading\n#Other",
    "• Clear lungs\n• No effusion",
    "**Findings:** The lungs are clear.\n\n**Impression:** Normal chest.",
    "FINDINGS: The lungs are clear. IMPRESSION: Normal chest.",
    "FINDINGS:\nThe lungs are clear.\n\nIMPRESSION:\n1. Normal chest.\n2. No pneumonia.",
    "Findings: lungs clear Indication: cough Reason: fever",
    "The tube ends 3.2 cm above the carina. The line ends in the right atrium, about 2 cm too deep.",
    "Dr. Moreau was told at 3 p.m. by telephone. She agreed. Ms. Lind was not.",
    "Opacity at the left base, e.g. atelectasis vs. pneumonia. Compare to 12/03.",
    "Query pneumonia? Recommend CT! Stable otherwise.",
    "heart size normal - No edema. Right - Left asymmetry - Clear lungs",
    "the heart is normal. the lungs are clear. no effusion",
    "LUNGS: CLEAR. HEART: NORMAL. NO EFFUSION.",
    "lungs: clear\nheart: normal\npleura: no effusion",
    "Lungs: Clear.\nHeart: Normal.\nPleura: No effusion.",
    "The lungs are clear without\n consolidation or edema.  The heart is\n normal. No fracture is seen in\n The ribs.",
    "The lungs are clear and\nThe heart is normal for\nhis age.",
    "Two views of the chest\n\nNo change\n\n\nNormal",
    "PA and lateral views. COPD. Emphysema. ICU patient, NPO. No change.",
    'The report said "no effusion." There is one. (See note 1.) Clear otherwise.',
    "Findings are: \nclear lungs\nNo effusion was:\nseen",
    "Line one.\r\nLine two.\r\n\r\nLine three.\tLine four.",
    "No effusion . No pneumothorax .Clear lungs",
    "Possible small left effusion (new). 5 mm nodule. 2 views. This is stable. that is new. but small.",
    "Effusion; atelectasis, and edema: mild... No change.Clear",
    "Epanchement pleural gauche. Élévation du diaphragme. Größe normal.",
    "Vol. 3. L1. L2 fracture. approx. 5 mL. Next to it 4 mL. The rest is normal.",
    "pulm. edema is mild. S/p CABG. St. Jude valve.",
    "End of line:\n",
    "Clear lungs. ",
    "Clear lungs",
    "Normal.",
    "OK",
    ".",
    "",
    " \n ",
    "No. No. No.",
    "a. b. c.",
    "(1) Clear lungs. (2) No effusion. (3 b) Normal",
    "Stable. XXXX. XXXX XXXX are clear.",
)

PAIRS = (
    *((0, 1), (1, 0), (2, 3), (4, 16), (5, 24), (7, 7), (9, 10)),
    *((11, 13), (14, 25), (18, 0), (22, 1), (30, 31), (32, 0), (37, 38)),
)
"""Predictions and references among REPORTS."""

NOTHING = (39, 40, 41, 42)
"""Reports without a usable sentence."""


def tiny() -> None:
    """Both networks with random weights, as save_pretrained of transformers 4 leaves them."""
    torch.manual_seed(0)
    words = " ".join(REPORTS).split()
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.DebertaV2Config(
        **size,
        vocab_size=203,
        max_position_embeddings=512,
        type_vocab_size=0,
        layer_norm_eps=1e-7,
        relative_attention=True,
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(REPORTS * 3),
            model_prefix=str(place / "spm"),
            vocab_size=199,
            hard_vocab_limit=False,
            model_type="unigram",
            normalization_rule_name="identity",
            **{"pad_id": 0, "pad_piece": "[PAD]", "bos_id": 1, "bos_piece": "[CLS]"},
            **{"eos_id": 2, "eos_piece": "[SEP]", "unk_id": 3, "unk_piece": "[UNK]"},
            minloglevel=2,
        )
        tokenizer = transformers.DebertaV2TokenizerFast(str(place / "spm.model"), split_by_punct=False)
        save(transformers.DebertaV2ForTokenClassification(config), tokenizer, TINY / "ner")
        (TINY / "ner/spm.model").unlink(missing_ok=True)
        pieces = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>", *"abcdefghijklmnopqrstuvwxyz0123456789.,-()"]
        pieces += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
        pieces += sorted({word.strip(".,").lower() for word in words if word.isascii() and word.strip(".,").isalpha()})
        pieces = list(dict.fromkeys(pieces))
        (place / "vocab.txt").write_text("\n".join(pieces) + "\n")
        tokenizer = transformers.MPNetTokenizerFast(str(place / "vocab.txt"))
        encoder = transformers.MPNetConfig(**size, vocab_size=len(pieces), max_position_embeddings=64)
        save(transformers.MPNetModel(encoder), tokenizer, TINY / "biolord")


def save(net: Any, tokenizer: Any, place: Path) -> None:
    """Random weights large enough for different words to come out differently."""
    for name, weight in net.named_parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=1.0 if "embed" in name or "classifier" in name else 0.3)
    net.eval().save_pretrained(place)
    tokenizer.save_pretrained(place)


def sentences() -> list[dict[str, Any]]:
    """Sentences of each report, as the package has them."""
    return [{"text": text, "sentences": utils.sentence_split([text])[0]} for text in REPORTS]


class Joined:
    """A tokenizer that joins pieces with blanks."""

    def convert_tokens_to_string(self, pieces: list[str]) -> str:
        """Pieces as text."""
        return " ".join(pieces)


def entities() -> list[dict[str, Any]]:
    """Entities from labels: every sequence of up to four places, kinds at random, and some longer ones."""
    rng = random.Random(0)
    short = [row for length in (1, 2, 3, 4) for row in itertools.product("OBI", repeat=length)]
    long = [tuple(rng.choices("OBI", k=rng.randint(5, 12))) for _ in range(120)]
    found = []
    for row in [*short, *long]:
        labels = ["O" if each == "O" else f"{each}-{rng.choice(KINDS)}" for each in ("O", *row)]
        pieces = ["[CLS]", *(f"p{i}" for i in range(len(row) - 1)), "[SEP]"]
        said = utils.post_process(pieces, labels, Joined())
        found.append({"labels": " ".join(labels), "entities": said})
    return found


def scores() -> list[dict[str, Any]]:
    """Scores of invented entities with vectors of numpy's default_rng(seed), both presets."""
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sizes = [int(rng.integers(0 if seed % 10 == 0 else 1, 9)) for _ in range(2)]
        kinds = [[KINDS[i] for i in rng.integers(0, 5, size)] for size in sizes]
        shift = 0.0 if seed % 3 == 0 else 1.0
        vectors = [rng.normal(size=(size, 8)) + shift for size in sizes]
        case: dict[str, Any] = {"seed": seed, "sizes": sizes, "kinds": kinds}
        for preset in ("long", "short"):
            case[preset] = one_score(kinds, vectors, preset)
        found.append(case)
    return found


def one_score(kinds: list[list[str]], vectors: list[Any], preset: str) -> float:
    """The package's compute_score on entities that are given (prediction, reference)."""
    package = scorer.RaTEScore(str(TINY / "ner"), str(TINY / "biolord"), use_gpu=False, affinity_matrix=preset)
    given = {id(side): torch.tensor(each, dtype=torch.float32) for side, each in zip(kinds, vectors, strict=True)}
    named = {"said": [kinds[0]], "true": [kinds[1]]}
    with (
        mock.patch.object(scorer, "run_ner", lambda texts, *_: named[texts[0]]),
        mock.patch.object(scorer, "process_embedding", lambda pair, *_: (given[id(pair)], pair)),
    ):
        return float(package.compute_score(["said"], ["true"])[0])


def whole() -> dict[str, Any]:
    """The package on the tiny networks: entities of every report, vectors, scores of pairs one at a time."""
    package = scorer.RaTEScore(str(TINY / "ner"), str(TINY / "biolord"), use_gpu=False)
    ner = (package.idx2label, package.tokenizer, package.model, package.device, 1)
    known = [i for i in range(len(REPORTS)) if i not in NOTHING]
    found = {REPORTS[i]: scorer.run_ner([REPORTS[i]], *ner)[0] for i in known}
    words = sorted({word for each in found.values() for word, _ in each} | {"effusion " * 40})
    vectors = {
        word: scorer.process_embedding([(word, "")], package.eval_tokenizer, package.eval_model, package.device)[0][0]
        for word in words
    }
    pairs = [{"pair": pair, "long": package.compute_score([REPORTS[pair[0]]], [REPORTS[pair[1]]])[0]} for pair in PAIRS]
    lost = package.compute_score([REPORTS[0], REPORTS[NOTHING[0]], REPORTS[1]], [REPORTS[0], REPORTS[0], REPORTS[1]])
    return {
        "entities": [{"text": text, "entities": each} for text, each in found.items()],
        "vectors": {word: [round(x, 6) for x in each.tolist()] for word, each in vectors.items()},
        "pairs": pairs,
        "lost": {"given": 3, "scores": lost},
    }


def main() -> None:
    """Write both."""
    torch.set_num_threads(1)
    tiny()
    names = ("RaTEScore", "medspacy", "PyRuSH", "spacy", "transformers", "torch")
    golden = {
        "made_by": {name: version(name) for name in names},
        "sentences": sentences(),
        "entities": entities(),
        "scores": scores(),
        "whole": whole(),
    }
    lines = [json.dumps({key: each}, ensure_ascii=False)[1:-1] for key, each in golden.items()]
    (OUT / "golden_ratescore.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
