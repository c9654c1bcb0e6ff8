"""What stored annotations say of reports: labels of CheXbert, entities of RadGraph. Nothing is annotated here.

Annotations come from the feature store alone, under exactly the key that scoring wrote them with, so what is marked is
what was scored. A text of which nothing is stored has no marks, and the count of such texts is told. Never torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cxrbench import registry
from cxrbench.config import Config
from cxrbench.features.base import FeatureRequest, Resources
from cxrbench.features.device import PRECISIONS
from cxrbench.metrics.radgraph_f1 import LEVELS
from cxrbench.scores import Sources, read_summary, stored_contexts, with_store
from cxrbench.scoring import Chosen, make_metric
from cxrbench.store import RunFolder

DEVICES = ("cpu", "cuda")
"""The device is part of what annotations are stored under, and which one scored a run is not asked of torch here."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Annotations of one annotator by text; `weights` names what made them (empty: nothing is stored)."""

    weights: str
    by_text: Mapping[str, Any]


NOTHING = Stored("", {})


def stored_annotations(run: RunFolder, feature: str, texts: Sequence[str], config: Config) -> Stored:
    """What the feature store holds of texts for a scored run, from the weights that most of them were read by.

    Raises:
        CxrbenchError: the store, or a context of the run, is damaged.
    """
    if not (run.path / "summary.json").exists():
        return NOTHING
    dataset = run.manifest().task["dataset"]["name"]
    store = with_store(Resources(config=config), dataset).store
    if store is None:
        return NOTHING
    annotator = registry.load("features", feature)()
    best = NOTHING
    for request in _requests(run, feature, dataset):
        settings = dict(request.settings)
        scope = annotator.scope(settings, Resources(config=config)).removesuffix(DEVICES[0])
        for device in DEVICES:
            found = store.get(f"{scope}{device}", texts)
            if len(found) > len(best.by_text):
                best = Stored(
                    f"{settings['weights']} ({settings['hash']})",
                    {text: annotator.unpack(packed) for text, packed in found.items()},
                )
    return best


def _requests(run: RunFolder, feature: str, dataset: str) -> Iterator[FeatureRequest]:
    """What the scored metrics of a run asked of an annotator, in the order of the summary."""
    for key in read_summary(run)["metrics"]:
        if key.partition(":")[0] not in registry.entries("metrics"):
            continue
        metric = make_metric(key)
        for precision in PRECISIONS:
            sources = Sources(resources=Resources(precision=precision))
            for context in stored_contexts(run, [Chosen(metric, required=False)], sources, dataset).values():
                yield from (each for each in metric.needs(context) if each.name == feature)


@dataclass(frozen=True, slots=True)
class Entity:
    """One entity of a report: what it is compared by, its RadGraph label, where it stands (None: not found there)."""

    element: tuple[Any, ...]
    label: str
    span: tuple[int, int] | None


def entities(text: str, annotation: Mapping[str, Any]) -> list[Entity]:
    """The entities of an annotation, compared by words (case folded) and label, as `radgraph-f1:simple-folded` does."""
    if not text:
        return []
    level = LEVELS["simple"][0]
    places = word_places(text, str(annotation["text"]).split(" "))
    found = []
    for entity in annotation["entities"].values():
        here = [place for place in places[entity["start_ix"] : entity["end_ix"] + 1] if place is not None]
        span = (here[0][0], here[-1][1]) if here else None
        found.append(Entity(next(iter(level(entity, annotation, True))), str(entity["label"]), span))
    return found


def word_places(text: str, words: Sequence[str]) -> list[tuple[int, int] | None]:
    """Where each word of an annotation stands in the report it was made of, in order; None where it does not.

    >>> word_places("No effusion. Heart", ["No", "effusion", ".", "Heart"])
    [(0, 2), (3, 11), (11, 12), (13, 18)]
    """
    places: list[tuple[int, int] | None] = []
    after = 0
    for word in words:
        at = text.find(word, after) if word else -1
        if at < 0:
            places.append(None)
            continue
        after = at + len(word)
        places.append((at, after))
    return places
