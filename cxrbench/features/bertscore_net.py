"""The encoder of BERTScore and the matching of word pieces, equal to the package bert-score 0.3.13. Imports torch.

    encoder = load("distilroberta-base", layer=5)
    encoder.compare([("Small left effusion.", "Left effusion, small.")])  # (1, 3): precision, recall, F

For every word piece of a prediction the most similar piece of the reference is taken (cosine of hidden states); the
weighted mean of these cosines is the precision, and from the reference to the prediction the recall. The marks of start
and end may be matched but weigh nothing.

It differs from the package in three places. A pair's numbers do not depend on the other pairs: there a text that is
padded has cosines of at least 0. Word pieces that all weigh 0 give 0, where there P or R is not a number. The
tokenizer is the fast one (the package's default is the slow one, which transformers 5 no longer has).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel

from cxrbench.errors import CxrbenchError
from cxrbench.features.bert import batch_budget, by_length, load_stock, pad, read_config, read_tokenizer
from cxrbench.features.bertscore import LAST, Idf

PREFIXED = ("roberta",)
"""Model types whose texts begin with a blank, as bert-score has it: a first word is then a word like any other."""

SHIFTED = ("roberta",)
"""Model types whose positions begin behind the padding's: two of 514 cannot be used."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Texts to word pieces: `[start, ..., end]`, at most `longest` of them."""

    tokenizer: Tokenizer
    start: int
    end: int
    longest: int
    prefix: str

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of prepared texts; an empty one is start and end alone."""
        given = [self.prefix + text if text else text for text in texts]
        found = self.tokenizer.encode_batch(given, add_special_tokens=False)
        return [[self.start, *each.ids[: self.longest - 2], self.end] for each in found]


class Encoder:
    """The first layers of an encoder with its tokenizer: pairs of texts in, precision, recall and F out."""

    def __init__(self, net: Any, pieces: Pieces) -> None:
        self.net = net.eval()
        self.pieces = pieces
        self.size = max(int(net.config.vocab_size), pieces.tokenizer.get_vocab_size())

    @torch.inference_mode()
    def compare(
        self, pairs: Sequence[tuple[str, str]], idf: NDArray[np.float64] | None = None, budget: int | None = None
    ) -> NDArray[np.float64]:
        """(n, 3) precision, recall and F of prepared (prediction, reference) pairs, in order.

        Each distinct text is encoded once. idf: (size,) the weight of each word piece; None: 1. An empty text, on
        either side, gives 0, 0, 0; F is 0 where P + R is.
        """
        budget = budget or batch_budget(self.net)
        at = {text: i for i, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair))}
        rows = self.pieces.encode(list(at))
        states = self._states(rows, budget)
        weights = self._weights(rows, idf)
        longest = [max(len(rows[at[said]]), len(rows[at[true]])) for said, true in pairs]
        found = np.zeros((len(pairs), 3))
        for batch in by_length(longest, budget):
            sides = [[at[pairs[i][side]] for i in batch] for side in (0, 1)]
            scores = match(*((_stack(states, side), _stack(weights, side)) for side in sides))
            empty = torch.tensor([min(len(rows[a]), len(rows[b])) == 2 for a, b in zip(*sides, strict=True)])
            found[batch] = scores.double().cpu().masked_fill(empty[:, None], 0.0).numpy()
        return found

    def _states(self, rows: Sequence[Sequence[int]], budget: int) -> list[Tensor]:
        """Hidden states of each text, (tokens, hidden), every one of length 1."""
        states: list[Tensor] = [torch.empty(0)] * len(rows)
        for batch in by_length([len(row) for row in rows], budget):
            ids, mask = pad([rows[i] for i in batch], self.net.config.pad_token_id or 0, self.net.device)
            hidden = self.net(input_ids=ids, attention_mask=mask).last_hidden_state
            hidden = hidden / hidden.norm(dim=-1, keepdim=True)
            for i, each in zip(batch, hidden, strict=True):
                states[i] = each[: len(rows[i])]
        return states

    def _weights(self, rows: Sequence[Sequence[int]], idf: NDArray[np.float64] | None) -> list[Tensor]:
        """The weight of each token of each text, (tokens,)."""
        table = np.ones(self.size) if idf is None else idf
        if idf is None:
            table[[self.pieces.start, self.pieces.end]] = 0.0
        made = torch.tensor(table, dtype=self.net.dtype, device=self.net.device)
        return [made[torch.tensor(row, device=made.device)] for row in rows]


def _stack(rows: Sequence[Tensor], chosen: Sequence[int]) -> Tensor:
    """Rows of different length as one tensor, (chosen, longest, ...), filled up with zeros."""
    return pad_sequence([rows[i] for i in chosen], batch_first=True)


def match(said: tuple[Tensor, Tensor], true: tuple[Tensor, Tensor]) -> Tensor:
    """(n, 3) precision, recall, F of n pairs; each side is states (n, tokens, hidden) and weights (n, tokens).

    States have length 1, those of padding 0. Weights that sum up to 0 give 0, and so does F where P + R is 0.

    >>> states = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> match((states, torch.ones(1, 2)), (states[:, :1], torch.ones(1, 1)))
    tensor([[0.5000, 1.0000, 0.6667]])
    """
    cosines = torch.bmm(said[0], true[0].transpose(1, 2))
    present = [states.any(dim=-1) for states, _ in (said, true)]
    cosines = cosines.masked_fill(~(present[0][:, :, None] & present[1][:, None, :]), -2.0)
    precision = _mean(cosines.amax(dim=2), said[1])
    recall = _mean(cosines.amax(dim=1), true[1])
    total = precision + recall
    f = torch.where(total != 0, 2 * precision * recall / total, torch.zeros_like(total))
    return torch.stack([precision, recall, f], dim=1)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean over the last axis."""
    total = weights.sum(dim=1, keepdim=True)
    shares = torch.where(total != 0, weights / total, torch.zeros_like(weights))
    return (values * shares).sum(dim=1)


