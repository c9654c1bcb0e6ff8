"""BLEU-1..4, ROUGE-L and CIDEr beside pycocoevalcap, on real IU-Xray pairs, in one run.

    python benchmarks/text_metrics.py [--data FOLDER] [--pairs 2000] [--repeat 3] [--large 200000]

FOLDER holds `metric_cases/` and `iu_xray/` (default: $CXRBENCH_TEST_DATA, else ../shared/data beside the checkout).
Two sets of pairs, because equal texts are worked on once here and real systems repeat themselves: `systems` are the
predictions of five published systems, `distinct` pairs reports of different studies so that no text occurs twice.
Texts are lower-cased, with a space around punctuation where the source has it so, and go in as strings; both sides do
all their work from there on. Ours is measured as the scorer runs it: fit, features, statistics, value. `alone` computes
a metric by itself, `together` shares the words and n-gram counts. Processor time (other load does not
matter), best of `--repeat`; no Java on either side.

`--large N` scores N pairs of texts put together from the sentences of real reports, as `cxrbench score` does, with all
text metrics that need no Java, and prints time, peak memory and the size of what CIDEr keeps.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu as CocoBleu
from pycocoevalcap.cider.cider import Cider as CocoCider
from pycocoevalcap.rouge.rouge import Rouge as CocoRouge

from cxrbench.metrics.base import Corpus, Metric, Pairs
from cxrbench.metrics.bleu import Bleu
from cxrbench.metrics.cider import Cider
from cxrbench.metrics.rouge import RougeL
from cxrbench.metrics.tokens import Tokens

Texts = list[str]
Numbers = dict[str, tuple[float, np.ndarray]]
CASES = ("iu_template_382", "iu_qwen_beam3_382", "iu_logp_select_382", "iu_sentence_fusion_382")


def systems(data: Path) -> tuple[Texts, Texts]:
    predictions, references = [], []
    for name in CASES:
        case = json.loads((data / "metric_cases" / f"{name}.json").read_text())
        predictions += [case["hypotheses"][key] for key in case["references"]]
        references += case["references"].values()
    case = json.loads((data / "metric_cases" / "iu_cvt2distilgpt2_r2gen_test_590.json").read_text())
    predictions += [case["hypotheses_processed"][key] for key in case["references_processed"]]
    references += case["references_processed"].values()
    order = np.random.default_rng(0).permutation(len(references))
    return [predictions[i] for i in order], [references[i] for i in order]


def distinct(data: Path, pairs: int) -> tuple[Texts, Texts]:
    splits = json.loads((data / "iu_xray" / "mrg_rl" / "annotation.json").read_text())
    reports = [study["report"].lower() for split in splits.values() for study in split]
    lines = "".join(
        path.read_text() for path in sorted((data / "iu_xray" / "opi_findings_to_impression").glob("*.jsonl"))
    )
    reports += [json.loads(line)["inputs"].lower() for line in lines.splitlines()]
    texts = list(dict.fromkeys(reports))
    half = min(len(texts) // 2, pairs)
    return texts[:half], texts[half : 2 * half]


def theirs(metrics: Sequence[str], predictions: Texts, references: Texts) -> Numbers:
    made = {"bleu": CocoBleu, "rouge-l": CocoRouge, "cider": CocoCider}
    numbers: Numbers = {}
    for name in metrics:
        gts = {i: [text] for i, text in enumerate(references)}
        res = {i: [text] for i, text in enumerate(predictions)}
        arguments = {"verbose": 0} if name == "bleu" else {}
        corpus, each = made[name]().compute_score(gts, res, **arguments)
        if name == "bleu":
            numbers |= {f"bleu_{k + 1}": (corpus[k], np.array(each[k])) for k in range(4)}
        else:
            numbers[name.replace("-", "_")] = (float(corpus), np.asarray(each))
    return numbers


def ours(metrics: Sequence[str], predictions: Texts, references: Texts) -> Numbers:
    made: list[Metric] = [{"bleu": Bleu, "rouge-l": RougeL, "cider": Cider}[name]("raw") for name in metrics]
    pairs = Pairs([str(i) for i in range(len(references))], predictions, references)
    numbers: Numbers = {}
    features = {}
    for metric in made:
        context = metric.fit(Corpus(references))
        for request in metric.needs(context):
            if request not in features:
                features[request] = Tokens().extract(pairs, dict(request.settings))
        rows = metric.statistics(pairs, features, context).rows[:, 0]
        corpus, each = metric.value(rows.sum(axis=0)), metric.value(rows)
        numbers |= {name: (float(corpus[name]), each[name]) for name in corpus}
    return numbers


def best(call: Callable[[], Numbers], repeat: int) -> tuple[float, Numbers]:
    times = []
    for _ in range(repeat):
        start = time.process_time()
        numbers = call()
        times.append(time.process_time() - start)
    return min(times), numbers


def compare(label: str, predictions: Texts, references: Texts, repeat: int) -> None:
    words = np.mean([len(text.split()) for text in predictions + references])
    different = len(set(zip(predictions, references, strict=True)))
    print(
        f"\n{label}: {len(references)} pairs, {different} different; {len(set(predictions))} different predictions, "
        f"{len(set(references))} references; {words:.1f} words on average"
    )
    print(f"{'':20}{'pycocoevalcap':>15}{'cxrbench':>12}{'ratio':>8}   max |difference| corpus, per sample")
    rows = [("BLEU-1..4 alone", ["bleu"]), ("ROUGE-L alone", ["rouge-l"]), ("CIDEr alone", ["cider"])]
    for title, metrics in [*rows, ("together", ["bleu", "rouge-l", "cider"])]:
        their_time, expected = best(lambda m=metrics: theirs(m, predictions, references), repeat)
        our_time, found = best(lambda m=metrics: ours(m, predictions, references), repeat)
        corpus = max(abs(found[name][0] - expected[name][0]) for name in expected)
        each = max(float(np.abs(found[name][1] - expected[name][1]).max()) for name in expected)
        per = 1000 / len(references)
        print(
            f"{title:20}{their_time * per:12.4f} ms{our_time * per:9.4f} ms{their_time / our_time:7.1f}x"
            f"   {corpus:.1e}, {each:.1e}"
        )


def large(data: Path, pairs: int) -> None:
    from cxrbench import scoring
    from cxrbench.types import OK, Prediction, Sample

    texts, others = distinct(data, 2000)
    sentences = sorted({part.strip() + " ." for text in texts + others for part in text.split(".") if part.strip()})
    draw = np.random.default_rng(0)

    def report() -> str:
        return " ".join(sentences[i] for i in draw.integers(0, len(sentences), draw.integers(3, 12)))

    samples = [Sample(sample_id=str(i), study_id=str(i), patient_id=None, target=report()) for i in range(pairs)]
    predictions = {sample.sample_id: Prediction(sample.sample_id, OK, report()) for sample in samples}
    words = np.mean([len(sample.target.split()) for sample in samples[:2000]])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n{pairs} pairs, all different, {words:.0f} words on average; {before:.0f} MB before scoring")
    corpus = Corpus([sample.target for sample in samples])
    start = time.process_time()
    chosen = scoring.choose(["bleu", "rouge-l", "cider", "length", "distinct"], [], [])
    scored = scoring.score(samples, predictions, chosen, corpus, "none")
    seconds = time.process_time() - start
    kept = sum(len(json.dumps(dict(each.context.data))) for each in scored) / 1e6
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{seconds:.1f} s, {1000 * seconds / pairs:.3f} ms a pair; peak {after:.0f} MB; contexts {kept:.1f} MB JSON")


def main() -> None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CXRBENCH_TEST_DATA", beside)))
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--large", type=int, default=0, metavar="N")
    given = parser.parse_args()
    if given.large:
        large(given.data, given.large)
        return
    predictions, references = systems(given.data)
    print("processor time per pair")
    compare("systems", predictions[: given.pairs], references[: given.pairs], given.repeat)
    compare("distinct", *distinct(given.data, given.pairs), given.repeat)


if __name__ == "__main__":
    main()
