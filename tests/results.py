"""Backtests for tests, of made-up prices and weights."""

import numpy as np
import pandas as pd

from flashtrader.backtest.result import BacktestResult, run_backtest
from flashtrader.config import BacktestConfig
from flashtrader.interval import Interval

START = pd.Timestamp("2024-01-01", tz="UTC")


def made_result(
    seed: int = 0,
    *,
    num_bars: int = 200,
    symbols: tuple[str, ...] = ("A",),
    start: pd.Timestamp = START,
    edge: float = 0.0,
    drift: float = 0.0,
    **rules: float,
) -> BacktestResult:
    """Return a backtest of random hourly bars; the same seed trades differently on the same prices.

    edge: how much of the next bar's return the weights know, 0 to 1. drift: mean log return of a bar.
    """
    moves = np.random.default_rng(99).normal(drift, 0.01, (num_bars + 1, len(symbols)))
    opens = 100 * np.exp(np.cumsum(moves, axis=0))
    time = pd.date_range(start, periods=num_bars, freq="h", name="time")
    bars = {}
    for a, symbol in enumerate(symbols):
        ends = opens[:-1, a], opens[1:, a]
        bars[symbol] = pd.DataFrame(
            {
                "timestamp": time.as_unit("ms").asi8,
                "open": ends[0],
                "high": np.maximum(*ends),
                "low": np.minimum(*ends),
                "close": ends[1],
                "volume": 1e6,
            }
        )
    # A decision is filled at the next bar's open and earns that bar's move.
    known = np.vstack([moves[2:], np.zeros_like(moves[:1])]) / 0.01
    noise = np.random.default_rng(seed).normal(size=known.shape)
    weights = pd.DataFrame((edge * known + (1 - edge) * noise) / 10, index=time, columns=list(symbols))
    config = BacktestConfig(**{"fee_bps": 0.0, "slippage_bps": 0.0} | rules)  # type: ignore[arg-type]
    return run_backtest(bars, weights, Interval("60"), config)
