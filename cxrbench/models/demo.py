"""`demo`, `demo-regressed`, `demo-verbose`: tiny trained report generators for the drawn data set `phantom`.

Each is a stock LLaVA folder in cxrbench/embedded/ run by the adapter `hf`, with the prompts it was trained on and the
key image only. They have seen drawings and nothing else: on real radiographs what they write means nothing.
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

PROMPTS: Mapping[str, str] = {"findings": "Findings:", "impression": "Impression:"}
"""What the models were trained to answer, by the task's target."""

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
        if target not in PROMPTS:
            raise CxrbenchError(
                f"{self.folder} writes findings or an impression, not {target!r}{suggest(target, PROMPTS)}",
                where="the task's target",
                fix="--task demo-findings or --task demo-impression",
            )
        extra = {"target": target, "prompt": PROMPTS[target]}
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

    def circumstances(self) -> dict[str, Any]:
        """Those of `hf`, and what the model is good for: on data it was not made for, `note` is shown."""
        return {**super().circumstances(), "made_for": Phantom.name, "note": NO_USE}

    def load(self, settings: LoadSettings) -> Network:
        """Bring the network up, on one thread of the processor.

        Its layers are so small that a second thread gains a tenth; on a machine that is busy, threads that wait for
        each other after every layer made a run of 12 seconds one of 290.
        """
        import torch

        if settings.device == "cpu":
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
