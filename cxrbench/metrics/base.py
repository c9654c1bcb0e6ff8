"""The metric contract: texts become per-sample sufficient statistics, statistics become numbers.

From these two steps come, for every metric alike and without running it again: the corpus value, the per-sample
value, an interval (resample patients), a paired test, subgroup tables and the merging of shards. Touches numpy and
types only.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cxrbench.errors import CxrbenchError, suggest
from cxrbench.features.base import ALONE as ALONE
from cxrbench.features.base import Feature as Feature
from cxrbench.features.base import FeatureRequest as FeatureRequest
from cxrbench.features.base import Pairs as Pairs
from cxrbench.features.base import Resources as Resources

if TYPE_CHECKING:
    from cxrbench.config import Config
    from cxrbench.counts import Counts
    from cxrbench.verified import Subject

Floats = NDArray[np.float64]

SCORED, FAILED, SKIPPED = 0, 1, 2
"""Status of one sample under one metric. Failed: the metric could not score it. Skipped: there was nothing to score
(the prediction failed, or the metric does not apply)."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """What `fit` may look at: the task's FULL reference set, never "what was scored".

    `train` gives the reference texts of the task's train split (None: not known here). `vocabulary` is a word list
    the user gave by `--vocabulary`. `dataset` is the data set's name, None for a bare file. `config` are the settings,
    which say where weights lie (None: those of the working directory and the user). `precision` is what annotators
    compute at (features/device.py). `judge` is the judges.engine.Judge named for this scoring, if one was. `form` is
    what the task's answers are (spec.FORMS). `sample_ids` are those of the references; `pictures` reads the task's own
    images in grey, one per reference, None where a file cannot be read (None altogether: the data are not at hand).
    """

    references: Sequence[str]
    train: Callable[[], Sequence[str]] | None = None
    vocabulary: frozenset[str] | None = None
    dataset: str | None = None
    config: Config | None = None
    precision: str = "fp32"
    judge: Any = None
    form: str = "text"
    sample_ids: Sequence[str] = ()
    pictures: Callable[[], Iterable[NDArray[np.uint8] | None]] | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What `fit` learnt.

    `data` must survive JSON unchanged: it is stored in the run folder, so that scoring can be repeated without the
    train split. `counts` is a table too large for that: it is kept in a file beside. `hash` goes into the signature;
    the empty context has the hash "".
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    hash: str = ""
    counts: Counts | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any], counts: Counts | None = None) -> Context:
        """Make a context whose hash is that of its data, and of the digest of its counts where it has some.

        It is 8 hex digits of SHA-256 over canonical JSON.
        """
        learnt = data if counts is None else [data, counts.digest]
        text = json.dumps(learnt, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return cls(data, hashlib.sha256(text.encode()).hexdigest()[:8], counts)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Sufficient statistics of m samples.

    rows: (m, r, k) float64; r repeats (1 unless a judge); column 0 is the count (1 for a scored sample, else 0). Those
    of very many samples at once (not what a metric returns) may be uint8: `scoring.Scored.rows` gives them as float64.
    status: (m, r) uint8 of SCORED, FAILED, SKIPPED. reasons: m strings, empty where scored.
    Rows that are not SCORED are all zero, so that sums need no mask.
    """

    rows: Floats
    status: NDArray[np.uint8]
    reasons: tuple[str, ...]

    @classmethod
    def scored(cls, rows: Floats) -> Statistics:
        """All samples scored once; `rows` is (m, k) with the count in column 0."""
        return cls(rows[:, None, :], np.zeros((len(rows), 1), np.uint8), ("",) * len(rows))


LARGE = 16 << 20
"""Bytes of statistics from which on whole numbers are kept in a byte each, where they fit."""


def as_bytes(rows: Floats) -> NDArray[np.uint8] | None:
    """The same numbers as bytes; None where they are others."""
    if rows.size and not (rows.min() >= 0 and rows.max() <= np.iinfo(np.uint8).max):
        return None
    small = rows.astype(np.uint8)
    return small if np.array_equal(small, rows) else None


@dataclass(frozen=True, slots=True)
class Value:
    """What one published number of a metric is. `bounds` are (low, high), None where unbounded.

    `interval` False: a resampled interval would mislead (a count of distinct texts, say), so none is printed.
    `counted_by` names the value of the same metric that counts what this one rests on, where that is not every scored
    sample (open questions alone, say).
    """

    higher_is_better: bool | None
    bounds: tuple[float | None, float | None]
    unit: str = ""
    primary: bool = False
    interval: bool = True
    counted_by: str = ""


