"""The pictures of a backtest and of a training: one function each, arrays in, a matplotlib Figure out.

All are drawn in one style: colours of Okabe & Ito (2008) that stay apart for every kind of colour vision and in grey,
a white ground for print, units on every axis, times in UTC. Long series are thinned to what the pixels can show.
"""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.dates import DAILY, AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from flashtrader.files import replacing
from flashtrader.interval import DAY_MS
from flashtrader.report.formats import fixed, money, percent, plain
from flashtrader.report.metric_names import SKILL_LABELS
from flashtrader.report.summaries import (
    Curve,
    Floats,
    Timestamps,
    drawdown,
    group_outcomes,
    monthly_returns,
    pooled_correlation,
)
from flashtrader.report.thinning import bucket_ranges, bucket_starts, thin

BLUE, ORANGE, VERMILION, GREEN, GREY = "#0072b2", "#e69f00", "#d55e00", "#009e73", "#7a7a7a"
INK, RULE = "#1f2328", "#e4e6e9"
_REFERENCE_COLOURS = (GREY, ORANGE, GREEN, "#cc79a7", VERMILION, "#56b4e9")
_LOSS_GAIN = LinearSegmentedColormap.from_list("loss_gain", [VERMILION, "#f3c6a5", "#f5f6f7", "#a9cfe6", BLUE])

WIDTH_INCHES = 6.5
PIXELS_PER_INCH = 200
_NUM_COLUMNS = 600  # of the positions' picture
_LOG_SCALE_FROM = 3.0  # highest over lowest equity: below it a log scale looks the same and reads worse

STYLE = mpl.rc_context(
    {
        "font.family": ["DejaVu Sans"],
        "font.size": 10.5,
        "text.color": INK,
        "axes.titlesize": 12,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.labelsize": 10,
        "axes.labelcolor": INK,
        "axes.edgecolor": "#9aa0a6",
        "axes.linewidth": 0.8,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": True,
        "grid.color": RULE,
        "grid.linewidth": 0.8,
        "xtick.color": "#9aa0a6",
        "ytick.color": "#9aa0a6",
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
        "legend.fontsize": 10,
        "lines.linewidth": 1.5,
        "lines.solid_joinstyle": "round",
        "agg.path.chunksize": 10_000,
        "figure.constrained_layout.use": True,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "timezone": "UTC",
    }
)


