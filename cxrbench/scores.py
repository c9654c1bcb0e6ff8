"""What a run folder keeps of its scoring: statistics and contexts of each metric, and the summary.

    scores/<metric>@<sig8>.parquet, contexts/<metric>.json (and <metric>.<digest>.counts), summary.json

Reads and writes; computes nothing. `score_run` fills it, comparing, gating and reporting read it.
"""

from __future__ import annotations

import glob
import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbench.atomic import write_atomic
from cxrbench.config import cache_dir
from cxrbench.counts import Counts
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.store import Store
from cxrbench.features.weights import fits
from cxrbench.metrics.base import ALONE, Context, Metric, Resources, comparable, short_hash
from cxrbench.reading import read_regular
from cxrbench.run_shapes import check_summary
from cxrbench.scoring import Ahead, Chosen, Progress, Scored, make_metric, texts_hash
from cxrbench.store import RunFolder
from cxrbench.tables import Scores, read_samples, read_scores, write_scores
from cxrbench.types import Manifest

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a metric may learn from besides the references: the train split's texts, and a word list."""

    train: Callable[[], Sequence[str]] | None = None
    vocabulary: frozenset[str] | None = None
    at_hand: bool = False
    """The data are being read anyway: learn anew instead of taking what an earlier scoring learnt."""
    resources: Resources = ALONE
    """What features may use: the settings, the device; the store is that of the data set."""
    pictures: Callable[[], Iterable[NDArray[np.uint8] | None]] | None = None
    """The task's own images, one per sample of the whole task, where the data are at hand; see `Corpus.pictures`."""
    annotate: Callable[[Ahead, Progress], Resources] | None = None
    """Has workers fill the stores before a run is scored (workers/annotate.py)."""


def with_store(resources: Resources, dataset: str | None) -> Resources:
    """The same resources with the feature store of a data set (of bare files together, where there is none)."""
    if resources.config is None:
        return resources
    judge = resources.judge.at(cache_dir() / "judges" / (dataset or BARE)) if resources.judge is not None else None
    return replace(resources, store=Store(feature_folder(dataset)), judge=judge)


def feature_folder(dataset: str | None) -> Path:
    """Where the feature store of a data set lies."""
    return cache_dir() / "features" / (dataset or BARE)


BARE = "files"
"""The feature store of files that name no task."""


LARGEST = 256 << 20
"""Bytes that a stored context, its counts apart, and a summary may have."""


def _file_name(key: str) -> str:
    return key.replace(":", ".").replace("/", "_")


def score_file(run: RunFolder, scored: Scored) -> Path:
    """scores/<metric>@<sig8>.parquet; the same whether or not the weights were verified meanwhile."""
    return run.path / "scores" / f"{_file_name(scored.metric.key)}@{short_hash(comparable(scored.signature))}.parquet"


def _context_file(run: RunFolder, key: str) -> Path:
    return run.path / "contexts" / f"{_file_name(key)}.json"


def stored_contexts(
    run: RunFolder, chosen: Sequence[Chosen], sources: Sources, dataset: str | None
) -> dict[str, Context]:
    """Contexts of an earlier scoring, unless the data are at hand or a word list is given for this time.

    One that was made at another precision is not among them.
    """
    found: dict[str, Context] = {}
    for each in chosen:
        file = _context_file(run, each.metric.key)
        asked_anew = each.metric.judge and sources.resources.judge is not None
        if sources.vocabulary is None and not sources.at_hand and not asked_anew and file.exists():
            version, context = _read_context(file)
            if version == each.metric.version and fits(context.data, dataset, sources.resources.precision):
                found[each.metric.key] = context
    return found


def _read_context(file: Path) -> tuple[int, Context]:
    """Version of the metric that learnt it, and the context, whose hash must be that of its data.

    A run folder may come from somebody else, so nothing in it is taken on trust.
    """
    try:
        body = json.loads(read_regular(file, LARGEST))
        counts = _read_counts(file, body["counts"]) if "counts" in body else None
        version, context = body["version"], Context.of(body["data"], counts)
        if context.hash == body["hash"] and isinstance(context.data, dict):
            return version, context
        what = "a stored context is damaged"
    except FileNotFoundError as error:
        what = f"a stored context is not whole: {Path(error.filename).name} is not there"
    except OSError as error:
        what = f"a stored context cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, RecursionError):
        what = "a stored context is damaged"
    raise CxrbenchError(
        what,
        where=str(file),
        fix=f"delete {file.name} and score again",
        code=Exit.INFRASTRUCTURE,
    )


def _counts_file(file: Path, digest: str) -> Path:
    """Where the counts of a context lie: beside it, named by what is in them, so that each belongs to its context."""
    return file.with_suffix(f".{digest[:16]}.counts")


def _read_counts(file: Path, digest: Any) -> Counts:
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError("no digest")
    return Counts.open(_counts_file(file, digest), digest)


