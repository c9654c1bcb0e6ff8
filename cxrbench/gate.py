"""May this run replace that one? Non-inferiority per metric that a policy names, and guards beside them. No torch.

    pass       every blocking check passes: the confidence bound on the bad side is within the margin
    fail       a blocking metric is worse than the baseline beyond doubt (Holm over the one-sided tests of all blocking
               metrics) and has not passed, or a guard's whole interval is beyond its limit
    undecided  anything else: absence of significance is no pass

docs/gate.md is the user's page; the statistics are those of docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from cxrbench.compare import check_same_question, different_parts
from cxrbench.errors import CxrbenchError, Exit, suggest
from cxrbench.gate_evidence import Column, Evidence, aligned, reordered
from cxrbench.gate_guards import Ratio, Status, judge_length, judge_memory, judge_speed
from cxrbench.gate_policy import Check, Policy
from cxrbench.lengths import LENGTH_KEY
from cxrbench.metrics.base import Floats, Metric, comparable
from cxrbench.stats import Interval, Table, Valued, Values, difference, point
from cxrbench.stats_tests import (
    Pair,
    Randomisation,
    few_patients,
    holm,
    minimum_detectable_effect,
    non_inferiority,
    paired_bootstrap,
    paired_randomisation,
    patient_worth,
)
from cxrbench.types import CLUSTERS, ClusterUnit, Verdict

Kind = Literal["metric", "length", "speed", "memory"]
EXITS: Mapping[str, Exit] = {"pass": Exit.OK, "fail": Exit.REGRESSION, "undecided": Exit.UNDECIDED}


@dataclass(frozen=True, slots=True)
class Finding:
    """Outcome of one check.

    `change` is candidate minus baseline for a metric (`limit`: its margin), candidate over baseline for a guard
    (`limit`: the allowed ratio); `low` and `high` are its one-sided bounds at 1 - alpha. `p` is of "worse than the
    baseline", `p_holm` adjusts it over the blocking metrics. `mde`: smallest drop a one-sided test of this size finds
    with probability 0.8. `discordant`: clusters on which the runs differ in this value; `size`: how often the test of
    "worse" at alpha alarms by chance, given these. At 0 no p could be small enough, and Holm does not count the test.
    `worth`: the drop when one cluster is lost; a pass within a margin of fewer than three such says so.
    """

    kind: Kind
    name: str
    status: Status
    blocking: bool
    reason: str
    limit: float | None = None
    baseline: float | None = None
    candidate: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    mde: float | None = None
    n: int = 0
    clusters: int = 0
    discordant: int | None = None
    size: float | None = None
    worth: float | None = None
    higher_is_better: bool | None = None
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Gate:
    """What a gate found: the verdict, each check, and what both runs were."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    policy: Policy
    baseline: Mapping[str, Any]
    candidate: Mapping[str, Any]
    replicates: int
    seed: int

    @property
    def exit(self) -> Exit:
        """0 pass, 1 fail, 3 undecided."""
        return EXITS[self.verdict.status]


def check(baseline: Evidence, candidate: Evidence, policy: Policy, *, replicates: int = 10_000, seed: int = 0) -> Gate:
    """Judge a candidate against a baseline.

    Raises:
        CxrbenchError: the runs did not answer the same question (each difference is listed), or the policy names a
            value that its metric does not have.
    """
    check_same_question(baseline.about, candidate.about, f"{baseline.where} and {candidate.where}")
    order = aligned(baseline, candidate)
    checks = wanted(policy, baseline)
    there = reordered(candidate, order)
    found = judge_metrics(checks, baseline, there, policy, replicates=replicates, seed=seed)
    found += _guards(baseline, there, policy, replicates, seed)
    return Gate(_verdict(found), tuple(found), policy, baseline.about, candidate.about, replicates, seed)


def refused(
    policy: Policy, why: str, baseline: Evidence | None, candidate: Evidence | None, replicates: int, seed: int
) -> Gate:
    """An undecided gate: the two runs cannot be held against each other, and `why` says what differs or is missing."""
    sides = [each.about if each is not None else {} for each in (baseline, candidate)]
    return Gate(Verdict("undecided", (why,)), (), policy, sides[0], sides[1], replicates, seed)


