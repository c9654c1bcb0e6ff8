"""What `cxrbench list models --engines` promises is what happens when each model is loaded, by its small checkpoint."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cxrbench import registry  # noqa: E402
from cxrbench.engines.base import held, join  # noqa: E402
from cxrbench.errors import CxrbenchError  # noqa: E402
from cxrbench.models.base import ModelOptions  # noqa: E402
from cxrbench.types import Generation, Image, Sample  # noqa: E402
from tests import released, released_more  # noqa: E402
from tests.commands import cli  # noqa: E402, F401  (a fixture)

MAKERS = {
    **released.MAKERS,
    **released_more.MAKERS,
    "medgemma": released_more.medgemma,
    "chexpert-plus": released_more.chexpert_plus,
}
GREY = np.random.default_rng(0).integers(0, 256, (61, 47), dtype=np.uint8)
BUILT_IN = ("demo", "demo-regressed", "demo-verbose")
SLOW = pytest.mark.slow
HERE = ("transformers", "slots")
OTHERS = {"shape": ("small-phi", "dummy"), "openai": ("gpt", "auto")}
SECTIONS = {"findings": "The lungs are clear.", "indication": "Cough."}


class FakeLLM:
    """What of vLLM's interface is used: it proves that the engine takes the model, not that vLLM does."""

    def __init__(self, model, **settings):
        assert Path(model).is_dir()

    def get_tokenizer(self):
        return SimpleNamespace(bos_token=None)

    def generate(self, prompts, params, *, use_tqdm):
        text = SimpleNamespace(text="a text", token_ids=[4], finish_reason="stop")
        return [SimpleNamespace(prompt_token_ids=[1], outputs=[text]) for _ in prompts]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("weights")
    yield {name: make(root / name) for name, make in MAKERS.items()}
    torch.set_num_threads(threads)


def options(name, engine, places):
    kind = registry.load("models", name)
    extra = dict(kind.trial(places[name])) if name in places else {}
    argument, load_format = OTHERS.get(name, ("", "auto"))
    if engine == "openai":
        extra |= {"url": "http://127.0.0.1:9/v1"} | ({} if name == "openai" else {"served": "x"})
    local = {"dtype": "fp32", "device": "cpu"} if engine in HERE else {}
    return ModelOptions(
        argument=argument, load_format=load_format, places=places.get(name, {}), extra=extra, access="open",
        read_image=lambda path: GREY, **local,
    )  # fmt: skip


def attempt(name, engine, places, kinds=("generate", "score_options")):
    """By kind of request: the reason it is refused with, or None when it was answered."""
    try:
        model = join(registry.load("models", name), registry.load("engines", engine), options(name, engine, places))
        if engine != "openai":
            model.circumstances()
    except CxrbenchError as error:
        return dict.fromkeys(kinds, error.what)
    found = {kind: answer(model, kind, asks=engine != "openai") for kind in kinds}
    model.close()
    return found


def answer(model, kind, *, asks):
    """None when a request was answered; a server's answer is test_openai's question."""
    image = Image("b", "b.png", "PA")
    sample = Sample("s", "s", None, "", (image,), "b", SECTIONS, options=("Yes", "No") if kind != "generate" else ())
    try:
        request = model.request(sample, kind, Generation(max_new_tokens=2), 0)
        if asks:
            prepared = model.prepare(request)
            assert prepared.failure is None, prepared.failure
            (made,) = model.generate(0, [prepared]).predictions
            assert not made.failed, made
    except CxrbenchError as error:
        return error.what
    return None


@pytest.mark.parametrize("engine", ["transformers", "slots", "vllm", "openai"])
@pytest.mark.parametrize("name", [*MAKERS, "demo", *OTHERS, *(pytest.param(each, marks=SLOW) for each in BUILT_IN[1:])])
def test_a_pair_is_shown_exactly_when_it_answers(monkeypatch, places, name, engine):
    fake = SimpleNamespace(LLM=FakeLLM, SamplingParams=SimpleNamespace, __version__="0")
    monkeypatch.setitem(sys.modules, "vllm", fake)
    adapter, kind_of_engine = registry.load("models", name), registry.load("engines", engine)
    shown = held(adapter, kind_of_engine)
    for kind, said in attempt(name, engine, places).items():
        if kind in shown.kinds:
            assert said is None
        else:
            assert said is not None
            assert shown.kinds or shown.why in said


@pytest.mark.parametrize("name", [name for name in MAKERS if "slots" in registry.load("models", name).not_on])
def test_what_is_declared_is_what_the_network_itself_is_refused_for(monkeypatch, places, name):
    """Without the declaration the engine says the same at load: no pair is refused in vain."""
    monkeypatch.setattr(registry.load("models", name), "not_on", {})
    assert "engine slots does not run this model" in attempt(name, "slots", places)["generate"]


def test_every_model_that_writes_is_in_this_test():
    tried = {*MAKERS, *BUILT_IN, *OTHERS, "hf"}  # hf: whatever folder is named, so its row says so
    adapters = {name: entry.load() for name, entry in registry.entries("models").items() if entry.source == "cxrbench"}
    assert tried == {name for name, kind in adapters.items() if "generate" in kind.kinds and hasattr(kind, "offers")}


def test_the_list_says_why_not_and_what_depends_on_the_checkpoint(cli):
    code, out, err = cli("list", "models", "--engines")
    assert code == 0, err
    rows = {line.split()[0]: line for line in reversed(out.splitlines()) if line and not line.startswith(" ")}
    assert rows["slava"].count("generate") == 2
    assert rows["chexagent"].count("generate") == 1
    assert "generate*" in rows["hf"]
    text = " ".join(out.split())
    for name in ("llava-med-v1", "chexagent", "medgemma", "chexpert-plus"):
        assert f"{name} on slots:" in text
    assert "* hf on slots:" in text
    assert "vllm: tested against a fake of its interface, never run" in text
    assert max(map(len, out.splitlines())) <= 100


def test_a_card_says_why_not(cli):
    code, out, _ = cli("list", "models", "--show", "chexpert-plus")
    assert code == 0
    assert "engines: not slots: an encoder-decoder" in out
