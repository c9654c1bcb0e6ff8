"""One offline page of a throughput result: plots and tables, no network, the same bytes for the same result.

plotly draws; its script is inside the page, and the page's policy forbids every connection. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cxrbench.errors import CxrbenchError

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
        parts.append(_section("Quality against speed", _draw("quality", _quality(quality))))
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
        f" {result['rules']['blocks']} blocks per configuration or more, {escape(str(machine.get('started', '')))}</p>",
    ]
    lines += [
        f'<p class="note">Measured ceilings, {escape(dtype)}: {found["bandwidth"] / 1e9:.4g} GB/s,'
        f" {found['flops'] / 1e12:.3g} T operations/s ({escape(found['how'])})</p>"
        for dtype, found in machine.get("ceilings", {}).items()
    ]
    warned = "".join(f"<li>{escape(line)}</li>" for line in result["warnings"])
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
        made.append(_section(title, _draw("batch", _batches(offline))))
    timed = [
        (arm, _latencies(session, arm["name"]))
        for entry, session in zip(result["modes"], result["sessions"], strict=False)  # then come those of anatomies
        for arm in entry["arms"]
        if arm.get("latency")
    ]
    if timed:
        drawn = _draw("latency", _distribution(timed))
        made.append(_section("Latency of single reports", drawn, _percentiles([arm for arm, _ in timed])))
    peaks = any(arm["peak_memory"] for _, arm in arms)  # a processor has none
    head = ("mode", "configuration", "batch", "reports/s", "engine only", "of roofline", "tokens/report", "chars/s",
            "MBU", "MFU", *(("peak, GB",) if peaks else ()))  # fmt: skip
    rows = [
        (
            entry["mode"], arm["name"], arm["batch"], _number(arm["reports_per_s"]),
            _number(arm["engine_reports_per_s"]), _share((arm["roofline"] or {}).get("reached")),
            _number(arm["tokens_per_report"]), _number(arm["chars_per_s"]),
            _share((arm["roofline"] or {}).get("mbu")), _share((arm["roofline"] or {}).get("mfu")),
            *((_number((arm["peak_memory"] or 0) / 1e9),) if peaks else ()),
        )
        for entry, arm in arms
    ]  # fmt: skip
    made.append(_section("Figures", _table(head, rows), _stages(arms), _costs(arms)))
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
        (entry["mode"], arm["name"], arm["batch"], *(_number(_ms(arm["stages_per_report"][name])) for name in names))
        for entry, arm in arms
    ]
    note = '<p class="note">Milliseconds per report. Reading and pre-processing overlap with the rest: no sum.</p>'
    return _table(("mode", "configuration", "batch", *(name.replace("_", " ") for name in names)), rows) + note


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


def _batches(arms: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    points: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry, arm in arms:
        points.setdefault((entry["mode"], arm["name"]), []).append(arm)
    for number, ((mode, name), found) in enumerate(points.items()):
        color = _COLORS[number % len(_COLORS)]
        found = sorted(found, key=lambda arm: arm["batch"])
        figure.add_scatter(
            x=[arm["batch"] for arm in found], y=[arm["reports_per_s"] for arm in found], mode="lines+markers",
            name=f"{name} ({mode})", line={"color": color},
        )  # fmt: skip
        roof = found[-1]["roofline"]
        if roof is not None:
            figure.add_scatter(
                x=[size for size, _ in roof["curve"]], y=[rate for _, rate in roof["curve"]], mode="lines",
                name=f"{name}: roofline", line={"color": color, "dash": "dot"},
            )  # fmt: skip
    sizes = [1 << power for power in range(0, 10, 2)]
    figure.update_xaxes(type="log", title="batch size", tickvals=sizes)
    figure.update_yaxes(type="log", title="reports per second, end to end", dtick="D2")
    figure.update_layout(height=520, margin={"b": 130})
    return figure


_COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#bf8700", "#0a7e8c")


def _distribution(timed: Sequence[tuple[Mapping[str, Any], Sequence[float]]]) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, (arm, values) in enumerate(timed):
        ordered = sorted(values)
        shares = [(place + 1) / len(ordered) for place in range(len(ordered))]
        figure.add_scatter(
            x=ordered,
            y=shares,
            mode="lines",
            name=arm["name"],
            line={"shape": "hv", "color": _COLORS[number % len(_COLORS)]},
        )
    figure.update_xaxes(title="latency, s")
    figure.update_yaxes(title="share of reports")
    return figure


def _anatomies(result: Mapping[str, Any]) -> list[str]:
    made = []
    for number, anatomy in enumerate(result["anatomies"]):
        parts = [f"<p>{escape(str(anatomy.get('about', '')))}</p>"]
        for place, walk in enumerate(anatomy["walks"]):
            parts.append(f"<h3>{('Stated', 'Reverse')[place]} order: {escape(', '.join(walk['order']))}</h3>")
            parts.append(_draw(f"anatomy-{number}-{place}", _waterfall(walk, anatomy["direct"])))
        rows = [
            (each["factor"], _ratio(each), _effect(anatomy["order_effect"].get(each["factor"])))
            for each in anatomy["walks"][0]["steps"]
        ]
        for place, walk in enumerate(anatomy["walks"]):
            word = ("stated", "reverse")[place]
            rows += [(f"product, {word} order", _ratio(walk["product"]), "")]
            closes = "contains 1" if walk["closure"]["has_one"] else "does not contain 1"
            rows += [(f"product over end to end, {word} order", _ratio(walk["closure"]), closes)]
        rows.append(("end to end, other blocks", _ratio(anatomy["direct"]), ""))
        parts.append(_table(("factor", "speed-up", "stated over reverse order"), rows))
        made.append(_section(f"Anatomy: {anatomy['name']}", *parts))
    return made


def _waterfall(walk: Mapping[str, Any], direct: Mapping[str, Any]) -> Any:
    import plotly.graph_objects as go

    names, bases, heights, texts, low = [], [], [], [], 1.0
    for step in walk["steps"]:
        names.append(step["factor"])
        bases.append(low)
        heights.append(low * (step["ratio"] - 1))
        texts.append(f"x{step['ratio']:.2f}")
        low *= step["ratio"]
    colors = [_COLORS[0] if height >= 0 else _COLORS[1] for height in heights]
    figure = go.Figure(
        go.Bar(x=names, y=heights, base=bases, text=texts, textposition="outside", marker={"color": colors})
    )
    ends = ["product", "end to end"]
    values = [walk["product"]["ratio"], direct["ratio"]]
    reach = [each["ci"] for each in (walk["product"], direct)]
    figure.add_bar(
        x=ends, y=values, text=[f"x{value:.2f}" for value in values], marker={"color": _COLORS[2]},
        textposition="inside", insidetextanchor="start",
        error_y={
            "type": "data", "symmetric": False, "color": "#8b949e",
            "array": [high - value for value, (_, high) in zip(values, reach, strict=True)],
            "arrayminus": [value - least for value, (least, _) in zip(values, reach, strict=True)],
        },
    )  # fmt: skip
    figure.update_yaxes(title="times as fast")
    figure.update_layout(showlegend=False)
    return figure


def _quality(points: Sequence[Mapping[str, Any]]) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure(
        go.Scatter(
            x=[each["reports_per_s"] for each in points],
            y=[each["value"] for each in points],
            text=[each["model"] for each in points],
            mode="markers+text",
            textposition="top center",
            cliponaxis=False,
            marker={"color": _COLORS[0], "size": 9},
        )
    )
    figure.update_xaxes(type="log", title="reports per second of the run, end to end")
    figure.update_yaxes(title=str(points[0]["metric"]))
    return figure


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ("".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll" tabindex="0"><table><tr>{top}</tr>{body}</table></div>'


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _ratio(entry: Mapping[str, Any]) -> str:
    return f"{entry['ratio']:.3f} [{entry['ci'][0]:.3f}, {entry['ci'][1]:.3f}]"


def _effect(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
