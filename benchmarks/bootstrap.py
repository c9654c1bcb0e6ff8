"""10,000 patient-bootstrap replicates of all text metrics, beside a loop over resamples and scipy.

    python benchmarks/bootstrap.py

The statistics are those of the real metrics on 2,347 generated pairs (the size of MIMIC-CXR's findings test set), once
in 293 patients and once with every report its own patient. The loop does what sacrebleu does (pick rows, add them up,
compute the value); it is timed on 200 replicates and scaled, and its values must equal ours. scipy resamples one metric
alone. Memory is the peak of the whole process, imports included. METEOR's columns are included where Java is.
"""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable

import numpy as np

from cxrbench.metrics.base import Corpus
from cxrbench.scoring import choose, make_metric, score
from cxrbench.stats import Clusters, Table, bootstrap, replicate, resample_weights
from cxrbench.stats_tests import minimum_detectable_effect, paired_bootstrap, paired_randomisation
from cxrbench.types import Prediction, Sample

SAMPLES, REPLICATES, LOOPED = 2_347, 10_000, 200
METRICS = ("bleu:raw", "bleu:r2gen", "rouge-l:raw", "rouge-l:rouge-score", "cider:raw", "cider:r2gen", "length")
LIMIT_SECONDS, LIMIT_BYTES = 2.0, 1e9

ORGANS = ("lungs", "heart", "mediastinum", "pleura", "hila", "spine", "ribs", "diaphragm", "aorta", "trachea")
STATES = ("clear", "normal", "enlarged", "stable", "unremarkable", "increased in size", "within normal limits")


def texts(seed: int) -> list[str]:
    """Reports of three to eight generated sentences."""
    rng = random.Random(seed)
    return [
        " ".join(
            f"the {rng.choice(ORGANS)} {rng.choice(('is', 'appears'))} {rng.choice(STATES)} ."
            for _ in range(rng.randint(3, 8))
        )
        for _ in range(SAMPLES)
    ]


def tables(predictions: list[str], references: list[str], metrics: list[str]) -> dict[str, Table]:
    """Score as `cxrbench score` does."""
    samples = [Sample(f"s{i}", f"s{i}", None, text) for i, text in enumerate(references)]
    answers = {f"s{i}": Prediction(f"s{i}", "ok", text) for i, text in enumerate(predictions)}
    corpus = Corpus(references, lambda: references)
    found = score(samples, answers, choose(metrics, (), ()), corpus, "none")
    for each in found:
        if each.statistics is None:
            raise SystemExit(f"{each.metric.key}: {each.reason}")
    return {each.metric.key: Table(each.rows(), each.metric) for each in found}


def loop(tables: dict[str, Table], clusters: Clusters) -> dict[str, dict[str, list[float]]]:
    """One resample after the other: pick the rows of the drawn patients, add up, compute."""
    members = [np.flatnonzero(clusters.index == number) for number in range(clusters.count)]
    out: dict[str, dict[str, list[float]]] = {name: {} for name in tables}
    weights = np.vstack([*resample_weights(clusters.count, LOOPED, 0)]).astype(int)
    for counts in weights:
        picked = np.concatenate([np.tile(members[number], times) for number, times in enumerate(counts) if times])
        for name, table in tables.items():
            for value, number in table.metric.value(table.rows[picked].sum(axis=0)).items():
                out[name].setdefault(value, []).append(float(number))
    return out


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def scipy_seconds(table: Table, clusters: Clusters) -> float:
    """One metric by scipy.stats.bootstrap over patients, BCa."""
    from scipy.stats import bootstrap as resample

    sums = clusters.sums(table.rows)

    def value(index: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(table.metric.value(sums[index].sum(axis=-2))["bleu_4"])

    numbers = (np.arange(clusters.count),)
    return seconds(lambda: resample(numbers, value, n_resamples=REPLICATES, batch=100, method="BCa", vectorized=True))


def main() -> None:
    metrics = list(METRICS)
    needs = make_metric("meteor:raw").ready()
    metrics += [] if needs else ["meteor:raw"]
    baseline = tables(texts(1), texts(0), metrics)
    candidate = tables(texts(2), texts(0), metrics)
    columns = sum(table.rows.shape[1] for table in baseline.values())
    print(f"{SAMPLES} samples, {len(metrics)} metrics, {columns} columns, {REPLICATES} replicates, BCa")
    if needs:
        print(f"without METEOR: {needs}")
    for count in (293, SAMPLES):
        ids = [f"p{i % count:05}" for i in range(SAMPLES)]
        clusters = Clusters.of(ids)
        ours = min(seconds(lambda ids=ids: bootstrap(baseline, ids, replicates=REPLICATES)) for _ in range(3))
        begin = time.perf_counter()
        looped = loop(baseline, clusters)
        theirs = (time.perf_counter() - begin) * REPLICATES / LOOPED
        check = replicate(baseline, clusters, resample_weights(clusters.count, LOOPED, 0))
        worst = max(np.abs(check[m][v] - looped[m][v]).max() for m in looped for v in looped[m])
        pairs = {name: (baseline[name], candidate[name]) for name in baseline}
        print(f"\n{count} patients")
        print(f"  cxrbench, all metrics        {ours:8.2f} s   (limit {LIMIT_SECONDS:.0f} s)")
        print(f"  loop, all metrics            {theirs:8.2f} s   scaled from {LOOPED} replicates; {theirs / ours:.0f}x")
        print(f"  scipy, BLEU-4 alone          {scipy_seconds(baseline['bleu:raw'], clusters):8.2f} s")
        print(f"  largest difference to loop   {worst:8.1e}")
        print(f"  paired bootstrap             {seconds(lambda p=pairs, i=ids: paired_bootstrap(p, i)):8.2f} s")
        print(f"  paired randomisation         {seconds(lambda p=pairs, i=ids: paired_randomisation(p, i)):8.2f} s")
        table = baseline["bleu:raw"]
        spent = seconds(lambda t=table, i=ids: minimum_detectable_effect(t, i))
        print(f"  detectable effect, BLEU      {spent:8.2f} s")
        if ours > LIMIT_SECONDS or worst > 1e-9:
            raise SystemExit("missed: time or equality")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"\npeak memory of the process     {peak / 1e6:6.0f} MB  (limit {LIMIT_BYTES / 1e6:.0f} MB)")
    if peak > LIMIT_BYTES:
        raise SystemExit("missed: memory")


if __name__ == "__main__":
    main()
