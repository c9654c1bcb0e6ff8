"""Studies become samples by the task's rules, and everything left out is counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrbench.data.samples import age_band, make_samples, mark_repeats, take
from cxrbench.errors import CxrbenchError
from cxrbench.spec import TaskSpec
from cxrbench.types import Demographics, Image, Sample, Study


def spec(**changes):
    body = {
        "name": "t", "version": 1, "title": "t", "kind": "findings", "access": "open",
        "dataset": {"name": "phantom", "split": "test"}, "target": "findings", "text": "whitespace:v1",
        "metrics": {"required": ["bleu:raw"]}, "citation": "c",
    }  # fmt: skip
    return TaskSpec.model_validate(body | changes)


def study(number, *views, findings="Clear lungs.", **more):
    images = tuple(Image(f"i{number}-{k}", f"/nowhere/{k}.png", view) for k, view in enumerate(views))
    return Study(f"s{number}", f"p{number // 2}", "test", images, {"findings": findings} if findings else {}, **more)


def test_each_study_left_out_is_counted_under_the_first_rule_it_breaks():
    task = spec(include={"sections": ["findings"], "min_images": 1, "views": ["PA", "AP"]})
    studies = [study(0, "PA"), study(1, "AP", findings=""), study(2), study(3, "LATERAL"), study(4, "LL", "AP")]
    found = make_samples(task, studies)
    assert [s.sample_id for s in found.samples] == ["s0", "s4"]
    assert found.excluded == {"no findings": 1, "no image": 1, "no PA or AP image": 1}
    assert found.studies == 5


def test_a_target_of_blanks_alone_is_no_target():
    found = make_samples(spec(), [study(0, "PA", findings=" \n ")])
    assert found.samples == ()
    assert found.excluded == {"findings empty after whitespace:v1": 1}


def test_the_key_image_follows_the_order_of_views_and_all_images_are_offered():
    task = spec(images={"offer": "all", "key": ["PA", "AP"]})
    sample = make_samples(task, [study(0, "LATERAL", "AP", "PA")]).samples[0]
    assert sample.key_image == "i0-2"
    assert len(sample.images) == 3
    assert sample.subgroups["view"] == "PA"
    only_key = make_samples(spec(images={"offer": "key", "key": ["AP"]}), [study(0, "LATERAL", "AP")]).samples[0]
    assert [image.view for image in only_key.images] == ["AP"]
    no_match = make_samples(task, [study(0, "LATERAL")]).samples[0]
    assert no_match.key_image is None


def test_one_sample_per_frontal_image():
    task = spec(unit="image", include={"views": ["PA", "AP"]})
    found = make_samples(task, [study(0, "LATERAL", "AP", "PA")])
    assert [s.sample_id for s in found.samples] == ["s0/i0-1", "s0/i0-2"]
    assert all(len(s.images) == 1 and s.key_image == s.images[0].image_id for s in found.samples)
    assert found.clusters == 1


def test_two_studies_of_one_id_are_refused():
    with pytest.raises(CxrbenchError, match="share one id"):
        make_samples(spec(), [study(0, "PA"), study(0, "PA")])


def test_subgroups_come_from_study_and_patient():
    who = Demographics("F", 61.0, None)
    sample = make_samples(spec(), [study(0, "PA", demographics=who, columns={"site": "A"})]).samples[0]
    expected = {"sex": "F", "age": "60-79", "race": "unknown", "view": "PA", "site": "A"}
    assert expected.items() <= sample.subgroups.items()


@given(st.floats(0, 150))
def test_every_age_has_one_band(age):
    low, _, high = age_band(age).partition("-")
    assert float(low.rstrip("+")) <= age
    assert not high or age < float(high) + 1


def test_repeats_and_references_seen_in_train_are_marked():
    samples = make_samples(spec(), [study(0, "PA"), study(1, "PA"), study(2, "PA", findings="Edema.")]).samples
    marked = mark_repeats(samples, ["Edema."])
    assert [s.subgroups["duplicate"] for s in marked] == ["first", "repeat", "first"]
    assert [s.subgroups["seen-in-train"] for s in marked] == ["no", "no", "yes"]
    assert "seen-in-train" not in mark_repeats(samples, None)[0].subgroups


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(1, 25), st.integers(1, 25))
def test_limits_nest_and_do_not_depend_on_order(patients, a, b):
    samples = [Sample(f"s{i}", f"s{i}", f"p{p}", "x") for i, p in enumerate(patients)]
    few, many = sorted((a, b))
    assert take(samples, few) <= take(samples, many)
    assert take(samples, few) == take(samples[::-1], few)
    assert len(take(samples, few)) == min(few, len(samples))


def test_the_fingerprint_sees_text_and_images_and_not_paths_or_order():
    one = make_samples(spec(), [study(0, "PA"), study(1, "PA")])
    swapped = make_samples(spec(), [study(1, "PA"), study(0, "PA")])
    other = make_samples(spec(), [study(0, "PA"), study(1, "PA", findings="Edema.")])
    assert one.fingerprint == swapped.fingerprint != other.fingerprint


def test_a_section_that_is_empty_after_normalisation_is_not_offered():
    task = spec(offer=["indication"], text="iu:v1")
    one = Study("a", None, "test", (), {"findings": "Clear lungs.", "indication": "XXXX"})
    assert make_samples(task, [one]).samples[0].sections == {}
