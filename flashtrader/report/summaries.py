"""What the pictures show, as numbers: drawdown, returns by month, outcomes by forecast."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Timestamps = NDArray[np.int64]

_NUM_GROUPS = 10
_MIN_GROUP = 10  # forecasts in a group, below which its mean says nothing
_NUM_CLUSTERS = 40


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


def drawdown(equity_T: Floats) -> Floats:
    """Return equity over its highest so far, minus one: 0 at a new high, -1 at ruin."""
    return equity_T / np.maximum.accumulate(equity_T) - 1


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


def pooled_correlation(forecasts_TA: Floats, outcomes_TA: Floats) -> float:
    """Return the Pearson correlation over all pairs without a NaN; NaN where either does not vary."""
    both_TA = np.isfinite(forecasts_TA) & np.isfinite(outcomes_TA)
    forecast_P, outcome_P = forecasts_TA[both_TA], outcomes_TA[both_TA]
    if len(forecast_P) < 3 or not np.ptp(forecast_P) > 0 or not np.ptp(outcome_P) > 0:
        return math.nan
    return float(np.corrcoef(forecast_P, outcome_P)[0, 1])


def clustered_error(values: Floats, clusters: NDArray[np.int64]) -> float:
    """Return the standard error of the mean of values that depend on each other within a cluster; NaN for one cluster.

    √(G / (G - 1) · Σ_g (Σ_i∈g (x_i - x̄))²) / n: Liang & Zeger (1986), for a mean.
    """
    names, positions = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        return math.nan
    sums = np.bincount(positions, weights=values - values.mean())
    return math.sqrt(len(names) / (len(names) - 1) * float(sums @ sums)) / len(values)
