"""Tables for a terminal 100 columns wide, drawn from the same objects that `--json` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cxrbench.cli import show_crossed
from cxrbench.cli.layout import console, figure, flowing, interval, many, rate, size, table, whole, wrapped
from cxrbench.types import CLUSTERS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


ARROWS = {True: "↑", False: "↓", None: ""}


def show_summary(summary: Mapping[str, Any]) -> None:
    """A scored run: what it rests on, the scores, the slices, the speed, what was not scored."""
    out = console()
    title = " · ".join(str(summary[key]) for key in ("task", "model") if summary.get(key))
    if title:
        out.print(title, style="bold")
    out.print("\n".join((rests_on(summary), *failed_lines(summary))), soft_wrap=True)
    for line in (*counted(summary), *summary.get("notes", ())):
        out.print("\n".join(wrapped(line, out.width, "  ")), soft_wrap=True)
    out.print()
    if summary["metrics"]:
        out.print(whole(_scores(summary)))
    show_crossed.show(out, summary)
    for line in further_lines(summary, out.width):
        out.print(line)
    for line in caution_lines(summary):
        out.print("\n".join(wrapped(line, out.width)), soft_wrap=True)
    for line in missing_lines(summary["not_scored"], out.width):
        out.print(line, soft_wrap=True)
    _show_parts(out, summary)
    if summary.get("speed", {}).get("reports"):
        out.print()
        for line in speed_lines(summary["speed"], written(summary)):
            out.print(line)


def _show_parts(out: Console, summary: Mapping[str, Any]) -> None:
    """Slices, and the groups of a task that names them."""
    slices = telling_slices(summary)
    if slices and any(_scored_in(entry) for groups in slices.values() for entry in groups.values()):
        out.print()
        out.print(whole(_slices(slices, out.width)))
    if summary.get("groups"):
        from cxrbench.cli.show_groups import show_groups

        show_groups(out, summary["groups"], clusters_name(summary))


def show_speed(summary: Mapping[str, Any]) -> None:
    """A run of random weights: what was answered and how fast."""
    out = console()
    out.print(f"{summary['task']} · {summary['model']}", style="bold")
    out.print(f"answered {summary['n']} of {summary['n_expected']} samples")
    for line in (*counted(summary), *summary["notes"]):
        out.print(f"  {line}")
    out.print()
    for line in speed_lines(summary["speed"]):
        out.print(line)


def rests_on(summary: Mapping[str, Any]) -> str:
    """One line: how many samples of how many, how many clusters; scored is only what no metric failed on."""
    who = clusters_line(summary)
    did = "scored" if summary["metrics"] else "nothing scored; answered"
    if failed_lines(summary):
        did = "answered"
    return f"{did} {summary['n']} of {summary['n_expected']} samples{part_of(summary)}, {who}"


def failed_lines(summary: Mapping[str, Any]) -> list[str]:
    """Metrics that failed on samples (calls of a judge, say), each with how many it scored."""
    firsts = [(key, next(iter(values.values()))) for key, values in summary["metrics"].items() if values]
    return [
        f"{key}: scored {entry['n']} of {summary['n_expected']} ({entry['failed']} failed)"
        for key, entry in firsts
        if entry["failed"]
    ]


def scored_line(counts: Collection[int], total: int) -> str:
    """How many of `total` samples were scored, by the metrics that scored fewest and most.

    >>> scored_line([24, 20, 24], 24), scored_line([24], 24), scored_line([], 24)
    ('20 to 24 of 24', '24 of 24', 'none of 24')
    """
    if not counts:
        return f"none of {total}"
    fewest, most = min(counts), max(counts)
    return f"{fewest} of {total}" if fewest == most else f"{fewest} to {most} of {total}"


def clusters_line(summary: Mapping[str, Any]) -> str:
    """What is resampled together."""
    if summary["cluster_unit"] == "patient":
        return many(summary["clusters"], "patient")
    if summary["cluster_unit"] == "sample":
        return "no patient ids: studies are the clusters"
    return f"no patient ids: {summary['clusters']} {clusters_name(summary)} are the clusters"


def clusters_name(summary: Mapping[str, Any]) -> str:
    """The same as a word for many of them: a study's samples are together where nothing else is known."""
    return "studies" if summary["cluster_unit"] == "sample" else CLUSTERS[summary["cluster_unit"]]


