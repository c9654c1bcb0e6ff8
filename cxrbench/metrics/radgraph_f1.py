"""RadGraph F1: how much of the entities and relations of two reports is the same (Jain et al. 2021, Delbrouck 2022).

Three levels of strictness share the name, and so do two scorers called radgraph 0.1.18: the released one compares
words with their case (but for the words of a relation), a later one folds it. Each is a preset. Touches features by
name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np

from cxrbench.features import embedded, radgraph
from cxrbench.features.weights import signed, subject_of
from cxrbench.metrics.base import Context, Corpus, FeatureRequest, Floats, Metric, Pairs, Statistics, Value, ratio
from cxrbench.metrics.learned import fit_weights, request
from cxrbench.verified import Subject

Annotation = Mapping[str, Any]
"""RadGraph's JSON form of one report: `entities` by number, each with tokens, label and relations."""

Element = tuple[Any, ...]


def _simple(entity: Mapping[str, Any], annotation: Annotation, folded: bool) -> Iterator[Element]:
    yield _words(entity, folded), entity["label"]


def _partial(entity: Mapping[str, Any], annotation: Annotation, folded: bool) -> Iterator[Element]:
    yield (_words(entity, folded), entity["label"], *((True,) if entity["relations"] else ()))


def _complete(entity: Mapping[str, Any], annotation: Annotation, folded: bool) -> Iterator[Element]:
    """Words of an entity with relations are folded in the released scorer too, and so are those of the target."""
    if not entity["relations"]:
        yield _words(entity, folded), entity["label"]
    for kind, target in entity["relations"]:
        yield _words(entity, True), entity["label"], kind, _words(annotation["entities"][target], True)


def _words(entity: Mapping[str, Any], folded: bool) -> str:
    return str(entity["tokens"]).lower() if folded else str(entity["tokens"])


Level = Callable[[Mapping[str, Any], Annotation, bool], Iterator[Element]]
LEVELS: Mapping[str, tuple[Level, str]] = {
    "partial": (_partial, "entities with their label and whether they have a relation (RG_ER, what most papers give)"),
    "simple": (_simple, "entities with their label (RG_E)"),
    "complete": (_complete, "entities with every relation and its target (RG_ER with a bar)"),
}


@dataclass(frozen=True, slots=True)
class Convention:
    """What a preset means: the level, whether case is folded, whose weights annotate."""

    level: str
    folded: bool
    asset: str
    about: str


_WEIGHTS = {"": "radgraph", "xl-": "radgraph-xl", "modern-xl-": "modern-radgraph-xl"}

CONVENTIONS: Mapping[str, Convention] = {
    f"{prefix}{level}{'-folded' if folded else ''}": Convention(
        level, folded, asset, f"{about}; {asset}, case {'folded' if folded else 'as released in 0.1.18'}"
    )
    for (prefix, asset), (level, (_, about)), folded in product(_WEIGHTS.items(), LEVELS.items(), (False, True))
} | {
    "combined": Convention(
        "combined", False, "radgraph", "mean of entity F1 and relation F1, as in CXR-Report-Metric and RadCliQ"
    )
}


