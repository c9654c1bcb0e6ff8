"""The network of RadGraph (DyGIE++: Wadden et al., EMNLP 2019) and its weights in the published layout. Imports torch.

    annotator = load(Path("radgraph"), bert=Path("PubMedBERT"))
    annotator.annotate(["Small left effusion."])  # [{"text": ..., "entities": {...}}]

The folder is an unpacked archive: config.json, vocabulary/<kind>__{ner,relation}_labels.txt, weights.th. A report is
one sentence. Its words are means of word pieces; a span is its first word, its last word and its width; a tagger gives
every span a label or none, a pruner keeps the best spans per word, and every ordered pair of kept spans gets a relation
or none. Several reports go through at once: behind the encoder all words, spans and pairs of a batch lie one after
another, nothing is padded, so no row or column of one report can meet another. Two shortcuts change nothing but the
last bits of a float: a layer over [a; b; ...] is a sum of layers over its parts, which are computed once per word; and
only pairs of spans that are entities are scored, since relations of other spans are dropped at the end.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModel

from cxrbench.errors import CxrbenchError
from cxrbench.features.bert import batch_budget, by_length, fill, pad, read_config, read_tokenizer, read_weights
from cxrbench.features.radgraph_archive import Shape, read_shape
from cxrbench.features.radgraph_rows import GENERIC, states_of_pieces
from cxrbench.features.radgraph_text import Annotation, annotation, as_token, words

PAIRS = 32_768
"""Pairs of spans scored at a time, to bound memory."""

NAMES: Mapping[str, str] = {
    "_embedder.token_embedder_bert._matched_embedder.transformer_model.": "bert.",
    "_endpoint_span_extractor._span_width_embedding.": "width.",
    "_ner._ner_scorers.{kind}__ner_labels.0._module._linear_layers.": "tagger.hidden.",
    "_ner._ner_scorers.{kind}__ner_labels.1._module.": "tagger.out.",
    "_relation._mention_pruners.{kind}__relation_labels._scorer.0._module._linear_layers.": "pruner.hidden.",
    "_relation._mention_pruners.{kind}__relation_labels._scorer.1._module.": "pruner.out.",
    "_relation._relation_feedforwards.{kind}__relation_labels._linear_layers.": "relator.hidden.",
    "_relation._relation_scorers.{kind}__relation_labels.": "relator.out.",
}
"""Names in weights.th -> names in `DyGIE`."""

_HEAD = re.compile(r"\.(?P<kind>[^.]+)__(?:ner|relation)_labels\.")

UNUSED = ("_coref.", "_events.")
"""Heads that weights.th carries and RadGraph does not run."""

BUFFERS = ("bert.embeddings.position_ids",)
"""What older versions of transformers saved with a BERT although it is no weight."""


class Spans(NamedTuple):
    """Spans of a batch, each (s,) int64: first word and last word (both counted through the batch), and report."""

    start: Tensor
    end: Tensor
    report: Tensor


class Scorer(nn.Module):
    """A feed-forward net whose first layer the caller takes apart: `hidden` layers with ReLU, then `out`."""

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.out = nn.Linear(sizes[-1], outputs)

    def forward(self, first: Tensor) -> Tensor:
        """What the first layer gives before its ReLU (n, hidden) -> scores (n, outputs)."""
        x = first.relu()
        for layer in list(self.hidden)[1:]:
            x = layer(x).relu()
        scores: Tensor = self.out(x)
        return scores

    def parts(self, *sizes: int) -> tuple[Tensor, ...]:
        """The weight of the first layer, cut along its inputs."""
        return torch.split(first_layer(self).weight, list(sizes), dim=1)


def first_layer(scorer: Scorer) -> nn.Linear:
    """The layer that the shortcuts take apart."""
    layer = scorer.hidden[0]
    assert isinstance(layer, nn.Linear)
    return layer


class DyGIE(nn.Module):
    """Encoder, width embedding, and the three scorers: tagger, pruner, relator."""

    def __init__(self, shape: Shape, config: Any) -> None:
        super().__init__()
        self.shape = shape
        self.bert = AutoModel.from_config(config)
        self.size: int = config.hidden_size
        span = 2 * self.size + shape.width_size
        self.width = nn.Embedding(shape.width_rows, shape.width_size)
        self.tagger = Scorer(span, shape.hidden, len(shape.entities) - 1)
        self.pruner = Scorer(span, shape.hidden, 1)
        self.relator = Scorer(3 * span, shape.hidden, len(shape.relations))

    def embed(self, ids: Tensor, mask: Tensor, piece_word: Tensor, count: int) -> Tensor:
        """Vectors (count, size) of the words of a batch: means over their word pieces, zero where a word has none.

        ids, mask: rows of [CLS] pieces [SEP] (rows, longest). piece_word (pieces,): the word each piece belongs to,
        in the order of the rows.
        """
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        inner = mask.bool()
        inner[:, 0] = False
        inner[torch.arange(len(mask), device=mask.device), mask.sum(1) - 1] = False
        return self.pool(states[inner], piece_word, count)

    def pool(self, pieces: Tensor, piece_word: Tensor, count: int) -> Tensor:
        """Means (count, size) over the pieces (p, size) of each word; zero where a word has none."""
        sums = pieces.new_zeros(count, self.size).index_add(0, piece_word, pieces)
        number = torch.bincount(piece_word, minlength=count).clamp(min=1)
        means: Tensor = sums / number[:, None].to(sums.dtype)
        return means

    def spans(self, lengths: Sequence[int], device: torch.device) -> Spans:
        """All spans of at most `widest` words of reports with so many words, by report, first word, last word."""
        length = torch.tensor(lengths, dtype=torch.long, device=device)
        report = torch.repeat_interleave(torch.arange(len(lengths), device=device), length)
        last = length.cumsum(0)[report]
        start = torch.arange(len(report), device=device)
        end = start[:, None] + torch.arange(self.shape.widest, device=device)
        inside = end < last[:, None]
        return Spans(start[:, None].expand_as(end)[inside], end[inside], report[:, None].expand_as(end)[inside])

    def score(self, scorer: Scorer, x: Tensor, spans: Spans) -> Tensor:
        """Scores (s, outputs) of spans over word vectors x (words, size)."""
        at_start, at_end, at_width = scorer.parts(self.size, self.size, self.shape.width_size)
        widths = self.width.weight @ at_width.T + first_layer(scorer).bias
        first = (x @ at_start.T)[spans.start] + (x @ at_end.T)[spans.end] + widths[spans.end - spans.start]
        scores: Tensor = scorer(first)
        return scores

    def keep(self, scores: Tensor, spans: Spans, lengths: Sequence[int]) -> Tensor:
        """Which spans (s,) the pruner keeps: per report the best ceil(words x spans_per_word), never less than one."""
        kept = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        wanted = torch.ceil(torch.tensor(lengths, dtype=torch.float32) * self.shape.spans_per_word).long().tolist()
        sizes = torch.bincount(spans.report, minlength=len(lengths)).tolist()
        begin = 0
        for want, size in zip(wanted, sizes, strict=True):
            top = scores[begin : begin + size].topk(min(max(want, 1), size)).indices
            kept[begin + top] = True
            begin += size
        return kept

    def vectors(self, x: Tensor, spans: Spans) -> Tensor:
        """Vectors (s, 2 size + width) of spans: first word, last word, width."""
        return torch.cat([x[spans.start], x[spans.end], self.width(spans.end - spans.start)], dim=1)

    def relate(self, vectors: Tensor, mention: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Scores (p, relations) of the pairs left[i] -> right[i] of c spans; `mention` (c,) is the pruner's score."""
        size = vectors.shape[1]
        of_left, of_right, of_both = self.relator.parts(size, size, size)
        from_left, from_right = vectors @ of_left.T, vectors @ of_right.T + first_layer(self.relator).bias
        product = (vectors[left] * vectors[right]) @ of_both.T
        scores: Tensor = self.relator(from_left[left] + from_right[right] + product)
        return scores + (mention[left] + mention[right])[:, None]


