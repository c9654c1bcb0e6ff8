"""METEOR beside pycocoevalcap, on real IU-Xray pairs, in one run.

    python benchmarks/meteor.py [--data FOLDER] [--pairs 600 1800] [--processes 2] [--repeat 3]

FOLDER holds `metric_cases/` (default: $CXRBENCH_TEST_DATA, else ../shared/data beside the checkout). Pairs are distinct
predictions of five published systems with their references, so nothing is gained by working on equal pairs once. Both
sides are timed from nothing to the corpus value: the start of Java, the paraphrase table, all pairs, the end. The two
take turns, and the best of `--repeat` runs counts: wall-clock time on a machine that has nothing else to do is what is
compared, so the load beside it and the processor seconds of both (with their Java processes) are printed, too.
Needs Java and pycocoevalcap. Ends with an error when a number differs by more than 1e-12.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pycocoevalcap.meteor.meteor import Meteor as Theirs

from cxrbench.metrics.meteor import Scorer, cores, final_score, rows_of
from cxrbench.metrics.meteor_jvm import Settings

Pairs = list[tuple[str, str]]
Numbers = tuple[float, np.ndarray]
CASES = ("iu_template_382", "iu_qwen_beam3_382", "iu_logp_select_382", "iu_sentence_fusion_382")
PUBLISHED = "iu_cvt2distilgpt2_r2gen_test_590"


def real_pairs(data: Path) -> Pairs:
    pairs: Pairs = []
    for name in (PUBLISHED, *CASES):
        case = json.loads((data / "metric_cases" / f"{name}.json").read_text(encoding="utf-8"))
        kind = "_raw" if name == PUBLISHED else ""
        references, predictions = case[f"references{kind}"], case[f"hypotheses{kind}"]
        pairs += [(predictions[key].replace("\n", " "), references[key].replace("\n", " ")) for key in references]
    return list(dict.fromkeys(pairs))


def theirs(pairs: Pairs) -> Numbers:
    meteor = Theirs()
    references, predictions = {i: [r] for i, (_, r) in enumerate(pairs)}, {i: [p] for i, (p, _) in enumerate(pairs)}
    corpus, each = meteor.compute_score(references, predictions)
    del meteor
    return corpus, np.array(each)


def ours(pairs: Pairs, processes: int) -> Numbers:
    scorer = Scorer(Settings(processes=processes))
    rows = rows_of(scorer.score(pairs))
    scorer.close()
    return float(final_score(rows.sum(axis=0))), final_score(rows)


def timed(work: Callable[[], Numbers]) -> tuple[float, float, Numbers]:
    """Wall-clock seconds, processor seconds of this process and its children, and what came out."""
    before, start = processor_seconds(), time.perf_counter()
    numbers = work()
    return time.perf_counter() - start, processor_seconds() - before, numbers


def processor_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def compare(pairs: Pairs, processes: int, repeat: int) -> float:
    """Print one line; returns the largest difference of any number."""
    runs = [(timed(lambda: theirs(pairs)), timed(lambda: ours(pairs, processes))) for _ in range(repeat)]
    walls = [min(run[side][0] for run in runs) for side in (0, 1)]
    cpus = [min(run[side][1] for run in runs) for side in (0, 1)]
    (corpus, each), (our_corpus, our_each) = runs[0][0][2], runs[0][1][2]
    off = max(abs(our_corpus - corpus), float(np.abs(our_each - each).max()))
    print(
        f"{len(pairs):6,} {walls[0]:14.2f} {walls[1]:9.2f} {walls[0] / walls[1]:6.1f}x"
        f" {cpus[0]:14.2f} {cpus[1]:9.2f} {our_corpus:10.6f} {off:10.1e}"
    )
    return off


def main() -> None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CXRBENCH_TEST_DATA", beside)))
    parser.add_argument("--pairs", type=int, nargs="+", default=[600, 1800])
    parser.add_argument("--processes", type=int, default=cores())
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    pairs = real_pairs(arguments.data)
    print(f"{cores()} cores, {arguments.processes} Java processes, load of the last minute {os.getloadavg()[0]:.1f}")
    print(f"{'':6} {'wall s':>14} {'':9} {'':7} {'processor s':>14}")
    print(
        f"{'pairs':>6} {'pycocoevalcap':>14} {'cxrbench':>9} {'faster':>7} {'pycocoevalcap':>14} {'cxrbench':>9}",
        end="",
    )
    print(f" {'METEOR':>10} {'off by':>10}")
    off = max(compare(pairs[:count], arguments.processes, arguments.repeat) for count in arguments.pairs)
    if off > 1e-12:
        raise SystemExit(f"numbers differ by {off:.1e}")


if __name__ == "__main__":
    main()
