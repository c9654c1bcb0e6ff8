"""`hf`: what it asks for, what it refuses, and that pixels and prompt are those of the stock classes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from tiny_llava import IMAGE_TOKENS, edit_json, edit_weights, make, shard

from cxrbench.errors import CxrbenchError
from cxrbench.models.adapter import LoadSettings
from cxrbench.models.base import ModelOptions
from cxrbench.models.hf import HuggingFace
from cxrbench.models.instruction import PROMPTS
from cxrbench.types import Generation, Image, Sample

CPU = LoadSettings(dtype="fp32", device="cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint the tests only read."""
    return make(tmp_path_factory.mktemp("hf") / "tiny")


@pytest.fixture
def fresh(tmp_path):
    """A checkpoint a test may damage."""
    return make(tmp_path / "tiny")


def adapter(folder, **extra) -> HuggingFace:
    return HuggingFace(ModelOptions(argument=str(folder), extra=extra))


def sample(**changes) -> Sample:
    images = (Image("a", "a.png", "LATERAL"), Image("b", "b.png", "PA"))
    return Sample(**{"sample_id": "s", "study_id": "s", "patient_id": None, "target": "", "images": images} | changes)


def ask(model: HuggingFace, **changes):
    return model.request(sample(**changes), "generate", Generation(), 0)


def grey(seed: int = 0, shape: tuple[int, int] = (61, 47)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# The prompt


def test_the_key_image_and_the_findings_instruction(tiny):
    request = ask(adapter(tiny), key_image="b")
    assert [image.image_id for image in request.images] == ["b"]
    assert request.messages[0].text == "<image>" + PROMPTS["findings"]
    assert request.inputs == ("image:PA",)


def test_without_a_key_image_the_first_is_taken(tiny):
    assert ask(adapter(tiny)).inputs == ("image:LATERAL",)


def test_all_images_on_demand(tiny):
    model = adapter(tiny, images="all")
    assert model.consumes >= {"images"}
    request = ask(model, key_image="b")
    assert request.messages[0].text.startswith("<image><image>W")
    assert request.inputs == ("image:LATERAL", "image:PA")


def test_offered_sections_follow_the_instruction_and_are_recorded(tiny):
    request = ask(adapter(tiny), sections={"indication": "cough", "history": "  "})
    assert request.messages[0].text.endswith("\nIndication: cough")
    assert request.inputs == ("image:LATERAL", "section:indication")


def test_an_own_prompt_uses_what_it_names_and_nothing_else(tiny):
    model = adapter(tiny, prompt="Why: {indication}. Before: {history}.")
    assert model.consumes == {"image", "question", "indication", "history"}
    request = ask(model, sections={"indication": "cough", "comparison": "none"})
    assert request.messages[0].text == "<image>Why: cough. Before: not given."
    assert request.inputs == ("image:LATERAL", "section:indication")


def test_a_question_replaces_the_instruction(tiny):
    request = ask(adapter(tiny), question="Is there an effusion?")
    assert request.messages[0].text == "<image>Is there an effusion?"
    assert request.inputs[-1] == "question"


def test_text_of_the_data_cannot_pass_for_an_image(tiny):
    assert ask(adapter(tiny), sections={"indication": "see <image> 2"}).messages[0].text.count("<image>") == 1


def test_a_text_that_holds_the_checkpoints_own_image_token_is_refused(tiny):
    """Not every model writes <image>: the tokens of a sample's words must not be taken for patches."""
    model = adapter(tiny)
    word = model.processing.tokenizer("cough", add_special_tokens=False)["input_ids"][0]
    model._processing = replace(model.processing, image_token_id=word)
    mark = model.processing.tokenizer.convert_ids_to_tokens(word)
    with pytest.raises(ValueError, match="holds an image token"):
        model.encode(ask(model, sections={"indication": f"see {mark}"}), [grey()])


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ({"prompt": "{indicaton}"}, "did you mean 'indication'"),
        ({"prompt": "a } b"}, "stray brace"),
        ({"prompt": "<image> what?"}, "put in front"),
        ({"images": "some"}, "key, all"),
        ({"target": "finding"}, "did you mean 'findings'"),
    ],
)
def test_wrong_settings_are_refused(tiny, extra, word):
    with pytest.raises(CxrbenchError, match=word):
        adapter(tiny, **extra)


def test_the_rendered_prompt_is_the_checkpoints_template(tiny):
    model = adapter(tiny)
    assert model.render(ask(model)) == f"<s>USER: <image>{PROMPTS['findings']} ASSISTANT:"


# Tensors


