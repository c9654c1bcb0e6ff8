"""Two or more runs, paired by sample, clustered by patient: differences, intervals, p-values. No torch, no texts.

Runs that differ in task, data, inputs or signature are refused with what differs: such numbers must not stand beside
each other. Samples scored in only one of two runs are left out of the pair and counted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cxrbench.data.samples import clusters_of
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.metrics.base import comparable
from cxrbench.score_run import load_scores, read_summary
from cxrbench.scoring import Scored
from cxrbench.stats import Table, difference, point
from cxrbench.stats_tests import holm, minimum_detectable_effect, paired_bootstrap, paired_randomisation
from cxrbench.store import RunFolder, differences
from cxrbench.summary import Confidence, number, unanswered
from cxrbench.tables import read_samples


def check_comparable(baseline: RunFolder, candidate: RunFolder) -> None:
    """Refuse two runs that did not answer the same question.

    Raises:
        CxrbenchError: task, data, inputs or limit differ (each difference is listed), or a run is not complete.
    """
    shared = ("task", "data", "inputs", "limit")
    old, new = baseline.manifest().identity, candidate.manifest().identity
    changed = differences({k: old.get(k) for k in shared}, {k: new.get(k) for k in shared})
    if changed:
        raise CxrbenchError(
            "the runs cannot be compared, they differ in:\n    " + "\n    ".join(changed),
            where=f"{baseline.path} and {candidate.path}",
            fix="repeat one of them with the settings of the other",
            code=Exit.UNDECIDED,
        )
    for run in (baseline, candidate):
        missing = unanswered(read_summary(run))
        if missing:
            raise CxrbenchError(
                f"the run is not complete: {missing[0]}", where=str(run.path), fix="repeat its command, then compare",
                code=Exit.UNDECIDED,
            )  # fmt: skip


def _aligned(baseline: RunFolder, candidate: RunFolder) -> tuple[list[str], list[int]]:
    """Clusters in the baseline's order of samples, and where each of its samples stands in the candidate.

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
    return clusters_of(first), [place[sample.sample_id] for sample in first]


def _shared_metrics(a: Sequence[Scored], b: Sequence[Scored]) -> list[tuple[Scored, Scored]]:
    """Pairs of the metrics both runs have.

    Raises:
        CxrbenchError: two numbers of one name have different signatures, or there is nothing in common.
    """
    theirs = {each.metric.key: each for each in b}
    pairs = [(each, theirs[each.metric.key]) for each in a if each.metric.key in theirs]
    for first, second in pairs:
        if comparable(first.signature) != comparable(second.signature):
            raise CxrbenchError(
                f"{first.metric.key} was computed in two ways, which differ in {_difference(first, second)}:\n"
                f"    baseline   {first.signature}\n    candidate  {second.signature}",
                fix="score both runs with the same version and options, or name other metrics with --metrics",
                code=Exit.UNDECIDED,
            )
    if not pairs:
        raise CxrbenchError(
            "the runs share no metric", fix="cxrbench score RUN --metrics ... on both", code=Exit.UNDECIDED
        )
    return pairs


def _difference(a: Scored, b: Scored) -> str:
    """The parts in which two signatures differ, with what `fit` stands for."""
    one, two = (set(comparable(each.signature).split("|")) for each in (a, b))
    names = sorted({part.partition(":")[0] for part in one ^ two})
    meant = {"fit": "what was learnt from the references, the train split or a given vocabulary (fit)"}
    return ", ".join(meant.get(name, name) for name in names)


def compare_pair(
    baseline: RunFolder, candidate: RunFolder, metrics: Sequence[str], confidence: Confidence
) -> dict[str, Any]:
    """Candidate minus baseline for every value of every shared metric."""
    check_comparable(baseline, candidate)
    clusters, order = _aligned(baseline, candidate)
    ours, theirs = load_scores(baseline, metrics), load_scores(candidate, metrics)
    pairs = _shared_metrics(ours, theirs)
    out: dict[str, Any] = {
        "baseline": str(baseline.path),
        "candidate": str(candidate.path),
        "left_out": sorted({each.metric.key for each in ours} ^ {each.metric.key for each in theirs}),
        "runs": {side: _beside(run) for side, run in (("baseline", baseline), ("candidate", candidate))},
        "metrics": {},
    }
    for first, second in pairs:
        if first.sample_ids != tuple(second.sample_ids[i] for i in order):
            raise CxrbenchError(
                f"the stored scores of {first.metric.key} are not those of these samples",
                where=f"{baseline.path} and {candidate.path}",
                fix="score both runs again",
                code=Exit.INFRASTRUCTURE,
            )
        one, two = Table(first.rows(), first.metric), Table(second.rows()[order], second.metric)
        both = one.scored & two.scored
        if not both.any():
            raise CxrbenchError(
                f"no sample was scored in both runs under {first.metric.key}",
                where=f"{baseline.path} and {candidate.path}",
                fix="--metrics with those that both runs have, or score them again",
                code=Exit.UNDECIDED,
            )
        out["metrics"][first.metric.key] = {
            "n": int(both.sum()),
            "clusters": len({c for c, kept in zip(clusters, both, strict=True) if kept}),
            "only_baseline": int((one.scored & ~both).sum()),
            "only_candidate": int((two.scored & ~both).sum()),
            "signature": first.signature,
            "values": _values(
                first.metric.key,
                (one.take(both), two.take(both)),
                [cluster for cluster, kept in zip(clusters, both, strict=True) if kept],
                first,
                confidence,
            ),
        }
    return out


def _beside(run: RunFolder) -> dict[str, Any]:
    """What must stand beside a run's scores: how much was answered, cut off, and how many reports are distinct."""
    summary = read_summary(run)
    return {key: summary.get(key) for key in ("n", "n_expected", "outcomes", "truncated_share", "distinct")}


def _missing(run: RunFolder, compared: Collection[str]) -> list[str]:
    """Metrics the task requires that the run has no score of."""
    return [key for key in read_summary(run)["required"] if key not in compared]


def _values(
    key: str, pair: tuple[Table, Table], clusters: list[str], scored: Scored, confidence: Confidence
) -> dict[str, Any]:
    first, second = point(pair[0]), point(pair[1])
    about = scored.metric.values
    out: dict[str, Any] = {
        name: {
            "baseline": number(first[name]),
            "candidate": number(second[name]),
            "difference": number(second[name] - first[name]),
        }
        | {"higher_is_better": about[name].higher_is_better, "primary": about[name].primary}
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


def compare(runs: Sequence[RunFolder], metrics: Sequence[str], confidence: Confidence) -> dict[str, Any]:
    """The first run against each of the others; p-values of the primary values are adjusted together (Holm)."""
    if len(runs) < 2:
        raise CxrbenchError("two runs are needed to compare", fix="cxrbench compare RUN RUN")
    pairs = [compare_pair(runs[0], other, metrics, confidence) for other in runs[1:]]
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
