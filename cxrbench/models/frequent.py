"""`frequent-answer`: to every question the answer that the train split gives most often to questions of its kind.

It sees no image, so it says what the wording of the questions alone is worth. Of the same kind is, first, the same
question; where the train split never asks it, the questions with the same question type and answer type; then all.
Where options are offered, they alone count, and each has the log of its share. docs/baselines.md is the user's page.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cxrbench.data.questions import lettered, types_of, without_letters
from cxrbench.errors import CxrbenchError
from cxrbench.models.base import ModelCard, ModelOptions, Prepared
from cxrbench.models.baselines import NEEDS_TRAIN, Lookup, refuse_settings
from cxrbench.types import Generation, Message, Prediction, Request, RequestKind, Sample

Kind = tuple[str, str]
"""("question" | "type" | "all", which)."""


class FrequentAnswer(Lookup):
    """See the module. Equal counts: the answer that comes first in the alphabet, of options the first."""

    card = ModelCard(
        "frequent-answer",
        "the most frequent answer of the train split to such a question",
        revision="1",
        licence="Apache-2.0",
        trained_on=("the task's train split",),
        notes="what the wording of the questions is worth without any image",
    )
    kinds: frozenset[RequestKind] = frozenset({"generate", "score_options"})
    consumes: frozenset[str] = frozenset({"question"})
    needs_pool = True

    def __init__(self, options: ModelOptions) -> None:
        refuse_settings(self.card.name, options)
        if options.extra.get("target", "answer") != "answer":
            raise CxrbenchError(
                f"{self.card.name} answers questions, and this task asks none",
                where="the task's target",
                fix="--task demo-vqa or another that asks questions; for reports: --model random-report",
            )
        self._counts: Mapping[Kind, Counter[str]] = {}
        self._spelled: Mapping[str, str] = {}

    def identity(self) -> dict[str, Any]:
        """The rule; the train split's questions and answers are part of the run's own identity."""
        return {**super().identity(), "kinds": "same question, else same question type and answer type, else all"}

    def circumstances(self) -> dict[str, Any]:
        return {**super().circumstances(), "pool": self._counts["all", ""].total() if self._counts else 0}

    def fit(self, pool: Callable[[], Iterable[Sample]]) -> None:
        """Count the answers to every kind of question.

        Raises:
            CxrbenchError: the train split has no question.
        """
        counts: defaultdict[Kind, Counter[str]] = defaultdict(Counter)
        spelled: dict[str, str] = {}
        for sample in pool():
            if sample.question is None:
                continue
            answer = _plain(sample.target)
            spelled[answer] = min(sample.target.strip(), spelled.get(answer, sample.target.strip()))
            for kind in _kinds(_asked(sample), types_of(sample.subgroups)):
                counts[kind][answer] += 1
        if not counts:
            raise CxrbenchError(
                "the train split has no question to learn from", where=f"model {self.card.name}", fix=NEEDS_TRAIN
            )
        self._counts, self._spelled = dict(counts), spelled

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """The question, and as a turn of its own what type it is of."""
        about = types_of(sample.subgroups)
        turns = (Message("system", about),) if about else ()
        return Request(
            sample.sample_id,
            kind,
            messages=(*turns, Message("user", sample.question or "")),
            options=sample.options,
            inputs=("question", *(("question-type",) if about else ())),
            generation=generation,
            seed=seed,
        )

    def text(self, request: Request) -> str:
        """The most frequent answer; the option with its letter where the question lists them."""
        if not request.options:
            counts = next(found for found in self._known(request) if found)
            return self._spelled[min(counts, key=lambda answer: (-counts[answer], answer))]
        shares = self._shares(request)
        best = max(range(len(shares)), key=shares.__getitem__)
        listed = without_letters(request.messages[-1].text, request.options) is not None
        return lettered(request.options)[best] if listed else request.options[best]

    def _answer(self, prepared: Prepared, batch: int) -> Prediction:
        made, request = super()._answer(prepared, batch), prepared.request
        if request.kind != "score_options":
            return made
        shares = tuple(map(math.log, self._shares(request)))
        return replace(made, option_logprobs=shares, option_tokens=(1,) * len(shares))

    def _known(self, request: Request) -> list[Counter[str]]:
        """Counts of the kinds a question is of, the narrowest first; the last is of all questions."""
        *about, question = (message.text for message in request.messages)
        bare = without_letters(question, request.options)
        kinds = _kinds(question if bare is None else bare, about[0] if about else "")
        return [self._counts.get(kind, Counter()) for kind in kinds]

    def _shares(self, request: Request) -> list[float]:
        """The share of each option among the options, one added to each so that none is impossible.

        Counted over the narrowest kind of question that ever has one of them for an answer.
        """
        options = [_plain(option) for option in request.options]
        known = self._known(request)
        counts = next((found for found in known if any(found[option] for option in options)), known[-1])
        total = sum(counts[option] + 1 for option in options)
        return [(counts[option] + 1) / total for option in options]


def _kinds(question: str, about: str) -> Sequence[Kind]:
    """What kinds a question is of, the narrowest first."""
    return (("question", _plain(question)), *((("type", about),) if about else ()), ("all", ""))


def _asked(sample: Sample) -> str:
    """The question without options that are listed in it."""
    text = sample.question or ""
    bare = without_letters(text, sample.options)
    return text if bare is None else bare


def _plain(text: str) -> str:
    """Texts that differ in capitals or blanks alone count as one."""
    return " ".join(text.casefold().split())
