"""The same predictions under every text convention: how far a number moves when only the convention changes.

    python benchmarks/text_conventions.py [--data FOLDER]

FOLDER holds `metric_cases/` and `iu_xray/` (default: $CXRBENCH_TEST_DATA, else ../shared/data beside the checkout).
Two systems: reports of CvT2DistilGPT2 (590 studies, lower case, no commas: what a model trained on cleaned reports
writes) against the radiologists' own text, and impressions of a large language model (144 studies, ordinary prose).
The R2Gen vocabulary is that of the 590 studies' published table. Conventions that cannot run here are named.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from cxrbench.metrics.base import Corpus, Metric, Pairs
from cxrbench.metrics.bleu import Bleu
from cxrbench.metrics.cider import Cider
from cxrbench.metrics.rouge import RougeL
from cxrbench.metrics.tokens import Tokens

PRESETS = ("raw", "coco", "r2gen", "sacrebleu", "rouge-score", "radeval")
COLUMNS = ((Bleu, "bleu_1"), (Bleu, "bleu_4"), (RougeL, "rouge_l"), (Cider, "cider"))


def value(metric: Metric, name: str, predictions: list[str], corpus: Corpus) -> float:
    context = metric.fit(corpus)
    pairs = Pairs([str(i) for i in range(len(predictions))], predictions, corpus.references)
    features = {request: Tokens().extract(pairs, dict(request.settings)) for request in metric.needs(context)}
    return float(metric.value(metric.statistics(pairs, features, context).rows[:, 0].sum(axis=0))[name])


def table(title: str, predictions: list[str], references: list[str], vocabulary: frozenset[str]) -> None:
    print(f"\n{title}, {len(references)} pairs\n{'':14}" + "".join(f"{name:>10}" for _, name in COLUMNS))
    corpus = Corpus(references, vocabulary=vocabulary)
    for preset in PRESETS:
        cells, reasons = [], set()
        for kind, name in COLUMNS:
            if preset not in kind.presets:
                cells.append(f"{'-':>10}")
            elif (reason := kind(preset).ready()) is not None:
                cells.append(f"{'-':>10}")
                reasons.add(reason)
            else:
                cells.append(f"{value(kind(preset), name, predictions, corpus):10.4f}")
        print(f"{preset:14}{''.join(cells)}   {'; '.join(sorted(reasons))}".rstrip())


def main() -> None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CXRBENCH_TEST_DATA", beside)))
    cases = parser.parse_args().data / "metric_cases"
    case = json.loads((cases / "iu_cvt2distilgpt2_r2gen_test_590.json").read_text())
    vocabulary = frozenset(case["train_vocabulary_min_count_3"])
    keys = list(case["references_raw"])
    references = [case["references_raw"][key] for key in keys]
    table("CvT2DistilGPT2, findings", [case["hypotheses_raw"][key] for key in keys], references, vocabulary)
    items = json.loads((cases / "opi_impression_llm_outputs.json").read_text())["items"]
    table("language model, impressions", [i["output"] for i in items], [i["target"] for i in items], vocabulary)


if __name__ == "__main__":
    main()
