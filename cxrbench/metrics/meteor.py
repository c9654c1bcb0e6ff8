"""METEOR 1.5 (Denkowski and Lavie, WMT 2014) with the Java archive that pycocoevalcap brings: English, `-norm`.

Statistics per sample: the count, then the archive's own 23 numbers for the pair, except that a prediction that matches
its reference in one piece has 0 chunks instead of 1 (the archive, too, leaves that chunk out when it adds up pairs). So
they add up over samples, and the corpus value is a function of their sums (what pycocoevalcap and coco-caption print as
METEOR), restated here in numpy.
The processes that align the words are in meteor_jvm.py. Touches numpy, the text conventions and those processes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.metrics import conventions, java, tokens
from cxrbench.metrics.base import (
    FAILED,
    SCORED,
    Context,
    Corpus,
    FeatureRequest,
    Floats,
    Metric,
    Pairs,
    Statistics,
    Value,
)
from cxrbench.metrics.meteor_jvm import STATISTICS, Pool, Settings
from cxrbench.metrics.meteor_paraphrases import Table, words_of
from cxrbench.privacy import hold, remove_left

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
WEIGHTS = (1.0, 0.6, 0.8, 0.6)
"""The archive's parameters for English (task "rank") and its weights of exact, stem, synonym and paraphrase matches."""

_LENGTHS, _FUNCTION_WORDS, _STAGES, _CHUNKS, _MATCHED = slice(1, 3), slice(3, 5), slice(5, 21), 21, slice(22, 24)
"""Columns of a row. Pairs are (prediction, reference). Stages: four times content words matched in the prediction, in
the reference, function words matched in the prediction, in the reference. Matched: words covered by all matches."""


def _by_stage(rows: Floats) -> Floats:
    """Matches of rows (..., 24) as (..., stage, content or function words, side)."""
    return rows[..., _STAGES].reshape(*rows.shape[:-1], len(WEIGHTS), 2, 2)


def rows_of(answers: Sequence[Sequence[float]]) -> Floats:
    """Rows (m, 24) from the archive's numbers (m, 23) for m pairs."""
    rows = np.ones((len(answers), 1 + STATISTICS))
    rows[:, 1:] = answers
    whole = (_by_stage(rows).sum(axis=(-3, -2)) == rows[:, _LENGTHS]).all(axis=-1)
    rows[whole & (rows[:, _CHUNKS] == 1), _CHUNKS] = 0
    return rows


def final_score(sums: Floats) -> Floats:
    """METEOR from sums (..., 24) of rows -> (...).

    Precision and recall weigh matches by stage, and content words against function words by delta; their weighted
    harmonic mean is lowered by the number of contiguous chunks (section 2 of the paper). 0/0 (no words, no matches)
    gives 0, as in the archive.
    """
    stages = _by_stage(sums)
    weighted = np.einsum("...scd,s,c->...d", stages, np.array(WEIGHTS), np.array([DELTA, 1 - DELTA]))
    lengths, function_words = sums[..., _LENGTHS], sums[..., _FUNCTION_WORDS]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = weighted / (DELTA * (lengths - function_words) + (1 - DELTA) * function_words)
        mean = 1 / ((1 - ALPHA) / share[..., 0] + ALPHA / share[..., 1])
        fragmentation = sums[..., _CHUNKS] / sums[..., _MATCHED].mean(axis=-1)
        score = mean * (1 - GAMMA * fragmentation**BETA)
    return np.where(np.isnan(score), 0.0, np.maximum(score, 0.0))


