"""CheXpert Plus on an invented table in its layout: 27 columns, images under their paths, labels a line each."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from chexpert_plus_tree import COLUMNS, ROWS, write

from cxrbench.data.base import Slice
from cxrbench.data.chexpert_plus import CheXpertPlus
from cxrbench.data.load import check_groups
from cxrbench.data.samples import make_samples
from cxrbench.errors import CxrbenchError
from cxrbench.spec import find_task

DATA = CheXpertPlus()


def test_a_study_has_its_images_sections_labels_and_person(tmp_path: Path) -> None:
    found = list(DATA.studies(write(tmp_path), Slice("validate")))
    assert [study.study_id for study in found] == [
        "patient64541-study1", "patient64542-study2", "patient64543-study1",
    ]  # fmt: skip
    first = found[0]
    assert (first.patient_id, first.split, first.time, first.priors) == ("patient64541", "validate", None, ())
    assert [(image.view, Path(image.path).is_file()) for image in first.images] == [("AP", True), ("LATERAL", True)]
    assert first.sections == {"impression": "Invented, and\nof two lines.", "indication": "Invented cough."}
    assert (first.demographics.sex, first.demographics.age, first.demographics.race) == (
        "F",
        61.0,
        "White, non-Hispanic",
    )
    assert first.columns == {
        "ethnicity": "Non-Hispanic/Non-Latino", "insurance-type": "Medicare", "abnormal": "yes",
    }  # fmt: skip
    assert first.labels == {"chexbert-impression": {"Edema": 1.0, "No Finding": -1.0}}
    second, third = found[1:]
    assert (second.demographics.age, second.demographics.race, second.images[0].view) == (None, None, "PA")
    assert third.sections["indication"] == third.sections["history"] == "Invented history."
    assert (third.demographics.sex, third.demographics.race, third.images[0].view) == (None, None, "FRONTAL")
    (train,) = DATA.studies(write(tmp_path), Slice("train"))
    assert train.sections["findings"] == "Invented."


def test_the_fairness_task_groups_them(tmp_path: Path) -> None:
    task = find_task("chexpert-plus-fairness")
    samples = make_samples(task, DATA.studies(write(tmp_path), Slice("validate"))).samples
    check_groups(task, samples)
    told = [tuple(s.subgroups[name] for name in ("sex", "age", "race", "ethnicity")) for s in samples]
    assert told == [
        ("female", "60-79", "white", "not hispanic"),
        ("male", "unknown", "unknown", "unknown"),
        ("unknown", "60-79", "unknown", "not hispanic"),
    ]
    assert samples[0].target == "Invented, and of two lines."


def test_check_says_what_is_there(tmp_path: Path) -> None:
    roots = write(tmp_path)
    lines = {line.item: line for line in DATA.check(roots)}
    assert lines["validate"].status == "note"
    assert lines["validate"].found.startswith(
        "3 studies, 4 images, 3 patients; 0 with findings, 3 with an impression; the published table has 234"
    )
    assert lines["demographics validate"].found == "studies of which is known: sex 2, age 2, race 1"
    assert lines["images validate"].found == "4 of 4 images looked for are there"
    (missing,) = (line for line in DATA.check({**roots, "images": ()}) if line.item == "images validate")
    assert (missing.status, missing.found) == ("missing", "0 of 4 images looked for are there")
    (nothing,) = DATA.check({})
    assert (nothing.status, nothing.item) == ("missing", "table")


def test_paths_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path / "all")
    assert DATA.recognise(tmp_path / "all") == "tables"
    assert DATA.recognise(tmp_path / "all" / "PNG") == "images"
    assert DATA.recognise(tmp_path / "all" / "CheXpert_Labels") == "annotations"
    assert DATA.recognise(tmp_path) is None


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_the_fingerprint_is_of_the_content(tmp_path: Path, ending: str) -> None:
    prints = [DATA.fingerprint(write(tmp_path / name, ending=ending), Slice("validate")) for name in ("one", "two")]
    assert prints[0] == prints[1]
    changed = [{**each, "age": 62} for each in ROWS]
    assert DATA.fingerprint(write(tmp_path / "two", changed, ending), Slice("validate")) != prints[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path_to_image": "valid/patient1/study1/../../../etc/passwd"}, "path_to_image is not of the form"),
        ({"path_to_image": "valid/patient64541/study1/view1_frontal.jpg"}, "the image has two rows"),
        ({"path_to_image": "valid/patient64541/study1/view3_frontal.jpg", "section_impression": "Another."},
         "two images of one study have different reports"),
        ({"path_to_image": "valid/patient9/study1/view1_frontal.jpg", "age": "old"}, "the age is no number"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_is_named_by_its_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    rows = [*ROWS, {**ROWS[0], **change}]
    roots = write(tmp_path)
    with (tmp_path / "df_chexpert_plus_240401.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(CxrbenchError, match=said) as caught:
        list(DATA.studies(roots, Slice("validate")))
    assert "line" in (caught.value.where or "")
    assert "Another" not in str(caught.value)


def test_a_label_that_cannot_be_is_refused(tmp_path: Path) -> None:
    roots = write(tmp_path)
    (tmp_path / "CheXpert_Labels" / "impression_fixed.json").write_text(
        json.dumps({"path_to_image": ROWS[0]["path_to_image"], "Edema": 2}) + "\n"
    )
    with pytest.raises(CxrbenchError, match="the label Edema is none of"):
        list(DATA.studies(roots, Slice("validate")))
    (tmp_path / "CheXpert_Labels" / "impression_fixed.json").write_text("[]\n")
    with pytest.raises(CxrbenchError, match="names no image"):
        list(DATA.studies(roots, Slice("validate")))


def test_a_split_it_has_not(tmp_path: Path) -> None:
    with pytest.raises(CxrbenchError, match="no split 'test'"):
        list(DATA.studies(write(tmp_path), Slice("test")))
