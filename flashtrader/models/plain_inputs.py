"""What the plain models look at: an asset's features at a few lags, or its closes before the newest."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.panel.closes import PricedPanel
from flashtrader.panel.scaling import Scaler
from flashtrader.panel.splits import Rows

LAGS = (0, 1, 4, 16, 64, 256)


class Inputs(Protocol):
    """A model's inputs of one asset."""

    width: int
    """I, how many there are at a row."""

    def __call__(self, priced: PricedPanel, rows: Rows, asset: int) -> NDArray[np.floating]:
        """Return the inputs (rows, I) at each row, from that row and earlier ones alone."""


class LaggedFeatures:
    """An asset's standardised features and, of several assets, their mean over all: now and at `LAGS` in the context.

    As in the transformers, a feature is limited to ±clip deviations, and is 0, its mean, where it is unknown: without a
    bar, and before the run begins.
    """

    def __init__(self, scaler: Scaler, clip: float, context_bars: int) -> None:
        self._scaler, self._clip = scaler, np.float32(clip)
        self._lags_L = np.array([lag for lag in LAGS if lag < context_bars])
        assets, features = scaler.feature_mean.shape
        self.width = len(self._lags_L) * features * (1 if assets == 1 else 2)

    def __call__(self, priced: PricedPanel, rows: Rows, asset: int) -> NDArray[np.float32]:
        """Return (rows, L · G), G being F of one asset and 2 F of several."""
        panel = priced.panel
        first = max(0, rows.start - int(self._lags_L[-1]))
        mask_TE = panel.mask[first : rows.stop]
        scaled_TEF = (panel.values[first : rows.stop] - self._scaler.feature_mean) / self._scaler.feature_std
        scaled_TEF = np.where(mask_TE[..., None], scaled_TEF.clip(-self._clip, self._clip), np.float32(0))
        seen_TG = scaled_TEF[:, asset]
        if len(panel.symbols) > 1:
            present_T1 = mask_TE.sum(axis=1, dtype=np.float32)[:, None]
            seen_TG = np.concatenate((seen_TG, scaled_TEF.sum(axis=1) / np.maximum(present_T1, 1)), axis=1)
        earlier_RL = np.arange(rows.start, rows.stop)[:, None] - self._lags_L
        inside_RL = self._lags_L <= panel.rows_into_run(rows.start, rows.stop)[:, None]
        lagged_RLG: NDArray[np.float32] = seen_TG[np.maximum(earlier_RL - first, 0)] * inside_RL[..., None]
        return lagged_RLG.reshape(len(rows), -1)


class CloseWindow:
    """Closes of an asset, each as the log move to it from the newest, in the target's standard deviation.

    Less its newest value a window does not know the level of the price, as in the NLinear of Zeng et al. (2023).
    """

    def __init__(self, target_std_K: NDArray[np.float32], lags_L: NDArray[np.int64]) -> None:
        self._target_std_K, self._lags_L = target_std_K, lags_L
        self.width = len(lags_L)

    def __call__(self, priced: PricedPanel, rows: Rows, asset: int) -> Floats:
        """Return (rows, L)."""
        return priced.moves(rows, asset, self._lags_L) / np.float64(self._target_std_K[asset])
