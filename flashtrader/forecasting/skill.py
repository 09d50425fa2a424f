"""Whether forecasts know anything: correlations with errors, over time and across markets, and a test of their losses.

Nothing here loads torch, so that a backtest can say what its forecasts were worth.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtr

from flashtrader.arrays import Floats
from flashtrader.forecasting.scores import correlation_error, horizon_error
from flashtrader.training.correlation import information_coefficient

Loss = Literal["squared", "absolute"]
MIN_CROSS_SECTION = 3


@dataclass(frozen=True)
class Estimate:
    """A figure and how sure it is; NaN where it is not defined."""

    value: float
    error: float
    """Standard error, with overlapping horizons allowed for."""
    interval: tuple[float, float]
    """Of 95 %."""


@dataclass(frozen=True)
class Strides:
    """The same figure on the parts of the bars whose horizons do not overlap: every h-th bar, from each of h starts."""

    count: int
    mean: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class DieboldMariano:
    """A test of whether forecasts lose less than persistence, which forecasts no change."""

    loss: Loss
    statistic: float
    """Positive where the forecasts are better."""
    p_value: float
    """Of a difference this large either way where there is none."""


@dataclass(frozen=True)
class MarketSkill:
    """One market's forecasts."""

    symbol: str
    bars: int
    ic: Estimate
    rank_ic: Estimate
    strides: Strides
    diebold_mariano: tuple[DieboldMariano, ...]


@dataclass(frozen=True)
class PeriodSkill:
    """The forecasts of one month."""

    start: str
    """First day, UTC."""
    bars: int
    ic: float
    """Mean of the markets' correlations in the month."""
    error: float


@dataclass(frozen=True)
class ForecastSkill:
    """What forecasts of log returns over a horizon were worth, over all markets and for each."""

    horizon_bars: int
    bars: int
    """Bars with a forecast and an outcome in any market."""
    ic: Estimate
    """Pearson correlation of forecast and outcome over time: mean over the markets."""
    rank_ic: Estimate
    """Spearman's, likewise."""
    cross_section_ic: Estimate | None
    """Correlation across the markets of one bar, mean over the bars; None for fewer than three markets."""
    strides: Strides
    """Of `ic`."""
    diebold_mariano: tuple[DieboldMariano, ...]
    """Against persistence, on the mean over the markets of the losses in units of persistence's."""
    markets: tuple[MarketSkill, ...]
    months: tuple[PeriodSkill, ...]


def measure_skill(forecasts: pd.DataFrame, outcomes: pd.DataFrame, horizon_bars: int) -> ForecastSkill:
    """Return what forecasts were worth; a bar without forecast or outcome in a market does not count there.

    forecasts, outcomes: index `time`, a column per symbol, log return over the horizon; joined by time.
    """
    outcomes = outcomes.reindex(index=forecasts.index, columns=forecasts.columns)
    forecasts_TK, outcomes_TK = forecasts.to_numpy(np.float64), outcomes.to_numpy(np.float64)
    known_TK = np.isfinite(forecasts_TK) & np.isfinite(outcomes_TK)
    forecasts_TK, outcomes_TK = np.where(known_TK, forecasts_TK, np.nan), np.where(known_TK, outcomes_TK, np.nan)
    ranked = _ranks(forecasts_TK), _ranks(outcomes_TK)
    markets = []
    for k, symbol in enumerate(forecasts.columns):
        of = slice(k, k + 1)
        pair = forecasts_TK[:, of], outcomes_TK[:, of]
        markets.append(
            MarketSkill(
                symbol=str(symbol),
                bars=int(known_TK[:, k].sum()),
                ic=_coefficient(*pair, horizon_bars),
                rank_ic=_coefficient(ranked[0][:, of], ranked[1][:, of], horizon_bars),
                strides=_strides(*pair, horizon_bars),
                diebold_mariano=_diebold_mariano(*pair, horizon_bars),
            )
        )
    return ForecastSkill(
        horizon_bars=horizon_bars,
        bars=int(known_TK.any(axis=1).sum()),
        ic=_coefficient(forecasts_TK, outcomes_TK, horizon_bars),
        rank_ic=_coefficient(*ranked, horizon_bars),
        cross_section_ic=_cross_section(forecasts_TK, outcomes_TK, horizon_bars),
        strides=_strides(forecasts_TK, outcomes_TK, horizon_bars),
        diebold_mariano=_diebold_mariano(forecasts_TK, outcomes_TK, horizon_bars),
        markets=tuple(markets),
        months=_months(forecasts_TK, outcomes_TK, pd.DatetimeIndex(forecasts.index), horizon_bars),
    )


