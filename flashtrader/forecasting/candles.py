"""What a candle model answered → the next candle at every bar, how good it was, and rollouts of many."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.errors import ConfigError
from flashtrader.forecasting.candle_scores import (
    BAND_LEVELS,
    FEATURES,
    BandScore,
    Calibration,
    CandleScaler,
    FeatureScore,
    calibrate,
    crps,
    held_logs,
    ranks,
    score_bands,
    score_candles,
)
from flashtrader.forecasting.forecast import Answers, Forecasts, tabulate
from flashtrader.forecasting.rollout import Rollout, point_next_candles, rollout, sample_next_candles
from flashtrader.market.spans import iso_time
from flashtrader.models.candles import CandleModel
from flashtrader.panel.candles import CLOSE, NUM_COLUMNS, candles_of, log_candles
from flashtrader.panel.splits import split_at

_NUM_DRAWS = 100
_NUM_CHECK_PATHS = 50
_ROWS_AT_ONCE = 4_096


@dataclass(frozen=True, eq=False)
class CandleForecasts:
    """The next candle at every decision bar, T of them; NaN where there is no forecast, or nothing came yet."""

    answers: Answers
    timestamps: NDArray[np.int64]
    """Opening times (T,) of the decision bars."""
    this_TC: Floats
    forecast_TC: Floats
    next_TC: Floats
    scores: list[FeatureScore]
    pit_RC: Floats
    """Rank of what came in its forecast distribution, at the R bars that were scored; R = 0 without a distribution."""
    calibration: list[Calibration]
    """Of each feature; empty without a distribution."""

    @property
    def close(self) -> Forecasts:
        """The log change of the close, as any family's forecast of a market."""
        return tabulate(self.answers)

    @property
    def candles(self) -> pd.DataFrame:
        """Index `time` (the decision bar's opening time, UTC), and the forecast of the candle that follows it."""
        times = pd.to_datetime(self.timestamps, unit="ms", utc=True).rename("time")
        return pd.DataFrame(self.forecast_TC, index=times, columns=list(FEATURES))


def forecast_candles(answers: Answers) -> CandleForecasts:
    """Return the candle after each bar that a run's model forecasts, and its scores."""
    rows, outputs_TKP, panel = answers.rows, answers.outputs_RKP, answers.loaded.panel
    candles = _stored_candles(answers)
    following = np.append(candles[1:], np.full((1, NUM_COLUMNS), np.nan), axis=0)
    following[np.isnan(panel.targets[:, CLOSE])] = np.nan
    this_TC, next_TC = candles[rows.start : rows.stop], following[rows.start : rows.stop]
    answered_T = np.isfinite(outputs_TKP).all(axis=(1, 2))
    forecast_TC = np.full_like(this_TC, np.nan)
    forecast_TC[answered_T] = point_next_candles(_candle_model(answers), outputs_TKP[answered_T], this_TC[answered_T])
    standardiser = answers.model.standardiser
    mean_C, std_C = (
        statistic_EF[0, :NUM_COLUMNS].double().cpu().numpy()
        for statistic_EF in (standardiser.feature_mean, standardiser.feature_std)
    )
    scored_T = answered_T & np.isfinite(next_TC).all(axis=1)
    pit_RC, calibration = _calibrate(answers, scored_T, this_TC[scored_T], next_TC[scored_T])
    return CandleForecasts(
        answers=answers,
        timestamps=panel.timestamps[rows.start : rows.stop],
        this_TC=this_TC,
        forecast_TC=forecast_TC,
        next_TC=next_TC,
        scores=score_candles(this_TC, forecast_TC, next_TC, CandleScaler(mean_C, std_C)),
        pit_RC=pit_RC,
        calibration=calibration,
    )


