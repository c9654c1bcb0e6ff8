"""What holds for every adapter beyond the LLaVA family: strict keys, recognised folders, cards, presets, engines."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from cxrbench import registry
from cxrbench.anchors import find_row
from cxrbench.engines.base import join
from cxrbench.engines.slots import SlotsEngine
from cxrbench.engines.transformers import TransformersEngine
from cxrbench.errors import CxrbenchError
from cxrbench.models import network
from cxrbench.models.adapter import LoadSettings
from cxrbench.models.base import ModelOptions
from cxrbench.models.released import NEVER_RUN
from cxrbench.types import Generation
from tests import released_more as more
from tests.commands import cli  # noqa: F401  (a fixture)
from tests.small_task import write_small

CPU = LoadSettings(dtype="fp32", device="cpu")
MAKERS = {**more.MAKERS, "chexpert-plus": more.chexpert_plus, "medgemma": more.medgemma}
CONVERTED = [name for name in MAKERS if name != "medgemma"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: make(tmp_path_factory.mktemp(name) / "root") for name, make in MAKERS.items()}


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(CxrbenchError) as error:
        call(*arguments, **options)
    return str(error.value)


# Cards and presets


@pytest.mark.parametrize("name", list(MAKERS))
def test_the_card_says_what_a_reader_must_know(folders, name):
    kind = registry.load("models", name)
    card = more.model(name, folders[name]).card
    assert card.name == name == kind.CARD.name
    assert NEVER_RUN in card.notes
    for said in (card.about, card.source, card.revision, card.licence, card.citation):
        assert said
    assert card.trained_on
    assert card.targets
    assert card.inputs
    assert any(find_row(each.partition(": ")[0]) for each in card.published if "/" in each)
    assert "generate" in kind.kinds
    assert kind.places


@pytest.mark.parametrize("name", list(MAKERS))
def test_every_setting_of_the_own_preset_has_a_source(folders, name):
    presets = more.model(name, folders[name]).presets
    (own,) = set(presets) - {"matched"}
    assert (own == "reference") == (presets[own].source == "authors-eval")
    assert presets[own].citation
    assert "dtype" in presets[own].origin
    assert presets[own].quirks
    assert presets["matched"].generation["temperature"] == 0


# Folders and keys


@pytest.mark.parametrize("name", CONVERTED)
@pytest.mark.parametrize("other", CONVERTED)
def test_a_folder_of_another_model_is_told_what_it_seems_to_be(folders, name, other):
    if name == other or other == "llm-cxr":
        return
    message = refusal(more.model, name, folders[other])
    if name != "llm-cxr":
        assert f"(adapter {other})" in message
    assert "this is not" in message


@pytest.mark.parametrize("name", CONVERTED)
def test_buffers_are_those_of_a_network_built_the_usual_way(folders, name):
    model = more.model(name, folders[name])
    usual = dict(model.network_class()(model.opened.config).named_buffers())
    made = dict(model.module(CPU).named_buffers())
    assert usual.keys() == made.keys()
    assert all(torch.equal(value, made[key]) for key, value in usual.items())


@pytest.mark.parametrize("name", CONVERTED)
def test_loading_leaves_the_random_state_alone(folders, name):
    state = torch.random.get_rng_state()
    more.model(name, folders[name]).module(CPU)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["chexagent-2", "chexagent", "maira-2"])
def test_missing_and_left_over_weights_are_named(tmp_path, name):
    places = MAKERS[name](tmp_path)
    folder = places["path"]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    lost = next(key for key in index["weight_map"] if key.endswith("lm_head.weight"))
    file = folder / index["weight_map"].pop(lost)
    tensors = load_file(file)
    del tensors[lost]
    save_file(tensors, file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "missing from the checkpoint: lm_head.weight" in refusal(more.model(name, places).check).replace(
        "language_model.lm_head", "lm_head"
    )
    tensors |= {lost: torch.zeros(2, 2), "model.extra.weight": torch.zeros(2)}
    save_file(tensors, file, metadata={"format": "pt"})
    assert "in no row of the key map: model.extra.weight" in refusal(more.model(name, places).check)


def test_weights_of_llm_cxr_are_missed_by_name(tmp_path):
    places = more.llm_cxr(tmp_path)
    file = next((places["path"] / "vqgan").glob("*.ckpt"))
    body = torch.load(file, weights_only=True)
    del body["state_dict"]["quant_conv.bias"]
    torch.save(body, file)
    assert "missing from the checkpoint: vqgan.quant_conv.bias" in refusal(more.model("llm-cxr", places).check)


@pytest.mark.parametrize("name", CONVERTED)
def test_the_converted_form_is_the_same_model(folders, tmp_path, name):
    model = more.model(name, folders[name])
    plan = model.convert(tmp_path / "out")
    again = more.model(name, {"path": tmp_path / "out"})
    first, second = model.module(CPU).state_dict(), again.module(CPU).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert set(network.stock_names(again.build())) == {target for step in plan.steps for target in step.targets}
    assert again.identity()["form"] == "converted"
    assert again.render(more.ask(again)) == model.render(more.ask(model))
    assert again.tokens(again.render(more.ask(again))) == model.tokens(model.render(more.ask(model)))
    assert "converted form already" in refusal(again.convert, tmp_path / "twice")


@pytest.mark.parametrize("name", CONVERTED)
def test_random_weights_are_finite_and_of_the_seed(folders, tmp_path, name):
    more.model(name, folders[name]).convert(tmp_path / "out")
    dummy = more.model(name, {"path": tmp_path / "out"}, load_format="dummy")
    settings = LoadSettings(dtype="fp32", device="cpu", load_format="dummy", seed=3)
    first, second = (dummy.load(settings).module.state_dict() for _ in range(2))
    assert all(value.isfinite().all() for value in first.values())
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("name", CONVERTED)
def test_half_precision_answers_without_nan(folders, name):
    model = more.model(name, folders[name])
    made = model.load(LoadSettings(dtype="bf16", device="cpu"))
    request = more.ask(model)
    encoded = model.encode(request, [more.grey(n) for n in range(len(request.images))])
    tensors = {
        key: value.to(torch.bfloat16) if value.is_floating_point() else value for key, value in encoded.tensors.items()
    }
    with torch.inference_mode():
        logits = made.module(**tensors).logits
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", list(MAKERS))
def test_the_identity_names_prompt_weights_and_files(folders, name):
    identity = more.model(name, folders[name]).identity()
    assert identity["name"] == name
    assert identity["image_backend"] == "pil"
    assert len(identity["weights"]) >= 16
    assert identity["prompt"]
    assert identity == more.model(name, folders[name]).identity()


def test_pixels_depend_on_no_package_that_changes_them():
    """With torchvision installed, stock processors give other pixels; here none of the three is even imported."""
    code = (
        "import sys, numpy as np\n"
        "from cxrbench.models.chexagent import PIXELS as blip\n"
        "from cxrbench.models.maira_2 import PIXELS as bit\n"
        "from cxrbench.models.medgemma import _pixels\n"
        "from cxrbench.models.llava_shared import pixels_of\n"
        "from cxrbench.models.published_pixels import CentreSquare, Stretched, square\n"
        "half = (0.5,) * 3\n"
        "grey = np.arange(1200, dtype=np.uint8).reshape(40, 30)\n"
        "stock = [Stretched(pixels_of(bit)), pixels_of(blip), _pixels()]\n"
        "for made in (square(512, half, half), CentreSquare(256), *stock):\n"
        "    made(grey)\n"
        "assert not {'torch', 'transformers', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# Engines


@pytest.mark.parametrize("name", ["chexagent-2", "llm-cxr", "maira-2"])
def test_engine_slots_gives_the_texts_of_engine_transformers(folders, name, monkeypatch):
    kind = registry.load("models", name)
    monkeypatch.setattr(kind, "decode", lambda self, tokens: str(list(tokens)))
    samples = [
        more.sample(sample_id=str(number), question=words, sections={"indication": words})
        for number, words in enumerate(("Effusion?", "Is there a small effusion with adjacent atelectasis?", "Why?"))
    ]
    found = []
    for engine in (TransformersEngine, SlotsEngine):
        extra = {"slots": "2"} if engine is SlotsEngine else {}
        options = ModelOptions(
            places=folders[name], dtype="fp32", device="cpu", extra=extra, read_image=lambda path: more.grey(len(path))
        )
        made = join(kind, engine, options)
        requests = [made.request(each, "generate", Generation(max_new_tokens=6), 0) for each in samples]
        result = made.generate(0, [made.prepare(request) for request in requests])
        found.append([each.text for each in result.predictions])
        made.close()
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["chexagent-2", "llm-cxr", "chexpert-plus", "medgemma"])
def test_a_remembered_checkpoint_runs(cli, folders, tmp_path, name):
    task = write_small(tmp_path, test=2)
    code, out, err = cli("models", "add", name, "--path", folders[name]["path"], "--here")
    assert code == 0, err
    assert "remembered in" in out
    target = ("--set", "target=impression") if name == "llm-cxr" else ()
    code, out, err = cli(
        "run",
        "--model",
        name,
        "--task",
        task,
        *target,
        "--set",
        "max_new_tokens=3",
        "--replicates",
        0,
        "--dtype",
        "fp32",
    )
    assert code == 0, err
    (file,) = tmp_path.glob("runs/small/*/predictions/0000.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["outcome"] in ("ok", "empty") for row in rows] == [True, True]
    assert all(row["output_tokens"] > 0 for row in rows)
