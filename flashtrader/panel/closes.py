"""Closing prices on a panel's clock, for models that read prices themselves."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.market.bars import Bars
from flashtrader.panel.outages import stretch_starts
from flashtrader.panel.panel import Panel
from flashtrader.panel.splits import Rows


@dataclass(frozen=True, eq=False)
class PricedPanel:
    """A panel of T rows and A assets, and their closes.

    A hole in the bars holds the close before it. A window that reaches back beyond the asset's last outage, or its
    listing, sees the first close after it.
    """

    panel: Panel
    log_close: Floats
    """(T, A) NaN before the asset's first bar."""
    first_rows: NDArray[np.int64]
    """(T, A) row at which the asset's stretch without an outage began."""

    def moves(self, rows: Rows, asset: int, lags_L: NDArray[np.int64]) -> Floats:
        """Return log(close[i − lag] / close[i]) of one asset at each row i (rows, L)."""
        rows_R1 = np.arange(rows.start, rows.stop)[:, None]
        earlier_RL = np.maximum(rows_R1 - lags_L, self.first_rows[rows.start : rows.stop, asset, None])
        closes_T = self.log_close[:, asset]
        moves_RL: Floats = closes_T[earlier_RL] - closes_T[rows_R1]
        return moves_RL


def price_panel(panel: Panel, bars: Mapping[str, Bars], max_gap_bars: int) -> PricedPanel:
    """Return the panel with the closes of the bars that it was made of."""
    assert panel.interval is not None, "events have no closes"
    shape = (len(panel.timestamps), len(panel.symbols))
    log_close, first_rows = np.full(shape, np.nan), np.zeros(shape, np.int64)
    for asset, symbol in enumerate(panel.symbols):
        timestamps = bars[symbol]["timestamp"].to_numpy()
        rows = np.searchsorted(panel.timestamps, timestamps)
        starts = rows[stretch_starts(timestamps, panel.interval, max_gap_bars)]
        first_rows[starts, asset] = starts
        newest = np.zeros(len(panel.timestamps), np.int64)
        newest[rows] = rows
        closes = np.full(len(panel.timestamps), np.nan)
        closes[rows] = np.log(bars[symbol]["close"].to_numpy(np.float64))
        log_close[:, asset] = closes[np.maximum.accumulate(newest)]
    return PricedPanel(panel, log_close, np.maximum.accumulate(first_rows, axis=0))
