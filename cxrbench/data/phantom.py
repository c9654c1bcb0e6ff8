"""`phantom`: a drawn world of chest radiographs with reports in prose and exact labels, made on the spot from a seed.

No files, no network, no licence question, and the same texts and pixels on every machine. It is a test world: its
pictures are schematic, its patients never lived, and no figure measured on it says anything about a clinic.

The same study comes in three forms: `draw(key)` is its picture, `Phantom().studies` its report and labels,
`annotate(study_id)` its entities and relations. Training scripts draw as many fresh studies as they like with
`studies("train", n, seed=1)`; the split is part of every key, so no seed of train or validate ever meets a test study.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbench.data.base import Check, Progress, Root, Roots, Slice
from cxrbench.data.chexpert import LABELS
from cxrbench.data.phantom_questions import FORMS, asked
from cxrbench.data.phantom_questions import VERSION as QUESTIONS_VERSION
from cxrbench.data.phantom_text import Report, raises_pneumonia, write
from cxrbench.data.phantom_world import LABELS_OF, SPLITS, VERSION, Case, case
from cxrbench.errors import CxrbenchError, suggest
from cxrbench.types import Access, Demographics, Image, Study

SIZES = {"train": 1200, "validate": 150, "test": 300}
"""Studies per split unless an option says otherwise."""

IMAGE_SIZE = 256
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 64, 4096

_STUDY = re.compile(r"ph([0-9]{1,20})-s([0-9]{1,20})-(train|validate|test)-([0-9]{1,20})")
_KEY = re.compile(rf"(?P<study>{_STUDY.pattern})-(?P<view>frontal|lateral)-(?P<size>[0-9]{{1,9}})")


def study_id(seed: int, split: str, index: int) -> str:
    """The id of a study; it says all that is needed to make the study again."""
    return f"ph{VERSION}-s{seed}-{split}-{index:06d}"


def truth(name: str) -> Case:
    """The truth about a study by its id.

    Raises:
        CxrbenchError: the id is not one of this version of the phantom.
    """
    match = _STUDY.fullmatch(name)
    if match is None or int(match[1]) != VERSION:
        raise CxrbenchError(
            f"{name!r} is no study of phantom version {VERSION}",
            where="data set phantom",
            fix=f"an id such as {study_id(0, 'test', 0)}; other versions need the release that made them",
        )
    return case(int(match[2]), match[3], int(match[4]))


def report(name: str) -> Report:
    """The report of a study: annotated findings and impression, the other sections, what it denies."""
    return write(truth(name))


def draw(key: str) -> NDArray[np.uint8]:
    """The picture a key stands for (`<study id>-<frontal|lateral>-<pixels>`): uint8 (H, W), air dark, bone bright.

    Raises:
        CxrbenchError: the key is malformed, of another version, or asks for a size outside 64 .. 4096.
    """
    from cxrbench.data.phantom_draw import render  # only who looks at pictures pays for the drawing modules

    match = _KEY.fullmatch(key)
    size = int(match["size"]) if match else 0
    if match is None or not MIN_IMAGE_SIZE <= size <= MAX_IMAGE_SIZE:
        raise CxrbenchError(
            f"{key!r} is no phantom image",
            where="data set phantom",
            fix=f"a key such as {study_id(0, 'test', 0)}-frontal-{IMAGE_SIZE}",
        )
    return render(truth(match["study"]), match["view"], size)[0]


def annotate(name: str, section: str = "findings") -> dict[str, Any]:
    """Entities and relations of a section (`findings` or `impression`) in RadGraph's JSON form.

    `{"text": words joined by blanks, "entities": {"1": {"tokens", "label", "start_ix", "end_ix", "relations"}}}`;
    labels OBS-DP, OBS-U, OBS-DA, ANAT-DP; relations modify, located_at, suggestive_of. Punctuation is a word.
    """
    written = report(name)
    if section not in ("findings", "impression"):
        raise CxrbenchError(
            f"phantom annotates findings and impression, not {section!r}", fix='annotate(study_id, "findings")'
        )
    return (written.findings if section == "findings" else written.impression).radgraph()


def labels_of(true: Case, written: Report) -> dict[str, dict[str, float]]:
    """Exact labels of a study by source.

    `phantom`: the CheXpert names; 1 present, -1 hedged, 0 denied in the report, missing when not spoken of. No Finding
    is 1 or 0 by CheXpert's rule (devices aside). `phantom-fine`: `kind/side/severity` -> 1 or -1 for what is drawn.
    """
    found: dict[str, float] = {}
    for kind in sorted(written.denied):
        found.update(dict.fromkeys(LABELS_OF[kind], 0.0))
    for hedged in (True, False):
        for finding in true.findings:
            if finding.hedged is hedged:
                found.update(dict.fromkeys(LABELS_OF[finding.kind], -1.0 if hedged else 1.0))
        if hedged and any(raises_pneumonia(finding) for finding in true.findings):
            found["Pneumonia"] = -1.0
    aside = ("Support Devices", "No Finding")
    found["No Finding"] = float(not any(value for name, value in found.items() if name not in aside))
    return {
        "phantom": {name: found[name] for name in LABELS if name in found},
        "phantom-fine": {f.fine: -1.0 if f.hedged else 1.0 for f in true.findings},
    }


def study(seed: int, split: str, index: int, *, size: int = IMAGE_SIZE) -> Study:
    """One study of the phantom world; any index >= 0 exists."""
    true = case(seed, split, index)
    written = write(true)
    name = study_id(seed, split, index)
    labels = labels_of(true, written)
    views = [("frontal", "AP" if true.portable else "PA")] + ([("lateral", "LATERAL")] if true.lateral else [])
    texts = {
        "findings": written.findings.text,
        "impression": written.impression.text,
        "indication": written.indication,
        "comparison": written.comparison,
        "technique": written.technique,
        "history": written.history,
    }
    return Study(
        study_id=name,
        patient_id=f"ph{VERSION}-s{seed}-{split}-p{true.patient.number:05d}",
        split=split,
        images=tuple(Image(f"{name}-{view}", f"phantom:{name}-{view}-{size}", label) for view, label in views),
        sections={section: text for section, text in texts.items() if text},
        time=true.time.isoformat(),
        labels=labels,
        demographics=Demographics(true.patient.sex, float(true.age), true.patient.race),
        priors=tuple(study_id(seed, split, index - back) for back in range(1, true.visit + 1)),
        columns={
            "abnormal": "no" if labels["phantom"]["No Finding"] else "yes",
            "prior": "yes" if true.visit else "no",
            "setting": true.patient.setting,
        },
    )


def studies(split: str, count: int, *, seed: int = 0, size: int = IMAGE_SIZE, start: int = 0) -> Iterator[Study]:
    """Studies `start` to `start + count - 1` of a split, made as they are asked for."""
    for index in range(start, start + count):
        yield study(seed, split, index, size=size)


class Phantom:
    """The phantom as a data set. `columns["abnormal"]` is "yes" where anything but a device is present or suspected.

    Options: `train`, `validate`, `test` (studies per split), `seed`, `size` (pixels), `questions` (the form in which
    every study is asked about: phantom_questions.py). Study i of a split is the same whatever the sizes of the splits.
    """

    name = "phantom"
    access: Access = "open"
    may_be_open = True
    patient_ids = True
    citation = f"cxrbench phantom, version {VERSION} (drawn by code; no publication)"
    licence = "Apache-2.0, as cxrbench"
    roots: Mapping[str, Root] = {}
    options: Mapping[str, tuple[str, ...]] = {
        **dict.fromkeys(("train", "validate", "test", "seed", "size"), ()),
        "questions": FORMS,
    }

    def recognise(self, path: Path) -> str | None:
        """No path belongs to it."""
        return None

    def studies(self, roots: Roots, part: Slice, prepared: Path | None = None) -> Iterator[Study]:
        """Yield the studies of a split in order of patient and time."""
        settings = _settings(part)
        found = studies(part.split, settings[part.split], seed=settings["seed"], size=settings["size"])
        form = part.options.get("questions")
        if form is None:
            return found
        return (each for one in found for each in asked(one, truth(one.study_id), str(form)))

    def check(self, roots: Roots) -> list[Check]:
        """Nothing can be missing."""
        return [Check("studies", "ok", f"made on the spot by version {VERSION} of the generator")]

    def prepare(self, roots: Roots, out: Path, progress: Progress) -> list[Check]:
        """Nothing to do."""
        return [Check("prepare", "note", "phantom is made on the spot; there is nothing to prepare")]

    def fingerprint(self, roots: Roots, part: Slice) -> str:
        """Hash of the generator's version, the split and the options."""
        form = part.options.get("questions")
        about = {} if form is None else {"questions": form, "questions_version": QUESTIONS_VERSION}
        text = json.dumps({"version": VERSION, "split": part.split, **_settings(part), **about}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _settings(part: Slice) -> dict[str, int]:
    """The options of a slice as integers, defaults filled in.

    Raises:
        CxrbenchError: an unknown split or option, or a value out of bounds.
    """
    if part.split not in SPLITS:
        raise CxrbenchError(
            f"phantom has no split {part.split!r}{suggest(part.split, SPLITS)}",
            where="dataset.split",
            fix=f"one of: {', '.join(SPLITS)}",
        )
    settings = {**SIZES, "seed": 0, "size": IMAGE_SIZE}
    bounds = {"size": (MIN_IMAGE_SIZE, MAX_IMAGE_SIZE), "seed": (0, 2**63 - 1)}
    for name, value in part.options.items():
        if name == "questions" and value in FORMS:
            continue
        if name == "questions":
            raise CxrbenchError(
                f"phantom's option 'questions' cannot be {value!r}{suggest(str(value), FORMS)}",
                where="dataset.options.questions",
                fix=f"one of: {', '.join(FORMS)}",
            )
        if name not in settings:
            raise CxrbenchError(
                f"phantom has no option {name!r}{suggest(name, settings)}",
                where=f"dataset.options.{name}",
                fix=f"one of: {', '.join(Phantom.options)}",
            )
        settings[name] = _whole(name, value, *bounds.get(name, (0, 10**9)))
    return settings


def _whole(name: str, value: object, low: int, high: int) -> int:
    """A whole number within bounds, from an integer or its decimal digits (options may come from a command line)."""
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
        raise CxrbenchError(
            f"phantom's option {name!r} is a whole number from {low} to {high}, not {value!r}",
            where=f"dataset.options.{name}",
            fix=f"{name}: {max(low, SIZES.get(name, low))}",
        )
    return number
