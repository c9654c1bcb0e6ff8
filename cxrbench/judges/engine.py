"""The judge engine: each question is asked once, answered for good, and lost never.

    verdicts = judge_all(prompts, judge, parsers.green)

Equal prompts are one question. What the store knows is not asked; what comes is stored raw before anything is done with
it. A failed call is a named failure and never a score: the next command asks for it again. Of several workers each asks
its share (`Hands`). Touches the store and the asker only; it does not know HTTP.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from cxrbench.errors import CxrbenchError
from cxrbench.judges.ask import PENDING, Asker, Choosing, Prompt, Reply, Usage
from cxrbench.judges.parsers import Parser, Unreadable
from cxrbench.judges.rubric import Rubric, built_in
from cxrbench.judges.store import JudgeStore, Stored, Told
from cxrbench.shares import ElsewhereError, Share

UNREADABLE = "unreadable"
_TOLD = 4
"""Reasons of failed calls that are told; each sample's own stands in scores/."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What one prompt came to: the parsed answer, or None with the reason."""

    value: Any
    reason: str = ""


def _unwatched(stage: str, done: int, total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True, slots=True)
class Hands:
    """How workers share the questions of one scoring.

    `share`: which are asked here; None: all that nobody was `told` an answer to in this scoring. `keep` is where a
    worker puts what it is told; None: the store.
    """

    share: Share | None = None
    told: Mapping[bytes, Told] = field(default_factory=dict)
    keep: Callable[[Told], None] | None = None


@dataclass(frozen=True, slots=True)
class Judge:
    """Who judges, how often, by which rubrics, and where answers are kept (None: in memory).

    `rubrics` are the user's, by the name of the built-in one they take the place of. `known` (rubrics by tag) is filled
    by the metrics that use them, `usage` (by tag) as questions are answered.
    """

    asker: Asker
    repeats: int = 1
    rubrics: Mapping[str, Rubric] = field(default_factory=dict)
    folder: Path | None = None
    watch: Callable[[str, int, int], None] = _unwatched
    known: dict[str, Rubric] = field(default_factory=dict)
    usage: dict[str, Usage] = field(default_factory=dict)
    hands: Hands = field(default_factory=Hands)

    def rubric(self, name: str) -> Rubric:
        """The rubric called `name`: the user's, or the built-in one."""
        return self.rubrics.get(name) or built_in(name)

    def by_tag(self, tag: str) -> Rubric:
        """The rubric with this name and hash.

        Raises:
            CxrbenchError: it is another one by now.
        """
        found = self.known.get(tag) or self.rubric(tag.rpartition(".")[0])
        if found.tag != tag:
            raise CxrbenchError(
                f"the rubric {found.name} is another than the one this score began with ({tag})",
                where="--rubric",
                fix="score again with the rubric that is to be used",
            )
        return found

    def told(self, tags: str) -> list[str]:
        """What a reader must know of numbers that rest on these rubrics, whose tags are joined by +."""
        return [line for tag in tags.split("+") for line in told(self, tag)]

    def at(self, folder: Path) -> Judge:
        """The same judge with answers kept in a folder."""
        return replace(self, folder=folder)

    def watched(self, watch: Callable[[str, int, int], None]) -> Judge:
        """The same judge, told to whom it shows its progress."""
        return replace(self, watch=watch)


def judge_all(prompts: Sequence[Prompt], judge: Judge, read: Parser) -> list[Judged]:
    """Ask every prompt that has no readable answer yet; results in the order of the prompts.

    Args:
        prompts: may hold equal ones; they are asked once.
        judge: who is asked.
        read: raises `Unreadable` for an answer that is not what was asked for.

    Raises:
        CxrbenchError: the store cannot be written, or the asker cannot be reached at all.
        ElsewhereError: in a worker, once its own share is asked: the others are not known yet.
    """
    if not prompts:
        return []
    usage = judge.usage.setdefault(prompts[0].rubric.tag, Usage())
    with JudgeStore(judge.folder if judge.asker.keeps else None) as store:
        who, keys, known = _known(prompts, judge.asker, store)
        first: dict[bytes, Prompt] = {}
        samples: dict[bytes, dict[str, None]] = {}
        for key, prompt in zip(keys, prompts, strict=True):
            first.setdefault(key, prompt)
            samples.setdefault(key, {}).update(dict.fromkeys(prompt.sample_ids))
        told = _told(first, judge)
        for each in _before(store.unread(list(first)), told):
            _charge(usage, each)
            usage.lost += 1
        found = {key: _read(each, read) for key, each in known.items() if key not in told}
        for key in [key for key, each in found.items() if each.value is None]:
            del found[key]  # a parser has become stricter since: ask again
            _charge(usage, known[key])
            usage.lost += 1
        for key in found:
            _count(usage, known[key], asked=False)
        found |= {key: _retold(each, read, usage) for key, each in told.items()}
        open_ = [key for key in first if key not in found and _is_mine(first[key], judge)]
        if open_:
            asked = [replace(first[key], sample_ids=tuple(samples[key])) for key in open_]
            _ask(asked, open_, who, judge, read, store, found, usage)
    if len(found) < len(first):
        raise ElsewhereError
    return [found[key] for key in keys]