class Metric(ABC):
    """Base of all metrics; a metric is one subclass in one file, `name` = file = registry name.

    Class attributes: `name`; `version` (goes up whenever a value could move); `presets`, named conventions with one
    line each; `default_preset`; `values`, the numbers it publishes; `citation`, whom to cite for it (empty: nobody);
    `scope` "sample" or "pair"; `additive` False where a value is no function of sums and `value_weighted` is
    implemented instead; `judge` True where an LLM gives the numbers, so that failed samples are asked for again;
    `form` which answers it reads: text, vectors or pictures (spec.FORMS).
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    presets: ClassVar[Mapping[str, str]]
    default_preset: ClassVar[str]
    values: ClassVar[Mapping[str, Value]]
    citation: ClassVar[tuple[str, ...]] = ()
    scope: ClassVar[Literal["sample", "pair"]] = "sample"
    additive: ClassVar[bool] = True
    judge: ClassVar[bool] = False
    form: ClassVar[str] = "text"

    def __init__(self, preset: str | None = None) -> None:
        chosen = preset if preset is not None else self.default_preset
        if chosen not in self.presets:
            raise CxrbenchError(
                f"{self.name} has no preset {chosen!r}{suggest(chosen, self.presets)}",
                where=f"--metrics {self.name}:{chosen}",
                fix=f"one of: {', '.join(self.presets)}",
            )
        self.preset = chosen

    @property
    def key(self) -> str:
        """`name:preset`, the key in JSON output and file names."""
        return f"{self.name}:{self.preset}"

    def ready(self) -> str | None:
        """None when the metric can run here, else one sentence of what it needs ("needs Java ...")."""
        return None

    def fit(self, corpus: Corpus) -> Context:
        """Learn what the metric needs from the full reference set, the train split or a given file. Default: nothing.

        Raises:
            CxrbenchError: what is needed is not there; says which option gives it.
        """
        return Context()

    def needs(self, context: Context) -> tuple[FeatureRequest, ...]:
        """Features to compute before `statistics`."""
        return ()

    @abstractmethod
    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        """Rows of sufficient statistics, one per pair, in order: rows in = rows out."""

    def value(self, sums: Floats) -> dict[str, Floats]:
        """Numbers from column sums: `sums` (..., k) -> name -> (...). Pure numpy. 0/0 is stated by each metric."""
        raise NotImplementedError(f"{self.name} is not additive; use value_weighted")

    def value_weighted(self, rows: Floats, weights: Floats) -> dict[str, Floats]:
        """Numbers from rows (n, k) and weights (b, n) -> name -> (b,), for metrics with `additive` False."""
        return self.value(weights @ rows)

    def settings(self) -> tuple[tuple[str, str], ...]:
        """Further `key:value` parts of the signature (tokens, case, weights, ...)."""
        return ()

    def fitted(self, context: Context) -> tuple[tuple[str, str], ...]:
        """Parts of the signature that `fit` decided: by default the hash of what was learnt."""
        return (("fit", context.hash),) if context.hash else ()

    def reads(self, signature: str) -> bool:
        """Whether rows stored under a signature mean what this version's rows mean."""
        return signature.endswith(f"|v:{self.version}")

    def subject(self, context: Context) -> Subject | None:
        """What `cxrbench verify metric` remembers an outcome for; None where no weights are read."""
        return None

    def signature(self, context: Context, text: str) -> str:
        """Everything that could change the number, as key:value pairs joined by bars, version last.

        `text` names the normalisation both texts went through before (data/text.py).
        """
        given = (*self.settings(), *self.fitted(context))
        parts = [self.name, f"preset:{self.preset}", *(f"{key}:{value}" for key, value in given)]
        return "|".join([*parts, f"txt:{text}", f"v:{self.version}"])


def comparable(signature: str) -> str:
    """A signature without what is shown with it and never compared: whether the weights were verified.

    >>> comparable("semb-score|weights:1a2b3c4d|verified:no|v:1")
    'semb-score|weights:1a2b3c4d|v:1'
    """
    return "|".join(part for part in signature.split("|") if not part.startswith("verified:"))


def short_hash(text: str) -> str:
    """First 8 hex digits of SHA-256: used in file names such as `bleu.raw@1a2b3c4d`."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide elementwise, (...) by (...); not a number where there is nothing to divide by.

    >>> ratio(np.array([1.0, 2.0]), np.array([4.0, 0.0]))
    array([0.25,  nan])
    """
    return np.divide(numerator, denominator, out=np.full_like(denominator, np.nan), where=denominator > 0)
