"""The encoder: a BERT trained to fill in masked words of phantom prose, stored as an ordinary transformers folder.

A small BERT that only fills in words tells places apart rather than meanings: a sentence at the end of a report gets
other vectors than at its start, and BERTScore would reward equal order. So in a second stage every word of a report
must also find itself again after its sentences have changed places and some have gone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import BertForMaskedLM

from cxrbench.data.phantom_markup import Passage
from cxrbench.features.bert import pad
from tools.annotator_training.loop import Plan, begin, train
from tools.annotator_training.texts import passages, sentences
from tools.annotator_training.vocabulary import SPECIAL, bert_config, build, write_tokenizer

PLAN = Plan(steps=3000, batch=32, rate=1e-3, seed=33, studies=103)
SHAPE = {"layers": 3, "hidden": 64, "heads": 4}
MASKED = 0.15
TEMPERATURE = 0.1


def second(plan: Plan) -> Plan:
    """The stage after `plan`: a third of its steps at half its rate, on other studies."""
    return replace(
        plan, steps=max(1, plan.steps // 3), rate=plan.rate / 2, seed=plan.seed + 1000, studies=plan.studies + 1000
    )


def masked(ids: Tensor, vocabulary: int, mask_id: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """BERT's corruption: of 15 % of the word pieces, 80 % masked, 10 % any other, 10 % as they are.

    Returns the corrupted ids (n, longest) and which positions are to be told (n, longest). The first ids of the
    vocabulary are the special tokens, which are left alone.
    """
    chance = torch.rand(ids.shape, generator=generator)
    told = (chance < MASKED) & (ids >= len(SPECIAL))
    any_piece = torch.randint(len(SPECIAL), vocabulary, ids.shape, generator=generator)
    out = ids.masked_fill(told & (chance < 0.8 * MASKED), mask_id)
    return torch.where(told & (chance >= 0.9 * MASKED), any_piece, out), told


def filling_in(net: Any, tokenizer: Any, plan: Plan) -> Callable[[], Tensor]:
    """The first stage: tell masked word pieces."""
    stream = passages(plan.studies, plan.seed)
    generator = torch.Generator().manual_seed(plan.seed)

    def loss() -> Tensor:
        texts = [passage.text for passage in islice(stream, plan.batch)]
        rows = tokenizer(texts, truncation=True)["input_ids"]
        ids, mask = pad(rows, tokenizer.pad_token_id, torch.device("cpu"))
        given, told = masked(ids, len(tokenizer), tokenizer.mask_token_id, generator)
        states = net.bert(input_ids=given, attention_mask=mask).last_hidden_state[told]
        return cross_entropy(net.cls(states), ids[told])

    return loss


def finding_again(net: Any, tokenizer: Any, plan: Plan) -> Callable[[], Tensor]:
    """The second stage: tell masked word pieces, and find each one of a rearranged report in the report itself."""
    stream = passages(plan.studies, plan.seed)
    generator = torch.Generator().manual_seed(plan.seed)
    rng = random.Random(plan.seed)

    def loss() -> Tensor:
        pairs = [rearranged(passage, tokenizer, rng) for passage in islice(stream, plan.batch)]
        ids, mask = pad([before for before, _, _ in pairs], tokenizer.pad_token_id, torch.device("cpu"))
        moved, moved_mask = pad([after for _, after, _ in pairs], tokenizer.pad_token_id, torch.device("cpu"))
        given, told = masked(ids, len(tokenizer), tokenizer.mask_token_id, generator)
        states = net.bert(input_ids=given, attention_mask=mask).last_hidden_state
        again = net.bert(input_ids=moved, attention_mask=moved_mask).last_hidden_state
        found = [
            cross_entropy(normalize(b[1 : len(place) + 1], dim=1) @ normalize(a, dim=1).T / TEMPERATURE, place)
            for a, b, place in (
                (states[i, : len(before)], again[i], torch.tensor(place)) for i, (before, _, place) in enumerate(pairs)
            )
        ]
        return cross_entropy(net.cls(states[told]), ids[told]) + torch.stack(found).mean()

    return loss


def rearranged(passage: Passage, tokenizer: Any, rng: random.Random) -> tuple[list[int], list[int], list[int]]:
    """Token ids of a report, of its sentences in another order with some left out, and where each piece came from."""
    parts = [tokenizer(part.text, add_special_tokens=False)["input_ids"] for part in sentences(passage)]
    order = rng.sample(range(len(parts)), rng.randint(max(1, len(parts) - 2), len(parts)))
    begins = [1 + sum(len(part) for part in parts[:i]) for i in range(len(parts))]
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    before = [start, *(piece for part in parts for piece in part), end]
    after = [start, *(piece for i in order for piece in parts[i]), end]
    return before, after, [begins[i] + k for i in order for k in range(len(parts[i]))]


def make(folder: Path, plan: Plan) -> float:
    """Train and write the folder; returns the seconds of training."""
    begin(plan)
    vocabulary = build(plan.studies)
    tokenizer = write_tokenizer(folder, vocabulary)
    net = BertForMaskedLM(bert_config(vocabulary, **SHAPE))
    seconds = train(net, plan, filling_in(net, tokenizer, plan))
    seconds += train(net, second(plan), finding_again(net, tokenizer, second(plan)))
    net.save_pretrained(str(folder))
    return seconds