def frequencies(pieces: Pieces, texts: Sequence[str]) -> Idf:
    """In how many of the prepared texts each word piece stands, start and end among them."""
    times = Counter(texts)
    counts: Counter[int] = Counter()
    for row, many in zip(pieces.encode(list(times)), times.values(), strict=True):
        for piece in set(row):
            counts[piece] += many
    ids = sorted(counts)
    return Idf(len(texts), np.array(ids, np.int64), np.array([counts[i] for i in ids], np.int64))


def _from_file(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        raise CxrbenchError("this file holds no tokenizer", where=str(file), fix="fetch it again") from error


def read_pieces(folder: str | Path, config: Any = None) -> Pieces:
    """The tokenizer of an encoder's folder: tokenizer.json as it is, else from the files of words.

    Raises:
        CxrbenchError: there is none, or it does not mark start and end.
    """
    place = Path(folder)
    known = config if config is not None else read_config(place)
    file = place / "tokenizer.json"
    tokenizer = _from_file(file) if file.is_file() else read_tokenizer(place).backend_tokenizer
    tokenizer.no_truncation()
    tokenizer.no_padding()
    marks = tokenizer.encode("").ids
    if len(marks) != 2:
        raise CxrbenchError(
            f"the tokenizer puts {len(marks)} marks around a text, not two of start and end",
            where=str(place),
            fix="BERTScore needs an encoder of BERT's kind",
        )
    positions = int(known.max_position_embeddings)
    if known.model_type in SHIFTED:
        positions -= int(known.pad_token_id) + 1
    said = place / "tokenizer_config.json"
    limit = json.loads(said.read_text(encoding="utf-8")).get("model_max_length") if said.is_file() else None
    longest = min(positions, int(limit)) if limit else positions
    start, end = marks
    return Pieces(tokenizer, start, end, longest, " " if known.model_type in PREFIXED else "")


def load(folder: str | Path, layer: int = LAST, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Encoder:
    """Read an encoder and keep its layers up to `layer`.

    Raises:
        CxrbenchError: a file is missing, weights are missing or of another shape, or it has no such layer.
    """
    place = Path(folder)
    config = read_config(place)
    pieces = read_pieces(place, config)
    net = load_stock(AutoModel, place, dtype)
    layers = _layers(net, place)
    if not (layer == LAST or 1 <= layer <= len(layers)):
        raise CxrbenchError(f"the encoder has {len(layers)} layers, no layer {layer}", where=str(place))
    if layer != LAST:
        del layers[layer:]
    return Encoder(net.to(device), pieces)


def _layers(net: Any, place: Path) -> Any:
    """The layers of an encoder of BERT's, DistilBERT's or ModernBERT's build."""
    for path in ("encoder.layer", "transformer.layer", "layers"):
        found = net
        for part in path.split("."):
            found = getattr(found, part, None)
        if found is not None:
            return found
    raise CxrbenchError(
        f"BERTScore does not know where a {net.config.model_type} has its layers",
        where=str(place),
        fix="use an encoder of BERT's, RoBERTa's, DistilBERT's or ModernBERT's build",
    )
