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
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse;margin:1rem 0;font-size:14px}td,th{padding:.25rem .7rem;border-bottom:1px solid #d5dae0}
td{font-variant-numeric:tabular-nums}th{text-align:left}.warn{background:#fff3cd;padding:.6rem 1rem}
.note{color:#57606a}
"""


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
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy"'
        f' content="{POLICY}"><title>{escape(str(result["name"]))}</title><style>{STYLE}</style>'
        f"<script>{get_plotlyjs()}</script></head><body>\n{body}\n</body></html>\n"
    )


def _section(title: str, *parts: str) -> str:
    return f"<h2>{escape(title)}</h2>" + "".join(parts)


def _heading(result: Mapping[str, Any]) -> str:
    machine = result.get("machine", {})
    device = machine.get("gpu") or machine.get("device") or "?"
    lines = [
        f"<h1>{escape(str(result['name']))}</h1><p>{escape(str(result['about']))}</p>",
        f'<p class="note">{escape(str(device))}, cxrbench {escape(str(result["cxrbench"]))},'
        f" {result['rules']['blocks']} blocks per configuration, {escape(str(machine.get('started', '')))}</p>",
    ]
    lines += [f'<p class="warn">{escape(line)}</p>' for line in result["warnings"]]
    return "".join(lines)


def _draw(name: str, figure: Any) -> str:
    figure.update_layout(template="plotly_white", height=430, margin={"l": 70, "r": 20, "t": 30, "b": 60})
    made: str = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config={"displaylogo": False})
    return made


def _modes(result: Mapping[str, Any]) -> list[str]:
    arms = [(entry, arm) for entry in result["modes"] for arm in entry["arms"]]
    if not arms:
        return []
    made = [_section("Reports per second against batch size, with the roofline", _draw("batch", _batches(arms)))]
    timed = [(arm, _latencies(result, arm["name"])) for _, arm in arms if arm.get("latency")]
    if timed:
        made.append(_section("Latency of single reports", _draw("latency", _distribution(timed))))
    head = ("mode", "configuration", "batch", "reports/s", "engine only", "of roofline", "tokens/report", "MBU", "MFU")
    rows = [
        (
            entry["mode"], arm["name"], arm["batch"], _number(arm["reports_per_s"]),
            _number(arm["engine_reports_per_s"]), _share((arm["roofline"] or {}).get("reached")),
            _number(arm["tokens_per_report"]), _share((arm["roofline"] or {}).get("mbu")),
            _share((arm["roofline"] or {}).get("mfu")),
        )
        for entry, arm in arms
    ]  # fmt: skip
    made.append(_section("Figures", _table(head, rows)))
    ratios = [(entry["mode"], arm["batch"], each) for entry, arm in _firsts(result) for each in entry["ratios"]]
    if ratios:
        cells = [
            (mode, batch, f"{each['fast']} over {each['slow']}", _ratio(each), _ratio(each["engine"]))
            for mode, batch, each in ratios
        ]
        made.append(_section("Speed-ups", _table(("mode", "batch", "", "end to end", "engine only"), cells)))
    return made


def _firsts(result: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    return [(entry, entry["arms"][0]) for entry in result["modes"]]


def _latencies(result: Mapping[str, Any], name: str) -> list[float]:
    return [
        value
        for session in result["sessions"]
        for block in session["blocks"]
        if block["configuration"] == name
        for value in block["latencies"]
    ]


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
    figure.update_xaxes(type="log", title="batch size")
    figure.update_yaxes(type="log", title="reports per second, end to end")
    return figure


_COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#bf8700", "#0a7e8c")


def _distribution(timed: Sequence[tuple[Mapping[str, Any], Sequence[float]]]) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    for arm, values in timed:
        ordered = sorted(values)
        shares = [(place + 1) / len(ordered) for place in range(len(ordered))]
        figure.add_scatter(x=ordered, y=shares, mode="lines", line={"shape": "hv"}, name=arm["name"])
    figure.update_xaxes(title="latency, s")
    figure.update_yaxes(title="share of reports")
    return figure


def _anatomies(result: Mapping[str, Any]) -> list[str]:
    made = []
    for number, anatomy in enumerate(result["anatomies"]):
        parts = [f"<p>{escape(str(anatomy.get('about', '')))}</p>"]
        for place, walk in enumerate(anatomy["walks"]):
            parts.append(_draw(f"anatomy-{number}-{place}", _waterfall(walk, anatomy["direct"])))
        rows = [
            (each["factor"], _ratio(each), _effect(anatomy["order_effect"].get(each["factor"])))
            for each in anatomy["walks"][0]["steps"]
        ]
        for place, walk in enumerate(anatomy["walks"]):
            word = ("stated", "reverse")[place]
            rows += [(f"product, {word} order", _ratio(walk["product"]), "")]
            rows += [(f"product over end to end, {word} order", _ratio(walk["closure"]), "")]
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
    figure = go.Figure(go.Bar(x=names, y=heights, base=bases, text=texts, marker={"color": _COLORS[0]}, name="steps"))
    ends = ["product", "end to end"]
    values = [walk["product"]["ratio"], direct["ratio"]]
    reach = [each["ci"] for each in (walk["product"], direct)]
    figure.add_bar(
        x=ends, y=values, text=[f"x{value:.2f}" for value in values], marker={"color": _COLORS[2]}, name="measured",
        error_y={
            "type": "data", "symmetric": False,
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
        )
    )
    figure.update_xaxes(type="log", title="reports per second of the run, end to end")
    figure.update_yaxes(title=str(points[0]["metric"]))
    return figure


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ("".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows)
    return f"<table><tr>{top}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _ratio(entry: Mapping[str, Any]) -> str:
    return f"{entry['ratio']:.3f} [{entry['ci'][0]:.3f}, {entry['ci'][1]:.3f}]"


def _effect(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
