"""What judges said of reports: errors by category from stored scores, answers as they came from the judges' store.

Nobody is asked. The questions of a judged metric are made again by the code that asked them, and an asker that knows
nothing but the store answers them: so every answer stands beside the report it was given for, whatever the metric asks.
Never torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxrbench import registry
from cxrbench.config import cache_dir
from cxrbench.errors import CxrbenchError
from cxrbench.features.base import Pairs, Resources
from cxrbench.http_answer import NO_ANSWER
from cxrbench.judges.ask import Answered, Prompt, Reply
from cxrbench.judges.engine import Judge
from cxrbench.judges.rubric import FOLDER, Rubric, built_in, read_rubric
from cxrbench.judges.store import FILE, JudgeStore, Stored
from cxrbench.metrics.base import SCORED, Context, Metric
from cxrbench.report.explorer_data import Laid, Side
from cxrbench.scores import Sources, stored_contexts
from cxrbench.scoring import Chosen, Scored
from cxrbench.types import OK

Answer = tuple[str, str]
"""Which of a judge's answers about a report it is ("" where there is one only), and the answer."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A judged metric of a page: its kinds of errors, and by run and sample [counts, why there are none, answers]."""

    metric: str
    categories: tuple[str, ...]
    judges: tuple[str, ...]
    """Who judged each run; empty where the run was not judged by this metric."""
    said: tuple[Mapping[str, list[Any]], ...]
    answered: int
    notes: tuple[str, ...]


def heard(laid: Laid, rubrics: Sequence[Rubric] = ()) -> list[Heard]:
    """What judges said of the reports of a page, metric by metric.

    Args:
        laid: the runs side by side.
        rubrics: those that were used in place of built-in ones: answers are found by what was asked.

    Raises:
        CxrbenchError: the judges' store or a context of a run is damaged.
    """
    keys = dict.fromkeys(scored.metric.key for side in laid.sides for scored in side.judged)
    return [_heard(laid, key, rubrics) for key in keys]


def _heard(laid: Laid, key: str, rubrics: Sequence[Rubric]) -> Heard:
    judges: list[str] = []
    said: list[Mapping[str, list[Any]]] = []
    notes: dict[str, None] = {}
    categories: tuple[str, ...] = ()
    for side in laid.sides:
        scored = next((each for each in side.judged if each.metric.key == key), None)
        if scored is None:
            judges.append("")
            said.append({})
            continue
        categories = kinds_of_errors(scored.metric)
        context = _context(side, scored.metric, laid.dataset)
        judges.append(str(context.data.get("judge", "not recorded")))
        answers, why = _answers(laid, side, scored.metric, context, rubrics)
        if why:
            notes[f"{key}: no answers of the judge are shown, {why}"] = None
        said.append(_said(scored, categories, answers))
    count = sum(bool(row[2]) for rows in said for row in rows.values())
    return Heard(key, categories, tuple(judges), tuple(said), count, tuple(notes))


def kinds_of_errors(metric: Metric) -> tuple[str, ...]:
    """Values of a judged metric that count something wrong; all categories of a rubric of the user's."""
    own = metric.name == "judge"
    return tuple(
        name
        for name, about in metric.values.items()
        if name != "repeat_sd"
        and about.bounds[0] == 0.0
        and (about.higher_is_better is False or (own and name != "score"))
    )


def _said(scored: Scored, categories: Sequence[str], answers: Mapping[str, list[Answer]]) -> dict[str, list[Any]]:
    if scored.statistics is None:
        return {}
    with np.errstate(divide="ignore", invalid="ignore"):
        found = scored.metric.value(scored.rows())
    counts = np.stack([np.asarray(found[name], float) for name in categories], axis=1) if categories else None
    done = (scored.statistics.status == SCORED).all(axis=1)
    rows: dict[str, list[Any]] = {}
    for at, name in enumerate(scored.sample_ids):
        numbers = [_short(each) for each in counts[at]] if counts is not None and done[at] else None
        rows[name] = [numbers, "" if done[at] else scored.statistics.reasons[at], answers.get(name, [])]
    return rows


def _short(value: float) -> float | None:
    """A count as it is shown: whole unless repeats were averaged; None for 0/0."""
    return None if not np.isfinite(value) else int(value) if value == int(value) else float(f"{value:.3g}")


def _context(side: Side, metric: Metric, dataset: str) -> Context:
    found = stored_contexts(side.run, [Chosen(metric, required=False)], Sources(), dataset)
    return found.get(metric.key, Context())


