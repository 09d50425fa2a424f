"""The steps of a backtest: the clock that all assets share, the price of a fill, and what lies between two fills."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.interval import DAY_MS, Interval
from flashtrader.market.funding import FundingHistory

FUNDING_HOURS = 8
_FUNDING_MS = FUNDING_HOURS * DAY_MS // 24


class FillPrices(NamedTuple):
    """At what price, and when, a decision is carried out."""

    prices_TA: Floats
    """NaN where the asset can't be traded."""
    times_T: NDArray[np.int64]
    """When each row of prices is traded, in UTC milliseconds."""


def union_clock(bars: Iterable[pd.DataFrame]) -> NDArray[np.int64]:
    """Return the opening times at which any asset has a bar, sorted and unique."""
    return np.unique(np.concatenate([table["timestamp"].to_numpy(np.int64) for table in bars]))


def fill_prices(
    bars: Mapping[str, pd.DataFrame],
    symbols: Sequence[str],
    clock_T: NDArray[np.int64],
    interval: Interval,
    fill: Literal["next_open", "close"],
) -> FillPrices:
    """Return the price at which a decision made at each bar of the clock is filled.

    `next_open` is the open of the clock's next bar, so the newest bar has no row. `close` is the decision bar's own
    close. Assets are joined by time: one without a bar there has no price.
    """
    column = "open" if fill == "next_open" else "close"
    prices_TA = np.full((len(clock_T), len(symbols)), np.nan)
    for a, symbol in enumerate(symbols):
        rows = np.searchsorted(clock_T, bars[symbol]["timestamp"].to_numpy(np.int64))
        prices_TA[rows, a] = bars[symbol][column].to_numpy(np.float64)
    if fill == "next_open":
        return FillPrices(prices_TA[1:], clock_T[1:])
    return FillPrices(prices_TA, interval.close(clock_T))


def extremes(
    bars: Mapping[str, pd.DataFrame], symbols: Sequence[str], clock_T: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Return the low and high of each bar of the clock, (T, A) each; NaN where an asset has no bar.

    They are what lies between a decision's fill and the one before it, at either kind of fill: the bar that closes with
    the decision opened when the one before was filled.
    """
    low_TA, high_TA = (np.full((len(clock_T), len(symbols)), np.nan) for _ in range(2))
    for a, symbol in enumerate(symbols):
        rows = np.searchsorted(clock_T, bars[symbol]["timestamp"].to_numpy(np.int64))
        low_TA[rows, a] = bars[symbol]["low"].to_numpy(np.float64)
        high_TA[rows, a] = bars[symbol]["high"].to_numpy(np.float64)
    return low_TA, high_TA


def settled_funding(funding: Mapping[str, FundingHistory], symbols: Sequence[str], fills: FillPrices) -> Floats:
    """Return the rates that longs of each asset pay at each step, (T, A): of the settlements since the step before.

    A step pays for those of its own time too; the first pays none, for nothing was held before it. Raises DataError
    where a settlement may be missing between an asset's first price and its last.
    """
    rates_TA = np.zeros(fills.prices_TA.shape)
    for a, symbol in enumerate(symbols):
        priced = np.flatnonzero(np.isfinite(fills.prices_TA[:, a]))
        if len(priced):
            first_ms, last_ms = (int(fills.times_T[step]) for step in priced[[0, -1]])
            settled = funding[symbol].during(first_ms, last_ms)
            steps = np.searchsorted(fills.times_T, settled["timestamp"].to_numpy(np.int64))
            np.add.at(rates_TA[:, a], steps, settled["rate"].to_numpy(np.float64))
    return rates_TA


def constant_funding(times_T: NDArray[np.int64], rate: float) -> Floats:
    """Return the rate that longs pay at each step, shape (T, 1), when every settlement charges `rate`.

    Perpetuals settle at 00:00, 08:00 and 16:00 UTC; a step pays for the settlements since the step before it, its own
    time included.
    """
    settlements_T = times_T // _FUNDING_MS
    return rate * np.diff(settlements_T, prepend=settlements_T[:1])[:, None].astype(np.float64)
