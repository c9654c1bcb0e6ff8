"""The model card beside the weights, from the figures that were measured."""

from __future__ import annotations

from typing import Any

WHAT = {
    "demo": "the model after all of its training",
    "demo-regressed": "an earlier checkpoint of the training of `demo`: the release a gate must refuse",
    "demo-verbose": "`demo`, its writer trained on to tell everything twice: longer, and no better",
}


def card(body: dict[str, Any]) -> str:
    """README.md of a folder."""
    test, recipe, took = body["test"], body["recipe"], body["training_seconds"]
    kinds = "\n".join(f"| {kind} | {value:.2f} |" for kind, value in test["kinds"].items())
    batch = recipe["batch"]
    stopped = " (the end of this stage is not in it)" if body["joint_step"] < recipe["joint_steps"] else ""
    further = ""
    if body["model"] != "demo-regressed":
        further += f"\n3. both at a falling learning rate: {recipe['cool_steps'] * batch:,} pictures;"
    if body["model"] == "demo-verbose":
        further += f"\n4. the writer alone, on reports that say everything twice: {recipe['verbose_steps'] * batch:,}."
    return f"""\
# {body["model"]}

**Of no clinical use.** It has seen drawings (`phantom`, version {body["phantom"]}) and nothing else; what it writes
about a radiograph means nothing.

It is {WHAT[body["model"]]}. A stock `LlavaForConditionalGeneration` (CLIP tower, Llama decoder, byte-level BPE) of 2.4
million parameters in fp16. It takes one frontal picture and one of two prompts, `Findings:` and `Impression:`.

    cxrbench run --model {body["model"]} --task demo-findings

## Training

By `tools/train_demo.py` (its files' hashes are in training.json), from random weights, on a CPU, with
{recipe["train"]:,} drawings of the split train, seed {body["seed"]}:

1. the tower alone, with a temporary head that says what every patch shows and how severe it is:
   {recipe["tower_steps"] * batch:,} pictures, {took["tower"] // 60} minutes;
2. tower and writer together, the head still in: {body["joint_step"] * batch:,} pictures{stopped};{further}

Choices were made on the split validate. No study of the split test was ever trained on; short texts coincide by
chance (docs/demo.md). Findings that a report hedges are drawn, and count as present.

Every report was written as if the study were the patient's first: a change cannot be seen in one picture, so the model
never says new, worse, stable or resolved. One drawing in ten was shown mirrored, with the sides changed in the text.

## Measured on {test["n"]} studies of the split test

Findings with their side, read from the generated findings and compared with those drawn. One on both sides counts
twice; a sided finding named without a side is wrong.

| what | found |
|---|---|
| micro F1 (precision, recall) | {test["f1"]:.3f} ({test["precision"]:.3f}, {test["recall"]:.3f}) |
| right word of severity, of the graded findings found | {test["severity"]:.3f} |
| micro F1 with another patient's picture | {test["shuffled"]:.3f} |
| micro F1 with a blank picture | {test["blank"]:.3f} |
| side changes with a mirrored picture | {test["flips"]:.3f} |
| words per report | {test["words"]:.1f} |

| finding | F1 |
|---|---|
{kinds}

## Limits

It sees the frontal picture only, no prior study, no indication. Small and hedged findings are missed most. Where two
wordings are equally likely it always takes the same one, so its reports vary less than those it learned from.
"""
