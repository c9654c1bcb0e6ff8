"""`slava`: the recorded original, its exact prompt and pixels, what it refuses, and a run through the engine."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from cxrbench.engines.base import join
from cxrbench.engines.transformers import TransformersEngine
from cxrbench.errors import CxrbenchError
from cxrbench.models.adapter import LoadSettings
from cxrbench.models.base import ModelOptions
from cxrbench.models.slava import Slava
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
    return released.slava(tmp_path_factory.mktemp("slava"))


def slava(places, target="findings", **options) -> Slava:
    return released.model("slava", places, extra={"target": target}, **options)


def sample(**changes) -> Sample:
    images = (Image("a", "a.png", "LATERAL"), Image("b", "b.png", "PA"))
    given = {"sample_id": "s", "study_id": "s", "patient_id": None, "target": "", "images": images, "key_image": "b"}
    return Sample(**given | changes)


def ask(model, **changes):
    return model.request(sample(**changes), "generate", Generation(), 0)


def grey(seed: int = 0, shape: tuple[int, int] = (61, 47)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Against the original


@pytest.mark.parametrize("form", ["original", "converted"])
def test_logits_are_those_of_the_original(places, tmp_path, form):
    golden, model = originals.load("slava"), slava(places)
    if form == "converted":
        model.convert(tmp_path / "out")
        model = slava({"path": tmp_path / "out"})
    module = model.load(CPU).module
    for case in golden.cases:
        made = released.logits(module, golden, case, model.image_token, model.image_tokens())
        assert golden.logits_gap(case, made) < 1e-5


# The prompt


def test_the_findings_prompt_word_for_word(places):
    model = slava(places)
    request = ask(model)
    assert model.render(request) == (f"{SYSTEM} USER: <image>\nWrite a findings report of this image: ASSISTANT:")
    assert [image.image_id for image in request.images] == ["b"]
    assert request.inputs == ("image:PA",)


def test_the_impression_prompt_reads_the_findings(places):
    model = slava(places, "impression")
    request = ask(model, sections={"findings": "Lungs are <image> clear.", "indication": "cough"})
    assert model.render(request) == (
        f"{SYSTEM} USER: <image>\nWrite a impression summary of this image and the findings report. \n"
        "##Findings: Lungs are image clear. \n##Impression: ASSISTANT:"
    )
    assert request.inputs == ("image:PA", "section:findings")
    assert model.consumes == {"image", "question", "findings"}


@pytest.mark.parametrize("changes", [{}, {"sections": {"findings": " "}}, {"images": (), "key_image": None}])
def test_without_findings_or_image_there_is_nothing_to_ask(places, changes):
    request = ask(slava(places, "impression"), **changes)
    assert (request.images, request.inputs, request.messages) == ((), (), ())


def test_a_question_takes_the_place_of_the_words(places):
    model = slava(places)
    assert model.render(ask(model, question="Is there an effusion?")).endswith(
        "USER: <image>\nIs there an effusion? ASSISTANT:"
    )


def test_it_writes_findings_or_an_impression(places):
    with pytest.raises(CxrbenchError, match="writes findings or impression, not 'report'"):
        slava(places, "report")


def authors_ids(tokenizer, prompt, count):
    """The authors' way, said anew: tokenize between images; a BOS that leads every piece is kept once."""
    pieces = [tokenizer(piece).input_ids for piece in prompt.split("<image>")]
    skip = 1 if pieces[0] and pieces[0][0] == tokenizer.bos_token_id else 0
    ids = pieces[0][:skip]
    for number, piece in enumerate(pieces):
        ids += ([-200] if number else []) + piece[skip:]
    return [token for each in ids for token in ([50295] * count if each == -200 else [each])]


def test_ids_are_the_authors_and_no_bos_is_added(places):
    model = slava(places)
    prompt = model.render(ask(model))
    ids = model.tokens(prompt)
    assert ids == authors_ids(model.tokenizer, prompt, 16)
    assert ids.count(50295) == 16
    before, after = prompt.split("<image>")
    first = ids.index(50295)
    assert model.tokenizer.decode(ids[:first]) == before
    assert model.tokenizer.decode(ids[first + 16 :]) == after
    assert model.tokenizer.bos_token_id not in ids