@pytest.mark.parametrize("sections", [{}, {"indication": "fever and cough"}])
def test_tensors_equal_those_of_the_stock_processor(tiny, sections):
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    model = adapter(tiny, images="all")
    request = ask(model, sections=sections)
    pictures = [grey(1), grey(2, (30, 90))]
    made = model.encode(request, pictures)
    stock = LlavaProcessor.from_pretrained(tiny)
    stock.image_processor = CLIPImageProcessorPil.from_pretrained(tiny)
    content = [{"type": "image", "image": Picture.fromarray(each).convert("RGB")} for each in pictures]
    content.append({"type": "text", "text": request.messages[0].text.replace("<image>", "")})
    expected = stock.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert model.processing.transform is not None
    assert set(made.tensors) == set(expected)
    for name, value in expected.items():
        assert torch.equal(made.tensors[name], value), name
    assert made.image_tokens == 2 * IMAGE_TOKENS
    assert made.prompt_tokens == expected["input_ids"].shape[1]


def test_where_the_fast_pixels_differ_the_stock_ones_are_taken(tiny, monkeypatch):
    import cxrbench.data.pixels

    expected = adapter(tiny).encode(ask(adapter(tiny)), [grey()]).tensors["pixel_values"]
    right = cxrbench.data.pixels.transform_for
    monkeypatch.setattr(cxrbench.data.pixels, "transform_for", lambda config: lambda image: right(config)(image) + 1e-6)
    model = adapter(tiny)
    assert torch.equal(model.encode(ask(model), [grey()]).tensors["pixel_values"], expected)
    assert model.circumstances()["pixels"] == "stock"


@pytest.mark.parametrize(
    "names",
    [
        {"image_processor_type": "CLIPImageProcessorFast"},
        {"image_processor_type": "CLIPImageProcessor"},
        {"image_processor_type": None, "feature_extractor_type": "CLIPFeatureExtractor"},
    ],
)
def test_the_image_processor_is_the_pil_one_whatever_the_file_names(fresh, names):
    file = fresh / "processor_config.json"
    (fresh / "preprocessor_config.json").write_text(json.dumps(json.loads(file.read_text())["image_processor"]))
    edit_json(fresh / "preprocessor_config.json", **names)
    edit_json(file, image_processor=None)
    model = adapter(fresh)
    assert type(model.processing.processor.image_processor.stock).__name__ == "CLIPImageProcessorPil"
    assert model.identity()["image_backend"] == "pil"


def test_an_option_is_tokenized_behind_the_prompt(tiny):
    model = adapter(tiny)
    request = ask(model)
    prompt = model.encode(request, [grey()]).tensors["input_ids"][0].tolist()
    tokens = model.encode_option(request, " pneumothorax")
    tokenizer = model.processing.tokenizer
    whole = tokenizer(model.render(request) + " pneumothorax", add_special_tokens=False)["input_ids"]
    assert tuple(whole[-len(tokens) :]) == tokens
    assert tokenizer.decode(tokens) == " pneumothorax"
    assert prompt[-1] == whole[-len(tokens) - 1]


# Refusals


def refusal(folder, **extra) -> str:
    with pytest.raises(CxrbenchError) as error:
        adapter(folder, **extra).processing  # noqa: B018
    return str(error.value)


def test_code_from_a_checkpoint_is_never_run(fresh):
    edit_json(fresh / "config.json", model_type="llava_phi", auto_map={"AutoModel": "modeling.Own"})
    (fresh / "modeling.py").write_text("raise SystemExit('ran')")
    assert "is never run" in refusal(fresh)


def test_a_processor_with_code_of_its_own_is_refused(fresh):
    (fresh / "own.py").write_text("raise SystemExit('ran')")
    edit_json(fresh / "processor_config.json", processor_class="Own", auto_map={"AutoProcessor": "own.Own"})
    edit_json(fresh / "tokenizer_config.json", processor_class=None)
    assert "is never run" in refusal(fresh)


@pytest.mark.parametrize(
    ("kind", "word"),
    [("llava_phii", "no model type"), ("bert", "does not write text from images"), ("florence2", "encoder-decoder")],
)
def test_other_kinds_of_model_are_refused(fresh, kind, word):
    edit_json(fresh / "config.json", model_type=kind, text_config=None, vision_config=None)
    assert word in refusal(fresh)


def test_without_a_chat_template_the_message_says_what_to_do(fresh):
    (fresh / "chat_template.jinja").unlink()
    message = refusal(fresh)
    assert "no chat template" in message
    assert "put the model's own chat_template.jinja" in message


@pytest.mark.parametrize(
    ("template", "word"),
    [
        ("{{ messages[0]['content'][1]['text'] }}", "places 0 image tokens for 1 images"),
        ("{{ raise_exception('no') }}", "cannot be rendered"),
    ],
)
def test_a_template_that_cannot_carry_the_request_is_refused(fresh, template, word):
    (fresh / "chat_template.jinja").write_text(template)
    model = adapter(fresh)
    with pytest.raises(CxrbenchError, match=word):
        model.render(ask(model))


