"""The MIMIC-CXR tasks on small trees: what becomes a sample, what is offered, what is left out and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mimic_tree as tree
import pytest

from cxrbench.data.base import Slice
from cxrbench.data.mimic_cxr import MimicCxr
from cxrbench.data.samples import SampleSet, make_samples
from cxrbench.spec import find_task

DATA = MimicCxr()
FRONTAL_VIEWS = ("PA", "AP")


def samples(task: str, roots: tree.Roots) -> SampleSet:
    spec = find_task(task)
    return make_samples(spec, DATA.studies(roots, Slice(spec.dataset.split, spec.dataset.options)))


@pytest.fixture
def roots(tmp_path: Path) -> tree.Roots:
    return {**tree.build(tmp_path), "annotations": (tmp_path / "json",)}


def test_findings_keep_studies_with_findings_and_a_frontal_image(roots: tree.Roots) -> None:
    found = samples("mimic-findings", roots)
    assert {sample.sample_id: sample.target for sample in found.samples} == {
        "59999001": "Heart is large.",
        "59999002": "Heart is larger.",
        "59999005": "Clear lungs again.",
        "59999006": "A nodule.",
    }
    assert found.excluded == {"no findings": 1, "no PA or AP image": 1}
    assert found.studies == 6
    assert found.clusters == 3
    assert [sample.subgroups["view"] for sample in found.samples] == ["PA", "AP", "PA", "PA"]
    first = found.samples[0]
    assert [image.view for image in first.images] == ["LATERAL", "PA"]
    assert dict(first.sections) == {"indication": "Invented cough."}
    assert (first.subgroups["view"], first.subgroups["abnormal"], first.subgroups["sex"]) == ("PA", "yes", "unknown")


def test_pa_comes_before_ap(tmp_path: Path) -> None:
    case = replace(tree.cases()[0], views=("AP", "LATERAL", "PA"))
    (sample,) = samples("mimic-findings", tree.build(tmp_path, [case])).samples
    assert sample.key_image == case.image_ids[2]


def test_a_study_placed_by_hand_is_a_sample_and_its_answer_is_not_offered(tmp_path: Path) -> None:
    case = replace(tree.cases()[0], study=51966317, text=" x\n INDICATION: Lungs are clear.\n COMPARISON: None.\n")
    (sample,) = samples("mimic-findings", tree.build(tmp_path, [case])).samples
    assert sample.target == "Lungs are clear."
    assert sample.sections == {}


def test_impression_from_image_and_indication(roots: tree.Roots) -> None:
    found = samples("mimic-impression", roots)
    targets = [sample.target for sample in found.samples]
    assert targets == ["Big heart.", "Bigger heart.", "No change.", "Normal.", "Nodule."]
    assert found.excluded == {"no impression": 1}


def test_impression_given_findings_offers_text_only(roots: tree.Roots) -> None:
    found = samples("mimic-impression-given-findings", roots)
    assert [sample.study_id for sample in found.samples] == ["59999001", "59999002", "59999005", "59999006"]
    assert all(not sample.images and set(sample.sections) == {"findings", "indication"} for sample in found.samples)


def test_llavarad_has_a_sample_per_frontal_image_of_rule_based_entries(roots: tree.Roots, tmp_path: Path) -> None:
    items = [case for case in tree.cases() if case.split == "test"]
    tree.llavarad(tmp_path / "json" / "chat_test_a.json", items[:4])
    tree.llavarad(tmp_path / "json" / "chat_test_b.json", items[4:], method="gpt4")
    found = samples("mimic-findings-llavarad", {**roots, "annotations": (tmp_path / "json",)})
    frontal = [
        f"{case.study}/{image}"
        for case in items[:4]
        for image, view in zip(case.image_ids, case.views, strict=True)
        if view in FRONTAL_VIEWS
    ]
    assert [sample.sample_id for sample in found.samples] == frontal
    assert all(len(sample.images) == 1 for sample in found.samples)
    assert found.samples[0].sections == {"indication": "Invented reason."}
    assert found.excluded == {"no AP or PA image": 1}


def test_r2gen_has_a_sample_per_image_of_any_view(roots: tree.Roots, tmp_path: Path) -> None:
    tree.r2gen(tmp_path / "json" / "annotation.json", tree.cases())
    found = samples("mimic-findings-r2gen", roots)
    assert len(found.samples) == sum(len(case.views) for case in tree.cases() if case.split == "test") == 10
    assert found.clusters == 3
    assert all(not sample.sections and sample.key_image == sample.images[0].image_id for sample in found.samples)


def test_rexrank_offers_the_context_and_its_key_image(roots: tree.Roots, tmp_path: Path) -> None:
    items = [case for case in tree.cases() if case.split == "test"]
    tree.rexrank(tmp_path / "json" / "test.json", items, "Age:60-70.Gender:F.Indication: why.Comparison: none.")
    found = samples("mimic-findings-rexrank", roots)
    assert len(found.samples) == len(items)
    assert found.samples[0].key_image == items[0].image_ids[-1]
    assert dict(found.samples[0].sections) == {"indication": "why.", "comparison": "none."}


def test_tasks_agree_between_the_index_and_direct_reading(roots: tree.Roots, tmp_path: Path) -> None:
    spec = find_task("mimic-findings")
    part = Slice("test", spec.dataset.options)
    DATA.prepare(roots, tmp_path / "index", lambda done, total: None)
    direct, indexed = (make_samples(spec, DATA.studies(roots, part, out)) for out in (None, tmp_path / "index"))
    assert direct.fingerprint == indexed.fingerprint