def test_an_option_follows_with_a_space(places):
    model = slava(places)
    tokens = model.encode_option(ask(model, question="Which?"), "pneumothorax")
    assert model.tokenizer.decode(list(tokens)) == " pneumothorax"


def test_spaces_before_punctuation_go_as_in_the_original(places):
    model = slava(places)
    tokens = model.tokenizer("The heart is normal . No effusion , clear lungs")["input_ids"]
    assert model.decode([*tokens, model.tokenizer.eos_token_id]) == "The heart is normal. No effusion, clear lungs"


# Pixels


@pytest.mark.parametrize("shape", [(61, 47), (47, 61), (56, 56), (300, 201)])
def test_pixels_are_those_of_the_pil_processor(places, shape):
    from transformers import CLIPImageProcessorPil

    stock = CLIPImageProcessorPil.from_pretrained(places["path"])
    expected = stock(Picture.fromarray(grey(1, shape)).convert("RGB"), return_tensors="pt")["pixel_values"]
    model = slava(places)
    made = model.encode(ask(model), [grey(1, shape)])
    assert torch.equal(made.tensors["pixel_values"], expected)
    assert (made.image_tokens, made.prompt_tokens) == (16, made.tensors["input_ids"].shape[1])


def test_pixels_depend_on_no_package_that_changes_them():
    """With torchvision installed, stock processors give other pixels; here none of the three is even imported."""
    code = (
        "import sys, numpy as np\n"
        "from cxrbench.models.llava_shared import clip_pixels\n"
        "from cxrbench.models.open_clip import eval_pixels\n"
        "for made in (clip_pixels(336), clip_pixels(336, (114,)), eval_pixels(518)):\n"
        "    made(np.zeros((40, 30), np.uint8))\n"
        "assert not {'torch', 'transformers', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_an_unknown_image_processor_is_refused(tmp_path):
    places = released.slava(tmp_path)
    edit_json(places["path"] / "preprocessor_config.json", image_processor_type="OwnImageProcessor")
    model = slava(places)
    with pytest.raises(CxrbenchError, match="'OwnImageProcessor'"):
        model.encode(ask(model), [grey()])


# Presets


def test_the_reference_preset_is_the_authors_evaluation(places):
    found = {target: slava(places, target).presets["reference"] for target in ("findings", "impression")}
    assert [found[target].generation["max_new_tokens"] for target in found] == [512, 256]
    for preset in found.values():
        assert (preset.generation["temperature"], preset.generation["no_repeat_ngram_size"]) == (0.0, 3)
        assert preset.dtype == "fp32"
        assert set(preset.origin) >= {"temperature", "no_repeat_ngram_size", "max_new_tokens", "dtype"}


# Configurations


def test_a_projector_of_one_layer_is_read_from_the_configuration(tmp_path):
    from safetensors.torch import load_file, save_file

    places = released.slava(tmp_path)
    file = places["path"] / "config.json"
    body = json.loads(file.read_text())["vision_config"]
    body["mm_projector"]["mm_projector_type"] = "linear"
    edit_json(file, vision_config=body)
    index = places["path"] / "model.safetensors.index.json"
    table = json.loads(index.read_text())["weight_map"]
    names = [name for name in table if "mm_projector" in name]
    values = {}
    for name in names:
        shard = places["path"] / table.pop(name)
        tensors = load_file(shard)
        values[name] = tensors.pop(name)
        save_file(tensors, shard)
    weight, bias = values["model.mm_projector.0.weight"], values["model.mm_projector.0.bias"]
    save_file({"model.mm_projector.weight": weight, "model.mm_projector.bias": bias}, places["path"] / "x.safetensors")
    table |= dict.fromkeys(("model.mm_projector.weight", "model.mm_projector.bias"), "x.safetensors")
    index.write_text(json.dumps({"weight_map": table}))
    bridge = slava(places).module(CPU).model.multi_modal_projector
    given = torch.rand(2, weight.shape[1])
    assert torch.allclose(bridge(given), given @ weight.T + bias, atol=1e-6)


def changed(tmp_path, change):
    places = released.slava(tmp_path)
    file = places["path"] / "config.json"
    body = json.loads(file.read_text())
    change(body)
    file.write_text(json.dumps(body))
    with pytest.raises(CxrbenchError) as error:
        slava(places)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body.pop("partial_rotary_factor"), "does not say partial_rotary_factor"),
        (lambda body: body.pop("vision_config"), "does not say vision_config"),
        (lambda body: body["vision_config"]["mm_projector"].update(mm_projector_type="resampler"), "'resampler'"),
        (
            lambda body: body["vision_config"]["vision_tower"].update(mm_vision_select_feature="cls_patch"),
            "class token",
        ),
        (lambda body: body.update(mm_use_im_start_end=True), "marks around the image"),
    ],
)
def test_a_configuration_that_is_not_the_published_one_is_refused(tmp_path, change, words):
    message = changed(tmp_path, change)
    assert words in message
    assert "config.json" in message