def part_of(summary: Mapping[str, Any]) -> str:
    """What the samples are a part of, where they are not the whole task: a limit, or data that are not all here."""
    parts = []
    if summary.get("limit") is not None:
        parts.append(f"--limit {summary['limit']} of {summary['n_task']}")
    full = summary.get("n_full")
    if full is not None and full != summary["n_task"]:
        parts.append(f"{summary['n_task']} here, {full} in the full task")
    return f" ({'; '.join(parts)})" if parts else ""


def counted(summary: Mapping[str, Any]) -> list[str]:
    """Lines that belong beside every score: distinct reports, outcomes, exclusions, cut texts."""
    lines = [line for line in (distinct_line(summary),) if line]
    other = {key: count for key, count in summary["outcomes"].items() if key != "ok"}
    if other:
        lines.append("outcomes: " + ", ".join(f"{count} {key}" for key, count in summary["outcomes"].items()))
    if "no_decoder" in other:
        lines.append("no_decoder: pip install 'cxrbench[dicom]', then repeat the command")
    if "prompt_too_long" in other:
        lines.append("prompt_too_long: fewer new tokens leave more room for the prompt: --set max_new_tokens=N")
    if summary.get("excluded"):
        lines.append("left out: " + ", ".join(f"{count} {why}" for why, count in summary["excluded"].items()))
    if summary["truncated_share"] is not None:
        lines.append(f"cut off by the length cap: {summary['truncated_share']:.1%} of {written(summary)}")
    return lines


def written(summary: Mapping[str, Any]) -> str:
    """What a model writes: reports, or answers to questions.

    >>> written({"kind": "vqa"}), written({})
    ('answers', 'reports')
    """
    from cxrbench.spec import QUESTIONS

    return "answers" if summary.get("kind") in QUESTIONS else "reports"


def distinct_line(summary: Mapping[str, Any]) -> str:
    """How many different reports or answers a model wrote: a constant one can score well on words.

    Nothing where it chose among options: which those are is the question's doing.
    """
    found = summary.get("distinct")
    if not found or not found["reports"] or summary.get("kind") == "choice":
        return ""
    return (
        f"distinct {written(summary)}: {found['distinct']} of {found['reports']}, "
        f"where the references have {found['reference_distinct']}"
    )


ROWS = 4
"""Values of one metric that get a row of their own; further ones share a line."""


def rows_of(values: Mapping[str, Any]) -> list[str]:
    """Names that get a row, primary ones first; a figure of the references stands beside that of the predictions."""
    apart = show_crossed.crossed(values)
    names = [name for name in values if not name.startswith("reference_") and name not in apart]
    return names if len(names) <= ROWS else sorted(names, key=lambda name: not values[name]["primary"])[:ROWS]


def _scores(summary: Mapping[str, Any]) -> Table:
    level = summary["ci_level"]
    made = table(["metric", "value", f"{level:.0%} interval" if level else "interval", "scored", ""], right=(1, 2, 3))
    wide = max(map(len, summary["metrics"]), default=0)
    for key, values in summary["metrics"].items():
        for number, name in enumerate(rows_of(values)):
            entry = values[name]
            reference = values.get(f"reference_{name}")
            beside = f"ref. {figure(reference['value'], reference['unit'])}" if reference else ""
            made.add_row(
                f"{key if number == 0 else '':<{wide}} {name}",
                figure(entry["value"], entry["unit"]),
                interval(entry["ci"], entry["unit"]),
                f"{entry.get('rests_on', entry['n'])}" + (f" ({entry['failed']} failed)" if entry["failed"] else ""),
                ARROWS[entry["higher_is_better"]] or beside,
            )
    return made


