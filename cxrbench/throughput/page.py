"""One offline page of a throughput result: plots and tables, no network, the same bytes for the same result.

plotly draws; its script is inside the page, and the page's policy forbids every connection. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cxrbench.errors import CxrbenchError
from cxrbench.throughput import page_plots as plots
from cxrbench.throughput.ratio import closes
from cxrbench.throughput.recorded import blocks_told

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--ink:#1b1f24;--soft:#57606a;--line:#d5dae0;--warn:#fff3cd}
@media (prefers-color-scheme:dark){:root{--bg:#14181d;--ink:#e6eaee;--soft:#a6b0ba;--line:#3a424b;--warn:#463a0d}}
body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem auto;max-width:1100px;padding:0 1rem;background:var(--bg);
color:var(--ink)}
h1,h2,h3{line-height:1.25;overflow-wrap:anywhere}.note{color:var(--soft)}
.scroll{overflow-x:auto;margin:1rem 0}table{border-collapse:collapse;font-size:14px}
td,th{padding:.25rem .7rem;border-bottom:1px solid var(--line);white-space:nowrap}th{text-align:left}
td{font-variant-numeric:tabular-nums}.warn{background:var(--warn);padding:.6rem 1rem}
.warn ul{margin:0;padding-left:1.2rem}
"""

SCRIPT = """
const dark = matchMedia("(prefers-color-scheme: dark)");
function paint() {
  const style = getComputedStyle(document.documentElement), line = style.getPropertyValue("--line");
  for (const chart of document.querySelectorAll(".plotly-graph-div"))
    Plotly.relayout(chart, {"font.color": style.getPropertyValue("--ink"), "xaxis.gridcolor": line,
      "yaxis.gridcolor": line, "xaxis.zerolinecolor": line, "yaxis.zerolinecolor": line});
}
dark.addEventListener("change", paint);
paint();
"""
"""Charts take the page's colours, and change with them."""


def check_plots() -> None:
    """Refuse before anything is measured what could not be drawn afterwards.

    Raises:
        CxrbenchError: plotly is not installed.
    """
    from importlib.util import find_spec

    if find_spec("plotly") is None:
        raise CxrbenchError(
            "a page needs the package plotly, which is not here",
            where="-o",
            fix="-o FILE.json, and `cxrbench throughput --from FILE.json -o FILE.html` where plotly is",
        )


def page(result: Mapping[str, Any], quality: Sequence[Mapping[str, Any]] = ()) -> str:
    """The page. `quality` holds a point per run: model, reports_per_s, metric, value.

    Raises:
        CxrbenchError: it is no throughput result.
    """
    from plotly.offline import get_plotlyjs

    if result.get("kind") != "throughput":
        raise CxrbenchError("this is no result of `cxrbench throughput`", where="kind")
    parts = [_heading(result), *_modes(result), *_anatomies(result)]
    if quality:
        parts.append(_section("Quality against speed", _draw("quality", plots.quality(quality))))
    body = "\n".join(part for part in parts if part)
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(str(result['name']))}</title><style>{STYLE}</style><script>{get_plotlyjs()}</script>"
    )
    return (
        f'<!doctype html><html lang="en"><head>{head}</head><body>\n{body}\n<script>{SCRIPT}</script></body></html>\n'
    )


def _section(title: str, *parts: str) -> str:
    return f"<h2>{escape(title)}</h2>" + "".join(parts)


def _heading(result: Mapping[str, Any]) -> str:
    machine = result.get("machine", {})
    device = machine.get("gpu") or machine.get("device") or "?"
    processor = f", {machine['processor']}" if machine.get("processor") else ""
    lines = [
        f"<h1>{escape(str(result['name']))}</h1><p>{escape(str(result['about']))}</p>",
        f'<p class="note">{escape(str(device))}{escape(processor)}, cxrbench {escape(str(result["cxrbench"]))},'
        f" {escape(blocks_told(result))}, {escape(str(machine.get('started', '')))}</p>",
    ]
    lines += [
        f'<p class="note">Measured ceilings, {escape(dtype)}: {found["bandwidth"] / 1e9:.4g} GB/s,'
        f" {found['flops'] / 1e12:.3g} T operations/s ({escape(found['how'])})</p>"
        for dtype, found in machine.get("ceilings", {}).items()
    ]
    stopped = [] if result.get("complete", True) else ["not complete: it was stopped before everything was measured"]
    warned = "".join(f"<li>{escape(line)}</li>" for line in [*stopped, *result["warnings"]])
    discarded = sum(len(session["discarded"]) for session in result["sessions"])
    if discarded:
        lines.append(
            f"<p>{discarded} blocks were invalid, or their partner in the round was: discarded and made again.</p>"
        )
    if warned:
        lines.append(f'<div class="warn"><ul>{warned}</ul></div>')
    return "".join(lines)


