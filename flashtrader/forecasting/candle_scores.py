"""How good forecasts of the next candle were: each feature in three spaces, beside persistence; and their intervals.

A candle is open, high, low and close in currency, and volume: arrays (T, 5) in this order, C = 5. Row i of every array
belongs to the decision at bar i: this candle, the forecast of the next one, and the next one as it came.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from flashtrader.forecasting.scores import long_run_error
from flashtrader.market.bars import PRICES

Floats = NDArray[np.float64]
Space = Literal["z", "price", "return"]

CANDLE = (*PRICES, "volume")
SPACES: tuple[Space, ...] = get_args(Space)
LEVELS = (0.5, 0.8, 0.95)
_CLOSE, _VOLUME = CANDLE.index("close"), CANDLE.index("volume")


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

    mean: Floats
    std: Floats

    @classmethod
    def fit(cls, training_TC: Floats) -> "CandleScaler":
        """Return the scaler of these candles; a constant feature is left at a deviation of 1."""
        logs_TC = log_candles(training_TC)
        std = logs_TC.std(axis=0)
        return cls(logs_TC.mean(axis=0), np.where(std > 0, std, 1.0))

    def z(self, candles_TC: Floats) -> Floats:
        """Return candles (T, C) in deviations from the training mean."""
        return (log_candles(candles_TC) - self.mean) / self.std


def log_candles(candles_TC: Floats) -> Floats:
    """Return log prices and log(1 + volume)."""
    return np.column_stack([np.log(candles_TC[:, :_VOLUME]), np.log1p(candles_TC[:, _VOLUME:])])


def score_candles(this_TC: Floats, forecast_TC: Floats, next_TC: Floats, scaler: CandleScaler) -> list[FeatureScore]:
    """Return the score of each feature in each space; a row where anything is NaN does not count.

    z: log prices and log(1 + volume) in deviations from the training mean. price: currency, and volume as it is.
    return: log change of each price against this close, and of 1 + volume against this volume.
    """
    known_T = np.isfinite(this_TC).all(axis=1) & np.isfinite(forecast_TC).all(axis=1) & np.isfinite(next_TC).all(axis=1)
    this, forecast, came = this_TC[known_T], forecast_TC[known_T], next_TC[known_T]
    logs = log_candles(this)
    base_TC = logs[:, [_CLOSE] * _VOLUME + [_VOLUME]]
    spaces: dict[Space, tuple[Floats, Floats, Floats]] = {
        "z": (scaler.z(forecast), scaler.z(came), scaler.z(this)),
        "price": (forecast, came, this),
        "return": (log_candles(forecast) - base_TC, log_candles(came) - base_TC, np.zeros_like(base_TC)),
    }
    return [
        _score(space, feature, ours_TC[:, column], came_TC[:, column], persistence_TC[:, column])
        for space, (ours_TC, came_TC, persistence_TC) in spaces.items()
        for column, feature in enumerate(CANDLE)
    ]


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


def central_coverage(pit_TC: Floats) -> Floats:
    """Return (levels, C): the share of outcomes inside the central 50, 80 and 95 % intervals of their forecasts.

    pit_TC: the forecast distribution's probability of at most what came (Dawid 1984), NaN where unknown. Of a
    calibrated forecast they are uniform, and the shares are the levels.
    """
    known_TC = np.isfinite(pit_TC)
    distance_TC = np.abs(np.where(known_TC, pit_TC, np.inf) - 0.5)
    inside = np.stack([(distance_TC <= level / 2).sum(axis=0) for level in LEVELS])
    shares = np.full(inside.shape, np.nan)
    np.divide(inside, known_TC.sum(axis=0), out=shares, where=known_TC.any(axis=0))
    return shares
