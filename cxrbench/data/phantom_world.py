"""What is true in the phantom world: patients, their studies over time, and the findings of each study.

Picture and report are both made from the `Case` of a study; neither looks at the other. Touches phantom_rng only.
Study `index` of a split is the same whatever the size of the split: patients come in blocks of 20 studies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Literal

from cxrbench.data.phantom_rng import Stream, fold

VERSION = 1
"""Goes up whenever a text, a label or a pixel of any seed could change."""

SPLITS = {"train": 1, "validate": 2, "test": 3}

Side = Literal["left", "right", ""]
Zone = Literal["upper", "mid", "lower", ""]
Change = Literal["", "new", "unchanged", "worse", "improved"]

SIDED = ("effusion", "pneumothorax", "consolidation", "atelectasis", "nodule", "fracture", "central-line", "pacemaker")
GRADED = ("effusion", "cardiomegaly", "pneumothorax", "consolidation", "edema", "atelectasis", "nodule")
DEVICES = ("endotracheal-tube", "central-line", "pacemaker", "feeding-tube")
KINDS = (*GRADED, "fracture", *DEVICES)

LABELS_OF: dict[str, tuple[str, ...]] = {
    "effusion": ("Pleural Effusion",),
    "cardiomegaly": ("Cardiomegaly",),
    "pneumothorax": ("Pneumothorax",),
    "consolidation": ("Consolidation", "Lung Opacity"),
    "edema": ("Edema",),
    "atelectasis": ("Atelectasis",),
    "nodule": ("Lung Lesion",),
    "fracture": ("Fracture",),
    "pneumonia": ("Pneumonia",),
    "mediastinum": ("Enlarged Cardiomediastinum",),
    "thickening": ("Pleural Other",),
    **dict.fromkeys((*DEVICES, "device"), ("Support Devices",)),
}
"""Kind -> CheXpert names. The last kinds are never drawn: pneumonia is only ever suspected, the others only denied."""

_WEIGHTS = {
    "effusion": 21,
    "cardiomegaly": 17,
    "pneumothorax": 15,
    "consolidation": 17,
    "edema": 13,
    "atelectasis": 17,
    "nodule": 14,
    "fracture": 12,
}
_COUNTS = {0: 24, 1: 29, 2: 26, 3: 15, 4: 6}
_DEVICE_COUNTS = {"intensive care": {0: 4, 1: 38, 2: 58}, "ward": {0: 78, 1: 22}, "outpatient": {0: 90, 1: 10}}
_DEVICE_WEIGHTS = {
    "intensive care": {"endotracheal-tube": 36, "central-line": 30, "feeding-tube": 34, "pacemaker": 6},
    "ward": {"central-line": 45, "pacemaker": 35, "feeding-tube": 20},
    "outpatient": {"pacemaker": 70, "central-line": 30},
}
_COURSE: dict[str, dict[str, int]] = {
    "fracture": {"unchanged": 1},
    "pacemaker": {"unchanged": 1},
    "nodule": {"unchanged": 55, "worse": 33, "improved": 12},
    "cardiomegaly": {"unchanged": 60, "worse": 22, "improved": 18},
    "endotracheal-tube": {"unchanged": 65, "gone": 35},
    "central-line": {"unchanged": 75, "gone": 25},
    "feeding-tube": {"unchanged": 70, "gone": 30},
    "": {"unchanged": 36, "worse": 20, "improved": 24, "gone": 20},
}
_VISITS = (1, 1, 1, 1, 2, 2, 2, 3, 3, 4)
_BLOCK = sum(_VISITS)
_RACES = {"White": 55, "Black": 18, "Asian": 13, "Hispanic": 9, "Other": 5}


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of one study. `severity` 1-3, 0 where the kind has none; `shape` keys its form over time."""

    kind: str
    side: Side = ""
    zone: Zone = ""
    severity: int = 0
    hedged: bool = False
    change: Change = ""
    shape: int = 0

    @property
    def place(self) -> str:
        """Kind and side, `effusion/left`: what a study has at most one of."""
        return f"{self.kind}/{self.side}" if self.side else self.kind

    @property
    def fine(self) -> str:
        """Kind, side and severity as one name: `effusion/left/small`, `edema/severe`, `endotracheal-tube`."""
        return f"{self.place}/{grade(self.kind, self.severity)}" if self.severity else self.place


