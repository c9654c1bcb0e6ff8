"""The two networks of RaTEScore, equal to the package RaTEScore 0.6.0 on the same weights. Imports torch.

    finder = load_finder("RaTE-NER-Deberta")
    finder.find(["No pleural effusion."])  # [(("pleural effusion", "NON-DISEASE"),)]
    load_encoder("BioLORD-2023-C").encode(["pleural effusion"])  # (1, 768)

The finder is a DeBERTa that labels word pieces, the encoder an MPNet whose last hidden state at its first token is the
vector. Sentences and entities go through once each, in batches of similar length; the package takes one sentence and
one report at a time. Tokens are those of the folder's tokenizer.json, whatever else transformers would make of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForTokenClassification

from cxrbench.errors import CxrbenchError
from cxrbench.features.bert import batch_budget, by_length, load_stock, pad, read_config, read_tokenizer
from cxrbench.features.rate import LABELS, Entity, spans
from cxrbench.features.rate_sentences import sentences

LONGEST_SENTENCE = 512
"""Tokens of a sentence, marks of start and end among them; what comes after is left out."""

LONGEST_ENTITY = 30
"""Tokens of an entity, the same way."""


class Finder:
    """A token classifier with its tokenizer: reports in, entities out."""

    def __init__(self, net: Any, tokenizer: Tokenizer) -> None:
        self.net = net.eval()
        self.tokenizer = tokenizer
        self.tokenizer.enable_truncation(LONGEST_SENTENCE)
        self.tokenizer.no_padding()

    def find(self, texts: Sequence[str], budget: int | None = None) -> list[tuple[Entity, ...]]:
        """Entities of each report, in the order of its sentences; none for a report without a usable sentence."""
        split = [sentences(text) for text in texts]
        distinct = list(dict.fromkeys(sentence for each in split for sentence in each))
        known = dict(zip(distinct, self.label(distinct, budget), strict=True))
        return [tuple(entity for sentence in each for entity in known[sentence]) for each in split]

    @torch.inference_mode()
    def label(self, given: Sequence[str], budget: int | None = None) -> list[list[Entity]]:
        """Entities of each sentence; what they are does not depend on the other sentences."""
        names, filler = self.net.config.id2label, self.net.config.pad_token_id or 0
        encoded = self.tokenizer.encode_batch(list(given))
        found: list[list[Entity]] = [[] for _ in given]
        for batch in by_length([len(each.ids) for each in encoded], budget or batch_budget(self.net)):
            ids, mask = pad([encoded[i].ids for i in batch], filler, self.net.device)
            classes = self.net(input_ids=ids, attention_mask=mask).logits.argmax(dim=2).tolist()
            for i, row in zip(batch, classes, strict=True):
                pieces = [str(self.tokenizer.id_to_token(each)) for each in encoded[i].ids]
                labels = [names[each] for each in row[: len(pieces)]]
                found[i] = [(self.words(pieces[a : b + 1]), kind) for a, b, kind in spans(pieces, labels)]
        return found

    def words(self, pieces: list[str]) -> str:
        """Pieces as text."""
        decoder = self.tokenizer.decoder
        return str(decoder.decode(pieces)) if decoder is not None else " ".join(pieces)


class Encoder:
    """An encoder with its tokenizer: entities in, vectors out."""

    def __init__(self, net: Any, tokenizer: Tokenizer) -> None:
        self.net = net.eval()
        self.tokenizer = tokenizer
        self.tokenizer.enable_truncation(LONGEST_ENTITY)
        self.tokenizer.no_padding()

    @torch.inference_mode()
    def encode(self, given: Sequence[str], budget: int | None = None) -> NDArray[np.float32]:
        """(n, hidden) the last hidden state at the first token of each text, in order."""
        filler = self.net.config.pad_token_id or 0
        encoded = self.tokenizer.encode_batch(list(given))
        found = np.zeros((len(given), self.net.config.hidden_size), np.float32)
        for batch in by_length([len(each.ids) for each in encoded], budget or batch_budget(self.net)):
            ids, mask = pad([encoded[i].ids for i in batch], filler, self.net.device)
            found[batch] = self.net(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0].float().cpu().numpy()
        return found


def load_finder(folder: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Finder:
    """Read a folder in the layout of Angelakeke/RaTE-NER-Deberta.

    Raises:
        CxrbenchError: a file is missing, weights are missing or of another shape, or it has other labels.
    """
    place = Path(folder)
    odd = sorted(set(read_config(place).id2label.values()) ^ set(LABELS))
    if odd:
        raise CxrbenchError(
            f"these weights do not label what RaTEScore compares: {', '.join(odd[:3])}",
            where=str(place / "config.json"),
            fix="fetch Angelakeke/RaTE-NER-Deberta",
        )
    return Finder(load_stock(AutoModelForTokenClassification, place, dtype).to(device), _tokenizer(place))


def load_encoder(folder: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Encoder:
    """Read a folder in the layout of FremyCompany/BioLORD-2023-C.

    Raises:
        CxrbenchError: a file is missing, or weights are missing or of another shape.
    """
    place = Path(folder)
    read_config(place)
    return Encoder(load_stock(AutoModel, place, dtype).to(device), _tokenizer(place))


def _tokenizer(place: Path) -> Tokenizer:
    file = place / "tokenizer.json"
    if not file.is_file():
        made: Tokenizer = read_tokenizer(place).backend_tokenizer
        return made
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        raise CxrbenchError("this file holds no tokenizer", where=str(file), fix="fetch it again") from error
