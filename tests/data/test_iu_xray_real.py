"""Counts of the real collection: the copy beside the checkout leaves out 300 of 3,955 studies (its README says which
counts it must have), R2Gen's and ReXrank's test and validation parts are whole."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from cxrbench.data.base import Slice
from cxrbench.data.iu_check import image_counts, section_counts
from cxrbench.data.iu_collection import Collection
from cxrbench.data.iu_xray import IuXray
from cxrbench.data.samples import make_samples
from cxrbench.data.text import iu_v1, whitespace_v1
from cxrbench.errors import CxrbenchError
from cxrbench.spec import find_task

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def folder(real_data):
    return real_data / "iu_xray"


@pytest.fixture(scope="module")
def roots(folder):
    return {"reports": (folder,), "images": (folder / "images",)}


@pytest.fixture(scope="module")
def prepared(roots, tmp_path_factory):
    out = tmp_path_factory.mktemp("index")
    IuXray().prepare(roots, out, lambda done, total: None)
    return out


@pytest.fixture(scope="module")
def collection(roots, prepared):
    return Collection(roots, prepared)


@pytest.fixture(scope="module")
def studies(roots, prepared):
    @cache
    def read(form, split):
        return list(IuXray().studies(roots, Slice(split, {"form": form}), prepared))

    return read


def test_xml(collection):
    reports = collection.xml.values()
    assert len(reports) == 3655
    assert section_counts(reports) == {
        "both sections": 3189,
        "impression only": 432,
        "findings only": 6,
        "neither": 28,
    }
    assert image_counts(reports) == {0: 81, 1: 398, 2: 2996, 3: 166, 4: 13, 5: 1}
    assert sum(len(report.images) for report in reports) == 6945


def test_kaggle_says_what_the_xml_says(collection):
    assert len(collection.kaggle.reports) == 3574
    assert collection.kaggle.damage == ()
    for uid, report in collection.kaggle.reports.items():
        assert report.sections == collection.xml[uid].sections
        assert report.mesh == collection.xml[uid].mesh
    assert len(collection.projections.views) == 6941
    images = {image for report in collection.xml.values() for image in report.images}
    assert set(collection.projections.views) <= images
    assert len(images - set(collection.projections.views)) == 4


def test_r2gen_is_every_study_with_findings_and_two_images(collection):
    assert Counter(record.split for record in collection.r2gen) == {"train": 1899, "validate": 296, "test": 590}
    wanted = {
        uid for uid, report in collection.xml.items() if "findings" in report.sections and len(report.images) >= 2
    }
    assert {record.uid for record in collection.r2gen} == wanted
    assert all(r.sections["findings"] == collection.xml[r.uid].sections["findings"] for r in collection.r2gen)


def test_r2gen_test_repeats_its_train_split(studies):
    train = {study.sections["findings"] for study in studies("r2gen", "train")}
    test = [study.sections["findings"] for study in studies("r2gen", "test")]
    assert sum(text in train for text in test) == 274  # 46 %
    assert len(set(test)) == 398
    assert sum("XXXX" in text for text in test) == 212


def test_the_first_image_of_r2gen_is_not_always_frontal(studies):
    views = Counter(tuple(i.view for i in study.images) for study in studies("r2gen", "test"))
    assert views == {
        ("FRONTAL", "LATERAL"): 526,
        ("LATERAL", "FRONTAL"): 54,
        ("FRONTAL", "FRONTAL"): 7,
        ("LATERAL", "LATERAL"): 3,
    }


def test_rexrank_is_r2gens_test_and_validation(collection, studies):
    for split, count in (("test", 590), ("validate", 296)):
        ours = {study.study_id: study for study in studies("rexrank", split)}
        theirs = {study.study_id: study for study in studies("r2gen", split)}
        assert len(ours) == count
        assert set(ours) == set(theirs)
        for name, study in ours.items():
            xml = collection.xml[study.columns["uid"]].sections
            assert study.sections["findings"] == theirs[name].sections["findings"] == xml["findings"]
            assert study.sections["impression"] == xml["impression"]
            assert whitespace_v1(study.sections.get("indication", "")) == whitespace_v1(xml.get("indication", ""))
            said = whitespace_v1(study.sections.get("comparison", ""))
            assert said == whitespace_v1(xml.get("comparison", "None"))  # ReXrank fills an empty one in


@pytest.mark.parametrize(
    ("task", "n"),
    [
        ("iu-findings", 3126),
        ("iu-impression", 3543),
        ("iu-impression-given-findings", 3120),
        ("iu-findings-r2gen", 590),
        ("iu-findings-rexrank", 590),
    ],
)
def test_tasks_have_these_samples_here(studies, task, n):
    spec = find_task(task)
    found = make_samples(spec, studies(spec.dataset.options["form"], spec.dataset.split))
    assert len(found.samples) == n
    assert not any("empty after" in reason for reason in found.excluded)
    assert all(sample.patient_id is None for sample in found.samples)
    if spec.images.offer != "none":
        assert all(sample.key_image for sample in found.samples)
    if spec.text == "iu:v1":
        assert not any("XXXX" in sample.target for sample in found.samples)


def test_kaggle_alone_gives_the_same_samples(folder, studies):
    spec = find_task("iu-findings")
    tables = {"tables": (folder / "kaggle",)}
    ours = make_samples(spec, IuXray().studies(tables, Slice("all", {"form": "openi"})))
    theirs = make_samples(spec, studies("openi", "all"))
    assert [(s.sample_id, s.target) for s in ours.samples] == [(s.sample_id, s.target) for s in theirs.samples]


def test_every_image_of_three_namings_is_found(folder, studies):
    files = {path for path in (folder / "images").rglob("*") if path.is_file()}
    found = {Path(image.path) for study in studies("openi", "all") for image in study.images}
    assert files <= found
    assert len(files) == 61
    test = studies("r2gen", "test")
    whole = [study for study in test if all(Path(image.path).is_file() for image in study.images)]
    assert len(whole) == 26


def test_labels_and_abnormal(collection, studies):
    found = studies("openi", "all")
    assert sum("openi-gold" in study.labels for study in found) == 3574
    normal = {study.study_id for study in found if study.columns.get("abnormal") == "no"}
    assert len(normal) == 1344
    assert sum("abnormal" not in study.columns for study in found) == 100  # 94 not indexed, 6 of poor quality


def test_the_mark_stands_in_most_reports_and_the_rest_is_untouched(collection):
    texts = [text for report in collection.xml.values() for text in report.sections.values()]
    marked = [text for text in texts if "XXXX" in text]
    assert len(marked) == 1369 + 614 + 2208 + 1515  # findings, impression, indication, comparison
    assert sum(any("XXXX" in t for t in r.sections.values()) for r in collection.xml.values()) == 3132
    assert not any("XXXX" in iu_v1(text) for text in marked)
    assert all(iu_v1(text) == whitespace_v1(text) for text in texts if "XXXX" not in text)


def test_another_public_split_is_refused_by_name(folder):
    roots = {"annotations": (folder / "mrg_rl" / "annotation.json",)}
    with pytest.raises(CxrbenchError, match="ids of another split"):
        list(IuXray().studies(roots, Slice("test", {"form": "r2gen"})))


def test_check_finds_no_problem(roots):
    lines = IuXray().check(roots)
    assert {line.status for line in lines} == {"ok", "note"}
    found = {line.item: line.found for line in lines}
    assert found["XML against Kaggle"].startswith("3,574 reports in both, every section equal; 4 image(s)")
    assert found["splits against XML"].startswith("3,671 records")
