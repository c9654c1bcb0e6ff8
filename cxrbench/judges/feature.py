"""What metrics get of a judge: per pair, its verdicts of every repeat. Touches the engine and the feature contract."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.base import ALONE, Feature, Pairs, Resources
from cxrbench.judges.ask import Prompt
from cxrbench.judges.engine import Judge, Judged, judge_all
from cxrbench.judges.parsers import parser_of
from cxrbench.judges.rubric import Rubric

Verdicts = list[Judged]
"""Of one pair, one per repeat."""


def judge_of(resources: Resources) -> Judge:
    """The judge named for this scoring.

    Raises:
        CxrbenchError: none was.
    """
    if not isinstance(resources.judge, Judge):
        raise no_judge()
    return resources.judge


def no_judge() -> CxrbenchError:
    """No judge was named."""
    return CxrbenchError(
        "needs a judge",
        where="--judge",
        fix="--judge openai:MODEL --judge-url http://127.0.0.1:8000/v1; docs/judges.md",
        code=Exit.UNDECIDED,
    )


class JudgeFeature(Feature):
    """Finds the rubrics the metric was fitted with, and asks."""

    shared = True

    def extract(self, pairs: Pairs, settings: Mapping[str, Hashable], resources: Resources = ALONE) -> list[Verdicts]:
        """Verdicts of each pair, in order, as many as there are repeats."""
        judge = judge_of(resources)
        return self.verdicts(pairs, [judge.by_tag(tag) for tag in str(settings["rubrics"]).split("+")], judge)

    @abstractmethod
    def verdicts(self, pairs: Pairs, rubrics: Sequence[Rubric], judge: Judge) -> list[Verdicts]:
        """Ask the judge about every pair."""


class PairVerdicts(JudgeFeature):
    """One question per pair and repeat; a verdict's value is what the rubric's parser gives."""

    name: ClassVar[str] = "judge"

    def verdicts(self, pairs: Pairs, rubrics: Sequence[Rubric], judge: Judge) -> list[Verdicts]:
        (rubric,) = rubrics
        prompts = [
            Prompt(rubric, rubric.messages({"reference": reference, "candidate": candidate}), repeat, "", (sample_id,))
            for sample_id, candidate, reference in zip(
                pairs.sample_ids, pairs.predictions, pairs.references, strict=True
            )
            for repeat in range(judge.repeats)
        ]
        found = judge_all(prompts, judge, parser_of(rubric))
        return [found[start : start + judge.repeats] for start in range(0, len(found), judge.repeats)]


def listed(phrases: Sequence[str]) -> str:
    """Phrases as a numbered list for a prompt."""
    return "\n".join(f"{number}. {each}" for number, each in enumerate(phrases, start=1))


def unless_failed(judged: Sequence[Judged], value: Any) -> Judged:
    """A verdict that rests on several answers: `value`, or the reason of the first one that failed."""
    failed = next((each for each in judged if each.value is None), None)
    return Judged(value) if failed is None else Judged(None, failed.reason)
