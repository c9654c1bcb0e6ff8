"""Tables of subgroups for a terminal: what `groups` prints, and `run` and `score` on a task with `groups`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def show_groups(out: Console, found: Mapping[str, Any], clusters: str) -> None:
    """Every column, metric and value that has a group to show; the others are named in a line each.

    `clusters`: what is resampled together, `patients` or what stands for them.
    """
    hidden = False
    for column, by_metric in found["groups"].items():
        empty = []
        for key, values in by_metric.items():
            for name, body in values.items():
                shown = [cell for cell in body["groups"].values() if not cell["hidden"]]
                hidden |= len(shown) < len(body["groups"])
                if shown:
                    _table(out, found, f"{key} {name}", column, body, clusters)
                else:
                    empty.append(f"{key} {name}")
        if empty:
            _lines(out, f"\nby {column}, no group to show: {', '.join(empty)}")
    for column, why in found.get("not_told", {}).items():
        _lines(out, f"\nby {column}, not told: {why}")
    _explained(out, found, clusters, hidden=hidden)


def _table(
    out: Console, found: Mapping[str, Any], title: str, column: str, body: Mapping[str, Any], clusters: str
) -> None:
    from cxrbench.cli.layout import figure, interval, signed, table, whole
    from cxrbench.cli.show import ARROWS

    level = f"{found['ci_level']:.0%} interval" if found["ci_level"] else "interval"
    out.print(f"\n{title} {ARROWS[body['higher_is_better']]} by {column}", style="bold")
    made = table([column, "n", clusters, "value", level, "gap", level], right=range(1, 7), gap=1)
    for group, cell in body["groups"].items():
        if not cell["hidden"]:
            made.add_row(
                group, str(cell["n"]), str(cell["clusters"]), figure(cell["value"]), interval(cell["ci"]),
                signed(cell["gap"]), interval(cell["gap_ci"]),
            )  # fmt: skip
    out.print(whole(made))
    names = [group for group, cell in body["groups"].items() if cell["hidden"]]
    if names:
        _lines(out, f"hidden: {', '.join(names)}")
    if body["spread"] is not None:
        out.print(f"largest minus smallest group: {figure(body['spread'])}")


def _explained(out: Console, found: Mapping[str, Any], clusters: str, *, hidden: bool) -> None:
    if not found["groups"]:
        return
    named = [f"the group {group} ({column})" for column, group in found["against"].items()]
    others = set(found["groups"]) - set(found["against"])
    rest = ["all other samples"] if others else []
    _lines(
        out,
        f"\ngap = the group minus {', '.join([*named, *rest])}; percentile intervals over {clusters}, not adjusted "
        "for their number",
    )
    if hidden:
        _lines(out, f"hidden: fewer than {found['fewest']} {clusters}, or what would tell of such a group")


def _lines(out: Console, text: str) -> None:
    from cxrbench.cli.layout import wrapped

    lead = "\n" if text.startswith("\n") else ""
    out.print(lead + "\n".join(wrapped(text.strip(), out.width)), soft_wrap=True)
