"""VQA-RAD (Lau et al., Sci Data 2018): questions by clinicians about radiographs and slices of MedPix cases. CC0.

`VQA_RAD Dataset Public.json` as it is published; its test split are the rows whose `phrase_type` begins with `test`.
A case is the cluster: several images and questions come from one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from cxrbench.data.base import Slice
from cxrbench.data.questions import Images, Questions, open_or_closed, text_of
from cxrbench.types import ClusterUnit, Question, Study


class VqaRad(Questions):
    """See `cxrbench.data.questions.Questions`."""

    name = "vqa-rad"
    clusters: ClassVar[ClusterUnit] = "case"
    about = "VQA_RAD Dataset Public.json"
    citation = "Lau et al., A dataset of clinically generated visual questions and answers, Sci Data 5:180251, 2018."
    licence = "CC0 1.0"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"organ": ("chest", "all")}

    def _studies(self, rows: Iterable[tuple[str, Any]], part: Slice, images: Images) -> Iterator[Study]:
        organ = str(part.options.get("organ", "all"))
        asked: dict[str, list[Question]] = {}
        cases: dict[str, str] = {}
        for where, row in rows:
            is_test = text_of(row, "phrase_type", where).startswith("test")
            if is_test != (part.split == "test") or (organ != "all" and not _of(row, organ, where)):
                continue
            name = text_of(row, "image_name", where)
            asked.setdefault(name, []).append(
                open_or_closed(row, where, text_of(row, "question_type", where).split(",")[0])
            )
            cases[name] = text_of(row, "image_case_url", where).rpartition("id=")[2] or name
        for name, questions in asked.items():
            yield Study(name, cases[name], part.split, (images.find(name),), questions=tuple(questions))


def _of(row: Any, organ: str, where: str) -> bool:
    return text_of(row, "image_organ", where).lower() == organ
