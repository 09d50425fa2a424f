"""The pictures of candle forecasts: one function each, arrays in, a matplotlib Figure out, in the report's style."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flashtrader.arrays import Floats
from flashtrader.report.formats import fixed, percent
from flashtrader.report.plots import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    STYLE,
    VERMILION,
    WIDTH_INCHES,
    days,
    plain_tick,
    time_axis,
    write_title,
)
from flashtrader.report.summaries import Curve, Timestamps

_NEWEST_BARS = 120
_NUM_DOTS = 4_000
_PIT_BINS = 20


@STYLE
def plot_candle_forecasts(
    timestamps: Timestamps,
    levels_TC: tuple[Floats, Floats],
    changes_TC: tuple[Floats, Floats],
    features: Sequence[str],
    r2_C: Sequence[float],
) -> Figure:
    """Draw each feature's forecasts and what came: the newest bars as levels, and a sample of all as log changes.

    timestamps: (T,) of the decision bars. levels_TC, changes_TC: the forecasts and what came, without NaN; changes
    are logarithmic, and r2_C is their R². Any forecast's levels follow what came; the changes show what it knew.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 1.6 * len(features) + 0.8))
    rows = figure.subplots(len(features), 2, width_ratios=(1.9, 1), squeeze=False)
    recent = slice(-_NEWEST_BARS, None)
    for column, (feature, (levels, changes)) in enumerate(zip(features, rows, strict=True)):
        for values_TC, colour, label in zip(levels_TC, (ORANGE, INK), ("Forecast", "What came"), strict=True):
            values_T = values_TC[recent, column]
            levels.plot(days(timestamps[recent]), values_T, color=colour, linewidth=1.2, label=label)
        levels.set_ylabel(feature.capitalize())
        levels.yaxis.set_major_locator(MaxNLocator(nbins=4))
        levels.yaxis.set_major_formatter(plain_tick)
        time_axis(levels, timestamps[recent])
        _draw_changes(changes, *(values_TC[:, column] for values_TC in changes_TC))
        changes.text(1, 1.03, f"R² {fixed(r2_C[column], 3)}", transform=changes.transAxes, ha="right", fontsize=9)
    for axes in rows[:-1, 0]:
        axes.tick_params(labelbottom=False)
    for axes in rows[:-1].flat:
        axes.set_xlabel("")
        axes.xaxis.get_offset_text().set_visible(False)
    write_title(rows[0, 0], "Next candle, newest bars")
    rows[0, 1].set_title("Log change, %", pad=26)
    figure.align_ylabels()
    return figure


@STYLE
def plot_fan(
    before: Curve, timestamps: Timestamps, levels: Sequence[float], bands_QH: Floats, point_H: Floats, after: Curve
) -> Figure:
    """Draw the closes before a decision, its rollout's bands and point path, and the closes that came.

    timestamps: (H,) of the generated bars. bands_QH: quantiles of the sample paths at `levels` (Q), which lie around a
    half in pairs; Q may be 0. before: at least one bar; after: possibly none.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 3.6))
    axes = figure.subplots()
    seen_days, seen = days(before.timestamps[-1:]), before.equity[-1:]
    ahead_days = np.concatenate([seen_days, days(timestamps)])
    for pair in range(len(levels) // 2):
        low_H, high_H = (np.concatenate([seen, bands_QH[row]]) for row in (pair, -1 - pair))
        label = f"{percent(levels[-1 - pair] - levels[pair], 0)} of paths"
        axes.fill_between(ahead_days, low_H, high_H, color=BLUE, alpha=0.2 + 0.15 * pair, linewidth=0, label=label)
    axes.plot(ahead_days, np.concatenate([seen, point_H]), color=BLUE, label="Point path")
    axes.plot(days(before.timestamps), before.equity, color=INK, linewidth=1.2)
    if len(after.timestamps):
        came = np.concatenate([seen, after.equity])
        axes.plot(np.concatenate([seen_days, days(after.timestamps)]), came, color=VERMILION, label="What came")
    axes.axvline(seen_days[0], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.yaxis.set_major_formatter(plain_tick)
    axes.set_ylabel("Close")
    write_title(axes, f"Rollout over {len(timestamps)} bars")
    time_axis(axes, before.timestamps, timestamps)
    return figure


@STYLE
def plot_calibration(pit_TC: Floats, features: Sequence[str]) -> Figure:
    """Draw how often what came fell into each twentieth of its forecast distribution, for each feature.

    pit_TC: the distribution's probability of at most what came; NaN doesn't count. Flat at 1 is calibrated, high at
    both ends too narrow, high in the middle too wide, a slope off to one side. 95 % of a calibrated forecast's bars end
    in the grey band.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 2.6))
    for axes, feature, pit_T in zip(
        figure.subplots(1, len(features), sharey=True, squeeze=False)[0], features, pit_TC.T, strict=True
    ):
        known_T = pit_T[np.isfinite(pit_T)]
        counts, edges = np.histogram(known_T, _PIT_BINS, (0, 1))
        mean = max(len(known_T), 1) / _PIT_BINS
        # A bin's count is close to normal around its mean, with the variance n p (1 − p).
        spread = 1.96 * np.sqrt(mean * (1 - 1 / _PIT_BINS)) / mean
        axes.axhspan(1 - spread, 1 + spread, color=GREY, alpha=0.25, linewidth=0)
        axes.stairs(counts / mean, edges, fill=True, color=BLUE, alpha=0.8)
        axes.axhline(1, color=INK, linewidth=0.8)
        axes.set_title(feature.capitalize(), fontsize=10.5)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        axes.grid(visible=False, axis="x")
    figure.axes[0].set_ylabel("Share of bars × 20")
    figure.axes[0].yaxis.set_major_formatter(plain_tick)
    figure.supxlabel("Rank of what came in its forecast distribution", fontsize=10)
    return figure


def _draw_changes(axes: Axes, forecast_T: Floats, came_T: Floats) -> None:
    """Draw log changes in per cent as a cloud, without the farthest, and the line on which they agree."""
    forecast_T, came_T = 100 * forecast_T, 100 * came_T
    chosen = slice(None, None, max(1, len(came_T) // _NUM_DOTS))
    axes.plot(forecast_T[chosen], came_T[chosen], ".", color=BLUE, markersize=3, alpha=0.35, markeredgewidth=0)
    ends = [forecast_T.min(), forecast_T.max()]
    axes.plot(ends, ends, color=VERMILION, linewidth=1)
    for axis, limit, values_T, num_ticks in (
        (axes.xaxis, axes.set_xlim, forecast_T, 2),
        (axes.yaxis, axes.set_ylim, came_T, 4),
    ):
        low, high = np.quantile(values_T, (0.002, 0.998))
        if low < high:
            limit(low, high)
        axis.set_major_locator(MaxNLocator(nbins=num_ticks))
        axis.set_major_formatter(plain_tick)
    axes.set_ylabel("Came")
    axes.set_xlabel("Forecast")