def _question(prompt: Prompt, judge: Judge) -> bytes:
    """What workers know a question by: that of this judge, in whichever of its ways it is asked in the end."""
    return prompt.key(judge.asker.identity())


def _is_mine(prompt: Prompt, judge: Judge) -> bool:
    return judge.hands.share is None or judge.hands.share.wants(_question(prompt, judge))


def _told(first: Mapping[bytes, Prompt], judge: Judge) -> dict[bytes, Told]:
    """What workers of this scoring were told, by the key of the prompt."""
    told = judge.hands.told
    if not told:
        return {}
    questions = {key: _question(prompt, judge) for key, prompt in first.items()}
    return {key: told[question] for key, question in questions.items() if question in told}


def _before(unread: Sequence[Stored], told: Mapping[bytes, Told]) -> list[Stored]:
    """Of answers that could not be read, those of earlier scorings: `told` are of this one."""
    now = {(each.answer.at, each.answer.text) for each in told.values() if each.answer is not None}
    return [each for each in unread if (each.at, each.text) not in now]


def _retold(told: Told, read: Parser, usage: Usage) -> Judged:
    """What a worker was told, counted as if this process had asked."""
    if told.answer is not None:
        _count(usage, told.answer, asked=True)
    if not told.reason and told.answer is not None:
        return _read(told.answer, read)
    why = told.reason.removeprefix(f"{PENDING}: ")
    usage.failures[why] = usage.failures.get(why, 0) + 1
    return Judged(None, told.reason)


def _known(
    prompts: Sequence[Prompt], asker: Asker, store: JudgeStore
) -> tuple[Mapping[str, Any], list[bytes], dict[bytes, Stored]]:
    """Who is asked, the key of each prompt, and what is known; of several ways to ask, the one with answers."""
    ways = asker.ways(prompts[0].rubric) if isinstance(asker, Choosing) else (asker.identity(),)
    for who in ways:
        keys = [prompt.key(who) for prompt in prompts]
        known = {key: each for key, each in store.get(list(dict.fromkeys(keys))).items() if each.readable}
        if known:
            if isinstance(asker, Choosing):
                asker.settle(prompts[0].rubric, who)
            return who, keys, known
    return ways[0], [prompt.key(ways[0]) for prompt in prompts], {}


def _ask(
    prompts: Sequence[Prompt],
    keys: Sequence[bytes],
    who: Mapping[str, Any],
    judge: Judge,
    read: Parser,
    store: JudgeStore,
    found: dict[bytes, Judged],
    usage: Usage,
) -> None:
    done = count(1)
    hand_over = judge.hands.keep

    def keep(prompt: Prompt, reply: Reply, judged: Judged) -> None:
        asked_as = reply.who or who
        made = _stored(reply, json.dumps(_about(prompt, asked_as), sort_keys=True))
        made = replace(made, readable=judged.value is not None)
        if hand_over is None:
            store.put(prompt.key(asked_as), made)
        else:
            dated = replace(made, at=time.time())
            hand_over(Told(_question(prompt, judge), prompt.key(asked_as), dated, judged.reason))
        _count(usage, made, asked=True)

    def answered(number: int, reply: Reply) -> None:
        key, prompt = keys[number], prompts[number]
        if reply.text is None:
            why = reply.detail or reply.outcome
            found[key] = Judged(None, f"{PENDING}: {why}")
            if reply.body is not None:  # a completion all the same (a refusal), and paid for
                keep(prompt, reply, found[key])
            elif hand_over is not None:
                hand_over(Told(_question(prompt, judge), None, None, found[key].reason))
            usage.failures[why] = usage.failures.get(why, 0) + 1
        else:
            judged = _read(_stored(reply, ""), read)
            keep(prompt, reply, judged)
            if judged.value is None:
                usage.failures[judged.reason] = usage.failures.get(judged.reason, 0) + 1
            found[key] = judged
        judge.watch("asking the judge", next(done), len(prompts))

    judge.asker.ask(prompts, answered)


