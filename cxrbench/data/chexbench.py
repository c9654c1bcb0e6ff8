"""CheXbench (Chen et al., CheXagent, 2024): multiple choice about radiographs, and findings to write or to sum up.

The published `data.json` is one object: task name -> rows. Rows of a choice have `question`, `option_0` ... `option_3`
(absent ones are null), `answer` (an index), `image_path` (one or several), `data_source` and `slice`; those of the text
tasks have `section_findings`, `section_impression` or `section_indication`. Two protocols give different numbers and
are named: `likelihood` scores each option after the question, `generation` lists the options with letters and reads the
answer. The layout is that of the authors' evaluation scripts; no real copy has been read here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from cxrbench.data.base import Check, Roots, Slice
from cxrbench.data.questions import Images, Questions, absent, is_there, read_json, text_of, with_letters
from cxrbench.errors import CxrbenchError, suggest
from cxrbench.types import Access, Question, Study

CHOICES: Mapping[str, str] = {
    "view": "View Classification",
    "binary-disease": "Binary Disease Classification",
    "single-disease": "Single Disease Identification",
    "multiple-disease": "Multiple Disease Identification",
    "temporal": "Temporal Classification",
    "vqa": "Visual Question Answering",
    "reasoning": "Fine-Grained Reasoning",
}
"""Our names of its choice tasks, and the keys of its file."""

TEXTS: Mapping[str, str] = {"findings": "Findings Generation", "summarization": "Findings Summarization"}
"""The same of its text tasks."""

MOST_IMAGES = 2
"""Images a text is written from: `run_findings_generation.py` shows the first two of a row, whatever it names."""

ALSO: Mapping[str, tuple[str, ...]] = {"Fine-Grained Reasoning": ("Image-Text Reasoning",)}
"""Keys by which other editions of the file may call a task."""


class CheXbench(Questions):
    """See `cxrbench.data.questions.Questions`. The split is always `test`: the benchmark has no other."""

    name = "chexbench"
    about = "data.json of CheXbench"
    access: Access = "credentialed"
    may_be_open = False  # parts are MIMIC-CXR's
    citation = (
        "Chen et al., CheXagent: Towards a Foundation Model for Chest X-Ray Interpretation, arXiv:2401.12208, 2024."
    )
    licence = "that of each source; parts are credentialed (MIMIC-CXR)"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "task": (*CHOICES, *TEXTS),
        "protocol": ("likelihood", "generation"),
    }
    splits: ClassVar[tuple[str, ...]] = ("test",)

    def _rows(self, roots: Roots) -> Iterator[tuple[str, Any]]:
        for file in self._files(roots):
            body = read_json(file)
            if not isinstance(body, dict) or not all(isinstance(rows, list) for rows in body.values()):
                raise CxrbenchError(
                    "the file is no object of lists: task name -> rows",
                    where=str(file),
                    fix="cxrbench data add chexbench --annotations FILE with CheXbench's own file",
                )
            for task, rows in body.items():
                for number, row in enumerate(rows, 1):
                    yield f"{file}, {task!r}, row {number}", {"": task, "number": number, "row": row}

    def check(self, roots: Roots) -> list[Check]:
        """Every task of the file: rows, images, images that are not there; tasks it has not, tasks not known here."""
        lines: list[Check] = []
        names = {**CHOICES, **TEXTS}
        held = {each[""] for _, each in self._rows(roots)}
        for task, key in names.items():
            if not held & {key, *ALSO.get(key, ())}:
                lines.append(Check(task, "note", f"the file has no task {key!r}"))
                continue
            studies = list(self.studies(roots, Slice("test", {"task": task})))
            shown = {image.path for study in studies for image in study.images}
            asked = "texts" if task in TEXTS else "questions"
            lines.append(Check(task, "ok" if studies else "note", f"{len(studies):,} {asked} on {len(shown):,} images"))
            if lost := sum(not is_there(path) for path in shown):
                fix = f"cxrbench data add {self.name} --images FOLDER"
                lines.append(Check(task, "missing", f"{lost:,} images are not there", fix))
        known = {*names.values(), *(other for others in ALSO.values() for other in others)}
        lines += [Check(task, "note", "a task that is not known here") for task in sorted(held - known)]
        return lines

    def _studies(self, rows: Iterable[tuple[str, Any]], part: Slice, images: Images) -> Iterator[Study]:
        wanted = str(part.options.get("task", "view"))
        key = {**CHOICES, **TEXTS}[wanted]
        listed = part.options.get("protocol", "likelihood") == "generation"
        seen: set[str] = set()
        found: list[Study] = []
        for where, each in rows:
            seen.add(each[""])
            if each[""] not in (key, *ALSO.get(key, ())):
                continue
            make = _text_study if wanted in TEXTS else _choice_study
            found.append(make(f"{wanted}-{each['number']}", each["row"], images, where, listed=listed))
        yield from _clustered(found)
        if not found:
            raise CxrbenchError(
                f"the file has no task {key!r}{suggest(key, seen)}",
                where="data set chexbench",
                fix=f"it has: {', '.join(seen)}",
            )


def _pictures(row: Mapping[str, Any], images: Images, where: str) -> tuple[Any, ...]:
    named = row.get("image_path")
    names = named.split("|") if isinstance(named, str) else named  # as the authors' scripts split it
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CxrbenchError("image_path is a path or a list of paths", where=where)
    return tuple(images.find(name) for name in names)


def _columns(row: Mapping[str, Any], where: str) -> dict[str, str]:
    named = (("source", "data_source"), ("slice", "slice"))
    return {name: text_of(row, key, where) for name, key in named if not absent(row.get(key))}


def _options(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The options, by index: one that is absent before another would move what `answer` counts."""
    keys = [f"option_{k}" for k in range(4)]
    while keys and absent(row.get(keys[-1])):
        keys.pop()
    found = tuple(row[key] if isinstance(row.get(key), str) else text_of(row, key, where) for key in keys)
    if not all(option.strip() for option in found):
        raise CxrbenchError("an option is an empty text, which no model can say", where=where)
    return found


