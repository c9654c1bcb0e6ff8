"""The sections around a phantom report: indication, history, comparison, technique. Plain prose, no annotations.

The indication fits what is found more often than not, as on a real ward, but never names it.
"""

from __future__ import annotations

from datetime import datetime

from cxrbench.data.phantom_rng import Stream
from cxrbench.data.phantom_world import Case

_COMPLAINTS: dict[str, tuple[str, ...]] = {
    "effusion": ("shortness of breath", "dyspnea", "decreased breath sounds"),
    "cardiomegaly": ("heart failure", "leg swelling", "dyspnea on exertion"),
    "pneumothorax": ("sudden chest pain", "acute dyspnea", "chest trauma"),
    "consolidation": ("fever and cough", "productive cough", "sepsis", "leukocytosis"),
    "edema": ("shortness of breath", "hypoxia", "volume overload"),
    "atelectasis": ("recent abdominal surgery", "hypoxia", "postoperative fever"),
    "nodule": ("weight loss", "hemoptysis", "chronic cough"),
    "fracture": ("fall", "motor vehicle collision", "rib pain after a fall"),
    "endotracheal-tube": ("respiratory failure", "intubation"),
    "central-line": ("line placement", "sepsis"),
    "pacemaker": ("syncope", "arrhythmia"),
    "feeding-tube": ("tube placement", "altered mental status"),
}
_GENERAL = (
    "chest pain",
    "cough",
    "shortness of breath",
    "fever",
    "preoperative evaluation",
    "weakness",
    "dizziness",
    "positive tuberculin test",
    "palpitations",
    "abdominal pain",
)
_INDICATIONS = (
    "{age} year old {who} with {why}.",
    "{Why}.",
    "{age} year old {who}, {why}.",
    "{Why}, evaluate for acute process.",
    "{age} year old {who} with {why}. Please assess for interval change.",
    "{who} with {why}, rule out acute disease.",
)
_HISTORY = (
    "History of {past}.",
    "Known {past}.",
    "{age} year old {who} with a history of {past}.",
    "Past medical history of {past} and {past2}.",
)
_PAST = ("hypertension", "diabetes", "coronary artery disease", "asthma", "smoking", "breast cancer", "renal failure")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def indication(case: Case, s: Stream) -> str:
    """Why the study was made."""
    pool = [c for f in case.findings for c in _COMPLAINTS[f.kind]]
    why = s.pick(pool) if pool and s.chance(60) else s.pick(_GENERAL)
    pattern = s.pick(_INDICATIONS if case.prior else tuple(i for i in _INDICATIONS if "interval" not in i))
    text = pattern.format(age=case.age, who=_who(case), why=why, Why=_capital(why))
    return _capital(text)


def history(case: Case, s: Stream) -> str:
    """What is known of the patient; many reports say nothing."""
    if not s.chance(40):
        return ""
    past, other = s.shuffled(_PAST)[:2]
    return s.pick(_HISTORY).format(age=case.age, who=_who(case), past=past, past2=other)


def comparison(case: Case, s: Stream) -> str:
    """The study it was compared with."""
    if case.prior is None:
        return s.pick(("None.", "None available.", "No prior studies.", ""))
    date = _date(case.prior)
    return s.pick((f"{date}.", f"Chest radiograph dated {date}.", f"Prior study from {date}."))


def technique(case: Case, s: Stream) -> str:
    """How the pictures were taken."""
    if case.portable:
        return s.pick(("Portable AP chest radiograph.", "Single portable AP view of the chest.", "AP chest, portable."))
    if case.lateral:
        return s.pick(
            ("PA and lateral views of the chest.", "Frontal and lateral chest radiographs.", "Chest, two views.")
        )
    return s.pick(("PA view of the chest.", "Single PA chest radiograph.", "Chest, one view."))


def _who(case: Case) -> str:
    return "woman" if case.patient.sex == "F" else "man"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _date(when: datetime) -> str:
    return f"{when.day} {_MONTHS[when.month - 1]} {when.year}"
