"""What the training script makes: the shipped folders, and (slow) those of a few of its steps, which learn nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cxrbench.models.base import ModelOptions
from cxrbench.models.hf import HuggingFace
from cxrbench.shipped import embedded

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("demo", "demo-regressed", "demo-verbose")


@pytest.fixture(scope="module", params=["shipped", pytest.param("made now", marks=pytest.mark.slow)])
def made(request, tmp_path_factory):
    """The folders of the three: those that travel along, and those a few steps of the script make now."""
    if request.param == "shipped":
        return embedded("demo").parent
    folder = tmp_path_factory.mktemp("demo")
    words = [sys.executable, str(ROOT / "tools/train_demo.py"), "--micro", "--out", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_every_folder_is_whole(made, name):
    model = HuggingFace(ModelOptions(argument=str(made / name)))
    assert model.processing.transform is not None, "the fast pixel path must fit the processor"
    assert model.processing.processor.image_processor.size == {"height": 160, "width": 160}
    body = json.loads((made / name / "training.json").read_text())
    assert body["scripts"]["train_demo.py"]
    assert set(body["test"]["kinds"]) >= {"effusion", "fracture", "pacemaker"}
    assert "no clinical use" in (made / name / "README.md").read_text()


def test_the_three_do_not_share_their_weights(made):
    assert len({(made / name / "model.safetensors").read_bytes() for name in NAMES}) == 3


def test_pixels_are_those_the_tower_was_trained_on(made, monkeypatch):
    import numpy as np

    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import torch
    from demo_training.net import planes
    from demo_training.pool import shrink

    model = HuggingFace(ModelOptions(argument=str(made / "demo")))
    grey = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
    expected = planes(torch.from_numpy(shrink(grey).copy())[None])[0].numpy()
    np.testing.assert_allclose(model.processing.transform(grey), expected, atol=1e-5)


def test_the_network_of_training_is_the_network_that_is_shipped(made, monkeypatch):
    """Logits of the training path and of the stock forward pass on the same prompt, picture and answer."""
    import torch

    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from demo_training.net import IMAGE_TOKENS, planes, see, write_loss
    from demo_training.words import prompt_ids
    from transformers import AutoTokenizer, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(made / "demo", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(made / "demo")
    pixels = torch.randint(0, 256, (2, 160, 160), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    prompt = torch.tensor([prompt_ids(tokenizer, "findings", IMAGE_TOKENS)] * 2)
    answer = torch.randint(10, 400, (2, 7), generator=torch.Generator().manual_seed(1))
    ids = torch.cat([prompt, answer], dim=1)
    with torch.inference_mode():
        ours = write_loss(model, see(model, pixels), prompt, answer)
        logits = model(input_ids=ids, pixel_values=planes(pixels)).logits[:, prompt.shape[1] - 1 : -1]
        stock = torch.nn.functional.cross_entropy(logits.flatten(0, 1), answer.flatten())
    assert abs(float(ours) - float(stock)) < 1e-4
