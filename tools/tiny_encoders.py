"""Tiny encoders with random weights in the files people have, the same to the last bit under every version.

    folder = make("roberta", tmp_path / "roberta")     # about 0.1 s

Weights are hashes of their names and the byte-level BPE is merged from a word list, so that what another environment
recorded (tools/record_bertscore.py) holds for a folder that is written anew.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[1]
WORDS = (
    *("the", "no", "is", "of", "and", "in", "left", "right", "small", "large", "mild", "effusion", "pleural", "heart"),
    *("lungs", "clear", "normal", "cardiomegaly", "edema", "opacity", "lower", "lobe", "The", "No", "Small", "There"),
)
"""What the byte-level BPE has whole, with and without a blank before it."""
KINDS = ("roberta", "distilbert", "modernbert")
POSITIONS = 96
"""Tokens a tiny encoder takes at once."""
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}


def _alphabet() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE, in the order of GPT-2."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [each for each in range(256) if each not in kept]
    return [chr(each) for each in kept] + [chr(256 + i) for i in range(len(rest))]


def _bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges: every word is merged from its start, one letter at a time, those behind a blank first."""
    pieces, merges = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *_alphabet()], []
    for word in [*(f"Ġ{word}" for word in WORDS), *WORDS]:
        for end in range(1, len(word)):
            pair = (word[:end], word[end])
            if pair not in merges:
                merges.append(pair)
                pieces.append(word[: end + 1])
    return {piece: i for i, piece in enumerate(pieces)}, merges


def byte_level(folder: Path, marks: tuple[str, str], **about: Any) -> int:
    """tokenizer.json, vocab.json and merges.txt; returns the number of pieces."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    vocabulary, merges = _bpe()
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    start, end = marks
    ids = [(end, vocabulary[end]), (start, vocabulary[start])]
    tokenizer.post_processor = processors.RobertaProcessing(*ids, add_prefix_space=False)
    special = [AddedToken(name, special=True, normalized=False) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    tokenizer.add_special_tokens([*special, AddedToken("<mask>", special=True, lstrip=True, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = {"bos_token": start, "cls_token": start, "eos_token": end, "sep_token": end}
    rest = {"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>", "model_max_length": POSITIONS}
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, **rest, **about}))
    return len(vocabulary)


def _word_pieces(folder: Path) -> int:
    """The files of the embedded encoder's tokenizer, for as many tokens as a tiny one takes."""
    embedded = ROOT / "cxrbench/embedded/encoder"
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).write_bytes((embedded / name).read_bytes())
    about = json.loads((embedded / "tokenizer_config.json").read_text())
    about |= {"model_max_length": POSITIONS, "tokenizer_class": "DistilBertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return len((folder / "vocab.txt").read_text(encoding="utf-8").split("\n")) - 1


def _config(kind: str, folder: Path, layers: int) -> Any:
    from transformers import DistilBertConfig, ModernBertConfig, RobertaConfig

    if kind == "distilbert":
        return DistilBertConfig(
            vocab_size=_word_pieces(folder), dim=32, n_layers=layers, n_heads=4, hidden_dim=64,
            max_position_embeddings=POSITIONS, pad_token_id=0,
        )  # fmt: skip
    if kind == "roberta":
        size = byte_level(folder, ("<s>", "</s>"), tokenizer_class="RobertaTokenizer")
        return RobertaConfig(
            **SIZES, num_hidden_layers=layers, vocab_size=size, type_vocab_size=1,
            max_position_embeddings=POSITIONS + 2, pad_token_id=1, bos_token_id=0,
            eos_token_id=2,
        )  # fmt: skip
    size = byte_level(folder, ("<s>", "</s>"), tokenizer_class="PreTrainedTokenizerFast")
    return ModernBertConfig(
        **SIZES, num_hidden_layers=layers, vocab_size=size, local_attention=16, global_attn_every_n_layers=2,
        max_position_embeddings=POSITIONS, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        cls_token_id=0, sep_token_id=2,
    )  # fmt: skip


def _drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor from the hash of its name; those of norms about 1, the others as wide as keeps a sum's size."""
    count = int(np.prod(shape))
    numbers = np.frombuffer(hashlib.shake_256(name.encode()).digest(2 * count), "<i2").astype(np.float32) / 32768
    if len(shape) > 1:
        wide = 1.0 if "embeddings" in name else (3.0 / shape[1]) ** 0.5
        numbers = numbers * np.float32(wide)
    else:
        numbers = np.float32(name.endswith("weight")) + numbers / 4
    return torch.from_numpy(numbers.reshape(shape).copy())


def make(kind: str, folder: Path, layers: int = 3) -> Path:
    """Write an encoder's folder and return it."""
    from transformers import AutoModel

    folder.mkdir(parents=True)
    config = _config(kind, folder, layers)
    config.architectures = None
    net = AutoModel.from_config(config)
    state = {name: _drawn(name, tuple(each.shape)) for name, each in sorted(net.state_dict().items())}
    config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
