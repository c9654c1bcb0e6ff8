"""Metrics a judge gives: CheXprompt, GREEN, LC-GREEN, RadFact, CRIMSON, the three axes, and any rubric of the user's.

Statistics per sample and repeat: count, the metric's own numbers, and what tells how far repeats differ. A sample
counts only if every repeat of it was answered and read; a call that failed is no score. Touches judges.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cxrbench.errors import CxrbenchError
from cxrbench.judges import formulas
from cxrbench.judges.engine import Judge, Judged
from cxrbench.judges.expression import Expression
from cxrbench.judges.feature import no_judge
from cxrbench.judges.formulas import ERRORS
from cxrbench.judges.parsers import AXES
from cxrbench.judges.rubric import Rubric, built_in, check_shown, read_rubric
from cxrbench.metrics.base import (
    FAILED,
    SCORED,
    Context,
    Corpus,
    FeatureRequest,
    Floats,
    Metric,
    Pairs,
    Statistics,
    Value,
    ratio,
)

Texts = tuple[str, str]
"""Candidate and reference of a pair."""

SPREAD = Value(None, (0.0, None))
"""`repeat_sd`: the standard deviation of one sample's score over repeats, root mean square over samples; without
repeats there is none."""


class JudgedMetric(Metric):
    """Base of judged metrics: what is asked, and how verdicts become rows.

    `columns` are what `numbers` gives of one verdict, the score first. `value` gives by default the mean of each.
    """

    presets: ClassVar[Mapping[str, str]] = {"default": "the rubric of cxrbench, or the one named by --rubric"}
    default_preset = "default"
    judge: ClassVar[bool] = True
    asks: ClassVar[tuple[str, ...]]
    """Names of the rubrics."""
    feature: ClassVar[str] = "judge"

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of the numbers of one verdict, the score first."""

    @abstractmethod
    def numbers(self, verdict: Any, texts: Texts) -> Sequence[float] | None:
        """The numbers of one verdict, in the order of `columns`; None where the score is 0/0."""

    def rubrics(self, judge: Judge) -> list[Rubric]:
        """The rubrics it is judged by."""
        return [self._checked(judge.rubric(name), name) for name in self.asks]

    def _checked(self, rubric: Rubric, name: str) -> Rubric:
        wanted = built_in(name).parser
        if rubric.parser != wanted:
            raise CxrbenchError(
                f"{self.name} reads answers by the parser {wanted}, the rubric names {rubric.parser}",
                where=f"rubric {rubric.name}",
                fix=f"parser: {wanted}, or score it as a metric of its own: --metrics judge:FILE",
            )
        return rubric

    def fit(self, corpus: Corpus) -> Context:
        """Who judges, by which rubrics, how often.

        Raises:
            CxrbenchError: no judge was named, or a rubric is not what this metric reads.
        """
        judge = corpus.judge
        if not isinstance(judge, Judge):
            raise no_judge()
        rubrics = self.rubrics(judge)
        judge.known.update({each.tag: each for each in rubrics})
        who = judge.asker.identity()
        return Context.of(
            {
                "judge": judge.asker.name,
                "revision": str(who.get("revision", "")),
                "engine": str(who.get("engine", "")),
                "rubrics": "+".join(each.tag for each in rubrics),
                "repeats": judge.repeats,
            }
        )

    def needs(self, context: Context) -> tuple[FeatureRequest, ...]:
        data = context.data
        return (FeatureRequest(self.feature, (("rubrics", data["rubrics"]), ("repeats", data["repeats"]))),)

    def fitted(self, context: Context) -> tuple[tuple[str, str], ...]:
        """The judge, its revision and engine where they are known, the rubrics with their hashes, and the repeats."""
        if not context.data:
            return ()
        named = {"judge": context.data["judge"], "revision": context.data["revision"]}
        named |= {"engine": context.data.get("engine", "")}
        named |= {"rubric": context.data["rubrics"], "repeats": str(context.data["repeats"])}
        return tuple((key, value.replace("|", "/")) for key, value in named.items() if value)

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        given: list[list[Judged]] = features[self.needs(context)[0]]
        repeats = int(context.data["repeats"])
        rows = np.zeros((len(pairs), repeats, len(self.columns) + 3))
        status = np.full((len(pairs), repeats), SCORED, np.uint8)
        reasons = [_reason(verdicts) for verdicts in given]
        for i, verdicts in enumerate(given):
            texts = (pairs.predictions[i], pairs.references[i])
            found = [] if reasons[i] else [self.numbers(each.value, texts) for each in verdicts]
            if None in found:
                reasons[i] = "the score divides by zero"
            if reasons[i]:
                status[i] = FAILED
                continue
            rows[i, :, 0] = 1.0
            rows[i, :, 1:-2] = found
            if repeats > 1:
                rows[i, :, -2:] = 1.0, rows[i, :, 1].var(ddof=1)
        return Statistics(rows, status, tuple(reasons))

    def value(self, sums: Floats) -> dict[str, Floats]:
        """The mean of each number over samples (no samples: not a number), and the spread over repeats."""
        found = {name: ratio(sums[..., i], sums[..., 0]) for i, name in enumerate(self.columns, start=1)}
        return found | self.spread(sums)

    def spread(self, sums: Floats) -> dict[str, Floats]:
        """`repeat_sd` from the last two columns."""
        return {"repeat_sd": np.sqrt(ratio(sums[..., -1], sums[..., -2]))}