def _answers(
    laid: Laid, side: Side, metric: Metric, context: Context, rubrics: Sequence[Rubric]
) -> tuple[dict[str, list[Answer]], str]:
    """Answers by sample, each with what it is an answer to; or why there are none."""
    name = str(context.data.get("judge", ""))
    if not name:
        return {}, "the run does not say who judged"
    known = _rubrics(metric, str(context.data["rubrics"]), rubrics)
    found = {tag: rubric for tag, rubric in known.items() if rubric is not None}
    if len(found) < len(known):
        other = next(tag for tag in known if tag not in found)
        return {}, f"they were asked by another rubric ({other}): --rubric FILE"
    best: dict[str, list[Answer]] = {}
    file = cache_dir() / "judges" / laid.dataset / FILE
    if file.exists():
        with JudgeStore(file.parent) as store:
            for who in store.askers(tuple(found)):
                if str(who.get("revision", "")) == str(context.data["revision"]) and _names(name, who):
                    judge = Judge(FromStore(store, who), int(context.data["repeats"]), known=found)
                    best = max(best, _asked_again(laid, side, metric, context, judge), key=len)
    return best, "" if best else f"none of {name} are kept on this machine"


def _names(name: str, who: Mapping[str, Any]) -> bool:
    """Whether a judge that a run names `openai:MODEL` or `local:DIR` is the one of an identity."""
    kind, _, model = name.partition(":")
    here = str(who.get("endpoint", "")).startswith("local")
    return kind != "replay" and here == (kind == "local") and (here or who.get("model") == model)


def _rubrics(metric: Metric, tags: str, given: Sequence[Rubric]) -> dict[str, Rubric | None]:
    """The rubric of each tag: one that was given, the metric's own, or the built-in one; None where it is another."""
    own = getattr(metric, "own", None)
    at_hand = {rubric.tag: rubric for rubric in (*given, *((own,) if own is not None else ()))}
    found: dict[str, Rubric | None] = {}
    for tag in tags.split("+"):
        name = tag.rpartition(".")[0]
        if tag not in at_hand and (FOLDER / f"{name}.yaml").is_file():
            rubric = built_in(name)
            at_hand[rubric.tag] = rubric
        found[tag] = at_hand.get(tag)
    return found


class FromStore:
    """See `cxrbench.judges.ask.Asker`: answers what is stored, and writes down for which samples."""

    name = "stored answers"
    keeps = False

    def __init__(self, store: JudgeStore, who: Mapping[str, Any]) -> None:
        self._store, self._who = store, who
        self.heard: list[tuple[Prompt, Stored]] = []

    def identity(self) -> Mapping[str, Any]:
        return self._who

    def stopped(self) -> str:
        return ""

    def ask(self, prompts: Sequence[Prompt], answered: Answered) -> None:
        keys = [prompt.key(self._who) for prompt in prompts]
        found = self._store.get(keys)
        for number, (prompt, key) in enumerate(zip(prompts, keys, strict=True)):
            stored = found.get(key)
            if stored is None:
                answered(number, Reply(NO_ANSWER, detail="nothing is stored"))
                continue
            self.heard.append((prompt, stored))
            answered(number, Reply(OK, stored.text, finish_reason=stored.finish_reason))


def _asked_again(laid: Laid, side: Side, metric: Metric, context: Context, judge: Judge) -> dict[str, list[Answer]]:
    samples = [sample for sample in laid.samples if side.answered(sample.sample_id)]
    ids = [sample.sample_id for sample in samples]
    pairs = Pairs(ids, [side.said(name) for name in ids], [sample.target for sample in samples])
    for request in metric.needs(context):
        registry.load("features", request.name)().extract(pairs, dict(request.settings), Resources(judge=judge))
    asker = judge.asker
    assert isinstance(asker, FromStore)  # made above
    out: dict[str, list[Answer]] = defaultdict(list)
    for prompt, stored in asker.heard:
        for sample, part in _about(prompt, set(ids)):
            again = f"repeat {prompt.repeat + 1}" if judge.repeats > 1 else ""
            out[sample].append((", ".join(filter(None, (prompt.part, part, again))), stored.text))
    return out


def _about(prompt: Prompt, ids: set[str]) -> Iterator[tuple[str, str]]:
    """The samples that a question was asked for, and of which part of their texts: `id/candidate/3`."""
    for name in prompt.sample_ids:
        sample, part = name, ""
        while sample not in ids and "/" in sample:
            sample, _, last = sample.rpartition("/")
            part = f"{last} {part}".strip()
        if sample in ids:
            yield sample, part


def read_rubrics(files: Sequence[Path]) -> list[Rubric]:
    """Rubric files.

    Raises:
        CxrbenchError: one cannot be read, or is no rubric.
    """
    found = [read_rubric(file) for file in files]
    if len({rubric.tag for rubric in found}) < len(found):
        raise CxrbenchError("one rubric is given twice", where="--rubric", fix="name each file once")
    return found
