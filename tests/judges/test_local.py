"""A judge on this machine: tiny causal language models in real folders, with random weights, to test the path."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cxrbench.engines.chat import Chat
from cxrbench.errors import CxrbenchError
from cxrbench.judges.ask import Prompt
from cxrbench.judges.build import Wish, build
from cxrbench.judges.rubric import Rubric
from cxrbench.metrics.base import Corpus
from cxrbench.scoring import make_metric
from tests import commands
from tests.commands import small_run
from tests.judges.model_server import model_server
from tests.judges.tiny_lm import POSITIONS, TEMPLATE, WORDS, llama, write_folder

cli = commands.cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Llama, which every engine takes."""
    return write_folder(tmp_path_factory.mktemp("llama"), llama())


def judge(folder, **settings):
    return build(Wish(f"local:{folder}", settings=settings), "credentialed", {}, "cpu", Chat)


def rubric(**settings):
    return Rubric(name="x", version=1, parser="verdict", task="{text}", settings=settings)


def answers(folder, texts, engine="transformers", **settings):
    said = {}
    made = rubric(**{"max_tokens": 8} | settings)
    prompts = [Prompt(made, (("user", text),)) for text in texts]
    judge(folder, engine=engine).asker.ask(prompts, said.__setitem__)
    return [said[i] for i in range(len(texts))]


BRIEF = """\
name: chexprompt
version: 1
parser: chexprompt
settings: {max_tokens: 8}
task: "{reference} {candidate}"
"""
TEXTS = ["a b c", "j", "a b c d e f g h i j", "e e", *(f"{a} {b} {a}" for a in "abcd" for b in "hij")]


def bare(replies):
    return [(each.outcome, each.text, each.finish_reason, each.prompt_tokens, each.output_tokens) for each in replies]


@pytest.mark.parametrize("how", [{}, {"temperature": 1.5, "top_p": 0.9, "seed": 3}], ids=["greedy", "sampled"])
def test_slots_answers_as_transformers_does_and_nothing_depends_on_what_else_is_asked(folder, how):
    together = bare(answers(folder, TEXTS, **how))
    assert together == bare(answers(folder, TEXTS, "slots", **how))
    assert together[:4] == [bare(answers(folder, [text], **how))[0] for text in TEXTS[:4]]
    assert [each[3] for each in together[:4]] == [5, 3, 12, 4]
    assert len({each[1] for each in together}) > 5
    assert {each[2] for each in together} == {"stop", "length"}


