"""Many candles ahead: a candle model that reads its own forecasts, along the point forecast and along sample paths."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.config import Experiment
from flashtrader.errors import ConfigError, DataError
from flashtrader.interval import Interval
from flashtrader.market.bars import COLUMNS, Bars, resample
from flashtrader.market.spans import iso_time
from flashtrader.models.cache import KeyValueCache
from flashtrader.models.candles import CandleModel, NextShape
from flashtrader.models.model import GridModel
from flashtrader.models.precision import autocast, device_of
from flashtrader.models.stream import answer, check_finite, chunk_length, forecasts_of
from flashtrader.panel.candles import (
    MOVES_FROM,
    NUM_COLUMNS,
    candles_of,
    log_candles,
    merge_candles,
    next_candles,
    next_candles_of_shape,
)
from flashtrader.panel.features import History, expand_features, find_features
from flashtrader.panel.loading import LoadedPanel
from flashtrader.panel.panel import Panel

ROLLABLE = expand_features(["candle", "candle_moves", "calendar"])
"""Features that need no more than a candle, the one before it, and its time."""


@dataclass(frozen=True, eq=False)
class Rollout:
    """Candles that a model made up, each from those before it. Columns: open, high, low, close, volume."""

    decision_ms: int
    """Opening time of the last bar that there was."""
    timestamps: NDArray[np.int64]
    """(H,) opening times of the bars that follow it."""
    point: Floats
    """(H, 5) along the point forecast."""
    paths: Floats
    """(N, H, 5) drawn from the predictive distribution, candle by candle."""

    def quantiles(self, levels: Sequence[float]) -> Floats:
        """Return the quantiles over the paths (levels, H, 5), of each bar and column for itself."""
        return np.quantile(self.paths, levels, axis=0)


def rollout(
    experiment: Experiment, model: GridModel, loaded: LoadedPanel, row: int, num_bars: int, num_paths: int, seed: int
) -> Rollout:
    """Return the `num_bars` candles that a candle model makes up after a row of its panel, reading each as it comes.

    The history up to the row is read once; the point path and all sample paths go on from the same memory. The same
    seed draws the same paths. A longer candle of `panel.multiscale` is renewed when it closes within a path.

    Raises ConfigError for a feature that can't be told of a made-up candle, and for sample paths of a model without a
    distribution; DataError for a row at which there is no forecast.
    """
    ((bars,), panel) = (loaded.tables.values(), loaded.panel)
    candle_model = _able(experiment, model, panel, num_paths)
    history, interval = bars.iloc[: row + 1], Interval(experiment.data.interval)
    decision_ms = int(panel.timestamps[row])
    timestamps = interval.opening(interval.index(np.array([decision_ms])) + 1 + np.arange(num_bars))
    tokens = [
        _Token(history, timestamps, interval, to, experiment.panel.max_gap_bars)
        for to in (interval, *map(Interval, experiment.panel.multiscale))
    ]
    columns = [ROLLABLE.index(name) for name in panel.feature_names]
    generator = np.random.default_rng(seed)

    with autocast(experiment.training, device_of(model)):
        answers_KP, past = _read_history(candle_model, panel, row, experiment.warmup_bars)
        past = past.repeat(1 + num_paths)
        answers_NKP, values_NEF, mask_NE, newest_N5 = (
            np.repeat(array[None], 1 + num_paths, axis=0)
            for array in (answers_KP, panel.values[row], panel.mask[row], candles_of(history.iloc[-1:])[0])
        )
        candles_NH5 = np.empty((1 + num_paths, num_bars, NUM_COLUMNS))
        for step in range(num_bars):
            newest_N5[:1] = point_next_candles(candle_model, answers_NKP[:1], newest_N5[:1])
            if num_paths:
                newest_N5[1:] = sample_next_candles(candle_model, answers_NKP[1:], newest_N5[1:], generator)
            candles_NH5[:, step] = newest_N5
            for entity, token in enumerate(tokens):
                renewed = token.renewed(candles_NH5[:, : step + 1])
                if renewed is not None:
                    known = np.isfinite(renewed[:, columns]).all()
                    values_NEF[:, entity] = renewed[:, columns] if known else 0.0
                    mask_NE[:, entity] = known
            if step + 1 < num_bars:
                answers_NKP = answer(model, values_NEF[:, None], mask_NE[:, None], past)[:, 0]
                check_finite(answers_NKP, timestamps[[step]].repeat(1 + num_paths))
    return Rollout(decision_ms=decision_ms, timestamps=timestamps, point=candles_NH5[0], paths=candles_NH5[1:])


def point_next_candles(model: CandleModel, answers_RKP: NDArray[np.float32], candles_R5: Floats) -> Floats:
    """Return the candles (R, 5) that a model's answers at `candles_R5` forecast."""
    changes = forecasts_of(model, answers_RKP)[:, :NUM_COLUMNS].astype(np.float64)
    return next_candles(candles_R5, changes)