class RadGraphF1(Metric):
    """Statistics per sample: count, precision, recall, F1. Values are means over reports; no samples: not a number.

    A report in which nothing was found, on either side, scores 0, an empty one too, as in the package.
    """

    name = "radgraph-f1"
    presets: ClassVar[Mapping[str, str]] = {name: each.about for name, each in CONVENTIONS.items()}
    default_preset = "partial"
    citation = (
        "Jain et al., RadGraph: Extracting Clinical Entities and Relations from Radiology Reports, "
        "NeurIPS Datasets and Benchmarks 2021",
        "Delbrouck et al., Improving the Factual Correctness of Radiology Report Generation with Semantic "
        "Rewards, Findings of EMNLP 2022",
    )
    values: ClassVar[Mapping[str, Value]] = {
        "f1": Value(True, (0.0, 1.0), primary=True),
        "precision": Value(True, (0.0, 1.0)),
        "recall": Value(True, (0.0, 1.0)),
    }

    @property
    def convention(self) -> Convention:
        """What the preset means."""
        return CONVENTIONS[self.preset]

    def ready(self) -> str | None:
        return embedded.torch_missing()

    def fit(self, corpus: Corpus) -> Context:
        """Choose the weights for the data set.

        Raises:
            CxrbenchError: they are not here; names the command that brings them.
        """
        return fit_weights(self.convention.asset, corpus)

    def needs(self, context: Context) -> tuple[FeatureRequest, ...]:
        return (annotation_request(context),)

    def statistics(self, pairs: Pairs, features: Mapping[FeatureRequest, Any], context: Context) -> Statistics:
        sides = features[annotation_request(context)]
        texts = zip(pairs.predictions, pairs.references, strict=True)
        annotations = zip(sides.predictions, sides.references, strict=True)
        rows = [
            (1.0, *(score(*both, self.convention) if all(given) else NOTHING))
            for given, both in zip(texts, annotations, strict=True)
        ]
        return Statistics.scored(np.array(rows, np.float64).reshape(len(pairs), 4))

    def value(self, sums: Floats) -> dict[str, Floats]:
        """Means over reports."""
        names = ("precision", "recall", "f1")
        means = {name: ratio(sums[..., column], sums[..., 0]) for column, name in enumerate(names, start=1)}
        return {name: means[name] for name in self.values}

    def settings(self) -> tuple[tuple[str, str], ...]:
        rule = self.convention
        case = "folded" if rule.folded else "released"
        return (("level", rule.level), ("case", case), ("annotator", f"radgraph.{radgraph.VERSION}"))

    def subject(self, context: Context) -> Subject | None:
        return subject_of(self.name, f"radgraph.{radgraph.VERSION}|v:{self.version}", context.data)

    def fitted(self, context: Context) -> tuple[tuple[str, str], ...]:
        return signed(context.data, self.subject(context))


def annotation_request(context: Context) -> FeatureRequest:
    """The annotations of both sides by the weights the metric was fitted with."""
    return request("radgraph", context)


NOTHING = (0.0, 0.0, 0.0)
"""What a pair scores where either side is empty or nothing was found in it."""


def score(said: Annotation, true: Annotation, rule: Convention) -> tuple[float, float, float]:
    """Precision, recall and F1 of one report; 0 where either side has no entity."""
    if not said["entities"] or not true["entities"]:
        return NOTHING
    if rule.level == "combined":
        return combined(said, true)
    level = LEVELS[rule.level][0]
    return overlap(*(elements(each, level, folded=rule.folded) for each in (said, true)))


def elements(annotation: Annotation, level: Level, *, folded: bool) -> set[Element]:
    """What two reports are compared by."""
    return {each for entity in annotation["entities"].values() for each in level(entity, annotation, folded)}


def combined(said: Annotation, true: Annotation) -> tuple[float, float, float]:
    """Means of the figures of entities (words, label) and of those of relations (entity, entity, kind)."""
    of_entities = overlap(*(elements(each, _simple, folded=False) for each in (said, true)))
    of_relations = overlap(*(_relations(each) for each in (said, true)))
    precision, recall, f1 = ((a + b) / 2 for a, b in zip(of_entities, of_relations, strict=True))
    return precision, recall, f1


def _relations(annotation: Annotation) -> set[Element]:
    entities = annotation["entities"]
    named = {number: (entity["tokens"], entity["label"]) for number, entity in entities.items()}
    return {
        (named[number], named[target], kind)
        for number, entity in entities.items()
        for kind, target in entity["relations"]
    }


def overlap(said: set[Element], true: set[Element]) -> tuple[float, float, float]:
    """Precision, recall and F1 of a set against another; 0/0 is 0.

    >>> overlap({(1,), (2,)}, {(2,), (3,), (4,), (5,)})
    (0.5, 0.25, 0.3333333333333333)
    """
    common = len(said & true)
    precision = common / len(said) if said else 0.0
    recall = common / len(true) if true else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return precision, recall, f1
