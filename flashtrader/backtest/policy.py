"""Forecasts to target weights.

A row of weights uses the forecasts of its own bar and of those before it, and prices up to its bar's close: nothing
later. What a policy of `flashtrader.config` does comes first, bar by bar; then `hold`, then `volatility_target`.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.backtest.prices import union_clock
from flashtrader.config import Experiment, PolicyConfig, TanhPolicy, ThresholdPolicy, TopKPolicy, WeightsPolicy
from flashtrader.interval import Interval

_VALUES_AT_ONCE = 2**22


def policy_weights(forecasts: pd.DataFrame, bars: Mapping[str, pd.DataFrame], experiment: Experiment) -> pd.DataFrame:
    """Return the fraction of equity to hold in each market, for every forecast, by the experiment's whole policy.

    forecasts: index `time`, a column per symbol, log return over the horizon. bars: a bar table per symbol. The result
    has the forecasts' shape; NaN is no order.
    """
    policy, interval = experiment.policy, Interval(experiment.data.interval)
    weights = target_weights(forecasts, policy)
    if isinstance(policy, WeightsPolicy) or (policy.hold == "decision" and policy.volatility_target is None):
        return weights
    clock_T = union_clock(bars.values())
    decided_at: NDArray[np.int64] = weights.index.as_unit("ms").asi8  # type: ignore[attr-defined]
    rows_T = np.searchsorted(clock_T, decided_at)
    weights_TA = weights.to_numpy(np.float64)
    if policy.hold == "horizon":
        weights_TA = overlapping_weights(weights_TA, rows_T, experiment.panel.target.horizon_bars)
    if policy.volatility_target is not None:
        bar_target = policy.volatility_target / np.sqrt(interval.bars_per_year(experiment.backtest.calendar))
        returns_NA, places_T = _past_returns(bars, weights.columns, clock_T, rows_T, policy.volatility_bars)
        weights_TA = volatility_scaled(weights_TA, returns_NA, places_T, policy.volatility_bars, bar_target)
    return pd.DataFrame(weights_TA, index=weights.index, columns=weights.columns)


def target_weights(forecasts: pd.DataFrame, policy: PolicyConfig) -> pd.DataFrame:
    """Return what a bar's own forecasts ask for, whatever was held before.

    Where there is no forecast (NaN) there is no order (NaN). A row depends on that row alone.
    """
    forecasts_TA = forecasts.to_numpy(np.float64)
    match policy:
        case WeightsPolicy():
            weights_TA = forecasts_TA
        case TanhPolicy():
            weights_TA = policy.max_weight * np.tanh(policy.scale * forecasts_TA)
        case ThresholdPolicy():
            side_TA = (forecasts_TA > policy.long_above).astype(np.float64)
            if policy.short_below is not None:
                side_TA -= forecasts_TA < policy.short_below
            weights_TA = np.where(np.isnan(forecasts_TA), np.nan, policy.weight * side_TA)
        case TopKPolicy():
            weights_TA = _top_k(forecasts_TA, policy)
    return pd.DataFrame(weights_TA, index=forecasts.index, columns=forecasts.columns)


def _top_k(forecasts_TA: Floats, policy: TopKPolicy) -> Floats:
    """Return equal weights of the k highest forecasts of each bar, and unless long_only minus those of the k lowest.

    A market is chosen where fewer than k others have a forecast at least as high: of markets that are tied across the
    border, none is, for nothing tells them apart. With fewer than 2 k forecasts, k is half of them, so that none is on
    both sides; each weight stays that of k markets a side.
    """
    known_TA = ~np.isnan(forecasts_TA)
    sides = 1 if policy.long_only else 2
    k_T1 = np.minimum(policy.k, known_TA.sum(axis=1, keepdims=True) // sides)

    def chosen(scores_TA: Floats) -> Floats:
        """Return 1 for the highest scores; the unknown are the lowest."""
        falling_TA = -np.sort(-np.where(known_TA, scores_TA, -np.inf), axis=1)
        padded_TA = np.pad(falling_TA, ((0, 0), (0, 1)), constant_values=-np.inf)
        next_T1 = np.take_along_axis(padded_TA, k_T1, axis=1)
        return np.where(known_TA & (scores_TA > next_T1), 1.0, 0.0)

    side_TA = chosen(forecasts_TA) - (0 if policy.long_only else chosen(-forecasts_TA))
    return np.where(known_TA, policy.gross / (sides * policy.k) * side_TA, np.nan)


def overlapping_weights(weights_TA: Floats, rows_T: NDArray[np.int64], horizon_bars: int) -> Floats:
    """Return the weights of holding each bar's own for `horizon_bars` bars, with that part of the equity.

    Those at a bar are the sum of the rows of the last `horizon_bars` bars, its own included, over their number. A bar
    without a row, or without a weight, has opened nothing: 0. Jegadeesh and Titman (1993), Returns to Buying Winners
    and Selling Losers.

    rows_T: the row of the clock of each row of weights, increasing. A target's horizon counts these rows too: over a
    weekend on which no market trades, no part of it passes.
    """
    dense_NA = np.zeros((int(rows_T[-1] - rows_T[0]) + horizon_bars, weights_TA.shape[1]))
    places_T = rows_T - rows_T[0] + horizon_bars - 1
    dense_NA[places_T] = np.nan_to_num(weights_TA)
    held_TA = np.zeros_like(weights_TA, dtype=np.float64)
    for age in range(horizon_bars):
        held_TA += dense_NA[places_T - age]
    return held_TA / horizon_bars


def volatility_scaled(
    weights_TA: Floats, returns_NA: Floats, rows_T: NDArray[np.int64], num_bars: int, bar_target: float
) -> Floats:
    """Return each row scaled so that the portfolio it asks for would have had the target volatility of late.

    Its volatility is the root mean square of what these very weights would have returned at each of the last `num_bars`
    bars: √(w' Σ w), with the trailing second moments Σ. Barroso and Santa-Clara (2015), Momentum Has Its Moments,
    scale a strategy by its own trailing volatility; here it is that of the weights at hand, so that a change of
    positions counts at once. An asset with fewer than half of these returns has no order (NaN), and neither has a row
    whose volatility is zero though it asks for something. The backtest caps the result at max_gross.

    returns_NA: simple returns of consecutive bars, NaN where unknown. rows_T: the row of returns_NA of each row of
    weights; before it are at least num_bars − 1 others. bar_target: volatility of one bar.
    """
    windows_NAB = sliding_window_view(np.nan_to_num(returns_NA), num_bars, axis=0)
    known_NA = sliding_window_view(~np.isnan(returns_NA), num_bars, axis=0).sum(axis=-1) >= num_bars / 2
    scaled_TA = np.where(known_NA[rows_T - num_bars + 1], weights_TA, np.nan)
    rows_at_once = max(1, _VALUES_AT_ONCE // windows_NAB[0].size)
    for start in range(0, len(rows_T), rows_at_once):
        part = slice(start, start + rows_at_once)
        weights_RA = np.nan_to_num(scaled_TA[part])
        earned_RB = np.einsum("ra,rab->rb", weights_RA, windows_NAB[rows_T[part] - num_bars + 1])
        volatility_R1 = np.sqrt(np.mean(earned_RB**2, axis=1, keepdims=True))
        asked_R1 = weights_RA.any(axis=1, keepdims=True)
        with np.errstate(divide="ignore"):
            scale_R1 = np.where(asked_R1, bar_target / volatility_R1, 1.0)
        scaled_TA[part] *= np.where(np.isfinite(scale_R1), scale_R1, np.nan)
    return scaled_TA


def _past_returns(
    bars: Mapping[str, pd.DataFrame],
    symbols: pd.Index,
    clock_T: NDArray[np.int64],
    rows_T: NDArray[np.int64],
    num_bars: int,
) -> tuple[Floats, NDArray[np.int64]]:
    """Return simple returns from close to close of every bar that a row looks back on, and each row's place there.

    Neighbours are bars between which the clock has no other, however long no market traded: an engine earns that, too.
    """
    first = int(rows_T[0]) - num_bars + 1
    closes_NA = np.full((int(rows_T[-1]) - first + 2, len(symbols)), np.nan)
    for a, symbol in enumerate(symbols):
        places = np.searchsorted(clock_T, bars[symbol]["timestamp"].to_numpy(np.int64)) - (first - 1)
        inside = (places >= 0) & (places < len(closes_NA))
        closes_NA[places[inside], a] = bars[symbol]["close"].to_numpy(np.float64)[inside]
    return closes_NA[1:] / closes_NA[:-1] - 1, rows_T - first
