"""A task's groups: bands by its cut points, values by its lists, and what is in no group under a name of its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import mimic_tree as tree
import pytest
from pydantic import ValidationError

from cxrbench.config import load_config
from cxrbench.data.base import Slice
from cxrbench.data.load import TaskData, check_groups
from cxrbench.data.mimic_cxr import MimicCxr
from cxrbench.data.samples import make_samples
from cxrbench.errors import CxrbenchError
from cxrbench.spec import TaskSpec, find_task, task_files
from cxrbench.types import Demographics, Image, Study


def spec(groups: Any, **more: Any) -> TaskSpec:
    body = {
        "name": "t", "version": 1, "title": "t", "kind": "findings", "access": "open",
        "dataset": {"name": "phantom", "split": "test"}, "target": "findings", "text": "whitespace:v1",
        "metrics": {"required": ["length"]}, "citation": "c", "groups": groups,
    }  # fmt: skip
    return TaskSpec.model_validate(body | more)


def study(number: int, sex: str | None, age: float | None, race: str | None, findings: str = "Clear.") -> Study:
    image = Image(f"i{number}", "/nowhere", "PA")
    return Study(f"s{number}", f"p{number}", "test", (image,), {"findings": findings},
                 demographics=Demographics(sex, age, race))  # fmt: skip


def test_bands_values_and_what_is_in_none() -> None:
    task = spec(
        {
            "by": {
                "sex": {"values": {"female": ["F"], "male": ["M"]}},
                "age": {"cuts": [18, 65]},
                "race": {"values": {"white": ["WHITE", "WHITE - RUSSIAN"], "asian": ["ASIAN"]}},
                "reference-length": {"cuts": [3]},
                "verbosity": {"cuts": [0.5, 2]},
            }
        }
    )
    studies = [
        study(0, "F", 17.9, "WHITE"),
        study(1, "M", 18.0, "WHITE - RUSSIAN | WHITE", "Two words"),
        study(2, "X", 65.0, "ASIAN | WHITE", "Now three words"),
        study(3, None, None, "conflicting"),
        study(4, None, 91.0, "MARTIAN"),
    ]
    found = [sample.subgroups for sample in make_samples(task, studies).samples]
    assert [each["sex"] for each in found] == ["female", "male", "unlisted", "unknown", "unknown"]
    assert [each["age"] for each in found] == ["0-17", "18-64", "65+", "unknown", "65+"]
    assert [each["race"] for each in found] == ["white", "white", "conflicting", "conflicting", "unlisted"]
    assert [each["reference-length"] for each in found] == [
        "0-2 words",
        "0-2 words",
        "3+ words",
        "0-2 words",
        "0-2 words",
    ]
    assert all("verbosity" not in each for each in found)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"by": {}}, "at least 1"),
        ({"by": {"sex": {"cuts": [1]}}}, "by.sex.cuts"),
        ({"by": {"age": {}}}, "by.age: give its cuts"),
        ({"by": {"age": {"cuts": [60, 40]}}}, "each larger than the one before"),
        ({"by": {"age": {"cuts": [0, 40]}}}, "larger than 0"),
        ({"by": {"age": {"cuts": [40.5]}}}, "whole numbers of years"),
        ({"by": {"age": {"cuts": [40], "of": "x"}}}, "not both"),
        ({"by": {"race": {"values": {"a": ["X"], "b": ["X"]}}}}, "in one group only"),
        ({"by": {"race": {"values": {"unknown": ["X"]}}}}, "in no group"),
        ({"by": {"sex": {}}, "min_patients": 9}, "greater than or equal to 10"),
        ({"by": {"sex": {}}, "against": {"race": "x"}}, "against.race"),
    ],
)
def test_a_grouping_that_cannot_be_is_refused(groups: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec(groups)


def test_verbosity_needs_length() -> None:
    with pytest.raises(ValidationError, match="needs the metric length"):
        spec({"by": {"verbosity": {"cuts": [1]}}}, metrics={"required": ["bleu:raw"]})


def test_a_grouping_changes_no_hash() -> None:
    assert spec(None).hash == spec({"by": {"age": {"cuts": [40]}}}).hash


def test_a_grouping_of_which_nothing_is_known_is_refused() -> None:
    task = spec({"by": {"sex": {}, "race": {}}})
    samples = make_samples(task, [study(0, "F", 1.0, None)]).samples
    with pytest.raises(CxrbenchError, match="groups by race, and nothing is known of it"):
        check_groups(task, samples)


@pytest.mark.parametrize(
    ("column", "group", "like"), [("sex", "mann", "man"), ("age", "0-4", "0-39"), ("race", "a", "A")]
)
def test_gaps_against_a_group_that_there_is_not_are_refused(column: str, group: str, like: str) -> None:
    by = {"sex": {"values": {"man": ["M"], "woman": ["F"]}}, "age": {"cuts": [40]}, "race": {}}
    wrong, right = (spec({"by": by, "against": {column: name}}) for name in (group, like))
    samples = make_samples(right, [study(0, "F", 1.0, "A")]).samples
    check_groups(right, samples)
    with pytest.raises(CxrbenchError, match=f"by {column} against '{group}', and there is no such group"):
        check_groups(wrong, samples)


@pytest.mark.parametrize(
    ("dataset", "cuts", "refused"),
    [
        ("mimic-cxr", [40, 90], None),
        ("mimic-cxr", [40, 91, 95], 91),
        ("chexpert-plus", [95], 95),
        ("phantom", [95], None),
    ],
)
def test_cuts_among_ages_that_are_recorded_as_one_are_refused(
    tmp_path: Path, dataset: str, cuts: list[int], refused: int | None
) -> None:
    """MIMIC-IV gives everybody over 89 as 91: "90-94" would be all of them, and 95 and over nobody."""
    config = load_config(tmp_path / "cxrbench.toml", may_be_new=True)
    about = {"dataset": {"name": dataset, "split": "test"}, "access": "credentialed"}
    task = spec({"by": {"age": {"cuts": cuts}}}, **about)
    if refused is None:
        TaskData.find(task, config)
        return
    with pytest.raises(
        CxrbenchError, match=f"cuts ages at {refused}, and {dataset} records everybody of 90 or more as one"
    ):
        TaskData.find(task, config)


def test_phantom_has_every_group_the_demo_names(tmp_path: Path) -> None:
    config = load_config(tmp_path / "cxrbench.toml", may_be_new=True)
    task = find_task("demo-fairness")
    task = task.model_copy(update={"dataset": task.dataset.model_copy(update={"options": {"test": 60}})})
    assert task.groups is not None
    samples = TaskData.find(task, config).samples.samples
    for name, grouping in task.groups.by.items():
        counts = Counter(sample.subgroups[name] for sample in samples)
        assert set(counts) <= {*grouping.values, "0-39", "40-59", "60-79", "80+"}, name
        assert sum(counts.values()) == 60


def test_mimic_iv_gives_sex_age_and_race(tmp_path: Path) -> None:
    """Races of one group at several admissions count as that group; a patient not in MIMIC-IV is unknown."""
    roots = {**tree.build(tmp_path), "demographics": (tree.write_mimic_iv(tmp_path / "iv"),)}
    tree.write_csv(
        tmp_path / "iv" / "hosp" / "admissions.csv.gz",
        ("subject_id", "hadm_id", "admittime", "race"),
        [(19999001, 1, "", "WHITE"), (19999001, 2, "", "WHITE - RUSSIAN"), (19999002, 3, "", "ASIAN - KOREAN"),
         (19999002, 4, "", "PORTUGUESE"), (19999002, 5, "", "UNKNOWN")],
    )  # fmt: skip
    task = find_task("mimic-fairness")
    found = make_samples(task, MimicCxr().studies(roots, Slice("test", task.dataset.options))).samples
    told = {s.sample_id: tuple(s.subgroups[name] for name in ("sex", "age", "race")) for s in found}
    assert told == {
        "59999001": ("female", "60-79", "white"),
        "59999002": ("female", "60-79", "white"),
        "59999005": ("male", "80+", "conflicting"),
        "59999006": ("unknown", "unknown", "unknown"),
    }
    plain = make_samples(find_task("mimic-findings"), MimicCxr().studies(roots, Slice("test"))).samples
    assert plain[0].subgroups["race"] == "conflicting"  # as recorded, without the task's groups
    assert plain[0].subgroups["race-recorded"] == "WHITE | WHITE - RUSSIAN"


def test_without_mimic_iv_the_task_is_refused(tmp_path: Path) -> None:
    task = find_task("mimic-fairness")
    samples = make_samples(task, MimicCxr().studies(tree.build(tmp_path), Slice("test", task.dataset.options)))
    with pytest.raises(CxrbenchError, match="groups by sex, and nothing is known") as caught:
        check_groups(task, samples.samples)
    assert "cxrbench data check mimic-cxr" in (caught.value.fix or "")


def test_races_of_mimic_iv_are_all_in_a_group_of_the_task() -> None:
    """The 33 values of hosp/admissions of MIMIC-IV 2 and 3, three of which say that nothing is known."""
    values = """AMERICAN INDIAN/ALASKA NATIVE|ASIAN|ASIAN - ASIAN INDIAN|ASIAN - CHINESE|ASIAN - KOREAN|
    ASIAN - SOUTH EAST ASIAN|BLACK/AFRICAN|BLACK/AFRICAN AMERICAN|BLACK/CAPE VERDEAN|BLACK/CARIBBEAN ISLAND|
    HISPANIC OR LATINO|HISPANIC/LATINO - CENTRAL AMERICAN|HISPANIC/LATINO - COLUMBIAN|HISPANIC/LATINO - CUBAN|
    HISPANIC/LATINO - DOMINICAN|HISPANIC/LATINO - GUATEMALAN|HISPANIC/LATINO - HONDURAN|HISPANIC/LATINO - MEXICAN|
    HISPANIC/LATINO - PUERTO RICAN|HISPANIC/LATINO - SALVADORAN|MULTIPLE RACE/ETHNICITY|
    NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER|OTHER|PORTUGUESE|SOUTH AMERICAN|WHITE|WHITE - BRAZILIAN|
    WHITE - EASTERN EUROPEAN|WHITE - OTHER EUROPEAN|WHITE - RUSSIAN"""
    groups = find_task("mimic-fairness").groups
    assert groups is not None
    listed = {value for group in groups.by["race"].values.values() for value in group}
    assert {value.strip() for value in values.replace("\n", "").split("|")} <= listed


@pytest.mark.parametrize("name", [name for name in task_files() if "fairness" in name or "length" in name])
def test_every_such_task_names_its_cut_points(name: str) -> None:
    task = find_task(name)
    assert task.groups is not None
    assert task.groups.min_patients >= 10
    assert not task.slices  # a slice would show the cells that groups hide


def test_an_age_is_kept_as_its_band_alone() -> None:
    task = spec({"by": {"age": {"cuts": [40]}}})
    (sample,) = make_samples(task, [replace(study(0, "F", 59.0, "x"))]).samples
    assert sample.subgroups["age"] == "40+"