def _write_context(file: Path, version: int, context: Context) -> None:
    """The counts first, then what names them; then counts of earlier contexts go."""
    body: dict[str, Any] = {"version": version, "hash": context.hash, "data": context.data}
    kept = None
    if context.counts is not None:
        body["counts"] = context.counts.digest
        kept = _counts_file(file, context.counts.digest)
        context.counts.save(kept)
    write_atomic(file, json.dumps(body, ensure_ascii=False).encode())
    for other in file.parent.glob(f"{glob.escape(file.stem)}.{'[0-9a-f]' * 16}.counts"):
        if other != kept:
            other.unlink()


def keep_scores(run: RunFolder, scored: Scored, texts: str, sources: Sources) -> None:
    """Store statistics, and the context unless it comes from a word list of this one call."""
    if scored.statistics is None:
        return
    if scored.context.hash and sources.vocabulary is None:
        _write_context(_context_file(run, scored.metric.key), scored.metric.version, scored.context)
    about = {
        "metric": scored.metric.name,
        "preset": scored.metric.preset,
        "signature": scored.signature,
        "texts": texts,
        "notes": list(scored.notes),
    }
    write_scores(score_file(run, scored), Scores(scored.sample_ids, scored.statistics, about))


def kept_scores(run: RunFolder, scored: Scored, sample_ids: tuple[str, ...], texts: str) -> Scored | None:
    """The stored statistics of an earlier scoring of exactly these texts, if there are any."""
    file = score_file(run, scored)
    if not file.exists():
        return None
    scores = read_scores(file, sample_ids)
    if scores.about.get("texts") != texts or scores.sample_ids != sample_ids:
        return None
    if comparable(scores.about.get("signature", "")) != comparable(scored.signature):
        return None
    notes = tuple(scores.about.get("notes", ()))
    return replace(scored, statistics=scores.statistics, sample_ids=sample_ids, notes=notes)


def load_scores(run: RunFolder, metric_keys: Sequence[str] = ()) -> list[Scored]:
    """All stored statistics of a run (or those named), without reading a text.

    A metric that nobody named and that is not here any more (a plug-in, a file) is left out with a note.

    Raises:
        CxrbenchError: a metric that was named has not been scored, or is not here.
    """
    summary = read_summary(run)
    texts = texts_hash(read_samples(run.samples_file).chosen, run.predictions())
    signatures = {key: next(iter(values.values()))["signature"] for key, values in summary["metrics"].items() if values}
    found = []
    named = [_needed(name, run, signatures) for name in metric_keys]
    for metric in named or metrics_here(signatures, str(run.path)):
        key = metric.key
        if key not in signatures:
            raise CxrbenchError(
                f"{key} has not been scored", where=str(run.path), fix=f"cxrbench score {run.path} --metrics {key}"
            )
        wanted = Scored(metric, True, Context(), signatures[key], None)
        scores = read_scores(score_file(run, wanted))
        if scores.about.get("texts") != texts or not same_version(wanted):
            raise CxrbenchError(
                f"the scores of {key} are of other texts, or of another version of the metric",
                where=str(run.path),
                fix=f"cxrbench score {run.path}",
                code=Exit.UNDECIDED,
            )
        found.append(replace(wanted, statistics=scores.statistics, sample_ids=scores.sample_ids))
    return found


def metrics_here(keys: Iterable[str], where: str) -> list[Metric]:
    """The metrics that `where` was scored with; one that is not here any more is left out with a note."""
    found = []
    for key in keys:
        try:
            found.append(make_metric(key))
        except CxrbenchError as error:
            LOG.warning("note: %s was scored with %s, which is left out: %s", where, key, error.what)
    return found


def _needed(name: str, run: RunFolder, scored: Collection[str]) -> Metric:
    """A metric that was named; where it is not here, the error says that the run needs it."""
    try:
        return make_metric(name)
    except CxrbenchError as error:
        if not any(key == name or key.startswith(f"{name}:") for key in scored):
            raise
        raise CxrbenchError(
            f"the run was scored with {name}, which is not here: {error.what}",
            where=str(run.path),
            fix=f"install what brings {name}, or name other metrics",
            code=error.code,
        ) from error


def same_version(scored: Scored) -> bool:
    """Whether a stored signature was made by this version of its metric, so that its columns mean what they did."""
    return scored.metric.reads(scored.signature)


def read_summary(run: RunFolder) -> dict[str, Any]:
    """summary.json of a scored run."""
    file = run.path / "summary.json"
    if not file.exists():
        raise CxrbenchError("the run has not been scored", where=str(run.path), fix=f"cxrbench score {run.path}")
    try:
        summary: dict[str, Any] = json.loads(read_regular(file, LARGEST))
        check_summary(summary)
        return summary
    except OSError as error:
        what = f"the summary cannot be read: {error.strerror}"
    except (ValueError, TypeError, RecursionError):
        what = "the summary is damaged"
    raise CxrbenchError(what, where=str(file), fix=f"cxrbench score {run.path}", code=Exit.INFRASTRUCTURE)


def is_dummy(manifest: Manifest) -> bool:
    """Whether the texts come from random weights (`--load-format dummy`): for speed, never for scores."""
    return bool(manifest.identity["model"].get("load_format") == "dummy")
