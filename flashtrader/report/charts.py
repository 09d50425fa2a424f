"""The charts of a backtest's money: equity, drawdown, rolling Sharpe ratio, exposure, positions, turnover and costs."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from flashtrader.arrays import Floats
from flashtrader.backtest.estimates import EquityBand
from flashtrader.report.chart import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    Chart,
    Entry,
    band,
    colours,
    faint,
    legend,
    level,
    line,
    times,
    values,
)
from flashtrader.report.formats import fixed, percent, plain
from flashtrader.report.metric_names import currency
from flashtrader.report.summaries import (
    Curve,
    Timestamps,
    drawdown,
    period_sums,
    rolling_sharpe,
)
from flashtrader.report.thinning import bucket_means, bucket_starts

_LOG_SCALE_FROM = 3.0  # highest over lowest equity: below it a log scale looks the same and reads worse
_NUM_COLUMNS = 300  # of the positions
_MIN_WINDOW_BARS = 7
_STRATEGY = {"line": {"width": 2.0}}


def equity_chart(strategy: Curve, beside: Mapping[str, Curve], around: EquityBand | None, *, ruined: bool) -> Chart:
    """Draw equity over time in its band, beside the references.

    around: where equity might as well have been; None draws no band. The scale is logarithmic once the highest equity
    is three times the lowest.
    """
    curves = {"Strategy": strategy, **beside}
    everything = np.concatenate([curve.equity for curve in curves.values()])
    positive = bool(everything.min() > 0)
    palette = {"Strategy": BLUE, **colours(beside)}
    told = {
        name: f"{name} {percent(curve.equity[-1] / curve.equity[0] - 1, signed=True)}" for name, curve in curves.items()
    }
    caption = "What the account was worth at every bar, beside what the same capital would have come to."
    traces, entries = [], [Entry(told["Strategy"], BLUE, (len(beside) + 2 * (around is not None),))]
    if around is not None:
        moments = np.array([time.removesuffix("Z").partition("+")[0] for time in around.time], dtype="datetime64[ms]")
        traces += band(moments.astype(np.int64), around.low, around.high, "95 % band", BLUE)
        entries.append(Entry("95 % band", faint(BLUE, 0.45), (0, 1)))
        caption += (
            " The band spans 95 % of histories drawn at random from the strategy's own returns, a block of bars at a "
            "time: how else it could have gone had nothing but the order and luck of the bars been different."
        )
    for name, curve in beside.items():
        entries.append(Entry(told[name], palette[name], (len(traces),)))
        traces.append(line(curve, name, palette[name], ",.0f"))
    traces.append(line(strategy, "Strategy", BLUE, ",.0f", **_STRATEGY))  # the last, over the others
    if ruined:
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": "Ruined", "x": times(strategy.timestamps[-1:]),
                "y": values(strategy.equity[-1:]), "marker": {"symbol": "x", "size": 11, "color": VERMILION},
                "hovertemplate": "ruined",
            }
        )  # fmt: skip
    return Chart(
        name="equity",
        title="Equity after costs",
        unit="account currency",
        caption=caption,
        alt="Final equity: "
        + "; ".join(f"{name} {currency(curve.equity[-1])}" for name, curve in curves.items())
        + ".",
        traces=traces,
        layout={
            "yaxis": {
                "type": "log" if positive and everything.max() > _LOG_SCALE_FROM * everything.min() else "linear",
                "tickformat": "~s",
            }
        },
        legend=tuple(entries),
        timed=True,
        height=400,
        height_narrow=290,
        wide=True,
        can_be_log=positive,
    )


def drawdown_chart(strategy: Curve, beside: Mapping[str, Curve]) -> Chart:
    """Draw the loss from the highest equity so far, as a fraction of it."""
    depths = {name: Curve(curve.timestamps, drawdown(curve.equity)) for name, curve in beside.items()}
    own = Curve(strategy.timestamps, drawdown(strategy.equity))
    palette = colours(beside)
    traces = [line(depth, name, palette[name], ".1%") for name, depth in depths.items()]
    traces.append(line(own, "Strategy", VERMILION, ".1%", fill="tozeroy", fillcolor=faint(VERMILION, 0.25)))
    told = [("Strategy", own), *depths.items()]
    deepest = [f"{name}, deepest {percent(depth.equity.min())}" for name, depth in told]
    return Chart(
        name="drawdown",
        title="Drawdown",
        unit="below the highest equity so far",
        caption="How far equity was below its highest so far, at every bar.",
        alt="; ".join(deepest) + ".",
        traces=traces,
        layout={"yaxis": {"tickformat": "~%", "rangemode": "tozero"}},
        legend=(
            Entry(deepest[0], VERMILION, (len(beside),)),
            *legend((text, palette[name]) for text, name in zip(deepest[1:], beside, strict=True)),
        ),
        timed=True,
    )


def rolling_sharpe_chart(
    strategy: Curve, beside: Mapping[str, Curve], window_days: int, bars_per_year: float
) -> Chart | None:
    """Draw the Sharpe ratio of the last `window_days`; None where a window holds too few bars."""
    years = window_days / 365.25
    window_bars = round(years * bars_per_year)
    curves = {"Strategy": strategy, **beside}
    rolled = {
        name: rolling_sharpe(curve, window_bars, bars_per_year)
        for name, curve in curves.items()
        if _MIN_WINDOW_BARS <= window_bars < len(curve.equity)
    }
    if "Strategy" not in rolled:
        return None
    own = rolled.pop("Strategy")
    palette = colours(rolled)
    half_width = 1.96 / np.sqrt(years)
    traces = [line(curve, name, palette[name], ".2f") for name, curve in rolled.items()]
    traces.append(line(own, "Strategy", BLUE, ".2f", **_STRATEGY))
    noise = {
        "type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": -half_width, "y1": half_width, "layer": "below",
        "fillcolor": faint(GREY, 0.16), "line": {"width": 0},
    }  # fmt: skip
    last = own.equity[-1]
    return Chart(
        name="rolling_sharpe",
        title=f"Rolling Sharpe ratio, {window_days} days",
        unit="annualised",
        caption=f"Of the last {window_days} days ({fixed(window_bars, 0)} bars) at every bar. Within the grey zone, "
        f"±{fixed(half_width, 1)}, lie 95 % of windows as short as this of a strategy that earns nothing on average.",
        alt=f"The last window's is {fixed(last, 2)}; the lowest {fixed(np.nanmin(own.equity), 2)}, the highest "
        f"{fixed(np.nanmax(own.equity), 2)}."
        if np.isfinite(own.equity).any()
        else "Not defined: equity never moved.",
        traces=traces,
        layout={"shapes": [noise, level(0)]},
        legend=(
            Entry("Strategy", BLUE, (len(rolled),)),
            *legend((name, palette[name]) for name in rolled),
            Entry("No skill, 95 %", faint(GREY, 0.4), ()),
        ),
        timed=True,
    )


def exposure_chart(timestamps: Timestamps, weights_TA: Floats) -> Chart:
    """Draw gross and net exposure. weights_TA: value held after trading as a fraction of equity."""
    starts = bucket_starts(len(timestamps), 600)
    traces: list[dict[str, Any]] = []
    entries = []
    for name, exposure_T, colour in (
        ("Gross", np.abs(weights_TA).sum(axis=1), BLUE),
        ("Net", weights_TA.sum(axis=1), ORANGE),
    ):
        mean_C = bucket_means(exposure_T, starts)
        curve = Curve(timestamps[starts], mean_C)
        entries.append((f"{name}, on average {percent(exposure_T.mean())}", colour))
        filled = {"fill": "tozeroy", "fillcolor": faint(colour, 0.3)} if name == "Gross" else {}
        traces.append(line(curve, name, colour, ".1%", line={"shape": "hv", "width": 1.1}, **filled))
    return Chart(
        name="exposure",
        title="Exposure",
        unit="share of equity",
        caption="What was held after trading: gross adds long and short, net sets one against the other. Where bars "
        "are closer than the drawing, their mean.",
        alt="; ".join(label for label, _ in entries) + ".",
        traces=traces,
        layout={"yaxis": {"tickformat": "~%", "rangemode": "tozero"}, "shapes": [level(0)]},
        legend=legend(entries),
        timed=True,
        height=260,
        height_narrow=210,
    )


def positions_chart(timestamps: Timestamps, weights_TA: Floats, symbols: Sequence[str]) -> Chart:
    """Draw every symbol's weight as a strip of colour: the mean of the bars of a column."""
    starts = bucket_starts(len(timestamps), _NUM_COLUMNS)
    mean_AC = np.stack([bucket_means(weights_T, starts) for weights_T in weights_TA.T])
    limit = float(np.abs(mean_AC).max()) or 1.0
    means = "; ".join(
        f"{symbol} {percent(weights_T.mean(), 2, signed=True)}"
        for symbol, weights_T in zip(symbols, weights_TA.T, strict=True)
    )
    strips = 24 * max(len(symbols), 2) + 72
    return Chart(
        name="positions",
        title="Positions",
        unit=f"weight, from {percent(-limit)} to {percent(limit, signed=True)}",
        caption="The weight of every market after trading; blue is long, orange is short, and stronger is larger. "
        "Where bars are closer than the drawing, their mean.",
        alt=f"Mean weights: {means}.",
        traces=[
            {
                "type": "heatmap", "x": times(timestamps[starts]), "y": [escape(symbol) for symbol in symbols],
                "z": [values(mean_C) for mean_C in mean_AC], "zmin": -limit, "zmax": limit, "ygap": 2,
                "colorscale": [[0, VERMILION], [0.5, "rgba(128,140,150,0.10)"], [1, BLUE]], "showscale": False,
                "hovertemplate": "%{y} %{z:+.2%}<extra></extra>",
            }
        ],
        layout={"yaxis": {"type": "category", "autorange": "reversed", "showgrid": False}, "hovermode": "closest"},
        legend=(Entry("Long", BLUE, ()), Entry("Short", VERMILION, ())),
        timed=True,
        fit=False,
        wide=True,
        height=strips,
        height_narrow=strips,
    )  # fmt: skip