def _reason(verdicts: Sequence[Judged]) -> str:
    """Why a sample has no score: the first repeat that failed."""
    for number, each in enumerate(verdicts, start=1):
        if each.value is None:
            return each.reason if len(verdicts) == 1 else f"{each.reason} (repeat {number} of {len(verdicts)})"
    return ""


def _counted(primary: str, names: Sequence[str], better: bool | None = False) -> dict[str, Value]:
    """Values of a metric that counts errors: fewer are better."""
    return {name: Value(better, (0.0, None), "errors", primary=name == primary) for name in names}


_KINDS = (*(f"significant_{name}" for name in ERRORS), *(f"insignificant_{name}" for name in ERRORS))


class ChexPrompt(JudgedMetric):
    """CheXprompt: six kinds of errors, each significant or not, per report; the total is the mean over reports."""

    name = "chexprompt"
    asks = ("chexprompt",)
    citation = ("Zambrano Chaves et al., A clinically accessible small multimodal radiology model, 2025",)
    values: ClassVar[Mapping[str, Value]] = _counted("total", ("total", "significant", "insignificant", *_KINDS)) | {
        "repeat_sd": SPREAD
    }

    @property
    def columns(self) -> tuple[str, ...]:
        return ("total", "significant", "insignificant", *_KINDS)

    def numbers(self, verdict: formulas.ErrorCounts, texts: Texts) -> Sequence[float]:
        one, two = verdict.significant, verdict.insignificant
        return (sum(one) + sum(two), sum(one), sum(two), *one, *two)


_GREEN_KINDS = ("matched", "significant", "insignificant", *_KINDS)


class Green(JudgedMetric):
    """GREEN: matched findings / (matched findings + significant errors), the mean over reports; 0 without a match."""

    name = "green"
    asks = ("green",)
    citation = ("Ostmeier et al., GREEN: Generative Radiology Report Evaluation and Error Notation, EMNLP 2024",)
    values: ClassVar[Mapping[str, Value]] = {
        "green": Value(True, (0.0, 1.0), primary=True),
        "matched": Value(True, (0.0, None), "findings"),
        **_counted("", _GREEN_KINDS[1:]),
        "repeat_sd": SPREAD,
    }

    @property
    def columns(self) -> tuple[str, ...]:
        return ("green", *_GREEN_KINDS)

    def numbers(self, verdict: formulas.ErrorCounts, texts: Texts) -> Sequence[float]:
        one, two = verdict.significant, verdict.insignificant
        score = formulas.green(verdict.matched, sum(one))
        return (score, verdict.matched, sum(one), sum(two), *one, *two)


class LcGreen(JudgedMetric):
    """LC-GREEN: GREEN over the report's relative verbosity where that is above 1; asks what GREEN asks."""

    name = "lc-green"
    asks = ("green",)
    citation = ("Hein et al., CheXalign: preference fine-tuning in chest X-ray interpretation, ACL 2025",)
    values: ClassVar[Mapping[str, Value]] = {
        "lc_green": Value(True, (0.0, 1.0), primary=True),
        "green": Value(True, (0.0, 1.0)),
        "verbosity": Value(None, (0.0, None)),
        "repeat_sd": SPREAD,
    }

    @property
    def columns(self) -> tuple[str, ...]:
        return ("lc_green", "green", "verbosity")

    def numbers(self, verdict: formulas.ErrorCounts, texts: Texts) -> Sequence[float]:
        score, relative = formulas.green(verdict.matched, sum(verdict.significant)), formulas.verbosity(*texts)
        return (formulas.length_controlled(score, relative), score, relative)


class CrimsonScore(JudgedMetric):
    """CRIMSON: matched findings by their weight, less false ones, over the reference's weight; in (-1, 1]."""

    name = "crimson"
    asks = ("crimson",)
    citation = ("CRIMSON, arXiv 2603.06183, 2026",)
    values: ClassVar[Mapping[str, Value]] = {
        "crimson": Value(True, (-1.0, 1.0), primary=True),
        "false_findings": Value(False, (0.0, None), "findings"),
        "missing_findings": Value(False, (0.0, None), "findings"),
        "attribute_errors": Value(False, (0.0, None), "errors"),
        "repeat_sd": SPREAD,
    }

    @property
    def columns(self) -> tuple[str, ...]:
        return ("crimson", "false_findings", "missing_findings", "attribute_errors")

    def numbers(self, verdict: formulas.Crimson, texts: Texts) -> Sequence[float]:
        counts = (len(verdict.false), len(verdict.missing), len(verdict.attributes))
        return (formulas.crimson(verdict), *counts)


