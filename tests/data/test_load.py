"""What a task states about its full size, against what is here: samples, and studies of the split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mimic_tree as tree
import pytest

from cxrbench.config import Config, DataEntry
from cxrbench.data.load import TaskData, check_count
from cxrbench.data.samples import SampleSet
from cxrbench.errors import CxrbenchError
from cxrbench.spec import Expected, ExpectedSplit, TaskSpec, find_task
from cxrbench.types import Sample


def stated(**counts: object) -> TaskSpec:
    return find_task("mimic-findings").model_copy(update={"expected": Expected(**counts)})


def found(samples: int, studies: int) -> SampleSet:
    one = Sample("s", "s", None, "clear")
    return SampleSet(tuple(replace(one, sample_id=f"s{n}") for n in range(samples)), studies)


VERIFIED = {"evidence": "verified", "source": "a notebook"}
SPLIT = ExpectedSplit(n=3269, **VERIFIED)


def test_a_verified_count_that_is_contradicted_is_an_error_unless_allowed() -> None:
    spec = stated(n=3, **VERIFIED)
    with pytest.raises(CxrbenchError, match="2 samples here, but 3 in full") as caught:
        check_count(spec, found(2, 2), allow_partial=False)
    assert "--allow-partial" in caught.value.fix
    assert "2 samples, 3 expected" in (check_count(spec, found(2, 2), allow_partial=True) or "")
    assert check_count(spec, found(3, 5), allow_partial=False) is None
    loose = stated(n=3, evidence="unverified", source="hearsay")
    assert "unverified" in (check_count(loose, found(2, 2), allow_partial=False) or "")


def test_a_small_copy_of_the_official_split_is_refused_whatever_is_known_of_the_samples() -> None:
    spec = stated(n=None, split=SPLIT)
    with pytest.raises(CxrbenchError) as caught:
        check_count(spec, found(11, 18), allow_partial=False)
    assert caught.value.what == "the split test of mimic-cxr has 18 studies here, but 3269 in full"
    assert "verified: a notebook" in caught.value.where
    assert "--allow-partial" in caught.value.fix
    line = check_count(spec, found(11, 18), allow_partial=True)
    assert line == "18 studies of the split test, 3269 expected (verified: a notebook)"
    assert check_count(spec, found(11, 3269), allow_partial=False) is None


def test_a_split_of_another_evidence_is_a_note() -> None:
    spec = stated(n=None, split=ExpectedSplit(n=3269, evidence="primary", source="a page"))
    assert "18 studies" in (check_count(spec, found(11, 18), allow_partial=False) or "")


def test_both_counts_are_told() -> None:
    spec = stated(n=2000, source="hearsay", split=SPLIT)
    line = check_count(spec, found(11, 18), allow_partial=True) or ""
    assert line.startswith("11 samples, 2000 expected (unverified: hearsay); 18 studies of the split test")


@pytest.mark.parametrize("task", ["mimic-findings", "mimic-impression", "mimic-impression-given-findings"])
def test_the_official_test_split_of_mimic_cxr_is_known_by_its_size(tmp_path: Path, task: str) -> None:
    spec = find_task(task)
    data = TaskData.find(spec, Config(tmp_path / "none.toml", {"mimic-cxr": DataEntry(tree.build(tmp_path))}))
    with pytest.raises(CxrbenchError, match="has 6 studies here, but 3269 in full"):
        check_count(spec, data.samples, allow_partial=False)
