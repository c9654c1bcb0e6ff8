"""MIMIC-IV's patients: a table that says two things of one patient, or something else than published, is refused."""

from __future__ import annotations

from pathlib import Path

import mimic_tree as tree
import pytest

from cxrbench.data.mimic_demographics import read_patients
from cxrbench.errors import CxrbenchError

COLUMNS = ("subject_id", "gender", "anchor_age", "anchor_year")
GOOD = [(19999001, "F", 60, 2178), (19999002, "M", 91, 2149)]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ((19999001, "F", 60, 2178), "1 rows name a patient a second time"),
        ((19999001, "M", 30, 2178), "1 rows name a patient a second time"),
        ((19999003, "female", 60, 2178), "1 rows have a gender that is neither F nor M"),
        ((19999003, "", 60, 2178), "1 rows have a gender that is neither F nor M"),
        ((19999003, "F", "", 2178), "1 rows have an anchor_age that is not a whole number"),
        ((19999003, "F", "60.5", 2178), "1 rows have an anchor_age that is not a whole number"),
        ((19999003, "F", 60, "21-78"), "1 rows have an anchor_year that is not a year"),
    ],
)
def test_a_row_that_cannot_be_is_refused_whoever_is_asked_for(
    tmp_path: Path, row: tuple[object, ...], problem: str
) -> None:
    path = tree.write_csv(tmp_path / "patients.csv.gz", COLUMNS, [*GOOD, row])
    with pytest.raises(CxrbenchError, match=problem) as caught:
        read_patients((path,), ["19999002"])
    assert caught.value.where == str(path)
    assert "19999" not in caught.value.what


def test_a_good_table_is_read(tmp_path: Path) -> None:
    path = tree.write_csv(tmp_path / "patients.csv", COLUMNS, GOOD)
    assert read_patients((path,), ["19999002"]).anchors == {"19999002": ("M", 91, 2149)}