def _draw(name: str, figure: Any) -> str:
    clear = "rgba(0,0,0,0)"
    figure.update_layout(
        template="plotly_white", height=430, margin={"l": 60, "r": 15, "t": 30, "b": 60}, paper_bgcolor=clear,
        plot_bgcolor=clear, legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
    )  # fmt: skip
    config = {"displaylogo": False, "responsive": True, "displayModeBar": False}
    made: str = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config)
    return made


def _modes(result: Mapping[str, Any]) -> list[str]:
    arms = [(entry, arm) for entry in result["modes"] for arm in entry["arms"]]
    if not arms:
        return []
    made = []
    offline = [(entry, arm) for entry, arm in arms if entry["scenario"] == "offline"]
    if offline:
        title = "Reports per second against batch size, with the roofline"
        made.append(_section(title, _draw("batch", plots.batches(offline))))
    timed = [
        (arm, _latencies(session, arm["name"]))
        for entry, session in zip(result["modes"], result["sessions"], strict=False)  # then come those of anatomies
        for arm in entry["arms"]
        if arm.get("latency")
    ]
    if timed:
        drawn = _draw("latency", plots.distribution(timed))
        made.append(_section("Latency of single reports", drawn, _percentiles([arm for arm, _ in timed])))
    head = ("mode", "configuration", "batch", "reports/s", "engine only", "of roofline", "tokens/report", "chars/s",
            "MBU", "MFU")  # fmt: skip
    rows = [
        (
            entry["mode"], arm["name"], arm["batch"], _number(arm["reports_per_s"]),
            _number(arm["engine_reports_per_s"]), _share((arm["roofline"] or {}).get("reached")),
            _number(arm["tokens_per_report"]), _number(arm["chars_per_s"]),
            _share((arm["roofline"] or {}).get("mbu")), _share((arm["roofline"] or {}).get("mfu")),
        )
        for entry, arm in arms
    ]  # fmt: skip
    made.append(_section("Figures", _table(head, rows), _stages(arms), _memory(arms), _device(arms), _costs(arms)))
    ratios = [(entry["mode"], arm["batch"], each) for entry, arm in _firsts(result) for each in entry["ratios"]]
    if ratios:
        cells = [
            (mode, batch, f"{each['fast']} over {each['slow']}", _ratio(each), _ratio(each["engine"]))
            for mode, batch, each in ratios
        ]
        made.append(_section("Speed-ups", _table(("mode", "batch", "ratio", "end to end", "engine only"), cells)))
    return made


def _percentiles(arms: Sequence[Mapping[str, Any]]) -> str:
    """Latency, time to the first token and per further token, with the intervals of two order statistics."""
    rows = [
        (arm["name"], what, spread["n"], *(_between(spread, name) for name in ("p50", "p90", "p99")))
        for arm in arms
        for what, spread in (("latency", arm["latency"]), ("TTFT", arm["ttft"]), ("TPOT", arm["tpot"]))
        if spread
    ]
    head = ("configuration", "ms", "n", "p50", "p90", "p99")
    return _table(head, rows) + '<p class="note">A percentile whose interval needs more reports is left out.</p>'


def _between(spread: Mapping[str, Any], name: str) -> str:
    if spread.get(name) is None:
        return "-"
    low, high = spread[f"{name}_ci"]
    return f"{1000 * spread[name]:.3g} [{1000 * low:.3g}, {1000 * high:.3g}]"


