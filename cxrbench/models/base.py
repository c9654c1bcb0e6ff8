"""The model contract: what the runner drives, whether a template, a retrieval baseline or a network.

A model without an engine implements `Model` directly (models/baselines.py). A network is an `Adapter` (what it is)
joined to an engine (how it runs) by `engines.join`, which gives a `Model` as well. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cxrbench.data.images import read_grey
from cxrbench.types import Access, BatchTiming, Generation, Prediction, Request, RequestKind, Sample

ReadImage = Callable[[str], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of a model; printed by `cxrbench list models` and `cxrbench cite`."""

    name: str
    about: str
    source: str = ""
    revision: str = ""
    licence: str = ""
    citation: str = ""
    trained_on: tuple[str, ...] = ()
    notes: str = ""
    targets: tuple[str, ...] = ()
    """Sections it writes."""
    inputs: tuple[str, ...] = ()
    """What of a sample it can use, in words."""
    published: tuple[str, ...] = ()
    """Published figures: `table/row` of baselines/published/, which says who read them where, or a sentence."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Settings of a run that a model may use; the CLI fills them. `argument` is what follows `name:` in --model.

    `read_image` gives grey pixels, uint8 (H, W), by path, or raises `ImageFailure`; by default `images.read_grey`.
    `access` of the data and `trusted_endpoints` of the settings are for engines that send data to a server.
    `places` are the folders that `cxrbench models add` remembered for this model: `path`, `base`, `clip`.
    `asks` are the kinds of request that the task will make; `images` is what the task means a model to look at that can
    look at one or at several: the key image, or all that are offered.
    """

    argument: str = ""
    preset: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    load_format: str = "auto"
    generation: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 2
    seed: int = 0
    extra: Mapping[str, str] = field(default_factory=dict)
    read_image: ReadImage = read_grey
    access: Access = "credentialed"
    trusted_endpoints: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, Path] = field(default_factory=dict)
    asks: frozenset[RequestKind] = frozenset({"generate"})
    images: Literal["key", "all"] = "key"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request whose images are read and pre-processed. `failure` is (outcome, detail) when that was impossible."""

    request: Request
    payload: Any = None
    failure: tuple[str, str] | None = None
    times: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Predictions in the order of the batch (same length, same ids) and the batch's wall times.

    `outputs` are answers that are no text, by sample id: a picture, uint8 (H, W) or (H, W, 3), or a vector, float32
    (d,). The runner puts them into the run folder and names them in the predictions.
    """

    predictions: tuple[Prediction, ...]
    timing: BatchTiming
    outputs: Mapping[str, NDArray[Any]] = field(default_factory=dict)


Stages = Callable[[str, int, int | None], None]
"""Called with (stage, done, total or None) while something long goes on."""


@runtime_checkable
class Watched(Protocol):
    """A model that does something long before it answers, and says how far it is."""

    def watch(self, report: Stages) -> None:
        """Call `report` from now on."""


class Model(Protocol):
    """What the runner drives.

    The runner calls `fit` once when `needs_pool`, then for every sample `request`, for every request `prepare` (from
    several threads at once, ahead of the batch in flight), and for every batch `generate` (from one thread). A sample
    that cannot be answered is a Prediction with a failure outcome, never an exception; an exception ends the run.
    """

    @property
    def card(self) -> ModelCard:
        """What is known of the model."""

    @property
    def kinds(self) -> frozenset[RequestKind]:
        """What it can answer."""

    @property
    def consumes(self) -> frozenset[str]:
        """What of a sample it can use: "image" (the key image), "images" (all), section names, "question", "options".

        "options" without "question": it weighs options that are statements, each as something it might have written.
        """

    @property
    def needs_pool(self) -> bool:
        """Whether it wants to look at the train split."""

    @property
    def batch_size(self) -> int:
        """A sensible default; `--batch-size` overrides."""

    def identity(self) -> dict[str, Any]:
        """Everything that changes the text: name, revision, weights hash, preset, dtype, generation, image backend."""

    def circumstances(self) -> dict[str, Any]:
        """What does not change what was asked: device, engine, attention, package versions."""

    def fit(self, pool: Callable[[], Iterable[Sample]]) -> None:
        """Look at the samples of the task's train split."""

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """Make the one request for a sample: prompt and images; `inputs` names what was consumed."""

    def cost(self, request: Request) -> int:
        """A cheap proxy for how long a request takes; batches are cut from the list sorted by it."""

    def prepare(self, request: Request) -> Prepared:
        """Read and pre-process. Thread-safe. Never raises for a bad image: returns `failure`."""

    def generate(self, batch: int, prepared: Sequence[Prepared]) -> BatchResult:
        """Answer a batch; `batch` is its number in the run."""

    def close(self) -> None:
        """Give back memory and processes."""