def test_stock_generate_gives_the_same_greedy_answers(folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    for text, mine in zip(TEXTS[:6], answers(folder, TEXTS[:6]), strict=True):
        ids = tokenizer(f"[user] {text} [assistant] ", return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            made = model.generate(**ids, max_new_tokens=8, do_sample=False)
        new = made[0, ids["input_ids"].shape[1] :]
        assert mine.text == tokenizer.decode(new, skip_special_tokens=True).strip()


def test_sampling_follows_its_seed_and_leaves_the_global_one_alone(folder):
    import torch

    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one, same, other = (answers(folder, ["a b"], temperature=5.0, seed=seed)[0].text for seed in (1, 1, 2))
    assert one == same != other
    assert (torch.random.get_rng_state() == state).all()


def test_a_prompt_longer_than_the_context_is_a_named_failure_and_the_others_are_answered(folder):
    for engine in ("transformers", "slots"):
        long, short = answers(folder, ["a " * POSITIONS, "a"], engine)
        assert (long.outcome, long.text) == ("prompt_too_long", None)
        assert long.detail.startswith(f"prompt_too_long: {POSITIONS + 2} prompt and image tokens and 8 new ones do not")
        assert short.text is not None


def test_other_weights_another_template_and_another_engine_are_another_judge(folder, tmp_path):
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    first = judge(folder).asker.identity()
    assert judge(copy).asker.identity() == first
    assert (first["endpoint"], first["engine"]) == ("local", "transformers.fp32.sdpa")
    assert judge(copy, engine="slots").asker.identity() != first
    (copy / "chat_template.jinja").write_text(TEMPLATE + " ")
    told = judge(copy).asker.identity()
    assert told["revision"] != first["revision"]
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    assert judge(copy).asker.identity()["revision"] not in (told["revision"], first["revision"])


def test_the_engine_and_its_precision_stand_in_the_signature(folder):
    signatures = []
    for engine in ("transformers", "slots"):
        metric = make_metric("chexprompt")
        signatures.append(metric.signature(metric.fit(Corpus([], judge=judge(folder, engine=engine))), "none"))
        assert metric.reads(signatures[-1])
    assert "|engine:transformers.fp32.sdpa|" in signatures[0]
    assert "|engine:slots.fp32.sdpa|" in signatures[1]


def test_a_folder_or_a_template_that_cannot_be_used_is_one_sentence(folder, tmp_path):
    with pytest.raises(CxrbenchError, match="no such folder"):
        judge(tmp_path / "none")
    with pytest.raises(CxrbenchError, match=r"it has no config\.json"):
        judge(tmp_path)
    with pytest.raises(CxrbenchError, match="no engine 'slot' for a judge") as told:
        judge(folder, engine="slot")
    assert told.value.fix.startswith("one of: transformers, slots, vllm")
    with pytest.raises(CxrbenchError, match="has no engine"):
        build(Wish("replay:x", settings={"engine": "slots"}), "open", {}, "cpu", Chat)
    with pytest.raises(CxrbenchError, match="is for a judge behind a server"):
        judge(folder, retries="3")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "chat_template.jinja").write_text("{{ raise_exception('no system turn') }}")
    with pytest.raises(CxrbenchError, match="takes no conversation of the turns user"):
        answers(copy, ["a"])
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(CxrbenchError, match="no chat template"):
        answers(copy, ["a"])


def test_slots_refuses_a_decoder_it_was_not_proven_with(tmp_path):
    from transformers import GPT2Config

    config = GPT2Config(
        vocab_size=len(WORDS), n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    made = write_folder(tmp_path / "gpt2", config)
    with pytest.raises(CxrbenchError, match="engine slots does not run this model"):
        answers(made, ["a"], "slots")
    assert answers(made, ["a b"])[0].text is not None


def test_vllm_is_handed_the_rendered_conversation(folder, monkeypatch):
    """A FAKE of vLLM's interface: it proves what is handed over and how results are read, no more."""
    from cxrbench.engines.vllm import QUIET

    asked = []

    class FakeLLM:
        def __init__(self, **settings):
            assert settings["model"] == str(folder)

        def get_tokenizer(self):
            return SimpleNamespace(bos_token=None)

        def generate(self, prompts, params, *, use_tqdm):
            asked.extend(zip(prompts, params, strict=True))
            output = SimpleNamespace(text=" fine ", token_ids=[4], finish_reason="stop")
            return [SimpleNamespace(prompt_token_ids=[1, 2], outputs=[output]) for _ in prompts]

    for name in QUIET:
        monkeypatch.setenv(name, "to be set")
    fake = SimpleNamespace(LLM=FakeLLM, SamplingParams=SimpleNamespace, __version__="0.0.fake")
    monkeypatch.setitem(sys.modules, "vllm", fake)
    made = build(Wish(f"local:{folder}", settings={"engine": "vllm"}), "credentialed", {}, "auto", Chat)
    said = {}
    made.asker.ask([Prompt(rubric(max_tokens=5), (("user", "a b"),), repeat=2)], said.__setitem__)
    assert (said[0].text, said[0].output_tokens) == ("fine", 1)
    ((prompt, params),) = asked
    assert prompt == {"prompt": "[user] a b [assistant] "}
    assert (params.max_tokens, params.temperature) == (5, 0.0)


def test_a_run_is_judged_by_a_model_behind_a_server_and_by_the_same_one_in_a_folder(cli, folder, tmp_path):
    """The whole path, as a new user would take it; nothing quotes what a random model says."""
    run, _ = small_run(cli, tmp_path)
    with model_server(folder) as server:
        told = ("score", run, "--judge", "openai:tiny", "--judge-url", server.url, "--metrics")
        code, out, err = cli(*told, "chexprompt")
        assert code == 0, err
        asked = len(server.heard)
        assert 0 < asked <= 24
        assert cli(*told, "chexprompt")[0] == 0
        assert len(server.heard) == asked
    summary = json.loads((run / "summary.json").read_text())["metrics"]["chexprompt:default"]
    assert summary["total"]["n"] == 24
    assert 0 < summary["total"]["value"] <= 36
    # In a folder it has no schema to keep to: it writes words, which are no counts and never a score.
    Path("brief.yaml").write_text(BRIEF)
    told = ("score", run, "--metrics", "chexprompt", "--judge", f"local:{folder}", "--rubric", "brief.yaml")
    code, out, err = cli(*told, "--judge-set", "engine=slots", "--device", "cpu")
    assert code == 3
    assert "not one of 24 samples could be scored" in err
    assert "24 unreadable" in " ".join((out + err).split())


def test_importing_what_a_judge_needs_does_not_load_torch():
    code = "import sys, cxrbench.engines.chat, cxrbench.judges.build; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
