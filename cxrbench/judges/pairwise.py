"""Two systems by a judge: which report of each pair is better, asked in both orders, and the rates that follow.

The judge sees no name of a system. A sample on which it names the same winner in both orders is a win or a loss; one
on which it changes its mind with the order is a tie, counted as such. The length-controlled rate is that of a logistic
regression of the outcome on the difference in length, read off at no difference. Touches the engine, stats and numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.judges.ask import Prompt
from cxrbench.judges.engine import Judge, Judged, judge_all
from cxrbench.judges.parsers import parser_of
from cxrbench.stats import Interval, Table, bootstrap

Floats = NDArray[np.float64]

STEPS = 50
RIDGE = 1e-3
"""Weight of the penalty on both coefficients, as if a thousandth of a sample spoke for no preference: without it a
system that wins everywhere has no finite coefficient."""


@dataclass(frozen=True, slots=True)
class Duel:
    """One sample: what was written by the baseline and by the candidate, and the reference."""

    sample_id: str
    baseline: str
    candidate: str
    reference: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one sample: 1 the candidate won, 0 it lost, 0.5 neither; `swayed` if the order decided.

    `wins` is the mean over repeats, `length` the candidate's words minus the baseline's. None where a call failed.
    Of equal reports nobody was `asked`.
    """

    wins: float | None
    swayed: float = 0.0
    first: float = 0.0
    length: float = 0.0
    reason: str = ""
    asked: bool = True


def fight(duels: Sequence[Duel], judge: Judge) -> list[Outcome]:
    """Ask the judge about every duel, in both orders, as often as it has repeats; outcomes in the order of the duels.

    Equal reports are a tie that nobody is asked about.
    """
    rubric = judge.rubric("pairwise")
    asked = [number for number, duel in enumerate(duels) if duel.baseline != duel.candidate]
    prompts = []
    for number in asked:
        duel = duels[number]
        for repeat in range(judge.repeats):
            for part, texts in (("ab", (duel.baseline, duel.candidate)), ("ba", (duel.candidate, duel.baseline))):
                facts = {"reference": duel.reference, "first": texts[0], "second": texts[1]}
                prompts.append(Prompt(rubric, rubric.messages(facts), repeat, part, (duel.sample_id,)))
    judged = judge_all(prompts, judge, parser_of(rubric))
    each = 2 * judge.repeats
    given = {number: judged[place * each : (place + 1) * each] for place, number in enumerate(asked)}
    return [_outcome(duel, given.get(number, [])) for number, duel in enumerate(duels)]


def _outcome(duel: Duel, judged: Sequence[Judged]) -> Outcome:
    length = float(len(duel.candidate.split()) - len(duel.baseline.split()))
    failed = next((each for each in judged if each.value is None), None)
    if failed is not None:
        return Outcome(None, length=length, reason=failed.reason)
    if not judged:
        return Outcome(0.5, length=length, asked=False)
    orders = list(zip(judged[::2], judged[1::2], strict=True))
    # In the first order the candidate is B, in the second A.
    votes = [({"A": 0, "B": 1}.get(ab.value, 0.5), {"A": 1, "B": 0}.get(ba.value, 0.5)) for ab, ba in orders]
    wins = [one if one == two else 0.5 for one, two in votes]
    swayed = sum({one, two} == {0, 1} for one, two in votes)
    first = sum(each.value == "A" for each in judged)
    second = sum(each.value == "B" for each in judged)
    bias = (first - second) / len(judged)
    return Outcome(sum(wins) / len(wins), swayed / len(votes), bias, length)


