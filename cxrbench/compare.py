"""Two or more runs, paired by sample, clustered by patient: differences, intervals, p-values. No torch, no texts.

Runs that differ in task, data, inputs or signature are refused with what differs: such numbers must not stand beside
each other. Samples scored in only one of two runs are left out of the pair and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbench.data.samples import clusters_of
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.metrics.base import Floats, Metric, comparable
from cxrbench.scores import load_scores, read_summary
from cxrbench.scoring import Scored
from cxrbench.stats import Table, difference, point
from cxrbench.stats_tests import holm, minimum_detectable_effect, paired_bootstrap, paired_randomisation
from cxrbench.store import RunFolder, differences
from cxrbench.summary import Confidence, number, unanswered
from cxrbench.tables import read_samples
from cxrbench.types import Sample

SAME = 1e-12
"""Two values of one sample closer than this are a tie."""


SHARED = ("task", "data", "inputs", "limit", "images")
"""Parts of an identity that must be equal before two runs may stand beside each other."""


def check_same_question(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> None:
    """Refuse two identities of runs that did not answer the same question.

    How images were read counts where both runs read them.

    Raises:
        CxrbenchError: task, data, inputs, limit or images differ; each difference is listed.
    """
    keys = [key for key in SHARED if key != "images" or (old.get(key) and new.get(key))]
    changed = differences({k: old.get(k) for k in keys}, {k: new.get(k) for k in keys})
    if changed:
        raise CxrbenchError(
            "the runs cannot be compared, they differ in:\n    " + "\n    ".join(changed),
            where=where,
            fix="repeat one of them with the settings of the other",
            code=Exit.UNDECIDED,
        )


def check_comparable(baseline: RunFolder, candidate: RunFolder) -> None:
    """Refuse two runs that did not answer the same question.

    Raises:
        CxrbenchError: task, data, inputs or limit differ (each difference is listed), or a run is not complete.
    """
    check_same_question(
        baseline.manifest().identity, candidate.manifest().identity, f"{baseline.path} and {candidate.path}"
    )
    for run in (baseline, candidate):
        missing = unanswered(read_summary(run))
        if missing:
            raise CxrbenchError(
                f"the run is not complete: {missing[0]}", where=str(run.path), fix="repeat its command, then compare",
                code=Exit.UNDECIDED,
            )  # fmt: skip


def _aligned(baseline: RunFolder, candidate: RunFolder) -> tuple[Sequence[Sample], list[int]]:
    """The baseline's samples in its order, and where each of them stands in the candidate.

    Raises:
        CxrbenchError: the runs did not answer the same samples, or know them as other patients'.
    """
    first, second = read_samples(baseline.samples_file).chosen, read_samples(candidate.samples_file).chosen
    place = {sample.sample_id: i for i, sample in enumerate(second)}
    same = len(first) == len(second) and all(sample.sample_id in place for sample in first)
    if not same or any(sample.patient_id != second[place[sample.sample_id]].patient_id for sample in first):
        raise CxrbenchError(
            "the runs do not hold the same samples of the same patients",
            where=f"{baseline.path} and {candidate.path}",
            fix="repeat both commands on the same data",
            code=Exit.UNDECIDED,
        )
    return first, [place[sample.sample_id] for sample in first]


def _shared_metrics(a: Sequence[Scored], b: Sequence[Scored]) -> list[tuple[Scored, Scored]]:
    """Pairs of the metrics both runs have.

    Raises:
        CxrbenchError: two numbers of one name have different signatures, or there is nothing in common.
    """
    theirs = {each.metric.key: each for each in b}
    pairs = [(each, theirs[each.metric.key]) for each in a if each.metric.key in theirs]
    mixed = {a.metric.key for a, b in pairs if comparable(a.signature) != comparable(b.signature)}
    rest = ",".join(each.metric.key for each, _ in pairs if each.metric.key not in mixed)
    for first, second in pairs:
        if first.metric.key in mixed:
            raise CxrbenchError(
                f"{first.metric.key} was computed in two ways, which differ in "
                f"{different_parts(first.signature, second.signature)}:\n"
                f"    baseline   {first.signature}\n    candidate  {second.signature}",
                fix="score both runs with the same version and options"
                + (f", or compare the rest: --metrics {rest}" if rest else ""),
                code=Exit.UNDECIDED,
            )
    if not pairs:
        raise CxrbenchError(
            "the runs share no metric", fix="cxrbench score RUN --metrics ... on both", code=Exit.UNDECIDED
        )
    return pairs


def different_parts(one: str, two: str) -> str:
    """The parts in which two signatures differ, with what `fit` stands for."""
    first, second = (set(comparable(each).split("|")) for each in (one, two))
    names = sorted({part.partition(":")[0] for part in first ^ second})
    meant = {"fit": "what was learnt from the references, the train split or a given vocabulary (fit)"}
    return ", ".join(meant.get(name, name) for name in names)


@dataclass(frozen=True, slots=True)
class Shared:
    """A metric both runs have: its tables over all n samples, in one order, and which were scored in both, (n,).

    `failed` counts the samples the metric tried and could not score, in the baseline and in the candidate.
    """

    metric: Metric
    signature: str
    one: Table
    two: Table
    both: NDArray[np.bool_]
    failed: tuple[int, int] = (0, 0)

    @property
    def pair(self) -> tuple[Table, Table]:
        """Both tables over the samples scored in both."""
        return self.one.take(self.both), self.two.take(self.both)


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs laid beside each other: the same samples in the baseline's order, their clusters, shared metrics."""

    baseline: RunFolder
    candidate: RunFolder
    samples: Sequence[Sample]
    clusters: list[str]
    shared: tuple[Shared, ...]
    left_out: tuple[str, ...]


