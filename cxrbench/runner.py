"""The loop: samples x model -> predictions and timings on disk. No metric is imported here.

A resumed run answers whole batches of the plan again and writes what is missing, so it equals one that was never
interrupted. A sample whose image could not be read is asked again once its file has changed; an answered sample whose
image has changed stops the run. Images of the next batches are read while the model answers this one.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.plan import Plan, pixel_key
from cxrbench.store import Appender, RunFolder, prediction_row
from cxrbench.tables import write_samples
from cxrbench.types import EMPTY, OK, Prediction, Request

if TYPE_CHECKING:
    from cxrbench.models.base import Model, Prepared

Progress = Callable[[int, int], None]
AHEAD = 2
"""Batches whose images are read ahead: enough to hide the disk, little enough to hold in memory."""


def execute(
    run: RunFolder, plan: Plan, model: Model, circumstances: Mapping[str, Any], workers: int, progress: Progress
) -> int:
    """Answer what is still open in `run`; returns how many samples were answered now.

    Raises:
        CxrbenchError: the folder holds another run, another process writes there, the disk is full, the model fails.
            Everything written before is kept, and the same command goes on.
    """
    # Before there is a folder: a checkpoint that cannot be loaded, a file that fits no sample, leave nothing behind.
    made_on = None if run.exists() else model.circumstances()
    with run.writing():
        manifest = run.begin(plan.manifest)
        if manifest.batch_size != plan.manifest.batch_size:
            raise CxrbenchError(
                f"this run is cut into batches of {manifest.batch_size}, not {plan.manifest.batch_size}",
                where=str(run.path),
                fix=f"--batch-size {manifest.batch_size}, or --out DIR for a new run",
            )
        write_samples(run.samples_file, plan.samples, plan.selected)
        rows = Appender(run.shard_file("predictions"))
        times = Appender(run.shard_file("batches"))
        try:
            answered = run.predictions()
            done = set(answered) - reopened(run, plan, answered, model, workers)
            todo = _open(plan, done, alone=getattr(model, "independent", False))
            if not todo:
                progress(len(done), plan.manifest.n_expected)
                return 0
            run.add_segment({**circumstances, **(made_on or model.circumstances())})
            job = _Job(model, todo, done, rows, times, len(manifest.circumstances), workers)
            return job.answer(lambda n: progress(n, plan.manifest.n_expected))
        finally:
            rows.close()
            times.close()


RETRIED = ("missing_image", "broken_image", "no_decoder", "image_too_large")
"""Failures of the image, which may be gone the next time: the file is there now, or a decoder was installed."""

ASKED_AGAIN = ("no_answer",)
"""Failures of a server, which says nothing about the sample: the same command asks again."""


def _open(plan: Plan, done: Collection[str], *, alone: bool) -> list[tuple[int, Sequence[Request]]]:
    """Batches with an open sample: whole ones, or only what is open where each request is answered `alone`.

    A network's last bits depend on the batch; a server that is asked once per sample would be asked, and paid, twice.
    """
    found: list[tuple[int, Sequence[Request]]] = []
    for number, batch in enumerate(plan.batches):
        left = [request for request in batch if request.sample_id not in done]
        if left:
            found.append((number, left if alone else batch))
    return found


def reopened(
    run: RunFolder, plan: Plan, answered: Mapping[str, Prediction], model: Model, workers: int
) -> frozenset[str]:
    """Samples to ask again: no answer of a server, and failures whose image files changed or can be decoded now.

    Raises:
        CxrbenchError: the image of a sample that was answered has changed, so that going on would mix two data sets.
    """
    requests = [request for batch in plan.batches for request in batch if request.sample_id in answered]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        keys = list(pool.map(lambda request: pixel_key(request.images), requests))
    again, changed = set(), 0
    for request, key in zip(requests, keys, strict=True):
        row = answered[request.sample_id]
        if row.outcome in ASKED_AGAIN:
            again.add(request.sample_id)
        elif row.failed and row.outcome in RETRIED:
            if key != row.pixels or (row.outcome == "no_decoder" and model.prepare(request).failure is None):
                again.add(request.sample_id)
        elif not row.failed and key != row.pixels:
            changed += 1
    if changed:
        raise CxrbenchError(
            f"the images of {changed} answered samples are not those that were answered (changed, moved or missing)",
            where=str(run.path),
            fix="--out DIR for a new run, or bring the images back",
        )
    return frozenset(again)


@dataclass(slots=True)
class _Job:
    """Answering what is open: batches one after the other, reading ahead, each written before the next begins."""

    model: Model
    todo: Sequence[tuple[int, Sequence[Request]]]
    done: set[str]
    rows: Appender
    times: Appender
    segment: int
    workers: int

    def answer(self, progress: Callable[[int], None]) -> int:
        """Returns how many samples were answered."""
        answered = 0
        progress(len(self.done))
        started = time.perf_counter()
        for number, prepared in _ahead(self.model, self.todo, self.workers):
            predictions, row = self._batch(number, prepared)
            fresh = [each for each in predictions if each.sample_id not in self.done]
            self.rows.write(prediction_row(each) for each in fresh)
            row |= {"segment": self.segment, "ended": time.perf_counter() - started, "peak_rss": peak_rss()}
            self.times.write([{key: value for key, value in row.items() if value is not None}])
            self.done |= {each.sample_id for each in fresh}
            answered += len(fresh)
            progress(len(self.done))
        return answered

    def _batch(
        self, number: int, prepared: Sequence[tuple[Prepared, str | None]]
    ) -> tuple[list[Prediction], dict[str, Any]]:
        """Answer one batch: predictions in its order, and its row of times."""
        begun = time.perf_counter()
        good = [each for each, _ in prepared if each.failure is None]
        found = {each.request.sample_id: _failed(each, number) for each, _ in prepared if each.failure is not None}
        row: dict[str, Any] = {"batch": number, "size": 0}
        if good:
            result = self.model.generate(number, good)
            if [p.sample_id for p in result.predictions] != [p.request.sample_id for p in good]:
                raise CxrbenchError(
                    f"{self.model.card.name} returned other samples than it was asked", code=Exit.INFRASTRUCTURE
                )
            row = asdict(result.timing)
            found |= {p.sample_id: _settle(p, g, number) for p, g in zip(result.predictions, good, strict=True)}
        row.setdefault("wall", time.perf_counter() - begun)
        return [replace(found[each.request.sample_id], pixels=key) for each, key in prepared], row


def _ahead(
    model: Model, todo: Iterable[tuple[int, Sequence[Request]]], workers: int
) -> Iterator[tuple[int, list[tuple[Prepared, str | None]]]]:
    """Yield (number, prepared batch) in order, with the images of the next `AHEAD` batches being read meanwhile.

    With each prepared request comes the key of the image files it was made from.
    """

    def prepare(request: Request) -> tuple[Prepared, str | None]:
        return model.prepare(request), pixel_key(request.images)

    waiting: deque[tuple[int, list[Future[tuple[Prepared, str | None]]]]] = deque()
    with ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="cxrbench-images") as pool:
        try:
            for number, batch in todo:
                waiting.append((number, [pool.submit(prepare, request) for request in batch]))
                if len(waiting) > AHEAD:
                    first, futures = waiting.popleft()
                    yield first, [future.result() for future in futures]
            while waiting:
                first, futures = waiting.popleft()
                yield first, [future.result() for future in futures]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _failed(prepared: Prepared, batch: int) -> Prediction:
    outcome, detail = prepared.failure or ("engine_error", "")
    request = prepared.request
    return Prediction(
        request.sample_id,
        outcome,
        finish_reason="error",
        inputs=request.inputs,
        times=dict(prepared.times),
        batch=batch,
        detail=detail,
    )


def _settle(prediction: Prediction, prepared: Prepared, batch: int) -> Prediction:
    """Add what the runner knows: inputs, preparation times, the batch; an answer without text is named `empty`."""
    outcome = prediction.outcome
    if outcome == OK and not (prediction.text or "").strip():
        outcome = EMPTY
    return replace(
        prediction,
        outcome=outcome,
        inputs=prediction.inputs or prepared.request.inputs,
        times={**prepared.times, **prediction.times},
        batch=batch,
    )


def peak_rss() -> int:
    """Peak resident memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine() -> dict[str, Any]:
    """What a segment was made on: processor count, platform, Python and the versions of the packages in use."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in ("cxrbench", "torch", "transformers", "numpy", "Pillow", "pydicom"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "packages": versions,
    }