@STYLE
def write_png(figure: Figure, path: Path) -> bytes:
    """Replace `path` by the figure as a PNG, in one step, and return its bytes; the same figure gives the same ones."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PIXELS_PER_INCH, metadata={"Software": None})
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return buffer.getvalue()


@STYLE
def plot_equity(strategy: Curve, references: Mapping[str, Curve]) -> Figure:
    """Draw equity over time beside the references; on a log scale once the highest is three times the lowest."""
    figure, axes = _figure(3.3 if len(references) < 4 else 4.0)
    curves = {"Strategy": strategy, **references}
    values = np.concatenate([curve.equity for curve in curves.values()])
    logarithmic = values.min() > 0 and values.max() > _LOG_SCALE_FROM * values.min()
    for (name, curve), style in zip(curves.items(), _line_styles(len(references)), strict=True):
        rows = thin(curve.equity)
        label = f"{name} {percent(curve.equity[-1] / curve.equity[0] - 1, signed=True)}"
        axes.plot(days(curve.timestamps[rows]), curve.equity[rows], label=label, **style, **_dot(curve.equity))
    if strategy.equity[-1] <= 0:
        end = days(strategy.timestamps[-1:])
        axes.plot(end, strategy.equity[-1:], "X", color=VERMILION, markersize=9, zorder=4, label="Ruined")
    if logarithmic:
        axes.set_yscale("log")
        decades = math.log10(values.max() / values.min())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="y", which="minor", left=False)
    axes.yaxis.set_major_formatter(_money_tick)
    axes.set_ylabel("Equity, account currency" + (" (log)" if logarithmic else ""))
    write_title(axes, "Equity after costs")
    time_axis(axes, *(curve.timestamps for curve in curves.values()))
    return figure


@STYLE
def plot_drawdown(strategy: Curve, references: Mapping[str, Curve]) -> Figure:
    """Draw the loss from the highest equity so far, as a fraction of it."""
    figure, axes = _figure(2.8)
    curves = {"Strategy": strategy, **references}
    for (name, curve), style in zip(curves.items(), _line_styles(len(references), VERMILION), strict=True):
        depth = drawdown(curve.equity)
        rows = thin(depth)
        dates = days(curve.timestamps[rows])
        if name == "Strategy":
            axes.fill_between(dates, depth[rows], 0, color=VERMILION, alpha=0.25, linewidth=0)
        axes.plot(dates, depth[rows], label=f"{name}, deepest {percent(depth.min())}", **style, **_dot(depth))
    axes.yaxis.set_major_formatter(_percent_tick)
    axes.set_ylim(top=0)
    axes.set_ylabel("Below the highest so far")
    write_title(axes, "Drawdown")
    time_axis(axes, *(curve.timestamps for curve in curves.values()))
    return figure


@STYLE
def plot_positions(timestamps: Timestamps, weights_TA: Floats, symbols: Sequence[str]) -> Figure:
    """Draw gross and net exposure, and under them every symbol's weight as a strip of colour.

    weights_TA: value held after trading as a fraction of equity, negative where short. Where several bars share a
    pixel the line and the colour are their mean, and the pale band spans their lowest and highest.
    """
    strips_inches = 0.24 * max(len(symbols), 2)
    figure = Figure(figsize=(WIDTH_INCHES, 2.7 + strips_inches))
    exposure, strips = figure.subplots(2, 1, sharex=True, height_ratios=(1.7, strips_inches))
    starts = bucket_starts(len(timestamps), _NUM_COLUMNS)
    edges = days(np.append(timestamps[starts], timestamps[-1] + _typical_step(timestamps)))

    # The wider line shows on both sides of the narrower one where the two are the same.
    for name, exposure_T, colour, width in (
        ("Gross", np.abs(weights_TA).sum(axis=1), BLUE, 2.4),
        ("Net", weights_TA.sum(axis=1), ORANGE, 1.1),
    ):
        low, high, mean = (_held(values) for values in bucket_ranges(exposure_T, starts))
        exposure.fill_between(edges, low, high, step="post", color=colour, alpha=0.3, linewidth=0)
        label = f"{name}, on average {percent(exposure_T.mean(), 0)}"
        exposure.step(edges, mean, where="post", color=colour, linewidth=width, label=label)
    exposure.axhline(0, color=INK, linewidth=0.8)
    exposure.yaxis.set_major_formatter(_percent_tick)
    exposure.set_ylabel("Share of equity")
    write_title(exposure, "Positions")

    mean_AC = np.stack([bucket_ranges(weights_T, starts)[2] for weights_T in weights_TA.T])
    limit = float(np.abs(mean_AC).max()) or 1.0
    borders = np.arange(len(symbols) + 1) - 0.5
    colours = strips.pcolormesh(edges, borders, mean_AC, cmap=_LOSS_GAIN, norm=Normalize(-limit, limit))
    strips.hlines(borders[1:-1], edges[0], edges[-1], color="white", linewidth=2)
    strips.grid(visible=False)
    strips.set_yticks(np.arange(len(symbols)), symbols)
    strips.set_ylim(borders[-1], borders[0])
    strips.tick_params(axis="y", length=0)
    scale = figure.colorbar(colours, ax=strips, aspect=strips_inches / 0.13, pad=0.01, ticks=(-limit, 0, limit))
    digits = 0 if limit >= 0.02 else 2
    scale.ax.set_yticklabels([percent(-limit, digits), "0", percent(limit, digits, signed=True)])
    scale.ax.tick_params(length=0, labelsize=9)
    scale.outline.set_visible(False)
    time_axis(strips, timestamps)
    return figure


@STYLE
def plot_monthly_returns(curve: Curve) -> Figure:
    """Draw the return of every month and year as a table of colours; the first and last month may be parts."""
    years, returns_YM, annual_Y = monthly_returns(curve)
    figure, axes = _figure(0.85 + 0.3 * len(years))
    known = np.abs(returns_YM[np.isfinite(returns_YM)])
    limit = float(np.quantile(known, 0.95)) or 1.0
    axes.pcolormesh(
        np.arange(13), np.arange(len(years) + 1), returns_YM, cmap=_LOSS_GAIN, norm=Normalize(-limit, limit),
        edgecolors="white", linewidth=2,
    )  # fmt: skip
    for row, (months, year) in enumerate(zip(returns_YM, annual_Y, strict=True)):
        for month, value in enumerate(months):
            if np.isfinite(value):
                colour = "white" if abs(value) > 0.75 * limit else INK
                axes.text(month + 0.5, row + 0.5, _cell(value), ha="center", va="center", color=colour, fontsize=9)
        axes.text(12.75, row + 0.5, _cell(year), ha="center", va="center", weight="bold", fontsize=9)
    axes.set_xlim(0, 13.4)
    axes.set_ylim(len(years), 0)
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    axes.set_xticks([*(np.arange(12) + 0.5), 12.75], [*months, "Year"])
    axes.set_yticks(np.arange(len(years)) + 0.5, [str(year) for year in years])
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title("Monthly returns after costs, %")
    return figure


@STYLE
def plot_forecast_outcome(forecasts_TA: Floats, outcomes_TA: Floats) -> Figure:
    """Draw the mean outcome of each tenth of the forecasts, lowest to highest, all symbols pooled.

    forecasts_TA, outcomes_TA: log returns over the horizon, rows in order of time; pairs with a NaN don't count. The
    title holds their Pearson correlation (IC), pooled too.
    """
    figure, axes = _figure(3.2)
    groups = group_outcomes(forecasts_TA, outcomes_TA)
    if not groups:
        axes.set_axis_off()
        axes.set_title("Forecast against outcome")
        axes.text(0.5, 0.5, "No forecast has an outcome yet.", transform=axes.transAxes, ha="center", color=GREY)
        return figure
    for place, group in enumerate(groups):
        axes.bar(place, group.mean_outcome * 1e4, color=BLUE if group.mean_outcome >= 0 else VERMILION, alpha=0.8)
        axes.errorbar(place, group.mean_outcome * 1e4, group.error * 1e4, color=INK, linewidth=1.2, capsize=3)
    num_pairs = sum(group.num_pairs for group in groups)
    overall = sum(group.mean_outcome * group.num_pairs for group in groups) / num_pairs
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.axhline(overall * 1e4, color=GREY, linewidth=1, linestyle=(0, (4, 3)), label="Mean of all outcomes")
    labels = [f"{place + 1}\n{fixed(group.mean_forecast * 1e4, 1)}" for place, group in enumerate(groups)]
    axes.set_xticks(range(len(groups)), labels)
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_formatter(plain_tick)
    axes.set_xlabel("Forecasts from lowest to highest, and their mean in bp")
    axes.set_ylabel("Mean outcome, bp")
    write_title(
        axes, f"Forecast against outcome: IC {fixed(pooled_correlation(forecasts_TA, outcomes_TA), 3, signed=True)}"
    )
    return figure


@STYLE
def plot_loss_curves(rows: Iterable[Mapping[str, Any]]) -> Figure:
    """Draw training and validation loss by step, and the validation skill under them.

    rows: of metrics.jsonl, with `step` and any of `train_loss`, `validation_loss` and the one other `validation_…`,
    which is the skill; null is left out.
    """
    rows = list(rows)
    evaluated = {key.removeprefix("validation_") for row in rows for key in row}
    name = next((name for name in SKILL_LABELS if name in evaluated), "ic")
    figure = Figure(figsize=(WIDTH_INCHES, 4.4))
    loss, skill = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    steps, train = _series(rows, "train_loss")
    chosen = thin(train)
    loss.plot(steps[chosen], train[chosen], color=GREY, alpha=0.6, linewidth=1, label="Training", **_dot(train))
    steps, validation = _series(rows, "validation_loss")
    label = "Validation"
    if len(validation):
        best = int(validation.argmin())
        label = f"Validation, best {fixed(validation[best], 4)} at step {steps[best]:,.0f}"
        loss.plot(steps[best], validation[best], "o", color=VERMILION, markersize=7, zorder=3)
    loss.plot(steps, validation, color=BLUE, marker=".", label=label)
    loss.set_ylabel("Loss")
    write_title(loss, "Training")
    steps, values = _series(rows, f"validation_{name}")
    skill.plot(steps, values, color=BLUE, marker=".")
    skill.axhline(0, color=INK, linewidth=0.8)
    skill.yaxis.set_major_formatter(plain_tick)
    skill.set_ylabel(f"Validation\n{SKILL_LABELS[name]}")
    skill.set_xlabel("Optimiser step")
    skill.xaxis.set_major_locator(MaxNLocator(integer=True))
    skill.xaxis.set_major_formatter(plain_tick)
    figure.align_ylabels()
    return figure


def _figure(height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCHES, height_inches))
    return figure, figure.subplots()


def _line_styles(num_references: int, strategy: str = BLUE) -> list[dict[str, Any]]:
    """Return how to draw the strategy, on top, and the references; lightness tells them apart in grey print too."""
    references = [
        {"color": _REFERENCE_COLOURS[place % len(_REFERENCE_COLOURS)], "linewidth": 1.1, "zorder": 2}
        for place in range(num_references)
    ]
    return [{"color": strategy, "linewidth": 1.7, "zorder": 3}, *references]


def _dot(values: Floats) -> dict[str, Any]:
    """Return the marker that makes a line of a single point visible."""
    return {"marker": "o"} if len(values) == 1 else {}


def days(timestamps: Timestamps) -> Floats:
    """Return times as matplotlib counts them: days since the epoch."""
    return timestamps / DAY_MS


def _typical_step(timestamps: Timestamps) -> int:
    return int(np.median(np.diff(timestamps))) if len(timestamps) > 1 else DAY_MS


def time_axis(axes: Axes, *timestamps: Timestamps) -> None:
    """Span the times with the axis below, in UTC."""
    shown = days(np.concatenate(timestamps))
    margin = 1 if shown.min() == shown.max() else 0
    axes.set_xlim(shown.min() - margin, shown.max() + margin)
    locator = AutoDateLocator(minticks=3, maxticks=9)  # type: ignore[no-untyped-call]
    locator.intervald[DAILY] = [1, 2, 7, 14]  # every fourth day, its own choice, would put the 29th beside the 1st
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set_xlabel("Time, UTC")


def write_title(axes: Axes, title: str) -> None:
    """Write the title, and between it and the picture the legend."""
    num_entries = len(axes.get_legend_handles_labels()[0])
    num_columns = 4 if num_entries <= 4 else 3
    axes.set_title(title, pad=11 + 15 * math.ceil(num_entries / num_columns))
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.985), ncols=num_columns, borderaxespad=0, handlelength=1.4)


def _money_tick(value: float, _: float) -> str:
    return money(value)


def _percent_tick(value: float, _: float) -> str:
    return f"{plain(value * 100)}%"


def plain_tick(value: float, _: float) -> str:
    """Return the text of a number on an axis, as matplotlib asks for it."""
    return plain(value)


def _held(values: Floats) -> Floats:
    """Return values with the last repeated, so that a step is as wide as the others."""
    return np.append(values, values[-1])


def _cell(fraction: float) -> str:
    return fixed(fraction * 100, 0 if abs(fraction) >= 0.9995 else 1) if math.isfinite(fraction) else ""


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[Floats, Floats]:
    pairs = [(row["step"], row[key]) for row in rows if row.get(key) is not None and math.isfinite(row[key])]
    steps_values = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return steps_values[:, 0], steps_values[:, 1]
