"""Before GPU time is spent: which margins can so many samples decide? P(pass), P(undecided), P(fail) of a policy.

The noise of a difference needs two runs. With a pilot (any second run of the task, an earlier checkpoint, say) it is
measured; with the baseline alone it is what two runs would have whose values are correlated by a stated amount. Whole
verdicts are drawn from the joint normal distribution of all differences, so metrics that move together count as such.
numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbench.compare import check_same_question
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.gate import wanted
from cxrbench.gate_evidence import Evidence, aligned, reordered
from cxrbench.gate_policy import Check, Policy
from cxrbench.stats import Clusters, Floats, Table, difference, jackknife
from cxrbench.stats_tests import detectable, few_patients, patient_worth
from cxrbench.types import ClusterUnit

DRAWS = 20_000
CORRELATIONS = (0.0, 0.5, 0.8)
"""Of two runs' values over patients, where no pilot says: not related at all, and as two checkpoints may well be."""


@dataclass(frozen=True, slots=True)
class Chances:
    """Probabilities of the three verdicts."""

    passed: float
    undecided: float
    failed: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """One blocking check: its noise, the drop it can show, and how it would come out by itself.

    `mde`: smallest drop that a one-sided test finds with probability 0.8, and as well the smallest margin within which
    an unchanged model passes with that probability. `worth`: the drop when one patient is lost. `unchanged` and
    `dropped` (by the margin) are about this check.
    """

    name: str
    margin: float
    standard_error: float
    mde: float
    worth: float | None
    unchanged: Chances
    dropped: Chances


@dataclass(frozen=True, slots=True)
class Plan:
    """Outlook under one assumption: `noise` says which. `unchanged` and `dropped` are whole verdicts.

    `dropped`: every blocking metric is worse by its margin; `one_dropped`: only the one that is hardest to see.
    """

    noise: str
    correlation: float | None
    checks: tuple[Outlook, ...]
    unchanged: Chances
    dropped: Chances
    one_dropped: Chances


def plan(baseline: Evidence, policy: Policy, pilot: Evidence | None = None, seed: int = 0) -> list[Plan]:
    """What the policy would say: one outlook with a pilot, else one for each correlation of `CORRELATIONS`.

    Raises:
        CxrbenchError: the policy blocks on no metric the baseline has, or the pilot shows no noise.
    """
    checks = [check for check, blocking in wanted(policy, baseline) if blocking]
    absent = [check.metric for check in checks if check.metric not in baseline.columns]
    if absent or not checks:
        raise CxrbenchError(
            f"the baseline has no scores of {absent[0]}"
            if absent
            else "the policy blocks on no metric: nothing to plan",
            where=baseline.where,
            fix="score the run, then make the baseline again: cxrbench gate baseline RUN -o FILE",
            code=Exit.UNDECIDED,
        )
    worths = [_worth(check, baseline) for check in checks]
    if pilot is not None:
        noise = _measured(checks, baseline, pilot)
        return [_outlook(checks, worths, noise, policy, "measured on the pilot", None, seed)]
    own = _covariance([baseline.columns[check.metric].table for check in checks], checks, baseline.clusters)
    return [
        _outlook(checks, worths, 2 * (1 - each) * own, policy, f"two runs correlated by {each:g}, assumed", each, seed)
        for each in CORRELATIONS
    ]


def _worth(check: Check, baseline: Evidence) -> float | None:
    column = baseline.columns[check.metric]
    better = bool(column.metric.values[check.value].higher_is_better)
    return patient_worth(column.table, baseline.clusters, {check.value: better})[check.value]


def _measured(checks: Sequence[Check], baseline: Evidence, pilot: Evidence) -> Floats:
    check_same_question(baseline.about, pilot.about, f"{baseline.where} and {pilot.where}")
    there = reordered(pilot, aligned(baseline, pilot))
    tables = []
    for check in checks:
        if check.metric not in there.columns:
            raise CxrbenchError(
                f"{check.metric} is not scored in the pilot", where=pilot.where,
                fix=f"cxrbench score {pilot.where} --metrics {check.metric}", code=Exit.UNDECIDED,
            )  # fmt: skip
        one, two = baseline.columns[check.metric], there.columns[check.metric]
        both = (one.table.scored & two.table.scored)[:, None]
        tables.append(
            difference(
                Table(np.where(both, one.rows, 0.0), one.metric), Table(np.where(both, two.rows, 0.0), two.metric)
            )
        )
    return _covariance(tables, checks, baseline.clusters)


