"""`phantom` as a data set: ids, keys, options, splits, labels; the same bytes in every process and on every machine."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cxrbench.data.base import Slice
from cxrbench.data.chexpert import LABELS
from cxrbench.data.images import read_grey
from cxrbench.data.phantom import Phantom, annotate, draw, studies, study, study_id, truth
from cxrbench.data.phantom_world import VERSION
from cxrbench.errors import CxrbenchError
from cxrbench.spec import find_task

# Recorded from version 1 of the generator: the hashes are the contract. A change of any of them needs a new VERSION.
TEXTS = {
    ("test", 0): "4eedcc724b1c935c",
    ("test", 41): "7f010903b65c35db",
    ("train", 777): "a875a80abb8ae44f",
    ("validate", 12): "20564eb8bb365099",
}
PICTURES = {
    "ph1-s0-test-000000-frontal-256": "673da5c281d7daf2",
    "ph1-s0-test-000001-frontal-128": "f5d3011e4cdad40d",
    "ph1-s0-train-000777-frontal-128": "ad084cdae9eabfb0",
    "ph1-s5-validate-000012-frontal-200": "bc9250fe8a733518",
    "ph1-s0-test-000026-lateral-256": "65c804deb81dabf8",
}
ALL_TEXTS = "8cc38386766095e4"
"""Over every section, label and annotation of the 300 test studies."""


def text_hash(split, index):
    return digest(study(0, split, index).sections)


def digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def picture_hash(key):
    return hashlib.sha256(draw(key).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(("which", "expected"), TEXTS.items(), ids=str)
def test_texts_are_those_of_version_1(which, expected):
    assert text_hash(*which) == expected


@pytest.mark.parametrize(("key", "expected"), PICTURES.items())
def test_pictures_are_those_of_version_1(key, expected):
    assert picture_hash(key) == expected


def test_the_whole_test_split_is_that_of_version_1():
    whole = []
    for each in studies("test", 300):
        marks = [annotate(each.study_id, section) for section in ("findings", "impression")]
        whole.append(
            [each.study_id, each.time, dict(each.sections), {k: dict(v) for k, v in each.labels.items()}, marks]
        )
    assert VERSION == 1
    assert digest(whole) == ALL_TEXTS


def test_another_process_makes_the_same():
    key = "ph1-s3-train-000005-frontal-128"
    code = (
        "import hashlib, json; from cxrbench.data.phantom import draw, study;"
        f"print(hashlib.sha256(draw({key!r}).tobytes()).hexdigest()[:16]);"
        "print(hashlib.sha256(json.dumps(study(3, 'train', 5).sections, sort_keys=True).encode()).hexdigest()[:16])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert out == [picture_hash(key), digest(study(3, "train", 5).sections)]


def of(split, **options):
    return list(Phantom().studies({}, Slice(split, options)))


def test_default_sizes_and_options():
    assert [len(of(split)) for split in ("train", "validate", "test")] == [1200, 150, 300]
    assert len(of("train", train=7, test=3)) == 7
    assert of("test", test="2", seed="9")[1] == study(9, "test", 1)
    assert of("validate", validate=1, size=128)[0].images[0].path.endswith("-frontal-128")
    assert of("test", test=0) == []


def test_a_study_does_not_depend_on_the_size_of_its_split():
    assert of("test", test=40) == of("test")[:40]


def test_ids_say_all_and_lead_back():
    for each in studies("test", 60, seed=4):
        true = truth(each.study_id)
        assert study(true.seed, true.split, true.index) == each
        assert each.patient_id == f"ph1-s4-test-p{true.patient.number:05d}"
        for image in each.images:
            scheme, _, key = image.path.partition(":")
            assert scheme == "phantom"
            assert key == f"{image.image_id}-256"


def test_priors_are_the_earlier_studies_of_the_patient():
    before: dict[str, list[str]] = {}
    for each in studies("validate", 150):
        earlier = before.setdefault(each.patient_id, [])
        assert list(each.priors) == earlier[::-1]
        assert each.columns["prior"] == ("yes" if earlier else "no")
        earlier.append(each.study_id)


def test_study_as_the_contract_has_it():
    seen = set()
    for each in studies("test", 300):
        assert each.split == "test"
        assert each.images[0].view in ("PA", "AP")
        assert [image.view for image in each.images[1:]] in ([], ["LATERAL"])
        seen.add(len(each.images))
        assert {"findings", "impression", "indication", "technique"} <= set(each.sections)
        assert all(each.sections.values())
        assert set(each.labels["phantom"]) <= set(LABELS)
        assert set(each.labels["phantom"].values()) <= {-1.0, 0.0, 1.0}
        assert set(each.labels["phantom-fine"].values()) <= {-1.0, 1.0}
        pathology = [n for n, v in each.labels["phantom"].items() if v and n not in ("Support Devices", "No Finding")]
        assert each.columns["abnormal"] == ("yes" if pathology else "no")
        assert each.labels["phantom"]["No Finding"] == (not pathology)
        assert each.demographics.sex in ("F", "M")
        assert each.demographics.race
        assert each.demographics.age >= 18
    assert seen == {1, 2}


def test_read_grey_draws_what_the_path_says():
    path = next(iter(studies("test", 1))).images[0].path
    assert np.array_equal(read_grey(path), draw(path.removeprefix("phantom:")))


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("dev", {}, "no split 'dev'"),
        ("test", {"tset": 5}, r"no option 'tset' \(did you mean 'test'\?\)"),
        ("test", {"test": -1}, "a whole number from 0"),
        ("test", {"test": "many"}, "a whole number from 0"),
        ("test", {"seed": 1.5}, "a whole number from 0"),
        ("test", {"size": 32}, "a whole number from 64 to 4096"),
        ("test", {"seed": True}, "a whole number from 0"),
    ],
)
def test_wrong_options_are_named(split, options, message):
    with pytest.raises(CxrbenchError, match=message):
        Phantom().studies({}, Slice(split, options))


@pytest.mark.parametrize(
    "key",
    ["", "x", "ph1-s0-test-0", "ph1-s0-dev-0-frontal-256", "ph2-s0-test-000000-frontal-256", "ph1-s0-test-0-frontal-8"],
)
def test_wrong_keys_are_named(key):
    with pytest.raises(CxrbenchError) as caught:
        draw(key)
    assert study_id(0, "test", 0) in caught.value.fix


def test_other_sections_have_no_annotations():
    with pytest.raises(CxrbenchError, match="annotates findings and impression"):
        annotate(study_id(0, "test", 0), "history")


def test_nothing_to_check_or_prepare(tmp_path):
    data = Phantom()
    assert [c.status for c in data.check({})] == ["ok"]
    assert data.prepare({}, tmp_path, lambda done, total: None)[0].status == "note"
    assert list(tmp_path.iterdir()) == []
    assert data.recognise(Path("/somewhere")) is None


def test_the_fingerprint_follows_the_options():
    prints = {
        Phantom().fingerprint({}, Slice(split, options))
        for split in ("train", "test")
        for options in ({}, {"seed": 1}, {"size": 128}, {"test": 10})
    }
    assert len(prints) == 8
    assert Phantom().fingerprint({}, Slice("test", {"seed": "0"})) == Phantom().fingerprint({}, Slice("test"))


@pytest.mark.parametrize("name", ["demo-findings", "demo-impression"])
def test_the_demo_tasks_fit_the_data(name):
    spec = find_task(name)
    assert spec.dataset.name == "phantom"
    assert spec.expected.n == len(of(spec.dataset.split, **spec.dataset.options))
    assert spec.expected.evidence == "verified"
    assert "label-f1:phantom" in spec.metrics.required
