"""How often the gate cries wolf, and whether it sees a real drop, on demo runs with their real correlations.

    python benchmarks/gate_aa.py [--runs RUN RUN WORSE] [--repetitions N]

Two runs of `demo` that differ in the seed of their sampling alone (temperature 0.7) are equal models by construction.
1,000 times patients are drawn with replacement and, each by a coin, the two runs' outputs exchanged; then the whole
gate is asked, with policies of 1, 6 and 30 metrics. A verdict `fail` is a false alarm. Beside the test by patient
stands the one that takes reports for independent, and `size`: the level that the test can reach with the patients on
which the runs differ (each repetition's own, averaged), which the measured one must meet.

Values on which the two runs differ for so few patients that no test of 3 to 5 % exists (`size` of the pair itself; at 4
patients 0) stand below the others, as advisory checks, with what was measured: they may alarm less, never more.

Power: a drop of 1.5 times what the gate says is detectable is planted into one blocking metric of the default policy's
size: once as a shift of every report's ROUGE-L, once by giving some patients the reports of `demo-regressed`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from cxrbench.gate import check
from cxrbench.gate_evidence import Evidence, aligned, evidence_of, reordered
from cxrbench.gate_plan import plan
from cxrbench.gate_policy import Check, LengthGuard, Policy
from cxrbench.stats import Clusters, difference
from cxrbench.stats_tests import minimum_detectable_effect, paired_randomisation
from cxrbench.store import find_run

REPETITIONS, POWER_REPETITIONS, REPLICATES = 1_000, 300, 499
SIZES = (1, 6, 30)
FIRST = (
    "label-f1:phantom micro_f1", "rouge-l:raw rouge_l", "bleu:raw bleu_4", "radgraph-f1:partial f1",
    "chexbert-f1:miura micro_f1_14", "semb-score:chexbert semb_score",
)  # fmt: skip
SHOWN = 8
"""Values with too few patients that are shown."""
ALARMS, SINGLE, POWER = 0.05, (0.03, 0.07), 0.90


def make_runs(folder: Path) -> list[Path]:
    """Two sampled runs of `demo` and a worse one, with the metrics that need no Java."""
    out = []
    for name, words in (
        ("one", ["demo", "--set", "temperature=0.7", "--seed", "1"]),
        ("two", ["demo", "--set", "temperature=0.7", "--seed", "2"]),
        ("worse", ["demo-regressed"]),
    ):
        out.append(folder / name)
        command = [sys.executable, "-m", "cxrbench", "run", "--model", *words, "--task", "demo-findings"]
        subprocess.run([*command, "--out", str(out[-1]), "--replicates", "0"], check=True, stdout=subprocess.DEVNULL)
    return out


def gateable(one: Evidence, two: Evidence) -> tuple[list[str], list[str]]:
    """`metric value` of what can be gated, `FIRST`, then the metrics by turns; and of what too few patients differ on.

    Which is which is known from the pair of runs before any repetition: the size that its test can have.
    """
    tables = {key: (column.table, two.columns[key].table) for key, column in sorted(one.columns.items())}
    tests = paired_randomisation(tables, one.clusters, permutations=10_000)
    turns: list[tuple[int, str]] = []
    few: list[tuple[int, str]] = []
    for key, found in tests.items():
        values = one.columns[key].metric.values
        able = [name for name, about in values.items() if about.interval and about.higher_is_better is not None]
        known = [name for name in able if not np.isnan(found[name].difference)]
        turns += [(turn, f"{key} {name}") for turn, name in enumerate(n for n in known if found[n].size >= SINGLE[0])]
        few += [(-found[name].discordant, f"{key} {name}") for name in known if found[name].size < SINGLE[0]]
    tested = [name for _, name in sorted(turns)]
    first = [*(name for name in FIRST if name in tested), *(name for name in tested if name not in FIRST)]
    return first[: max(SIZES)], [name for _, name in sorted(few)][:SHOWN]


def null_pairs(one: Evidence, two: Evidence, seed: int) -> Iterator[tuple[Evidence, Evidence]]:
    """Patients drawn with replacement, each a patient of its own, the two runs' outputs exchanged by a coin each."""
    rng = np.random.default_rng(seed)
    groups = Clusters.of(one.clusters)
    members = [np.flatnonzero(groups.index == number) for number in range(groups.count)]
    while True:
        drawn = rng.integers(0, groups.count, groups.count)
        at = np.concatenate([members[number] for number in drawn])
        sizes = [len(members[number]) for number in drawn]
        swap = np.repeat(rng.random(groups.count) < 0.5, sizes)[:, None]
        clusters = tuple(f"p{place}" for place, size in enumerate(sizes) for _ in range(size))
        ids = tuple(f"s{place}" for place in range(len(at)))
        sides = []
        for a, b in ((one, two), (two, one)):
            columns = {
                key: replace(
                    column, rows=np.where(swap, b.columns[key].rows[at], column.rows[at]), failed=column.failed[at]
                )
                for key, column in a.columns.items()
            }
            sides.append(replace(a, ids=ids, clusters=clusters, columns=columns, about=one.about))
        yield sides[0], sides[1]


