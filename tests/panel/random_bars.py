"""Made-up hourly bars for the panel's tests."""

import numpy as np
import pandas as pd

from flashtrader.config import PanelConfig
from flashtrader.interval import Interval
from flashtrader.panel.panel import Panel, build_panel

HOUR_MS = 3_600_000
HOURLY = Interval("60")
MONDAY_MS = 1_704_067_200_000  # 2024-01-01 00:00 UTC
EVERY_FEATURE = (
    "log_return",
    "volatility_24",
    "range_7",
    "volume_ratio_24",
    "price_ratio_5",
    "rsi_14",
    "rsi_mean_6",
    "calendar",
    "candle",
    "candle_moves",
)


def random_bars(hours: "np.typing.ArrayLike", seed: int = 0) -> pd.DataFrame:
    """Return valid bars that open at these hours after MONDAY_MS: a random walk; one bar in ten has no volume."""
    hours = np.asarray(hours, np.int64)
    generator = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(0.02 * generator.standard_normal(len(hours))))
    open_ = close * np.exp(0.01 * generator.standard_normal(len(hours)))
    return pd.DataFrame(
        {
            "timestamp": MONDAY_MS + HOUR_MS * hours,
            "open": open_,
            "high": np.maximum(open_, close) * np.exp(0.01 * generator.random(len(hours))),
            "low": np.minimum(open_, close) * np.exp(-0.01 * generator.random(len(hours))),
            "close": close,
            "volume": generator.lognormal(3, 2, len(hours)) * (generator.random(len(hours)) > 0.1),
        }
    )


def hours_with_holes(num_bars: int, seed: int = 0) -> "np.typing.NDArray[np.int64]":
    """Return opening hours with missing bars, some of them outages of more than three bars."""
    steps = np.random.default_rng(seed).choice([1, 2, 4, 5, 30], num_bars, p=[0.95, 0.02, 0.01, 0.01, 0.01])
    return np.cumsum(steps)


def small_panel(hours: "np.typing.ArrayLike", horizon_bars: int = 2, seed: int = 0) -> Panel:
    """Return the panel of one asset with one feature that is known at every bar."""
    config = PanelConfig(features=("log_close",), target={"horizon_bars": horizon_bars})
    return build_panel({"A": random_bars(hours, seed)}, HOURLY, config)