def _stages(arms: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    """Milliseconds per report by stage: reading overlaps with the others, so they are no sum."""
    names = ("image_read", "preprocess", "encode", "prefill", "decode")
    rows = [
        (entry["mode"], arm["name"], arm["batch"], *(_number(_ms(arm["stages_per_report"][name])) for name in names),
         _number(_ms(arm.get("step_seconds"))), _number(_ms((arm["roofline"] or {}).get("step"))))
        for entry, arm in arms
    ]  # fmt: skip
    note = (
        '<p class="note">Milliseconds per report, and of a decoding step beside the least the device allows.'
        " Reading and pre-processing overlap with the rest: no sum.</p>"
    )
    head = ("mode", "configuration", "batch", *(name.replace("_", " ") for name in names), "a step", "at least")
    return _table(head, rows) + note


def _memory(arms: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    """The allocator's peak taken apart, where the device tells of it."""
    names = ("weights", "kv", "workspace", "others")
    rows = [
        (entry["mode"], arm["name"], arm["batch"], *(_number(_gb(arm["memory"][name])) for name in names),
         _number(_gb(arm["peak_memory"])), _number(_gb(arm["device_used"])))
        for entry, arm in arms
        if (arm.get("memory") or {}).get("workspace") is not None
    ]  # fmt: skip
    head = ("mode", "configuration", "batch", "weights, GB", "keys and values", "workspace", "others",
            "peak", "device in use")  # fmt: skip
    return _table(head, rows) if rows else ""


def _device(arms: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    """Clocks, heat, power and throttle reasons while blocks ran, where the device tells of them."""
    rows = [
        (entry["mode"], arm["name"], arm["batch"], seen["readings"], _number(seen["sm_mhz_min"]),
         _number(seen["celsius_max"]), _number(seen["watts_mean"]),
         ", ".join(f"{name}: {count} of {arm['blocks']} blocks" for name, count in seen["throttle"].items()) or "none")
        for entry, arm in arms
        if (seen := arm.get("device"))
    ]  # fmt: skip
    head = ("mode", "configuration", "batch", "readings", "least MHz", "most C", "mean W", "slowed down by")
    return _table(head, rows) if rows else ""


def _gb(value: float | None) -> float | None:
    return None if value is None else value / 1e9


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def _costs(arms: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    """Energy with its method and cost, where they were asked for."""
    rows = [
        (
            entry["mode"], arm["name"], arm["batch"], _number(arm.get("energy", {}).get("joules_per_report")),
            _number(arm.get("cost_per_report")), arm.get("energy", {}).get("method", "-"),
        )
        for entry, arm in arms
        if "energy" in arm or "cost_per_report" in arm
    ]  # fmt: skip
    return _table(("mode", "configuration", "batch", "J/report", "cost/report", "method"), rows) if rows else ""


def _firsts(result: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    return [(entry, entry["arms"][0]) for entry in result["modes"]]


def _latencies(session: Mapping[str, Any], name: str) -> list[float]:
    return [value for block in session["blocks"] if block["configuration"] == name for value in block["latencies"]]


def _anatomies(result: Mapping[str, Any]) -> list[str]:
    made = []
    for number, anatomy in enumerate(result["anatomies"]):
        parts = [f"<p>{escape(str(anatomy.get('about', '')))}</p>"]
        for place, walk in enumerate(anatomy["walks"]):
            parts.append(f"<h3>{('Stated', 'Reverse')[place]} order: {escape(', '.join(walk['order']))}</h3>")
            parts.append(_draw(f"anatomy-{number}-{place}", plots.waterfall(walk, anatomy["direct"])))
        rows = [
            (each["factor"], _ratio(each), _effect(anatomy["order_effect"].get(each["factor"])))
            for each in anatomy["walks"][0]["steps"]
        ]
        for place, walk in enumerate(anatomy["walks"]):
            word = ("stated", "reverse")[place]
            rows += [(f"product, {word} order", _ratio(walk["product"]), "")]
            rows += [(f"product over end to end, {word} order", _ratio(walk["closure"]), _closes(walk["closure"]))]
        rows.append(("end to end, other blocks", _ratio(anatomy["direct"]), ""))
        parts.append(_table(("factor", "speed-up", "stated over reverse order"), rows))
        made.append(_section(f"Anatomy: {anatomy['name']}", *parts))
    return made


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ("".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll" tabindex="0"><table><tr>{top}</tr>{body}</table></div>'


def _closes(closure: Mapping[str, Any]) -> str:
    told = {"yes": "contains 1", "NO": "does not contain 1"}
    return told.get(closes(closure), f"contains 1, {closes(closure)}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _ratio(entry: Mapping[str, Any]) -> str:
    return f"{entry['ratio']:.3f} [{entry['ci'][0]:.3f}, {entry['ci'][1]:.3f}]"


def _effect(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
