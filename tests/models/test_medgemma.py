"""`medgemma`: the stock processor's ids and pixels, the model card's words, random weights of the published sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from cxrbench.errors import CxrbenchError
from cxrbench.models import network
from cxrbench.models.adapter import LoadSettings
from cxrbench.models.medgemma import MedGemma, configuration
from tests import released_more as more
from tests.tiny_llava import edit_json


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return more.medgemma(tmp_path_factory.mktemp("medgemma") / "model")


def medgemma(places, **options):
    return more.model("medgemma", places, **options)


def test_the_prompt_word_for_word(places):
    model = medgemma(places)
    request = more.ask(model, sections={"indication": "Cough."})
    assert [message.role for message in request.messages] == ["system", "user"]
    assert model.render(request) == (
        "<bos><start_of_turn>user\nYou are an expert radiologist.\n\n"
        "Write the findings section of the radiology report for this chest X-ray.\nIndication: Cough."
        "<start_of_image><end_of_turn>\n<start_of_turn>model\n"
    )
    assert request.inputs == ("image:PA", "section:indication")


def test_ids_and_pixels_are_those_of_the_stock_processor(places):
    from transformers import Gemma3Processor

    model = medgemma(places, extra={"prompt": "Describe this X-ray"})
    request = more.ask(model)
    picture = more.grey(1, (90, 70))
    made = model.encode(request, [picture])
    stock = Gemma3Processor.from_pretrained(places["path"])
    turns = [
        {"role": "system", "content": [{"type": "text", "text": "You are an expert radiologist."}]},
        {"role": "user", "content": [{"type": "text", "text": "Describe this X-ray"}, {"type": "image"}]},
    ]
    text = stock.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    expected = stock(
        images=[Picture.fromarray(picture).convert("RGB")], text=[text], return_tensors="pt", add_special_tokens=False
    )
    assert made.tensors["input_ids"].tolist() == expected["input_ids"].tolist()
    assert made.tensors["token_type_ids"].tolist() == expected["token_type_ids"].tolist()
    assert torch.equal(made.tensors["pixel_values"], expected["pixel_values"])
    assert made.image_tokens == 4


def test_texts_of_a_batch_are_those_of_stock_generate(places):
    from transformers import Gemma3ForConditionalGeneration

    samples = [more.sample(sample_id="1", question="Effusion?"), more.sample(sample_id="2")]
    made, prepared = more.through_engine(MedGemma, samples, places=places)
    answers = made.generate(0, prepared).predictions
    stock = Gemma3ForConditionalGeneration.from_pretrained(places["path"]).eval()
    for each, answer in zip(prepared, answers, strict=True):
        tensors = {key: value for key, value in each.payload.encoded.tensors.items() if key != "num_crops"}
        ids = stock.generate(**tensors, max_new_tokens=5, do_sample=False)[0, each.payload.encoded.prompt_tokens :]
        assert answer.text == made.adapter.decode(ids.tolist())
        assert answer.output_tokens == len(ids)


def test_the_preset_is_the_model_cards_example(places):
    preset = medgemma(places).presets["documented"]
    assert (preset.generation["max_new_tokens"], preset.generation["temperature"], preset.dtype) == (200, 0.0, "bf16")
    assert set(medgemma(places).presets) == {"matched", "documented"}


@pytest.mark.parametrize(("size", "billions", "language"), [("4b", 4.300, 3.880), ("27b", 27.432, 27.009)])
def test_full_size_parameter_counts(size, billions, language):
    from transformers import Gemma3ForConditionalGeneration

    module = network.build(Gemma3ForConditionalGeneration, configuration(size), "bf16")
    assert round(network.count(module) / 1e9, 3) == billions
    assert round(network.count(module.model.language_model) / 1e9, 3) == language


def test_random_weights_of_the_published_shape_need_no_files(monkeypatch):
    tiny = configuration("4b")
    for key, value in {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "vocab_size": 262208,
    }.items():
        setattr(tiny.text_config, key, value)
    tiny.text_config.layer_types = ["full_attention"]
    for key, value in {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}.items():
        setattr(tiny.vision_config, key, value)
    monkeypatch.setattr("cxrbench.models.medgemma.configuration", lambda size: tiny)
    model = medgemma({}, load_format="dummy", extra={"size": "27b"})
    request = more.ask(model)
    assert model.render(request).startswith("<bos><start_of_turn>user\nYou are an expert radiologist.\n\nWrite the")
    encoded = model.encode(request, [more.grey()])
    ids = encoded.tensors["input_ids"][0].tolist()
    place = ids.index(262144)
    assert (ids[place - 1], ids[place + 256], encoded.image_tokens) == (255999, 256000, 256)
    assert encoded.tensors["pixel_values"].shape == (1, 3, 896, 896)
    assert model.identity()["weights"] == "dummy"
    assert model.card.notes.startswith("random weights")
    made = model.load(LoadSettings(dtype="fp32", device="cpu", load_format="dummy"))
    assert made.eos == (1,)
    assert made.encoder is made.module.model.vision_tower


def test_pixels_of_the_stand_in_are_the_stock_processors():
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    from cxrbench.models.medgemma import _pixels

    picture = more.grey(3, (200, 150))
    stock = Gemma3ImageProcessorPil(size={"height": 896, "width": 896})
    expected = stock(Picture.fromarray(picture).convert("RGB"), return_tensors="np")["pixel_values"][0]
    assert np.array_equal(_pixels()(picture), expected)


def test_what_is_refused(places, tmp_path):
    with pytest.raises(CxrbenchError, match="no folder is known"):
        medgemma({})
    with pytest.raises(CxrbenchError, match="size must be 4b or 27b"):
        medgemma(places, extra={"size": "70b"})
    with pytest.raises(CxrbenchError, match="published in stock layout"):
        medgemma(places).convert(tmp_path / "out")
    other = more.medgemma(tmp_path / "other")
    edit_json(other["path"] / "config.json", model_type="llava")
    with pytest.raises(CxrbenchError):
        medgemma(other)


def test_a_look_at_a_folder_counts_its_parameters(places):
    assert medgemma(places).check()[1] > 10_000
