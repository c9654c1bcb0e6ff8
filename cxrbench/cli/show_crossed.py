"""Values that are counted by kind and by significance, as a table of their own: CheXprompt's and GREEN's errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

SIDES = ("significant", "insignificant")


def kinds(values: Mapping[str, Any]) -> list[str]:
    """Kinds that a metric counts on both sides, in its order.

    >>> kinds({"total": 0, "significant": 0, "significant_omission": 0, "insignificant_omission": 0})
    ['omission']
    """
    first = f"{SIDES[0]}_"
    found = [name.removeprefix(first) for name in values if name.startswith(first)]
    return [kind for kind in found if f"{SIDES[1]}_{kind}" in values]


def crossed(values: Mapping[str, Any]) -> frozenset[str]:
    """Names that stand in the table of their own."""
    return frozenset(f"{side}_{kind}" for kind in kinds(values) for side in SIDES)


def show(out: Console, summary: Mapping[str, Any]) -> None:
    """A table for each metric that counts so: errors per report by kind, significant and not, with intervals."""
    from cxrbench.cli.layout import figure, interval, table, whole

    for key, values in summary["metrics"].items():
        rows = kinds(values)
        if all(values[f"{SIDES[0]}_{kind}"]["value"] is None for kind in rows):  # no such kinds, or nothing scored
            continue
        made = table(
            [f"{key}, per report", *(part for side in SIDES for part in (side, "interval"))], right=range(1, 5)
        )
        for kind in rows:
            entries = [values[f"{side}_{kind}"] for side in SIDES]
            cells = [cell for each in entries for cell in (figure(each["value"]), interval(each["ci"]))]
            made.add_row(kind.replace("_", " "), *cells)
        out.print()
        out.print(whole(made))
