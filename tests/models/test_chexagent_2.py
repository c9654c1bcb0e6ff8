"""`chexagent-2`: the recorded original, its exact prompt, tags and pixels, and a run through the engine."""

from __future__ import annotations

import json

import pytest
import torch

from cxrbench.errors import CxrbenchError
from cxrbench.models import network
from cxrbench.models.adapter import LoadSettings
from cxrbench.models.chexagent_2 import CheXagent2
from cxrbench.types import Image
from tests import released_more as more
from tests.models import originals
from tests.tiny_llava import edit_json

CPU = LoadSettings(dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return more.chexagent_2(tmp_path_factory.mktemp("chexagent-2"))


def chexagent_2(places, **options):
    return more.model("chexagent-2", places, **options)


@pytest.mark.parametrize("form", ["original", "converted"])
def test_logits_are_those_of_the_original(places, tmp_path, form):
    golden, model = originals.load("chexagent-2"), chexagent_2(places)
    if form == "converted":
        model.convert(tmp_path / "out")
        model = chexagent_2({"path": tmp_path / "out"})
    made = model.load(CPU)
    for case in golden.cases:
        ids = torch.from_numpy(golden.input(case, "input_ids")).reshape(1, -1)
        pixels = torch.from_numpy(golden.input(case, "pixel_values"))
        mask = torch.ones_like(ids)
        with torch.inference_mode():
            logits = made.module(input_ids=ids, pixel_values=pixels, attention_mask=mask).logits[0]
        assert golden.logits_gap(case, logits.numpy()) < 1e-5


def test_places_of_the_bridge_are_sines_of_the_column_then_of_the_row():
    from cxrbench.models.bridges_net import sines_and_cosines

    recorded = originals.load("chexagent-2").tensors("model/model-00002-of-00003.safetensors")
    made = sines_and_cosines(4, 128)
    assert torch.allclose(made, torch.from_numpy(recorded["model.visual.pos_embed"]), atol=1e-6)


def test_the_findings_prompt_word_for_word(places):
    model = chexagent_2(places)
    request = more.ask(model, sections={"indication": "chest pain"})
    assert model.render(request) == (
        "<|system|>\nYou are a helpful assistant.<|endoftext|>\n<|user|>\n"
        "Picture 1:<|img|><image><|/img|>\nPicture 2:<|img|><image><|/img|>\n"
        'Given the indication: "chest pain", write a structured findings section for the CXR.<|endoftext|>\n'
        "<|assistant|>\n"
    )
    assert [image.image_id for image in request.images] == ["a", "b"]
    assert request.inputs == ("image:LATERAL", "image:PA", "section:indication")


def test_one_image_and_no_indication(places):
    model = chexagent_2(places, extra={"images": "key"})
    request = more.ask(model)
    assert "Picture 1:<|img|><image><|/img|>\nWrite a structured findings section for the CXR.<|end" in model.render(
        request
    )
    assert [image.image_id for image in request.images] == ["b"]
    assert model.consumes == {"image", "question", "indication"}


def test_no_more_than_two_images(places):
    images = tuple(Image(name, f"{name}.png", "PA") for name in "abc")
    assert len(more.ask(chexagent_2(places), images=images).images) == 2


def test_an_impression_is_written_from_the_findings_alone(places):
    model = chexagent_2(places, extra={"target": "impression"})
    request = more.ask(model, sections={"findings": "Clear <image> lungs <|img|>."}, images=())
    assert model.render(request) == (
        "<|system|>\nYou are a helpful assistant.<|endoftext|>\n<|user|>\n"
        "Summarize the following Findings: Clear image lungs < |img|>.<|endoftext|>\n<|assistant|>\n"
    )
    encoded = model.encode(request, [])
    assert "pixel_values" not in encoded.tensors
    assert encoded.image_tokens == 0
    assert more.ask(model).inputs == ()
    assert model.consumes == {"findings", "question"}


def test_ids_stand_between_the_tags(places):
    model = chexagent_2(places)
    request = more.ask(model)
    encoded = model.encode(request, [more.grey(), more.grey(1)])
    ids = encoded.tensors["input_ids"][0].tolist()
    assert ids.count(50297) == 2 * 16 == encoded.image_tokens
    starts = [place for place, token in enumerate(ids) if token == 50295]
    assert [ids[place + 1 : place + 18] for place in starts] == [[50297] * 16 + [50296]] * 2
    assert model.tokenizer.decode([token for token in ids if token != 50297]) == model.render(request).replace(
        "<image>", ""
    )
    assert encoded.tensors["pixel_values"].shape == (2, 3, 64, 64)


def test_the_authors_tokenizer_files_are_read_without_their_class(places, tmp_path):
    """vocab.json and merges.txt, added tokens by their ids, then the tags where they are missing."""
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(["write a findings section for the CXR"], vocab_size=280, show_progress=False)
    bpe.save_model(str(tmp_path))
    count = bpe.get_vocab_size()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|endoftext|>": count, "  ": count + 1}))
    model = chexagent_2(places)
    model.opened.config.image_token_id = count + 4
    made = model.make_tokenizer(tmp_path)
    assert made.convert_tokens_to_ids(["<|endoftext|>", "  ", "<|img|>"]) == [count, count + 1, count + 2]
    assert made.decode(made("a findings<|img|> section")["input_ids"]) == "a findings<|img|> section"
    model.opened.config.image_token_id = 50297
    with pytest.raises(CxrbenchError, match="have the ids"):
        model.make_tokenizer(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|endoftext|>": 50256}))
    with pytest.raises(CxrbenchError, match=f"would be {count}, and the files say 50256"):
        model.make_tokenizer(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(CxrbenchError, match=r"nor merges\.txt"):
        model.make_tokenizer(tmp_path)


def test_pixels_are_those_of_the_authors_pipeline():
    from cxrbench.models.published_pixels import square

    more.pixels_are_recorded(square(512, (0.5,) * 3, (0.5,) * 3), "siglip-512")


def test_the_reference_preset_is_the_authors_evaluation(places):
    preset = chexagent_2(places).presets["reference"]
    assert (preset.generation["temperature"], preset.generation["max_new_tokens"], preset.dtype) == (0.0, 512, "bf16")
    assert preset.source == "authors-eval"
    assert set(preset.origin) >= {"temperature", "max_new_tokens", "dtype", "images"}


def test_the_full_size_is_the_published_one_without_its_pooling_head():
    module = chexagent_2({}, load_format="dummy").build("bf16")
    full = json.loads((originals.FOLDER / "full-size.json").read_text())["models"]["chexagent-2"]["model"]
    head = 0
    for name, (count, shape) in full["names"].items():
        if ".head." in name:
            head += count * int(torch.Size(shape).numel())
    assert network.count(module) + head == full["parameters"] == 3_140_746_752


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["PhiForCausalLM"]}, "this is not CheXagent-2"),
        ({"visual": {}}, "does not say image_start_id"),
        ({"intermediate_size": 300}, "another shape"),
    ],
)
def test_a_configuration_that_is_not_the_published_one_is_refused(tmp_path, changes, words):
    places = more.chexagent_2(tmp_path)
    edit_json(places["path"] / "config.json", **changes)
    with pytest.raises(CxrbenchError, match=words):
        chexagent_2(places).check()