def policy(names: list[str], margins: dict[str, float], advisory: list[str] | None = None) -> Policy:
    checks, shown = (
        tuple(Check(metric=n.split()[0], value=n.split()[1], margin=margins[n]) for n in each)
        for each in (names, advisory or [])
    )
    return Policy(name=f"of-{len(names)}", metrics=checks, advisory=shown, length=LengthGuard(max_ratio=1.25))


def detectable(one: Evidence, two: Evidence, name: str) -> float:
    """What the gate prints as MDE for this pair."""
    key, value = name.split()
    table = difference(one.columns[key].table, two.columns[key].table)
    return minimum_detectable_effect(table, one.clusters)[value].effect or float("nan")


def alarms(one: Evidence, two: Evidence, names: list[str], few: list[str], repetitions: int) -> list[str]:
    """The A/A part; returns what was missed."""
    margins = {name: detectable(one, two, name) for name in [*names, *few]}
    policies = {size: policy(names[:size], margins, few if size == max(SIZES) else None) for size in SIZES}
    verdicts = {size: {"pass": 0, "undecided": 0, "fail": 0} for size in SIZES}
    single = {name: dict.fromkeys(COLUMNS, 0.0) for name in [*names, *few]}
    pairs = null_pairs(one, two, seed=7)
    for repetition in range(repetitions):
        first, second = next(pairs)
        for size, asked in policies.items():
            found = check(first, second, asked, replicates=REPLICATES, seed=repetition)
            verdicts[size][found.verdict.status] += 1
        for each in found.findings:
            if each.kind == "metric":
                best = each.high if each.higher_is_better else -(each.low or 0.0)
                # A test that could not have failed is none: the gate fails nothing by it.
                single[each.name]["patient"] += (each.p or 1.0) <= 0.05 and bool(each.size)
                single[each.name]["size"] += each.size or 0.0
                single[each.name]["bound"] += (best or 0.0) < 0
                single[each.name]["discordant"] += each.discordant or 0
        tables = {key: (first.columns[key].table, second.columns[key].table) for key in {n.split()[0] for n in single}}
        naive = paired_randomisation(tables, range(len(first.ids)), permutations=REPLICATES, seed=repetition)
        for name in single:
            key, value = name.split()
            test = naive[key][value]
            better = first.columns[key].metric.values[value].higher_is_better
            single[name]["report"] += (test.p_less if better else test.p_greater) <= 0.05
    print(f"{repetitions} A/A repetitions, {len(one.ids)} samples, {len(set(one.clusters))} patients; margin = MDE")
    print(f"{'policy':>10} {'P(pass)':>8} {'P(undecided)':>13} {'P(fail)':>8}   planned P(pass), P(fail)")
    missed = []
    for size, counts in verdicts.items():
        share = {status: count / repetitions for status, count in counts.items()}
        ahead = plan(one, policies[size], two)[0].unchanged
        print(
            f"{size:>10} {share['pass']:8.1%} {share['undecided']:13.1%} {share['fail']:8.1%}   "
            f"{ahead.passed:.1%}, {ahead.failed:.1%}"
        )
        missed += [f"P(fail) of {size} metrics"] if share["fail"] > ALARMS else []
    return [*missed, *_singles(single, names, few, repetitions)]


COLUMNS = ("patient", "size", "bound", "report", "discordant")


def _singles(single: dict[str, dict[str, float]], names: list[str], few: list[str], repetitions: int) -> list[str]:
    """One line per value: how often each way alarms; returns what was missed."""
    missed = []
    heads = f"{'by patient':>10} {'size':>7} {'BCa bound':>10} {'by report':>10} {'patients differ':>16}"
    for title, group in (("single test at nominal 5 %", names), ("too few patients differ for a test of 5 %", few)):
        print(f"\n{title:44} {heads}")
        for name in group:
            rates = {way: number / repetitions for way, number in single[name].items()}
            print(
                f"{name:44} {rates['patient']:10.1%} {rates['size']:7.1%} {rates['bound']:10.1%} "
                f"{rates['report']:10.1%} {rates['discordant']:16.1f}"
            )
            low, high = SINGLE if group is names else (0.0, ALARMS)
            missed += [f"{name}: {rates['patient']:.1%}"] if not low <= rates["patient"] <= high else []
    return missed