def _choice_study(name: str, row: Any, images: Images, where: str, *, listed: bool) -> Study:
    """A question with its options; `listed`: the options stand in the question with letters."""
    text = text_of(row, "question", where)
    options = _options(row, where)
    at = row.get("answer")
    if not options or isinstance(at, bool) or not isinstance(at, int) or not 0 <= at < len(options):
        raise CxrbenchError("answer is the index of one of option_0 ... option_3", where=where)
    asked = Question(
        "0",
        with_letters(text, options) if listed else text,
        options[at],
        options,
        labels={"choice": {"answer": float(at), "options": float(len(options))}},
    )
    shown = _pictures(row, images, where)
    return Study(name, name, "test", shown, columns=_columns(row, where), questions=(asked,))


def _text_study(name: str, row: Any, images: Images, where: str, *, listed: bool) -> Study:
    if not isinstance(row, dict):
        raise CxrbenchError("a row is an object", where=where)
    parts = ("findings", "impression", "indication")
    sections = {part: row[f"section_{part}"] for part in parts if isinstance(row.get(f"section_{part}"), str)}
    shown = () if absent(row.get("image_path")) else _pictures(row, images, where)[:MOST_IMAGES]
    return Study(name, name, "test", shown, sections, columns=_columns(row, where))


def _clustered(studies: Sequence[Study]) -> Iterator[Study]:
    """The rows with what is resampled together: those that share an image, over any number of rows between them.

    The file names no patients. A row without an image stands alone.
    """
    above: dict[str, str] = {}

    def top(image: str) -> str:
        while above.setdefault(image, image) != image:
            above[image] = image = above[above[image]]
        return image

    for study in studies:
        for image in study.images[1:]:
            above[top(image.image_id)] = top(study.images[0].image_id)
    yield from (replace(each, patient_id=top(each.images[0].image_id)) if each.images else each for each in studies)