class WinRates:
    """Rows (count, wins, won, lost, swayed, length, asked, first-second) -> rates; not additive, for the regression."""

    additive: ClassVar[bool] = False

    def value(self, sums: Floats) -> dict[str, Floats]:
        raise NotImplementedError("the length-controlled rate is no function of sums")

    def value_weighted(self, rows: Floats, weights: Floats) -> dict[str, Floats]:
        """Rates for each row of `weights` (b, n), each (b,); not a number where nothing weighs."""
        whole = weights @ rows[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            found = {
                name: weights @ (rows[:, column] * rows[:, 0]) / whole
                for column, name in enumerate(("win_rate", "won", "lost", "order_decided"), start=1)
            }
            found["position_bias"] = weights @ (rows[:, 7] * rows[:, 0]) / (weights @ (rows[:, 6] * rows[:, 0]))
        found["length_controlled_win_rate"] = length_controlled(rows[:, 1], rows[:, 5], weights * rows[:, 0])
        return found


def length_controlled(wins: Floats, lengths: Floats, weights: Floats) -> Floats:
    """The win rate at equal length, for each row of weights.

    Args:
        wins: (n,) in [0, 1].
        lengths: (n,) candidate's words minus the baseline's.
        weights: (b, n).

    Returns:
        (b,): sigmoid of the intercept of a logistic regression on tanh(length / its standard deviation), by Newton
        steps; not a number where nothing weighs. The form is AlpacaEval's without its terms for models and prompts.

    >>> float(length_controlled(np.array([1.0, 0.0]), np.array([5.0, -5.0]), np.ones((1, 2))).round(3)[0])
    0.5
    """
    spread = float(lengths.std())
    x = np.stack([np.ones_like(lengths), np.tanh(lengths / spread) if spread else np.zeros_like(lengths)], axis=1)
    beta = np.zeros((len(weights), 2))
    for _ in range(STEPS):
        p = 1.0 / (1.0 + np.exp(-np.clip(beta @ x.T, -30, 30)))
        gradient = (weights * (wins - p)) @ x - RIDGE * beta
        moments = (weights * p * (1.0 - p)) @ np.stack([x[:, 0], x[:, 1], x[:, 1] ** 2], axis=1)
        curve = moments[:, [[0, 1], [1, 2]]] + RIDGE * np.eye(2)
        step = np.linalg.solve(curve, gradient[..., None])[..., 0]
        beta += np.clip(step, -4.0, 4.0)
        if np.abs(step).max(initial=0.0) < 1e-10:
            break
    rate = 1.0 / (1.0 + np.exp(-beta[:, 0]))
    return np.where(weights.sum(axis=1) > 0, rate, np.nan)


def rates(
    outcomes: Sequence[Outcome], clusters: Sequence[str], *, level: float, replicates: int, seed: int
) -> dict[str, Any]:
    """Win, tie and loss, position bias, and the win rates with intervals (percentile, clusters resampled).

    Args:
        outcomes: of `fight`.
        clusters: cluster of each sample.
        level: of the intervals.
        replicates: 0 for none.
        seed: of the resampling.

    Raises:
        CxrbenchError: not one sample was judged.
    """
    scored = [number for number, each in enumerate(outcomes) if each.wins is not None]
    if not scored:
        raise CxrbenchError("not one pair could be judged", where=outcomes[0].reason if outcomes else "",
                            fix="repeat the command once the judge answers", code=Exit.UNDECIDED)  # fmt: skip
    kept = [outcomes[number] for number in scored]
    rows = np.array(
        [
            [1.0, _w(e), float(_w(e) > 0.5), float(_w(e) < 0.5), e.swayed, e.length, float(e.asked), e.first]
            for e in kept
        ],
        np.float64,
    )
    metric, who = WinRates(), [clusters[number] for number in scored]
    point = metric.value_weighted(rows, np.ones((1, len(rows))))
    intervals: dict[str, Interval] = {}
    if replicates:
        intervals = bootstrap(
            {"pairwise": Table(rows, metric)}, who, method="percentile", level=level, replicates=replicates, seed=seed
        )["pairwise"]
    reasons = [each.reason for each in outcomes if each.wins is None]
    return {
        "n": len(scored),
        "n_expected": len(outcomes),
        "failed": len(reasons),
        "reasons": sorted(set(reasons)),
        "win": int((rows[:, 1] > 0.5).sum()),
        "tie": int((rows[:, 1] == 0.5).sum()),
        "loss": int((rows[:, 1] < 0.5).sum()),
        "values": {
            name: {"value": None if np.isnan(found[0]) else float(found[0]), "ci": _ci(intervals.get(name))}
            for name, found in point.items()
        },
    }  # fmt: skip


def _w(outcome: Outcome) -> float:
    return 0.5 if outcome.wins is None else outcome.wins


def _ci(found: Interval | None) -> list[float] | None:
    return None if found is None or found.low is None or found.high is None else [found.low, found.high]
