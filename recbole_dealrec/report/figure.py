"""Plotly figures of the pages; series differ in more than colour, and the style sheet sets the colour of text."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Okabe and Ito's colours for all kinds of colour vision; the first ones have contrast on both white and black.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"]
SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "x", "star"]
PATTERNS = ["", "/", ".", "x", "-", "|", "\\"]
# Title and axis of each distribution in a selection's coverage.
COVERAGE = {
    "popularity": ("Popularity of the target", "times the item occurs in training"),
    "history_length": ("Length of the history", "items in the history"),
}
_GREY = "#7f7f7f"
_LABEL = 20  # characters per line of a method's name
_CONFIG = {"displayModeBar": False, "responsive": True}


def histogram(edges: Sequence[float], candidates: Sequence[int], selected: Sequence[int], score: str) -> Markup:
    """Draw histograms of all candidates, and of the selected ones in front of them."""
    centres = [(low + high) / 2 for low, high in zip(edges, edges[1:], strict=False)]
    ranges = [f"{low:.4g} to {high:.4g}" for low, high in zip(edges, edges[1:], strict=False)]
    figure = _figure(xaxis_title=score, yaxis_title="samples (log scale)", barmode="overlay", bargap=0.04)
    for place, (name, counts) in enumerate({"all candidates": candidates, "selected": selected}.items()):
        hover = "%{y} samples, " + score + " %{customdata}"
        figure.add_bar(x=centres, y=counts, name=name, marker=_fill(place), customdata=ranges, hovertemplate=hover)
    return _html(_log_counts(figure, candidates))


def group_bars(groups: Mapping[str, Sequence[Any]]) -> Markup:
    """Draw the number of candidates and of selected samples in each group."""
    figure = _figure(xaxis_title="group", yaxis_title="samples (log scale)", barmode="overlay", bargap=0.04)
    for place, (name, column) in enumerate({"all candidates": "candidates", "selected": "selected"}.items()):
        hover = "group %{x}, " + name + ": %{y}"
        figure.add_bar(x=groups["group"], y=groups[column], name=name, marker=_fill(place), hovertemplate=hover)
    return _html(_log_counts(figure, groups["candidates"]))


def shares(counts: Mapping[str, Sequence[int]], first: Sequence[int], last: Sequence[int], title: str) -> Markup:
    """Draw the share of the samples in each range, a series of bars for each of ``counts``."""
    figure = _figure(xaxis_title=title, yaxis_title="share of samples", barmode="group", bargap=0.15)
    for place, (name, values) in enumerate(counts.items()):
        figure.add_bar(
            x=ranges(first, last), y=_shares(values), name=name, marker=_fill(place), hovertemplate="%{x}: %{y:.1%}"
        )
    figure.update_xaxes(type="category")
    figure.update_yaxes(tickformat=".0%")
    return _html(figure)


def share_lines(counts: Mapping[str, Sequence[int]], first: Sequence[int], last: Sequence[int], title: str) -> Markup:
    """Draw the share of the samples in each range, a line for each of ``counts``; the first line is thick."""
    figure = _figure(xaxis_title=title, yaxis_title="share of samples")
    for place, (name, values) in enumerate(counts.items()):
        style = {"line": {"color": _GREY, "width": 6}, "mode": "lines"} if place == 0 else _line(place - 1)
        figure.add_scatter(
            x=ranges(first, last), y=_shares(values), name=name, hovertemplate=name + ", %{x}: %{y:.1%}", **style
        )
    figure.update_xaxes(type="category")
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return _html(figure)


@dataclass(frozen=True)
class Curve:
    """A line over the epochs; ``kept`` is the epoch of the saved weights, which is marked."""

    name: str
    epoch: Sequence[int]
    value: Sequence[float]
    kept: int | None = None


def curves(lines: Sequence[Curve], quantity: str) -> Markup:
    """Draw lines over the epochs; a star marks the epoch that was kept."""
    figure = _figure(xaxis_title="epoch", yaxis_title=quantity)
    last = max(epoch for line in lines for epoch in line.epoch)
    figure.update_xaxes(dtick=max(1, last // 8), range=[-0.03 * last - 0.2, 1.03 * last + 0.2])
    for place, line in enumerate(lines):
        hover = line.name + ", epoch %{x}: %{y:.4f}"
        figure.add_scatter(x=line.epoch, y=line.value, name=line.name, hovertemplate=hover, **_line(place))
        if line.kept is not None:
            figure.add_scatter(
                x=[line.kept], y=[line.value[list(line.epoch).index(line.kept)]], mode="markers", name="kept",
                marker={"symbol": "star", "size": 16, "color": COLOURS[place % len(COLOURS)]},
                hovertemplate="kept: " + hover, showlegend=place == len(lines) - 1,
            )  # fmt: skip
    return _html(figure)


def step_bars(seconds: Mapping[str, float]) -> Markup:
    """Draw the seconds of each step, the first on top."""
    figure = _figure(40 * len(seconds) + 80, xaxis_title="seconds", hovermode="closest")
    figure.add_bar(
        x=list(seconds.values()), y=list(seconds), orientation="h", marker=_fill(0), hovertemplate="%{y}: %{x:.1f} s"
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    return _html(figure)


def intervals(
    names: Sequence[str], means: Sequence[float], low: Sequence[float], high: Sequence[float], title: str
) -> Markup:
    """Draw mean and confidence interval of each method, one under the other; NaN bounds draw no interval."""
    figure = _figure(34 * len(names) + 90, xaxis_title=title, hovermode="closest", showlegend=False)
    for place, (name, mean, below, above) in enumerate(zip(names, means, low, high, strict=True)):
        bars = {
            "array": [above - mean],
            "arrayminus": [mean - below],
            "color": _colour(place),
            "thickness": 2,
            "width": 6,
        }
        figure.add_scatter(
            x=[mean], y=[name], mode="markers",
            marker={"symbol": _cycle(SYMBOLS, place), "size": 12, "color": _colour(place)},
            error_x=bars if below == below else None, hovertemplate="%{y}: %{x:.4f}",
        )  # fmt: skip
    wrapped = ["<br>".join(wrap(name, _LABEL)) for name in names]
    figure.update_yaxes(autorange="reversed", automargin=True, type="category", tickvals=list(names), ticktext=wrapped)
    figure.update_xaxes(nticks=5, tickangle=0)
    return _html(figure)


def ranges(first: Sequence[int], last: Sequence[int]) -> list[str]:
    """Return names of ranges of whole numbers."""
    return [str(low) if low == high else f"{low}–{high}" for low, high in zip(first, last, strict=True)]


def _log_counts(figure: "go.Figure", counts: Sequence[int]) -> "go.Figure":
    """Set a logarithmic axis of counts that begins below 1, so that a single sample is visible."""
    figure.update_yaxes(type="log", dtick=1, range=[math.log10(0.6), math.log10(1.5 * max(*counts, 1))])
    return figure


def _shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]


def _cycle(signs: Sequence[str], place: int) -> str:
    return signs[place % len(signs)]


def _colour(place: int) -> str:
    return _cycle(COLOURS, place)


def _fill(place: int) -> dict[str, Any]:
    return {
        "color": _colour(place),
        "pattern": {"shape": _cycle(PATTERNS, place), "fillmode": "overlay", "fgcolor": "#ffffff", "size": 5},
    }


def _line(place: int) -> dict[str, Any]:
    return {
        "mode": "lines+markers",
        "line": {"color": _colour(place), "dash": _cycle(DASHES, place), "width": 2},
        "marker": {"symbol": _cycle(SYMBOLS, place), "size": 7, "color": _colour(place)},
    }


def _figure(height: int = 320, **layout: Any) -> "go.Figure":
    import plotly.graph_objects as go  # takes a second to import, and is only needed here

    figure = go.Figure()
    figure.update_layout(
        template="none", height=height, margin={"l": 56, "r": 12, "t": 12, "b": 44}, dragmode=False,
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        hoverlabel={"bgcolor": "#222222", "bordercolor": "#222222", "font": {"color": "#ffffff"}},
    )  # fmt: skip
    figure.update_layout(**layout)
    figure.update_xaxes(fixedrange=True, zeroline=False, automargin=True)
    figure.update_yaxes(fixedrange=True, zeroline=False, automargin=True)
    return figure


def _html(figure: "go.Figure") -> Markup:
    name = f"figure-{hashlib.sha256(figure.to_json().encode()).hexdigest()[:12]}"  # plotly's default is random
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, config=_CONFIG, div_id=name))
