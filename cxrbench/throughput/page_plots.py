"""The plots of a throughput page. plotly is imported inside functions. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#bf8700", "#0a7e8c")

SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star")
"""Of modes, where there are many."""

FEW = 6
"""Configurations that a plot can name one by one: as many as there are colours."""

Pair = tuple[Mapping[str, Any], Mapping[str, Any]]
"""A mode's entry and one of its arms."""


def batches(arms: Sequence[Pair]) -> Any:
    """Reports per second by batch size, with the roofline.

    Few configurations are named one by one; of many, a colour is a model and a symbol a mode.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    names = list(dict.fromkeys((entry["mode"], arm["name"]) for entry, arm in arms))
    if len(names) <= FEW:
        _named(figure, arms, names)
    else:
        _by_model(figure, arms)
    sizes = [1 << power for power in range(0, 10, 2)]
    figure.update_xaxes(type="log", title="batch size", tickvals=sizes)
    figure.update_yaxes(type="log", title="reports per second, end to end", dtick="D2" if len(names) <= FEW else 1)
    figure.update_layout(height=520 if len(names) <= FEW else 640, margin={"b": 130 if len(names) <= FEW else 210})
    return figure


def _named(figure: Any, arms: Sequence[Pair], names: Sequence[tuple[str, str]]) -> None:
    for number, (mode, name) in enumerate(names):
        color = COLORS[number % len(COLORS)]
        found = [arm for entry, arm in arms if (entry["mode"], arm["name"]) == (mode, name)]
        found.sort(key=lambda arm: int(arm["batch"]))
        figure.add_scatter(
            x=[arm["batch"] for arm in found], y=[arm["reports_per_s"] for arm in found], mode="lines+markers",
            name=f"{name} ({mode})", line={"color": color},
        )  # fmt: skip
        if found[-1]["roofline"] is not None:
            _roof(figure, found[-1], f"{name}: roofline", color)


def _by_model(figure: Any, arms: Sequence[Pair]) -> None:
    models = list(dict.fromkeys(arm["configuration"]["model"] for _, arm in arms))
    modes = list(dict.fromkeys(entry["mode"] for entry, _ in arms))
    roofs: set[tuple[str, str]] = set()
    for place, model in enumerate(models):
        color = COLORS[place % len(COLORS)]
        figure.add_scatter(x=[None], y=[None], mode="lines", name=model, line={"color": color, "width": 4})
        for number, mode in enumerate(modes):
            found = [arm for entry, arm in arms if (entry["mode"], arm["configuration"]["model"]) == (mode, model)]
            found.sort(key=lambda arm: int(arm["batch"]))
            figure.add_scatter(
                x=[arm["batch"] for arm in found], y=[arm["reports_per_s"] for arm in found], mode="lines+markers",
                text=[f"{arm['name']} ({mode})" for arm in found], showlegend=False, line={"color": color, "width": 1},
                marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 9},
            )  # fmt: skip
        for _, arm in arms:
            key = (model, str(arm["dtype"]))
            if arm["configuration"]["model"] == model and arm["roofline"] is not None and key not in roofs:
                roofs.add(key)
                _roof(figure, arm, f"{model} in {arm['dtype']}: roofline", color)
    for number, mode in enumerate(modes):
        marker = {"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 9, "color": "#8b949e"}
        figure.add_scatter(x=[None], y=[None], mode="markers", name=mode, marker=marker)


def _roof(figure: Any, arm: Mapping[str, Any], name: str, color: str) -> None:
    curve = arm["roofline"]["curve"]
    figure.add_scatter(
        x=[size for size, _ in curve], y=[rate for _, rate in curve], mode="lines", name=name,
        line={"color": color, "dash": "dot" if arm["dtype"] != "fp32" else "dashdot"},
    )  # fmt: skip


def distribution(timed: Sequence[tuple[Mapping[str, Any], Sequence[float]]]) -> Any:
    """Share of reports that took no longer."""
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
            line={"shape": "hv", "color": COLORS[number % len(COLORS)]},
        )
    figure.update_xaxes(title="latency, s")
    figure.update_yaxes(title="share of reports")
    return figure


def waterfall(walk: Mapping[str, Any], direct: Mapping[str, Any]) -> Any:
    """What each factor multiplies, then the product beside the measured ratio."""
    import plotly.graph_objects as go

    names, bases, heights, texts, low = [], [], [], [], 1.0
    for step in walk["steps"]:
        names.append(step["factor"])
        bases.append(low)
        heights.append(low * (step["ratio"] - 1))
        texts.append(f"x{step['ratio']:.2f}")
        low *= step["ratio"]
    colors = [COLORS[0] if height >= 0 else COLORS[1] for height in heights]
    figure = go.Figure(
        go.Bar(x=names, y=heights, base=bases, text=texts, textposition="outside", marker={"color": colors})
    )
    ends = ["product", "end to end"]
    values = [walk["product"]["ratio"], direct["ratio"]]
    reach = [each["ci"] for each in (walk["product"], direct)]
    figure.add_bar(
        x=ends, y=values, text=[f"x{value:.2f}" for value in values], marker={"color": COLORS[2]},
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


def quality(points: Sequence[Mapping[str, Any]]) -> Any:
    """A point per scored run."""
    import plotly.graph_objects as go

    figure = go.Figure(
        go.Scatter(
            x=[each["reports_per_s"] for each in points],
            y=[each["value"] for each in points],
            text=[each["model"] for each in points],
            mode="markers+text",
            textposition="top center",
            cliponaxis=False,
            marker={"color": COLORS[0], "size": 9},
        )
    )
    figure.update_xaxes(type="log", title="reports per second of the run, end to end")
    figure.update_yaxes(title=str(points[0]["metric"]))
    return figure
