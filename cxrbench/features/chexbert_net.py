"""The network of CheXbert and its weights in the published layout of chexbert.pth. Imports torch.

    labeler = load(Path("chexbert.pth"), Path("bert-base-uncased"))
    labeler.label(["Small left effusion."]).classes  # (1, 14)

The file is `{"model_state_dict": {"module.bert...": ..., "module.linear_heads.<0-13>.weight": ...}}`; the second
folder holds the configuration and the tokenizer of the BERT that was trained, which the file does not carry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertModel

from cxrbench.errors import CxrbenchError
from cxrbench.features.bert import batch_budget, by_length, fill, pad, read_config, read_tokenizer, read_weights
from cxrbench.features.chexbert import CONDITIONS, Labels, prepare

LONGEST = 512
"""Tokens of a report, [CLS] and [SEP] among them; CheXbert leaves out what comes after."""

BUFFERS = ("bert.embeddings.position_ids",)
"""What older versions of transformers saved with a BERT although it is no weight."""


class CheXbert(nn.Module):
    """BERT and a linear head per condition on its last hidden state at [CLS]: 13 heads of four classes, one of two."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.bert = BertModel(config)
        sizes = [4] * (len(CONDITIONS) - 1) + [2]
        self.linear_heads = nn.ModuleList(nn.Linear(config.hidden_size, size) for size in sizes)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[list[Tensor], Tensor]:
        """Token ids and mask (n, longest) -> 14 logits (n, 4 or 2), and the hidden state at [CLS] (n, hidden)."""
        vectors = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        return [head(vectors) for head in self.linear_heads], vectors


class Labeler:
    """A CheXbert with its tokenizer: texts in, labels out."""

    def __init__(self, net: CheXbert, tokenizer: Any) -> None:
        self.net = net.eval()
        self.tokenizer = tokenizer

    @torch.inference_mode()
    def label(self, texts: Sequence[str], budget: int | None = None) -> Labels:
        """Labels of n texts, in order. Each distinct text is labelled once, in batches of similar length.

        What a text is labelled with does not depend on the other texts. An empty text is [CLS] [SEP].
        """
        distinct = {text: i for i, text in enumerate(dict.fromkeys(map(prepare, texts)))}
        encoded = self.encode(list(distinct))
        bert: Any = self.net.bert
        wide = bert.dtype == torch.float64
        classes = np.zeros((len(encoded), len(CONDITIONS)), np.int8)
        vectors = np.zeros((len(encoded), bert.config.hidden_size), np.float64 if wide else np.float32)
        for batch in by_length([len(row) for row in encoded], budget or batch_budget(bert)):
            ids, mask = pad([encoded[i] for i in batch], self.tokenizer.pad_token_id, bert.device)
            logits, hidden = self.net(ids, mask)
            classes[batch] = torch.stack([each.argmax(1) for each in logits], 1).cpu().numpy()
            vectors[batch] = (hidden if wide else hidden.float()).cpu().numpy()
        order = [distinct[prepare(text)] for text in texts]
        return Labels(classes[order], vectors[order])

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of prepared texts: [CLS], at most 510 word pieces, [SEP]."""
        if not texts:
            return []
        start, end = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        pieces = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [[start, *row[: LONGEST - 2], end] for row in pieces]


def load(weights: Path, bert: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Labeler:
    """Read a labeler: `weights` is a chexbert.pth, `bert` a folder with its BERT's config.json and tokenizer.

    Tensors of any floating-point type are cast to `dtype`.

    Raises:
        CxrbenchError: a file is missing, is not in this layout, or does not fit the configuration.
    """
    net = CheXbert(read_config(bert)).float()
    fill(net, state_of(read_weights(weights), weights), weights)
    return Labeler(net.to(device=device, dtype=dtype), read_tokenizer(bert))


def state_of(stored: Any, file: Path) -> dict[str, Tensor]:
    """The tensors of a chexbert.pth by their names in `CheXbert`: without `module.`, without saved buffers."""
    state = stored.get("model_state_dict") if isinstance(stored, Mapping) else None
    if not isinstance(state, Mapping):
        raise CxrbenchError(
            "these weights are not in the layout of chexbert.pth: there is no 'model_state_dict'",
            where=str(file),
            fix="fetch chexbert.pth from https://huggingface.co/StanfordAIMI/RRG_scorers",
        )
    named = {name.removeprefix("module."): value for name, value in state.items()}
    return {name: value for name, value in named.items() if name not in BUFFERS}
