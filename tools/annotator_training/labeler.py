"""The labeler: CheXbert's network, trained on what phantom's exact reader reads, stored as chexbert.pth.

One vector has to say of 14 conditions which hedge or denial belongs to which. A BERT that starts from nothing is slow
to learn that, so this one starts from the embedded annotator's, which already tells what every word is, with one layer
more. Heads that are thrown away after training make the annotator's last layer hold what the new one has to collect: of
each word piece its entity label, and a code of its own for every pair of piece and label (labels and words merely added
up would not say which belongs to which); of the sum over all word pieces the 14 conditions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from cxrbench.data.phantom_markup import LABELS, Passage
from cxrbench.features import radgraph_net
from cxrbench.features.bert import pad
from cxrbench.features.chexbert import BLANK, CONDITIONS, NEGATIVE, POSITIVE, UNCERTAIN
from cxrbench.features.chexbert_net import CheXbert
from cxrbench.features.phantom_labels import read
from cxrbench.shipped import embedded
from tools.annotator_training import annotator
from tools.annotator_training.loop import Plan, begin, train
from tools.annotator_training.texts import join, passages, sentences
from tools.annotator_training.vocabulary import bert_config, write_tokenizer

PLAN = Plan(steps=5000, batch=32, rate=1e-3, seed=31, studies=101, warm_up=100)
SHAPE = {**annotator.SHAPE, "layers": annotator.SHAPE["layers"] + 1}

CLASSES = {1: POSITIVE, 0: NEGATIVE, -1: UNCERTAIN}


def classes(text: str) -> list[int]:
    """Class index of each condition in a text, as phantom's reader reads it; No Finding is positive or blank."""
    labels = read(text).labels
    found = [CLASSES[labels[name]] if name in labels else BLANK for name in CONDITIONS]
    found[-1] = POSITIVE if labels.get("No Finding") == 1 else BLANK
    return found


TAGS = {label: i for i, label in enumerate(LABELS.values(), 1)}
"""Tags of word pieces: 0 for what is no entity, then RadGraph's labels."""
TAG_WEIGHT = 5.0
"""Of the mean losses over word pieces, beside the sum of the 14 mean losses over reports."""
UNHEDGED = 0.5
"""Share of the reports without a hedge that are used: in phantom's prose one cell of a hundred is uncertain."""
SHORT = 0.25
"""Share of the steps, the first ones, with texts of one to three sentences."""
CODE = 32
"""Numbers of a code."""


class Extra(nn.Module):
    """The heads that only help the training."""

    codes: Tensor

    def __init__(self, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self.tags = nn.Linear(hidden, len(TAGS) + 1)
        self.code = nn.Linear(hidden, CODE)
        self.register_buffer("codes", torch.randn(vocabulary, len(TAGS) + 1, CODE))
        self.bag = nn.ModuleList(nn.Linear(hidden, 2 if name == "No Finding" else 4) for name in CONDITIONS)


class Pieces:
    """Token ids of a passage and the tag of each, [CLS] and [SEP] included; the ids are those of its text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, list[int]] = {}

    def __call__(self, passage: Passage) -> tuple[list[int], list[int]]:
        tags = [0] * len(passage.words)
        for entity in passage.entities:
            tags[entity.start : entity.end + 1] = [TAGS[entity.label]] * (entity.end + 1 - entity.start)
        ids, told = [self.tokenizer.cls_token_id], [0]
        for word, tag in zip(passage.words, tags, strict=True):
            if word not in self.known:
                self.known[word] = self.tokenizer(word, add_special_tokens=False)["input_ids"]
            ids += self.known[word]
            told += [tag] * len(self.known[word])
        return [*ids, self.tokenizer.sep_token_id], [*told, 0]


def make(folder: Path, plan: Plan) -> float:
    """Train and write the folder; returns the seconds of training."""
    begin(plan)
    start = embedded("annotator")
    vocabulary = (start / "bert/vocab.txt").read_text(encoding="utf-8").split()
    tokenizer = write_tokenizer(folder, vocabulary)
    config = bert_config(vocabulary, **SHAPE)
    net, extra = CheXbert(config), Extra(SHAPE["hidden"], len(vocabulary))
    learnt = radgraph_net.load(start).net.bert.state_dict()
    net.bert.load_state_dict(net.bert.state_dict() | learnt)
    pieces, rng, step = Pieces(tokenizer), random.Random(plan.seed), count()
    made = passages(plan.studies, plan.seed)
    stream = (passage for passage in made if hedged(passage) or rng.random() < UNHEDGED)

    def loss() -> Tensor:
        batch = list(islice(stream, plan.batch))
        if next(step) < SHORT * plan.steps:
            batch = [short(passage, rng) for passage in batch]
        return loss_of(net, extra, pieces, batch)

    seconds = train(nn.ModuleList([net, extra]), plan, loss)
    config.save_pretrained(str(folder))
    state = {f"module.{name}": value.contiguous() for name, value in net.state_dict().items()}
    torch.save({"model_state_dict": state}, folder / "chexbert.pth")
    return seconds


def hedged(passage: Passage) -> bool:
    """Whether a passage leaves anything open."""
    return any(entity.label == LABELS["U"] for entity in passage.entities)


def short(passage: Passage, rng: random.Random) -> Passage:
    """One to three sentences of a passage, in any order."""
    parts = sentences(passage)
    return join(rng.sample(parts, min(len(parts), rng.randint(1, 3))))


def loss_of(net: CheXbert, extra: Extra, pieces: Pieces, batch: Sequence[Passage]) -> Tensor:
    """The 14 losses over reports, and what the extra heads lose."""
    rows = [pieces(passage) for passage in batch]
    ids, mask = pad([ids for ids, _ in rows], pieces.tokenizer.pad_token_id, torch.device("cpu"))
    tags, _ = pad([tags for _, tags in rows], 0, torch.device("cpu"))
    truth = torch.tensor([classes(passage.text) for passage in batch])
    below, last = net.bert(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2:]
    known = mask.bool()
    bag = (below * mask[:, :, None]).sum(1) / 4
    heads = [cross_entropy(head(last[:, 0]), truth[:, i]) for i, head in enumerate(net.linear_heads)]
    heads += [cross_entropy(head(bag), truth[:, i]) for i, head in enumerate(extra.bag)]
    words = tags > 0
    apart = 1 - cosine_similarity(extra.code(below[words]), extra.codes[ids[words], tags[words]], dim=1)
    return torch.stack(heads).sum() + TAG_WEIGHT * (cross_entropy(extra.tags(below[known]), tags[known]) + apart.mean())
