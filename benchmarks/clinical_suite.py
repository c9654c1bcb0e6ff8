"""The whole suite beside the sum of the packages: eight metrics, real systems, full-size encoders, one CPU.

    python -m benchmarks.clinical_suite --python .tox/parity/bin/python --weights WEIGHTS [--systems NAME NAME ...]

WEIGHTS is what `tools/oracle_weights.py` wrote. Both sides score BLEU, ROUGE-L, METEOR, CIDEr, BERTScore (an encoder of
six layers, as distilroberta-base has), CheXbert F1, RadGraph F1 and RadCliQ of a system's 382 reports. The packages are
pycocoevalcap, bert-score 0.3.13, f1chexbert 0.0.2 and radgraph 0.1.18; RadCliQ has no package that runs, so what
CXR-Report-Metric and RadEval do for it is done with these: they annotate the texts again. The sum is also given with
RadCliQ for nothing, which none offers. Networks are loaded beforehand on both sides; METEOR's Java starts within the
time on both. Both use as many threads as torch takes by itself. The first system meets an empty store, the next ones
the same references. Ends with an error where a number differs, a ratio falls short, or memory, Java's with it, is
exceeded.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import threading
import time
from pathlib import Path

import psutil
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge

from benchmarks._reference import BESIDE, CASES, Packages, case, config, missing, packages
from cxrbench import scoring
from cxrbench.features.base import Resources
from cxrbench.features.store import Store
from cxrbench.metrics.base import Corpus
from cxrbench.types import OK, Prediction, Sample

METRICS = ("bleu", "rouge-l", "meteor", "cider", "bertscore", "chexbert-f1", "radgraph-f1", "radcliq")
COLD, SECOND = 2.5, 4.0
MEMORY = 3.5e9
APART = 1e-5
LAYER = 5


def make_encoder(folder: Path, bert: Path) -> None:
    """A BERT of six layers of 768 with random weights, in the files that both sides read."""
    import shutil

    import torch
    from transformers import BertConfig, BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    BertModel(BertConfig(num_hidden_layers=6)).save_pretrained(folder)
    for file in bert.iterdir():
        if file.name != "config.json":
            shutil.copy(file, folder / file.name)


class Peak:
    """The greatest resident memory of this process and the Java processes it starts, looked at ten times a second."""

    def __init__(self) -> None:
        self.bytes, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.1):
            total = me.memory_info().rss
            for child in me.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += child.memory_info().rss if "java" in child.name() else 0
            self.bytes = max(self.bytes, total)


def theirs(both: Packages, said: list[str], true: list[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each package, and the numbers that both sides must agree on."""
    gts, res = {i: [text] for i, text in enumerate(true)}, {i: [text] for i, text in enumerate(said)}
    spent, found = {}, {}
    makers = {"bleu": lambda: Bleu(4), "rouge-l": Rouge, "cider": Cider, "meteor": Meteor}
    for name, make in makers.items():
        start = time.perf_counter()
        scorer = make()
        corpus, _ = scorer.compute_score(gts, res, **({"verbose": 0} if name == "bleu" else {}))
        spent[name] = time.perf_counter() - start
        found[name] = float(corpus[3] if name == "bleu" else corpus)
    asked = {"bertscore": "bertscore", "chexbert-f1": "f1chexbert", "radgraph-f1": "f1radgraph", "radcliq": "radcliq"}
    for name, what in asked.items():
        answer = both.ask(what, predictions=said, references=true)
        spent[name] = answer.seconds
        if name == "radgraph-f1":
            found[name] = answer.found[1]  # of the three levels: partial
        elif name != "radcliq":
            found[name] = answer.found
    return spent, found


NUMBERS = {
    "bleu": "bleu_4",
    "rouge-l": "rouge_l",
    "meteor": "meteor",
    "cider": "cider",
    "chexbert-f1": "micro_f1_14",
    "radgraph-f1": "f1",
}
"""The number of ours that is compared, by metric; BERTScore's is rescaled here and has a benchmark of its own."""


def ours(said: list[str], true: list[str], resources: Resources) -> tuple[float, dict[str, float]]:
    """Seconds of ours, as `cxrbench score` works, and the numbers that are compared."""
    ids = [str(i) for i in range(len(true))]
    samples = [Sample(sample_id=i, study_id=i, patient_id=None, target=text) for i, text in zip(ids, true, strict=True)]
    predictions = {i: Prediction(i, OK, text) for i, text in zip(ids, said, strict=True)}
    start = time.perf_counter()
    corpus = Corpus(true, config=resources.config)
    scored = scoring.score(samples, predictions, scoring.choose(METRICS, [], []), corpus, "none", resources=resources)
    spent = time.perf_counter() - start
    for each in scored:
        if each.statistics is None or each.n != len(true):
            raise SystemExit(f"{each.metric.key} was not scored: {each.reason}")
    values = {each.metric.name: each.metric.value(each.rows().sum(axis=0)) for each in scored}
    return spent, {name: float(values[name][key]) for name, key in NUMBERS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=".tox/parity/bin/python", help="an interpreter that has the packages")
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--data", type=Path, default=BESIDE)
    parser.add_argument("--systems", nargs="+", default=["iu_qwen_beam3_382", "iu_logp_select_382"], choices=CASES)
    parser.add_argument("--pairs", type=int, help="the first so many reports only, for a quick look")
    asked = parser.parse_args()
    reason = missing(asked.python, asked.weights, asked.data)
    if reason is not None:
        print(f"skipped: {reason}")
        return
    import torch

    print(f"{os.cpu_count()} cores, torch on {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    failed: list[str] = []
    highest = 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_encoder(work / "encoder", asked.weights / "bert-base-uncased")
        settings = config(asked.weights, work / "encoder", work)
        with packages(asked.python, asked.weights, work / "encoder", LAYER) as both:
            few = [["Small left pleural effusion."], ["No effusion."]]
            ours(*few, Resources(Store(work / "warm"), settings))
            theirs(both, *few)
            for number, name in enumerate(asked.systems):
                # A line break inside a text is more than the package's way of talking to METEOR's jar can take.
                said, true = (
                    [text.replace("\n", " ") for text in side[: asked.pairs]] for side in case(name, asked.data)
                )
                with Peak() as peak:
                    mine, our_numbers = ours(said, true, Resources(Store(work / "store"), settings))
                highest = max(highest, peak.bytes)
                spent, their_numbers = theirs(both, said, true)
                apart = max(abs(our_numbers[key] - their_numbers[key]) for key in NUMBERS)
                total, least = sum(spent.values()), SECOND if number else COLD
                once = total - spent["radcliq"]
                print(f"{name}: {len(set(said))} different predictions, {len(set(true))} references")
                print("  packages: " + ", ".join(f"{key} {value:.1f} s" for key, value in spent.items()))
                print(
                    f"  sum {total:.1f} s, ours {mine:.1f} s: {total / mine:.2f} times"
                    f" (RadCliQ for nothing: {once / mine:.2f} times); at least {least}",
                    flush=True,
                )
                print(f"  greatest difference of {len(NUMBERS)} numbers: {apart:.1e}", flush=True)
                failed += [f"{name}: {total / mine:.2f} times"] if total / mine < least else []
                failed += [f"{name}: numbers differ by {apart:.1e}"] if apart > APART else []
    print(f"peak memory of ours, models, Java and all: {highest / 1e9:.2f} GB; at most {MEMORY / 1e9}")
    failed += [f"memory {highest / 1e9:.2f} GB"] if highest > MEMORY else []
    if failed:
        raise SystemExit("; ".join(failed))


if __name__ == "__main__":
    main()
