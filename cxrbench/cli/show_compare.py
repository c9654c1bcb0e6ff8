"""Tables of comparisons for a terminal: differences, subgroups, samples that moved, suites of tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrbench.cli.layout import console, figure, flowing, interval, many, signed, table, whole, wrapped
from cxrbench.cli.show import ARROWS, clusters_line, clusters_name, counted, named, rows_of
from cxrbench.cli.show_groups import TABLES, bodies, further_line, left_out_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def show_comparison(result: Mapping[str, Any]) -> None:
    """One run against each of the others."""
    out = console()
    compared = f"{result['n']} of {result['n_expected']} samples compared"
    out.print(f"{result['task']} · {compared}, {clusters_line(result)}", style="bold")
    for pair in result["comparisons"]:
        out.print()
        for side in ("baseline", "candidate"):
            out.print(f"{side:<10} {Path(pair[side]).name}")
            for line in counted({"excluded": {}, **pair["runs"][side]}):
                out.print(f"{'':<10}   {line}")
        out.print()
        out.print(whole(_differences(pair["metrics"], result["ci_level"]), names=False))
        for line in _beside(pair, out.width):
            out.print(line, soft_wrap=True)
        show_groups(out, pair, result["ci_level"], clusters_name(result))
        show_moved(out, pair)
        for line in pairwise_lines(pair, out.width):
            out.print(line)
    out.print(
        f"\nΔ = candidate - baseline; p from {result['cluster_unit']} swaps; "
        f"p Holm adjusts the {many(result['tests'], 'primary test')} together;\n"
        "MDE = smallest difference this many samples can show."
    )


def pairwise_lines(pair: Mapping[str, Any], width: int) -> list[str]:
    """What a judge said of the two runs' reports, if one was asked."""
    found = pair.get("pairwise")
    if found is None:
        return []
    times = f", {found['repeats']} times each" if found["repeats"] > 1 else ""
    lines = [
        f"\njudge {found['judge']}, rubric {found['rubric']}, both orders{times}: candidate wins {found['win']}, "
        f"ties {found['tie']}, loses {found['loss']}; judged {found['n']} of {found['n_expected']} pairs"
    ]
    for name, value in found["values"].items():
        lines.append(f"  {name.replace('_', ' '):<28} {figure(value['value'])} {interval(value['ci'])}")
    failed = [f"{found['failed']} failed: {'; '.join(found['reasons'])}"] if found["failed"] else []
    return [*lines, *("\n".join(wrapped(line, width, "  ")) for line in [*failed, *found["notes"]])]


NAME_WIDTH = 32
"""Columns for a metric and its value on one line, where 100 are to hold all."""


def _differences(metrics: Mapping[str, Any], level: float) -> Table:
    heads = ["metric", "", "baseline", "candidate", "Δ", f"{level:.0%} interval", "p", "p Holm", "MDE"]
    made = table(heads, right=range(2, 9), gap=0)
    for key, body in metrics.items():
        names = rows_of_primary(body["values"])
        alone = len(names) == 1 and len(f"{key} {names[0]}") <= NAME_WIDTH
        if not alone and names:
            made.add_row(key, *[""] * 8)
        for name in names:
            value = body["values"][name]
            made.add_row(
                f"{key} {name}" if alone else f"  {name}",
                ARROWS[value["higher_is_better"]],
                figure(value["baseline"]),
                figure(value["candidate"]),
                signed(value["difference"]),
                interval(value.get("ci")),
                chance(value.get("p")),
                chance(value.get("p_holm")),
                figure(value.get("mde")),
            )
    return made


def _beside(pair: Mapping[str, Any], width: int) -> list[str]:
    """Lines below the table: samples won and lost, what was not compared, cautions."""
    lines = tally_lines(pair["metrics"], width)
    if pair["left_out"]:
        lines += flowing("scored in one run only, so not compared:", pair["left_out"], width)
    lines += [part for line in _cautions(pair["metrics"]) for part in wrapped(line, width)]
    for key, body in pair["metrics"].items():
        lost = body["only_baseline"] + body["only_candidate"]
        if lost:
            lines.append(f"{key}: {lost} samples scored in one run only are left out of the pair")
        failed = body.get("failed", {})
        if any(failed.values()):
            lines.append(
                f"{key}: failed on {failed['baseline']} (baseline) and {failed['candidate']} (candidate) samples"
            )
    return lines


def _cautions(metrics: Mapping[str, Any]) -> list[str]:
    """What a reader must know of an interval or of a detectable difference, once per note."""
    noted: dict[str, list[str]] = {}
    for key, body in metrics.items():
        for name in rows_of_primary(body["values"]):
            for what, note in body["values"][name].get("notes", {}).items():
                noted.setdefault(f"{what}: {note}", []).append(f"{key} {name}")
    total = sum(len(rows_of_primary(body["values"])) for body in metrics.values())
    return [f"{note} ({named(where, total)})" for note, where in noted.items()]


def rows_of_primary(values: Mapping[str, Any]) -> list[str]:
    """Names of the values that have a row in the table."""
    return [name for name in rows_of(values) if values[name]["primary"] or "ci" in values[name]]


def tally_lines(metrics: Mapping[str, Any], width: int) -> list[str]:
    """How many samples got better, stayed equal and got worse, per primary value."""
    parts = [
        f"{key} {name} {tally['win']}/{tally['tie']}/{tally['loss']}"
        for key, body in metrics.items()
        for name, value in body["values"].items()
        if value["primary"] and (tally := value["samples"]) is not None
    ]
    return flowing("samples better/equal/worse:", parts, width) if parts else []


