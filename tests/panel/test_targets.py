import numpy as np
from random_bars import HOUR_MS, HOURLY, MONDAY_MS, random_bars

from flashtrader.panel.targets import horizon_log_returns

CLOCK = MONDAY_MS + HOUR_MS * np.arange(8)


def returns_of(hours: list[int], prices: list[float], horizon_bars: int, clock: np.ndarray = CLOCK) -> np.ndarray:
    bars = random_bars(hours).assign(close=np.array(prices, float))
    return horizon_log_returns(bars, clock, HOURLY, horizon_bars, max_gap_bars=1)


def test_by_hand() -> None:
    returns = returns_of(list(range(8)), [1, 2, 4, 8, 16, 8, 4, 2], 3)
    np.testing.assert_allclose(returns, np.log(2) * np.array([3, 3, 1, -1, -3, np.nan, np.nan, np.nan]), atol=1e-15)


def test_the_horizon_counts_rows_of_the_clock_not_bars_of_the_asset() -> None:
    returns = returns_of([0, 1, 3, 4, 5, 6, 7], [1, 2, 8, 16, 32, 64, 128], 2)
    np.testing.assert_allclose(returns, np.log(2) * np.array([np.nan, 2, np.nan, 2, 2, 2, np.nan, np.nan]), atol=1e-15)


def test_no_target_spans_an_outage() -> None:
    """Hours 3 and 4 are missing, on the clock's own or only of this asset."""
    hours, prices = [0, 1, 2, 5, 6, 7], [1, 2, 4, 8, 16, 32]
    own = returns_of(hours, prices, 2)
    np.testing.assert_allclose(
        own, np.log(2) * np.array([2, np.nan, np.nan, np.nan, np.nan, 2, np.nan, np.nan]), atol=1e-15
    )
    every = returns_of(hours, prices, 1, clock=CLOCK[hours])
    np.testing.assert_allclose(every, np.log(2) * np.array([1, 1, np.nan, 1, 1, np.nan]), atol=1e-15)


def test_a_horizon_beyond_the_history_is_unknown_everywhere() -> None:
    assert np.isnan(returns_of(list(range(8)), [1] * 8, 8)).all()
    assert np.isnan(returns_of(list(range(8)), [1] * 8, 99)).all()
