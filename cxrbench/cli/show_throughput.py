"""Tables of `cxrbench throughput` for a terminal 100 columns wide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cxrbench.cli.layout import console, rate, table, whole
from cxrbench.throughput import paper
from cxrbench.throughput import roofline as roof
from cxrbench.throughput.ratio import closes
from cxrbench.throughput.recorded import blocks_told

if TYPE_CHECKING:
    from cxrbench.throughput.experiment import ExperimentSpec
    from cxrbench.throughput.facts import Gpu
    from cxrbench.throughput.plan import Part


def show_plan(spec: ExperimentSpec, gpu: Gpu, parts: Sequence[Part]) -> None:
    """What an experiment would take on a GPU: a guess, part by part."""
    from cxrbench.throughput import plan

    out = console()
    out.print(f"{spec.name} on {gpu.name}: a guess from the roofline; nothing is measured", style="bold")
    made = table(("part", "batches", "GB at once", "fits", "reports/block", "rounds", "minutes"), range(1, 7), gap=1)
    for part in parts:
        batches = ", ".join(str(size) for size in dict.fromkeys(each.batch for each in part.planned))
        made.add_row(
            part.name, batches, f"{part.bytes_needed / 1e9:.0f}", "yes" if part.fits(gpu) else "NO", str(part.reports),
            str(part.rounds), f"{part.seconds / 60:.1f}",
        )  # fmt: skip
    out.print(whole(made, names=False))
    whole_time = plan.START + sum(part.seconds for part in parts)
    out.print(f"  together, with {plan.START:.0f} s to begin: {whole_time / 60:.0f} minutes")
    out.print(
        f"  GB of weights and of keys and values, beside {roof.MEMORY_SHARE:.0%} of {gpu.memory / 1e9:.0f}; assumed:"
        f" {plan.MBU:.0%} of {gpu.bandwidth / 1e12:.3g} TB/s, {plan.MFU:.0%} of {gpu.flops / 1e12:.0f} T operations/s"
        f" ({gpu.source}), {1000 * plan.EAGER:.0f} ms a step without graphs, {plan.LOAD:.0f} s to load a network"
    )
    if any(part.name.startswith("anatomy") and not part.fits(gpu) for part in parts):
        out.print("  an anatomy that does not fit at once is measured one pair after another")


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
    out.print(f"{device}; {blocks_told(result)}")
    for dtype, found in machine.get("ceilings", {}).items():
        rates = f"copy {found['bandwidth'] / 1e9:,.4g} GB/s, product {found['flops'] / 1e12:.3g} T operations/s"
        out.print(f"measured ceilings, {dtype}: {rates}")
    if not result.get("complete", True):
        out.print("warning: not complete: it was stopped before all modes and anatomies were measured", style="bold")
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
        for line in filter(None, (step_told(arm), memory_told(arm), device_told(arm), *_costs_told(arm))):
            out.print(f"  {arm['name']}: {line}")
    if entry["discarded"]:
        out.print(f"  {entry['discarded']} blocks were invalid, or their partner was, and were made again")


def _costs_told(arm: Mapping[str, Any]) -> list[str]:
    """Energy and cost, where they were asked for."""
    told = []
    if "energy" in arm:
        told.append(f"{arm['energy']['joules_per_report']:.3g} J/report ({arm['energy']['method']})")
    if "cost_per_report" in arm:
        told.append(f"{arm['cost_per_report']:.3g} per report at the given price of an hour")
    return told


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
        made.add_row(word, _ratio(walk["product"]), _ratio(walk["closure"]), closes(walk["closure"]))
    out.print(whole(made))
    turns = "in turns with the steps" if anatomy["interleaved"] else "before the steps, which came one after another"
    out.print(f"  end to end, in blocks of its own {turns}: {_ratio(anatomy['direct'])}")


def _ratio(entry: Mapping[str, Any]) -> str:
    return f"x{entry['ratio']:.3f} [{entry['ci'][0]:.3f}, {entry['ci'][1]:.3f}]"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.3g}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def step_told(arm: Mapping[str, Any]) -> str:
    """A decoding step beside the least the device allows; on a GPU, where it says what the engine costs."""
    least = (arm["roofline"] or {}).get("step")
    if not arm["peak_memory"] or least is None or arm.get("step_seconds") is None:
        return ""
    return f"a step of {1000 * arm['step_seconds']:.3g} ms, {1000 * least:.3g} at least"


def memory_told(arm: Mapping[str, Any]) -> str:
    """Whose bytes the peak was; empty where the device does not tell."""
    parts = arm.get("memory") or {}
    if parts.get("workspace") is None:
        return ""
    named = ", ".join(
        f"{word} {parts[key] / 1e9:.3g}"
        for key, word in (("weights", "weights"), ("kv", "keys and values"), ("workspace", "workspace"))
    )
    return f"GB of {named} (and {parts['others'] / 1e9:.3g} of others beside it)"


def device_told(arm: Mapping[str, Any]) -> str:
    """What the device did meanwhile; empty where it does not tell."""
    seen = arm.get("device")
    if not seen:
        return ""
    told = [
        word.format(seen[key])
        for key, word in (
            ("sm_mhz_min", "clock down to {} MHz"), ("celsius_max", "up to {} C"), ("watts_mean", "mean {:.0f} W"),
        )
        if seen[key] is not None
    ]  # fmt: skip
    told += [f"{name} in {count} of {arm['blocks']} blocks" for name, count in seen["throttle"].items()]
    return ", ".join(told)
