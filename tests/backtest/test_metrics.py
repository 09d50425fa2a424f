import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashtrader.backtest import metrics
from flashtrader.backtest.engine import simulate
from flashtrader.backtest.metrics import measure
from flashtrader.interval import Interval

HOURS = Interval("60").bars_per_year()
curves = st.lists(st.floats(0.5, 2), min_size=2, max_size=40).map(lambda ratios: 100 * np.cumprod(ratios))


def trade(prices: list[float], weights: list[float], **rules: float):
    free = {"initial_equity": 100.0, "fee_bps": 0.0, "slippage_bps": 0.0, "no_trade_band": 0.0, "max_gross": 10.0}
    return simulate(np.array(prices)[:, None], np.array(weights)[:, None], **free | rules)


def test_an_example_by_hand() -> None:
    # Fully invested at the first of five bars: returns +10 %, -20 %, +25 %, 0; equity 110, 88, 110, 110 after costs of
    # 1 % at the first trade, paid from cash.
    simulation = trade([100, 110, 88, 110, 110], [1, math.nan, math.nan, math.nan, math.nan], fee_bps=100)
    equity = [100, 109, 87, 109, 109]
    np.testing.assert_allclose(simulation.equity_T, equity)
    figures = measure(simulation, bars_per_year=4)
    returns = np.array([9 / 100, -22 / 109, 22 / 87, 0])
    assert figures.final_equity == pytest.approx(109)
    assert figures.total_return == pytest.approx(0.09)
    assert figures.annual_return == pytest.approx(0.09)
    assert figures.annual_volatility == pytest.approx(2 * np.std(returns, ddof=1))
    assert figures.sharpe == pytest.approx(2 * returns.mean() / np.std(returns, ddof=1))
    assert figures.sortino == pytest.approx(2 * returns.mean() / math.sqrt((22 / 109) ** 2 / 4))
    assert figures.max_drawdown == pytest.approx(22 / 109)
    assert figures.max_drawdown_bars == 1
    assert figures.calmar == pytest.approx(0.09 / (22 / 109))
    assert figures.hit_rate == pytest.approx(2 / 3)
    assert figures.profit_factor == pytest.approx((9 / 100 + 22 / 87) / (22 / 109))
    assert figures.turnover == pytest.approx(4 * 1 / 5)
    assert figures.exposure == pytest.approx((100 / 100 + 110 / 109 + 88 / 87 + 110 / 109 + 110 / 109) / 5)
    assert figures.total_cost == pytest.approx(1)
    assert figures.num_trades == 1


def test_doing_nothing_leaves_every_ratio_undefined() -> None:
    figures = measure(trade([1, 2, 3], [0, 0, 0]), HOURS)
    for name in ("sharpe", "sortino", "calmar", "hit_rate", "profit_factor"):
        assert math.isnan(getattr(figures, name)), name
    for name in ("total_return", "annual_return", "annual_volatility", "max_drawdown", "turnover", "exposure"):
        assert getattr(figures, name) == 0, name
    assert figures.max_drawdown_bars == figures.num_trades == 0


def test_one_bar_has_no_returns() -> None:
    figures = measure(trade([1], [1]), HOURS)
    assert figures.total_return == 0
    assert math.isnan(figures.annual_return)
    assert math.isnan(figures.annual_volatility)
    assert math.isnan(figures.sharpe)


def test_hourly_bars_are_annualised_with_the_root_of_8760() -> None:
    returns = np.random.default_rng(0).normal(0, 0.01, 1000)
    daily = metrics.annual_volatility(returns, 1)
    assert metrics.annual_volatility(returns, HOURS) == pytest.approx(daily * math.sqrt(8_760))
    assert metrics.sharpe(returns, HOURS) == pytest.approx(metrics.sharpe(returns, 1) * math.sqrt(8_760))
    assert metrics.sortino(returns, HOURS) == pytest.approx(metrics.sortino(returns, 1) * math.sqrt(8_760))


def test_equal_returns_have_no_sharpe_ratio_though_rounding_tells_them_apart() -> None:
    equity = 100 * 1.01 ** np.arange(50)
    returns = metrics.simple_returns(equity)
    assert np.ptp(returns) > 0
    assert math.isnan(metrics.sharpe(returns, HOURS))


def test_ruin_has_lost_everything() -> None:
    figures = measure(trade([10, 12, 16], [-2, math.nan, math.nan]), HOURS)
    assert figures.final_equity == pytest.approx(-20)
    assert figures.annual_return == -1
    assert figures.max_drawdown == pytest.approx(1.2)
    assert figures.exposure == pytest.approx((2 + 4) / 2)


def test_an_hour_that_compounds_past_every_number_has_no_annual_return() -> None:
    assert math.isnan(metrics.annual_return(np.array([1.0, 2.0]), HOURS))


@given(st.lists(st.floats(0.9, 1.1), min_size=2, max_size=40).map(np.cumprod))
def test_the_annual_return_compounds_to_the_total(equity) -> None:
    years = (len(equity) - 1) / 52
    annual = metrics.annual_return(equity, 52)
    assert (1 + annual) ** years == pytest.approx(1 + metrics.total_return(equity), rel=1e-9)


@given(curves)
def test_drawdowns_agree_with_a_plain_search(equity) -> None:
    pairs = [(equity[i], equity[j]) for i in range(len(equity)) for j in range(i, len(equity))]
    assert metrics.max_drawdown(equity) == pytest.approx(
        max(1 - later / earlier for earlier, later in pairs), abs=1e-12
    )
    longest = under = 0
    for i, value in enumerate(equity):
        under = under + 1 if value < max(equity[: i + 1]) else 0
        longest = max(longest, under)
    assert metrics.max_drawdown_bars(equity) == longest