def pair_runs(baseline: RunFolder, candidate: RunFolder, metrics: Sequence[str]) -> Paired:
    """Lay two runs beside each other.

    Raises:
        CxrbenchError: they did not answer the same question, are not complete, or share no metric made in one way.
    """
    check_comparable(baseline, candidate)
    samples, order = _aligned(baseline, candidate)
    ours, theirs = load_scores(baseline, metrics), load_scores(candidate, metrics)
    where = f"{baseline.path} and {candidate.path}"
    shared = []
    for first, second in _shared_metrics(ours, theirs):
        if first.sample_ids != tuple(second.sample_ids[i] for i in order):
            raise CxrbenchError(
                f"the stored scores of {first.metric.key} are not those of these samples",
                where=where,
                fix="score both runs again",
                code=Exit.INFRASTRUCTURE,
            )
        one, two = Table(first.rows(), first.metric), Table(second.rows()[order], second.metric)
        both = one.scored & two.scored
        if not both.any():
            raise CxrbenchError(
                f"no sample was scored in both runs under {first.metric.key}",
                where=where,
                fix="--metrics with those that both runs have, or score them again",
                code=Exit.UNDECIDED,
            )
        shared.append(Shared(first.metric, first.signature, one, two, both, (first.failed, second.failed)))
    left_out = {each.metric.key for each in ours} ^ {each.metric.key for each in theirs}
    return Paired(baseline, candidate, samples, clusters_of(samples), tuple(shared), tuple(sorted(left_out)))


def compare_pair(paired: Paired, confidence: Confidence) -> dict[str, Any]:
    """Candidate minus baseline for every value of every shared metric."""
    out: dict[str, Any] = {
        "baseline": str(paired.baseline.path),
        "candidate": str(paired.candidate.path),
        "left_out": list(paired.left_out),
        "runs": {"baseline": _beside(paired.baseline), "candidate": _beside(paired.candidate)},
        "metrics": {},
    }
    for each in paired.shared:
        clusters = [cluster for cluster, kept in zip(paired.clusters, each.both, strict=True) if kept]
        out["metrics"][each.metric.key] = {
            "n": int(each.both.sum()),
            "clusters": len(set(clusters)),
            "only_baseline": int((each.one.scored & ~each.both).sum()),
            "only_candidate": int((each.two.scored & ~each.both).sum()),
            "failed": {"baseline": each.failed[0], "candidate": each.failed[1]},
            "signature": each.signature,
            "values": _values(each, clusters, confidence),
        }
    return out


def sample_values(shared: Shared, name: str) -> tuple[Floats, Floats] | None:
    """A value of each sample by itself, (n,) per run, not a number where it is not scored in both or 0/0.

    None for a metric that is no function of sums: it has no value of a single sample.
    """
    if not shared.metric.additive:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        sides = [shared.metric.value(table.rows)[name] for table in (shared.one, shared.two)]
    first, second = (np.where(shared.both, side, np.nan) for side in sides)
    return first, second