def turnover_chart(timestamps: Timestamps, traded_TA: Floats, equity_T: Floats) -> Chart:
    """Draw the value traded in each day, week or month, in multiples of the equity at the time."""
    alive_T = np.maximum(equity_T, 0)
    volume_T = np.abs(traded_TA).sum(axis=1)
    turned_T = np.divide(volume_T, alive_T, out=np.zeros_like(volume_T), where=alive_T > 0)
    period, starts_P, ends_P, turned_P = period_sums(timestamps, turned_T)
    return Chart(
        name="turnover",
        title=f"Turnover by {period}",
        unit="multiples of equity",
        caption=f"Value bought and sold in each {period}, over the equity at the time. The first and the last {period} "
        "may be parts of one.",
        alt=f"In the mean {fixed(turned_P.mean(), 2)} times equity a {period}, at most {fixed(turned_P.max(), 2)}.",
        traces=[
            {
                "type": "bar", "name": "Turnover", "x": times(starts_P), "y": values(turned_P), "offset": 0,
                "width": values(0.85 * (ends_P - starts_P)),
                "marker": {"color": BLUE}, "hovertemplate": "%{y:.3g}×<extra></extra>",
            }
        ],
        layout={"yaxis": {"ticksuffix": "×"}},
        timed=True,
        height=260,
        height_narrow=210,
    )  # fmt: skip


