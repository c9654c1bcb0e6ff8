"""The metrics of a gate: non-inferiority of each that a policy names, as docs/statistics.md has it. No torch.

gate.py chooses what is checked and makes the verdict of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cxrbench.compare import different_parts
from cxrbench.gate_evidence import Column, Evidence
from cxrbench.gate_guards import Status
from cxrbench.gate_policy import Check, Policy
from cxrbench.metrics.base import Floats, comparable
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
from cxrbench.types import CLUSTERS, ClusterUnit

Kind = Literal["metric", "length", "speed", "memory"]


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
