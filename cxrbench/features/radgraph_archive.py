"""The settings of an unpacked RadGraph archive: config.json and vocabulary/, read and never assumed. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cxrbench.errors import CxrbenchError


@dataclass(frozen=True, slots=True)
class Shape:
    """What config.json and vocabulary/ say about a network. Entity label 0 is none; relation labels have no none."""

    kind: str
    entities: tuple[str, ...]
    relations: tuple[str, ...]
    widest: int
    width_rows: int
    width_size: int
    hidden: tuple[int, ...]
    spans_per_word: float
    longest: int
    bert: str


def read_shape(archive: Path, kind: str | None = None) -> Shape:
    """Read config.json and vocabulary/ of an unpacked archive.

    Raises:
        CxrbenchError: a file or a setting is missing, or the archive asks for a head that is not run here.
    """
    file = archive / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        model, reader = config["model"], config["dataset_reader"]
        bert, layers = model["embedder"]["token_embedders"]["bert"], model["feedforward_params"]
        spread = model["loss_weights"].get("coref", 0) > 0 or model["modules"]["coref"].get("coref_prop", 0) > 0
        hidden = layers["hidden_dims"]
        kind, entities, relations = _labels(archive / "vocabulary", kind)
        shape = Shape(
            kind=kind,
            entities=entities,
            relations=relations,
            widest=reader["max_span_width"],
            width_rows=model["max_span_width"],
            width_size=model["feature_size"],
            hidden=tuple(hidden) if isinstance(hidden, list) else (hidden,) * layers["num_layers"],
            spans_per_word=model["modules"]["relation"]["spans_per_word"],
            longest=int(bert["max_length"]),
            bert=bert["model_name"],
        )
    except FileNotFoundError as error:
        raise CxrbenchError(
            f"this is no unpacked RadGraph archive: {Path(error.filename).name} is missing",
            where=str(archive),
            fix="unpack radgraph.tar.gz and give the folder with config.json, vocabulary/ and weights.th",
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise CxrbenchError(
            f"config.json is not that of a RadGraph: {type(error).__name__} {error}",
            where=str(file),
            fix="unpack radgraph.tar.gz again",
        ) from error
    if spread:
        raise CxrbenchError(
            "this archive passes vectors along coreference links, which no RadGraph does and cxrbench does not run",
            where=str(file),
            fix="give an archive of StanfordAIMI/RRG_scorers",
        )
    return shape


def _labels(vocabulary: Path, kind: str | None) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Model type, entity labels (0 is none) and relation labels, from `<kind>__ner_labels.txt` and its sister."""
    kinds = sorted(file.name.removesuffix("__ner_labels.txt") for file in vocabulary.glob("*__ner_labels.txt"))
    if kind not in kinds:
        if kind is not None or len(kinds) != 1:
            raise ValueError(f"vocabulary/ has the model types {kinds}, and {kind or 'none'} is asked for")
        kind = kinds[0]
    files = (vocabulary / f"{kind}__ner_labels.txt", vocabulary / f"{kind}__relation_labels.txt")
    entities, relations = (tuple(file.read_text(encoding="utf-8").removesuffix("\n").split("\n")) for file in files)
    if entities[0]:
        raise ValueError(f"the first entity label is {entities[0]!r}, not the empty one")
    return kind, entities, relations
