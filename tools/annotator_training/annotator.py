"""The annotator: RadGraph's network, trained on phantom's exact annotations, stored as an unpacked radgraph archive.

weights.th carries the heads that every published archive has and RadGraph never runs (coreference, events), so that it
loads wherever a published one does; they are zeros, stored as one number each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from cxrbench.data.phantom_markup import Passage
from cxrbench.features.bert import pad
from cxrbench.features.radgraph_archive import read_shape
from cxrbench.features.radgraph_net import NAMES, DyGIE, RadGraph, best, pairs
from tools.annotator_training.loop import Plan, begin, train
from tools.annotator_training.texts import passages
from tools.annotator_training.vocabulary import LONGEST, bert_config, build, write_tokenizer

PLAN = Plan(steps=4000, batch=32, rate=1e-3, seed=32, studies=102)
SHAPE = {"layers": 3, "hidden": 64, "heads": 4}

KIND = "radgraph"
ENTITIES = ["", "ANAT-DP", "OBS-DP", "OBS-DA", "OBS-U"]
RELATIONS = ["modify", "located_at", "suggestive_of"]
WIDEST, FEATURE, HIDDEN, SPANS_PER_WORD = 4, 20, 48, 1.0
"""Phantom's entities have at most three words, and up to nine of ten words of a sentence can be entities."""


def settings() -> dict[str, object]:
    """config.json in the form of the published archives."""
    bert = {"type": "pretrained_transformer_mismatched", "model_name": "bert", "max_length": LONGEST}
    return {
        "dataset_reader": {"type": "dygie", "max_span_width": WIDEST, "token_indexers": {"bert": bert}},
        "model": {
            "type": "dygie",
            "embedder": {"token_embedders": {"bert": bert}},
            "initializer": {},
            "module_initializer": {},
            "loss_weights": {"ner": 0.2, "relation": 1.0, "coref": 0.0, "events": 0.0},
            "feature_size": FEATURE,
            "max_span_width": WIDEST,
            "target_task": "relation",
            "feedforward_params": {"num_layers": 2, "hidden_dims": HIDDEN, "dropout": 0.0},
            "modules": {
                "coref": {"spans_per_word": 0.3, "max_antecedents": 100, "coref_prop": 0},
                "ner": {},
                "relation": {"spans_per_word": SPANS_PER_WORD},
                "events": {
                    "trigger_spans_per_word": 0.3,
                    "argument_spans_per_word": 0.8,
                    "loss_weights": {"trigger": 0.2, "arguments": 1.0},
                },
            },
        },
    }


def write_archive(folder: Path) -> None:
    """Write config.json and vocabulary/."""
    (folder / "vocabulary").mkdir(parents=True, exist_ok=True)
    files = {
        "config.json": json.dumps(settings(), indent=1),
        f"vocabulary/{KIND}__ner_labels.txt": "\n".join(ENTITIES),
        f"vocabulary/{KIND}__relation_labels.txt": "\n".join(RELATIONS),
        "vocabulary/non_padded_namespaces.txt": "*tags\n*labels",
    }
    for name, text in files.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")


def stored(net: DyGIE) -> dict[str, Tensor]:
    """The tensors of a network under their published names, with the heads that are not run."""
    names = {new: old.format(kind=KIND) for old, new in NAMES.items()}
    state = {}
    for name, value in net.state_dict().items():
        prefix = next(each for each in names if name.startswith(each))
        state[names[prefix] + name.removeprefix(prefix)] = value.contiguous()
    return state | {name: torch.zeros(1).expand(size) for name, size in _unused(2 * net.size + FEATURE).items()}