def _tally(shared: Shared, name: str) -> dict[str, int] | None:
    """How many samples are better, equal and worse in the candidate; those without a value of their own are none."""
    better, sides = shared.metric.values[name].higher_is_better, sample_values(shared, name)
    if sides is None or better is None:
        return None
    change = (sides[1] - sides[0]) * (1 if better else -1)
    change = change[~np.isnan(change)]
    same = np.abs(change) <= SAME
    return {
        "win": int(((change > 0) & ~same).sum()),
        "tie": int(same.sum()),
        "loss": int(((change < 0) & ~same).sum()),
    }


def _beside(run: RunFolder) -> dict[str, Any]:
    """What must stand beside a run's scores: how much was answered, cut off, and how many reports are distinct."""
    summary = read_summary(run)
    return {key: summary.get(key) for key in ("kind", "n", "n_expected", "outcomes", "truncated_share", "distinct")}


def _missing(run: RunFolder, compared: Collection[str]) -> list[str]:
    """Metrics the task requires that the run has no score of."""
    return [key for key in read_summary(run)["required"] if key not in compared]


def _values(shared: Shared, clusters: list[str], confidence: Confidence) -> dict[str, Any]:
    key, pair, about = shared.metric.key, shared.pair, shared.metric.values
    first, second = point(pair[0]), point(pair[1])
    out: dict[str, Any] = {
        name: {
            "baseline": number(first[name]),
            "candidate": number(second[name]),
            "difference": number(second[name] - first[name]),
            "higher_is_better": about[name].higher_is_better,
            "primary": about[name].primary,
            "samples": _tally(shared, name),
        }
        for name in about
        if name in first
    }
    if not any(value.interval for value in about.values()):
        return out
    method: Any = confidence.method
    intervals = paired_bootstrap(
        {key: pair}, clusters, method=method, level=confidence.level, replicates=confidence.replicates,
        seed=confidence.seed,
    )[key]  # fmt: skip
    tests = paired_randomisation({key: pair}, clusters, permutations=confidence.replicates, seed=confidence.seed)[key]
    # Two-sided, as the p and the interval it stands beside.
    detectable = minimum_detectable_effect(difference(*pair), clusters, sides=2)
    for name, value in about.items():
        if value.interval and name in out:
            found = intervals[name]
            out[name] |= {
                "ci": [found.low, found.high] if found.low is not None else None,
                "ci_method": found.method,
                "undefined": found.undefined,
                "p": number(tests[name].p),
                "exact": tests[name].exact,
                "mde": detectable[name].effect,
            }
            notes = {"interval": found.note, "MDE": detectable[name].note}
            out[name] |= {"notes": {what: note for what, note in notes.items() if note}}
    return out


def nothing_further(paired: Paired) -> dict[str, Any]:
    """Add nothing to a comparison."""
    return {}


def compare(
    runs: Sequence[RunFolder],
    metrics: Sequence[str],
    confidence: Confidence,
    further: Callable[[Paired], dict[str, Any]] = nothing_further,
) -> dict[str, Any]:
    """The first run against each of the others; p-values of the primary values are adjusted together (Holm).

    `further` adds to each comparison (subgroups, samples that moved).
    """
    if len(runs) < 2:
        raise CxrbenchError("two runs are needed to compare", fix="cxrbench compare RUN RUN")
    laid = [pair_runs(runs[0], other, metrics) for other in runs[1:]]
    pairs = [compare_pair(each, confidence) | further(each) for each in laid]
    tested: dict[str, float] = {}
    for index, pair in enumerate(pairs):
        for key, body in pair["metrics"].items():
            for name, value in body["values"].items():
                # A value without a direction (a length, a ratio) is described, not tested.
                if value["primary"] and value["higher_is_better"] is not None and value.get("p") is not None:
                    tested[f"{index}\0{key}\0{name}"] = value["p"]
    for where, adjusted in holm(tested).items():
        at, key, name = where.split("\0")
        pairs[int(at)]["metrics"][key]["values"][name]["p_holm"] = number(adjusted)
    summary: Mapping[str, Any] = read_summary(runs[0])
    compared = {key for pair in pairs for key in pair["metrics"]}
    missing = [] if metrics else sorted({key for run in runs for key in _missing(run, compared)})
    return {
        "task": summary["task"],
        "n": min(body["n"] for pair in pairs for body in pair["metrics"].values()),
        "n_expected": summary["n_expected"],
        "missing": missing,
        "clusters": min(body["clusters"] for pair in pairs for body in pair["metrics"].values()),
        "cluster_unit": summary["cluster_unit"],
        "ci_level": confidence.level,
        "tests": len(tested),
        "comparisons": pairs,
    }
