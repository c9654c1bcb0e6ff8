"""`llava-rad`: the recorded original, LoRA over a base, DINOv2's pixels, the indication, the kept text tower."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture
from safetensors.torch import load_file

from cxrbench.errors import CxrbenchError
from cxrbench.models.adapter import LoadSettings
from cxrbench.models.base import ModelOptions
from cxrbench.models.llava_rad import LlavaRad
from cxrbench.models.open_clip import MEAN, STD, eval_pixels
from cxrbench.types import Generation, Image, Sample
from tests import released
from tests.models import originals
from tests.tiny_llava import edit_json

CPU = LoadSettings(dtype="fp32", device="cpu")
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A checkpoint the tests only read."""
    return released.llava_rad(tmp_path_factory.mktemp("llava-rad"))


def rad(places, **options) -> LlavaRad:
    return LlavaRad(ModelOptions(places=places, **options))


def ask(model, **changes):
    image = Image("a", "a.png", "AP")
    given = {"sample_id": "s", "study_id": "s", "patient_id": None, "target": "", "images": (image,)}
    return model.request(Sample(**given | changes), "generate", Generation(), 0)


def grey(height: int, width: int) -> np.ndarray:
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    return ((rows * 7 + columns * 5 + rows * columns // 13) % 256).astype(np.uint8)


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(CxrbenchError) as error:
        call(*arguments, **options)
    return str(error.value)


# Against the original


@pytest.mark.parametrize("form", ["original", "converted"])
def test_features_and_logits_are_those_of_the_original(places, tmp_path, form):
    golden, model = originals.load("llava-rad"), rad(places)
    if form == "converted":
        model.convert(tmp_path / "out")
        model = rad({"path": tmp_path / "out"})
    module = model.load(CPU).module
    for case in (case for case in golden.cases if case != "retrieval"):
        made = released.logits(module, golden, case, model.image_token, model.image_tokens())
        assert golden.logits_gap(case, made) < 1e-5
        with torch.inference_mode():
            seen = module.model.vision_tower(
                torch.from_numpy(golden.input(case, "pixel_values")), output_hidden_states=True
            ).hidden_states[-2][:, 1:]
        features = golden.output(case, "tower_features")
        assert np.abs(seen.numpy().reshape(features.shape) - features).max() < 1e-5


def test_the_text_tower_is_kept_and_told(places, tmp_path):
    model = rad(places)
    model.load(CPU)
    why = "BiomedCLIP-CXR's text tower and joint space: for retrieval, no part of the report generator"
    assert model.circumstances()["left_out"][why] == 43
    model.convert(tmp_path / "out")
    kept = load_file(tmp_path / "out" / "retrieval.safetensors")
    source = originals.load("llava-rad").tensors("model/biomedclipcxr_518_checkpoint.pt")
    expected = {f"tower/{name}" for name in source if "visual.trunk" not in name}
    assert set(kept) == expected
    for name, value in kept.items():
        assert np.array_equal(value.numpy(), source[name.removeprefix("tower/")])
    assert json.loads((tmp_path / "out" / "cxrbench.json").read_text())["left_out"][why] == 43


# The prompt


def test_the_prompt_without_an_indication_word_for_word(places):
    model = rad(places)
    assert model.render(ask(model)) == (
        f"{SYSTEM} USER: <image>\nProvide a description of the findings in the radiology image. ASSISTANT:"
    )
    assert ask(model).inputs == ("image:AP",)


def test_the_indication_stands_on_one_line(places):
    model = rad(places)
    request = ask(model, sections={"indication": "Fever,\ncough.", "history": "asthma"})
    assert model.render(request) == (
        f"{SYSTEM} USER: <image>\nProvide a description of the findings in the radiology image given the following "
        "indication: Fever, cough. ASSISTANT:"
    )
    assert request.inputs == ("image:AP", "section:indication")
    assert model.consumes == {"image", "question", "indication"}


def test_it_writes_findings_only(places):
    assert "writes findings, not 'impression'" in refusal(rad, places, extra={"target": "impression"})


def test_pieces_are_tokenized_apart_with_one_bos(places):
    model = rad(places)
    prompt = model.render(ask(model))
    ids = model.tokens(prompt)
    before, after = (model.tokenizer(piece)["input_ids"] for piece in prompt.split("<image>"))
    assert before[0] == after[0] == 1
    assert ids == [*before, *([0] * 16), *after[1:]]


def test_the_reference_preset_is_the_authors_evaluation(places):
    preset = rad(places).presets["reference"]
    assert (preset.generation["temperature"], preset.generation["max_new_tokens"], preset.dtype) == (0.0, 256, "fp16")


# Pixels

TORCHVISION = {
    (56, 61, 47): "b75a98c0f0d549b1",
    (56, 47, 61): "3b6087bb893b04fc",
    (56, 56, 56): "25f7e25d876c8ebf",
    (56, 100, 61): "2f2bd455ee13540d",
    (56, 59, 56): "6a194d9c1abda34c",
    (56, 56, 63): "c4d3b0c51d9971b2",
    (56, 640, 553): "c85adf5464f479c7",
    (518, 61, 47): "40cbb1189bc00b32",
    (518, 640, 553): "54de3d7b521f3c72",
    (518, 553, 640): "0e56bd1634ca6a73",
}
"""First 16 hex digits of SHA-256 over what torchvision 0.15.2 with Pillow 13.0.0 made of `grey(height, width)`: Resize
(bicubic), CenterCrop, RGB, ToTensor, Normalize with CLIP's mean and deviation, which is open_clip's transform."""


@pytest.mark.parametrize("key", TORCHVISION)
def test_pixels_are_torchvisions(key):
    size, height, width = key
    made = eval_pixels(size)(grey(height, width))
    assert made.dtype == np.float32
    assert made.shape == (3, size, size)
    assert hashlib.sha256(np.ascontiguousarray(made).tobytes()).hexdigest()[:16] == TORCHVISION[key]


@given(st.integers(20, 90), st.integers(20, 90))
def test_pixels_are_the_transform_said_anew(height, width):
    size = 30
    image = Picture.fromarray(grey(height, width)).convert("RGB")
    short = min(height, width)
    wide = (
        size if width <= height else int(size * width / height),
        size if height <= width else int(size * height / width),
    )
    image = image.resize(wide, Picture.Resampling.BICUBIC) if short != size else image
    top, left = round((image.height - size) / 2), round((image.width - size) / 2)
    levels = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32) / np.float32(255)
    expected = (levels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    assert np.array_equal(eval_pixels(size)(grey(height, width)), expected.transpose(2, 0, 1))


def test_the_network_is_given_these_pixels(places):
    model = rad(places)
    made = model.encode(ask(model), [grey(61, 47)])
    assert np.array_equal(made.tensors["pixel_values"][0].numpy(), eval_pixels(56)(grey(61, 47)))
    assert made.image_tokens == 16


# What is refused


def test_the_base_has_to_be_named(places, tmp_path):
    message = refusal(rad, {"path": places["path"]})
    assert "needs the folder of lmsys/vicuna-7b-v1.5" in message
    assert "cxrbench models add llava-rad --path DIR --base DIR" in message


@pytest.mark.parametrize("name", ["biomedclipcxr_518_checkpoint.pt", "non_lora_trainables.bin", "adapter_config.json"])
def test_a_missing_file_is_named(tmp_path, name):
    places = released.llava_rad(tmp_path)
    (places["path"] / name).unlink()
    assert f"files of the checkpoint are missing: {name}" in refusal(rad, places)


def test_missing_updates_are_named(tmp_path):
    places = released.llava_rad(tmp_path)
    (places["path"] / "adapter_model.bin").unlink()
    assert "adapter_model.safetensors, adapter_model.bin" in refusal(rad, places)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"use_dora": True}, "use_dora"), ({"bias": "all"}, "not merged here"), ({"r": None}, "does not say r")],
)
def test_other_kinds_of_update_are_refused(tmp_path, changes, words):
    places = released.llava_rad(tmp_path)
    edit_json(places["path"] / "adapter_config.json", **changes)
    assert words in refusal(rad, places)


