"""Run the reference packages and keep what they say, for the tests in tests/parity.

    python -m tools.parity.record WORK --data DATA      # tox -e parity does this; half an hour on two cores

WORK/weights is written by tools/oracle_weights.py if it is not there. It runs in an environment of its own, since the
packages need transformers below 5. Each package reads every text by its own unchanged code, one report at a time; only
what passes between its parts is written down beside the result: logits, and scores of spans and pairs, for the margins
of decisions. What is recorded stays in WORK (annotations hold the words of real reports) and is not recorded again.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import json
import os
import platform
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tools.oracle_weights import installed_vocabulary, make
from tools.parity import texts

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = ROOT / "cxrbench/embedded"
DTYPES = {"fp32": torch.float32, "fp64": torch.float64}
SETS = ("full", "embedded")
CLOSE = 1e-4
"""Margin of a decision that single precision may take either way."""
ENCODERS = ("wordpiece", "byte-level")
BASELINE = (0.84732, 0.84759504, 0.8473319)
"""P, R, F that rescaling turns into 0; any figures would do."""
PACKAGES = ("radgraph", "f1chexbert", "bert-score", "torch", "transformers", "scikit-learn")


@contextlib.contextmanager
def quiet_warnings() -> Iterator[None]:
    """Keep what the packages warn of to themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def hashed(text: str) -> str:
    """Names a text without its words."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what the packages print and warn of to themselves."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def record(out: Path, given: Sequence[str], say: Callable[[str], Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What `say` says of every text, a line each; lines of an earlier run are kept. Returns all of them.

    Raises:
        SystemExit: the lines are those of other texts.
    """
    written = out.read_text(encoding="utf-8") if out.is_file() else ""
    whole = written[: written.rfind("\n") + 1]
    if whole != written:  # killed while it wrote
        out.write_text(whole, encoding="utf-8")
    done = [json.loads(line) for line in whole.splitlines()]
    if [line["text_hash"] for line in done] != [hashed(text) for text in given[: len(done)]]:
        raise SystemExit(f"{out} was recorded with other texts; remove it")
    begun = time.perf_counter()
    with out.open("a", encoding="utf-8") as file:
        for text in given[len(done) :]:
            started = time.perf_counter()
            said = dict(say(text))
            done.append({"text_hash": hashed(text), "seconds": round(time.perf_counter() - started, 4), **said})
            file.write(json.dumps(done[-1], separators=(",", ":")) + "\n")
            file.flush()
            if len(done) % 100 == 0 or len(done) == len(given):
                print(f"{out.name}: {len(done)} of {len(given)}, {time.perf_counter() - begun:.0f} s", flush=True)
    return done


# CheXbert


def f1chexbert(place: Path, dtype: torch.dtype) -> Any:
    """The package with the weights in a folder that holds chexbert.pth and `bert-base-uncased`."""
    os.chdir(place)
    import f1chexbert.f1chexbert as module

    module.CACHE_DIR = str(place)
    package = module.F1CheXbert(device="cpu")
    package.model.to(dtype)
    return package


class Known(nn.Module):
    """Stands for the network where a report is made: the classes it chose before, by token ids, as logits."""

    def __init__(self, classes: Mapping[tuple[int, ...], Sequence[int]]) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, ids: Tensor, _: Tensor) -> list[Tensor]:
        assert len(ids) == 1
        return [torch.eye(4)[chosen][None] for chosen in self.classes[tuple(ids[0].tolist())]]


def record_chexbert(place: Path, given: texts.Texts, dtype: torch.dtype, out: Path) -> None:
    """Classes and margins (14,) and [CLS] (hidden,) of every text; then the package's report on the pairs."""
    with quiet():
        package = f1chexbert(place, dtype)
    logits: list[list[Tensor]] = []
    vectors: list[Tensor] = []
    package.model.bert.register_forward_hook(lambda _, __, found: vectors.append(found[0][0, 0]))
    package.model.register_forward_hook(lambda _, __, found: logits.append(found))

    def say(text: str) -> dict[str, Any]:
        values = package.get_label(text, mode="classification")
        return {
            "classes": [VALUES[value] for value in values],
            "margins": [margin(each[0]) for each in logits.pop()],
            "vector": [float(f"{value:.9g}") for value in vectors.pop().tolist()],
        }

    with quiet_warnings():
        lines = record(out, given.all, say)
        ids = [tuple(ids_of(package, text)) for text in given.all]
        package.model = Known(dict(zip(ids, (line["classes"] for line in lines), strict=True)))
        said, true = zip(*given.pairs, strict=True)
        accuracy, each, report, report_5 = package(list(said), list(true))
    told = {"accuracy": accuracy, "per_sample": each.tolist(), "report": report, "report_5": report_5}
    out.with_suffix(".pairs.json").write_text(json.dumps(told, default=float), encoding="utf-8")


