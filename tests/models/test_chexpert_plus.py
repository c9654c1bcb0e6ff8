"""`chexpert-plus`: logits, pixels and texts of the stock class, called as the engines call a decoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from safetensors.torch import load_file, save_file

from cxrbench.engines.base import join
from cxrbench.engines.slots import SlotsEngine
from cxrbench.errors import CxrbenchError
from cxrbench.models import network
from cxrbench.models.adapter import LoadSettings
from cxrbench.models.base import ModelOptions
from cxrbench.models.chexpert_plus import CheXpertPlus
from tests import released_more as more
from tests.tiny_llava import edit_json

CPU = LoadSettings(dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return more.chexpert_plus(tmp_path_factory.mktemp("chexpert-plus") / "model")


@pytest.fixture(scope="module")
def stock(places):
    from transformers import VisionEncoderDecoderModel

    return VisionEncoderDecoderModel.from_pretrained(places["path"]).eval()


def chexpert_plus(places, **options):
    return more.model("chexpert-plus", places, **options)


@pytest.mark.parametrize("form", ["original", "converted"])
def test_logits_are_those_of_the_stock_class(places, stock, tmp_path, form):
    model = chexpert_plus(places)
    if form == "converted":
        model.convert(tmp_path / "out")
        model = chexpert_plus({"path": tmp_path / "out"})
    pixels = torch.from_numpy(model.transform()(more.grey()))[None]
    ids = torch.tensor([[2, 5, 6, 7]])
    with torch.inference_mode():
        made = model.load(CPU).module(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits
        expected = stock(pixel_values=pixels, decoder_input_ids=ids).logits
    assert torch.allclose(made, expected, atol=1e-5)  # eager here, sdpa there


def test_texts_of_a_batch_are_those_of_the_authors_example(places, stock):
    """BertTokenizer, ViTImageProcessor and generate(), as on the authors' page."""
    from transformers import BertTokenizer, GenerationConfig, ViTImageProcessorPil

    samples = [more.sample(sample_id=name) for name in "ab"]
    made, prepared = more.through_engine(CheXpertPlus, samples, words=9, places=places)
    answers = made.generate(0, prepared).predictions
    tokenizer = BertTokenizer.from_pretrained(places["path"])
    picture = Picture.fromarray(more.grey(len("b.png"))).convert("RGB")
    pixels = ViTImageProcessorPil.from_pretrained(places["path"])(picture, return_tensors="pt")["pixel_values"]
    settings = GenerationConfig(
        max_length=10, bos_token_id=2, eos_token_id=3, pad_token_id=0, decoder_start_token_id=tokenizer.cls_token_id
    )
    ids = stock.generate(pixel_values=pixels, generation_config=settings)[0]
    expected = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=True).strip()
    assert [answer.text for answer in answers] == [expected, expected]
    assert answers[0].output_tokens == len(ids) - 1
    assert answers[0].prompt_tokens == 1


def test_pixels_are_those_of_the_pil_processor(places):
    from transformers import ViTImageProcessorPil

    picture = more.grey(1, (90, 70))
    expected = ViTImageProcessorPil.from_pretrained(places["path"])(
        Picture.fromarray(picture).convert("RGB"), return_tensors="np"
    )["pixel_values"][0]
    assert np.array_equal(chexpert_plus(places).transform()(picture), expected)


def test_there_is_no_prompt_and_no_answer_to_a_question(places):
    model = chexpert_plus(places)
    request = more.ask(model)
    assert (model.render(request), request.inputs) == ("[CLS]", ("image:PA",))
    assert model.encode(request, [more.grey()]).tensors["input_ids"].tolist() == [[2]]
    assert model.eos() == (3,)
    assert more.ask(model, question="Effusion?").inputs == ()


def test_options_are_scored(places, stock):
    from cxrbench.engines.scoring import score_options

    model = chexpert_plus(places)
    made = model.load(CPU)
    prompt = model.encode(more.ask(model), [more.grey()])
    options = [model.encode_option(None, option) for option in ("clear", "no effusion")]
    with torch.inference_mode():
        scores = score_options(made, prompt, options)
        ids = torch.tensor([[2, *options[1]]])
        shares = stock(pixel_values=prompt.tensors["pixel_values"], decoder_input_ids=ids).logits[0].log_softmax(-1)
    by_hand = sum(float(shares[place, token]) for place, token in enumerate(options[1]))
    assert scores[1] == pytest.approx(by_hand, abs=1e-4)


def test_the_preset_is_the_authors_example(places):
    preset = chexpert_plus(places).presets["documented"]
    assert (preset.generation["max_new_tokens"], preset.generation["num_beams"], preset.dtype) == (127, 1, "fp32")
    assert "beam_width" in preset.quirks[0]


def test_tied_weights_may_be_stored_too(tmp_path):
    places = more.chexpert_plus(tmp_path)
    file = places["path"] / "model.safetensors"
    tensors = load_file(file)
    assert "decoder.cls.predictions.decoder.weight" not in tensors
    tensors["decoder.cls.predictions.decoder.weight"] = tensors[
        "decoder.bert.embeddings.word_embeddings.weight"
    ].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    assert chexpert_plus(places).check()[0].told() == {"the same weight under another name": 1}


@pytest.mark.parametrize(
    ("change", "words"),
    [({"model_type": "swinv2"}, "this is not a baseline of CheXpert Plus"), ({"encoder": {}}, "this is not")],
)
def test_another_folder_is_refused(tmp_path, change, words):
    places = more.chexpert_plus(tmp_path)
    edit_json(places["path"] / "config.json", **change)
    with pytest.raises(CxrbenchError, match=words):
        chexpert_plus(places)


def test_missing_weights_are_named(tmp_path):
    places = more.chexpert_plus(tmp_path)
    file = places["path"] / "model.safetensors"
    tensors = load_file(file)
    del tensors["encoder.layernorm.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CxrbenchError, match=r"missing from the checkpoint: encoder\.layernorm\.weight"):
        chexpert_plus(places).check()


def test_random_weights_need_no_files():
    model = chexpert_plus({}, load_format="dummy")
    assert 80e6 < network.count(model.build("bf16")) < 150e6
    assert model.tokens(model.render(more.ask(model))) == [101]
    assert model.eos() == (102,)


def test_engine_slots_says_why_it_does_not_run_it(places):
    with pytest.raises(CxrbenchError, match="encoder-decoder"):
        join(CheXpertPlus, SlotsEngine, ModelOptions(places=places, dtype="fp32", device="cpu"))
