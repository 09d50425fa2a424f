"""How good forecasts of the next candle were: each feature in three spaces, beside persistence; and their intervals.

A candle is open, high, low and close in currency, and volume: arrays (T, 5) in this order, C = 5. Row i of every array
belongs to the decision at bar i: this candle, the forecast of the next one, and the next one as it came.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.forecasting.scores import long_run_error
from flashtrader.market.bars import PRICES
from flashtrader.panel.candles import CLOSE, VOLUME, log_candles

Space = Literal["z", "price", "return"]

FEATURES = (*PRICES, "volume")
BAND_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of a rollout's paths: the outer and the inner two bound 90 % and 50 % of them."""


@dataclass(frozen=True)
class Errors:
    """Errors f − a of forecasts f of what came, a; NaN where a measure is not defined."""

    mse: float
    rmse: float
    mae: float
    mape: float
    """Mean of |f − a| / |a|, rows with a = 0 left out. It explodes where a comes near zero, so it says something of
    prices and volumes in their own units, and little of z-scores and returns."""
    r2: float
    """1 − Σ(f − a)² / Σ(a − mean a)²; NaN where a is constant."""


@dataclass(frozen=True)
class FeatureScore:
    """Forecasts of one feature of the next candle beside persistence, on the same rows.

    Persistence repeats this candle; in return space, whose zero is this candle's close, it is no change.
    """

    space: Space
    feature: str
    bars: int
    model: Errors
    persistence: Errors
    mse_skill: float
    """1 − MSE / MSE of persistence: 0 is no better, negative worse."""
    mse_skill_error: float
    """Its standard error, autocorrelation allowed for."""
    mae_skill: float
    """1 − MAE / MAE of persistence."""
    mae_skill_error: float


@dataclass(frozen=True, eq=False)
class CandleScaler:
    """Mean and standard deviation (C,) of log prices and of log(1 + volume) over the training bars."""

    mean_C: Floats
    std_C: Floats

    def z(self, candles_TC: Floats) -> Floats:
        """Return candles (T, C) in deviations from the training mean."""
        return (log_candles(candles_TC) - self.mean_C) / self.std_C


@dataclass(frozen=True)
class Calibration:
    """Forecast distributions of one feature of the next candle, on the log scale."""

    feature: str
    bars: int
    coverage_50: float
    """Share of bars inside the central 50 % interval of their forecast."""
    coverage_80: float
    coverage_95: float
    crps: float
    """Mean continuous ranked probability score: an absolute error that a whole distribution can have."""
    training_crps: float
    """Of the reference, which forecasts the moves of all training bars at every bar."""
    crps_skill: float
    """1 − CRPS / CRPS of the reference."""
    crps_skill_error: float
    """Its standard error, autocorrelation allowed for."""


@dataclass(frozen=True)
class BandScore:
    """Quantile bands of one feature's rollouts: shares of their steps at which what came lay inside.

    The standard errors take each rollout as one observation.
    """

    feature: str
    rollouts: int
    coverage_50: float
    coverage_50_error: float
    coverage_90: float
    coverage_90_error: float


def score_candles(this_TC: Floats, forecast_TC: Floats, next_TC: Floats, scaler: CandleScaler) -> list[FeatureScore]:
    """Return the score of each feature in each space; a row where anything is NaN does not count.

    z: log prices and log(1 + volume) in deviations from the training mean. price: currency, and volume as it is.
    return: log change of each price against this close, and of 1 + volume against this volume.
    """
    known_T = np.isfinite(this_TC).all(axis=1) & np.isfinite(forecast_TC).all(axis=1) & np.isfinite(next_TC).all(axis=1)
    this, forecast, came = this_TC[known_T], forecast_TC[known_T], next_TC[known_T]
    held_TC = held_logs(this)
    spaces: dict[Space, tuple[Floats, Floats, Floats]] = {
        "z": (scaler.z(forecast), scaler.z(came), scaler.z(this)),
        "price": (forecast, came, this),
        "return": (log_candles(forecast) - held_TC, log_candles(came) - held_TC, np.zeros_like(held_TC)),
    }
    return [
        _score(space, feature, ours_TC[:, column], came_TC[:, column], persistence_TC[:, column])
        for space, (ours_TC, came_TC, persistence_TC) in spaces.items()
        for column, feature in enumerate(FEATURES)
    ]


def held_logs(candles_TC: Floats) -> Floats:
    """Return the logarithms of candles that stay at these candles' close, with their volume: no change."""
    logs_TC = log_candles(candles_TC)
    return logs_TC[:, [CLOSE] * VOLUME + [VOLUME]]


def mean_errors(errors: list[Errors]) -> Errors:
    """Return the mean of each measure over features, as articles print it; NaN where one of them has none."""
    return Errors(
        *(float(np.mean([getattr(one, name) for one in errors])) for name in ("mse", "rmse", "mae", "mape", "r2"))
    )


def errors_of(forecast_T: Floats, came_T: Floats) -> Errors:
    """Return the errors of a series of forecasts; all NaN without a row."""
    if not len(came_T):
        return Errors(*[math.nan] * 5)
    error_T = forecast_T - came_T
    mse = float(np.square(error_T).mean())
    moved_T = came_T != 0
    spread = float(np.square(came_T - came_T.mean()).mean())
    return Errors(
        mse=mse,
        rmse=math.sqrt(mse),
        mae=float(np.abs(error_T).mean()),
        mape=float(np.abs(error_T[moved_T] / came_T[moved_T]).mean()) if moved_T.any() else math.nan,
        r2=1 - mse / spread if spread > 0 else math.nan,
    )


