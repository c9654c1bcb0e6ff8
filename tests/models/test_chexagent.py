"""`chexagent` (8B): the recorded original, image tokens in front, one or two images, and a run through the engine."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from cxrbench.engines.base import join
from cxrbench.engines.slots import SlotsEngine
from cxrbench.errors import CxrbenchError
from cxrbench.models import network
from cxrbench.models.adapter import LoadSettings
from cxrbench.models.base import ModelOptions
from cxrbench.models.chexagent import CheXagent
from cxrbench.types import Image
from tests import released_more as more
from tests.models import originals
from tests.tiny_llava import edit_json

CPU = LoadSettings(dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return more.chexagent(tmp_path_factory.mktemp("chexagent"))


def chexagent(places, **options):
    return more.model("chexagent", places, **options)


@pytest.mark.parametrize("form", ["original", "converted"])
def test_logits_are_those_of_the_original(places, tmp_path, form):
    golden, model = originals.load("chexagent"), chexagent(places)
    if form == "converted":
        model.convert(tmp_path / "out")
        model = chexagent({"path": tmp_path / "out"})
    module = model.load(CPU).module
    case = "image-in-front"
    ids = torch.from_numpy(golden.input(case, "input_ids")).reshape(1, -1)
    ids = torch.cat([torch.full((1, 16), model.image_token), ids], dim=1)
    pixels = torch.from_numpy(golden.input(case, "pixel_values"))[None]
    with torch.inference_mode():
        logits = module(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits[0]
        features = module.get_image_features(pixels).pooler_output[0]
    assert golden.logits_gap(case, logits.numpy()) < 1e-5
    assert np.abs(features.numpy() - golden.output(case, "image_features")).max() < 1e-5


def test_a_configuration_without_what_is_usual_or_seen_in_the_tensors_is_enough(tmp_path):
    """Configurations inside others may be stored without what equals their class's defaults."""
    places = more.chexagent(tmp_path)
    whole = chexagent(places).opened.config
    edit_json(
        places["path"] / "config.json",
        vision_config={"num_attention_heads": 2},
        qformer_config={"num_attention_heads": 2, "vocab_size": 30523},
        text_config={"num_attention_heads": 4},
    )
    spare = chexagent(places).opened.config
    assert spare.vision_config.to_dict() == whole.vision_config.to_dict()
    assert spare.qformer_config.to_dict() == whole.qformer_config.to_dict()
    assert spare.text_config.to_dict() == whole.text_config.to_dict()