def _unused(span: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the coreference and event heads over span vectors of a size."""
    layers = {
        "_coref._antecedent_feedforward._module._linear_layers.0": (HIDDEN, 3 * span + FEATURE),
        "_coref._antecedent_feedforward._module._linear_layers.1": (HIDDEN, HIDDEN),
        "_coref._antecedent_scorer._module": (1, HIDDEN),
        "_coref._mention_pruner._scorer.0._module._linear_layers.0": (HIDDEN, span),
        "_coref._mention_pruner._scorer.0._module._linear_layers.1": (HIDDEN, HIDDEN),
        "_coref._mention_pruner._scorer.1._module": (1, HIDDEN),
        "_coref._f_network._linear_layers.0": (span, 2 * span),
    }
    out: dict[str, tuple[int, ...]] = {f"{name}.weight": size for name, size in layers.items()}
    out |= {f"{name}.bias": size[:1] for name, size in layers.items()}
    return out | {f"{head}._distance_embedding.weight": (10, FEATURE) for head in ("_coref", "_events")}


def loss_of(annotator: RadGraph, batch: Sequence[Passage]) -> Tensor:
    """Tagger: every span; pruner: entity or not; relator: all pairs of spans that are, or are taken for, entities."""
    net = annotator.net
    lengths = [len(passage.words) for passage in batch]
    rows, piece_word = annotator.rows(annotator.encode([passage.words for passage in batch]))
    ids, mask = pad(rows, annotator.tokenizer.pad_token_id, torch.device("cpu"))
    x = net.embed(ids, mask, torch.tensor(piece_word), sum(lengths))
    spans = net.spans(lengths, torch.device("cpu"))
    place = torch.full((sum(lengths) * WIDEST,), -1)
    place[spans.start * WIDEST + spans.end - spans.start] = torch.arange(len(spans.start))

    truth = torch.zeros(len(spans.start), dtype=torch.long)
    known: list[tuple[int, int, int]] = []
    base = 0
    for passage in batch:
        at = [int(place[(base + e.start) * WIDEST + e.end - e.start]) for e in passage.entities]
        for entity, index in zip(passage.entities, at, strict=True):
            truth[index] = ENTITIES.index(entity.label)
            known += [(index, at[target - 1], RELATIONS.index(kind) + 1) for kind, target in entity.relations]
        base += len(passage.words)

    tags, mention = net.score(net.tagger, x, spans), net.score(net.pruner, x, spans)[:, 0]
    chosen, guessed = truth > 0, best(tags.detach()) > 0
    if int(guessed.sum()) < 2 * int(chosen.sum()):  # a tagger that knows nothing yet guesses thousands
        chosen = chosen | guessed
    number = chosen.long().cumsum(0) - 1
    left, right = pairs(spans.report[chosen])
    related = torch.zeros(len(left), dtype=torch.long)
    if known:
        source, target, kind = torch.tensor(known).T
        count = int(chosen.sum())
        related[torch.searchsorted(left * count + right, number[source] * count + number[target])] = kind
    inside = type(spans)(*(each[chosen] for each in spans))
    scores = net.relate(net.vectors(x, inside), mention[chosen], left, right)
    losses = (
        cross_entropy(_with_none(tags), truth, reduction="sum"),
        binary_cross_entropy_with_logits(mention, (truth > 0).float(), reduction="sum"),
        cross_entropy(_with_none(scores), related, reduction="sum"),
    )
    return torch.stack(losses).sum() / len(batch)


def _with_none(scores: Tensor) -> Tensor:
    return torch.cat([scores.new_zeros(len(scores), 1), scores], dim=1)


def make(folder: Path, plan: Plan) -> float:
    """Train and write the folder; returns the seconds of training."""
    begin(plan)
    vocabulary = build(plan.studies)
    tokenizer = write_tokenizer(folder / "bert", vocabulary)
    config = bert_config(vocabulary, **SHAPE)
    config.save_pretrained(str(folder / "bert"))
    write_archive(folder)
    net = DyGIE(read_shape(folder), config)
    annotator = RadGraph(net, tokenizer)
    stream = passages(plan.studies, plan.seed)
    seconds = train(net, plan, lambda: loss_of(annotator, list(islice(stream, plan.batch))))
    torch.save(stored(net), folder / "weights.th")
    return seconds