def costs_chart(gross: float, costs: Mapping[str, float], net: float) -> Chart:
    """Draw how the result before costs becomes the result after them. costs: what each took, by name."""
    names = ["Before costs", *costs, "After costs"]
    amounts = [gross, *(-amount for amount in costs.values()), net]
    told = "; ".join(f"{name} {currency(amount)}" for name, amount in zip(names, amounts, strict=True))
    return Chart(
        name="costs",
        title="From gross to net",
        unit="account currency",
        caption="What prices alone earned on what was held, what each kind of cost took from it, and what was left: "
        "gains and losses of the entire period. The bars add up exactly.",
        alt=f"{told}.",
        traces=[
            {
                "type": "waterfall", "x": [escape(name) for name in names],
                "y": values(amounts), "measure": ["absolute", *["relative"] * len(costs), "total"],
                "text": [currency(amount) for amount in amounts], "textposition": "outside", "cliponaxis": False,
                "constraintext": "none", "increasing": {"marker": {"color": GREEN}},
                "decreasing": {"marker": {"color": VERMILION}}, "totals": {"marker": {"color": BLUE}},
                "connector": {"line": {"color": GREY, "width": 1}},
                "hovertemplate": "%{x}: %{delta:,.2f}<extra></extra>",
            }
        ],
        layout={"yaxis": {"tickformat": "~s"}, "hovermode": "closest", "shapes": [level(0)]},
    )  # fmt: skip


def multiples_chart(multiples: Sequence[float], returns: Sequence[float]) -> Chart:
    """Draw the total return at multiples of the costs."""
    names = [f"{plain(multiple)}×" for multiple in multiples]
    told = [percent(value, signed=True) for value in returns]
    return Chart(
        name="multiples",
        title="Had costs been higher or lower",
        unit="total return",
        caption="The same target weights, traded again at multiples of the cost of trading; funding and liquidation "
        "fees stay as they are.",
        alt="; ".join(f"at {name} {text}" for name, text in zip(names, told, strict=True)) + ".",
        traces=[
            {
                "type": "bar", "x": names, "y": values(returns), "text": told, "textposition": "outside",
                "cliponaxis": False, "constraintext": "none", "hoverinfo": "skip",
                "marker": {"color": [BLUE if multiple == 1 else faint(BLUE, 0.55) for multiple in multiples]},
            }
        ],
        layout={"bargap": 0.5, "yaxis": {"tickformat": "~%"}, "hovermode": False, "shapes": [level(0)]},
    )  # fmt: skip
