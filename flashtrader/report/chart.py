"""What an interactive chart of the page is, and the pieces that charts are put together from.

A chart is plain data for plotly.js: traces and a layout. Fonts, grid and ground are the page's own, so that they follow
the reader's light or dark; only lines and areas have colours here, which stand out on both. The palette is that of
Okabe & Ito (2008), lightened where it would drown on a dark ground: it stays apart for every kind of colour vision.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

from flashtrader.report.summaries import Curve, Timestamps
from flashtrader.report.thinning import thin

BLUE, VERMILION, GREY, GREEN, ORANGE = "#2b8cc4", "#d8612c", "#8a919a", "#17a077", "#d99a1c"
OTHERS = (ORANGE, GREEN, "#c77aa6", "#a98467", "#7d7ac9", "#b0a433", "#56b4e9", "#5fae4b")
"""Colours of lines beside the strategy and buy-and-hold."""

Trace = dict[str, Any]

_DIGITS = 6  # of a value on the page: finer than any pixel


@dataclass(frozen=True)
class Entry:
    """One line of a chart's legend: pressing it hides and shows its traces."""

    label: str
    colour: str
    traces: tuple[int, ...]
    """Their places among the chart's traces; none of what is no trace, and can't be hidden."""


@dataclass(frozen=True)
class Chart:
    """A chart with its words."""

    name: str
    """Unique on the page; letters and underscores."""
    title: str
    unit: str
    """Of the vertical axis, or of the colours."""
    caption: str
    """What is drawn, how it was calculated, and what its bands span."""
    alt: str
    """What a reader who can't see the chart, or runs no JavaScript, is told: its main numbers."""
    traces: list[Trace]
    layout: dict[str, Any] = field(default_factory=dict)
    legend: tuple[Entry, ...] = ()
    timed: bool = False
    """Whether x is time: its zoom is then that of every such chart."""
    fit: bool = True
    """Whether y follows the stretch of time that is shown."""
    height: int = 300
    """In pixels; on a phone and on paper `height_narrow`."""
    height_narrow: int = 240
    wide: bool = False
    """Whether it takes all of a wide screen; others stand side by side."""
    can_be_log: bool = False
    """Whether a button turns the vertical axis logarithmic; it begins as `layout` says."""


def line(curve: Curve, name: str, colour: str, hover: str, **style: Any) -> Trace:
    """Return a line through a curve, thinned to what a wide screen can show. hover: d3 format of a value."""
    rows = thin(curve.equity, num_buckets=900)
    single = {"mode": "markers"} if len(rows) == 1 else {"mode": "lines"}
    return {
        "type": "scatter",
        "name": escape(name),
        "x": times(curve.timestamps[rows]),
        "y": values(curve.equity[rows]),
        "line": {"color": colour, "width": 1.3, **style.pop("line", {})},
        "hovertemplate": f"%{{y:{hover}}}",
        **single,
        **style,
    }


def band(timestamps: Timestamps, low: Iterable[float], high: Iterable[float], name: str, colour: str) -> list[Trace]:
    """Return the two traces of a band between two lines, which have no hover of their own."""
    shared: Trace = {"type": "scatter", "mode": "lines", "x": times(timestamps), "hoverinfo": "skip"}
    shared |= {"line": {"width": 0, "color": colour}}
    return [
        {**shared, "name": f"{escape(name)}, low", "y": values(low)},
        {**shared, "name": f"{escape(name)}, high", "y": values(high), "fill": "tonexty", "fillcolor": faint(colour)},
    ]


def level(y: float, *, dashed: bool = False) -> dict[str, Any]:
    """Return a horizontal line across a chart, as a shape of its layout."""
    dash = "dash" if dashed else "solid"
    return {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "layer": "below",
        "line": {"color": GREY, "width": 1, "dash": dash},
    }  # fmt: skip


def axis_title(text: str) -> dict[str, Any]:
    """Return the title of an axis, as a part of its layout."""
    return {"title": {"text": text, "font": {"size": 12}, "standoff": 8}}


def legend(names: Iterable[tuple[str, str]]) -> tuple[Entry, ...]:
    """Return the legend of traces in order, each a label and a colour."""
    return tuple(Entry(label, colour, (place,)) for place, (label, colour) in enumerate(names))


def faint(colour: str, opacity: float = 0.18) -> str:
    """Return a #rrggbb colour as one that lets the ground through."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def colours(names: Iterable[str]) -> Mapping[str, str]:
    """Return a colour for each line that stands beside the strategy; buy-and-hold's is grey."""
    others = [name for name in names if name != "Buy and hold"]
    return {"Buy and hold": GREY} | {name: OTHERS[place % len(OTHERS)] for place, name in enumerate(others)}


def times(timestamps: Timestamps) -> list[int]:
    """Return times as plotly takes them: milliseconds, shown as UTC."""
    return [int(time) for time in timestamps]


def values(numbers: Iterable[float]) -> list[float | None]:
    """Return numbers to six significant digits; None where there is none."""
    return [float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None for value in map(float, numbers)]
