"""`nearest-image`: the report of the train study whose key image looks most alike.

Retrieval without learning, so what it reaches owes nothing to language: a generator that stays below it has not used
its images well. An image becomes a 32 x 32 thumbnail (each pixel the mean of its area, aspect ratio not kept); alike
means the correlation of two thumbnails, that is the cosine after the mean is taken out, so exposure does not matter.
numpy and Pillow only. docs/baselines.md is the user's page.

Thumbnails are bytes, so sums of products are integers that float64 holds exactly, and the answer does not depend on the
batch, the number of threads or the arithmetic library: a run that was killed and repeated equals one that was not.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from cxrbench.data.images import ImageFailure
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.models.base import BatchResult, ModelCard, ModelOptions, Prepared, ReadImage, Stages
from cxrbench.models.baselines import NEEDS_TRAIN, refuse_settings
from cxrbench.types import EMPTY, OK, BatchTiming, Generation, Image, Prediction, Request, RequestKind, Sample

SIDE = 32
"""Pixels along a side: lung fields, heart and large effusions are there, and a train image costs 1 kB."""

PIXELS = SIDE * SIDE
BLANK = "the key image has one grey value throughout"

_ROWS = 4096
"""Train images multiplied at a time: 32 MB as float64."""

Thumbnail = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Query:
    """A sample's thumbnail, who must not be retrieved for it, and when it was taken up."""

    thumbnail: Thumbnail
    study_id: str
    patient_id: str | None
    accepted: float


@dataclass(frozen=True, slots=True)
class Gallery:
    """The train split, sorted by study and sample id, so that the first of equals is the smallest.

    `thumbnails` (n, 1024) uint8; `spread` (n,) float64, the root of `N sum(x^2) - sum(x)^2`. `left_out` counts the
    samples whose image could not be used, by outcome. `seconds` is the time the reading took.
    """

    reports: tuple[str, ...]
    studies: NDArray[np.object_]
    patients: NDArray[np.object_]
    thumbnails: Thumbnail
    spread: NDArray[np.float64]
    left_out: dict[str, int]
    seconds: float

    def nearest(self, queries: Sequence[Query]) -> list[int | None]:
        """Row of the most alike image of another patient (and study) for each query; None when there is none."""
        mine = np.stack([query.thumbnail for query in queries]).astype(np.float64)
        similarity = np.empty((len(queries), len(self.reports)))
        for start in range(0, len(self.reports), _ROWS):
            rows = slice(start, start + _ROWS)
            theirs = self.thumbnails[rows].astype(np.float64)
            covariance = PIXELS * (mine @ theirs.T) - mine.sum(axis=1)[:, None] * theirs.sum(axis=1)
            similarity[:, rows] = covariance / self.spread[rows]
        return [self._best(query, row) for query, row in zip(queries, similarity, strict=True)]

    def _best(self, query: Query, similarity: NDArray[np.float64]) -> int | None:
        excluded = self.studies == query.study_id
        if query.patient_id is not None:
            excluded |= self.patients == query.patient_id
        if excluded.all():
            return None
        return int(np.argmax(np.where(excluded, -np.inf, similarity)))