def test_an_incomplete_processor_is_refused(fresh):
    (fresh / "tokenizer.json").unlink()
    (fresh / "tokenizer_config.json").unlink()
    assert str(fresh) in refusal(fresh)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"multi_modal_projector.linear_1.bias": None}, "1 weights are missing and would be random"),
        ({"lm_head.bias": lambda _: torch.zeros(3)}, "1 weights are in the files but not in the model: lm_head.bias"),
        ({"multi_modal_projector.linear_1.bias": lambda bias: bias[:5]}, "another shape"),
    ],
)
def test_odd_weights_are_refused(fresh, change, word):
    for name, edit in change.items():
        if name == "lm_head.bias":
            add_weight(fresh, name, edit(None))
        else:
            edit_weights(fresh, **{name: edit})
    with pytest.raises(CxrbenchError) as error:
        adapter(fresh).load(CPU)
    assert word in str(error.value)


def add_weight(folder, name, value):
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    save_file(load_file(file) | {name: value}, file, metadata={"format": "pt"})


def test_no_end_token_is_refused(fresh):
    edit_json(fresh / "generation_config.json", eos_token_id=None)
    text = json.loads((fresh / "config.json").read_text())["text_config"]
    edit_json(fresh / "config.json", text_config=text | {"eos_token_id": None})
    edit_json(fresh / "tokenizer_config.json", eos_token=None)
    with pytest.raises(CxrbenchError, match="no token that ends a text"):
        adapter(fresh).load(CPU)


# Loading


def test_a_sharded_checkpoint_is_the_same_model(fresh, tiny):
    shard(fresh)
    one, two = adapter(tiny), adapter(fresh)
    assert one.identity()["weights"] == two.identity()["weights"]
    ours, theirs = (each.load(CPU).module.state_dict() for each in (one, two))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_loading_and_encoding_use_no_network(tiny, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    model = adapter(tiny)
    model.encode(ask(model), [grey()])
    model.load(CPU)


def test_loading_prints_nothing(tiny, capfd):
    model = adapter(tiny)
    model.load(CPU)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_the_network_has_the_precision_asked_for(tiny, dtype):
    module = adapter(tiny).load(LoadSettings(dtype=dtype, device="cpu")).module
    assert {parameter.dtype for parameter in module.parameters()} == {getattr(torch, stock_name(dtype))}
    assert not module.training


def stock_name(dtype: str) -> str:
    from cxrbench.models.stock import DTYPES

    return DTYPES[dtype]


def test_dummy_weights_need_no_files_and_leave_the_random_state_alone(tmp_path):
    from transformers import AutoConfig, AutoModelForImageTextToText

    folder = make(tmp_path / "bare", weights=False)
    model = HuggingFace(ModelOptions(argument=str(folder), load_format="dummy"))
    state = torch.random.get_rng_state()
    settings = LoadSettings(dtype="fp32", device="cpu", load_format="dummy", seed=3)
    module = model.load(settings).module
    assert torch.equal(torch.random.get_rng_state(), state)
    again = model.load(settings).module.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in module.state_dict().items())
    assert model.identity()["load_format"] == "dummy"
    assert model.identity()["weights"] == "dummy"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        plain = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    buffers = dict(plain.named_buffers())
    assert buffers
    for name, value in module.named_buffers():
        assert torch.equal(value, buffers[name]), name
    # The spreads of two samples of n normal numbers differ by 1/sqrt(n) (one standard deviation): five are allowed.
    drawn = {name: value for name, value in plain.named_parameters() if value.ndim == 2}
    for name, value in module.named_parameters():
        if name in drawn:
            allowed = 5 / value.numel() ** 0.5
            assert value.std().item() == pytest.approx(drawn[name].std().item(), rel=allowed), name


def test_a_folder_without_weights_is_refused_unless_dummy(tmp_path):
    with pytest.raises(CxrbenchError, match="no weights"):
        adapter(make(tmp_path / "bare", weights=False))


def test_the_checkpoints_generation_file_is_the_preset_documented(fresh):
    edit_json(fresh / "generation_config.json", do_sample=True, temperature=0.2, top_p=0.5)
    assert adapter(fresh).presets["documented"].generation["temperature"] == 0.2


def test_importing_the_room_loads_no_network_library():
    code = (
        "import os, sys, warnings, numpy; before = dict(os.environ), list(warnings.filters)\n"
        "import cxrbench.models.hf, cxrbench.engines.base, cxrbench.engines.transformers\n"
        "assert (dict(os.environ), list(warnings.filters)) == before\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_torchvision_that_does_not_fit_is_named(tmp_path, tiny):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from cxrbench.errors import CxrbenchError\n"
        "from cxrbench.models.stock import require\n"
        "try:\n    require()\nexcept CxrbenchError as error:\n    print(error)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "nms does not exist" in shown
    assert "pip uninstall torchvision" in shown


def test_the_page_holds_the_prompts_and_every_setting():
    from pathlib import Path

    from cxrbench.engines.transformers import TransformersEngine
    from cxrbench.models.generation import FIELDS

    page = (Path(__file__).parents[2] / "docs" / "models-hf.md").read_text(encoding="utf-8")
    for words in (*PROMPTS.values(), *FIELDS):
        assert words in page
    for name in (*HuggingFace.settings, *TransformersEngine.settings):
        assert f"--set {name}=" in page
