"""Models that see no image: one constant normal report, and a random report of the train split.

They say what a score is worth: every board shows them, because a constant normal report already does well on n-gram
metrics. No engine, no torch. docs/baselines.md is the user's page.
"""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cxrbench.errors import CxrbenchError, suggest
from cxrbench.models.base import BatchResult, ModelCard, ModelOptions, Prepared
from cxrbench.types import EMPTY, OK, BatchTiming, Generation, Prediction, Request, RequestKind, Sample

_FINDINGS = (
    "The heart size and mediastinal contours are within normal limits. The lungs are clear. "
    "There is no focal consolidation, pleural effusion, or pneumothorax. No acute bony abnormality is seen."
)
_IMPRESSION = "No acute cardiopulmonary abnormality."

NORMAL: Mapping[str, str] = {
    "findings": _FINDINGS,
    "impression": _IMPRESSION,
    "report": f"{_FINDINGS} {_IMPRESSION}",
}
"""cxrbench's own wording of a normal study, by what the task asks for (`target`). Changing it changes scores: raise the
card's revision. Of four phrasings in everyday use this one scores best on a train split (docs/baselines.md)."""

NEEDS_TRAIN = "choose a task whose file names dataset.pool_split"


class Lookup(ABC):
    """A model that finds its text at once: subclasses say which one (`text`).

    `latency` runs from the moment a request is taken up until its text is there, waiting for its batch included, as
    it does for networks.
    """

    card: ModelCard
    kinds: frozenset[RequestKind] = frozenset({"generate"})
    consumes: frozenset[str] = frozenset()
    needs_pool = False
    batch_size = 64

    @abstractmethod
    def text(self, request: Request) -> str:
        """The answer to a request that was prepared without a failure."""

    def identity(self) -> dict[str, Any]:
        """Name and version; subclasses add what else changes the text."""
        return {"name": self.card.name, "revision": self.card.revision}

    def circumstances(self) -> dict[str, Any]:
        """Where it ran: always the CPU, without an engine; how fast a text is looked up says nothing about a model."""
        return {"device": "cpu", "engine": "none", "timed": False}

    def fit(self, pool: Callable[[], Iterable[Sample]]) -> None:  # noqa: B027 - most look at nothing
        """Look at nothing."""

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """Consume nothing of the sample."""
        return Request(sample.sample_id, kind, generation=generation, seed=seed)

    def cost(self, request: Request) -> int:
        """All alike."""
        return 1

    def prepare(self, request: Request) -> Prepared:
        """Take the time."""
        return Prepared(request, payload=time.perf_counter())

    def generate(self, batch: int, prepared: Sequence[Prepared]) -> BatchResult:
        """Answer one after the other."""
        begin = time.perf_counter()
        predictions = tuple(self._answer(each, batch) for each in prepared)
        return BatchResult(predictions, BatchTiming(batch, len(prepared), time.perf_counter() - begin))

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Nothing to give back."""

    def _answer(self, prepared: Prepared, batch: int) -> Prediction:
        text = self.text(prepared.request)
        return Prediction(
            prepared.request.sample_id,
            OK if text.strip() else EMPTY,
            text,
            inputs=prepared.request.inputs,
            times={**prepared.times, "latency": time.perf_counter() - prepared.payload},
            batch=batch,
        )


class AlwaysNormal(Lookup):
    """The same normal report for every sample: findings, impression or both, as the task's target asks."""

    card = ModelCard(
        "always-normal",
        "one constant normal report",
        revision="1",
        licence="Apache-2.0",
        notes="n-gram scores without any clinical content",
    )

    def __init__(self, options: ModelOptions) -> None:
        refuse_settings(self.card.name, options)
        self.target = _target(options)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "target": self.target, "text": NORMAL[self.target]}

    def text(self, request: Request) -> str:
        return NORMAL[self.target]


class RandomReport(Lookup):
    """A report of the train split, drawn by the request's seed; equal seeds draw equal reports in any order."""

    card = ModelCard(
        "random-report",
        "a random report of the train split",
        revision="1",
        trained_on=("the task's train split",),
        notes="what the style of the data set alone is worth",
    )
    needs_pool = True

    def __init__(self, options: ModelOptions) -> None:
        refuse_settings(self.card.name, options)
        self.reports: tuple[str, ...] = ()

    def circumstances(self) -> dict[str, Any]:
        return {**super().circumstances(), "pool": len(self.reports)}

    def fit(self, pool: Callable[[], Iterable[Sample]]) -> None:
        """Keep the reports, sorted by sample id, so that the order of reading changes nothing.

        Raises:
            CxrbenchError: the train split is empty.
        """
        self.reports = tuple(sample.target for sample in sorted(pool(), key=lambda each: each.sample_id))
        if not self.reports:
            raise CxrbenchError(
                "the train split has no report to draw from", where=f"model {self.card.name}", fix=NEEDS_TRAIN
            )

    def text(self, request: Request) -> str:
        return self.reports[draw(request.seed, len(self.reports))]


def draw(seed: int, n: int) -> int:
    """An index below `n`, even over seeds of any pattern: 64 bits of SHA-256 of the seed, modulo n.

    >>> draw(1, 1000), draw(2, 1000)
    (486, 712)
    """
    digest = hashlib.sha256(b"random-report:%d" % seed).digest()
    return int.from_bytes(digest[:8], "big") % n


def refuse_settings(name: str, options: ModelOptions, *, argument: bool = False) -> None:
    """Refuse what a model without weights or prompt would not look at; `argument`: it takes one after its name.

    Raises:
        CxrbenchError: names the first setting that would change nothing.
    """
    if options.argument and not argument:
        raise CxrbenchError(
            f"{name} takes no argument", where=f"--model {name}:{options.argument}", fix=f"--model {name}"
        )
    given = {
        "--preset": options.preset,
        "--dtype": options.dtype if options.dtype != "auto" else None,
        "--device": options.device if options.device not in ("auto", "cpu") else None,
        "--load-format": options.load_format if options.load_format != "auto" else None,
        **{f"--set {key}": value for key, value in {**options.generation, **options.extra}.items() if key != "target"},
    }
    for flag, value in given.items():
        if value is not None:
            raise CxrbenchError(
                f"{name} has no weights and no prompt: {flag} would change nothing", fix=f"leave {flag} out"
            )


def _target(options: ModelOptions) -> str:
    target = options.extra.get("target", "findings")
    if target not in NORMAL:
        raise CxrbenchError(
            f"there is no normal report for the target {target!r}{suggest(target, NORMAL)}",
            where="--set target=",
            fix=f"one of: {', '.join(NORMAL)}",
        )
    return target