def test_a_damaged_converted_form_is_named(places, tmp_path):
    folder = tmp_path / "converted"
    slava(places).convert(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CxrbenchError, match="cannot load the configuration") as caught:
        slava({"path": folder})
    assert caught.value.where == str(folder)


def test_a_full_disk_is_no_defect_and_leaves_nothing(places, tmp_path, monkeypatch):
    import safetensors.torch

    def full(*_, **__):
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(CxrbenchError, match=r"cannot be written: .*No space left on device") as caught:
        slava(places).convert(tmp_path / "out")
    assert caught.value.code == 4
    assert not list(tmp_path.glob("out*"))


def test_a_tokenizer_is_needed(tmp_path):
    places = released.slava(tmp_path)
    (places["path"] / "tokenizer.json").unlink()
    (places["path"] / "tokenizer_config.json").unlink()
    with pytest.raises(CxrbenchError, match="there is no tokenizer"):
        slava(places).load(CPU)


def test_a_tokenizer_that_adds_bos_is_refused(tmp_path):
    places = released.slava(tmp_path)
    released.llama_tokenizer(places["path"])
    with pytest.raises(CxrbenchError, match="begins a text with BOS, and the model was trained without it"):
        slava(places).load(CPU)


# Through the engine


def run(model_options, questions):
    model = join(Slava, TransformersEngine, model_options)
    requests = [
        model.request(sample(sample_id=f"s{n}", question=text), "generate", Generation(max_new_tokens=6), 0)
        for n, text in enumerate(questions)
    ]
    prepared = [model.prepare(request) for request in requests]
    assert [each.failure for each in prepared] == [None] * len(requests)
    return prepared, model


def test_ragged_prompts_in_one_batch_answer_as_alone(places, monkeypatch):
    monkeypatch.setattr(Slava, "decode", lambda self, tokens: str(list(tokens)))
    questions = ("Effusion?", "Is there a small left pleural effusion with adjacent atelectasis?", "Why?")
    options = ModelOptions(
        places=places, dtype="fp32", device="cpu", extra={"target": "findings"}, read_image=lambda path: grey(3)
    )
    prepared, model = run(options, questions)
    together = [each.text for each in model.generate(0, prepared).predictions]
    alone = [model.generate(0, [each]).predictions[0].text for each in prepared]
    assert together == alone
    assert all(text.count(",") == 5 for text in together)


def test_random_weights_at_full_shape_need_no_files(tmp_path):
    model = released.model("slava", {}, load_format="dummy")
    request = ask(model)
    ids = model.tokens(model.render(request))
    assert ids.count(model.image_token) == 576
    assert len(ids) > 600
    assert model.identity()["weights"] == "dummy"
    assert model.identity()["tokenizer"] == "stand-in"
    assert model.card.notes.startswith("random weights: for speed only")


def test_random_weights_in_the_shape_of_a_folder(places, tmp_path):
    slava(places).convert(tmp_path / "out")
    dummy = slava({"path": tmp_path / "out"}, load_format="dummy")
    state = torch.random.get_rng_state()
    settings = LoadSettings(dtype="fp32", device="cpu", load_format="dummy", seed=3)
    first, second = (dummy.load(settings).module.state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    real = slava(places).module(CPU).state_dict()
    assert not torch.equal(first["lm_head.weight"], real["lm_head.weight"])
    assert {key: value.shape for key, value in first.items()} == {key: value.shape for key, value in real.items()}