def ids_of(package: Any, text: str) -> list[int]:
    """Token ids by the package's own code."""
    import f1chexbert.f1chexbert as module
    import pandas as pd

    (ids,) = module.tokenize(pd.Series([text]), package.tokenizer)
    return list(ids)


VALUES = {"": 0, 1: 1, 0: 2, -1: 3}
"""What the package says in its mode `classification` -> class index."""


def margin(scores: Tensor) -> float:
    """By how much the best of some scores (classes,) is better than the second."""
    first, second = scores.topk(2).values.tolist()
    return float(first - second)


# RadGraph


class Decisions:
    """What the package decides inside: watches the hand-over of scores, and changes nothing."""

    def __init__(self, model: Any) -> None:
        self.found: list[dict[str, Any]] = []
        ner, relation = model._ner.predict, model._relation.predict
        model._ner.predict = lambda *given: (self._entities(*given), ner(*given))[1]
        model._relation.predict = lambda *given: (self._relations(*given), relation(*given))[1]
        pruner = next(iter(model._relation._mention_pruners.values()))
        pruner.register_forward_hook(lambda _, given, __: self._pruned(pruner._scorer(given[0]), int(given[2])))

    def _entities(self, scores: Tensor, spans: Tensor, mask: Tensor, _: Any) -> None:
        assert bool(mask.all())
        first, second = scores[0].topk(2, dim=1).values.T
        close = (first - second < CLOSE).nonzero()[:, 0]
        self._spans = spans[0]
        self.found.append(
            {
                "spans": len(scores[0]),
                "null_spans": int((scores[0].argmax(1) == 0).sum()),
                "close_spans": [[*spans[0, i].tolist(), float(first[i] - second[i])] for i in close],
            }
        )

    def _pruned(self, scores: Tensor, keep: int) -> None:
        """Spans on either side of the line below which the pruner drops, where they are close to it."""
        ordered, at = scores[0, :, 0].sort(descending=True)
        keep = max(keep, 1)
        close: list[list[Any]] = []
        if keep < len(ordered) and float(ordered[keep - 1] - ordered[keep]) < CLOSE:
            line = float(ordered[keep])
            near = at[(ordered - line).abs() < CLOSE]
            close = [[*self._spans[i].tolist(), float(ordered[keep - 1] - line)] for i in near]
        self.found[-1]["close_pruned"] = close

    def _relations(self, spans: Tensor, scores: Tensor, keep: Tensor, _: Any) -> None:
        kept = int(keep)
        scores = scores[0, :kept, :kept]
        first, second = scores.topk(2, dim=2).values.unbind(2)
        close = (first - second < CLOSE).nonzero().tolist()
        at = spans[0].tolist()
        self.found[-1] |= {
            "pairs": kept * kept,
            "null_pairs": int((scores.argmax(2) == 0).sum()),
            "close_pairs": [[*at[i], *at[j], float(first[i, j] - second[i, j])] for i, j in close],
        }


class Annotated(nn.Module):
    """Stands for the annotator inside the scorer: what it said of each text before."""

    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__()
        self.said = said

    def forward(self, given: Sequence[str]) -> dict[str, Any]:
        return {str(i): self.said[text] for i, text in enumerate(given)}


def record_radgraph(cache: Path, kind: str, given: texts.Texts, dtype: torch.dtype, out: Path) -> None:
    """Annotation and decisions of every text; rewards of three levels of the pairs."""
    from radgraph.radgraph import F1RadGraph

    with quiet():
        scorer = F1RadGraph(reward_level="all", model_type=kind, model_cache_dir=str(cache), cuda=-1)
    package = scorer.radgraph
    package.model.to(dtype)
    decisions = Decisions(package.model)

    def say(text: str) -> dict[str, Any]:
        found = package([text])["0"]
        return {"annotation": {key: found[key] for key in ("text", "entities")}, **decisions.found.pop()}

    with quiet_warnings(), torch.inference_mode():
        lines = record(out, given.all, say)
    scorer.radgraph = Annotated(dict(zip(given.all, (line["annotation"] for line in lines), strict=True)))
    predictions, references = map(list, zip(*given.pairs, strict=True))
    _, rewards, _, _ = scorer(refs=references, hyps=predictions)
    told = dict(zip(("simple", "partial", "complete"), rewards, strict=True))
    out.with_suffix(".pairs.json").write_text(json.dumps(told), encoding="utf-8")