FURTHER = 16
"""Values of one metric that are told below the table."""


def further_lines(summary: Mapping[str, Any], width: int) -> list[str]:
    """Values that got no row, several to a line: per-label figures and the like; no name is parted from its figure."""
    lines = []
    for key, values in summary["metrics"].items():
        told = {*rows_of(values), *show_crossed.crossed(values)}
        rest = [name for name in values if not name.startswith("reference_") and name not in told]
        if rest:
            said = [f"{name} {figure(values[name]['value'], values[name]['unit'])}" for name in rest[:FURTHER]]
            more = [f"{len(rest) - FURTHER} more with --json"] if len(rest) > FURTHER else []
            lines += flowing(f"{key}:", [*said, *more], width)
    return lines


COMMAND = ": cxrbench "
"""What stands between a reason and the command that mends it, in the sentences of assets.py."""


def missing_lines(not_scored: Mapping[str, Any], width: int) -> list[str]:
    """What was not scored and why, metrics with one reason together; a command to type is never broken.

    >>> why = {"reason": "needs Java", "required": False}
    >>> missing_lines({"a": why, "b": why}, 40)
    ['not scored: a, b (optional): needs Java']
    """
    groups: dict[tuple[bool, str], list[str]] = {}
    for key, why in not_scored.items():
        groups.setdefault((why["required"], why["reason"]), []).append(key)
    lines: list[str] = []
    for (required, reason), keys in groups.items():
        what, mark, command = reason.partition(COMMAND)
        said = f"not scored: {', '.join(keys)}{'' if required else ' (optional)'}: {what}{':' if mark else ''}"
        made = textwrap.wrap(said, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        if mark:
            fits = len(made[-1]) + 1 + len(f"cxrbench {command}") <= width
            made = [*made[:-1], f"{made[-1]} cxrbench {command}"] if fits else [*made, f"  cxrbench {command}"]
        lines += made
    return lines


def caution_lines(summary: Mapping[str, Any]) -> list[str]:
    """What a reader must know of an interval (few patients, none at all), once per note."""
    noted: dict[str, list[str]] = {}
    rows = [(key, name, values[name]) for key, values in summary["metrics"].items() for name in rows_of(values)]
    for key, name, entry in rows:
        if entry.get("note"):
            noted.setdefault(entry["note"], []).append(f"{key} {name}")
    return [f"interval of {named(where, len(rows))}: {note}" for note, where in noted.items()]


NAMED = 4
"""More values than this are counted where a note is about them; `--json` has the note at each."""


def named(where: Sequence[str], total: int) -> str:
    """The values a note is about: by name, or how many of `total`.

    >>> named(["bleu:raw bleu_4"], 9), named(["a"] * 5, 9), named(["a"] * 9, 9)
    ('bleu:raw bleu_4', '5 of 9 values (--json names them)', 'all 9 values')
    """
    if len(where) == total > 1:
        return f"all {total} values"
    return ", ".join(where) if len(where) <= NAMED else f"{len(where)} of {total} values (--json names them)"


def telling_slices(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The slices that say anything: one whose every sample is "unknown" does not (--json has it)."""
    return {name: groups for name, groups in summary["slices"].items() if set(groups) != {"unknown"}}


def _scored_in(entry: Mapping[str, Any]) -> int:
    """How many samples of a group every metric scored."""
    return min((values["n"] for metric in entry["metrics"].values() for values in metric.values()), default=0)


def _repeats(
    slices: Mapping[str, Mapping[str, Any]], number: tuple[str, str], before: Sequence[tuple[str, str]]
) -> bool:
    """Whether another preset of the metric has the same number in every group: a column that would tell nothing new."""

    def column(key: str, name: str) -> list[float | None]:
        groups = (entry["metrics"] for found in slices.values() for entry in found.values())
        return [metrics.get(key, {}).get(name, {}).get("value") for metrics in groups]

    key, name = number
    others = [each for each in before if each[0].partition(":")[0] == key.partition(":")[0] and each[1] == name]
    return any(column(*each) == column(key, name) for each in others)


def _slices(slices: Mapping[str, Mapping[str, Any]], width: int) -> Table:
    """Slices in rows, primary values in columns: as many as the terminal has room for."""
    first = next(iter(slices.values()))
    numbers = [
        (key, name) for group in list(first.values())[:1] for key, values in group["metrics"].items() for name in values
    ]
    numbers = [each for at, each in enumerate(numbers) if not _repeats(slices, each, numbers[:at])]
    room = width - max(len(f"{name} = {group}") for name, groups in slices.items() for group in groups) - 14
    shown: list[tuple[str, str]] = []
    used = 0
    for key, name in numbers:
        used += max(len(key), len(name), 6) + 3
        if shown and used > room:
            break
        shown.append((key, name))
    made = table(["slice", "scored", *(f"{key}\n{name}" for key, name in shown)], right=range(1, 2 + len(shown)))
    for name, groups in slices.items():
        for group, entry in groups.items():
            cells = [figure(entry["metrics"].get(key, {}).get(value, {}).get("value")) for key, value in shown]
            scored = _scored_in(entry)
            count = str(entry["n"]) if scored == entry["n"] else f"{scored} of {entry['n']}"
            made.add_row(f"{name} = {group}", count, *cells)
    return made


def speed_lines(speed: Mapping[str, Any], what: str = "reports") -> list[str]:
    """Three or four lines on speed and memory; `what` the model writes."""
    if not speed.get("reports_per_s"):
        return []
    first = f"speed: {rate(speed['reports_per_s'])} {what}/s over {rate(speed['seconds'])} s"
    if speed.get("segments", 1) > 1:
        first += f" in {speed['segments']} parts"
    if "latency_p50" in speed:
        first += f"; latency p50 {1000 * speed['latency_p50']:.0f} ms"
    if "latency_p90" in speed:
        first += f", p90 {1000 * speed['latency_p90']:.0f} ms"
    stages = [
        f"{name.replace('_', ' ')} {1000 * speed[f'{name}_mean']:.1f} ms/sample"
        for name in ("image_read", "preprocess")
        if f"{name}_mean" in speed
    ]
    walls = [f"{n} {speed[f'{n}_seconds']:.1f} s" for n in ("encode", "prefill", "decode") if f"{n}_seconds" in speed]
    whole_run = f"all batches: {', '.join(walls)}" if walls else ""
    memory = f"peak memory {size(speed.get('peak_rss'))}"
    if speed.get("peak_device_memory"):
        memory += f", device {size(speed['peak_device_memory'])}"
    memory += " per worker" if "workers" in speed.get("measured", {}) else ""
    lines = (*measured_lines(speed, what), "; ".join(stages), whole_run, memory)
    return [first, *("       " + line for line in lines if line)]


def measured_lines(speed: Mapping[str, Any], what: str = "reports") -> list[str]:
    """How it was measured; nothing for a run that was scored before this was kept."""
    how = speed.get("measured")
    if not how:
        return []
    engine = " ".join(how[key] for key in ("engine", "dtype") if key in how)
    batch = f"batches of {how['batch']}" + (f" on {how['slots']} slots" if "slots" in how else "")
    place = how.get("device", "") + (f", {how['cpus']} processors" if "cpus" in how else "")
    place += f", {how['workers']} workers" if "workers" in how else ""
    unit = "/s per worker" if "workers" in how else f" {what}/s"
    without = f"; engine alone {rate(speed['engine_reports_per_s'])}{unit}" if "engine_reports_per_s" in speed else ""
    lines = [
        "measured: " + ", ".join(part for part in (engine, batch, place) if part),
        f"end to end, {how['lengths']} lengths, first batch included, loading not{without}",
    ]
    return lines if how["parts"] == "1" else [*lines, f"parts: {how['parts']}"]