def _covariance(tables: Sequence[Table], checks: Sequence[Check], clusters: Sequence[str]) -> Floats:
    """Covariance of the values, (V, V), by leaving out one patient at a time.

    Raises:
        CxrbenchError: a value is not defined without one of the patients, or does not vary at all.
    """
    groups = Clusters.of(clusters)
    columns = [jackknife(table, groups)[check.value] for table, check in zip(tables, checks, strict=True)]
    left_out = np.stack(columns, axis=1)
    for check, column in zip(checks, columns, strict=True):
        if np.isnan(column).any() or np.ptp(column) < 1e-12:
            raise CxrbenchError(
                f"the noise of {check.name} cannot be told from these runs: "
                + ("0/0 without one of the patients" if np.isnan(column).any() else "it does not vary"),
                fix="another pilot, or a policy without it",
                code=Exit.UNDECIDED,
            )
    centred = left_out - left_out.mean(axis=0)
    return np.asarray((groups.count - 1) / groups.count * centred.T @ centred)


def _outlook(
    checks: Sequence[Check],
    worths: Sequence[float | None],
    covariance: Floats,
    policy: Policy,
    noise: str,
    correlation: float | None,
    seed: int,
) -> Plan:
    errors = np.sqrt(np.diag(covariance))
    margins = np.array([check.margin for check in checks])
    # Everything is turned so that a positive difference is an improvement.
    drawn = _normals(covariance, DRAWS, seed)
    unchanged, dropped = (_statuses(drawn - shift, errors, margins, policy.alpha) for shift in (0.0, margins))
    hardest = int(np.argmin(margins / errors))
    alone = _statuses(drawn - margins * (np.arange(len(checks)) == hardest), errors, margins, policy.alpha)
    outlooks = tuple(
        Outlook(
            check.name,
            check.margin,
            float(errors[i]),
            detectable(float(errors[i]), 1, alpha=policy.alpha),
            worths[i],
            _chances(*(part[:, [i]] for part in unchanged)),
            _chances(*(part[:, [i]] for part in dropped)),
        )
        for i, check in enumerate(checks)
    )
    return Plan(noise, correlation, outlooks, _chances(*unchanged), _chances(*dropped), _chances(*alone))


def _normals(covariance: Floats, draws: int, seed: int) -> Floats:
    """Draws of a joint normal distribution, (draws, V), from the raw stream by Box and Muller: equal everywhere."""
    size = len(covariance)
    raw = np.asarray(np.random.PCG64(seed).random_raw(2 * draws * size), np.uint64)
    uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius = np.sqrt(-2 * np.log(uniform[: draws * size]))
    normal = (radius * np.cos(2 * np.pi * uniform[draws * size :])).reshape(draws, size)
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(normal @ (vectors * np.sqrt(np.maximum(values, 0.0))).T)


def _statuses(
    observed: Floats, errors: Floats, margins: Floats, alpha: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which checks pass and which fail, (draws, V) each, by the rules of `gate` with known standard errors."""
    z = observed / errors
    passed = observed - NormalDist().inv_cdf(1 - alpha) * errors > -margins
    # Holm: the k-th most extreme of V is held against alpha / (V - k), and counts while all before it did.
    count = z.shape[1]
    order = np.argsort(z, axis=1)
    limits = np.array([NormalDist().inv_cdf(alpha / (count - k)) for k in range(count)])
    going = np.logical_and.accumulate(np.take_along_axis(z, order, axis=1) <= limits, axis=1)
    worse = np.zeros_like(going)
    np.put_along_axis(worse, order, going, axis=1)
    return passed, worse & ~passed


def _chances(passed: NDArray[np.bool_], failed: NDArray[np.bool_]) -> Chances:
    fails, passes = failed.any(axis=1), passed.all(axis=1)
    return Chances(float(passes.mean()), float((~passes & ~fails).mean()), float(fails.mean()))


def advice(found: Plan) -> list[str]:
    """Margins below `mde`: then undecided is the normal outcome."""
    return [
        f"{each.name}: margin {each.margin:g} is below what so many samples can decide ({each.mde:.3g})"
        for each in found.checks
        if each.margin < each.mde
    ]


def too_fine(plans: Sequence[Plan], baseline: Evidence) -> list[str]:
    """Margins worth so few patients that a worse run may differ on none: said whatever the noise is."""
    unit: ClusterUnit = baseline.about["cluster_unit"]
    said = [(each.name, few_patients(each.margin, each.worth, unit)) for each in plans[0].checks]
    return [f"{name}: {why}" for name, why in said if why]


def as_json(plans: Sequence[Plan], baseline: Evidence, policy: Policy) -> dict[str, Any]:
    """What `gate plan --json` prints."""
    from dataclasses import asdict

    return {
        "task": baseline.about["task"]["name"],
        "n": len(baseline.ids),
        "clusters": len(set(baseline.clusters)),
        "cluster_unit": baseline.about["cluster_unit"],
        "alpha": policy.alpha,
        "policy": policy.name,
        "few_patients": too_fine(plans, baseline),
        "plans": [asdict(each) | {"advice": advice(each)} for each in plans],
    }
