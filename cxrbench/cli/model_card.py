"""What is known of a model, as lines: its card, its settings, its presets with the source of each setting."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

WIDTH = 100


def kinds_of(adapter: Any, engine: Any) -> list[str]:
    """The kinds of request that an adapter answers on an engine; none where the engine cannot hold it."""
    return sorted(adapter.kinds & engine.serves) if engine.needs in adapter.offers else []


def card_lines(name: str) -> Iterator[str]:
    """The card of the model registered as `name`.

    Raises:
        CxrbenchError: there is no such model.
    """
    from cxrbench import registry

    entry = registry.find("models", name)
    adapter = entry.load()
    card = getattr(adapter, "CARD", None)
    if card is None:
        yield f"{entry.name}: {entry.about} (from {entry.source})"
        return
    yield from _wrapped(card.name, card.about)
    facts = (
        ("source", (card.source,)),
        ("revision", (card.revision,)),
        ("licence", (card.licence,)),
        ("citation", (card.citation,)),
        ("trained on", card.trained_on),
        ("writes", (", ".join(card.targets),)),
        ("reads", card.inputs),
        ("published", card.published),
        ("note", (card.notes,)),
        ("folders", tuple(f"--{key}: {what}" for key, what in adapter.places.items())),
        ("--set", tuple(f"{key}: {what}" for key, what in adapter.settings.items())),
        ("engines", tuple(_engines(adapter))),
    )
    for label, values in facts:
        for value in values:
            if value:
                yield from _wrapped(label, value)
    yield from _presets({target: adapter.reference(target) for target in adapter.targets})


def _engines(adapter: Any) -> Iterator[str]:
    from cxrbench import registry

    for engine, entry in registry.entries("engines").items():
        kinds = kinds_of(adapter, entry.load())
        if kinds:
            yield f"{engine}: {', '.join(kinds)}"


def _presets(presets: Mapping[str, Any]) -> Iterator[str]:
    """The authors' preset: what it sets for each target, who says so, what is odd about it."""
    yield ""
    told: dict[str, list[str]] = {}
    for target, preset in presets.items():
        values = ", ".join(f"{key}={value}" for key, value in preset.generation.items())
        told.setdefault(f"{values}, dtype={preset.dtype}", []).append(target)
    first = next(iter(presets.values()))
    for values, targets in told.items():
        yield from _wrapped(f"preset {first.name} ({', '.join(targets)})", values)
    for key, source in first.origin.items():
        yield from _wrapped(f"  {key}", source)
    for quirk in first.quirks:
        yield from _wrapped("  quirk", quirk)


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(f"{label}: {text}", WIDTH, subsequent_indent=" " * (len(label) - len(label.lstrip()) + 4))