class NearestImage:
    """Retrieval by thumbnail; see the module. `--readers` threads read the train images."""

    card = ModelCard(
        "nearest-image",
        "the report of the most similar train image",
        revision="1",
        trained_on=("the task's train split",),
        notes="retrieval without learning; never a study of the same patient where patients are known",
    )
    kinds: frozenset[RequestKind] = frozenset({"generate"})
    consumes: frozenset[str] = frozenset({"image"})
    needs_pool = True
    batch_size = 32

    def __init__(self, options: ModelOptions) -> None:
        refuse_settings(self.card.name, options)
        self._workers = max(1, options.workers)
        self._read = options.read_image
        self._pool: tuple[Sample, ...] = ()
        self._asked: dict[str, Sample] = {}
        self._report: Stages = lambda stage, done, total: None

    def watch(self, report: Stages) -> None:
        """Say how many train images are read, before the first sample is answered."""
        self._report = report

    def identity(self) -> dict[str, Any]:
        """The rules; the train split's content is part of the run's own identity."""
        return {
            "name": self.card.name,
            "revision": self.card.revision,
            "thumbnail": f"{SIDE}x{SIDE} area mean",
            "similarity": "cosine of mean-free pixels, ties by study id",
            "images": "the key image of each study, else its first; views are not matched",
            "excluded": "same study, and same patient where known",
        }

    def circumstances(self) -> dict[str, Any]:
        """What the gallery holds; reads it, if that has not been done."""
        patients = sum(patient is not None for patient in self.gallery.patients)
        return {
            "device": "cpu",
            "engine": "none",
            "gallery": len(self.gallery.reports),
            "gallery_left_out": dict(self.gallery.left_out),
            "gallery_with_patient": patients,
            "gallery_seconds": round(self.gallery.seconds, 3),
        }

    def fit(self, pool: Callable[[], Iterable[Sample]]) -> None:
        """Remember the train split. Its images are read when they are needed: planning a run reads none."""
        self._pool = tuple(sorted(pool(), key=lambda each: (each.study_id, each.sample_id)))
        self.__dict__.pop("gallery", None)

    @cached_property
    def gallery(self) -> Gallery:
        """The thumbnails of the train split, read by several threads.

        Raises:
            CxrbenchError: there is no train sample, or none with an image that can be used.
        """
        begin = time.perf_counter()
        found: list[tuple[Sample, Thumbnail]] = []
        left_out: Counter[str] = Counter()
        self._report("reading train images", 0, len(self._pool))
        for done, (sample, thumbnail) in enumerate(self._read_pool(), start=1):
            self._report("reading train images", done, len(self._pool))
            if isinstance(thumbnail, str):
                left_out[thumbnail] += 1
            else:
                found.append((sample, thumbnail))
        if not found:
            counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(left_out.items()))
            raise CxrbenchError(
                "no train image can be used" if self._pool else "the train split is empty",
                where=f"model {self.card.name}, train samples: {counts or 0}",
                fix="cxrbench data check DATASET" if self._pool else NEEDS_TRAIN,
                code=Exit.UNDECIDED,
            )
        thumbnails = np.stack([thumbnail for _, thumbnail in found])
        return Gallery(
            tuple(sample.target for sample, _ in found),
            np.array([sample.study_id for sample, _ in found], object),
            np.array([sample.patient_id for sample, _ in found], object),
            thumbnails,
            np.sqrt(spread(thumbnails).astype(np.float64)),
            dict(sorted(left_out.items())),
            time.perf_counter() - begin,
        )

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """Take the key image."""
        image = key_image(sample)
        self._asked[sample.sample_id] = sample
        return Request(
            sample.sample_id,
            kind,
            images=(image,) if image is not None else (),
            inputs=(f"image:{image.view or 'unknown'}",) if image is not None else (),
            generation=generation,
            seed=seed,
        )

    def cost(self, request: Request) -> int:
        """All alike."""
        return 1

    def prepare(self, request: Request) -> Prepared:
        """Read the image and make its thumbnail."""
        accepted = time.perf_counter()
        if not request.images:
            return Prepared(request, failure=("no_input", "the sample offers no image"))
        try:
            grey = self._read(request.images[0].path)
        except ImageFailure as failure:
            times = {"image_read": time.perf_counter() - accepted}
            return Prepared(request, failure=(failure.outcome, failure.detail), times=times)
        read = time.perf_counter()
        thumbnail = shrink(grey)
        times = {"image_read": read - accepted, "preprocess": time.perf_counter() - read}
        if not spread(thumbnail[None])[0]:
            return Prepared(request, failure=("no_input", BLANK), times=times)
        sample = self._asked[request.sample_id]
        return Prepared(request, Query(thumbnail, sample.study_id, sample.patient_id, accepted), times=times)

    def generate(self, batch: int, prepared: Sequence[Prepared]) -> BatchResult:
        """Look up a batch at once."""
        gallery = self.gallery
        begin = time.perf_counter()
        rows = gallery.nearest([each.payload for each in prepared]) if prepared else []
        predictions = [_answer(each, row, gallery, batch) for each, row in zip(prepared, rows, strict=True)]
        return BatchResult(tuple(predictions), BatchTiming(batch, len(prepared), time.perf_counter() - begin))

    def close(self) -> None:
        """Let go of the train split."""
        self._pool, self._asked = (), {}
        self.__dict__.pop("gallery", None)

    def _read_pool(self) -> Iterator[tuple[Sample, Thumbnail | str]]:
        """Thumbnails in the order of the pool, or the outcome that prevented one; a bounded number in flight."""
        waiting = iter(self._pool)
        with ThreadPoolExecutor(self._workers, thread_name_prefix="cxrbench-gallery") as threads:
            while part := list(islice(waiting, 64 * self._workers)):
                yield from zip(part, threads.map(partial(_thumbnail_of, read=self._read), part), strict=True)


def key_image(sample: Sample) -> Image | None:
    """The image a single-image model should use: the task's key image, else the first one offered."""
    if sample.key_image is None:
        return sample.images[0] if sample.images else None
    return next((image for image in sample.images if image.image_id == sample.key_image), None)


def shrink(grey: NDArray[np.uint8]) -> Thumbnail:
    """Average an image (H, W) over 32 x 32 areas: (1024,) uint8."""
    picture = PIL.Image.fromarray(grey).resize((SIDE, SIDE), PIL.Image.Resampling.BOX)
    return np.asarray(picture).reshape(PIXELS)


def spread(thumbnails: Thumbnail) -> NDArray[np.int64]:
    """N sum(x^2) - sum(x)^2 of each row, exact: N^2 times the variance, 0 for a blank image."""
    values = thumbnails.astype(np.int64)
    return np.asarray(PIXELS * (values**2).sum(axis=1) - values.sum(axis=1) ** 2)


def _thumbnail_of(sample: Sample, read: ReadImage) -> Thumbnail | str:
    image = key_image(sample)
    if image is None:
        return "no_input"
    try:
        thumbnail = shrink(read(image.path))
    except ImageFailure as failure:
        return failure.outcome
    return thumbnail if spread(thumbnail[None])[0] else "blank"


def _answer(prepared: Prepared, row: int | None, gallery: Gallery, batch: int) -> Prediction:
    request, query = prepared.request, prepared.payload
    times = {**prepared.times, "latency": time.perf_counter() - query.accepted}
    if row is None:
        detail = "every train image is of the same patient"
        return Prediction(
            request.sample_id, "no_input", None, "error", inputs=request.inputs, times=times, batch=batch, detail=detail
        )
    text = gallery.reports[row]
    outcome = OK if text.strip() else EMPTY
    return Prediction(request.sample_id, outcome, text, inputs=request.inputs, times=times, batch=batch)
