"""Examinations of a patient in time, from MIMIC-CXR's tables: images with views, date and time, prior studies.

Study ids are random, so only StudyDate and StudyTime say what came first. What they do not say is named, not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date as calendar_date
from itertools import groupby
from operator import attrgetter
from typing import Any

from cxrbench.errors import CxrbenchError

_TIME = re.compile(r"([0-9]{1,6})(\.[0-9]+)?")


@dataclass(frozen=True, slots=True, order=True)
class Moment:
    """When a study was made: day as YYYYMMDD, time of day as the number HHMMSS.fff, -1 when it is not known."""

    day: str
    time: float = -1.0

    @property
    def iso(self) -> str:
        """The moment as an ISO string, to the second.

        >>> Moment("21800506", 213014.53).iso, Moment("21800506").iso
        ('2180-05-06T21:30:14', '2180-05-06')
        """
        text = f"{self.day[:4]}-{self.day[4:6]}-{self.day[6:]}"
        clock = f"{int(self.time):06d}"
        return text if self.time < 0 else f"{text}T{clock[:2]}:{clock[2:4]}:{clock[4:]}"


@dataclass(frozen=True, slots=True)
class Exam:
    """One study as the tables have it. `images` are (image id, view) by image id; `order` is one of `ORDERS`."""

    patient_id: str
    study_id: str
    split: str
    images: tuple[tuple[str, str], ...]
    moment: Moment | None
    view_codes: str = ""
    misdated: bool = False
    """Whether an image has a StudyDate that is no date: it is neither taken for one nor for none."""
    priors: tuple[str, ...] = ()
    order: str = "no"


ORDERS = {
    "yes": "there are prior studies",
    "no": "the patient's first study",
    "tie": "another study of the patient has the same date and time: which came first is not known",
    "undated": "this or another study of the patient has no date",
    "invalid": "this or another study of the patient has a StudyDate that is no date",
}
"""Values of the column `prior`."""


def moment(day: str, time: str) -> Moment | None:
    """Read StudyDate and StudyTime as the tables write them; None without a valid date.

    A time that lost its leading zeros as a number gets them back; one that is no time of day counts as not known.

    >>> moment("21800506", "93014.531"), moment("21800506", ""), moment("", "101010")
    (Moment(day='21800506', time=93014.531), Moment(day='21800506', time=-1.0), None)
    """
    digits = day.strip().replace("-", "").removesuffix(".0")
    if not re.fullmatch("[0-9]{8}", digits):
        return None
    try:
        calendar_date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return None
    match = _TIME.fullmatch(time.strip())
    clock = match[1].zfill(6) if match else "999999"
    valid = clock[:2] < "24" and clock[2:4] < "60" and clock[4:] < "60"
    return Moment(digits, float(time)) if valid else Moment(digits)


def _earliest(moments: Sequence[Moment | None]) -> Moment | None:
    """The first moment of a study's images: the first day, and on it the first time that is known."""
    known = [each for each in moments if each is not None]
    if not known:
        return None
    day = min(each.day for each in known)
    times = [each.time for each in known if each.day == day and each.time >= 0]
    return Moment(day, min(times, default=-1.0))


def _tied(one: Moment, other: Moment) -> bool:
    """Whether it is not known which of two dated studies came first."""
    return one.day == other.day and (one.time < 0 or other.time < 0 or one.time == other.time)


def with_priors(exams: Sequence[Exam]) -> list[Exam]:
    """Add to each study of one patient the earlier ones, newest first, and what is not known about their order."""
    dated = [(exam.moment, exam.study_id) for exam in exams if exam.moment is not None]
    whole = "invalid" if any(exam.misdated for exam in exams) else "undated" if len(dated) < len(exams) else ""
    linked = []
    for exam in exams:
        now = exam.moment
        others = [(then, study) for then, study in dated if study != exam.study_id]
        if now is None:
            linked.append(replace(exam, order=whole))
            continue
        earlier = sorted(((then, study) for then, study in others if then < now and not _tied(then, now)), reverse=True)
        order = "yes" if earlier else "no"
        if any(_tied(then, now) for then, _ in others):
            order = "tie"
        linked.append(replace(exam, priors=tuple(study for _, study in earlier), order=whole or order))
    return linked


def _exam(rows: Sequence[Any]) -> Exam:
    splits = {row.split for row in rows}
    if len(splits) > 1:
        raise CxrbenchError(
            "the split table puts the images of one study into different splits",
            fix="use the published mimic-cxr-2.0.0-split.csv.gz",
        )
    moments = [moment(row.date, row.time) for row in rows]
    return Exam(
        patient_id=rows[0].patient_id,
        study_id=rows[0].study_id,
        split=rows[0].split,
        images=tuple((row.image_id, row.view) for row in rows),
        moment=_earliest(moments),
        view_codes="; ".join(dict.fromkeys(row.view_code for row in rows if row.view_code)),
        misdated=any(then is None and row.date.strip() for then, row in zip(moments, rows, strict=True)),
    )


def exams(frame: Any) -> Iterator[Exam]:
    """Yield every study of an image table (`mimic_tables.image_table`), patient by patient, with its priors."""
    for _, rows in groupby(frame.itertuples(index=False), key=attrgetter("patient_id")):
        studies = [_exam(list(images)) for _, images in groupby(rows, key=attrgetter("study_id"))]
        yield from with_priors(studies)
