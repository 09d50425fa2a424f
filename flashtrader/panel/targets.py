"""What is forecast at the close of every bar."""

import numpy as np
from numpy.typing import NDArray

from flashtrader.interval import Interval
from flashtrader.market.bars import Bars
from flashtrader.panel.outages import stretch_starts


def horizon_log_returns(
    bars: Bars, clock: NDArray[np.int64], interval: Interval, horizon_bars: int, max_gap_bars: int
) -> NDArray[np.float64]:
    """Return log(close[i + horizon] / close[i]) of one asset for every row i of the clock (T,).

    clock: (T,) opening times of the panel's rows, every one of the asset's bars among them; the horizon counts these
    rows. NaN where either close is missing, or an outage of the asset longer than `max_gap_bars` lies between.
    """
    timestamps = bars["timestamp"].to_numpy()
    rows = np.searchsorted(clock, timestamps)
    log_close = np.full(len(clock), np.nan)
    log_close[rows] = np.log(bars["close"].to_numpy(np.float64))
    # Number of outages so far, from the first bar after each on: equal at both ends of a return that spans none.
    outages = np.zeros(len(clock), np.int32)
    outages[rows[stretch_starts(timestamps, interval, max_gap_bars)]] = 1
    np.cumsum(outages, out=outages)

    returns = np.full(len(clock), np.nan)
    np.subtract(log_close[horizon_bars:], log_close[:-horizon_bars], out=returns[:-horizon_bars])
    returns[:-horizon_bars][outages[horizon_bars:] != outages[:-horizon_bars]] = np.nan
    return returns