def test_two_images_are_looked_at_together(places):
    """The queries see the tokens of both: twice the same image is the same answer, another second image is not."""
    module = chexagent(places).load(CPU).module
    one, other = torch.rand(2, 1, 1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        alone, twice, both = (
            module.get_image_features(pixels).pooler_output
            for pixels in (one, torch.cat([one, one], dim=1), torch.cat([one, other], dim=1))
        )
    assert alone.shape == both.shape == (1, 16, 64)
    assert torch.allclose(alone, twice, atol=1e-5)
    assert not torch.allclose(alone, both, atol=1e-3)


def test_the_prompt_word_for_word(places):
    model = chexagent(places)
    request = more.ask(model)
    assert model.render(request) == (
        "<image><image> USER: <s>Write an example findings section for the CXR ASSISTANT: <s>"
    )
    assert [image.image_id for image in request.images] == ["a", "b"]
    impression = chexagent(places, extra={"target": "impression"})
    assert "Write an example impression section for the CXR ASSISTANT" in impression.render(more.ask(impression))


@pytest.mark.parametrize(
    ("chosen", "words"), [("1", 'Describe "Airway"'), ("5", "Everything else (e.g."), ("Pleura", 'Describe "Pleura"')]
)
def test_one_place_as_in_the_authors_demo(places, chosen, words):
    model = chexagent(places, extra={"anatomy": chosen})
    assert words in model.render(more.ask(model))


def test_ids_are_image_tokens_then_the_prompt_with_its_bos(places):
    model = chexagent(places)
    request = more.ask(model, question="Effusion?")
    encoded = model.encode(request, [more.grey(), more.grey(1)])
    ids = encoded.tensors["input_ids"][0].tolist()
    words = model.tokenizer(" USER: <s>Effusion? ASSISTANT: <s>")["input_ids"]
    assert ids == [0] * 16 + words
    assert (words[0], words.count(1), words[-1]) == (1, 3, 1)
    assert encoded.image_tokens == 16
    assert encoded.tensors["pixel_values"].shape == (1, 2, 3, 56, 56)


def test_pixels_are_those_of_the_pil_processor(tmp_path):
    from transformers import BlipImageProcessorPil

    from cxrbench.models.llava_shared import pixels_of

    more.pixels_are_recorded(
        pixels_of({"image_processor_type": "BlipImageProcessor", "size": {"height": 448, "width": 448}}), "blip-448"
    )
    places = more.chexagent(tmp_path)
    body = {"image_processor_type": "BlipImageProcessor", "size": {"height": 56, "width": 56}}
    (places["path"] / "preprocessor_config.json").write_text(json.dumps(body))
    stock = BlipImageProcessorPil.from_pretrained(places["path"])
    picture = more.grey(1, (90, 70))
    expected = stock(Picture.fromarray(picture).convert("RGB"), return_tensors="np")["pixel_values"][0]
    assert np.array_equal(chexagent(places).transform()(picture), expected)


def test_the_documented_preset_is_the_checkpoints_own(tmp_path):
    places = more.chexagent(tmp_path)
    preset = chexagent(places).presets["documented"]
    assert (preset.generation["temperature"], preset.dtype, preset.source) == (0.0, "fp16", "authors-demo")
    (places["path"] / "generation_config.json").write_text('{"num_beams": 5, "max_new_tokens": 512}')
    preset = chexagent(places).presets["documented"]
    assert (preset.generation["num_beams"], preset.generation["max_new_tokens"]) == (5, 512)


def test_the_full_size_is_the_published_one():
    assert network.count(chexagent({}, load_format="dummy").build("bf16")) == 8_362_401_664


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "blip-2"}, "this is not CheXagent"),
        ({"num_query_tokens": 8}, "another shape"),
        ({"text_config": {"num_attention_heads": 4, "intermediate_size": 99}}, "another shape"),
        ({"text_config": None}, "does not say text_config"),
    ],
)
def test_a_configuration_that_is_not_the_published_one_is_refused(tmp_path, changes, words):
    places = more.chexagent(tmp_path)
    edit_json(places["path"] / "config.json", **changes)
    with pytest.raises(CxrbenchError, match=words):
        chexagent(places).check()


def test_ragged_prompts_and_numbers_of_images_in_one_batch_answer_as_alone(places, monkeypatch):
    samples = [
        more.sample(sample_id="1", question="Is there a small left pleural effusion with adjacent atelectasis?"),
        more.sample(sample_id="2", images=(Image("b", "b.png", "AP"),)),
        more.sample(sample_id="3"),
        more.sample(sample_id="4", question="Effusion?"),
    ]
    texts = more.together_as_alone(monkeypatch, CheXagent, samples, places=places)
    assert all(text.count(",") == 4 for text in texts)


def test_engine_slots_says_why_it_does_not_run_it(places):
    with pytest.raises(CxrbenchError, match="engine slots does not run this model: a BLIP-2"):
        join(CheXagent, SlotsEngine, ModelOptions(places=places, dtype="fp32", device="cpu"))


def test_options_are_scored(places):
    from cxrbench.engines.scoring import score_options

    model = chexagent(places)
    made = model.load(CPU)
    request = more.ask(model, question="Effusion?", images=(Image("b", "b.png", "AP"),))
    prompt = model.encode(request, [more.grey()])
    options = [model.encode_option(request, option) for option in ("yes", "no effusion")]
    with torch.inference_mode():
        scores = score_options(made, prompt, options)
    ids = torch.cat([prompt.tensors["input_ids"], torch.tensor([options[1]])], dim=1)
    with torch.inference_mode():
        logits = made.module(
            input_ids=ids, pixel_values=prompt.tensors["pixel_values"], attention_mask=torch.ones_like(ids)
        ).logits[0]
    shares = logits.log_softmax(-1)
    by_hand = sum(float(shares[prompt.prompt_tokens - 1 + n, token]) for n, token in enumerate(options[1]))
    assert scores[1] == pytest.approx(by_hand, abs=1e-4)