class Meteor(Metric):
    """METEOR with one reference per prediction. No samples: not a number. Nothing matched: 0."""

    name = "meteor"
    version = 2
    presets: ClassVar[Mapping[str, str]] = {
        "raw": "texts as they are (METEOR itself lowers case and separates punctuation)",
        "coco": "on Stanford PTB tokens, lower case (COCO caption evaluation)",
        "r2gen": "on R2Gen's IU-Xray texts: both cleaned, references with <unk> and cut at 59 tokens",
        "r2gen-mimic": "on R2Gen's MIMIC-CXR texts: both cleaned, references with <unk> and cut at 99 tokens",
    }
    default_preset = "raw"
    citation = (
        "Denkowski and Lavie, Meteor Universal: Language Specific Translation Evaluation for Any Target "
        "Language, WMT 2014",
    )
    values: ClassVar[Mapping[str, Value]] = {"meteor": Value(True, (0.0, 1.0), primary=True)}

    def __init__(self, preset: str | None = None) -> None:
        super().__init__(preset)
        self._scorer: Scorer | None = None

    def ready(self) -> str | None:
        return java.ready(java.METEOR_JAR, java.PARAPHRASES) or conventions.ready(self.preset)

    def fit(self, corpus: Corpus) -> Context:
        data = conventions.fit(self.preset, corpus)
        return Context.of(data) if data else Context()

    def settings(self) -> tuple[tuple[str, str], ...]:
        archive = ("archive", java.identity(java.METEOR_JAR, java.PARAPHRASES))
        return (*conventions.find(self.preset).settings(), archive, ("language", "en"), ("norm", "yes"))

    def needs(self, context: Context) -> tuple[FeatureRequest, ...]:
        return (tokens.request(self.preset, context),)

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        texts: tokens.TokenPairs = features[self.needs(context)[0]]
        if self._scorer is None:
            self._scorer = Scorer()
        answers = self._scorer.score(list(zip(texts.predictions, texts.references, strict=True)))
        rows = np.zeros((len(pairs), 1, 1 + STATISTICS))
        failed = np.array([isinstance(answer, str) for answer in answers], bool)
        if not failed.all():
            rows[~failed, 0] = rows_of([answer for answer in answers if not isinstance(answer, str)])
        status = np.where(failed, FAILED, SCORED).astype(np.uint8)[:, None]
        return Statistics(rows, status, tuple(answer if isinstance(answer, str) else "" for answer in answers))

    def value(self, sums: Floats) -> dict[str, Floats]:
        return {"meteor": np.where(sums[..., 0] > 0, final_score(sums), np.nan)}


class Scorer:
    """Statistics of pairs: equal pairs are aligned once, and the processes stay for the next list.

    They hold the part of the paraphrase table that the texts seen so far can use. When new texts have further words of
    the table, a larger part is written and new processes take over. Safe to share between threads, which take turns.

    Raises:
        CxrbenchError: Java or pycocoevalcap is not there.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._java, (self._jar, paraphrases) = java.require(java.METEOR_JAR, java.PARAPHRASES)
        self._settings = settings or Settings(processes=cores())
        self._table = Table(paraphrases)
        self._words: set[str] = set()
        self._pool: Pool | None = None
        self._lock = threading.Lock()
        with _temporary_folder():
            self._folder, handle = private_part()
        weakref.finalize(self, _remove, self._folder, handle, os.getpid())

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[list[float] | str]:
        """Return for each pair (prediction, reference) its 23 statistics, or one sentence why there are none."""
        distinct = list(dict.fromkeys(pairs))
        with self._lock:
            pool = self._pool_for(words_of({text for pair in distinct for text in pair}))
            answers = dict(zip(distinct, pool.score(distinct), strict=True))
        return [answers[pair] for pair in pairs]

    def pids(self) -> list[int]:
        """Process ids of the processes that are kept."""
        return self._pool.pids() if self._pool else []

    def close(self) -> None:
        """End the processes; a later `score` starts new ones. Also done when the object goes, and when Python ends."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _pool_for(self, words: set[str]) -> Pool:
        """The processes at work if they know these words, else new ones."""
        new = words - self._words
        if self._pool is not None and not self._table.has(new):
            return self._pool
        self.close()
        file = self._folder / "paraphrase-en.gz"
        with _temporary_folder():
            entries = self._table.write(self._words | new, file)
        self._words |= new
        memory = self._settings.memory + entries // _ENTRIES_PER_MEGABYTE
        self._pool = Pool(self._java, self._jar, file, replace(self._settings, memory=memory))
        return self._pool


_ENTRIES_PER_MEGABYTE = 4000
"""Paraphrases that fit one more MB of a process; all 5.3 million need 1.3 GB."""


@contextmanager
def _temporary_folder() -> Iterator[None]:
    """Say what a full or missing temporary folder is needed for."""
    try:
        yield
    except OSError as error:
        raise CxrbenchError(
            f"METEOR cannot keep its paraphrases in the temporary folder: {error.strerror or error}",
            where=tempfile.tempdir or "the temporary folder",
            fix="set TMPDIR to a folder with some 50 MB of room",
            code=Exit.INFRASTRUCTURE,
        ) from error


_PREFIX = "cxrbench-meteor-"


def private_part() -> tuple[Path, int]:
    """A new temporary folder for a part of the table, and the handle that holds it.

    Which part tells which words occur in the texts, so the folder is its owner's alone, and folders of processes that
    were killed are removed first. The name carries the pid, for whoever finds one.
    """
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"{_PREFIX}[0-9]*-????????"):  # as mkdtemp names them
        remove_left(left)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another process took it for a leftover in the moment before it was held
            continue
        hold(handle)
        if folder.exists():
            return folder, handle
        os.close(handle)


def _remove(folder: Path, handle: int, owner: int) -> None:
    """Remove the folder with the table; not in a fork of the process that made it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
    os.close(handle)


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