def shifted(candidate: Evidence, key: str, drop: float) -> Evidence:
    """Every report's score lower by `drop`: for a metric that is a mean, whose columns are a count and scores."""
    column = candidate.columns[key]
    rows = column.rows - np.where(np.arange(column.rows.shape[1]) > 0, drop, 0.0) * column.rows[:, :1]
    return replace(candidate, columns={**candidate.columns, key: replace(column, rows=rows)})


def mixed(candidate: Evidence, worse: Evidence, key: str, share: float, rng: np.random.Generator) -> Evidence:
    """The candidate with one metric of a share of its patients taken from a worse run; both in one order."""
    groups = Clusters.of(candidate.clusters)
    take = (rng.random(groups.count) < share)[groups.index][:, None]
    column = candidate.columns[key]
    rows = np.where(take, worse.columns[key].rows, column.rows)
    return replace(candidate, columns={**candidate.columns, key: replace(column, rows=rows)})


def share_for(one: Evidence, two: Evidence, worse: Evidence, name: str) -> tuple[float, float]:
    """The share of patients at which the true drop is 1.5 times the MDE the gate prints on average; and that drop."""
    key, value = name.split()
    rng = np.random.default_rng(11)
    low, high = 0.0, 1.0
    drop = 0.0
    for _ in range(12):
        share = (low + high) / 2
        sums = [each.columns[key].rows.sum(axis=0) for each in (one, two, worse)]
        equal = (sums[0] + sums[1]) / 2
        metric = one.columns[key].metric
        drop = float(metric.value(equal)[value] - metric.value((1 - share) * equal + share * sums[2])[value])
        mde = np.mean([detectable(one, mixed(two, worse, key, share, rng), name) for _ in range(10)])
        low, high = (share, high) if drop < 1.5 * mde else (low, share)
    return (low + high) / 2, drop


def power(one: Evidence, two: Evidence, worse: Evidence, names: list[str], repetitions: int) -> list[str]:
    """The power part; returns what was missed."""
    missed = []
    trials = min(POWER_REPETITIONS, repetitions)
    margins = {name: detectable(one, two, name) for name in names}
    plans: list[tuple[str, str, float, float | None]] = []
    plans.append(("rouge-l:raw rouge_l", "shift", 1.5 * margins["rouge-l:raw rouge_l"], None))
    for name in ("rouge-l:raw rouge_l", "label-f1:phantom micro_f1", "radgraph-f1:partial f1"):
        share, drop = share_for(one, two, worse, name)
        plans.append((name, f"{share:.0%} of patients from demo-regressed", drop, share))
    print(f"\npower: {trials} repetitions, 3 blocking metrics, one of them drops by 1.5 x MDE")
    for name, how, drop, share in plans:
        blocking = [name, *[each for each in FIRST if each != name][:2]]
        asked = policy(blocking, margins)
        counts = {"pass": 0, "undecided": 0, "fail": 0}
        rng = np.random.default_rng(5)
        key = name.split()[0]
        for repetition, (first, second) in zip(range(trials), both_with(one, two, worse), strict=False):
            bad = shifted(second[0], key, drop) if share is None else mixed(second[0], second[1], key, share, rng)
            counts[check(first, bad, asked, replicates=REPLICATES, seed=repetition).verdict.status] += 1
        rate = counts["fail"] / trials
        print(
            f"  {name:28} drop {drop:.4f} ({how}): failed in {rate:.1%}, undecided {counts['undecided']}, "
            f"passed {counts['pass']}"
        )
        missed += [f"power of {name} ({how}): {rate:.1%}"] if rate < POWER else []
    return missed


def both_with(one: Evidence, two: Evidence, worse: Evidence) -> Iterator[tuple[Evidence, tuple[Evidence, Evidence]]]:
    """Null pairs, with the worse run's rows of the same drawn patients beside the second."""
    for (first, second), (bad, _) in zip(null_pairs(one, two, 3), null_pairs(worse, worse, 3), strict=False):
        yield first, (second, bad)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs=3, type=Path, metavar="RUN")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help="of the A/A part; a tenth is for trying")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = given.runs or make_runs(Path(folder))
        one, two, worse = (evidence_of(find_run(str(path))) for path in paths)
    two, worse = (reordered(each, aligned(one, each)) for each in (two, worse))
    names, few = gateable(one, two)
    if len(names) < max(SIZES):
        raise SystemExit(f"only {len(names)} values can be gated here, {max(SIZES)} are needed")
    started = time.perf_counter()
    missed = [*alarms(one, two, names, few, given.repetitions), *power(one, two, worse, names, given.repetitions)]
    print(f"\n{time.perf_counter() - started:.0f} s", flush=True)
    if missed:
        raise SystemExit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
