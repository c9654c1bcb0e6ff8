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
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from cxrbench.artifacts import keep
from cxrbench.atomic import disk_error
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.plan import Plan, ids_of, pixel_key
from cxrbench.rows import Forcing, StoredPredictions
from cxrbench.spool import Each, Ids, blocks
from cxrbench.store import Appender, OccupiedError, RunFolder, prediction_row
from cxrbench.tables import write_samples
from cxrbench.types import EMPTY, OK, Manifest, Prediction, Request

if TYPE_CHECKING:
    from cxrbench.engines.base import Stream
    from cxrbench.models.base import Model, Prepared

Progress = Callable[[int, int], None]
AHEAD = 2
"""Batches whose images are read ahead: enough to hide the disk, little enough to hold in memory."""


def execute(
    run: RunFolder, plan: Plan, model: Model, circumstances: Mapping[str, Any], workers: int, progress: Progress
) -> int:
    """Answer what is still open in `run`; returns how many samples were answered now.

    Raises:
        StrangersError: a process on another machine has begun the run, and nobody knows whether it has ended.
        CxrbenchError: the folder holds another run, another process writes there, the disk is full, the model fails.
            Everything written before is kept, and the same command goes on.
    """
    # Before there is a folder: a checkpoint that cannot be loaded, a file that fits no sample, leave nothing behind.
    made_on = None if run.exists() else model.circumstances()
    with run.writing() as strangers:
        if run.claims.last_epoch() is not None:
            raise CxrbenchError(
                "several workers have written this run, so whoever goes on claims a shard of its own",
                where=str(run.path),
                fix=f"cxrbench run --resume {run.path}",
            )
        manifest = begin(run, plan)
        _own_shard(run, strangers=strangers)
        rows = Appender(run.shard_file("predictions"))
        times = Appender(run.shard_file("batches"))
        try:
            answered = run.predictions()
            again = reopened(run, plan, answered, model, workers)
            done = Ids(each for each in answered if each not in again)
            todo = open_batches(
                plan.batches, range(len(plan.batches)), done, alone=getattr(model, "independent", False)
            )
            if not todo:
                progress(len(done), plan.manifest.n_expected)
                return 0
            run.add_segment({**circumstances, **(made_on or model.circumstances())})
            job = Job(run, model, todo, done, rows, times, len(manifest.circumstances), workers)
            return job.answer(lambda n: progress(n, plan.manifest.n_expected))
        finally:
            rows.close()
            times.close()


class StrangersError(CxrbenchError):
    """Shard 0 belongs to a process of another machine: whoever goes on claims a shard of its own."""


