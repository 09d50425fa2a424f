"""How good forecasts were: beside persistence, and with errors that know that horizons overlap."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.training.correlation import information_coefficient


@dataclass(frozen=True)
class Score:
    """Skill of one market's forecasts of log returns over a horizon.

    `ic` is the Pearson correlation of forecast and outcome, `ic_error` its standard error with overlapping horizons
    allowed for, `ic_stride_mean` the mean over the strides that do not overlap. `r2` and `skill` are against
    forecasting no change (persistence of the price): 0 is no better, and negative worse.
    """

    symbol: str
    bars: int
    ic: float
    ic_error: float
    ic_stride_mean: float
    rank_ic: float
    r2: float
    rmse: float
    mae: float
    skill: float
    """1 − MAE / MAE of persistence."""
    direction: float
    """Share of bars whose sign was right, of those where forecast and outcome have one."""


@dataclass(frozen=True)
class MeanScore:
    """The means over the markets of what `Score` says of each; markets without a figure do not count."""

    ic: float
    ic_error: float
    """Standard error of the mean: markets that move together are no independent samples."""
    r2: float
    skill: float
    direction: float


def score_forecasts(forecasts: pd.DataFrame, outcomes: pd.DataFrame, horizon_bars: int) -> list[Score]:
    """Return the score of each column; bars without forecast or outcome do not count.

    forecasts, outcomes: index `time`, a column per symbol, log return over the horizon; joined by time.
    """
    outcomes = outcomes.reindex(forecasts.index)
    return [
        _score(str(symbol), forecasts[symbol].to_numpy(), outcomes[symbol].to_numpy(), horizon_bars)
        for symbol in forecasts.columns
    ]


def mean_score(forecasts: pd.DataFrame, outcomes: pd.DataFrame, horizon_bars: int) -> MeanScore:
    """Return the mean score of the columns of `score_forecasts`."""
    outcomes = outcomes.reindex(forecasts.index)
    scores = score_forecasts(forecasts, outcomes, horizon_bars)
    pair = forecasts.to_numpy(np.float64), outcomes[list(forecasts.columns)].to_numpy(np.float64)
    return MeanScore(
        ic=_mean([score.ic for score in scores]),
        ic_error=correlation_error(*pair, horizon_bars),
        r2=_mean([score.r2 for score in scores]),
        skill=_mean([score.skill for score in scores]),
        direction=_mean([score.direction for score in scores]),
    )


def _mean(figures: list[float]) -> float:
    known = [figure for figure in figures if math.isfinite(figure)]
    return sum(known) / len(known) if known else math.nan


def _score(symbol: str, forecast: Floats, outcome: Floats, horizon_bars: int) -> Score:
    both = np.isfinite(forecast) & np.isfinite(outcome)
    strides = [
        _correlation(forecast[offset::horizon_bars], outcome[offset::horizon_bars]) for offset in range(horizon_bars)
    ]
    forecast, outcome = forecast[both], outcome[both]
    if len(outcome) == 0:
        return Score(symbol, 0, *[math.nan] * 9)
    error = forecast - outcome
    signed = (forecast != 0) & (outcome != 0)
    return Score(
        symbol=symbol,
        bars=len(outcome),
        ic=_correlation(forecast, outcome),
        ic_error=correlation_error(forecast[:, None], outcome[:, None], horizon_bars),
        ic_stride_mean=float(np.nanmean(strides)) if np.isfinite(strides).any() else math.nan,
        rank_ic=_correlation(_ranks(forecast), _ranks(outcome)),
        r2=1 - _ratio(np.square(error).sum(), np.square(outcome).sum()),
        rmse=float(np.sqrt(np.square(error).mean())),
        mae=float(np.abs(error).mean()),
        skill=1 - _ratio(np.abs(error).sum(), np.abs(outcome).sum()),
        direction=float((np.sign(forecast[signed]) == np.sign(outcome[signed])).mean()) if signed.any() else math.nan,
    )


def correlation_error(forecasts_TK: Floats, outcomes_TK: Floats, horizon_bars: int) -> float:
    """Return the standard error of the mean over the markets of the correlation over time, NaN where there is none.

    The larger of two. One is estimated from the products of forecast and outcome, by the delta method: the mean over
    the markets of the influences xy − ρ(x² + y²)/2 of standardised x and y. The other is what the error is where
    forecasts know nothing (Bartlett 1935): there the autocorrelations of outcomes over h bars need no estimate, being
    1 − lag / h, and those of the forecasts, so weighed, are left. With few horizons in the sample the first alone calls
    noise a signal several times too often. Bars without forecast or outcome add nothing to either.
    """
    known_TK = np.isfinite(forecasts_TK) & np.isfinite(outcomes_TK)
    markets = [
        (_standardised(forecast_T, known_T), _standardised(outcome_T, known_T), known_T)
        for forecast_T, outcome_T, known_T in zip(forecasts_TK.T, outcomes_TK.T, known_TK.T, strict=True)
        if known_T.sum() > 2 and forecast_T[known_T].std() and outcome_T[known_T].std()
    ]
    if not markets:
        return math.nan
    x_TK, y_TK, counted_TK = (np.stack(columns, axis=1) for columns in zip(*markets, strict=True))
    bars_K = counted_TK.sum(axis=0)
    weight_K = len(counted_TK) / bars_K / len(bars_K)
    influence_TK = x_TK * y_TK - (x_TK * y_TK).sum(axis=0) / bars_K * (x_TK**2 + y_TK**2) / 2
    # Markets that move together: the forecasts, turned to what is independent in the outcomes.
    unit_TK = y_TK / np.sqrt(bars_K)
    variances_K, turn_KK = np.linalg.eigh(unit_TK.T @ unit_TK)
    turned_TK = (x_TK * weight_K) @ turn_KK * np.sqrt(variances_K.clip(0))
    of_noise = math.hypot(*(long_run_error(turned_T, horizon_bars - 1) for turned_T in turned_TK.T))
    return max(horizon_error(influence_TK @ weight_K, horizon_bars), of_noise)


def _standardised(values_T: Floats, known_T: NDArray[np.bool_]) -> Floats:
    """Return the known values in deviations from their mean, 0 elsewhere."""
    known = values_T[known_T]
    return np.where(known_T, (values_T - known.mean()) / known.std(), 0.0)


def horizon_error(influence_T: Floats, horizon_bars: int) -> float:
    """Return the standard error of the mean of a series around zero that looks `horizon_bars` ahead at every bar.

    Hansen & Hodrick (1980), Forward Exchange Rates as Optimal Predictors of Future Spot Rates: autocovariances up to
    h − 1, all of one weight, because without skill there are none beyond. Weights that fall with the lag would leave
    out a third of what overlapping horizons add. Where the sum is not positive, they stand in: Newey & West (1987).
    """
    variance = float(influence_T @ influence_T)
    for lag in range(1, min(horizon_bars, len(influence_T))):
        variance += 2 * float(influence_T[lag:] @ influence_T[:-lag])
    if variance <= 0:
        return long_run_error(influence_T, horizon_bars - 1)
    return math.sqrt(variance) / len(influence_T)


def long_run_error(influence_T: Floats, lags: int) -> float:
    """Return the standard error of the mean of a series around zero whose values are correlated up to `lags` bars.

    Newey & West (1987), equation 5.
    """
    variance = float(influence_T @ influence_T)
    for lag in range(1, min(lags, len(influence_T) - 1) + 1):
        variance += 2 * (1 - lag / (lags + 1)) * float(influence_T[lag:] @ influence_T[:-lag])
    return math.sqrt(max(variance, 0.0)) / len(influence_T)


def _correlation(forecast: Floats, outcome: Floats) -> float:
    return float(information_coefficient(forecast[:, None], outcome[:, None])[0])


def _ranks(values: Floats) -> Floats:
    return np.asarray(pd.Series(values).rank(), dtype=np.float64)


def _ratio(ours: float, reference: float) -> float:
    return float(ours / reference) if reference else math.nan