def _about(prompt: Prompt, who: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked of whom, without a word of the reports: these are in no other column than the answer's."""
    return {
        "rubric": prompt.rubric.tag,
        "who": dict(who),
        "settings": prompt.settings,
        "repeat": prompt.repeat,
        "part": prompt.part,
    }


def _stored(reply: Reply, about: str) -> Stored:
    return Stored(
        text=reply.text or "",
        readable=False,
        about=about,
        finish_reason=reply.finish_reason,
        prompt_tokens=reply.prompt_tokens,
        output_tokens=reply.output_tokens,
        cost=reply.cost,
        seconds=reply.seconds,
        attempts=reply.attempts,
        model=reply.model,
        fingerprint=reply.fingerprint,
        body=reply.body,
    )


def _read(answer: Stored, read: Parser) -> Judged:
    """The answer parsed. A verdict is any object but None; parsers give none."""
    try:
        return Judged(read(concluded(answer.text)))
    except Unreadable as error:
        cut = ", cut off by the length cap" if answer.finish_reason == "length" else ""
        return Judged(None, f"{UNREADABLE}: {error}{cut}")


def concluded(text: str) -> str:
    """What follows a model's thinking aloud: drafts of an answer stand there, in the form of answers.

    >>> concluded('<think>{"better": "A"}? No.</think>{"better": "B"}')
    '{"better": "B"}'
    """
    return text.rpartition("</think>")[2].lstrip() if "</think>" in text else text


def _count(usage: Usage, answer: Stored, *, asked: bool) -> None:
    usage.used += 1
    usage.asked += asked
    usage.structured += json.loads(answer.about)["who"].get("structured") == "yes"
    usage.seconds.append(answer.seconds)
    served = " ".join(part for part in (answer.model, answer.fingerprint) if part)
    if served:
        usage.served[served] = usage.served.get(served, 0) + 1
    _charge(usage, answer)


def _charge(usage: Usage, answer: Stored) -> None:
    """What a completion took, whether or not it could be read."""
    usage.prompt_tokens += answer.prompt_tokens or 0
    usage.output_tokens += answer.output_tokens or 0
    usage.uncounted += answer.prompt_tokens is None or answer.output_tokens is None
    usage.cost += answer.cost or 0.0
    usage.priced += answer.cost is not None


def told(judge: Judge, tag: str) -> list[str]:
    """What a reader must know of how a judged number came about: who answered, at what cost, and what failed."""
    usage = judge.usage.get(tag)
    if usage is None or not (usage.used or usage.failures):
        return []
    parts = [f"{usage.used} answers, {usage.asked} of them asked for now"]
    if usage.uncounted < usage.used + usage.lost:
        parts.append(f"{usage.prompt_tokens} prompt and {usage.output_tokens} answer tokens")
    if usage.priced:
        unknown = usage.used + usage.lost - usage.priced
        parts.append(f"cost {usage.cost:.4g}" + (f" (that of {unknown} is not known)" if unknown else ""))
    if usage.lost:
        parts.append(f"{usage.lost} of other answers that could not be read included")
    if usage.seconds and max(usage.seconds) > 0:
        parts.append(f"latency p50 {sorted(usage.seconds)[len(usage.seconds) // 2]:.3g} s")
    if usage.structured:
        parts.append("structured output" + (f" ({usage.structured})" if usage.structured < usage.used else ""))
    lines = [f"judge {judge.asker.name}, rubric {tag}: {'; '.join(parts)}"]
    if usage.served:
        named = ", ".join(f"{name} ({times})" for name, times in Counter(usage.served).most_common())
        several = "; the model behind the name has changed meanwhile" if len(usage.served) > 1 else ""
        lines.append(f"served by {named}{several}")
    if usage.failures:
        most = Counter(usage.failures).most_common()
        failed = "; ".join(f"{times} {why}" for why, times in most[:_TOLD])
        if len(most) > _TOLD:
            failed += f"; {sum(times for _, times in most[_TOLD:])} for other reasons"
        stopped = judge.asker.stopped()
        why = f" ({stopped})" if stopped and stopped not in failed else ""
        lines.append(f"calls that failed: {failed}{why}; the same command asks for these again")
    return lines
