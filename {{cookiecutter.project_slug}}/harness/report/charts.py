"""Draw the curves of one run or several, each run in its colour. Plotly draws them; nothing is fetched."""

import math
from collections.abc import Iterable
from itertools import groupby
from statistics import fmean
from typing import Any

import plotly.graph_objects as go

from harness.report.record import RunRecord

COLOURS = ("#3457d5", "#d9622b", "#1b9e77", "#8e44ad", "#c2185b", "#6b7280")
INK, MUTED, GRID = "#1d2433", "#667085", "#eceef2"
MARKS = {  # kind of event: name, symbol, colour
    "nan_skip": ("skipped step", "triangle-up", "#c0362c"),
    "rollback": ("went back", "triangle-left", "#c0362c"),
    "oom": ("out of memory", "x", "#b7791f"),
    "resume": ("resumed", "line-ns-open", "#3457d5"),
}
COLOUR_BAR = {
    "title": {"text": "change", "side": "right"}, "tickprefix": "10<sup>", "ticksuffix": "</sup>", "thickness": 12,
}  # fmt: skip
# From here on the moving average is easier to read than the points.
MANY_POINTS = 30
# More rows than this are drawn a layer each.
MOST_ROWS = 64


def loss(records: list[RunRecord]) -> go.Figure:
    figure = chart("nats per token")
    for record, colour in coloured(records):
        curve(figure, record, "loss", colour, name=label(records, record, "training"))
        held_out = label(records, record, "validation")
        curve(figure, record, "val_loss", colour, name=held_out, mode="lines+markers", dash="dot")
        marks(figure, record)
    return figure


def gradient(records: list[RunRecord]) -> go.Figure:
    figure = chart("norm before clipping")
    for record, colour in coloured(records):
        curve(figure, record, "gradient", colour, name=label(records, record, "gradient norm"))
        marks(figure, record)
    figure.update_yaxes(type="log", dtick="D2")
    return figure


def single(records: list[RunRecord], name: str, unit: str, form: str = "") -> go.Figure:
    """Draw one curve of each run."""
    figure = chart(unit)
    for record, colour in coloured(records):
        curve(figure, record, name, colour, name=record.name)
    figure.update_layout(showlegend=len(records) > 1)
    figure.update_yaxes(tickformat=form, rangemode="tozero")
    return figure


def heat(record: RunRecord) -> go.Figure:
    """Draw how far a step moved each module: dark is little, bright is much."""
    columns = list(record.updates)
    if not columns:
        return go.Figure()
    modules = list(dict.fromkeys(name for _, changes in columns for name in changes))
    rows = by_layer(modules) if len(modules) > MOST_ROWS else {name: [name] for name in modules}
    changes = [[max(found.get(name) or 0.0 for name in names) for _, found in columns] for names in rows.values()]
    figure = chart("", height=90 + 15 * len(rows))
    figure.add_heatmap(
        x=[f"{step:,}" for step, _ in columns],
        y=list(rows),
        # A module that was not moved is a hole, not a very small number.
        z=[[math.log10(change) if change > 0 else None for change in row] for row in changes],
        customdata=changes,
        colorscale="Viridis",
        colorbar=COLOUR_BAR,
        hovertemplate="%{y}<br>step %{x}: %{customdata:.2e} of its norm<extra></extra>",
    )
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(type="category", nticks=12)
    figure.update_yaxes(autorange="reversed", tickfont_size=10, showgrid=False)
    return figure


def chart(unit: str, height: int = 330) -> go.Figure:
    axis: dict[str, Any] = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "automargin": True}
    return go.Figure(
        layout={
            "template": "none",
            "height": height,
            "margin": {"l": 64, "r": 18, "t": 34, "b": 46},
            "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 12, "color": INK},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "hovermode": "x unified",
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#c9ced8", "activecolor": MUTED},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"color": MUTED}},
            "xaxis": {**axis, "title": {"text": "optimizer step", "font": {"color": MUTED}}},
            "yaxis": {**axis, "title": {"text": unit, "font": {"color": MUTED}}},
            # Marks of events stand on the floor of the chart, whatever its scale.
            "yaxis2": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
        }
    )


def curve(
    figure: go.Figure, record: RunRecord, key: str, colour: str, *, name: str, mode: str = "lines", dash: str = "solid"
) -> None:
    """Draw what was recorded, faintly where it is many points, and their moving average."""
    found = record.curves.get(key)
    if found is None:
        return
    steps, means, lows, highs = (list(column) for column in zip(*found.points(), strict=True))
    same: dict[str, Any] = {"x": steps, "mode": mode, "legendgroup": name}
    if found.width > 1:  # each point stands for several: show their range
        band = same | {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        figure.add_scatter(y=lows, **band)
        figure.add_scatter(y=highs, fill="tonexty", fillcolor=faint(colour, 0.16), **band)
    line = {"color": colour, "width": 2, "dash": dash}
    if len(steps) >= MANY_POINTS and key != "lr":  # a schedule is not a measurement
        raw = {"color": faint(colour, 0.35), "width": 1}
        figure.add_scatter(y=means, line=raw, hoverinfo="skip", showlegend=False, **same)
        means = smooth(means, len(means) // MANY_POINTS)
    figure.add_scatter(y=means, name=name, line=line, marker={"size": 5}, **same)


def smooth(values: list[float], reach: int) -> list[float]:
    """Return the mean over each value and its `reach` neighbours on both sides."""
    return [fmean(values[max(0, place - reach) : place + reach + 1]) for place in range(len(values))]


def marks(figure: go.Figure, record: RunRecord) -> None:
    if not figure.data:  # without a curve there is no chart to mark
        return
    for kind, (name, symbol, colour) in MARKS.items():
        found = list(record.marks.get(kind, ()))
        if not found:
            continue
        figure.add_scatter(
            x=[step for step, _ in found],
            y=[0.03] * len(found),
            yaxis="y2",
            mode="markers",
            name=name,
            marker={"symbol": symbol, "size": 11, "color": colour, "line": {"width": 2, "color": colour}},
            hovertemplate="%{text}<extra></extra>",
            text=[f"{name} at step {step:,}" for step, _ in found],
        )


def by_layer(modules: Iterable[str]) -> dict[str, list[str]]:
    """Group `layers.3.mlp.up_proj` and its neighbours as `layers.3`."""
    return {layer: list(names) for layer, names in groupby(modules, key=lambda name: ".".join(name.split(".")[:2]))}


def coloured(records: list[RunRecord]) -> Iterable[tuple[RunRecord, str]]:
    return ((record, COLOURS[place % len(COLOURS)]) for place, record in enumerate(records))


def label(records: list[RunRecord], record: RunRecord, what: str) -> str:
    return what if len(records) == 1 else f"{record.name} {what}"


def faint(colour: str, share: float) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share})"