def _calibrate(
    answers: Answers, scored_T: NDArray[np.bool_], this_RC: Floats, next_RC: Floats
) -> tuple[Floats, list[Calibration]]:
    """Return the ranks of what came, and each feature's calibration; nothing without a distribution or a scored bar."""
    model, outputs_RKP = _candle_model(answers), answers.outputs_RKP[scored_T]
    if not model.learns_shape or not len(this_RC):
        return np.empty((0, NUM_COLUMNS)), []
    moves_SC = _training_moves(answers)
    generator = np.random.default_rng(answers.run.experiment.training.seed)
    pit, scores, reference_scores = [], [], []
    for start in range(0, len(this_RC), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        draws = [sample_next_candles(model, outputs_RKP[part], this_RC[part], generator) for _ in range(_NUM_DRAWS)]
        draws_SRC, came_RC = log_candles(np.stack(draws)), log_candles(next_RC[part])
        pit.append(ranks(draws_SRC, came_RC, generator))
        scores.append(crps(draws_SRC, came_RC))
        reference_scores.append(crps(held_logs(this_RC[part]) + moves_SC[:, None], came_RC))
    return np.concatenate(pit), calibrate(np.concatenate(pit), np.concatenate(scores), np.concatenate(reference_scores))


def _training_moves(answers: Answers) -> Floats:
    """Return evenly spaced quantiles (S, C) of the training bars' moves from one close; NaN if none is stored here."""
    train = split_at(answers.loaded.panel, answers.run.read_manifest().split).train
    known = np.flatnonzero(np.isfinite(answers.loaded.panel.targets[train.start : train.stop, CLOSE])) + train.start
    if not len(known):
        return np.full((_NUM_DRAWS, NUM_COLUMNS), np.nan)
    candles = _stored_candles(answers)
    moves = log_candles(candles[known + 1]) - held_logs(candles[known])
    quantiles: Floats = np.quantile(moves, (np.arange(_NUM_DRAWS) + 0.5) / _NUM_DRAWS, axis=0)
    return quantiles


def _candle_model(answers: Answers) -> CandleModel:
    assert isinstance(answers.model, CandleModel), "of another family"
    return answers.model


def _stored_candles(answers: Answers) -> Floats:
    (bars,) = answers.loaded.tables.values()
    return candles_of(bars)


@dataclass(frozen=True, eq=False)
class RolledOut:
    """A rollout beside what came."""

    rollout: Rollout
    row: int
    """Of the panel, the decision bar's."""
    came_HC: Floats
    """The stored candles at the generated bars; NaN where there is none."""

    @property
    def decision(self) -> pd.Timestamp:
        """Opening time of the newest bar that was seen, UTC."""
        return pd.Timestamp(self.rollout.decision_ms, unit="ms", tz="UTC")

    @property
    def bands(self) -> Floats:
        """Quantiles (Q, H, C) at BAND_LEVELS of the sample paths; Q = 0 without them."""
        if not len(self.rollout.paths):
            return np.empty((0, *self.came_HC.shape))
        return self.rollout.quantiles(BAND_LEVELS)

    @property
    def table(self) -> pd.DataFrame:
        """Index `time` (a generated bar's opening time, UTC), `step` from 1, each feature's point path and quantiles.

        Columns `open` … `volume`, and `open_q05` … where there are sample paths.
        """
        rollout = self.rollout
        times = pd.to_datetime(rollout.timestamps, unit="ms", utc=True).rename("time")
        columns: dict[str, NDArray[np.generic]] = {"step": np.arange(1, len(times) + 1)}
        columns |= {feature: rollout.point[:, column] for column, feature in enumerate(FEATURES)}
        columns |= {
            f"{feature}_q{round(100 * level):02d}": band_HC[:, column]
            for column, feature in enumerate(FEATURES)
            for level, band_HC in zip(BAND_LEVELS, self.bands, strict=False)
        }
        return pd.DataFrame(columns, index=times)


def roll_out(made: CandleForecasts, num_bars: int, num_paths: int, decision_ms: int | None) -> RolledOut:
    """Roll out from the newest bar that opens at or before `decision_ms`, or the newest of all.

    Raises ConfigError for a time before the first stored bar, and as `rollout` does.
    """
    timestamps = made.answers.loaded.panel.timestamps
    if decision_ms is None:
        decision_ms = int(timestamps[-1])
    row = int(np.searchsorted(timestamps, decision_ms, side="right")) - 1
    if row < 0:
        first = iso_time(int(timestamps[0]))
        raise ConfigError(f"--from: no bar opens by {iso_time(decision_ms)}; give a time from {first} on")
    return _roll_out(made.answers, row, num_bars, num_paths)


def check_bands(made: CandleForecasts, num_bars: int, num_rollouts: int) -> list[BandScore]:
    """Return how often what came lay within the bands of rollouts from bars spread evenly over the forecast ones.

    As many as there are stretches that don't overlap; nothing where no forecast bar has `num_bars` stored after it.
    """
    answers = made.answers
    forecast_rows = answers.rows.start + np.flatnonzero(np.isfinite(made.forecast_TC).all(axis=1))
    rows = forecast_rows[forecast_rows + num_bars < len(answers.loaded.panel.timestamps)]
    num_rollouts = min(num_rollouts, -(-len(rows) // num_bars))
    chosen = rows[np.linspace(0, len(rows) - 1, num_rollouts).astype(np.int64)]
    generator = np.random.default_rng(answers.run.experiment.training.seed)
    pit_NHC = []
    for row in chosen.tolist():
        rolled = _roll_out(answers, row, num_bars, _NUM_CHECK_PATHS)
        there_H1 = np.isfinite(rolled.came_HC).all(axis=1, keepdims=True)
        pit_NHC.append(np.where(there_H1, ranks(rolled.rollout.paths, rolled.came_HC, generator), np.nan))
    return score_bands(np.stack(pit_NHC)) if pit_NHC else []


def _roll_out(answers: Answers, row: int, num_bars: int, num_paths: int) -> RolledOut:
    experiment, timestamps = answers.run.experiment, answers.loaded.panel.timestamps
    made = rollout(experiment, answers.model, answers.loaded, row, num_bars, num_paths, seed=experiment.training.seed)
    rows = np.minimum(np.searchsorted(timestamps, made.timestamps), len(timestamps) - 1)
    there = timestamps[rows] == made.timestamps
    return RolledOut(made, row, np.where(there[:, None], _stored_candles(answers)[rows], np.nan))
