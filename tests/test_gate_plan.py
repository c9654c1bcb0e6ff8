"""The plan: chances of pass, undecided and fail before GPU time is spent, against closed forms and against the gate."""

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from cxrbench.errors import CxrbenchError
from cxrbench.gate import check
from cxrbench.gate_plan import _normals, _statuses, advice, as_json, plan, too_fine
from cxrbench.gate_policy import Check, LengthGuard, Policy
from cxrbench.stats_tests import patient_worth
from tests.gate_runs import LABELS, ROUGE, changed, column, evidence

PHI = NormalDist().cdf
Z = NormalDist().inv_cdf(0.95)


def policy(margin, *more):
    checks = [Check(metric=key, value="rouge_l", margin=margin) for key in (ROUGE, *more)]
    return Policy(name="p", metrics=tuple(checks))


def test_one_metric_agrees_with_the_formula():
    (found,) = plan(evidence(1), policy(0.02), evidence(2))
    (each,) = found.checks
    effect = each.margin / each.standard_error
    assert each.mde == pytest.approx(2.486 * each.standard_error, rel=1e-3)
    assert found.unchanged.passed == pytest.approx(PHI(effect - Z), abs=0.01)
    assert found.dropped.passed == pytest.approx(0.05, abs=0.006)
    # Fails when worse beyond doubt and not passed: the observed difference lies below both bounds.
    assert found.dropped.failed == pytest.approx(PHI(min(-Z, Z - effect) + effect), abs=0.01)
    for chances in (found.unchanged, found.dropped, found.one_dropped):
        assert chances.passed + chances.undecided + chances.failed == pytest.approx(1)


def test_a_margin_of_the_detectable_effect_is_passed_by_four_of_five():
    (found,) = plan(evidence(1), policy(0.02), evidence(2))
    (again,) = plan(evidence(1), policy(found.checks[0].mde), evidence(2))
    assert again.unchanged.passed == pytest.approx(0.8, abs=0.01)
    assert (advice(found) == []) == (found.checks[0].margin >= found.checks[0].mde)
    (narrow,) = plan(evidence(1), policy(0.001), evidence(2))
    assert "margin 0.001 is below what so many samples can decide" in advice(narrow)[0]


def test_a_margin_worth_less_than_three_patients_is_said_before_and_after():
    # 7 of 100 patients have the finding, the model says all of it: one of them lost costs 1/7 of the recall.
    rows = np.zeros((200, 43))
    made = evidence(1)
    rows[:, 0] = 1
    rows[:14, 1] = 1
    made = replace(made, columns={**made.columns, LABELS: column(LABELS, rows)})
    name = "f1_enlarged_cardiomediastinum"
    worth = patient_worth(made.columns[LABELS].table, made.clusters, {name: True})[name]
    assert worth == pytest.approx(1 / 7)
    asked = Policy(name="p", metrics=(Check(metric=LABELS, value=name, margin=0.2),))
    gate = check(made, made, asked, replicates=200)
    (finding,) = gate.findings
    assert finding.status == "pass"
    assert finding.worth == pytest.approx(worth)
    assert "the margin is worth 1.4 patients, fewer than 3" in finding.reason
    wide = Policy(name="p", metrics=(Check(metric=LABELS, value=name, margin=0.43),))
    assert "worth" not in check(made, made, wide, replicates=200).findings[0].reason


def test_the_plan_says_of_a_margin_that_it_is_worth_few_patients():
    narrow, wide = (plan(evidence(1), policy(margin), evidence(2)) for margin in (0.001, 0.05))
    each = narrow[0].checks[0]
    own = evidence(1).columns[ROUGE].rows[:, 1].reshape(-1, 2).mean(axis=1)
    assert each.worth == pytest.approx((own - own.min()).mean() / 100)
    assert f"worth {0.001 / each.worth:.2g} patients, fewer than 3" in too_fine(narrow, evidence(1))[0]
    assert too_fine(wide, evidence(1)) == []
    assert as_json(narrow, evidence(1), policy(0.001))["few_patients"] == too_fine(narrow, evidence(1))


