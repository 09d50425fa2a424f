from typing import Literal

import numpy as np
import pytest
from random_bars import HOUR_MS, HOURLY, MONDAY_MS, hours_with_holes, random_bars

from flashtrader.backtest.prices import fill_prices, union_clock
from flashtrader.panel.targets import fill_returns, horizon_log_returns

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


@pytest.mark.parametrize("fill", ["next_open", "close"])
def test_a_fill_return_is_what_the_backtest_earns(fill: Literal["next_open", "close"]) -> None:
    bars = {"A": random_bars(hours_with_holes(300), 1), "B": random_bars(np.arange(40, 400), 2)}
    clock = union_clock(bars.values())
    prices_TA = fill_prices(bars, tuple(bars), clock, HOURLY, fill).prices_TA
    for asset, table in enumerate(bars.values()):
        found = fill_returns(table, clock, HOURLY, fill, max_gap_bars=10_000)
        earned = prices_TA[1:, asset] / prices_TA[:-1, asset] - 1
        np.testing.assert_allclose(found[: len(earned)], earned, rtol=0, atol=1e-15)
        assert np.isnan(found[len(earned) :]).all()
        assert 0 < np.isnan(earned).sum() < len(earned) / 2


def test_no_fill_return_spans_an_outage_since_its_decision() -> None:
    """Hours 3 and 4 are missing on the clock itself, and each open is twice the one before."""
    hours = [0, 1, 2, 5, 6, 7]
    bars = random_bars(hours).assign(open=2.0 ** np.arange(6), close=3.0 ** np.arange(6))
    opens, closes = (fill_returns(bars, CLOCK[hours], HOURLY, fill, max_gap_bars=1) for fill in ("next_open", "close"))
    np.testing.assert_array_equal(opens, [1, np.nan, np.nan, 1, np.nan, np.nan])
    np.testing.assert_array_equal(closes, [2, 2, np.nan, 2, 2, np.nan])