def change(file, edit, inner=None):
    body = torch.load(file, weights_only=True)
    edit(body if inner is None else body[inner])
    torch.save(body, file)


@pytest.mark.parametrize(
    ("file", "inner", "edit", "words"),
    [
        ("adapter_model.bin", None, lambda t: t.popitem(), "no pair of low-rank updates"),
        (
            "non_lora_trainables.bin",
            None,
            lambda t: t.update(odd=torch.ones(1)),
            "in no row of the key map: bridge/odd",
        ),
        (
            "biomedclipcxr_518_checkpoint.pt",
            "state_dict",
            lambda t: t.pop("module.visual.trunk.norm.bias"),
            "missing from the checkpoint: model.vision_tower.layernorm.bias",
        ),
        (
            "biomedclipcxr_518_checkpoint.pt",
            "state_dict",
            lambda t: t.update({"module.visual.trunk.norm.bias": torch.full((128,), float("nan"))}),
            "tower/module.visual.trunk.norm.bias holds NaN",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, file, inner, edit, words):
    places = released.llava_rad(tmp_path)
    change(places["path"] / file, edit, inner)
    assert words in refusal(rad(places).module, CPU)


def test_a_larger_base_is_refused(tmp_path):
    places = released.llava_rad(tmp_path)
    file = places["base"] / "pytorch_model-00001-of-00002.bin"
    change(file, lambda t: t.update({"model.layers.0.self_attn.q_proj.weight": torch.ones(65, 64)}))
    message = refusal(rad(places).module, CPU)
    assert "another shape than the configuration says" in message
    assert "q_proj" in message


def test_another_network_as_base_is_named(tmp_path):
    places = released.llava_rad(tmp_path)
    (places["base"] / "config.json").write_text(json.dumps({"model_type": "mistral", "hidden_size": 4096}))
    message = refusal(rad, places)
    assert "the base is not the one the updates are of: model_type mistral, not llama" in message
    assert "--base VICUNA-7B-V1.5" in message
