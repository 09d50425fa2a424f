"""Made-up bars and panels for tests of what stands on them."""

from pathlib import Path

import numpy as np
import pandas as pd

from flashtrader.interval import Interval
from flashtrader.market.store import Series, Span, Store
from flashtrader.panel.panel import Panel

HOUR_MS = 3_600_000


def random_panel(
    num_rows: int, num_assets: int = 2, num_features: int = 3, seed: int = 0, breaks: tuple[int, ...] = ()
) -> Panel:
    """Return a panel of noise; a long outage lies before each row of `breaks`."""
    generator = np.random.default_rng(seed)
    hours = np.arange(num_rows) + 100 * np.isin(np.arange(num_rows), breaks).cumsum()
    symbols = tuple(f"S{asset}" for asset in range(num_assets))
    mask = generator.random((num_rows, num_assets)) > 0.02
    values = generator.normal(size=(num_rows, num_assets, num_features)).astype(np.float32)
    return Panel(
        timestamps=hours.astype(np.int64) * HOUR_MS,
        interval=Interval("60"),
        symbols=symbols,
        feature_names=tuple(f"f{feature}" for feature in range(num_features)),
        values=np.where(mask[..., None], values, np.float32(0)),
        mask=mask,
        targets=generator.normal(scale=0.01, size=(num_rows, num_assets)).astype(np.float32),
        target_names=symbols,
        target_entities=np.arange(num_assets),
        symbol_targets=np.arange(num_assets),
        run_starts=np.array([0, *breaks], dtype=np.int64),
    )


def random_bars(num_bars: int, seed: int = 0, first_hour: int = 0) -> pd.DataFrame:
    """Return hourly bars of a random walk; a longer one of the same seed begins with the same bars."""
    generator = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(generator.normal(scale=0.01, size=num_bars)))
    open_ = np.concatenate([[100.0], close[:-1]])
    return pd.DataFrame(
        {
            "timestamp": (first_hour + np.arange(num_bars, dtype=np.int64)) * HOUR_MS,
            "open": open_,
            "high": np.maximum(open_, close) * 1.001,
            "low": np.minimum(open_, close) * 0.999,
            "close": close,
            "volume": np.random.default_rng([seed, 1]).lognormal(size=num_bars),
        }
    )


def store_bars(data_dir: Path, symbol: str, bars: pd.DataFrame, source: str = "file") -> None:
    """Store hourly bars as if a source had answered for their whole time."""
    times = bars["timestamp"]
    answered = Span(int(times.iloc[0]), int(times.iloc[-1]) + HOUR_MS)
    Store(data_dir).append(Series(source, symbol, Interval("60")), bars, answered)