def test_settings_are_checked(places):
    with pytest.raises(CxrbenchError, match="images must be two or key"):
        chexagent_2(places, extra={"images": "all"})


def test_ragged_prompts_in_one_batch_answer_as_alone(places, monkeypatch):
    samples = [
        more.sample(sample_id="1", sections={"indication": "fever and shortness of breath for three days"}),
        more.sample(sample_id="2"),
        more.sample(sample_id="3", question="Effusion?"),
    ]
    texts = more.together_as_alone(monkeypatch, CheXagent2, samples, places=places)
    assert all(text.count(",") == 4 for text in texts)


def test_random_weights_at_full_shape_need_no_files():
    model = chexagent_2({}, load_format="dummy")
    ids = model.tokens(model.render(more.ask(model)))
    assert ids.count(model.image_token) == 2 * 1024
    assert model.card.notes.startswith("random weights: for speed only")


def test_random_bridge_has_real_scale(places, tmp_path):
    chexagent_2(places).convert(tmp_path / "out")
    made = chexagent_2({"path": tmp_path / "out"}, load_format="dummy").module(
        LoadSettings(dtype="fp32", device="cpu", load_format="dummy")
    )
    bridge = made.model.multi_modal_projector
    assert torch.isfinite(bridge.proj).all()
    assert 0.5 < float(bridge.proj.detach().std()) * len(bridge.proj) ** 0.5 < 2
    assert float(bridge.pos_embed.detach().abs().max()) == 1
