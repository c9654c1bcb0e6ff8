"""What a reader of a scoring must be told beside its numbers: notes of a summary."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cxrbench.metrics.base import comparable
from cxrbench.scores import Sources, with_store
from cxrbench.scoring import Scored
from cxrbench.types import Manifest


def noted(scored: Scored, sources: Sources) -> Scored:
    """A metric that learnt from a given word list, or was judged, says so wherever its score stands."""
    if scored.metric.judge and scored.statistics is not None and sources.resources.judge is not None:
        return replace(scored, notes=tuple(sources.resources.judge.told(scored.context.data["rubrics"])))
    if sources.vocabulary is None or "vocabulary" not in scored.context.data:
        return scored
    return replace(scored, notes=(f"{scored.metric.key}: a given vocabulary of {len(sources.vocabulary)} words",))


def notes_of(results: Sequence[Scored]) -> list[str]:
    """What a reader must know of how the metrics came about, each note with the metric it is of."""
    notes = [(f"{each.metric.key}: ", note) for each in results for note in each.notes]
    return [note if note.startswith(lead) else lead + note for lead, note in notes]


def embedded_notes(results: Sequence[Scored]) -> list[str]:
    """Numbers that the tiny embedded annotators made must not stand beside published ones."""
    keys = [each.metric.key for each in results if each.statistics is not None and "embedded-" in each.signature]
    said = "read by the embedded annotators, which know phantom only: not comparable with published values"
    return [f"{', '.join(keys)}: {said}"] if keys else []


def unkept(results: Sequence[Scored], sources: Sources, dataset: str | None) -> list[str]:
    """Annotations that could not be kept cost the next scoring the same time again, so it is said."""
    store = with_store(sources.resources, dataset).store
    read = any(each.statistics is not None and "|verified:" in each.signature for each in results)
    if store is None or not read or store.usable():
        return []
    return [f"annotations were not kept, the next scoring makes them again: {store.file.parent} cannot be written"]


def changed(results: Sequence[Scored], before: Mapping[str, Any]) -> list[str]:
    """A number that is made in another way than at the last scoring says so."""
    then = {
        key: next(iter(values.values()))["signature"] for key, values in before.get("metrics", {}).items() if values
    }
    ways: dict[str, list[str]] = {}
    for each in results:
        key = each.metric.key
        if each.statistics is not None and comparable(then.get(key, each.signature)) != comparable(each.signature):
            ways.setdefault(_differences(then[key], each.signature), []).append(key)
    return [
        f"{', '.join(keys)} {'is' if len(keys) == 1 else 'are'} made in another way than at the last scoring: {how}"
        for how, keys in ways.items()
    ]


def _differences(before: str, now: str) -> str:
    """The parts in which two signatures differ: `weights:1a2b3c4d before, weights:5e6f7a8b now`."""
    first, second = (comparable(each).split("|") for each in (before, now))
    gone = [f"{part} before" for part in first if part not in second]
    return ", ".join([*gone, *(f"{part} now" for part in second if part not in first)])


def gallery_notes(manifest: Manifest) -> list[str]:
    """How many train images a retrieval model could look at."""
    machine = manifest.circumstances[-1] if manifest.circumstances else {}
    if "gallery" not in machine:
        return []
    left_out = ", ".join(f"{count} {why}" for why, count in machine.get("gallery_left_out", {}).items())
    return [f"gallery: {machine['gallery']} train images" + (f" ({left_out})" if left_out else "")]


def without_rubric(keys: Collection[str]) -> list[str]:
    """Metrics `judge:FILE` whose file is gone: what their columns mean is not known any more."""
    return [key for key in keys if key.startswith("judge:") and not Path(key.partition(":")[2]).is_file()]
