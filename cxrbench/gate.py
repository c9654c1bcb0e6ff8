"""May this run replace that one? Non-inferiority per metric that a policy names, and guards beside them. No torch.

    pass       every blocking check passes: the confidence bound on the bad side is within the margin
    fail       a blocking metric is worse than the baseline beyond doubt (Holm over the one-sided tests of all blocking
               metrics) and has not passed, or a guard's whole interval is beyond its limit
    undecided  anything else: absence of significance is no pass

docs/gate.md is the user's page; the statistics are those of docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cxrbench.compare import check_same_question
from cxrbench.errors import CxrbenchError, Exit, suggest
from cxrbench.gate_evidence import Evidence, aligned, reordered
from cxrbench.gate_guards import Ratio, Status, judge_length, judge_memory, judge_speed
from cxrbench.gate_metrics import Finding, Kind, judge_metrics
from cxrbench.gate_policy import Check, Policy
from cxrbench.lengths import LENGTH_KEY
from cxrbench.metrics.base import Floats, Metric
from cxrbench.types import Verdict

EXITS: Mapping[str, Exit] = {"pass": Exit.OK, "fail": Exit.REGRESSION, "undecided": Exit.UNDECIDED}


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
