"""Tables of `cxrbench throughput` for a terminal 100 columns wide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cxrbench.cli.show import console, rate, table, whole
from cxrbench.throughput import paper


def show_paper() -> None:
    """The roofline of the published models."""
    out = console()
    out.print("What physics allows: floors and ceilings from sizes and data sheets; nothing here is measured")
    for block in paper.tables():
        made = table(block.head, range(1, len(block.head)), gap=1)
        for row in block.rows:
            made.add_row(*row)
        out.print(f"\n{block.title}", style="bold")
        out.print(whole(made))


def show_result(result: Mapping[str, Any]) -> None:
    """Figures by mode, speed-ups, anatomies, and what was wrong."""
    out = console()
    machine = result["machine"]
    out.print(str(result["name"]), style="bold")
    device = ", ".join(filter(None, (machine.get("gpu") or machine["device"], machine.get("processor"))))
    out.print(f"{device}; {result['rules']['blocks']} blocks of each configuration or more")
    for line in result["warnings"]:
        out.print(f"warning: {line}", style="bold")
    for entry in result["modes"]:
        _mode(out, entry)
    for anatomy in result["anatomies"]:
        _anatomy(out, anatomy)


def _mode(out: Any, entry: Mapping[str, Any]) -> None:
    out.print(f"\n{entry['mode']} ({entry['scenario']})", style="bold")
    single = entry["scenario"] == "single-stream"
    last = ("p50 s", "p90 s", "TTFT s") if single else ("engine/s", "of roof", "tokens")
    head = ("configuration", "batch", "dtype", "reports/s", *last, "read", "encode", "prefill", "decode")
    made = table(head, range(1, len(head)), gap=1)
    for arm in entry["arms"]:
        stages = arm["stages_per_report"]
        if single:
            values = (arm["latency"]["p50"], arm["latency"]["p90"], (arm["ttft"] or {}).get("mean"))
            cells = [_seconds(value) for value in values]
        else:
            reached = (arm["roofline"] or {}).get("reached")
            cells = [
                rate(arm["engine_reports_per_s"]), "-" if reached is None else f"{reached:.0%}",
                f"{arm['tokens_per_report']:.0f}",
            ]  # fmt: skip
        read = None if stages["image_read"] is None else stages["image_read"] + (stages["preprocess"] or 0)
        made.add_row(
            arm["name"], str(arm["batch"]), arm["dtype"], rate(arm["reports_per_s"]), *cells,
            *(_ms(value) for value in (read, stages["encode"], stages["prefill"], stages["decode"])),
        )  # fmt: skip
    out.print(whole(made, names=False))
    out.print("  read (with pre-processing, in threads that overlap), encode, prefill, decode: ms per report")
    if entry["ratios"]:
        made = table(("speed-up", "end to end", "engine only", "pairs"), range(1, 4), gap=1)
        for each in entry["ratios"]:
            names = f"{each['fast']} over {each['slow']}"
            made.add_row(names, _ratio(each), _ratio(each["engine"]), str(each["pairs"]))
        out.print(whole(made, names=False))
    for arm in entry["arms"]:
        if "energy" in arm:
            out.print(f"  {arm['name']}: {arm['energy']['joules_per_report']:.3g} J/report ({arm['energy']['method']})")
        if "cost_per_report" in arm:
            out.print(f"  {arm['name']}: {arm['cost_per_report']:.3g} per report at the given price of an hour")
    if entry["discarded"]:
        out.print(f"  {entry['discarded']} blocks were invalid, or their partner was, and were made again")


def _anatomy(out: Any, anatomy: Mapping[str, Any]) -> None:
    out.print(f"\nAnatomy: {anatomy['name']}", style="bold")
    stated = anatomy["walks"][0]
    reverse = {step["factor"]: step for step in anatomy["walks"][1]["steps"]} if len(anatomy["walks"]) > 1 else {}
    made = table(("factor", "speed-up", "95 % interval", "in reverse order", "stated / reverse"), range(1, 5), gap=1)
    for step in stated["steps"]:
        other = reverse.get(step["factor"])
        made.add_row(
            step["factor"], f"x{step['ratio']:.3f}", f"[{step['ci'][0]:.3f}, {step['ci'][1]:.3f}]",
            "-" if other is None else f"x{other['ratio']:.3f}",
            "-" if other is None else f"{anatomy['order_effect'][step['factor']]:.3f}",
        )  # fmt: skip
    out.print(whole(made))
    out.print(f"  order stated: {', '.join(stated['order'])}; no residual factor")
    made = table(("order", "product of the steps", "product over end to end", "contains 1"), range(1, 4), gap=1)
    for word, walk in zip(("stated", "reverse"), anatomy["walks"], strict=False):
        closes = "yes" if walk["closure"]["has_one"] else "NO"
        made.add_row(word, _ratio(walk["product"]), _ratio(walk["closure"]), closes)
    out.print(whole(made))
    turns = "in turns with the steps" if anatomy["interleaved"] else "before the steps, which came one after another"
    out.print(f"  end to end, in blocks of its own {turns}: {_ratio(anatomy['direct'])}")


def _ratio(entry: Mapping[str, Any]) -> str:
    return f"x{entry['ratio']:.3f} [{entry['ci'][0]:.3f}, {entry['ci'][1]:.3f}]"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.3g}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
