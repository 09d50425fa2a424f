"""Forecasts of bars as they close: the model steps bar by bar, from what its cache remembers."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.forecasting.forecast import load_newest, mean_over_seeds
from flashtrader.interval import Interval
from flashtrader.market.bars import Bars
from flashtrader.market.store import load_bars
from flashtrader.models.model import GridModel
from flashtrader.models.precision import autocast, device_of
from flashtrader.models.stream import Stream, check_finite, chunk_length, forecasts_of
from flashtrader.panel.loading import panel_of
from flashtrader.panel.panel import Panel
from flashtrader.run import Run

# Exchanges publish a closed bar a moment after it closes; a store that others fill is looked at this often.
_PUBLISHED_AFTER_MS = 2_000
_LONGEST_WAIT_S = 15.0


def seconds_to_next_close(interval: Interval, now_ms: int) -> float:
    """Return how long to wait before the store is worth another look."""
    closes_ms = int(interval.close(np.array([now_ms]))[0])
    return min((closes_ms + _PUBLISHED_AFTER_MS - now_ms) / 1_000, _LONGEST_WAIT_S)


class Follower:
    """A trained run that forecasts every stored bar once, in order, whenever `update` finds new ones.

    Of several models, the newest fold's forecast, by their mean over the seeds.

    A forecast equals that of one pass over the whole history: the first update reads as far back as the newest
    forecast can see. A bar is read once every market has it; a market that lags by more than `panel.max_gap_bars` is
    not waited for.
    """

    def __init__(self, run: Run, data_dir: Path) -> None:
        self._experiment, self._data_dir = run.experiment, data_dir
        self._interval = Interval(self._experiment.data.interval)
        self._models = load_newest(run)
        self._streams = [Stream(model) for model in self._models]
        self._read_until_ms: int | None = None

    def update(self) -> pd.DataFrame:
        """Return the forecasts of bars that were stored since the last update, at first of the newest one alone.

        Index `time` (the decision bar's opening time, UTC), a column per symbol, log return over the horizon; NaN for a
        market without the bar, and while a run warms up.
        """
        panel = panel_of(self._experiment, self._complete())
        num_rows = len(panel.timestamps)
        at_first = self._read_until_ms is None
        if self._read_until_ms is None:
            unread = max(int(panel.run_starts[-1]), num_rows - 1 - self._models[0].decoder.receptive_bars)
        else:
            unread = int(np.searchsorted(panel.timestamps, self._read_until_ms, side="right"))
        values_TK = np.full((num_rows - unread, len(panel.target_names)), np.nan)
        chunk_bars = chunk_length(self._models[0].decoder.shape.context_bars)
        run_stops = np.append(panel.run_starts[1:], num_rows)
        for run_start, run_stop in zip(panel.run_starts.tolist(), run_stops.tolist(), strict=True):
            if run_start >= unread:
                self._streams = [Stream(model) for model in self._models]
            for start in range(max(run_start, unread), run_stop, chunk_bars):
                rows = slice(start, min(start + chunk_bars, run_stop))
                forecasts_STK = [
                    self._read(stream, model, panel, rows)
                    for stream, model in zip(self._streams, self._models, strict=True)
                ]
                warm_T1 = np.arange(rows.start, rows.stop)[:, None] >= run_start + self._experiment.warmup_bars
                values_TK[start - unread : rows.stop - unread] = np.where(
                    panel.forecastable[rows] & warm_T1, mean_over_seeds(forecasts_STK), np.nan
                )
        self._read_until_ms = int(panel.timestamps[-1])
        times = pd.to_datetime(panel.timestamps[unread:], unit="ms", utc=True).rename("time")
        table = pd.DataFrame(values_TK[:, panel.symbol_targets], index=times, columns=list(panel.symbols))
        return table.iloc[-1:] if at_first else table

    def _read(self, stream: Stream, model: GridModel, panel: Panel, rows: slice) -> NDArray[np.float32]:
        """Return one model's forecasts at the rows (T, K), which continue what its stream has read."""
        with autocast(self._experiment.training, device_of(model)):
            outputs_TKP = stream.read(panel.values[rows], panel.mask[rows])
        check_finite(outputs_TKP, panel.timestamps[rows])
        return forecasts_of(model, outputs_TKP)

    def _complete(self) -> Mapping[str, Bars]:
        """Return the stored bars up to the last one that is not waited for."""
        without_end = self._experiment.data.model_copy(update={"end": None})
        bars = load_bars(without_end, self._data_dir)
        newest = [int(table["timestamp"].iloc[-1]) for table in bars.values()]
        given_up = self._interval.index(np.array([max(newest)])) - self._experiment.panel.max_gap_bars
        until_ms = max(min(newest), int(self._interval.opening(given_up)[0]))
        return {symbol: table[table["timestamp"] <= until_ms] for symbol, table in bars.items()}
