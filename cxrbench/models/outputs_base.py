"""What the model-free baselines that give vectors or pictures have in common. No engine, no torch."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbench.data.images import ImageFailure
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.models.base import BatchResult, ModelCard, ModelOptions, Prepared, ReadImage, Stages
from cxrbench.models.baselines import NEEDS_TRAIN, refuse_settings
from cxrbench.models.nearest import key_image
from cxrbench.types import OK, BatchTiming, Generation, Prediction, Request, RequestKind, Sample

Grey = NDArray[np.uint8]


class Outputs(ABC):
    """A model without an engine whose answers are arrays: subclasses say which one (`output`).

    A subclass that learns from the train split sets `needs_pool` and fits itself at its first answer, so that
    planning a run reads no image.
    """

    card: ModelCard
    kinds: frozenset[RequestKind]
    consumes: frozenset[str] = frozenset()
    needs_pool = False
    batch_size = 64

    def __init__(self, options: ModelOptions) -> None:
        refuse_settings(self.card.name, options)
        self.workers = max(1, options.workers)
        self.read_image: ReadImage = options.read_image
        self.pool: tuple[Sample, ...] = ()
        self.report: Stages = lambda stage, done, total: None

    @abstractmethod
    def output(self, request: Request, grey: Grey | None) -> NDArray[Any]:
        """The answer to a request: float32 (d,), or a picture uint8 (H, W). `grey` is its image, if it has one."""

    def watch(self, report: Stages) -> None:
        """Say how many train images are read, before the first sample is answered."""
        self.report = report

    def identity(self) -> dict[str, Any]:
        """Name and version; subclasses add what else changes the answer."""
        return {"name": self.card.name, "revision": self.card.revision}

    def circumstances(self) -> dict[str, Any]:
        """Where it ran: always the CPU, without an engine; its speed says nothing about a model."""
        return {"device": "cpu", "engine": "none", "timed": False}

    def fit(self, pool: Callable[[], Iterable[Sample]]) -> None:
        """Remember the samples of the train split that have an image, in the order of their ids."""
        found = (sample for sample in pool() if sample.images)
        self.pool = tuple(sorted(found, key=lambda each: (each.study_id, each.sample_id)))

    def need_pool(self) -> tuple[Sample, ...]:
        """The train split.

        Raises:
            CxrbenchError: it is empty.
        """
        if not self.pool:
            raise CxrbenchError(
                "the train split is empty", where=f"model {self.card.name}", fix=NEEDS_TRAIN, code=Exit.UNDECIDED
            )
        return self.pool

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """Consume nothing of the sample."""
        return Request(sample.sample_id, kind, generation=generation, seed=seed)

    def cost(self, request: Request) -> int:
        """All alike."""
        return 1

    def prepare(self, request: Request) -> Prepared:
        """Read the image, where the request has one."""
        accepted = time.perf_counter()
        if self.consumes and not request.inputs:
            return Prepared(request, failure=("no_input", "the sample offers nothing this model can use"))
        grey = None
        try:
            if request.images:
                grey = self.read_image(request.images[0].path)
        except ImageFailure as failure:
            spent = {"image_read": time.perf_counter() - accepted}
            return Prepared(request, failure=(failure.outcome, failure.detail), times=spent)
        return Prepared(request, (grey, accepted), times={"image_read": time.perf_counter() - accepted})

    def generate(self, batch: int, prepared: Sequence[Prepared]) -> BatchResult:
        """Answer one after the other."""
        begin = time.perf_counter()
        predictions, outputs = [], {}
        for each in prepared:
            grey, accepted = each.payload
            outputs[each.request.sample_id] = self.output(each.request, grey)
            times = {**each.times, "latency": time.perf_counter() - accepted}
            predictions.append(
                Prediction(each.request.sample_id, OK, inputs=each.request.inputs, times=times, batch=batch)
            )
        return BatchResult(tuple(predictions), BatchTiming(batch, len(prepared), time.perf_counter() - begin), outputs)

    def close(self) -> None:
        """Let go of the train split."""
        self.pool = ()

    def read_pool(self, change: Callable[[Grey], NDArray[Any]]) -> Iterator[tuple[Sample, NDArray[Any]]]:
        """Train samples with what `change` makes of their image, in order; those that cannot be read are left out.

        A bounded number is in flight.
        """
        pool, done = self.need_pool(), 0
        waiting = iter(pool)
        with ThreadPoolExecutor(self.workers, thread_name_prefix="cxrbench-train") as threads:
            while part := list(islice(waiting, 64 * self.workers)):
                for sample, made in zip(part, threads.map(self._changed(change), part), strict=True):
                    done += 1
                    self.report("reading train images", done, len(pool))
                    if made is not None:
                        yield sample, made

    def _changed(self, change: Callable[[Grey], NDArray[Any]]) -> Callable[[Sample], NDArray[Any] | None]:
        def read(sample: Sample) -> NDArray[Any] | None:
            image = key_image(sample)
            try:
                return change(self.read_image(image.path)) if image is not None else None
            except ImageFailure:
                return None

        return read
