"""`demo`, `demo-regressed`, `demo-verbose`: tiny trained report generators for the drawn data set `phantom`.

Each is a stock LLaVA folder in cxrbench/embedded/ run by the adapter `hf`, with the prompts it was trained on and the
key image only. They have seen drawings and nothing else: on real radiographs what they write means nothing. They know
no questions; where the options of one are statements, they weigh each as the beginning of their report.
docs/demo.md is the user's page, tools/train_demo.py made the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from cxrbench.data.phantom import Phantom
from cxrbench.errors import CxrbenchError, suggest
from cxrbench.models.adapter import LoadSettings, Network
from cxrbench.models.base import ModelCard, ModelOptions
from cxrbench.models.hf import HuggingFace
from cxrbench.shipped import embedded
from cxrbench.types import Generation, Request, RequestKind, Sample

PROMPTS: Mapping[str, str] = {"findings": "Findings:", "impression": "Impression:"}
"""What the models were trained to answer, by the task's target."""

ANSWER = "answer"
"""The target of a task that asks questions."""

NO_USE = "trained on drawings of the data set phantom: of no clinical use, and meaningless on any other images"


class Demo(HuggingFace):
    """The best of the three; see `cxrbench.models.adapter.Adapter`."""

    folder: ClassVar[str] = "demo"
    about: ClassVar[str] = "a tiny LLaVA trained on phantom"
    depends: ClassVar[Mapping[str, str]] = {}
    settings: ClassVar[Mapping[str, str]] = {"target": "which trained prompt: findings or impression"}

    def __init__(self, options: ModelOptions) -> None:
        if options.argument:
            raise CxrbenchError(
                f"{self.folder} takes no argument", where=f"--model {self.folder}:", fix=f"--model {self.folder}"
            )
        target = options.extra.get("target", "findings")
        self.weighs = target == ANSWER and options.asks == {"score_options"}
        if target not in PROMPTS and not self.weighs:
            raise CxrbenchError(
                f"{self.folder} writes findings or an impression, not {target!r}{suggest(target, PROMPTS)}",
                where="the task's target",
                fix="--task demo-findings, demo-impression, or demo-choice-likelihood, whose statements it can weigh",
            )
        self._threads_named = "threads" in options.extra  # the engine sets and checks them
        written = "findings" if self.weighs else target
        extra = {"target": written, "prompt": PROMPTS[written]}
        super().__init__(replace(options, argument=str(embedded(self.folder)), extra=extra))

    @property
    def name(self) -> str:
        """The registered name."""
        return self.folder

    @property
    def card(self) -> ModelCard:
        """What it is, and what it is not."""
        return ModelCard(
            name=self.folder,
            about=self.about,
            source="tools/train_demo.py",
            licence="Apache-2.0, as cxrbench",
            trained_on=("phantom, split train",),
            notes=f"{NO_USE}; random weights: for speed only, never scored" if self.dummy else NO_USE,
        )

    @property
    def consumes(self) -> frozenset[str]:
        """The key image; of a question the options, which it weighs without having read it."""
        return frozenset({"image", "options"}) if self.weighs else super().consumes

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """The trained prompt; a question is left out.

        Raises:
            CxrbenchError: an option is no statement, so that it begins no report.
        """
        if not self.weighs:
            return super().request(sample, kind, generation, seed)
        if not all(option.endswith(".") for option in sample.options):
            raise CxrbenchError(
                f"{self.folder} weighs options as the beginning of a report, and here they are no sentences",
                where="the task's options",
                fix="--task demo-choice-likelihood, or a model that takes questions: hf:DIR",
            )
        return super().request(replace(sample, question=None), kind, generation, seed)

    def circumstances(self) -> dict[str, Any]:
        """Those of `hf`, and what the model is good for: on data it was not made for, `note` is shown."""
        return {**super().circumstances(), "made_for": Phantom.name, "note": NO_USE}

    def load(self, settings: LoadSettings) -> Network:
        """Bring the network up, on one thread of the processor unless `--set threads=` asked for others.

        Its layers are so small that a second thread gains a tenth; on a machine that is busy, threads that wait for
        each other after every layer made a run of 12 seconds one of 290.
        """
        import torch

        if settings.device == "cpu" and not self._threads_named:
            torch.set_num_threads(1)
        return super().load(settings)


class DemoRegressed(Demo):
    """An earlier checkpoint of the same training: what a gate must catch."""

    folder = "demo-regressed"
    about = "an earlier checkpoint of demo, clearly worse"


class DemoVerbose(Demo):
    """`demo` taught to say everything twice: what a length guard must catch."""

    folder = "demo-verbose"
    about = "demo taught to write longer reports that say no more"