# BERTScore


def record_bertscore(weights: Path, data: Path, work: Path, out: Path) -> None:
    """Precision, recall and F of every pair under every encoder, layer, weighting and scale, one pair at a time."""
    from bert_score import score

    if out.is_file():
        return
    pairs = texts.scored(data)
    table = work / "baseline.tsv"
    rows = [",".join(map(str, (layer, *BASELINE))) for layer in range(20)]
    table.write_text("\n".join(["LAYER,P,R,F", *rows]) + "\n", encoding="utf-8")
    cases, begun = [], time.perf_counter()
    deepest = json.loads((weights / "wordpiece/config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    settings = ((deepest, False, False), (max(1, deepest - 1), True, False), (deepest, True, True))
    for name in ENCODERS:
        for number, idf, rescaled in settings:
            with quiet(), contextlib.redirect_stderr(io.StringIO()), torch.inference_mode():
                found = score(
                    [said for said, _ in pairs],
                    [true for _, true in pairs],
                    model_type=str(weights / name),
                    num_layers=number,
                    idf=idf,
                    nthreads=0,
                    batch_size=1,
                    device="cpu",
                    lang="en",
                    rescale_with_baseline=rescaled,
                    baseline_path=str(table) if rescaled else None,
                )
            told = {"encoder": name, "layer": number, "idf": idf, "rescaled": rescaled}
            cases.append({**told, "scores": torch.stack(found, dim=1).tolist()})
            print(f"bertscore: {name} layer {number}, {time.perf_counter() - begun:.0f} s", flush=True)
    out.write_text(json.dumps({"seconds": time.perf_counter() - begun, "cases": cases}), encoding="utf-8")


# All of them


def prepare(work: Path) -> None:
    """Both sets of weights where the packages look for them."""
    if not (work / "weights/weights.json").is_file():
        make(work / "weights", installed_vocabulary(), layers=12, hidden=768, widest=12, seed=0)
    tiny = work / "embedded"
    if not tiny.is_dir():
        shutil.copytree(EMBEDDED / "labeler", tiny / "bert-base-uncased")
        shutil.copyfile(EMBEDDED / "labeler/chexbert.pth", tiny / "chexbert.pth")
        shutil.copytree(EMBEDDED / "annotator", tiny / "radgraph/radgraph")
        shutil.copytree(EMBEDDED / "annotator/bert", tiny / "bert")


def plan(work: Path, data: Path) -> Iterator[tuple[Path, Callable[[Path], None]]]:
    """What there is to record, and how."""
    for chosen in SETS:
        place = work / ("weights" if chosen == "full" else chosen)
        kind = "radgraph-xl" if chosen == "full" else "radgraph"
        for name, dtype in DTYPES.items():
            yield (
                work / f"chexbert-{chosen}-{name}.jsonl",
                functools.partial(record_chexbert, place, texts.read(data, "chexbert"), dtype),
            )
            yield (
                work / f"radgraph-{chosen}-{name}.jsonl",
                functools.partial(
                    _in(place), record_radgraph, place / "radgraph", kind, texts.read(data, "radgraph"), dtype
                ),
            )
    yield work / "bertscore.json", functools.partial(record_bertscore, work / "weights", data, work)


def _in(place: Path) -> Callable[..., None]:
    """Call something in a working directory: archives name their encoder by a relative path."""

    def call(what: Callable[..., None], *given: Any) -> None:
        os.chdir(place)
        what(*given)

    return call


def main() -> None:
    """Record what is not recorded yet."""
    parser = argparse.ArgumentParser(description="Run the reference packages and keep what they say.")
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the folder with iu_xray/ and metric_cases/")
    parser.add_argument("--only", help="part of a file's name: record nothing else")
    given = parser.parse_args()
    work, data = given.work.resolve(), given.data.resolve()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    work.mkdir(parents=True, exist_ok=True)
    prepare(work)
    for out, act in plan(work, data):
        if not given.only or given.only in out.name:
            act(out)
    if all(out.is_file() for out, _ in plan(work, data)):
        about = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
        (work / "recorded.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