@torch.inference_mode()
def sample_next_candles(
    model: CandleModel, answers_RKP: NDArray[np.float32], candles_R5: Floats, generator: np.random.Generator
) -> Floats:
    """Return candles (R, 5) that may follow `candles_R5`, one drawn from the distribution in each of a model's answers.

    A draw is limited to `panel.clip` standard deviations either way, as features are: the exponential of a Student-t,
    which a wick is, has no mean.
    """
    tie_logits, student_t = NextShape.of(torch.from_numpy(answers_RKP[:, NUM_COLUMNS:]).double())
    location, scale, degrees = (array.numpy() for array in (student_t.loc, student_t.scale, student_t.df))
    clip = model.standardiser.clip
    drawn = np.clip(location + scale * generator.standard_t(degrees), -clip, clip)
    drawn[generator.random(drawn.shape) < tie_logits.sigmoid().numpy()] = 0.0
    deviations = model.standardiser.target_std[NUM_COLUMNS:].double().cpu().numpy()
    return next_candles_of_shape(candles_R5, deviations * drawn)


def _able(experiment: Experiment, model: GridModel, panel: Panel, num_paths: int) -> CandleModel:
    """Return the model as one that can be rolled out. Raises ConfigError when it can't be."""
    if not isinstance(model, CandleModel):
        raise ConfigError(f"model.family: {experiment.model.family} forecasts no candles; roll out a run of candles")
    unknown = [name for name in panel.feature_names if name not in ROLLABLE]
    if unknown:
        raise ConfigError(
            f"panel.features: {', '.join(unknown)} can't be told of made-up candles; candle, candle_moves and calendar "
            "can, and a run with no other features can be rolled out"
        )
    if num_paths and not model.learns_shape:
        raise ConfigError(
            "model.distribution: a model that learned points alone has no sample paths; train with student_t, or "
            "leave --paths out"
        )
    return model


def _read_history(
    model: CandleModel, panel: Panel, row: int, warmup_bars: int
) -> tuple[NDArray[np.float32], KeyValueCache]:
    """Return the answer (K, P) at the row, and what the model remembers then. Raises DataError without a forecast."""
    if not panel.forecast_due(row, row + 1, warmup_bars).all():
        raise DataError(
            f"{panel.symbols[0]}: no forecast at {iso_time(int(panel.timestamps[row]))}: it needs {warmup_bars} bars "
            "before it without an outage; choose another bar, or fetch more"
        )
    begin = max(row - int(panel.rows_into_run(row, row + 1)[0]), row - model.decoder.receptive_bars)
    past, chunk_bars = model.decoder.new_cache(), chunk_length(model.decoder.shape.context_bars)
    for start in range(begin, row + 1, chunk_bars):
        rows = slice(start, min(start + chunk_bars, row + 1))
        answers_TKP = answer(model, panel.values[None, rows], panel.mask[None, rows], past)[0]
    check_finite(answers_TKP, panel.timestamps[rows])
    return answers_TKP[-1], past


class _Token:
    """The newest closed candle of one interval along every path, as the model reads it.

    As in the panel, a longer candle is renewed when its last bar closes, unless too many of its bars are missing.
    """

    def __init__(
        self, history: Bars, timestamps: NDArray[np.int64], interval: Interval, to: Interval, max_gap_bars: int
    ) -> None:
        self._timestamps, self._to, self._max_gap_bars = timestamps, to, max_gap_bars
        longer = resample(history, interval, to, max_gap_bars)
        closed = longer[to.close(longer["timestamp"].to_numpy()) <= timestamps[0]].iloc[-1:]
        self._before_ms, self._before_logs = closed["timestamp"].to_numpy(), log_candles(candles_of(closed))

        begun = history.loc[history["timestamp"] >= to.floor(int(timestamps[0])), list(COLUMNS)]
        self._begun = candles_of(begun)
        made_up = pd.DataFrame({"timestamp": timestamps} | dict.fromkeys(COLUMNS[1:], 1.0))
        whole = resample(pd.concat([begun, made_up]), interval, to, max_gap_bars)["timestamp"].to_numpy()
        self._opening_of_close = dict(zip(to.close(whole).tolist(), whole.tolist(), strict=True))
        self._closes = interval.close(timestamps).tolist()

    def renewed(self, candles_NS5: Floats) -> Floats | None:
        """Return the ROLLABLE features (N, 14) if a candle closes with the newest of those made up, else None."""
        opening_ms = self._opening_of_close.get(self._closes[candles_NS5.shape[1] - 1])
        if opening_ms is None:
            return None
        first = int(np.searchsorted(self._timestamps, opening_ms))
        begun_P5 = self._begun if first == 0 else self._begun[:0]
        begun_NP5 = np.broadcast_to(begun_P5, (len(candles_NS5), *begun_P5.shape))
        logs = log_candles(merge_candles(np.concatenate([begun_NP5, candles_NS5[:, first:]], axis=1)))

        numbers = self._to.index(np.append(self._before_ms, opening_ms))
        follows = len(numbers) == 2 and numbers[1] - numbers[0] - 1 <= self._max_gap_bars
        before = self._before_logs if follows else np.full((1, NUM_COLUMNS), np.nan)
        self._before_ms, self._before_logs = np.array([opening_ms]), logs
        return np.hstack([logs, logs - before[:, MOVES_FROM], np.repeat(_calendar(opening_ms), len(logs), axis=0)])


def _calendar(opening_ms: int) -> Floats:
    """Return the calendar features (1, 4) of a bar."""
    history = History(pd.DataFrame({"timestamp": [opening_ms]}), np.zeros(1, np.int64))
    return np.stack([feature(history) for feature in find_features(["calendar"]).values()], axis=1)