def _own_shard(run: RunFolder, *, strangers: bool) -> None:
    """Make shard 0, unless an earlier process of this machine made it.

    Where no lock reaches from one machine to the other, two processes that begin a run at the same moment learn here
    that they are two: of all that make a file exclusively, one does.
    """
    shard = run.shard_file("predictions")
    made = not shard.exists()
    try:
        if made:
            os.close(os.open(shard, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise OccupiedError(
            "another process begins this run at the same moment",
            where=str(run.path),
            fix="wait for it, or stop it and repeat the command",
            code=Exit.INFRASTRUCTURE,
        ) from None
    except OSError as error:
        raise disk_error(error, shard) from error
    if strangers and not made:
        raise StrangersError(
            "a process on another machine has begun this run, and nobody knows whether it has ended",
            where=str(run.path),
            fix=f"cxrbench run --resume {run.path}",
            code=Exit.INFRASTRUCTURE,
        )


RETRIED = ("missing_image", "broken_image", "no_decoder", "image_too_large")
"""Failures of the image, which may be gone the next time: the file is there now, or a decoder was installed."""

ASKED_AGAIN = ("no_answer",)
"""Failures of a server, which says nothing about the sample: the same command asks again."""


def begin(run: RunFolder, plan: Plan) -> Manifest:
    """Make the folder of a run, or go on in it: manifest and samples; returns the manifest in force.

    Raises:
        CxrbenchError: the folder holds another run, or one that is cut into other batches.
    """
    manifest = run.begin(plan.manifest)
    if manifest.batch_size != plan.manifest.batch_size:
        raise CxrbenchError(
            f"this run is cut into batches of {manifest.batch_size}, not {plan.manifest.batch_size}",
            where=str(run.path),
            fix=f"--batch-size {manifest.batch_size}, or --out DIR for a new run",
        )
    if plan.stored != run.samples_file:
        write_samples(run.samples_file, plan.samples, plan.selected, plan.source)
    return manifest


def open_batches(
    batches: Sequence[Sequence[Request]], numbers: Iterable[int], done: Collection[str], *, alone: bool
) -> Sequence[tuple[int, Sequence[Request]]]:
    """Of the batches with these numbers those with an open sample, each made when it is its turn (see `Plan`).

    Whole ones, or only what is open where each request is answered `alone`: a network's last bits depend on the batch;
    a server that is asked once per sample would be asked, and paid, twice. `done` may grow meanwhile.
    """
    found = array("Q", (n for n in numbers if any(each not in done for each in ids_of(batches, n))))

    def turn(place: int) -> tuple[int, Sequence[Request]]:
        batch = batches[found[place]]
        return found[place], [each for each in batch if each.sample_id not in done] if alone else batch

    return Each(len(found), turn)


def reopened(
    run: RunFolder, plan: Plan, answered: Mapping[str, Prediction], model: Model, workers: int
) -> frozenset[str]:
    """Samples to ask again: no answer of a server, and failures whose image files changed or can be decoded now.

    Raises:
        CxrbenchError: the image of a sample that was answered has changed, so that going on would mix two data sets.
    """
    again, changed = set(), 0
    for request, key in _with_keys(plan, answered, workers):
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


def _with_keys(plan: Plan, answered: Mapping[str, Prediction], workers: int) -> Iterator[tuple[Request, str | None]]:
    """Every answered request with the key its images have now; none that never had an image, and was answered."""
    if not plan.images and isinstance(answered, StoredPredictions):
        looked_at = (number for number in range(len(plan.batches)) if _looked_at(plan, answered, number))
        asked = (request for number in looked_at for request in plan.batches[number])
        requests = (each for each in asked if each.sample_id in answered and not answered.blind(each.sample_id))
    else:
        requests = (request for batch in plan.batches for request in batch if request.sample_id in answered)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for block in blocks(requests, 1024):
            images = [request.images for request in block]
            keys = pool.map(pixel_key, images) if any(images) else map(pixel_key, images)
            yield from zip(block, keys, strict=True)


def _looked_at(plan: Plan, answered: StoredPredictions, number: int) -> bool:
    """Whether a batch holds an answered sample that failed, or that was answered from a picture."""
    return any(each in answered and not answered.blind(each) for each in ids_of(plan.batches, number))


@dataclass(slots=True)
class Job:
    """Answering what is open: batches one after the other, reading ahead, each written before the next begins.

    What was written is forced to disk while the next batch is answered.
    """

    run: RunFolder
    model: Model
    todo: Sequence[tuple[int, Sequence[Request]]]
    done: set[str] | Ids
    rows: Appender
    times: Appender
    segment: int
    workers: int

    def answer(self, progress: Callable[[int], None]) -> int:
        """Returns how many samples were answered."""
        answered = 0
        progress(len(self.done))
        started = time.perf_counter()
        with Forcing(self.rows, self.times) as forcing:
            for number, arriving in _ahead(self.model, self.todo, self.workers):
                predictions, row, outputs = self._batch(number, arriving)
                fresh = [each for each in predictions if each.sample_id not in self.done]
                kept = keep(self.run.path, {p.sample_id: outputs[p.sample_id] for p in fresh if p.sample_id in outputs})
                fresh = [replace(each, artifact=kept.get(each.sample_id)) for each in fresh]
                forcing.wait()
                self.rows.put(prediction_row(each) for each in fresh)
                row |= {"segment": self.segment, "ended": time.perf_counter() - started, "peak_rss": peak_rss()}
                self.times.put([{key: value for key, value in row.items() if value is not None}])
                forcing.begin()
                for each in fresh:
                    self.done.add(each.sample_id)
                answered += len(fresh)
                progress(len(self.done))
        return answered

    def _batch(self, number: int, arriving: Arriving) -> tuple[list[Prediction], dict[str, Any], Mapping[str, Any]]:
        """Answer one batch: predictions in its order, its row of times, and what is no text by sample id."""
        stream: Stream | None = getattr(self.model, "stream", None)
        if stream is None:
            arriving.wait()
        begun = time.perf_counter()
        result = None
        if stream is not None:
            result = stream(number, arriving)
            arriving.wait()
        elif arriving.good:
            result = self.model.generate(number, arriving.good)
        prepared, good = arriving.came, arriving.good
        found = {each.request.sample_id: _failed(each, number) for each, _ in prepared if each.failure is not None}
        row: dict[str, Any] = {"batch": number, "size": 0}
        outputs: Mapping[str, Any] = {}
        if result is not None:
            if [p.sample_id for p in result.predictions] != [p.request.sample_id for p in good]:
                raise CxrbenchError(
                    f"{self.model.card.name} returned other samples than it was asked", code=Exit.INFRASTRUCTURE
                )
            row, outputs = asdict(result.timing), result.outputs
            for prediction, each in zip(result.predictions, good, strict=True):
                found[prediction.sample_id] = _settle(prediction, each, number, prediction.sample_id in outputs)
        row.setdefault("wall", time.perf_counter() - begun)
        return [replace(found[each.request.sample_id], pixels=key) for each, key in prepared], row, outputs


class Arriving:
    """A batch whose images are being read: gives what can be answered, in order, waiting for each.

    `came` is all that was waited for, with the key of the image files each was made from.
    """

    def __init__(self, futures: Sequence[Future[tuple[Prepared, str | None]]]) -> None:
        self.came: list[tuple[Prepared, str | None]] = []
        self._futures = deque(futures)

    def __iter__(self) -> Iterator[Prepared]:
        return self

    def __next__(self) -> Prepared:
        while self._futures:
            each, key = self._futures.popleft().result()
            self.came.append((each, key))
            if each.failure is None:
                return each
        raise StopIteration

    def __length_hint__(self) -> int:
        return len(self._futures)

    @property
    def good(self) -> list[Prepared]:
        """What came and can be answered."""
        return [each for each, _ in self.came if each.failure is None]

    def wait(self) -> None:
        """Wait for the rest."""
        deque(self, maxlen=0)


def _ahead(model: Model, todo: Iterable[tuple[int, Sequence[Request]]], workers: int) -> Iterator[tuple[int, Arriving]]:
    """Yield (number, arriving batch) in order, with the images of the next `AHEAD` batches being read meanwhile.

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
                    yield first, Arriving(futures)
            while waiting:
                first, futures = waiting.popleft()
                yield first, Arriving(futures)
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


TEXTS = ("generate", "score_options")
"""Requests that are answered with a text."""


def _settle(prediction: Prediction, prepared: Prepared, batch: int, shown: bool) -> Prediction:
    """Add what the runner knows: inputs, preparation times, the batch; an answer without text is named `empty`.

    `shown`: there is a picture or a vector.

    Raises:
        CxrbenchError: the model says that it answered and gave neither of them where one was asked for.
    """
    outcome = prediction.outcome
    if outcome == OK and prepared.request.kind in TEXTS and not (prediction.text or "").strip():
        outcome = EMPTY
    if outcome == OK and prepared.request.kind not in TEXTS and not shown:
        raise CxrbenchError(f"a model answered {prepared.request.kind} with nothing", code=Exit.INFRASTRUCTURE)
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
