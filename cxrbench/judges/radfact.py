"""RadFact's questions: a report becomes phrases, each phrase is held against all phrases of the other report.

Phrases are made once per text and repeat. A pair whose every question was not answered is failed: a phrase without a
verdict is not one that is not entailed. Touches the engine and the feature contract.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from cxrbench.features.base import Pairs
from cxrbench.judges.ask import Prompt
from cxrbench.judges.engine import Judge, Judged, judge_all
from cxrbench.judges.feature import JudgeFeature, Verdicts, listed, unless_failed
from cxrbench.judges.parsers import parser_of
from cxrbench.judges.rubric import Rubric

Side = tuple[str, int, int]
"""Of which text a phrase is: side, pair, repeat."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Statuses of the candidate's phrases by the reference, and of the reference's by the candidate."""

    candidate: tuple[str, ...]
    reference: tuple[str, ...]


class RadFactVerdicts(JudgeFeature):
    """A verdict's value is `Facts`."""

    name: ClassVar[str] = "judge-radfact"

    def verdicts(self, pairs: Pairs, rubrics: Sequence[Rubric], judge: Judge) -> list[Verdicts]:
        splitting, holding = rubrics
        phrases = _phrases(pairs, splitting, judge)
        statuses = _statuses(pairs, phrases, holding, judge)
        return [
            [_facts(pair, repeat, phrases, statuses) for repeat in range(judge.repeats)] for pair in range(len(pairs))
        ]


def _sides(pairs: Pairs, judge: Judge) -> list[tuple[Side, str]]:
    texts = {"candidate": pairs.predictions, "reference": pairs.references}
    return [
        ((side, pair, repeat), text)
        for side, given in texts.items()
        for pair, text in enumerate(given)
        for repeat in range(judge.repeats)
    ]


def _phrases(pairs: Pairs, rubric: Rubric, judge: Judge) -> dict[Side, Judged]:
    """Phrases of every text; a text that is blank has none, and nobody is asked."""
    sides = _sides(pairs, judge)
    asked = [(side, text) for side, text in sides if text.strip()]
    prompts = [
        Prompt(
            rubric, rubric.messages({"report": text}), repeat, "phrases", (f"{pairs.sample_ids[pair]}/{side}",)
        )
        for (side, pair, repeat), text in asked
    ]  # fmt: skip
    found = dict(zip((side for side, _ in asked), judge_all(prompts, judge, parser_of(rubric)), strict=True))
    return {side: found.get(side, Judged([])) for side, _ in sides}


def _other(side: Side) -> Side:
    return ("reference" if side[0] == "candidate" else "candidate", *side[1:])


def _statuses(pairs: Pairs, phrases: dict[Side, Judged], rubric: Rubric, judge: Judge) -> dict[Side, list[Judged]]:
    """A status for each phrase of every text whose pair has both lists; nothing entails where the other has none."""
    statuses: dict[Side, list[Judged]] = {}
    prompts: list[Prompt] = []
    owners: list[Side] = []
    for side, own in phrases.items():
        other = phrases[_other(side)].value
        statuses[side] = []
        if own.value is None or other is None:
            continue
        if not other:
            statuses[side] = [Judged("neutral") for _ in own.value]
            continue
        for number, phrase in enumerate(own.value):
            facts = {"phrase": phrase, "phrases": listed(other)}
            name = (f"{pairs.sample_ids[side[1]]}/{side[0]}/{number}",)
            prompts.append(Prompt(rubric, rubric.messages(facts), side[2], "entailment", name))
            owners.append(side)
    for side, judged in zip(owners, judge_all(prompts, judge, parser_of(rubric)), strict=True):
        statuses[side].append(judged)
    return statuses


def _facts(pair: int, repeat: int, phrases: dict[Side, Judged], statuses: dict[Side, list[Judged]]) -> Judged:
    sides: list[Side] = [("candidate", pair, repeat), ("reference", pair, repeat)]
    told = [*(phrases[side] for side in sides), *(each for side in sides for each in statuses[side])]
    candidate, reference = (tuple(str(each.value) for each in statuses[side]) for side in sides)
    return unless_failed(told, Facts(candidate, reference))