class Axes(JudgedMetric):
    """Correctness, completeness and coherence, each rated 1 to 5; the primary number is their mean."""

    name = "correctness-completeness-coherence"
    asks = ("correctness-completeness-coherence",)
    citation = ("SLaVA-CXR (the three axes of its reader study), 2024",)
    values: ClassVar[Mapping[str, Value]] = {
        "mean_rating": Value(True, (1.0, 5.0), primary=True),
        **{name: Value(True, (1.0, 5.0)) for name in AXES},
        "repeat_sd": SPREAD,
    }

    @property
    def columns(self) -> tuple[str, ...]:
        return ("mean_rating", *AXES)

    def numbers(self, verdict: Mapping[str, float], texts: Texts) -> Sequence[float]:
        rated = [verdict[name] for name in AXES]
        return (sum(rated) / len(rated), *rated)


class RadFact(JudgedMetric):
    """RadFact's logical scores, by one question per phrase.

    Precision is the mean share of a report's phrases that the reference entails, recall the other way round, over the
    reports that have phrases on that side; F1 is the harmonic mean of these two means.
    """

    name = "radfact"
    asks = ("radfact-phrases", "radfact-entailment")
    feature = "judge-radfact"
    citation = ("Bannur et al., MAIRA-2: Grounded Radiology Report Generation (RadFact), 2024",)
    values: ClassVar[Mapping[str, Value]] = {
        "logical_f1": Value(True, (0.0, 1.0), primary=True),
        "logical_precision": Value(True, (0.0, 1.0)),
        "logical_recall": Value(True, (0.0, 1.0)),
        "contradicted": Value(False, (0.0, 1.0)),
        "repeat_sd": SPREAD,
    }

    @property
    def columns(self) -> tuple[str, ...]:
        return ("f1", "precision", "has_precision", "recall", "has_recall", "contradicted")

    def numbers(self, verdict: Any, texts: Texts) -> Sequence[float]:
        precision, recall = formulas.share(verdict.candidate), formulas.share(verdict.reference)
        p, r = precision or 0.0, recall or 0.0
        against = sum(each == "contradiction" for each in verdict.candidate) / max(len(verdict.candidate), 1)
        own = 2 * p * r / (p + r) if p + r else 0.0
        return (own, p, precision is not None, r, recall is not None, against)

    def value(self, sums: Floats) -> dict[str, Floats]:
        """No phrase on a side in any report: precision or recall, and F1, are not a number; both 0: F1 is 0."""
        precision, recall = ratio(sums[..., 2], sums[..., 3]), ratio(sums[..., 4], sums[..., 5])
        both = precision + recall
        f1 = np.where(both == 0, 0.0, ratio(2 * precision * recall, np.nan_to_num(both)))
        return {
            "logical_f1": np.where(np.isnan(both), np.nan, f1),
            "logical_precision": precision,
            "logical_recall": recall,
            "contradicted": ratio(sums[..., 6], sums[..., 3]),
            **self.spread(sums),
        }


class UserJudge(JudgedMetric):
    """`judge:FILE`: a rubric file as a metric. The score is the rubric's expression, the other values its categories.

    A sample whose score divides by zero has the rubric's `undefined`; without one it is failed.
    """

    name = "judge"
    presets: ClassVar[Mapping[str, str]] = {"FILE": "a rubric file of yours, docs/judges.md"}
    default_preset = "FILE"
    values: ClassVar[Mapping[str, Value]] = {"score": Value(True, (None, None), primary=True), "repeat_sd": SPREAD}
    asks = ()

    def __init__(self, preset: str | None = None) -> None:
        if not preset:
            raise CxrbenchError("judge needs a rubric file", where="--metrics judge", fix="--metrics judge:FILE")
        self.preset = preset
        self.own = read_rubric(Path(preset))
        if self.own.parser != "values":
            raise CxrbenchError(
                f"a rubric with parser {self.own.parser} belongs to a metric that is there already",
                where=preset,
                fix=f"--metrics NAME --rubric {preset}",
            )
        check_shown(self.own, frozenset({"candidate"}), Path(preset))
        self._score = Expression.of(self.own.score, [each.name for each in self.own.categories])
        rated = {each.name: Value(None, (each.low, each.high)) for each in self.own.categories}
        own: Mapping[str, Value] = {
            "score": Value(self.own.higher_is_better, (None, None), primary=True), **rated, "repeat_sd": SPREAD
        }  # fmt: skip
        # Of this object: every file has categories of its own, where other metrics have theirs in the class.
        vars(self)["values"] = own

    @property
    def columns(self) -> tuple[str, ...]:
        return ("score", *(each.name for each in self.own.categories))

    def rubrics(self, judge: Judge) -> list[Rubric]:
        return [self.own]

    def reads(self, signature: str) -> bool:
        """A rubric that was changed since has other columns: its hash decides, besides its version."""
        return super().reads(signature) and f"|rubric:{self.own.tag}|" in signature

    def numbers(self, verdict: Mapping[str, float], texts: Texts) -> Sequence[float] | None:
        found = self._score.value(verdict)
        score = self.own.undefined if found is None else found
        return None if score is None else (score, *verdict.values())
