"""What is known of a model, as lines: its card, its settings, its presets with the source of each setting."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

WIDTH = 100


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
        ("published", tuple(map(_published, card.published))),
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


def _published(text: str) -> str:
    """A sentence as it is; `table/row` of baselines/published/ with its figures, and how well they are known."""
    from cxrbench.anchors import evidence, find_row
    from cxrbench.report.published import published_files

    if text.partition("/")[0] not in published_files():
        return text
    table, row = find_row(text)
    pairs = zip(table.columns, row.values, strict=True)
    figures = ", ".join(f"{column.name} {value:g}" for column, value in pairs if value is not None)
    return f"{text}: {table.title}: {figures} ({evidence(table, row)})"


def _engines(adapter: Any) -> Iterator[str]:
    """What each engine answers with this model; why not, where the model itself is the reason."""
    from cxrbench import registry
    from cxrbench.engines.base import held

    for name, entry in registry.entries("engines").items():
        found = held(adapter, entry.load())
        if found.kinds:
            yield f"{name}: {', '.join(sorted(found.kinds))}" + (f" ({found.depends})" if found.depends else "")
    for name, why in getattr(adapter, "not_on", {}).items():
        yield f"not {name}: {why}"


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
