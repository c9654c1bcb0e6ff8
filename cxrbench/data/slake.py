"""SLAKE (Liu et al., ISBI 2021): questions in English and Chinese about radiographs and slices. CC BY 4.0.

`train.json`, `validate.json` and `test.json` as published: the split is the file's name. An image is the cluster. The
layout is known from its publication and the files' published description; it has not been read from a real copy here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from cxrbench.data.base import Roots, Slice
from cxrbench.data.questions import Images, Questions, open_or_closed, read_list, text_of
from cxrbench.errors import CxrbenchError
from cxrbench.types import Question, Study

CHEST = ("chest", "lung")
"""Values of `location` that are a chest."""


class Slake(Questions):
    """See `cxrbench.data.questions.Questions`."""

    name = "slake"
    about = "the folder of train.json, validate.json and test.json"
    citation = "Liu et al., SLAKE: a semantically-labeled dataset for medical visual question answering, ISBI 2021."
    licence = "CC BY 4.0"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"language": ("en", "zh"), "organ": ("chest-x-ray", "all")}
    splits: ClassVar[tuple[str, ...]] = ("train", "validate", "test")

    def _rows(self, roots: Roots) -> Iterator[tuple[str, Any]]:
        for file in self._files(roots):
            for where, row in read_list(file):
                if isinstance(row, dict):
                    row = {**row, "split": file.stem}
                yield where, row

    def _files(self, roots: Roots) -> list[Path]:
        given = super()._files(roots)
        found = [file for file in given if file.stem in self.splits]
        if not found:
            raise CxrbenchError(
                "none of the files is called as SLAKE calls its splits",
                where=", ".join(file.name for file in given[:3]),
                fix="--annotations FOLDER with train.json, validate.json and test.json",
            )
        return found

    def _studies(self, rows: Iterable[tuple[str, Any]], part: Slice, images: Images) -> Iterator[Study]:
        language = str(part.options.get("language", "en"))
        chest = str(part.options.get("organ", "all")) == "chest-x-ray"
        asked: dict[str, list[Question]] = {}
        for where, row in rows:
            if text_of(row, "split", where) != part.split or text_of(row, "q_lang", where) != language:
                continue
            if chest and not _chest_radiograph(row, where):
                continue
            asked.setdefault(text_of(row, "img_name", where), []).append(
                open_or_closed(row, where, text_of(row, "content_type", where))
            )
        for name, questions in asked.items():
            yield Study(name, name, part.split, (images.find(name),), questions=tuple(questions))


def _chest_radiograph(row: Any, where: str) -> bool:
    radiograph = text_of(row, "modality", where).lower().replace(" ", "-") == "x-ray"
    return radiograph and text_of(row, "location", where).lower().startswith(CHEST)