def _coefficient(forecasts_TK: Floats, outcomes_TK: Floats, horizon_bars: int) -> Estimate:
    """Return the mean over the markets of the correlation over time, with the error of that mean."""
    return _estimate(
        _mean(information_coefficient(forecasts_TK, outcomes_TK)),
        correlation_error(forecasts_TK, outcomes_TK, horizon_bars),
    )


def _cross_section(forecasts_TK: Floats, outcomes_TK: Floats, horizon_bars: int) -> Estimate | None:
    """Return the mean over the bars of the correlation across markets; bars with fewer than three do not count."""
    enough_T = (np.isfinite(forecasts_TK) & np.isfinite(outcomes_TK)).sum(axis=1) >= MIN_CROSS_SECTION
    coefficients = information_coefficient(forecasts_TK[enough_T].T, outcomes_TK[enough_T].T)
    coefficients = coefficients[np.isfinite(coefficients)]
    if not len(coefficients):
        return None
    mean = float(coefficients.mean())
    return _estimate(mean, horizon_error(coefficients - mean, horizon_bars))


def _strides(forecasts_TK: Floats, outcomes_TK: Floats, horizon_bars: int) -> Strides:
    means = [
        _mean(information_coefficient(forecasts_TK[start::horizon_bars], outcomes_TK[start::horizon_bars]))
        for start in range(min(horizon_bars, len(forecasts_TK)))
    ]
    known = [mean for mean in means if math.isfinite(mean)]
    if not known:
        return Strides(0, math.nan, math.nan, math.nan)
    return Strides(len(known), sum(known) / len(known), min(known), max(known))


def _diebold_mariano(forecasts_TK: Floats, outcomes_TK: Floats, horizon_bars: int) -> tuple[DieboldMariano, ...]:
    """Return the test for squared and absolute losses, each market's in units of what persistence loses there."""
    tests = []
    losses: dict[Loss, np.ufunc] = {"squared": np.square, "absolute": np.abs}
    for name, loss in losses.items():
        persistence_TK = loss(outcomes_TK)
        gains_TK = persistence_TK - loss(outcomes_TK - forecasts_TK)
        known_T = np.isfinite(gains_TK).any(axis=1)
        if not known_T.any():
            tests.append(DieboldMariano(name, math.nan, math.nan))
            continue
        counted = np.isfinite(gains_TK).any(axis=0)
        scale_K = np.nanmean(persistence_TK[:, counted], axis=0)
        gains_T = np.nanmean(gains_TK[known_T][:, counted] / np.where(scale_K > 0, scale_K, 1.0), axis=1)
        statistic, p_value = diebold_mariano(gains_T, horizon_bars)
        tests.append(DieboldMariano(name, statistic, p_value))
    return tuple(tests)


def diebold_mariano(gains_T: Floats, horizon_bars: int) -> tuple[float, float]:
    """Return statistic and two-sided p-value of a mean gain in loss over h bars, positive where there is a gain.

    Diebold & Mariano (1995), Comparing Predictive Accuracy, with the correction for small samples and the Student-t
    distribution of Harvey, Leybourne & Newbold (1997). NaN where the gains do not vary, or are no more than h.
    """
    num_bars = len(gains_T)
    deviations_T = gains_T - gains_T.mean()
    # Equal gains differ by what rounding leaves.
    if num_bars <= horizon_bars or np.ptp(gains_T) <= 1e-12 * np.abs(gains_T).max():
        return math.nan, math.nan
    h, n = horizon_bars, num_bars
    correction = math.sqrt((n + 1 - 2 * h + h * (h - 1) / n) / n)
    statistic = correction * float(gains_T.mean()) / horizon_error(deviations_T, h)
    return statistic, float(2 * stdtr(n - 1, -abs(statistic)))


def _months(
    forecasts_TK: Floats, outcomes_TK: Floats, time: pd.DatetimeIndex, horizon_bars: int
) -> tuple[PeriodSkill, ...]:
    months = time.tz_localize(None).to_period("M")
    periods = []
    for month in months.unique():
        rows = months == month
        found = _coefficient(forecasts_TK[rows], outcomes_TK[rows], horizon_bars)
        bars = int((np.isfinite(forecasts_TK[rows]) & np.isfinite(outcomes_TK[rows])).any(axis=1).sum())
        periods.append(PeriodSkill(f"{month}-01", bars, found.value, found.error))
    return tuple(periods)


def _estimate(value: float, error: float) -> Estimate:
    reach = float(ndtri(0.975)) * error
    return Estimate(value, error, (value - reach, value + reach))


def _ranks(values_TK: Floats) -> Floats:
    return pd.DataFrame(values_TK).rank().to_numpy(np.float64)


def _mean(figures: Floats) -> float:
    known = figures[np.isfinite(figures)]
    return float(known.mean()) if len(known) else math.nan
