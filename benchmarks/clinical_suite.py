"""The whole suite beside the sum of the packages: eight metrics, real systems, full-size encoders, one CPU.

    python -m benchmarks.clinical_suite --python .tox/parity/bin/python --weights WEIGHTS [--systems NAME NAME ...]

WEIGHTS is what `tools/oracle_weights.py` wrote. Both sides score BLEU, ROUGE-L, METEOR, CIDEr, BERTScore (an encoder of
six layers, as distilroberta-base has), CheXbert F1, RadGraph F1 and RadCliQ of a system's 382 reports. The packages are
pycocoevalcap, bert-score 0.3.13, f1chexbert 0.0.2 and radgraph 0.1.18; RadCliQ has no package that runs, so what
CXR-Report-Metric and RadEval do for it is done with these: they annotate the texts again. The sum is also given with
RadCliQ for nothing, which none offers. Models are loaded beforehand on both sides. The first system meets an empty
store, the next ones the same references. Ends with an error where a ratio falls short or memory is exceeded.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

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
LAYER = 5


def make_encoder(folder: Path, bert: Path) -> None:
    """A BERT of six layers of 768 with random weights, in the files that both sides read."""
    import shutil

    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig(num_hidden_layers=6)).save_pretrained(folder)
    for file in bert.iterdir():
        if file.name != "config.json":
            shutil.copy(file, folder / file.name)


def theirs(both: Packages, said: list[str], true: list[str]) -> dict[str, float]:
    """Seconds of each package."""
    gts, res = {i: [text] for i, text in enumerate(true)}, {i: [text] for i, text in enumerate(said)}
    spent = {}
    makers = {"bleu": lambda: Bleu(4), "rouge-l": Rouge, "cider": Cider, "meteor": Meteor}
    for name, make in makers.items():
        start = time.perf_counter()
        scorer = make()
        scorer.compute_score(gts, res, **({"verbose": 0} if name == "bleu" else {}))
        spent[name] = time.perf_counter() - start
    asked = {"bertscore": "bertscore", "chexbert-f1": "f1chexbert", "radgraph-f1": "f1radgraph", "radcliq": "radcliq"}
    for name, what in asked.items():
        spent[name] = both.ask(what, predictions=said, references=true).seconds
    return spent


def ours(said: list[str], true: list[str], resources: Resources) -> float:
    """Seconds of ours, as `cxrbench score` works."""
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
    return spent


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
    failed = []
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
                mine = ours(said, true, Resources(Store(work / "store"), settings))
                spent = theirs(both, said, true)
                total, least = sum(spent.values()), SECOND if number else COLD
                once = total - spent["radcliq"]
                print(f"{name}: {len(set(said))} different predictions, {len(set(true))} references")
                print("  packages: " + ", ".join(f"{key} {value:.1f} s" for key, value in spent.items()))
                print(
                    f"  sum {total:.1f} s, ours {mine:.1f} s: {total / mine:.2f} times"
                    f" (RadCliQ for nothing: {once / mine:.2f} times); at least {least}",
                    flush=True,
                )
                failed += [f"{name}: {total / mine:.2f} times"] if total / mine < least else []
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak memory of ours, models and all: {peak / 1e9:.2f} GB; at most {MEMORY / 1e9}")
    failed += [f"memory {peak / 1e9:.2f} GB"] if peak > MEMORY else []
    if failed:
        raise SystemExit("; ".join(failed))


if __name__ == "__main__":
    main()
