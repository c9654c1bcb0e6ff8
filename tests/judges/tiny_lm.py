"""Tiny causal language models in real folders, with random weights: they prove a path, what they say means nothing."""

from __future__ import annotations

TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}[assistant] "
WORDS = ("<end>", "<unk>", "[user]", "[assistant]", *"abcdefghij", *"0123")
POSITIONS = 1024
"""Its context."""
SEED = 0
"""One with which it ends some answers and not others."""


def write_folder(made, config):
    """A language model over a vocabulary of words, with weights large enough that its answers differ."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(made)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        module = AutoModelForCausalLM.from_config(config)
        for parameter in module.parameters():
            parameter.data.normal_(std=0.4)
    module.save_pretrained(made)
    return made


def llama():
    """Settings of a Llama, which every engine takes."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=POSITIONS, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
