"""`maira-2`: the recorded original, its exact prompt by views and sections, pixels, and a run through the engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from cxrbench.errors import CxrbenchError
from cxrbench.models import network
from cxrbench.models.adapter import LoadSettings
from cxrbench.models.maira_2 import Maira2, question
from cxrbench.types import Image
from tests import released_more as more
from tests.models import originals
from tests.tiny_llava import edit_json

CPU = LoadSettings(dtype="fp32", device="cpu")
TASK = " Provide a description of the findings in the radiology study in comparison to the prior frontal image."
BEFORE = "You are an expert radiology assistant tasked with interpreting a chest X-ray study.  USER:  "


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return more.maira_2(tmp_path_factory.mktemp("maira-2"))


def maira_2(places, **options):
    return more.model("maira-2", places, **options)


@pytest.mark.parametrize("form", ["original", "converted"])
def test_logits_are_those_of_the_original(places, tmp_path, form):
    golden, model = originals.load("maira-2"), maira_2(places)
    if form == "converted":
        model.convert(tmp_path / "out")
        model = maira_2({"path": tmp_path / "out"})
    module = model.load(CPU).module
    for case in golden.cases:
        ids = torch.from_numpy(golden.input(case, "input_ids")).reshape(1, -1)
        pixels = torch.from_numpy(golden.input(case, "pixel_values"))
        with torch.inference_mode():
            logits = module(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits[0]
            features = module.get_image_features(pixel_values=pixels[:1]).pooler_output[0]
        assert golden.logits_gap(case, logits.numpy()) < 1e-5
        assert np.abs(features.numpy() - golden.output(case, "image_features")).max() < 1e-5


def test_a_configuration_without_what_is_usual_or_seen_in_the_tensors_is_enough(tmp_path):
    """Configurations inside others are stored without what equals their class's defaults."""
    places = more.maira_2(tmp_path)
    whole = maira_2(places).opened.config
    edit_json(
        places["path"] / "config.json",
        vision_config={"model_type": "dinov2", "out_features": ["stage3"]},
        text_config={
            "num_attention_heads": 4,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {"rope_type": "linear", "factor": 1.5},
        },
    )
    spare = maira_2(places).opened.config
    assert spare.vision_config.to_dict() == whole.vision_config.to_dict()
    assert spare.text_config.to_dict() == whole.text_config.to_dict()


def test_the_prompt_with_both_views_word_for_word(places):
    model = maira_2(places)
    request = more.ask(model, sections={"indication": "Dyspnea.", "technique": "PA and lateral."})
    assert model.render(request) == (
        f"{BEFORE}Given the current frontal image<image> and the current lateral image<image>{TASK}"
        " INDICATION: Dyspnea. TECHNIQUE: PA and lateral. COMPARISON: N/A  ASSISTANT: "
    )
    assert [image.image_id for image in request.images] == ["b", "a"]
    assert request.inputs == ("image:PA", "image:LATERAL", "section:indication", "section:technique")


def test_the_prompt_with_the_frontal_view_alone(places):
    model = maira_2(places, extra={"images": "frontal"})
    request = more.ask(model)
    assert model.render(request) == (
        f"{BEFORE}Given the current frontal image only<image>{TASK} INDICATION: N/A TECHNIQUE: N/A COMPARISON: N/A"
        "  ASSISTANT: "
    )
    assert [image.image_id for image in request.images] == ["b"]
    assert "image" in model.consumes


def test_a_prior_would_stand_behind_the_lateral_view():
    made = question({"indication": "Cough."}, lateral=True, prior=True, prior_report="Clear.")
    assert made == (
        "Given the current frontal image<image> the current lateral image<image> and the prior frontal image<image>"
        f" PRIOR_REPORT: Clear.{TASK} INDICATION: Cough. TECHNIQUE: N/A COMPARISON: N/A"
    )
    alone = question({}, lateral=False, prior=True)
    assert alone.startswith(
        "Given the current frontal image<image> and the prior frontal image<image> PRIOR_REPORT: N/A Provide"
    )


def test_without_a_frontal_view_there_is_nothing_to_ask(places):
    request = more.ask(maira_2(places), images=(Image("a", "a.png", "LL"),), key_image="a")
    assert (request.images, request.inputs) == ((), ())


def test_the_first_frontal_image_where_the_key_one_is_lateral(places):
    assert [image.image_id for image in more.ask(maira_2(places), key_image="a").images] == ["b", "a"]


def test_a_question_takes_the_place_of_the_request(places):
    text = maira_2(places).render(more.ask(maira_2(places), question="Effusion?"))
    assert text.endswith("lateral image<image> Effusion?  ASSISTANT: ")


