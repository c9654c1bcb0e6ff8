"""A small uncased WordPiece vocabulary from phantom prose, and the tokenizer files of bert-base-uncased around it."""

from __future__ import annotations

import string
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from transformers import BertConfig, BertTokenizer

from tools.annotator_training.texts import written

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZE = 720
STUDIES = 4000
LONGEST = 512


def build(seed: int) -> list[str]:
    """Tokens by id: the special ones, every printable ASCII sign alone and inside a word, then merged pieces.

    Pieces are merged as in byte-pair encoding: always the neighbours seen most often, of equals the first by alphabet,
    so that the same texts make the same vocabulary.
    """
    sections = (section for made in islice(written(seed), STUDIES) for section in made)
    counts = Counter(word.lower() for section in sections for word in section.words)
    alphabet = sorted(set(string.printable.lower()) - set(string.whitespace))
    found = [*SPECIAL, *alphabet, *(f"##{sign}" for sign in alphabet)]
    words = {word: [word[0], *(f"##{sign}" for sign in word[1:])] for word in counts}
    while len(found) < SIZE:
        seen: Counter[tuple[str, str]] = Counter()
        for word, pieces in words.items():
            for pair in pairwise(pieces):
                seen[pair] += counts[word]
        if not seen:
            break
        most = min(seen, key=lambda pair: (-seen[pair], pair))
        merged = most[0] + most[1].removeprefix("##")
        found.append(merged)
        words = {word: _merge(pieces, most, merged) for word, pieces in words.items()}
    return list(dict.fromkeys(found))


def _merge(pieces: list[str], pair: tuple[str, str], merged: str) -> list[str]:
    out: list[str] = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] = merged
        else:
            out.append(piece)
    return out


def write_tokenizer(folder: Path, vocabulary: list[str]) -> Any:
    """Write vocab.txt, tokenizer.json and tokenizer_config.json; returns the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = BertTokenizer(
        vocab={token: i for i, token in enumerate(vocabulary)}, do_lower_case=True, model_max_length=LONGEST
    )
    tokenizer.save_pretrained(str(folder))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return tokenizer


def bert_config(vocabulary: list[str], *, layers: int, hidden: int, heads: int) -> Any:
    """A BERT of the usual proportions, without dropout: there is new text for every step."""
    return BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=LONGEST,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=vocabulary.index("[PAD]"),
    )
