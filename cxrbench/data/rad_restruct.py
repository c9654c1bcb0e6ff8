"""Rad-ReStruct (Pellegrini et al., MICCAI 2023): a structured report as questions about a study of Open-i. MIT.

JSONL, a study per line: `{report_id, split, frontal_images, qa_pairs: [[question, [answers], history, about], ...]}`,
where `about` is `{answer_type, options, path}`. A question with several answers has them joined by commas, sorted. What
the published code calls `history` (the questions before, with their answers) is not offered: it holds answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from cxrbench.data.base import Slice
from cxrbench.data.questions import CLOSED, Images, Questions, text_of
from cxrbench.errors import CxrbenchError
from cxrbench.types import ClusterUnit, Question, Study

SPLITS = {"train": "train", "val": "validate", "validate": "validate", "test": "test"}


class RadRestruct(Questions):
    """See `cxrbench.data.questions.Questions`. Images are `NAME.png` in the root `images`."""

    name = "rad-restruct"
    clusters: ClassVar[ClusterUnit] = "study"
    about = "qa_pairs.jsonl"
    endings = (".jsonl", ".json")
    citation = "Pellegrini et al., Rad-ReStruct: A Novel VQA Benchmark for Structured Radiology Reporting, MICCAI 2023."
    licence = "MIT (annotations); images CC BY-NC-ND 4.0"
    splits: ClassVar[tuple[str, ...]] = ("train", "validate", "test")

    def _studies(self, rows: Iterable[tuple[str, Any]], part: Slice, images: Images) -> Iterator[Study]:
        for where, row in rows:
            split = text_of(row, "split", where)
            if SPLITS.get(split) is None:
                raise CxrbenchError(f"split is train, val or test, not {split!r}", where=where)
            if SPLITS[split] != part.split:
                continue
            study = text_of(row, "report_id", where)
            names, pairs = row.get("frontal_images"), row.get("qa_pairs")
            if not isinstance(names, list) or not isinstance(pairs, list):
                raise CxrbenchError("frontal_images and qa_pairs are lists", where=where)
            if not all(isinstance(name, str) for name in names):
                raise CxrbenchError("frontal_images holds names", where=where)
            shown = tuple(images.find(f"{name}.png", "FRONTAL") for name in names)
            asked = tuple(_question(number, pair, where) for number, pair in enumerate(pairs))
            yield Study(study, study, part.split, shown, questions=asked)


def _question(number: int, pair: Any, where: str) -> Question:
    match pair:
        case [str(text), [*answers], _, {"answer_type": str(kind), "options": [*options], **more}] if all(
            isinstance(each, str) for each in (*answers, *options, more.get("path", ""))
        ):
            closed = kind == "single_choice" and sorted(options) == ["no", "yes"]
            return Question(
                str(number),
                text,
                ", ".join(sorted(answers)),
                labels={"question": {CLOSED: float(closed)}},
                columns={"answer-type": "closed" if closed else "open", "question-type": str(more.get("path", ""))},
            )
    raise CxrbenchError(
        f"question {number + 1} is not [text, [answers], history, {{answer_type, options, path}}]", where=where
    )
