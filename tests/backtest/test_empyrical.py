"""Our figures beside those of empyrical-reloaded, an independent implementation, on the definitions that both share.

They differ in three things: empyrical's drawdown is negative, its ratio over a deviation of zero is infinite or NaN by
the sign of the mean where ours is NaN, and it makes a year's growth of any history, however short.
"""

import math

import empyrical
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flashtrader.backtest import metrics

HOURS, WEEKS = 8_760, 52


def drawn(lowest_ppm: int, highest_ppm: int) -> st.SearchStrategy[NDArray[np.float64]]:
    """Draw returns in whole parts per million: an equity curve tells any two of them apart."""
    return st.lists(st.integers(lowest_ppm, highest_ppm), min_size=2, max_size=200).map(lambda ppm: np.array(ppm) / 1e6)


random, losing, gaining = drawn(-30_000, 30_000), drawn(-30_000, -1), drawn(1, 30_000)
flat = st.integers(2, 100).map(np.zeros)
any_returns = st.one_of(random, losing, gaining, flat)


def equity(returns_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the curve that earns these returns: one bar longer."""
    return 100 * np.cumprod(np.append(1.0, 1 + returns_T))


def near(theirs: float, rounding: float = 1e-12) -> object:
    return pytest.approx(theirs, rel=1e-9, abs=rounding, nan_ok=True)


@given(any_returns)
def test_total_return_and_volatility(returns_T) -> None:
    curve_T = equity(returns_T)
    np.testing.assert_allclose(metrics.simple_returns(curve_T), returns_T, atol=1e-12)
    assert metrics.total_return(curve_T) == near(empyrical.cum_returns_final(returns_T))
    theirs = empyrical.annual_volatility(returns_T, annualization=HOURS)
    assert metrics.annual_volatility(returns_T, HOURS) == near(theirs)


@given(any_returns)
def test_the_yearly_growth(returns_T) -> None:
    # By the week: an hour's 3 % compounds past every number in a year, where ours is NaN and theirs overflows.
    theirs = empyrical.annual_return(returns_T, annualization=WEEKS)
    assert metrics.annual_return(equity(returns_T), WEEKS) == near(theirs)


@given(any_returns)
def test_the_largest_drawdown_is_positive_here_and_negative_there(returns_T) -> None:
    assert metrics.max_drawdown(equity(returns_T)) == near(-empyrical.max_drawdown(returns_T))


@given(any_returns)
def test_growth_over_the_largest_drawdown(returns_T) -> None:
    curve_T = equity(returns_T)
    ours = metrics.calmar(metrics.annual_return(curve_T, WEEKS), metrics.max_drawdown(curve_T))
    # Both are differences from 1: the rounding of the growth is divided by a drawdown of as little as a millionth.
    assert ours == near(empyrical.calmar_ratio(returns_T, annualization=WEEKS), rounding=1e-7)


@given(any_returns)
def test_the_sharpe_ratio_of_equal_returns_is_nan_here_and_may_be_infinite_there(returns_T) -> None:
    ours = metrics.sharpe(returns_T, HOURS)
    theirs = empyrical.sharpe_ratio(returns_T, annualization=HOURS)
    if np.ptp(returns_T):
        assert ours == near(theirs)
    else:
        assert math.isnan(ours)
        assert not math.isfinite(theirs)


@given(any_returns)
def test_the_sortino_ratio_without_a_loss_is_nan_here_and_may_be_infinite_there(returns_T) -> None:
    ours = metrics.sortino(returns_T, HOURS)
    theirs = empyrical.sortino_ratio(returns_T, annualization=HOURS)
    if (returns_T < 0).any():
        assert ours == near(theirs)
    else:
        assert math.isnan(ours)
        assert not math.isfinite(theirs)


def test_a_history_of_five_thousand_hours_has_every_figure() -> None:
    returns_T = np.random.default_rng(0).normal(0.0001, 0.01, 5_000)
    curve_T = equity(returns_T)
    annual = metrics.annual_return(curve_T, HOURS)
    ours = {
        "annual_return": annual,
        "annual_volatility": metrics.annual_volatility(returns_T, HOURS),
        "sharpe_ratio": metrics.sharpe(returns_T, HOURS),
        "sortino_ratio": metrics.sortino(returns_T, HOURS),
        "calmar_ratio": metrics.calmar(annual, metrics.max_drawdown(curve_T)),
    }
    theirs = {name: getattr(empyrical, name)(returns_T, annualization=HOURS) for name in ours}
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert np.isfinite(list(ours.values())).all()
