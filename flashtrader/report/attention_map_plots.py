"""The pictures of where a model looks: arrays in, a matplotlib Figure out, in the report's style.

Weights are drawn against an even share: that of a query which looks at everything alike. Blue is more, sand less.
Shapes: T bars, K bars seen by one layer, H heads, E entities, L layers (of factorised mixing: attentions).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from flashtrader.arrays import Floats
from flashtrader.interval import MINUTE_MS
from flashtrader.report.formats import percent, plain
from flashtrader.report.plots import BLUE, GREEN, GREY, INK, ORANGE, STYLE, VERMILION, WIDTH_INCHES, days, time_axis
from flashtrader.report.summaries import Timestamps
from flashtrader.report.thinning import bucket_starts, thin

_SHARES = LinearSegmentedColormap.from_list("shares", ["#e3c9b4", "#f3e6db", "#f7f8f9", "#7db7dc", "#004f80"])
_SCALES = (2.0, 4.0, 16.0)  # times an even share, at the end of the colours
_LINES = (BLUE, ORANGE, GREEN, VERMILION)
_SMALL_CHANGE = 0.005  # of a price: below it basis points read better
_NUM_COLUMNS = 500
_MOST_NAMES = 24
_STRIP_INCHES = 0.17


@STYLE
def plot_ages(by_age: Mapping[str, Floats], num_bars: int) -> Figure:
    """Draw every head's weights by how far back the bar is that they are on: a strip of colour for each.

    by_age: by layer (H, K), the bar itself first; each row sums to one. num_bars: whose mean they are.
    """
    figure = Figure(figsize=(WIDTH_INCHES, _strips_inches(by_age) + 1.5))
    axes = figure.subplots()
    longest = max(ages_HK.shape[1] for ages_HK in by_age.values())
    strips = {name: ages_HK[:, ::-1] for name, ages_HK in by_age.items()}
    mesh = _draw_strips(axes, strips, np.arange(-longest, 1, dtype=np.float64) + 0.5)
    axes.set_xlim(0.5 - longest, 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
    axes.set_xlabel("Bars back from the decision")
    axes.set_title(f"Attention by distance{_mean_of(num_bars)}")
    _draw_scale(figure, axes, mesh)
    return figure


@STYLE
def plot_bar(
    times_ms: Timestamps, prices: Mapping[str, Floats], by_age: Mapping[str, Floats], rollout_T: Floats
) -> Figure:
    """Draw what one forecast looked at: prices, every head's weights under them, and the rollout of all layers.

    times_ms: (T,) the last is the decision bar. prices: (T,) of each symbol. by_age: as in `plot_ages`, of this bar.
    rollout_T: by age too; sums to one. Bars so far back that all of them hold less than 1 % of it are left out.
    """
    seen = max(ages_HK.shape[1] for ages_HK in by_age.values())
    shown = min(max(seen, int(np.searchsorted(rollout_T.cumsum(), 0.99)) + 1), len(times_ms))
    times_ms, flow_T = times_ms[-shown:], rollout_T[:shown][::-1]
    figure = Figure(figsize=(WIDTH_INCHES, _strips_inches(by_age) + 4.2))
    price, strips, flow = figure.subplots(3, 1, sharex=True, height_ratios=(1.6, _strips_inches(by_age), 1.4))
    _draw_prices(price, times_ms, {symbol: price_T[-shown:] for symbol, price_T in prices.items()})
    unit: Literal["ms", "m"] = "ms" if times_ms[-1] % MINUTE_MS else "m"
    day, clock = np.datetime_as_string(times_ms[-1:].astype("datetime64[ms]"), unit=unit)[0].split("T")
    moment = clock if unit == "ms" else f"{day} {clock}"  # the axis names the day, and the line has no room for both
    price.set_title(f"Where the forecast of {moment} UTC looks", pad=26 if len(prices) <= len(_LINES) else 10)
    edges_ms = np.append(times_ms, 2 * times_ms[-1] - times_ms[-2] if shown > 1 else times_ms[-1] + 1)
    looks = {name: ages_HK[:, ::-1] for name, ages_HK in by_age.items()}
    mesh = _draw_strips(strips, looks, days(edges_ms[-seen - 1 :]))
    _draw_scale(figure, strips, mesh)
    rows = np.append(thin(flow_T), shown - 1)
    moments = days(np.append(times_ms[rows[:-1]], edges_ms[-1]))
    flow.fill_between(moments, flow_T[rows], step="post", color=BLUE, alpha=0.85, linewidth=0.4)
    flow.set_ylim(0, 1.08 * flow_T[:-1].max() if shown > 1 else 1)
    flow.yaxis.set_major_formatter(lambda value, _: percent(value, 1))
    flow.set_ylabel("Rollout")
    flow.set_title(f"on the bar itself: {percent(flow_T[-1])}", loc="right", fontsize=9, fontweight="normal", pad=3)
    time_axis(flow, edges_ms)
    figure.align_ylabels()
    return figure


@STYLE
def plot_entities(by_entity: Mapping[str, Floats], names: Sequence[str], num_bars: int) -> Figure:
    """Draw which entity looks at which, all times together: a square of colour for each layer and for the rollout.

    by_entity: (E asking, E seen), mean of the heads; each row sums to one. names: of the entities.
    """
    columns = min(3, len(by_entity))
    rows = -(-len(by_entity) // columns)
    figure = Figure(figsize=(WIDTH_INCHES, 0.9 + 2.3 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    places, edges = _named_places(names), np.arange(len(names) + 1, dtype=np.float64) - 0.5
    most = _most(by_entity)
    for axes, (name, shares_EE) in zip(grid.flat, by_entity.items(), strict=False):
        mesh = _draw_shares(axes, edges, edges, shares_EE * len(names), most)
        axes.set_aspect("equal")
        axes.set_ylim(edges[-1], edges[0])
        axes.set_xticks(places, [names[place] for place in places], rotation=90)
        axes.set_yticks(places, [names[place] for place in places])
        axes.tick_params(length=0, labelsize=8)
        axes.set_title(name, fontsize=10, fontweight="normal", pad=4)
    for axes in grid.flat[len(by_entity) :]:
        axes.set_visible(False)
    figure.suptitle(f"Who looks at whom{_mean_of(num_bars)}", x=0.01, ha="left", fontweight="bold", fontsize=12)
    figure.supylabel("asks", fontsize=10)
    figure.supxlabel("is looked at", fontsize=10)
    _draw_scale(figure, grid.ravel().tolist(), mesh)
    return figure


@STYLE
def plot_levels(by_level: Mapping[str, Floats], names: Sequence[str], num_bars: int) -> Figure:
    """Draw every head's weights by the level of the book that they are on, all levels that ask together.

    by_level: by layer (H, E); each row sums to one. names: of the levels, by rising price, as many bids as asks.
    """
    figure = Figure(figsize=(WIDTH_INCHES, _strips_inches(by_level) + 1.7))
    axes = figure.subplots()
    mesh = _draw_strips(axes, by_level, np.arange(len(names) + 1, dtype=np.float64) - 0.5)
    axes.axvline(len(names) / 2 - 0.5, color=INK, linewidth=1.2)
    places = _named_places(names)
    axes.set_xticks(places, [names[place] for place in places], rotation=90 if len(places) > 8 else 0)
    axes.set_xlabel("Level, by rising price")
    axes.set_title(f"Attention by level of the book{_mean_of(num_bars)}")
    _draw_scale(figure, axes, mesh)
    return figure


def _draw_prices(axes: Axes, times_ms: Timestamps, prices: Mapping[str, Floats]) -> None:
    few = len(prices) <= len(_LINES)
    furthest = 0.0
    for place, (symbol, price_T) in enumerate(prices.items()):
        known = np.isfinite(price_T)
        change_T = price_T[known] / price_T[known][-1:] - 1
        furthest = max(furthest, np.abs(change_T).max(initial=0.0))
        rows = thin(change_T)
        style = {"color": _LINES[place], "label": symbol} if few else {"color": GREY, "alpha": 0.5}
        axes.plot(days(times_ms[known][rows]), change_T[rows], linewidth=1.1, **style)
    axes.axhline(0, color=INK, linewidth=0.6)
    size, unit = (1e-4, "bp") if furthest < _SMALL_CHANGE else (1e-2, "%")
    if not furthest:
        axes.set_ylim(-size, size)
    axes.yaxis.set_major_formatter(lambda value, _: plain(value / size))
    axes.set_ylabel(f"Price against\nthe bar's own, {unit}")
    if few:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.985), ncols=4, borderaxespad=0, handlelength=1.4)


def _draw_strips(axes: Axes, strips: Mapping[str, Floats], edges: Floats) -> QuadMesh:
    """Draw a strip for each head (H, K), layer under layer; those of fewer columns end where the others end."""
    most = _most(strips)
    heads_L = [len(strip_HK) for strip_HK in strips.values()]
    borders = np.concatenate([[0], np.cumsum(heads_L)])
    for (strip_HK, top), heads in zip(zip(strips.values(), borders, strict=False), heads_L, strict=True):
        starts = bucket_starts(strip_HK.shape[1], _NUM_COLUMNS)
        num_seen = strip_HK.shape[1]
        borders_C = np.append(starts, num_seen)
        times_even_HC = np.add.reduceat(strip_HK, starts, axis=1) / np.diff(borders_C) * num_seen
        mesh = _draw_shares(axes, edges[-num_seen - 1 :][borders_C], top + np.arange(heads + 1), times_even_HC, most)
    axes.hlines(borders[1:-1], edges[0], edges[-1], color="white", linewidth=3)
    axes.set_yticks((borders[:-1] + borders[1:]) / 2, list(strips))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(borders[-1], 0)
    return mesh


def _draw_shares(axes: Axes, x: Floats, y: Floats, times_even: Floats, most: float) -> QuadMesh:
    axes.grid(visible=False)
    clipped = np.clip(times_even, 1 / most, most)
    return axes.pcolormesh(x, y, clipped, cmap=_SHARES, norm=LogNorm(1 / most, most), rasterized=True)


def _most(shares: Mapping[str, Floats]) -> float:
    """Return the least scale that holds nine tenths of the shares (…, E); the rollout's own entity is above most."""
    logs = np.concatenate([np.log(np.maximum(each * each.shape[-1], 1e-9)).ravel() for each in shares.values()])
    reach = float(np.exp(np.quantile(np.abs(logs), 0.9)))
    return next((scale for scale in _SCALES if scale >= reach), _SCALES[-1])


def _draw_scale(figure: Figure, axes: Axes | list[Axes], mesh: QuadMesh) -> None:
    scale = figure.colorbar(mesh, ax=axes, aspect=30, pad=0.01, fraction=0.03)
    most = float(mesh.get_clim()[1])
    scale.ax.yaxis.set_major_locator(FixedLocator([1 / most, 1, most]))
    scale.ax.yaxis.set_minor_locator(NullLocator())
    scale.ax.set_yticklabels([f"1/{most:.0f}", "even", f"{most:.0f}×"])
    scale.ax.tick_params(length=0, labelsize=9)
    scale.outline.set_visible(False)


def _strips_inches(strips: Mapping[str, Floats]) -> float:
    return max(1.2, _STRIP_INCHES * sum(map(len, strips.values())))


def _named_places(names: Sequence[str]) -> list[int]:
    """Return which names there is room for: all, or about a dozen."""
    step = 1 if len(names) <= _MOST_NAMES else -(-len(names) // 12)
    return list(range(0, len(names), step))


def _mean_of(num_bars: int) -> str:
    return "" if num_bars == 1 else f", mean of {num_bars:,} bars"
