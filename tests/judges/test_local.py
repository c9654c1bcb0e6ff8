"""A judge on this machine: a tiny causal language model in a real folder, with random weights, to test the path."""

from __future__ import annotations

import pytest

from cxrbench.errors import CxrbenchError
from cxrbench.features.causal_lm import CausalLM, fingerprint
from cxrbench.judges.ask import Prompt
from cxrbench.judges.build import Wish, build
from cxrbench.judges.rubric import Rubric

TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}[assistant] "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2 of two tiny layers over a vocabulary of words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    made = tmp_path_factory.mktemp("lm")
    words = ["<end>", "<unk>", "[user]", "[assistant]", *"abcdefghij"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(made)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(words), n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(made)
    return made


def answers(folder, texts, **further):
    said = {}
    how = {"max_tokens": 8, "temperature": 0.0, "top_p": None, "seed": 0} | further
    CausalLM(folder, "cpu").answer([[("user", text)] for text in texts], answered=said.__setitem__, **how)
    return [said[i] for i in range(len(texts))]


def test_prompts_of_any_length_are_answered_in_their_place_as_if_alone(folder):
    texts = ["a b c", "j", "a b c d e f g h i j", "e e"]
    together = answers(folder, texts)
    assert together == [answers(folder, [text])[0] for text in texts]
    assert [each.prompt_tokens for each in together] == [5, 3, 12, 4]
    assert all(each.finish_reason in ("stop", "length") for each in together)


def test_sampling_follows_its_seed_and_leaves_the_global_one_alone(folder):
    import torch

    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one, same, other = (answers(folder, ["a b"], temperature=5.0, seed=seed)[0].text for seed in (1, 1, 2))
    assert one == same != other
    assert (torch.random.get_rng_state() == state).all()


def test_a_prompt_longer_than_the_context_is_a_named_failure(folder):
    assert answers(folder, ["a " * 80, "a"])[0] is None
    judge = build(Wish(f"local:{folder}"), "credentialed", {}, "cpu")
    rubric = Rubric(name="x", version=1, parser="verdict", task="{text}")
    found = {}
    judge.asker.ask([Prompt(rubric, (("user", "a " * 80),))], found.__setitem__)
    assert (found[0].outcome, found[0].text) == ("prompt_too_long", None)


def test_other_weights_are_another_judge(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert fingerprint(copy) == fingerprint(folder)
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    assert fingerprint(copy) != fingerprint(folder)
    with pytest.raises(CxrbenchError, match="no model"):
        fingerprint(tmp_path)