def skill(loss_T: Floats, reference_T: Floats) -> tuple[float, float]:
    """Return 1 − mean loss / mean reference loss, and its standard error; NaN where the reference has no loss.

    Delta method on the ratio's influence function, with the long-run variance of Newey & West (1987) over the lags of
    their rule of 1994, 4 (T / 100)^(2/9): losses of neighbouring bars come in clusters.
    """
    if not len(loss_T) or not reference_T.any():
        return math.nan, math.nan
    ratio = float(loss_T.mean() / reference_T.mean())
    influence_T = (loss_T - ratio * reference_T) / reference_T.mean()
    return 1 - ratio, long_run_error(influence_T, lags=math.floor(4 * (len(loss_T) / 100) ** (2 / 9)))


def _score(space: Space, feature: str, ours_T: Floats, came_T: Floats, persistence_T: Floats) -> FeatureScore:
    ours_error_T, persistence_error_T = np.abs(ours_T - came_T), np.abs(persistence_T - came_T)
    return FeatureScore(
        space,
        feature,
        len(came_T),
        errors_of(ours_T, came_T),
        errors_of(persistence_T, came_T),
        *skill(np.square(ours_error_T), np.square(persistence_error_T)),
        *skill(ours_error_T, persistence_error_T),
    )


def calibrate(pit_TC: Floats, crps_TC: Floats, reference_crps_TC: Floats) -> list[Calibration]:
    """Return each feature's calibration from its bars' ranks and CRPS (T, C), and the reference's CRPS."""
    return [
        Calibration(
            feature,
            len(pit_TC),
            central_coverage(pit_TC[:, column], 0.5),
            central_coverage(pit_TC[:, column], 0.8),
            central_coverage(pit_TC[:, column], 0.95),
            float(crps_TC[:, column].mean()),
            float(reference_crps_TC[:, column].mean()),
            *skill(crps_TC[:, column], reference_crps_TC[:, column]),
        )
        for column, feature in enumerate(FEATURES)
    ]


def ranks(draws_STC: Floats, came_TC: Floats, generator: np.random.Generator) -> Floats:
    """Return (T, C): the forecast distribution's probability of at most what came, by the draws from it.

    Uniform where the forecasts are calibrated: the rank is drawn from the share of draws between those below and those
    above what came, ties included. Czado, Gneiting & Held (2009), section 2.
    """
    below_TC, ties_TC = (draws_STC < came_TC).sum(axis=0), (draws_STC == came_TC).sum(axis=0)
    ranks_TC: Floats = (below_TC + generator.random(came_TC.shape) * (ties_TC + 1)) / (len(draws_STC) + 1)
    return ranks_TC


def score_bands(ranks_NHC: Floats) -> list[BandScore]:
    """Return how often what came lay within the bands of N rollouts over H steps.

    ranks_NHC: of what came among each rollout's paths, NaN at a step without a bar, which does not count. By ranks a
    band holds its share of calibrated steps for any number of paths, which their quantiles do not.
    """
    scores = []
    for column, feature in enumerate(FEATURES):
        ranks_NH = ranks_NHC[..., column]
        distance_NH, known_NH = np.abs(ranks_NH - 0.5), np.isfinite(ranks_NH)
        scores.append(
            BandScore(
                feature,
                int(known_NH.any(axis=1).sum()),
                *_share_of_steps(distance_NH <= 0.25, known_NH),
                *_share_of_steps(distance_NH <= 0.45, known_NH),
            )
        )
    return scores


def _share_of_steps(inside_NH: NDArray[np.bool_], known_NH: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the share of known steps inside, and its standard error: steps of one rollout go together, rollouts don't.

    The error of a ratio of sums over clusters, here rollouts: Cochran (1977), Sampling Techniques, section 2.11.
    """
    inside_N, known_N = inside_NH.sum(axis=1), known_NH.sum(axis=1)
    num_rollouts = int((known_N > 0).sum())
    if not num_rollouts:
        return math.nan, math.nan
    share = float(inside_N.sum() / known_N.sum())
    if num_rollouts == 1:
        return share, math.nan
    residual_N = inside_N - share * known_N
    factor = num_rollouts / (num_rollouts - 1)
    return share, math.sqrt(factor * float(residual_N @ residual_N)) / float(known_N.sum())


def central_coverage(pit_T: Floats, level: float) -> float:
    """Return the share of outcomes inside the central interval of their forecasts; NaN without one."""
    return float((np.abs(pit_T - 0.5) <= level / 2).mean()) if len(pit_T) else math.nan


def crps(draws_STC: Floats, came_TC: Floats) -> Floats:
    """Return (T, C) the continuous ranked probability score, E|X − y| − E|X − X'| / 2, of at least two draws.

    Gneiting & Raftery (2007), equation 21, with the estimate of E|X − X'| that does not depend on the number of draws:
    Ferro (2014).
    """
    num_draws = len(draws_STC)
    weights_S = 2 * np.arange(num_draws) - num_draws + 1
    error_STC = np.sort(draws_STC - came_TC, axis=0)  # around 0: nothing is left of draws that are all alike
    spread_TC = np.tensordot(weights_S, error_STC, axes=1) / (num_draws * (num_draws - 1))
    score_TC: Floats = np.abs(error_STC).mean(axis=0) - spread_TC
    return score_TC
