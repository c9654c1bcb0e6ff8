"""A language model behind a real OpenAI-compatible server of the tests: tiny, random weights, structured output.

With a JSON schema, the skeleton of the answer is fixed and the model chooses each number and each word of an enum by
its own scores, as servers with guided decoding do; without one it writes what it writes. What it says means nothing.
"""

from __future__ import annotations

import json

from tests.chat_server import ChatServer, answer
from tests.judges.tiny_lm import WORDS

DIGITS = "0123"
REMEMBERED = 64
"""Tokens of a conversation the model looks at: most words of a rubric are unknown to it anyway."""


class Speaker:
    """Answers one conversation at a time."""

    def __init__(self, folder):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def ids(self, heard):
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in heard["messages"]]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"][-REMEMBERED:]

    def choose(self, ids, words):
        """The likeliest of these words; it becomes part of what the next choice is made from."""
        import torch

        with torch.inference_mode():
            scores = self.model(torch.tensor([ids])).logits[0, -1]
        best = max(words, key=lambda word: float(scores[WORDS.index(word)]))
        ids.append(WORDS.index(best))
        return best

    def fill(self, schema, ids):
        kind = schema["type"]
        if kind == "object":
            return {name: self.fill(each, ids) for name, each in schema["properties"].items()}
        if kind == "integer":
            return int(self.choose(ids, DIGITS))
        if kind == "string" and "enum" in schema:
            letters = dict(zip("abc", schema["enum"], strict=True))
            return letters[self.choose(ids, letters)]
        raise AssertionError(f"no {kind} in the rubrics that are asked this way")

    def free(self, ids, most):
        import torch

        row = torch.tensor([ids])
        with torch.inference_mode():
            made = self.model.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=most, do_sample=False)
        return self.tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True)

    def __call__(self, heard):
        asked, ids = heard.asked, self.ids(heard.asked)
        form = asked.get("response_format", {})
        if form.get("type") == "json_schema":
            text = json.dumps(self.fill(form["json_schema"]["schema"], list(ids)))
        else:
            text = self.free(ids, min(asked["max_tokens"], 20))
        return answer(text, model=asked["model"], usage={"prompt_tokens": len(ids), "completion_tokens": len(text)})


def model_server(folder):
    """Use as a context manager, as `ChatServer`."""
    return ChatServer(Speaker(folder))
