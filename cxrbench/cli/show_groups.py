"""Tables of subgroups for a terminal: what `groups` prints, and `run` and `score` on a task with `groups`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


TABLES = 40
"""Tables of groups in a terminal; further ones are counted."""


def show_groups(out: Console, found: Mapping[str, Any], clusters: str) -> None:
    """Every column, metric and value that has a group to show; the others are named in a line each.

    `clusters`: what is resampled together, `patients` or what stands for them.
    """
    hidden, room = False, TABLES
    further: dict[str, int] = {}
    for column, by_metric in found["groups"].items():
        empty = []
        for title, body in bodies(by_metric):
            shown = [cell for cell in body["groups"].values() if not cell["hidden"]]
            hidden |= len(shown) < len(body["groups"])
            if not shown:
                empty.append(title)
            elif room:
                room -= 1
                _table(out, found, title, column, body, clusters)
            else:
                further[column] = further.get(column, 0) + 1
        if empty:
            need = f"from {found['fewest']} {clusters} on, where it tells of no smaller one"
            _lines(out, f"\nby {column}, no group to show (one is shown {need}): {', '.join(empty)}")
    for column, why in found.get("not_told", {}).items():
        _lines(out, f"\nby {column}, not told: {why}")
    if further:
        _lines(out, f"\n{further_line(further)}")
    _explained(out, found, clusters, hidden=hidden)


def bodies(by_metric: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tables of one column: metric and value in words, and what the table holds."""
    for key, values in by_metric.items():
        for name, body in values.items():
            yield f"{key} {name}", body


def further_line(further: Mapping[str, int]) -> str:
    """What a terminal is not shown of too many tables: column -> how many.

    >>> further_line({"label": 12, "view": 3})
    '15 further tables (by label 12, view 3) with --json; fewer columns in --by or --metrics show them here'
    """
    columns = ", ".join(f"{column} {count}" for column, count in further.items())
    told = f"{sum(further.values())} further tables (by {columns}) with --json"
    return f"{told}; fewer columns in --by or --metrics show them here"


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
    against = found["against"].get(column)
    shown = {group: cell for group, cell in body["groups"].items() if not cell["hidden"] and group != against}
    bare = [group for group, cell in shown.items() if cell["value"] is not None and cell["gap"] is None]
    if against in names:
        _lines(out, f"no gap: the group {against} is hidden")
    elif bare:
        rest = f"what is left to hold it against has fewer than {found['fewest']} {clusters}, or no such number"
        _lines(out, f"no gap of {', '.join(bare)}: {rest}")
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
    _lines_of(out, left_out_lines(found.get("left_out", {}), out.width))


def left_out_lines(left_out: Mapping[str, str], width: int) -> list[str]:
    """Metrics that no table of groups has, those with one reason together.

    >>> left_out_lines({"a:x": "no sum", "b:x": "no sum"}, 40)
    ['not told by groups: a:x, b:x: no sum']
    """
    from cxrbench.cli.layout import wrapped

    by_reason: dict[str, list[str]] = {}
    for key, why in left_out.items():
        by_reason.setdefault(why, []).append(key)
    lines = [f"not told by groups: {', '.join(keys)}: {why}" for why, keys in by_reason.items()]
    return [part for line in lines for part in wrapped(line, width)]


def _lines_of(out: Console, lines: Sequence[str]) -> None:
    for line in lines:
        out.print(line, soft_wrap=True)


def _lines(out: Console, text: str) -> None:
    from cxrbench.cli.layout import wrapped

    lead = "\n" if text.startswith("\n") else ""
    out.print(lead + "\n".join(wrapped(text.strip(), out.width)), soft_wrap=True)