def best(scores: Tensor) -> Tensor:
    """Label (n,) of scores (n, labels): 0 is none, which scores 0, then the labels in order."""
    return torch.cat([scores.new_zeros(len(scores), 1), scores], dim=1).argmax(1)


def pairs(report: Tensor) -> tuple[Tensor, Tensor]:
    """All ordered pairs, a span with itself included, within the reports of c spans; `report` (c,) is ascending."""
    number = torch.bincount(report) if len(report) else report
    mine = number[report]
    left = torch.repeat_interleave(torch.arange(len(report), device=report.device), mine)
    begin_block = (mine.cumsum(0) - mine)[left]
    begin_report = (number.cumsum(0) - number)[report[left]]
    return left, begin_report + torch.arange(len(left), device=report.device) - begin_block


class RadGraph:
    """A DyGIE with its tokenizer: texts in, annotations out.

    `marked`: whether rows go in as [CLS] pieces [SEP]; where not, as radgraph_rows says.
    """

    def __init__(self, net: DyGIE, tokenizer: Any, *, marked: bool = True) -> None:
        self.net = net.eval()
        self.shape = net.shape
        self.tokenizer = tokenizer
        self.marked = marked

    @torch.inference_mode()
    def annotate(self, texts: Sequence[str], budget: int | None = None) -> list[Annotation]:
        """Annotations of n texts, in order. Each distinct text is annotated once, in batches of similar length.

        How a text is annotated does not depend on the other texts. An empty text is annotated as `None`, as the
        package does; one of blanks alone, which the package refuses, has no words and no entities. Distinct texts
        with equal words share one annotation object, and so do equal texts: do not change it.
        """
        said = {text: words(text, self.shape.kind) for text in dict.fromkeys(texts)}
        distinct = list({tuple(each): each for each in said.values()}.values())
        pieces = self.encode(distinct)
        lengths = [sum(map(len, each)) for each in pieces]
        done: dict[tuple[str, ...], Annotation] = {}
        for batch in by_length(lengths, budget or batch_budget(self.net.bert)):
            chosen = [distinct[i] for i in batch]
            for each, found in zip(chosen, self._batch(chosen, [pieces[i] for i in batch]), strict=True):
                done[tuple(each)] = found
        return [done[tuple(said[text])] for text in texts]

    def encode(self, said: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        """Ids of the word pieces of every word of every report; each distinct word is tokenized once, by itself."""
        distinct = list(dict.fromkeys(as_token(word) for each in said for word in each))
        if not distinct:
            return [[] for _ in said]
        ids = self.tokenizer(distinct, add_special_tokens=False, verbose=False)["input_ids"]
        known = dict(zip(distinct, ids, strict=True))
        return [[known[as_token(word)] for word in each] for each in said]

    def rows(self, pieces: Sequence[Sequence[Sequence[int]]]) -> tuple[list[list[int]], list[int]]:
        """Rows of [CLS] pieces [SEP] of at most `longest` tokens, and the word of each piece, through all reports.

        A longer report is cut into rows, between pieces and not between words; the encoder sees each by itself.
        """
        start, end, room = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id, self.shape.longest - 2
        rows, piece_word, word = [], [], 0
        for report in pieces:
            flat = [piece for each in report for piece in each]
            rows += [[start, *flat[i : i + room], end] for i in range(0, len(flat), room)]
            for each in report:
                piece_word += [word] * len(each)
                word += 1
        return rows, piece_word

    def _words(self, pieces: Sequence[Sequence[Sequence[int]]], count: int) -> Tensor:
        """Vectors (count, size) of the words of all reports."""
        device = self.net.width.weight.device
        if self.marked:
            rows, piece_word = self.rows(pieces)
            ids, mask = pad(rows, self.tokenizer.pad_token_id, device)
            return self.net.embed(ids, mask, torch.tensor(piece_word, device=device), count)
        rows, piece_word, sources, word, longest = [], [], [], 0, self.shape.longest
        for report in pieces:
            begin = sum(map(len, rows))
            flat = [piece for each in report for piece in each]
            of_word = [word + i for i, each in enumerate(report) for _ in each]
            found = zip(of_word, states_of_pieces(len(flat), longest), strict=True)
            for at, source in found:
                if source is not None:
                    piece_word.append(at)
                    sources.append(begin + source)
            rows += [flat[i : i + longest] for i in range(0, len(flat), longest)]
            word += len(report)
        ids, mask = pad(rows, self.tokenizer.pad_token_id, device)
        states = self.net.bert(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
        chosen = states[torch.tensor(sources, dtype=torch.long, device=device)]
        return self.net.pool(chosen, torch.tensor(piece_word, dtype=torch.long, device=device), count)

    def _batch(self, said: Sequence[Sequence[str]], pieces: Sequence[Sequence[Sequence[int]]]) -> list[Annotation]:
        """Annotations of the reports of one batch."""
        net, lengths = self.net, [len(each) for each in said]
        count = sum(lengths)
        device = net.width.weight.device
        x = self._words(pieces, count) if any(map(any, pieces)) else net.width.weight.new_zeros(count, net.size)
        spans = net.spans(lengths, device)
        label = best(net.score(net.tagger, x, spans))
        mention = net.score(net.pruner, x, spans)[:, 0]
        kept = net.keep(mention, spans, lengths)
        entity, paired = label > 0, kept & (label > 0)
        number = entity.long().cumsum(0) - 1
        edges = self._edges(x, Spans(*(each[paired] for each in spans)), mention[paired], number[paired])
        found = torch.stack([*(each[entity] for each in spans), label[entity]], dim=1).tolist()
        return self._put_together(said, found, edges)

    def _edges(self, x: Tensor, spans: Spans, mention: Tensor, number: Tensor) -> list[list[int]]:
        """[from, to, relation] between entities, by their `number`; ordered by from, then to."""
        left, right = pairs(spans.report)
        vectors, edges = self.net.vectors(x, spans), []
        for begin in range(0, len(left), PAIRS):
            a, b = left[begin : begin + PAIRS], right[begin : begin + PAIRS]
            label = best(self.net.relate(vectors, mention, a, b))
            said = label > 0
            edges += torch.stack([number[a[said]], number[b[said]], label[said] - 1], dim=1).tolist()
        return edges

    def _put_together(
        self, said: Sequence[Sequence[str]], found: Sequence[Sequence[int]], edges: Sequence[Sequence[int]]
    ) -> list[Annotation]:
        """Entities [start, end, report, label] and edges of a batch, given back to their reports."""
        first_word, total = [], 0
        for each in said:
            first_word.append(total)
            total += len(each)
        spans: list[list[tuple[int, int, str]]] = [[] for _ in said]
        place: list[int] = []
        for start, end, report, label in found:
            place.append(len(spans[report]))
            base = first_word[report]
            spans[report].append((start - base, end - base, self.shape.entities[label]))
        relations: list[list[tuple[int, int, str]]] = [[] for _ in said]
        for source, target, label in edges:
            relations[found[source][2]].append((place[source], place[target], self.shape.relations[label]))
        return [annotation(*each) for each in zip(said, spans, relations, strict=True)]


def load(
    archive: Path,
    bert: Path | None = None,
    *,
    kind: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> RadGraph:
    """Read an annotator from an unpacked archive.

    `bert` is a folder with the configuration and the tokenizer of the encoder; by default the folder inside the archive
    that config.json names. `kind` is needed where an archive holds the heads of several model types. Tensors of any
    floating-point type are cast to `dtype`.

    Raises:
        CxrbenchError: a file is missing, is not in this layout, or does not fit the configuration.
    """
    shape = read_shape(archive, kind)
    folder = bert if bert is not None else archive / shape.bert
    if not folder.is_dir():
        raise CxrbenchError(
            f"the encoder of this RadGraph is {shape.bert!r}, and no folder with its configuration is given",
            where=str(folder),
            fix=f"fetch config.json and the tokenizer of {shape.bert} and give their folder",
        )
    net = DyGIE(shape, read_config(folder)).float()
    file = archive / "weights.th"
    fill(net, renamed(read_weights(file), shape.kind), file)
    return RadGraph(net.to(device=device, dtype=dtype), read_tokenizer(folder), marked=_marked(folder))


def _marked(folder: Path) -> bool:
    """Whether the package would put marks around rows: by the tokenizer class the folder names, else by its encoder."""
    file = folder / "tokenizer_config.json"
    named = json.loads(file.read_text(encoding="utf-8")).get("tokenizer_class") if file.is_file() else None
    return named not in GENERIC if named else read_config(folder).model_type != "modernbert"


def renamed(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The tensors of a weights.th under their names here, without heads of other model types and those never run."""
    names = {old.format(kind=kind): new for old, new in NAMES.items()}
    out = {}
    for name, value in state.items():
        head = _HEAD.search(name)
        if name.startswith(UNUSED) or (head and head["kind"] != kind):
            continue
        prefix = next((each for each in names if name.startswith(each)), "")
        out[names.get(prefix, "") + name.removeprefix(prefix)] = value
    return {name: value for name, value in out.items() if name not in BUFFERS}
