"""What a finished folder does on pictures it never met, by the path every user takes: adapter, processor, engine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbench.data.phantom import draw, studies, truth
from cxrbench.data.phantom_world import SIDED
from cxrbench.engines.build import make_model
from cxrbench.models.base import ModelOptions
from cxrbench.models.demo import PROMPTS
from cxrbench.types import Generation, Sample, Study
from demo_training.figures import compare, said

Grey = NDArray[np.uint8]
Show = Callable[[str], Grey]
"""From the path of an image to the pixels the model gets for it."""

BATCH = 50


@functools.lru_cache(maxsize=4096)
def picture(path: str) -> Grey:
    """The drawing itself."""
    return draw(path.removeprefix("phantom:"))


def flipped(path: str) -> Grey:
    """The drawing with left and right changed."""
    return np.ascontiguousarray(picture(path)[:, ::-1])


def blank(path: str) -> Grey:
    """An even grey of the drawing's mean."""
    return np.full_like(picture(path), int(picture(path).mean()))


def shuffled(chosen: Sequence[Study]) -> Show:
    """Every study gets the drawing of the study half the set away, which is another patient's."""
    paths = [study.images[0].path for study in chosen]
    other = dict(zip(paths, np.roll(paths, len(paths) // 2).tolist(), strict=True))
    return lambda path: picture(other[path])


def reports(model: str, chosen: Sequence[Study], show: Show = picture, tokens: int = 160) -> list[str]:
    """Greedy findings of the frontal pictures. `model` is a registered name or the path of a folder."""
    folder = Path(model)
    options = {"read_image": show, "extra": {}}
    if folder.is_dir():
        options |= {"argument": model, "extra": {"prompt": PROMPTS["findings"]}}
    built = make_model("hf" if folder.is_dir() else model, ModelOptions(**options))
    built.circumstances()
    texts: list[str] = []
    for start in range(0, len(chosen), BATCH):
        samples = [_sample(study) for study in chosen[start : start + BATCH]]
        asked = [built.request(each, "generate", Generation(max_new_tokens=tokens), 0) for each in samples]
        done = built.generate(start // BATCH, [built.prepare(each) for each in asked])
        texts += [prediction.text or "" for prediction in done.predictions]
    built.close()
    return texts


def _sample(study: Study) -> Sample:
    frontal = study.images[0]
    return Sample(study.study_id, study.study_id, study.patient_id, "", (frontal,), frontal.image_id)


def test_studies(count: int) -> list[Study]:
    """The first studies of the test split, of the seed the tasks use."""
    return list(studies("test", count))


def figures(model: str, chosen: Sequence[Study], tokens: int = 160) -> dict[str, Any]:
    """Everything that is promised of a demo model and needs no other model beside it."""
    truths = [truth(study.study_id).findings for study in chosen]
    told, turned, strange, empty = (
        reports(model, chosen, show, tokens) for show in (picture, flipped, shuffled(chosen), blank)
    )
    return {
        "n": len(chosen),
        **compare(told, truths),
        "words": float(np.mean([len(report.split()) for report in told])),
        "shuffled": compare(strange, truths)["f1"],
        "blank": compare(empty, truths)["f1"],
        "flips": flips(told, turned),
    }


def flips(told: Sequence[str], turned: Sequence[str]) -> float:
    """Of the findings named on one side only, and named again when the picture is flipped, the share on the other side.

    A finding that is not named again has no side and counts as not flipped.
    """
    cases = right = 0
    for before, after in zip(told, turned, strict=True):
        first, second = said(before), said(after)
        for kind in SIDED:
            sides = [side for side in ("left", "right") if f"{kind}/{side}" in first]
            if len(sides) == 1:
                other = "right" if sides == ["left"] else "left"
                cases += 1
                right += f"{kind}/{other}" in second and f"{kind}/{sides[0]}" not in second
    return right / cases if cases else 0.0