def wanted(policy: Policy, baseline: Evidence) -> list[tuple[Check, bool]]:
    """The checks of a policy, and whether each blocks.

    Raises:
        CxrbenchError: a metric has no such value, or one that cannot be better or worse; or none is left.
    """
    named = list(policy.metrics)
    if policy.most is not None:
        named = [each for each in named if each.metric in baseline.columns][: policy.most]
        if not named:
            raise CxrbenchError(
                f"the baseline holds none of the metrics that the policy {policy.name!r} names",
                where=baseline.where,
                fix="--policy FILE with metrics of its own; docs/gate.md shows one",
            )
    asked = [(each, True) for each in named] + [(each, False) for each in policy.advisory]
    metrics = _metrics({each.metric for each, _ in asked}, baseline)
    for each, _ in asked:
        _require_value(each, metrics[each.metric])
    return [(each, may and _blocks(each, metrics[each.metric])) for each, may in asked]


def _metrics(keys: Collection[str], baseline: Evidence) -> dict[str, Metric]:
    known = baseline.columns
    return {key: known[key].metric if key in known else _not_in(baseline, key) for key in keys}


def _not_in(baseline: Evidence, key: str) -> Metric:
    from cxrbench.scoring import make_metric

    try:
        return make_metric(key)
    except CxrbenchError as error:
        raise CxrbenchError(
            f"the policy names {key}, which is not here: {error.what}",
            where=f"the policy, for {baseline.where}",
            fix=f"install what brings {key}, or --policy FILE with other metrics",
            code=error.code,
        ) from error


def _blocks(check: Check, metric: Metric) -> bool:
    return check.blocking if check.blocking is not None else not is_judge(metric)


def is_judge(metric: Metric) -> bool:
    """Whether an LLM judges: such numbers are advisory unless a policy says otherwise."""
    return bool(getattr(metric, "judge", False))


def _require_value(check: Check, metric: Metric) -> None:
    values = metric.values
    if check.value not in values:
        raise CxrbenchError(
            f"{check.metric} has no value {check.value!r}{suggest(check.value, values)}",
            where="the policy",
            fix=f"one of: {', '.join(list(values)[:12])}",
        )
    if values[check.value].higher_is_better is None or not values[check.value].interval:
        raise CxrbenchError(
            f"{check.name} cannot be better or worse, so it cannot be gated",
            where="the policy",
            fix="the key `length` guards lengths; other values have an arrow in `cxrbench list metrics`",
        )


