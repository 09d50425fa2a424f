"""What the charts show, as numbers: drawdowns, returns by month, rolling figures, outcomes by forecast."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.interval import DAY_MS

Timestamps = NDArray[np.int64]

_NUM_GROUPS = 10
_MIN_GROUP = 10  # forecasts in a group, below which its mean says nothing
_NUM_CLUSTERS = 40
_MAX_PERIODS = 80
_WINDOW_DAYS = (365, 90, 30, 7)
_MIN_WINDOWS = 3
_PERIODS = {"day": "D", "week": "W", "month": "M", "quarter": "Q", "year": "Y"}


class Curve(NamedTuple):
    """Equity (T,) at the close of the bars that open at `timestamps` (T,); at least one."""

    timestamps: Timestamps
    equity: Floats


class Group(NamedTuple):
    """Forecasts of similar size, and what came of them. Log returns over the horizon."""

    mean_forecast: float
    mean_outcome: float
    error: float
    """Standard error of the mean outcome, clustered in time; NaN where there is one cluster only."""
    num_pairs: int


class Dip(NamedTuple):
    """A stretch of bars below an earlier peak of equity; times are the bars', in ms."""

    depth: float
    """Lowest equity over the peak, less one."""
    peak_ms: int
    lowest_ms: int
    recovered_ms: int | None
    """When equity was back at the peak; None where it was not."""


def drawdown(equity_T: Floats) -> Floats:
    """Return equity over its highest so far, minus one: 0 at a new high, -1 at ruin."""
    return equity_T / np.maximum.accumulate(equity_T) - 1


def deepest_dips(curve: Curve, most: int = 5) -> list[Dip]:
    """Return the deepest stretches below an earlier peak, deepest first; at most `most`."""
    depth_T = drawdown(curve.equity)
    below_T = np.concatenate([[False], depth_T < 0, [False]])
    first_D, past_D = np.flatnonzero(np.diff(below_T.astype(np.int8))).reshape(-1, 2).T
    dips = []
    for first, past in zip(first_D, past_D, strict=True):
        lowest = first + int(np.argmin(depth_T[first:past]))
        back = int(curve.timestamps[past]) if past < len(depth_T) else None
        dips.append(Dip(float(depth_T[lowest]), int(curve.timestamps[first - 1]), int(curve.timestamps[lowest]), back))
    return sorted(dips)[:most]


def rolling_window_days(timestamps: Timestamps) -> int | None:
    """Return the longest window, of those in use, that the period holds at least three times; None where none is."""
    days = (timestamps[-1] - timestamps[0]) / DAY_MS
    return next((window for window in _WINDOW_DAYS if days >= _MIN_WINDOWS * window), None)


def rolling_sharpe(curve: Curve, window_bars: int, bars_per_year: float) -> Curve:
    """Return the annualised Sharpe ratio of the last `window_bars` returns, at each bar that has as many.

    NaN where equity did not move.
    """
    returns = pd.Series(curve.equity[1:] / curve.equity[:-1] - 1).rolling(window_bars)
    deviation_T = returns.std().to_numpy()[window_bars - 1 :]
    mean_T = returns.mean().to_numpy()[window_bars - 1 :]
    flat_T = ~(deviation_T > 1e-12)
    ratio_T = np.where(flat_T, np.nan, mean_T / np.where(flat_T, 1.0, deviation_T)) * math.sqrt(bars_per_year)
    return Curve(curve.timestamps[window_bars:], ratio_T)


class PeriodSums(NamedTuple):
    """Sums over periods of time."""

    period: str
    """`day`, `week`, `month`, `quarter` or `year`."""
    starts_ms: Timestamps
    """(P,) when each begins."""
    ends_ms: Timestamps
    """(P,) when each ends: the moment before the next one."""
    sums: Floats
    """(P,)."""


def period_sums(timestamps: Timestamps, values_T: Floats) -> PeriodSums:
    """Return the sums of `values_T` by day, week, month, quarter or year, whichever first makes at most 80 of them."""
    times = pd.to_datetime(timestamps, unit="ms")
    for name in _PERIODS:
        periods_T = pd.PeriodIndex(times.to_period(_PERIODS[name]))
        periods_P = periods_T.unique()  # in order, as times are
        if len(periods_P) <= _MAX_PERIODS:
            break
    starts_P, ends_P = (moments.as_unit("ms").asi8 for moments in (periods_P.start_time, periods_P.end_time))
    place_T = np.searchsorted(periods_P.asi8, periods_T.asi8)
    return PeriodSums(name, starts_P, ends_P, np.bincount(place_T, weights=values_T).astype(np.float64))


def monthly_returns(curve: Curve) -> tuple[list[int], Floats, Floats]:
    """Return the years (Y), the simple return of each of their months (Y, 12), NaN without a bar, and of each year (Y).

    A bar belongs to the month in which it opens. A month runs from the last bar before it to its own last bar.
    """
    month_T = curve.timestamps.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
    last_rows = np.append(np.flatnonzero(np.diff(month_T)), len(month_T) - 1)
    growth = curve.equity[last_rows] / np.append(curve.equity[0], curve.equity[last_rows[:-1]])
    months = month_T[last_rows]
    first_year, last_year = months[0] // 12, months[-1] // 12
    growth_YM = np.full((last_year - first_year + 1, 12), np.nan)
    growth_YM[months // 12 - first_year, months % 12] = growth
    annual_Y = np.where(np.isfinite(growth_YM).any(axis=1), np.nanprod(growth_YM, axis=1), np.nan)
    return list(range(1970 + first_year, 1970 + last_year + 1)), growth_YM - 1, annual_Y - 1


def group_outcomes(forecasts_TA: Floats, outcomes_TA: Floats) -> list[Group]:
    """Return tenths of the forecasts, lowest first, with what came of them; all assets pooled.

    Rows are in order of time; pairs with a NaN don't count. There are fewer than ten groups where forecasts are few
    or many are equal, and none without a pair. Errors are clustered by stretches of time, a fortieth of the rows each,
    because horizons overlap and assets move together.
    """
    time_P, asset_P = np.nonzero(np.isfinite(forecasts_TA) & np.isfinite(outcomes_TA))
    forecast_P, outcome_P = forecasts_TA[time_P, asset_P], outcomes_TA[time_P, asset_P]
    cluster_P = time_P * _NUM_CLUSTERS // max(1, len(forecasts_TA))
    num_groups = max(1, min(_NUM_GROUPS, len(forecast_P) // _MIN_GROUP))
    borders = np.quantile(forecast_P, np.arange(1, num_groups) / num_groups) if len(forecast_P) else np.empty(0)
    group_P = np.searchsorted(np.unique(borders), forecast_P)
    groups = []
    for number in np.unique(group_P):
        chosen_P = group_P == number
        outcome = outcome_P[chosen_P]
        error = clustered_error(outcome, cluster_P[chosen_P])
        groups.append(Group(float(forecast_P[chosen_P].mean()), float(outcome.mean()), error, len(outcome)))
    return groups


def clustered_error(values: Floats, clusters: NDArray[np.int64]) -> float:
    """Return the standard error of the mean of values that depend on each other within a cluster; NaN for one cluster.

    √(G / (G - 1) · Σ_g (Σ_i∈g (x_i - x̄))²) / n: Liang & Zeger (1986), for a mean.
    """
    names, positions = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        return math.nan
    sums = np.bincount(positions, weights=values - values.mean())
    return math.sqrt(len(names) / (len(names) - 1) * float(sums @ sums)) / len(values)
