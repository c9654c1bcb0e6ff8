"""What the engine costs around generate(): ours beside a plain stock loop, in one run.

    python benchmarks/engine.py [--rounds 15] [--batch 8] [--batches 4] [--new-tokens 60]

A tiny LLaVA-shaped checkpoint with random weights (tests/tiny_llava.py), so that fixed costs weigh the most they can:
at full size generate() takes seconds and the same costs vanish. Both sides answer the same batches of real PNG files
with the same settings, batch by batch in turns (ours, plain, plain, ours, ...), on one CPU thread. `prepare` is image
reading, pixels and tokens; `generate` is padding, generate() and decoding, with our stage times, NaN watch and
per-sample records inside. Everything runs in one thread, so its processor time is the cost; of every batch the fastest
of all rounds counts. Both are what other work on the machine disturbs least. The goal is an overhead of generate below
5 %. Texts are compared and must be equal.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Picture

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from tiny_llava import make

from cxrbench.engines.base import join
from cxrbench.engines.transformers import TransformersEngine
from cxrbench.models.base import ModelOptions
from cxrbench.models.hf import HuggingFace
from cxrbench.types import Generation, Image, Sample


class Ours:
    """hf on the transformers engine, as the runner drives it."""

    def __init__(self, folder, samples, new_tokens):
        self.model = join(HuggingFace, TransformersEngine, ModelOptions(argument=str(folder), device="cpu"))
        settings = Generation(max_new_tokens=new_tokens)
        self.requests = [self.model.request(sample, "generate", settings, 0) for sample in samples]
        self.model.engine.load()

    def prepare(self, places):
        return [self.model.prepare(self.requests[place]) for place in places]

    def generate(self, prepared):
        return [each.text for each in self.model.generate(0, prepared).predictions]


class Plain:
    """The loop one would write by hand with the same checkpoint."""

    def __init__(self, folder, samples, new_tokens):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.module = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        self.processor.tokenizer.padding_side = "left"
        self.settings = {"do_sample": False, "max_new_tokens": new_tokens}
        prompt = "Write the findings section of the radiology report for this chest X-ray."
        self.files = [sample.images[0].path for sample in samples]
        self.turns = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image"},
                        {"type": "text", "text": "\n".join([prompt, f"Indication: {sample.sections['indication']}"])},
                    ],
                }
            ]
            for sample in samples
        ]

    def prepare(self, places):
        texts = [self.processor.apply_chat_template(self.turns[n], add_generation_prompt=True) for n in places]
        pictures = [Picture.open(self.files[n]).convert("RGB") for n in places]
        return self.processor(images=pictures, text=texts, padding=True, add_special_tokens=False, return_tensors="pt")

    def generate(self, inputs):
        with torch.inference_mode():
            rows = self.module.generate(**inputs, **self.settings)[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(rows, skip_special_tokens=True)]


def timed(function, *arguments):
    begin = time.thread_time()
    result = function(*arguments)
    return result, time.thread_time() - begin


def one_batch(side, places):
    """Seconds of (prepare, generate), and the texts."""
    prepared, first = timed(side.prepare, places)
    texts, second = timed(side.generate, prepared)
    return np.array((first, second)), texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, value in (("rounds", 15), ("batch", 8), ("batches", 4), ("new-tokens", 60)):
        parser.add_argument(f"--{name}", type=int, default=value)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    count = wanted.batch * wanted.batches
    with tempfile.TemporaryDirectory() as place:
        folder = make(Path(place) / "tiny")
        samples = []
        for number in range(count):
            file = Path(place) / f"{number}.png"
            Picture.fromarray(random.integers(0, 256, (512, 420), dtype=np.uint8)).save(file)
            sections = {"indication": "fever and cough " * (1 + number % 5)}
            sections["indication"] = sections["indication"].strip()
            samples.append(Sample(f"s{number}", "s", None, "", (Image("i", str(file), "PA"),), sections=sections))
        batches = [range(start, start + wanted.batch) for start in range(0, count, wanted.batch)]
        sides = {"ours": Ours(folder, samples, wanted.new_tokens), "plain": Plain(folder, samples, wanted.new_tokens)}
        texts = {name: [one_batch(side, places)[1] for places in batches] for name, side in sides.items()}
        assert texts["ours"] == texts["plain"], "the two loops wrote different texts"
        best = {name: np.full((len(batches), 2), np.inf) for name in sides}
        for turn in range(wanted.rounds * len(batches)):
            number = turn % len(batches)
            for name in ("ours", "plain") if turn % 2 == 0 else ("plain", "ours"):
                best[name][number] = np.minimum(best[name][number], one_batch(sides[name], batches[number])[0])
    print(f"{count} reports, batches of {wanted.batch}, {wanted.new_tokens} new tokens, fastest of {wanted.rounds}")
    print(f"{'CPU seconds':<14}{'prepare':>10}{'generate':>10}{'together':>10}{'reports/s':>11}")
    for name, spent in best.items():
        first, second = spent.sum(axis=0)
        print(f"{name:<14}{first:>10.3f}{second:>10.3f}{first + second:>10.3f}{count / (first + second):>11.1f}")
    parts = best["ours"].sum(axis=0) / best["plain"].sum(axis=0)
    together = best["ours"].sum() / best["plain"].sum()
    print(f"{'ours / plain':<14}{parts[0]:>10.3f}{parts[1]:>10.3f}{together:>10.3f}")
    print(f"texts equal: {count} of {count}")


if __name__ == "__main__":
    main()