def judge_metrics(
    checks: Sequence[tuple[Check, bool]],
    baseline: Evidence,
    candidate: Evidence,
    policy: Policy,
    *,
    replicates: int,
    seed: int,
) -> list[Finding]:
    """Every check of a metric; both sides must hold the same samples in the same order."""
    pairs: dict[str, Pair] = {}
    hindered: dict[str, str] = {}
    for key in dict.fromkeys(check.metric for check, _ in checks):
        made = _pair(key, baseline, candidate, policy.max_failed_share)
        if isinstance(made, str):
            hindered[key] = made
        else:
            pairs[key] = made
    named = {key: tuple(check.value for check, _ in checks if check.metric == key) for key in pairs}
    asked = {key: (_only(pair[0], named[key]), _only(pair[1], named[key])) for key, pair in pairs.items()}
    numbers = measure(asked, baseline.clusters, policy.alpha, replicates, seed)
    findings = [
        replace(
            _finding(check, blocking, numbers[check.metric], baseline, policy.alpha),
            signature=baseline.columns[check.metric].signature,
        )
        if check.metric in numbers
        else Finding("metric", check.name, "undecided", blocking, hindered[check.metric], check.margin)
        for check, blocking in checks
    ]
    return decide(findings, policy.alpha)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A metric of which only some values are asked: what nobody reads needs no quantiles and no p."""

    metric: Valued
    names: tuple[str, ...]

    @property
    def additive(self) -> bool:
        return self.metric.additive

    def value(self, sums: Floats) -> Values:
        found = self.metric.value(sums)
        return {name: found[name] for name in self.names}

    def value_weighted(self, rows: Floats, weights: Floats) -> Values:
        found = self.metric.value_weighted(rows, weights)
        return {name: found[name] for name in self.names}


def _only(table: Table, names: tuple[str, ...]) -> Table:
    return Table(table.rows, _Asked(table.metric, names))


def _pair(key: str, baseline: Evidence, candidate: Evidence, most: float) -> Pair | str:
    """Both tables over the samples scored in both, or the reason why they cannot be compared."""
    sides = {"baseline": baseline.columns.get(key), "candidate": candidate.columns.get(key)}
    for side, column in sides.items():
        if column is None:
            return f"not scored in the {side}: cxrbench score RUN --metrics {key}"
    one, two = sides["baseline"], sides["candidate"]
    assert one is not None
    assert two is not None
    if comparable(one.signature) != comparable(two.signature):
        return (
            f"computed in two ways, which differ in {different_parts(one.signature, two.signature)}: "
            f"{one.signature} and {two.signature}"
        )
    return _too_many_failed(one, two, most) or _over_both(one, two)


def _too_many_failed(one: Column, two: Column, most: float) -> str:
    """A number that a share of the samples is missing from is no number of the run."""
    first, second = one.table.scored, two.table.scored
    for side, column, lost in (
        ("baseline", one, int((second & ~first).sum())),
        ("candidate", two, int((first & ~second).sum())),
    ):
        worst = max(int(column.failed.sum()), lost)
        if worst > most * len(first):
            return f"{worst} of {len(first)} samples have no score in the {side}, more than {most:.1%}"
    return "" if (first & second).any() else "no sample was scored in both runs"


def _over_both(one: Column, two: Column) -> Pair:
    both = (one.table.scored & two.table.scored)[:, None]
    return Table(np.where(both, one.rows, 0.0), one.metric), Table(np.where(both, two.rows, 0.0), two.metric)


@dataclass(frozen=True, slots=True)
class _Measured:
    """What the statistics say of one metric: value name -> number."""

    first: Mapping[str, float]
    second: Mapping[str, float]
    intervals: Mapping[str, Interval]
    tests: Mapping[str, Randomisation]
    mde: Mapping[str, float | None]
    table: Table
    n: int


def measure(
    pairs: Mapping[str, Pair], clusters: Sequence[str], alpha: float, replicates: int, seed: int
) -> dict[str, _Measured]:
    """Bounds, tests and detectable effects of all pairs from the same resampled and exchanged patients."""
    if not pairs:
        return {}
    intervals = paired_bootstrap(pairs, clusters, level=1 - 2 * alpha, replicates=replicates, seed=seed)
    tests = paired_randomisation(pairs, clusters, permutations=replicates, seed=seed, alpha=alpha)
    out = {}
    for key, pair in pairs.items():
        effects = minimum_detectable_effect(difference(*pair), clusters, alpha=alpha)
        scored = pair[0].scored
        out[key] = _Measured(
            point(pair[0].take(scored)), point(pair[1].take(scored)), intervals[key], tests[key],
            {name: effect.effect for name, effect in effects.items()}, pair[0], int(scored.sum()),
        )  # fmt: skip
    return out


def _finding(check: Check, blocking: bool, measured: _Measured, baseline: Evidence, alpha: float) -> Finding:
    """The numbers of one check; whether it fails is decided over all of them (`decide`)."""
    better = bool(baseline.columns[check.metric].metric.values[check.value].higher_is_better)
    interval, test = measured.intervals[check.value], measured.tests[check.value]
    judged = non_inferiority(interval, check.margin, higher_is_better=better)
    p = test.p_less if better else test.p_greater
    reason = judged.reason
    unit: ClusterUnit = baseline.about["cluster_unit"]
    worth = patient_worth(measured.table, baseline.clusters, {check.value: better})[check.value]
    if judged.status == "pass":
        reason = "; ".join(filter(None, (reason, few_patients(check.margin, worth, unit))))
    elif interval.low is not None and test.size < _LEVEL * alpha:
        reason = f"{_few(test, unit, alpha)}; {reason}"
    return Finding(
        "metric",
        check.name,
        "pass" if judged.status == "pass" else "undecided",
        blocking,
        reason,
        check.margin,
        _number(measured.first[check.value]),
        _number(measured.second[check.value]),
        _number(interval.value),
        interval.low,
        interval.high,
        _number(p),
        mde=measured.mde[check.value],
        n=measured.n,
        clusters=interval.clusters,
        discordant=test.discordant,
        size=_number(test.size),
        worth=worth,
        higher_is_better=better,
    )


_LEVEL = 0.6
"""A test that can use less than this share of alpha says so: 3 % of 5 %."""


def _few(test: Randomisation, unit: ClusterUnit, alpha: float) -> str:
    """Why a test could not have failed, or hardly, whatever its outcome."""
    differ = f"the runs differ on {test.discordant} of {test.clusters} {CLUSTERS[unit]}"
    if test.size == 0:
        return f"too few to decide: {differ}, and no exchange of these has p <= {alpha:g}"
    return f"{differ}, so the test of worse has level {test.size:.1%}, not {alpha:.0%}"


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def decide(findings: Sequence[Finding], alpha: float) -> list[Finding]:
    """Which of those that did not pass are worse beyond doubt: Holm over all blocking ones, advisory ones alone.

    A test that no outcome could have failed (`size` 0) takes no part: whether it could is known without the outcome.
    """
    tested = {each.name: each.p for each in findings if each.blocking and each.p is not None and each.size != 0}
    adjusted = holm(tested)
    out = []
    for each in findings:
        p_holm = adjusted.get(each.name) if each.blocking else each.p
        failed = each.status != "pass" and p_holm is not None and p_holm <= alpha
        reason = "worse than the baseline beyond doubt, and maybe by more than the margin" if failed else each.reason
        out.append(replace(each, status="fail" if failed else each.status, reason=reason, p_holm=p_holm))
    return out


def _guards(baseline: Evidence, candidate: Evidence, policy: Policy, replicates: int, seed: int) -> list[Finding]:
    """Length, speed and memory, as far as the policy asks for them."""
    found: list[Finding] = []
    alpha = policy.alpha
    if policy.length is not None:
        ratio = judge_length(
            policy.length, _lengths(baseline, candidate), baseline.clusters, alpha=alpha, replicates=replicates,
            seed=seed,
        )  # fmt: skip
        limit = policy.length.max_ratio if policy.length.max_ratio is not None else policy.length.min_ratio
        found.append(_guard("length", "output length", limit, ratio))
    if policy.speed is not None:
        ratio = judge_speed(policy.speed, baseline, candidate, alpha=alpha, replicates=replicates, seed=seed)
        found.append(_guard("speed", "reports per second", policy.speed.min_ratio, ratio))
    if policy.memory is not None:
        ratio = judge_memory(policy.memory, baseline, candidate)
        found.append(_guard("memory", "peak memory", policy.memory.max_ratio, ratio))
    return found


def _lengths(baseline: Evidence, candidate: Evidence) -> tuple[Floats, Floats] | None:
    one, two = baseline.columns.get(LENGTH_KEY), candidate.columns.get(LENGTH_KEY)
    if one is None or two is None or one.signature != two.signature:
        return None
    return one.rows, two.rows


def _guard(kind: Kind, name: str, limit: float | None, ratio: Ratio) -> Finding:
    return Finding(
        kind, name, ratio.status, True, ratio.reason, limit, ratio.baseline, ratio.candidate, ratio.ratio, ratio.low,
        ratio.high,
    )  # fmt: skip


def _verdict(findings: Sequence[Finding]) -> Verdict:
    blocking = [each for each in findings if each.blocking]
    statuses = {each.status for each in blocking}
    status: Status = (
        "fail" if "fail" in statuses else "undecided" if "undecided" in statuses or not blocking else "pass"
    )
    return Verdict(status, tuple(f"{each.name}: {each.reason}" for each in blocking))
