"""Sex, age and race of MIMIC-CXR's patients from MIMIC-IV, which shares the subject ids.

Rules (MIMIC-IV documentation of hosp/patients: mimic.mit.edu/docs/iv/modules/hosp/patients):
age at the study = anchor_age + (year of StudyDate - anchor_year), in whole years of shifted calendars.
anchor_age 91 stands for everybody over 89, so any age above 89 is given as 91; a study before the anchor year of such
a patient has no known age. Race is recorded per admission: values that say nothing is known are set aside, and
patients with several different values are "conflicting".
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxrbench.data.grouping import CONFLICTING, SEVERAL
from cxrbench.data.mimic_tables import header, read_table
from cxrbench.errors import CxrbenchError
from cxrbench.types import Demographics

ONE_AGE_FROM = 90
"""Ages from here on are recorded as one."""
OVER_89 = 91.0
NOT_RECORDED = frozenset({"", "UNKNOWN", "UNABLE TO OBTAIN", "PATIENT DECLINED TO ANSWER"})
"""Recorded values of race that say nothing is known."""

_PLACES = ("hosp", "core", ".")
"""MIMIC-IV 2 and 3 keep both tables under hosp, version 1 under core; files may also be given directly."""


def find_file(roots: Iterable[Path], stem: str) -> Path | None:
    """The table `stem` (.csv.gz or .csv) at one of the roots or in its hosp or core folder, or None."""
    for root in roots:
        if root.is_file() and root.name in (f"{stem}.csv.gz", f"{stem}.csv"):
            return root
        for place in _PLACES:
            for name in (f"{stem}.csv.gz", f"{stem}.csv"):
                if (root / place / name).is_file():
                    return root / place / name
    return None


@dataclass(frozen=True, slots=True)
class Patients:
    """What MIMIC-IV says of the patients asked for.

    `anchors`: patient -> (sex, anchor age, anchor year); `recorded`: patient -> every race recorded of it, in order.
    """

    anchors: Mapping[str, tuple[str, int, int]] = field(default_factory=dict)
    recorded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def race(self, patient_id: str) -> str | None:
        """The one race recorded, `conflicting` for several, None for none."""
        return one_race(self.recorded.get(patient_id, ()))

    def columns(self, patient_id: str) -> dict[str, str]:
        """`race-recorded`: every race recorded, for tasks that group them (data/grouping.py)."""
        recorded = self.recorded.get(patient_id, ())
        return {"race-recorded": SEVERAL.join(recorded)} if recorded else {}

    def of(self, patient_id: str, date: str | None) -> Demographics:
        """Demographics at a study; `date` is an ISO string or None. A patient who is not linked is unknown."""
        known = self.anchors.get(patient_id)
        if known is None:
            return Demographics(race=self.race(patient_id))
        sex, age, year = known
        return Demographics(sex=sex, age=age_at(age, year, date), race=self.race(patient_id))

    def linked(self, patients: Iterable[str]) -> Counter[str]:
        """How many patients are linked, unlinked, with conflicting race, without race."""
        count: Counter[str] = Counter()
        for patient in patients:
            count["linked" if patient in self.anchors else "unlinked"] += 1
            race = self.race(patient)
            count["race conflicting" if race == CONFLICTING else "race known" if race else "race unknown"] += 1
        return count


def age_at(anchor_age: int, anchor_year: int, date: str | None) -> float | None:
    """Age in whole years at a study, 91 for everybody over 89, None where it cannot be known.

    >>> age_at(60, 2153, "2155-03-01T10:00:00"), age_at(88, 2153, "2156-01-01"), age_at(91, 2153, "2150-01-01")
    (62.0, 91.0, None)
    """
    if date is None:
        return None
    passed = int(date[:4]) - anchor_year
    if anchor_age > 89:
        return OVER_89 if passed >= 0 else None
    age = anchor_age + passed
    if age < 0:
        return None
    return OVER_89 if age > 89 else float(age)


def one_race(values: Iterable[str]) -> str | None:
    """The one value recorded, `conflicting` for several, None when none says anything.

    >>> one_race(["WHITE", "UNKNOWN", "WHITE"]), one_race(["WHITE", "ASIAN"]), one_race(["UNKNOWN"])
    ('WHITE', 'conflicting', None)
    """
    told = {value for value in values if value not in NOT_RECORDED}
    if len(told) > 1:
        return CONFLICTING
    return next(iter(told), None)


def read_patients(roots: tuple[Path, ...], wanted: Iterable[str]) -> Patients:
    """Read sex and anchors of the wanted patients, and their race where the admissions table is there.

    Raises:
        CxrbenchError: roots were given but hold no patients table, or it names a patient twice, or has a gender that is
            neither F nor M or an anchor that is no whole number.
    """
    if not roots:
        return Patients()
    path = find_file(roots, "patients")
    if path is None:
        raise CxrbenchError(
            "there is no patients.csv(.gz) under the demographics root",
            where=", ".join(map(str, roots)),
            fix="cxrbench data add mimic-cxr --demographics DIR-OF-MIMIC-IV (the folder that holds hosp/)",
        )
    ids = set(wanted)
    frame = read_table(path, ("subject_id", "gender", "anchor_age", "anchor_year"))
    _check_patients(frame, path)
    frame = frame[frame["subject_id"].isin(ids)]
    rows = zip(frame["subject_id"], frame["gender"], frame["anchor_age"], frame["anchor_year"], strict=True)
    anchors = {patient: (sex, int(age), int(year)) for patient, sex, age, year in rows}
    return Patients(anchors, _races(roots, ids))


def _check_patients(frame: Any, path: Path) -> None:
    for wrong, problem in (
        (frame["subject_id"].duplicated(), "name a patient a second time"),
        (~frame["gender"].isin(["F", "M"]), "have a gender that is neither F nor M"),
        (~frame["anchor_age"].str.fullmatch("[0-9]{1,3}"), "have an anchor_age that is not a whole number"),
        (~frame["anchor_year"].str.fullmatch("[0-9]{4}"), "have an anchor_year that is not a year"),
    ):
        if wrong.any():
            fix = "use the published patients.csv.gz of MIMIC-IV"
            raise CxrbenchError(f"{int(wrong.sum()):,} rows {problem}", where=str(path), fix=fix)


def _races(roots: tuple[Path, ...], wanted: set[str]) -> dict[str, tuple[str, ...]]:
    """Patient -> the races recorded of it that say anything, sorted."""
    path = find_file(roots, "admissions")
    if path is None:
        return {}
    column = "race" if "race" in header(path) else "ethnicity"  # version 1 of MIMIC-IV
    frame = read_table(path, ("subject_id", column))
    frame = frame[frame["subject_id"].isin(wanted)]
    recorded: defaultdict[str, set[str]] = defaultdict(set)
    for patient, value in zip(frame["subject_id"], frame[column], strict=True):
        recorded[patient].add(value.strip())
    told = {patient: tuple(sorted(values - NOT_RECORDED)) for patient, values in recorded.items()}
    return {patient: values for patient, values in told.items() if values}