def show_groups(out: Console, pair: Mapping[str, Any], level: float, clusters: str) -> None:
    """One table per column and value: both runs in each group, the difference, the candidate's gap to all others."""
    if not pair.get("groups"):
        return
    tables = [(column, *each) for column, metrics in pair["groups"].items() for each in bodies(metrics)]
    for column, title, body in tables[:TABLES]:
        out.print(f"\n{title} {ARROWS[body['higher_is_better']]} by {column}", style="bold")
        _show_column(out, column, body, level)
    further = Counter(column for column, *_ in tables[TABLES:])
    if further:
        out.print("\n" + "\n".join(wrapped(further_line(further), out.width)), soft_wrap=True)
    out.print(
        "gap = the group minus all other samples, in the candidate; percentile intervals, not adjusted\n"
        f"for their number (--json has p and p Holm of {many(pair['group_tests'], 'difference')});\n"
        f"groups of fewer than {pair['fewest']} {clusters}, or that would tell of one, are hidden"
    )
    for line in left_out_lines(pair["groups_left_out"], out.width):
        out.print(line, soft_wrap=True)


def _show_column(out: Console, column: str, body: Mapping[str, Any], level: float) -> None:
    """One value in the groups of one column."""
    shown = {group: cell for group, cell in body["groups"].items() if not cell["hidden"]}
    hidden = [group for group, cell in body["groups"].items() if cell["hidden"]]
    if hidden:
        out.print("\n".join(flowing("hidden:", hidden, out.width)), soft_wrap=True)
    if not shown:
        return
    ends = f"{level:.0%} interval"
    made = table([column, "n", "baseline", "candidate", "Δ", ends, "gap", ends], right=range(1, 8), gap=0)
    for group, cell in shown.items():
        gap = cell["gap"]["candidate"] or {"value": None, "ci": None}
        made.add_row(
            group, str(cell["n"]), figure(cell["baseline"]), figure(cell["candidate"]),
            signed(cell["difference"]), interval(cell["ci"]), signed(gap["value"]), interval(gap["ci"]),
        )  # fmt: skip
    out.print(whole(made, names=False))
    for line in _small(shown, out.width):
        out.print(line, soft_wrap=True)
    spread = body["spread"]
    if spread["baseline"] is not None and spread["candidate"] is not None:
        out.print(f"largest minus smallest group: {figure(spread['baseline'])} -> {figure(spread['candidate'])}")


def _small(groups: Mapping[str, Any], width: int) -> list[str]:
    """What hinders an interval in a group (few patients), once per note."""
    noted: dict[str, list[str]] = {}
    for group, cell in groups.items():
        if cell["note"]:
            noted.setdefault(cell["note"], []).append(group)
    return [part for note, where in noted.items() for part in wrapped(f"{', '.join(where)}: {note}", width)]


def show_moved(out: Console, pair: Mapping[str, Any]) -> None:
    """The samples that lost and gained most."""
    found = pair.get("moved")
    if not found:
        return
    out.print(f"\n{found['metric']} {found['value']}: samples that moved most", style="bold")
    made = table(["", "sample", "baseline", "candidate", "Δ"], right=(2, 3, 4), gap=1)
    for side in ("worse", "better"):
        for number, row in enumerate(found[side]):
            values = figure(row["baseline"]), figure(row["candidate"]), signed(row["difference"])
            made.add_row(side if number == 0 else "", row["sample"], *values)
    out.print(whole(made))


def show_suite(result: Mapping[str, Any]) -> None:
    """A suite: one block per task, then the means."""
    out = console()
    out.print(f"{result['suite']} · {many(len(result['tasks']), 'task')}", style="bold")
    level = f"{result['ci_level']:.0%} interval"
    made = table(["task, metric", "", "before", "after", "Δ", level, "p Holm", "rel. Δ"], right=range(2, 8), gap=0)
    for task in result["tasks"]:
        ratio = task["length_ratio"]
        made.add_row(task["name"], *[""] * 7)
        for metric, value in task["values"].items():
            made.add_row(
                f"  {metric}", ARROWS[value["higher_is_better"]], figure(value["baseline"]), figure(value["candidate"]),
                signed(value["difference"]), interval(value["ci"]), chance(value.get("p_holm")),
                _percent(value["relative"]),
            )  # fmt: skip
        if ratio is not None:
            made.add_row(
                "  words, after / before", "", "", "", f"x{figure(ratio['value'])}", interval(ratio["ci"]), "", ""
            )
    out.print(whole(made, names=False))
    mean = result["mean_relative_change"]
    ends = f" [{_percent(mean['ci'][0])}, {_percent(mean['ci'][1])}]" if mean["ci"] else ""
    out.print(f"mean relative change over {mean['of']} values: {_percent(mean['value'])}{ends}")
    for task in result["tasks"]:
        out.print(f"{task['name']}: {Path(task['baseline']).name} -> {Path(task['candidate']).name}")
    out.print(
        "\nΔ = after - before, rel. Δ relative to before, plus is better; "
        f"p Holm adjusts {many(result['tests'], 'test')} together."
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1%}"


def chance(value: float | None) -> str:
    """A p-value for a table."""
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else "<0.001"
