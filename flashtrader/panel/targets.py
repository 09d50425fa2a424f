"""What is forecast at the close of every bar."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.interval import Interval
from flashtrader.market.bars import Bars
from flashtrader.panel.outages import stretch_starts


def horizon_log_returns(
    bars: Bars, clock: NDArray[np.int64], interval: Interval, horizon_bars: int, max_gap_bars: int
) -> Floats:
    """Return log(close[i + horizon] / close[i]) of one asset for every row i of the clock (T,).

    clock: (T,) opening times of the panel's rows, every one of the asset's bars among them; the horizon counts these
    rows. NaN where either close is missing, or an outage of the asset longer than `max_gap_bars` lies between.
    """
    log_close = _on_clock(np.log(bars["close"].to_numpy(np.float64)), bars, clock)
    returns = np.full(len(clock), np.nan)
    np.subtract(log_close[horizon_bars:], log_close[:-horizon_bars], out=returns[:-horizon_bars])
    returns[_across_outage(bars, clock, interval, horizon_bars, max_gap_bars)] = np.nan
    return returns


def fill_returns(
    bars: Bars,
    clock: NDArray[np.int64],
    interval: Interval,
    fill: Literal["next_open", "close"],
    max_gap_bars: int,
) -> Floats:
    """Return what one asset earns between the fills of the decisions at rows i and i + 1, for every row i (T,).

    Simple returns, as the backtest's engine earns them: open[i + 2] / open[i + 1] − 1 with `next_open`, and
    close[i + 1] / close[i] − 1 with `close`, on rows of the clock. NaN where either price is missing, or an outage of
    the asset longer than `max_gap_bars` lies between the decision and the later of them.
    """
    column, bought = ("open", 1) if fill == "next_open" else ("close", 0)
    prices, sold = _on_clock(bars[column].to_numpy(np.float64), bars, clock), bought + 1
    returns = np.full(len(clock), np.nan)
    returns[:-sold] = prices[sold:] / prices[bought : len(prices) - 1] - 1
    returns[_across_outage(bars, clock, interval, sold, max_gap_bars)] = np.nan
    return returns


def _on_clock(values: Floats, bars: Bars, clock: NDArray[np.int64]) -> Floats:
    """Return the bars' values at their rows of the clock (T,), NaN at the others."""
    placed = np.full(len(clock), np.nan)
    placed[np.searchsorted(clock, bars["timestamp"].to_numpy())] = values
    return placed


def _across_outage(
    bars: Bars, clock: NDArray[np.int64], interval: Interval, horizon_bars: int, max_gap_bars: int
) -> NDArray[np.bool_]:
    """Return whether an outage of the asset lies between each row of the clock and the one `horizon_bars` on (T,)."""
    timestamps = bars["timestamp"].to_numpy()
    # Number of outages so far, from the first bar after each on: equal at both ends of a horizon that spans none.
    outages = np.zeros(len(clock), np.int32)
    outages[np.searchsorted(clock, timestamps[stretch_starts(timestamps, interval, max_gap_bars)[1:]])] = 1
    np.cumsum(outages, out=outages)
    across = np.zeros(len(clock), np.bool_)
    np.not_equal(outages[horizon_bars:], outages[:-horizon_bars], out=across[:-horizon_bars])
    return across