def test_without_a_pilot_the_noise_is_assumed_and_said():
    found = plan(evidence(1), policy(0.02))
    assert [each.correlation for each in found] == [0.0, 0.5, 0.8]
    errors = [each.checks[0].standard_error for each in found]
    assert errors[1] == pytest.approx(errors[0] * 0.5**0.5)
    assert all("assumed" in each.noise for each in found)


def test_holm_in_the_plan_is_the_gates():
    from cxrbench.stats_tests import holm

    rng = np.random.default_rng(0)
    observed = rng.normal(-1.5, 1.5, (300, 4))
    _, failed = _statuses(observed, np.ones(4), np.full(4, 0.01), 0.05)
    passed = observed - Z > -0.01
    for row, fails, passes in zip(observed, failed, passed, strict=True):
        adjusted = holm({str(i): PHI(z) for i, z in enumerate(row)})
        assert [adjusted[str(i)] <= 0.05 and not passes[i] for i in range(4)] == fails.tolist()


def test_the_draws_have_the_covariance_asked_for():
    wanted = np.array([[1.0, 0.6], [0.6, 2.0]])
    drawn = _normals(wanted, 50_000, 1)
    assert np.cov(drawn.T) == pytest.approx(wanted, abs=0.04)
    assert drawn[:100] == pytest.approx(_normals(wanted, 50_000, 1)[:100])


def test_metrics_that_move_together_cost_less_than_independent_ones():
    rng = np.random.default_rng(8)

    def with_second(made, twin):
        rows = made.columns[ROUGE].rows
        own = rows if twin else np.stack([np.ones(200), 0.3 + rng.normal(0, 0.05, 200)], axis=1)
        return replace(made, columns={**made.columns, "rouge-l:r2gen": column("rouge-l:r2gen", own)})

    asked = policy(0.01, "rouge-l:r2gen")
    twins, strangers = (
        plan(with_second(evidence(1), twin), asked, with_second(evidence(2), twin))[0] for twin in (True, False)
    )
    assert twins.unchanged.passed > strangers.unchanged.passed + 0.05
    assert twins.unchanged.passed == pytest.approx(twins.checks[0].unchanged.passed, abs=0.01)


def test_the_plan_foretells_what_the_gate_says():
    """Exchange two equal runs by patient 150 times: shares of verdicts lie near the planned ones."""
    one, two = evidence(1), evidence(2)
    (ahead,) = plan(one, policy(0.01), two)
    rng = np.random.default_rng(1)
    counts = {"pass": 0, "fail": 0, "undecided": 0}
    for seed in range(150):
        swap = np.repeat(rng.random(100) < 0.5, 2)[:, None]
        rows = [np.where(swap, b.columns[ROUGE].rows, a.columns[ROUGE].rows) for a, b in ((one, two), (two, one))]
        sides = [changed(each, ROUGE, rows=part) for each, part in zip((one, two), rows, strict=True)]
        counts[check(*sides, policy(0.01), replicates=200, seed=seed).verdict.status] += 1
    assert counts["pass"] / 150 == pytest.approx(ahead.unchanged.passed, abs=0.13)
    assert counts["fail"] / 150 <= 0.11


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Policy(name="p", length=LengthGuard(max_ratio=1.2)), "blocks on no metric"),
        (Policy(name="p", metrics=(Check(metric="bleu:raw", value="bleu_4", margin=0.1),)), "no scores of bleu:raw"),
    ],
)
def test_what_cannot_be_planned_is_refused(asked, said):
    with pytest.raises(CxrbenchError, match=said):
        plan(evidence(1), asked)


def test_a_pilot_that_shows_no_noise_is_refused():
    with pytest.raises(CxrbenchError, match="does not vary"):
        plan(evidence(1), policy(0.02), evidence(1))
    with pytest.raises(CxrbenchError, match="cannot be compared"):
        plan(evidence(1), policy(0.02), evidence(2, data="d2"))


def test_json_has_everything():
    body = as_json(plan(evidence(1), policy(0.02)), evidence(1), policy(0.02))
    assert body["n"] == 200
    assert body["clusters"] == 100
    assert len(body["plans"]) == 3
    assert set(body["plans"][0]["unchanged"]) == {"passed", "undecided", "failed"}
