"""The shipped demo models: what is in the picture is in the report, and the folders are what the script made."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from cxrbench import registry
from cxrbench.data.phantom import draw, studies, truth
from cxrbench.data.phantom_world import VERSION
from cxrbench.engines.build import make_model
from cxrbench.errors import CxrbenchError
from cxrbench.features.phantom_labels import read
from cxrbench.models.base import ModelOptions
from cxrbench.models.demo import PROMPTS, Demo
from cxrbench.shipped import embedded
from cxrbench.types import Generation, Sample

NAMES = ("demo", "demo-regressed", "demo-verbose")
TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def show(path: str) -> np.ndarray:
    return draw(path.removeprefix("phantom:"))


def mirrored(path: str) -> np.ndarray:
    return np.ascontiguousarray(show(path)[:, ::-1])


def sample(study) -> Sample:
    sections = {"indication": study.sections["indication"]}
    return Sample(
        study.study_id, study.study_id, study.patient_id, "", study.images, study.images[0].image_id, sections
    )


WEIGHTS = {
    "demo": "7db2fd96e7904a3a",
    "demo-regressed": "c586a0df9cf316ee",
    "demo-verbose": "7922703c54c6281a",
}
"""SHA-256 of the shipped weights, first 16 digits: what training.json and the docs give figures of."""


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_weights_are_those_the_figures_are_of(name):
    folder = embedded(name)
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16] == WEIGHTS[name]
    assert json.loads((folder / "training.json").read_text())["phantom"] == VERSION, "phantom changed: train again"


def write(name: str, chosen, picture=show, **extra) -> list[str]:
    model = make_model(name, ModelOptions(read_image=picture, extra=extra, device="cpu"))
    model.circumstances()
    asked = [model.request(sample(study), "generate", Generation(max_new_tokens=160), 0) for study in chosen]
    done = model.generate(0, [model.prepare(each) for each in asked]).predictions
    model.close()
    assert {prediction.outcome for prediction in done} == {"ok"}
    assert {prediction.finish_reason for prediction in done} == {"stop"}
    return [prediction.text or "" for prediction in done]


def sides(report: str, kind: str) -> set[str]:
    found = {name.split("/")[1] for name in read(report).fine if name.startswith(f"{kind}/")}
    return found & {"left", "right"}


def drawn(study, kind: str) -> set[str]:
    return {finding.side for finding in truth(study.study_id).findings if finding.kind == kind}


@pytest.fixture(scope="module")
def chosen():
    """Forty test studies, half of them with an effusion on one side."""
    pool = list(studies("test", 300))
    with_it = [study for study in pool if len(drawn(study, "effusion")) == 1][:20]
    without = [study for study in pool if not drawn(study, "effusion")][:20]
    return with_it + without


@pytest.fixture(scope="module")
def reports(chosen):
    return write("demo", chosen)


def test_an_effusion_in_the_picture_is_an_effusion_in_the_report_on_its_side(chosen, reports):
    right = [
        sides(report, "effusion") == drawn(study, "effusion") for study, report in zip(chosen, reports, strict=True)
    ]
    assert sum(right[:20]) >= 15
    assert sum(right[20:]) >= 15


def test_a_mirrored_picture_changes_the_side(chosen, reports):
    before = [sides(report, "effusion") for report in reports[:12]]
    after = [sides(report, "effusion") for report in write("demo", chosen[:12], mirrored)]
    other = {"left": {"right"}, "right": {"left"}}
    cases = [(old, new) for old, new in zip(before, after, strict=True) if len(old) == 1]
    assert len(cases) >= 8
    assert sum(new == other[next(iter(old))] for old, new in cases) >= 0.7 * len(cases)


def test_an_impression_is_written_for_the_other_task(chosen, reports):
    impressions = write("demo", chosen[:20], target="impression")
    assert sum("effusion" in text.lower() or "pleural fluid" in text.lower() for text in impressions) >= 14
    assert sum(map(len, impressions)) < sum(map(len, reports[:20]))


def test_the_verbose_one_is_longer(chosen, reports):
    longer = write("demo-verbose", chosen)
    assert sum(len(text.split()) for text in longer) > 1.3 * sum(len(text.split()) for text in reports)


def test_the_regressed_one_finds_less(chosen, reports):
    def found(texts):
        true = [{finding.kind for finding in truth(study.study_id).findings} for study in chosen]
        told = [{name.split("/")[0] for name in read(text).fine} for text in texts]
        return sum(len(a & b) for a, b in zip(true, told, strict=True))

    assert 0 < found(write("demo-regressed", chosen)) < found(reports)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_what_the_committed_script_made(name):
    folder = embedded(name)
    body = json.loads((folder / "training.json").read_text())
    assert body["model"] == name
    files = [TOOLS / "train_demo.py", *sorted((TOOLS / "demo_training").glob("*.py"))]
    now = {file.relative_to(TOOLS).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert body["scripts"] == now, "the script was changed: run it again, or take the change back"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 5_000_000
    assert "no clinical use" in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_it_asks_with_the_trained_prompt_and_the_key_image_only(name, chosen):
    model = registry.load("models", name)(ModelOptions(extra={"target": "impression"}))
    assert model.name == model.card.name == model.identity()["name"] == name
    assert "no clinical use" in model.card.notes
    assert "section" not in str(model.consumes)
    assert "indication" not in model.consumes
    request = model.request(sample(chosen[0]), "generate", Generation(), 0)
    assert request.messages[0].text == "<image>" + PROMPTS["impression"]
    assert len(request.images) == 1
    assert model.render(request) == "<s><image>Impression:"


def test_a_target_it_was_not_trained_on_is_refused():
    with pytest.raises(CxrbenchError, match="findings or an impression, not 'report'"):
        Demo(ModelOptions(extra={"target": "report"}))


def test_an_argument_is_refused():
    with pytest.raises(CxrbenchError, match="takes no argument"):
        Demo(ModelOptions(argument="somewhere"))


def test_the_folder_runs_as_any_other_checkpoint(chosen, reports):
    model = make_model(
        "hf",
        ModelOptions(argument=str(embedded("demo")), read_image=show, extra={"prompt": "Findings:"}, device="cpu"),
    )
    model.circumstances()
    request = model.request(sample(chosen[0]), "generate", Generation(max_new_tokens=160), 0)
    assert model.generate(0, [model.prepare(request)]).predictions[0].text == reports[0]
    model.close()