def test_ids_are_the_whole_prompt_with_bos_and_one_token_per_patch(places):
    model = maira_2(places)
    prompt = model.render(more.ask(model))
    ids = model.tokens(prompt)
    assert ids == model.tokenizer(prompt.replace("<image>", "<image>" * 16))["input_ids"]
    assert (ids[0], ids.count(1), ids.count(32204)) == (1, 1, 32)


def test_without_a_chat_template_nothing_is_guessed(tmp_path):
    places = more.maira_2(tmp_path)
    edit_json(places["path"] / "tokenizer_config.json", chat_template=None)
    (places["path"] / "chat_template.jinja").unlink(missing_ok=True)
    model = maira_2(places)
    with pytest.raises(CxrbenchError, match="no chat template"):
        model.render(more.ask(model))


def test_a_chat_template_that_cannot_be_rendered(tmp_path):
    places = more.maira_2(tmp_path)
    more.say(places["path"], chat_template="{% for message in messages %}")
    model = maira_2(places)
    with pytest.raises(CxrbenchError, match="cannot be rendered: TemplateSyntaxError"):
        model.render(more.ask(model))


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json"])
def test_the_chat_template_may_stand_in_a_file_of_its_own(tmp_path, name):
    import json

    places = more.maira_2(tmp_path)
    before = maira_2(places)
    prompt = before.render(more.ask(before))
    more.say(places["path"], chat_template=None)
    text = more.TEMPLATE if name.endswith("jinja") else json.dumps({"chat_template": more.TEMPLATE})
    (places["path"] / name).write_text(text)
    after = maira_2(places)
    assert after.render(more.ask(after)) == prompt


def test_pixels_are_those_of_the_authors_processor(places):
    from transformers import BitImageProcessorPil

    from cxrbench.models.llava_shared import pixels_of
    from cxrbench.models.maira_2 import PIXELS
    from cxrbench.models.published_pixels import Stretched

    made = Stretched(pixels_of(PIXELS))
    more.pixels_are_recorded(made, "rad-dino-518")
    dark = more.grey(2, (90, 130)) // 3 + 40
    spread = dark.astype(float) - dark.min()
    spread = (spread / spread.max() * 255).astype(np.uint8)
    settings = {key: value for key, value in PIXELS.items() if key != "image_processor_type"}
    stock = BitImageProcessorPil(**settings, resample=3, do_convert_rgb=True)
    expected = stock(Picture.fromarray(spread).convert("L"), return_tensors="np")["pixel_values"][0]
    assert np.array_equal(made(dark), expected)


def test_an_image_of_one_level_is_not_turned_into_noise(places):
    model = maira_2(places)
    with pytest.raises(ValueError, match="one level"):
        model.encode(more.ask(model), [more.grey(), np.full((60, 60), 7, np.uint8)])


def test_the_preset_is_the_model_cards_example(places):
    preset = maira_2(places).presets["documented"]
    assert (preset.generation["max_new_tokens"], preset.generation["temperature"], preset.dtype) == (300, 0.0, "fp32")
    assert preset.source == "authors-demo"


def test_the_full_size_is_the_published_one():
    module = maira_2({}, load_format="dummy").build("bf16")
    assert network.count(module) == 6_880_185_600
    assert len(network.stock_names(module)) == 522


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        (None, {"model_type": "llava"}, "this is not MAIRA-2"),
        (None, {"projector_hidden_act": "silu"}, "projector_hidden_act is 'silu'"),
        ("vision_config", {"apply_layernorm": False}, "apply_layernorm is False"),
        ("vision_config", {"out_features": ["stage2"]}, "out_features"),
        ("text_config", {"rope_scaling": None}, "MAIRA-2's is linear"),
        (None, {"projector_n_layers": 3}, "in no row of the key map"),
    ],
)
def test_a_configuration_that_is_not_the_published_one_is_refused(tmp_path, part, changes, words):
    import json

    places = more.maira_2(tmp_path)
    file = places["path"] / "config.json"
    body = json.loads(file.read_text())
    (body[part] if part else body).update(changes)
    file.write_text(json.dumps(body))
    with pytest.raises(CxrbenchError, match=words):
        maira_2(places).check()


def test_ragged_prompts_in_one_batch_answer_as_alone(places, monkeypatch):
    samples = [
        more.sample(sample_id="1", sections={"indication": "fever and shortness of breath for three days"}),
        more.sample(sample_id="2", images=(Image("b", "b.png", "AP"),)),
        more.sample(sample_id="3"),
    ]
    texts = more.together_as_alone(monkeypatch, Maira2, samples, places=places)
    assert all(text.count(",") == 4 for text in texts)


def test_random_weights_at_full_shape_need_no_files():
    model = maira_2({}, load_format="dummy")
    assert model.tokens(model.render(more.ask(model))).count(model.image_token) == 2 * 1369
