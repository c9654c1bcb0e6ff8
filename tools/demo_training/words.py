"""What the models learn to write: reports of drawn studies as token ids, and the tokenizer made for them.

Nobody can see a change in one picture, so every study is told as if it were the patient's first: nothing is new, worse,
stable or resolved in a training text.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cxrbench.data.phantom_text import write
from cxrbench.data.phantom_world import Case, case
from cxrbench.models.demo import PROMPTS

VOCABULARY = 832
SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
PAD, BOS, EOS, IMAGE = range(4)

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
"""One turn, nothing around it: the report follows the prompt."""

_RETOLD = 1_000_003
"""Added to the seed of a case to tell it again in other words; the picture stays."""


def alone(true: Case, telling: int = 0) -> Case:
    """The case without its past, told for the `telling`-th time."""
    now = tuple(replace(finding, change="") for finding in true.findings)
    return replace(true, seed=true.seed + _RETOLD * telling, findings=now, resolved=(), prior=None, visit=0)


def mirrored(true: Case) -> Case:
    """The case with left and right changed."""
    other = {"left": "right", "right": "left", "": ""}
    return replace(true, findings=tuple(replace(finding, side=other[finding.side]) for finding in true.findings))


def text(true: Case, target: str, telling: int = 0, *, verbose: bool = False) -> str:
    """The report a model is trained on; verbose: all of it twice, the second time in other words."""
    tellings = (telling, telling + 1) if verbose else (telling,)
    reports = [write(alone(true, each)) for each in tellings]
    return " ".join(each.findings.text if target == "findings" else each.impression.text for each in reports)


def train_tokenizer(seed: int, studies: int) -> Any:
    """A byte-level BPE over texts of the train split."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    def corpus() -> Any:
        for index in range(studies):
            true = case(seed, "train", index)
            for target, prompt in PROMPTS.items():
                yield f"{prompt} {text(true, target)}"

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(corpus(), vocab_size=VOCABULARY, special_tokens=list(SPECIAL), show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )


def prompt_ids(tokenizer: Any, target: str, image_tokens: int) -> list[int]:
    """The prompt as the template and processor make it."""
    words = tokenizer(PROMPTS[target], add_special_tokens=False)["input_ids"]
    return [BOS, *([IMAGE] * image_tokens), *words]


def answer_ids(tokenizer: Any, report: str) -> list[int]:
    """A report as it follows the prompt, with its end."""
    return [*tokenizer(f" {report}", add_special_tokens=False)["input_ids"], EOS]
