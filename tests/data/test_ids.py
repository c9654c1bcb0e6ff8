"""Ids are ASCII to their last character: other digits and line ends mean nothing, although `\\d` and `$` allow them."""

from __future__ import annotations

import pytest

from cxrbench.data.iu_images import image_id_of
from cxrbench.data.mimic_exams import moment
from cxrbench.data.phantom import draw, study_id, truth
from cxrbench.errors import CxrbenchError

ARABIC_ONE = "\u0661"


@pytest.mark.parametrize("name", ["CXR\u0661_IM-0003-1001.png", "1000_IM-0003-\u0661.png"])
def test_an_image_of_iu_x_ray(name: str) -> None:
    assert image_id_of(name.replace(ARABIC_ONE, "1")) is not None
    assert image_id_of(name) is None


def test_a_date_of_mimic_cxr() -> None:
    assert moment("21800506", "") is not None
    assert moment("218005\u0660\u0666", "") is None


@pytest.mark.parametrize("end", ["\n", "9" * 5000, ARABIC_ONE])
def test_a_study_or_image_of_the_phantom(end: str) -> None:
    name = study_id(0, "test", 0)
    assert truth(name) == truth(study_id(0, "test", 0))
    with pytest.raises(CxrbenchError, match="is no study"):
        truth(name + end)
    with pytest.raises(CxrbenchError, match="is no phantom image"):
        draw(f"{name}-frontal-64{end}")