def grade(kind: str, severity: int) -> str:
    """The canonical word of a severity: small, moderate, large, or mild, moderate, severe where nothing has a size."""
    words = ("mild", "moderate", "severe") if kind in ("cardiomegaly", "edema", "atelectasis") else _SIZES
    return words[severity - 1]


_SIZES = ("small", "moderate", "large")


@dataclass(frozen=True, slots=True)
class Patient:
    """Who is examined. `body` keys the anatomy, which stays the same from study to study."""

    number: int
    sex: str
    age: int
    race: str
    setting: str
    first: datetime
    visits: int
    body: int


@dataclass(frozen=True, slots=True)
class Case:
    """The truth about one study: what the picture shows and the report says."""

    seed: int
    split: str
    index: int
    patient: Patient
    visit: int
    time: datetime
    findings: tuple[Finding, ...]
    resolved: tuple[Finding, ...]
    portable: bool
    lateral: bool
    prior: datetime | None

    @property
    def key(self) -> int:
        """A 64-bit key of this study, from which text and exposure draw their own streams."""
        return fold(VERSION, self.seed, SPLITS[self.split], self.index)

    @property
    def age(self) -> int:
        """Age in years at the study."""
        return self.patient.age + (self.time - self.patient.first).days // 365

    @property
    def pneumonia(self) -> bool:
        """Whether the report raises pneumonia: at least one definite consolidation that is not small."""
        return any(f.kind == "consolidation" and f.severity > 1 for f in self.findings)


def case(seed: int, split: str, index: int) -> Case:
    """The truth about study `index` of a split; any index >= 0 exists."""
    block, offset = divmod(index, _BLOCK)
    visits = Stream(VERSION, seed, SPLITS[split], block, 1).shuffled(_VISITS)
    number = 0
    while offset >= visits[number]:
        offset -= visits[number]
        number += 1
    course = _course(seed, split, block * len(_VISITS) + number, visits[number], index - offset)
    return course[offset]


@lru_cache(maxsize=64)
def _course(seed: int, split: str, number: int, visits: int, first_index: int) -> tuple[Case, ...]:
    """All studies of one patient in order of time."""
    stream = Stream(VERSION, seed, SPLITS[split], number, 2)
    patient = _patient(stream, number, visits)
    cases: list[Case] = []
    findings: tuple[Finding, ...] = _onset(stream, patient, ())
    resolved: tuple[Finding, ...] = ()
    time = patient.first
    for visit in range(visits):
        prior = cases[-1].time if cases else None
        if cases:
            time += _gap(stream, patient)
            findings, resolved = _evolve(stream, patient, findings)
        intubated = any(f.kind == "endotracheal-tube" for f in findings)
        portable = intubated or patient.setting == "intensive care" or stream.chance(25)
        lateral = not portable and stream.chance(45)
        cases.append(
            Case(seed, split, first_index + visit, patient, visit, time, findings, resolved, portable, lateral, prior)
        )
    return tuple(cases)


def _patient(stream: Stream, number: int, visits: int) -> Patient:
    days = stream.below(365 * 30)
    first = datetime(2140, 1, 1) + timedelta(days=days, minutes=stream.between(6 * 60, 22 * 60))
    return Patient(
        number=number,
        sex=stream.pick(("F", "M")),
        age=stream.around(58, 38),
        race=stream.weighted(_RACES),
        setting=stream.weighted({"intensive care": 24, "ward": 40, "outpatient": 36}),
        first=first,
        visits=visits,
        body=stream.bits(),
    )


def _gap(stream: Stream, patient: Patient) -> timedelta:
    days = {"intensive care": (1, 4), "ward": (2, 20), "outpatient": (40, 500)}[patient.setting]
    return timedelta(days=stream.between(*days), minutes=stream.between(-180, 180))


