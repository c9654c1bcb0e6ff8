"""What the embedded annotators reach on phantom's test split, which no training ever saw."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import BertForMaskedLM

from cxrbench.data.phantom import report, study, study_id
from cxrbench.data.phantom_markup import Passage
from cxrbench.features import chexbert_net, radgraph_net
from cxrbench.features.bert import pad, read_tokenizer
from cxrbench.features.chexbert import BLANK, NEGATIVE, POSITIVE, UNCERTAIN
from cxrbench.features.phantom_labels import read
from tools.annotator_training.encoder import masked
from tools.annotator_training.labeler import classes
from tools.annotator_training.texts import join, sentences, variant

STUDIES = 600
"""Twice the test split that tasks use; any number exists."""

RANK = {0: 0, -1: 1, 1: 2}
"""Of two statements in a report the stronger one counts."""

Figures = dict[str, float]


def held_out(count: int = STUDIES) -> list[Passage]:
    """Findings, then impression, of the first studies of the test split."""
    made = [report(study_id(0, "test", index)) for index in range(count)]
    return [section for each in made for section in (each.findings, each.impression)]


def recombined(passages: list[Passage], seed: int = 5) -> list[Passage]:
    """Test passages as a model would get them wrong: sentences dropped, mixed, repeated, cut (texts.variant)."""
    rng = random.Random(seed)
    return [variant(mine, other, rng) for mine, other in zip(passages, passages[2:] + passages[:2], strict=True)]


def truth_agreement(count: int = STUDIES) -> float:
    """Share of test studies whose shipped labels are what the exact reader reads from both sections together."""
    same = 0
    for index in range(count):
        each = study(0, "test", index)
        found: dict[str, float] = {}
        for section in ("findings", "impression"):
            for name, value in read(each.sections[section]).labels.items():
                if name not in found or RANK[value] > RANK[int(found[name])]:
                    found[name] = value
        same += found == each.labels["phantom"]
    return same / count


def labeler_figures(folder: Path, passages: list[Passage]) -> Figures:
    """Shares of right cells: all, and by what is true; and of reports with all 14 right."""
    texts = [passage.text for passage in passages]
    labeler = chexbert_net.load(folder / "chexbert.pth", folder)
    said, true = labeler.label(texts).classes, np.array([classes(text) for text in texts])
    right = said == true
    named = {"positive": POSITIVE, "negative": NEGATIVE, "uncertain": UNCERTAIN, "blank": BLANK}
    return {
        "accuracy": float(right.mean()),
        **{name: float(right[true == value].mean()) for name, value in named.items()},
        "worst condition": float(right.mean(axis=0).min()),
        "whole report": float(right.all(axis=1).mean()),
    }


def annotator_figures(folder: Path, passages: list[Passage]) -> Figures:
    """F1 over all reports together: entities by exact words and label, relations by head, tail and kind."""
    found = radgraph_net.load(folder).annotate([passage.text for passage in passages])
    true = [passage.radgraph() for passage in passages]
    same_words = [a["text"] == b["text"] for a, b in zip(found, true, strict=True)]
    whole = [entities(a) == entities(b) and relations(a) == relations(b) for a, b in zip(found, true, strict=True)]
    return {
        "same words": float(np.mean(same_words)),
        "entity F1": _f1(map(entities, found), map(entities, true)),
        "relation F1": _f1(map(relations, found), map(relations, true)),
        "whole report": float(np.mean(whole)),
    }


def entities(annotation: radgraph_net.Annotation) -> set[tuple[object, ...]]:
    """(first word, last word, label) of all entities."""
    return {(e["start_ix"], e["end_ix"], e["label"]) for e in annotation["entities"].values()}


def relations(annotation: radgraph_net.Annotation) -> set[tuple[object, ...]]:
    """(first and last word of the head, the same of the tail, kind) of all relations."""
    place = {number: (e["start_ix"], e["end_ix"]) for number, e in annotation["entities"].items()}
    return {
        (*place[number], *place[target], kind)
        for number, entity in annotation["entities"].items()
        for kind, target in entity["relations"]
    }


def _f1(found: Iterable[set[tuple[object, ...]]], true: Iterable[set[tuple[object, ...]]]) -> float:
    hits = total = 0
    for a, b in zip(found, true, strict=True):
        hits, total = hits + 2 * len(a & b), total + len(a) + len(b)
    return hits / total if total else 1.0


@torch.inference_mode()
def encoder_figures(folder: Path, passages: list[Passage]) -> Figures:
    """Share of masked word pieces told, and how often greedy cosine F1 puts the own report above another study's."""
    net, tokenizer = BertForMaskedLM.from_pretrained(str(folder)), read_tokenizer(folder)
    rows = tokenizer([passage.text for passage in passages], truncation=True)["input_ids"]
    ids, mask = pad(rows, tokenizer.pad_token_id, torch.device("cpu"))
    given, told = masked(ids, len(tokenizer), tokenizer.mask_token_id, torch.Generator().manual_seed(1))
    guess = torch.cat([net(input_ids=a, attention_mask=b).logits.argmax(2) for a, b in _chunks(given, mask)])
    common = ids[told].bincount().max() / told.sum()

    findings, impressions = passages[::2], passages[1::2]
    other = findings[7:] + findings[:7]
    rng = random.Random(3)
    shortened = [_shortened(passage, rng) for passage in findings]
    vectors = {
        name: _vectors(net.bert, tokenizer, part)
        for name, part in (("own", findings), ("other", other), ("short", shortened), ("impression", impressions))
    }
    return {
        "masked word pieces told": float((guess == ids)[told].float().mean()),
        "most frequent word piece": float(common),
        "own report above another's": _above(vectors["short"], vectors["own"], vectors["other"]),
        "own findings above another's, by impression": _above(vectors["impression"], vectors["own"], vectors["other"]),
    }


def _shortened(passage: Passage, rng: random.Random) -> Passage:
    """The same report with one sentence left out and the others in another order."""
    parts = sentences(passage)
    return join(rng.sample(parts, max(1, len(parts) - 1)))


def _chunks(*tensors: Tensor, size: int = 128) -> Iterable[tuple[Tensor, ...]]:
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def _vectors(bert: torch.nn.Module, tokenizer: object, passages: list[Passage]) -> list[Tensor]:
    """Per report the last hidden states of its word pieces at length 1: (pieces, hidden), [CLS] and [SEP] left out."""
    rows = tokenizer([passage.text for passage in passages], truncation=True)["input_ids"]  # type: ignore[operator]
    out = []
    for row in rows:
        states = bert(input_ids=torch.tensor([row])).last_hidden_state[0, 1:-1]
        out.append(states / states.norm(dim=1, keepdim=True))
    return out


def greedy_f1(a: Tensor, b: Tensor) -> float:
    """BERTScore's F1 (Zhang et al., ICLR 2020) of two reports, without idf weights and without rescaling."""
    cosine = a @ b.T
    precision, recall = float(cosine.amax(1).mean()), float(cosine.amax(0).mean())
    return 2 * precision * recall / (precision + recall)


def _above(candidates: list[Tensor], own: list[Tensor], other: list[Tensor]) -> float:
    """How often a candidate is nearer to its own report than to the other one."""
    return float(np.mean([greedy_f1(c, a) > greedy_f1(c, b) for c, a, b in zip(candidates, own, other, strict=True)]))