def _onset(stream: Stream, patient: Patient, kept: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Add findings to those kept: at most 4 together, at most 2 devices, no place twice."""
    found = list(kept)
    if not kept:
        devices = stream.weighted(_DEVICE_COUNTS[patient.setting])
        others = min(stream.weighted(_COUNTS), 4 - devices)
        wanted = [_DEVICE_WEIGHTS[patient.setting]] * devices + [_WEIGHTS] * others
    else:
        wanted = [_WEIGHTS] * min(stream.weighted({0: 62, 1: 30, 2: 8}), 4 - len(kept))
    change: Change = "new" if kept else ""
    for weights in wanted:
        finding = _fresh(stream, stream.weighted(weights), change)
        if all(_compatible(finding, other) for other in found):
            found.append(finding)
    return tuple(found)


def _compatible(new: Finding, old: Finding) -> bool:
    """No place twice; one line and one pacemaker at most, on different sides; no two findings on one spot."""
    if new.place == old.place or (new.kind == old.kind and new.kind in DEVICES):
        return False
    if {new.kind, old.kind} == {"central-line", "pacemaker"}:
        return new.side != old.side
    if {new.kind, old.kind} == {"effusion", "pneumothorax"}:
        return new.side != old.side or new.severity + old.severity < 5
    if {new.kind, old.kind} == {"consolidation", "nodule"}:
        return new.side != old.side or new.zone != old.zone
    return not (_hides(new, old) or _hides(old, new))


def _hides(cover: Finding, under: Finding) -> bool:
    """Whether one finding would leave nothing to see of another: fluid or empty space over the same part of a lung."""
    if cover.side != under.side or under.kind not in ("consolidation", "nodule", "atelectasis"):
        return False
    if cover.kind == "effusion":
        return cover.severity > 2 if under.zone in ("", "mid") else under.zone == "lower" and cover.severity > 1
    if cover.kind == "pneumothorax":
        return (under.zone == "upper" and cover.severity > 1) or cover.severity > 2
    return False


def _fresh(stream: Stream, kind: str, change: Change) -> Finding:
    side: Side = stream.pick(("left", "right")) if kind in SIDED else ""
    severity = stream.weighted({1: 40, 2: 36, 3: 24}) if kind in GRADED else 0
    zone: Zone = stream.pick(("upper", "mid", "lower")) if kind in ("consolidation", "nodule") else ""
    # Radiologists hedge on what is small; devices and hearts are plain to see.
    doubtful = severity == 1 and kind != "cardiomegaly"
    hedged = doubtful and stream.chance(28)
    return Finding(kind, side, zone, severity, hedged, change, stream.bits())


def _evolve(
    stream: Stream, patient: Patient, before: tuple[Finding, ...]
) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Findings at the next study and those that have gone since the last one."""
    kept: list[Finding] = []
    gone: list[Finding] = []
    for finding in before:
        course = stream.weighted(_COURSE.get(finding.kind, _COURSE[""]))
        if course == "gone":
            gone.append(finding)
            continue
        step = {"worse": 1, "improved": -1}.get(course, 0)
        severity = finding.severity + step
        if step == 0 or not 1 <= severity <= 3:
            course, severity = "unchanged", finding.severity
        if any(_hides(replace(finding, severity=severity), other) for other in before):
            course, severity = "unchanged", finding.severity
        hedged = finding.hedged and severity == 1
        change: Change = "worse" if course == "worse" else "improved" if course == "improved" else "unchanged"
        kept.append(replace(finding, severity=severity, hedged=hedged, change=change))
    # What has just gone does not come back at once: a place is either resolved or present.
    found = _onset(stream, patient, tuple(kept)) if kept else _onset_after_normal(stream, patient)
    if patient.setting == "intensive care" and len(found) < 4 and stream.chance(22):
        device = _fresh(stream, stream.weighted(_DEVICE_WEIGHTS[patient.setting]), "new")
        if all(_compatible(device, other) for other in found):
            found = (*found, device)
    places = {f.place for f in gone}
    return tuple(f for f in found if f.place not in places), tuple(gone)


def _onset_after_normal(stream: Stream, patient: Patient) -> tuple[Finding, ...]:
    """New findings of a patient whose last study left nothing."""
    found = _onset(stream, patient, ())
    return tuple(replace(f, change="new") for f in found if f.kind not in DEVICES)
