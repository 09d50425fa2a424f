"""What an equity curve is worth, in numbers.

All on simple returns of equity, one a bar; annualised with the number of bars in a year of the calendar. What is not
defined, such as the Sharpe ratio of a flat curve, is NaN (null in JSON).
"""

from dataclasses import dataclass

import numpy as np

from flashtrader.arrays import Floats
from flashtrader.backtest.engine import Simulation


@dataclass(frozen=True)
class Metrics:
    """The figures of one backtest. Fractions, not per cent."""

    final_equity: float
    """Equity at the last bar."""
    total_return: float
    """Final over initial equity, less one."""
    annual_return: float
    """Geometric: the yearly growth that compounds to the total return; -1 after ruin."""
    annual_volatility: float
    """Standard deviation of the bars' returns, annualised."""
    sharpe: float
    """Mean over standard deviation of the bars' returns, annualised; no interest is deducted."""
    sortino: float
    """Mean over downside deviation of the bars' returns, annualised."""
    calmar: float
    """Annual return over the largest drawdown."""
    max_drawdown: float
    """Largest loss from a peak, as a positive fraction of it."""
    max_drawdown_bars: int
    """Longest unbroken stretch of bars below an earlier peak."""
    hit_rate: float
    """Share of gains among the bars whose return is not zero."""
    profit_factor: float
    """Sum of the gains over sum of the losses, of the bars' returns."""
    turnover: float
    """Value traded in a year, in multiples of equity."""
    exposure: float
    """Mean of gross holdings over equity, after trading."""
    total_cost: float
    """Fees, spread, slippage and impact paid, in currency; funding and liquidation fees are not among them."""
    num_trades: int
    """Orders that were filled: one an asset and bar at most."""
    liquidations: int
    """Bars in which everything held was liquidated."""


def measure(simulation: Simulation, bars_per_year: float) -> Metrics:
    """Return every figure of a simulation of at least one step."""
    equity_T = simulation.equity_T
    returns_T = simple_returns(equity_T)
    annual = annual_return(equity_T, bars_per_year)
    drawdown = max_drawdown(equity_T)
    return Metrics(
        final_equity=float(equity_T[-1]),
        total_return=total_return(equity_T),
        annual_return=annual,
        annual_volatility=annual_volatility(returns_T, bars_per_year),
        sharpe=sharpe(returns_T, bars_per_year),
        sortino=sortino(returns_T, bars_per_year),
        calmar=calmar(annual, drawdown),
        max_drawdown=drawdown,
        max_drawdown_bars=max_drawdown_bars(equity_T),
        hit_rate=hit_rate(returns_T),
        profit_factor=profit_factor(returns_T),
        turnover=turnover(simulation.volume_T, equity_T, bars_per_year),
        exposure=exposure(simulation.gross_T, equity_T),
        total_cost=float(simulation.cost_T.sum()),
        num_trades=int(np.count_nonzero(simulation.traded_TA)),
        liquidations=int(np.count_nonzero(simulation.liquidated_T)),
    )


def simple_returns(equity_T: Floats) -> Floats:
    """Return equity[i + 1] / equity[i] - 1, shape (T - 1,)."""
    return equity_T[1:] / equity_T[:-1] - 1


def total_return(equity_T: Floats) -> float:
    """Return final over initial equity, less one."""
    return float(equity_T[-1] / equity_T[0] - 1)


def annual_return(equity_T: Floats, bars_per_year: float) -> float:
    """Return the yearly growth that compounds to the total return.

    -1 where equity ended at zero or below; NaN for a single bar, or where a short history compounds past the largest
    number.
    """
    if equity_T[-1] <= 0:
        return -1.0
    if len(equity_T) < 2:
        return np.nan
    log_growth = np.log(equity_T[-1] / equity_T[0]) * bars_per_year / (len(equity_T) - 1)
    return float(np.expm1(log_growth)) if log_growth < np.log(np.finfo(np.float64).max) else np.nan


def annual_volatility(returns_T: Floats, bars_per_year: float) -> float:
    """Return the sample standard deviation, annualised; NaN for fewer than two returns."""
    return float(returns_T.std(ddof=1) * np.sqrt(bars_per_year)) if len(returns_T) > 1 else np.nan


def sharpe(returns_T: Floats, bars_per_year: float) -> float:
    """Return mean over sample standard deviation, annualised; NaN for fewer than two returns or equal ones."""
    # A ratio of equities is rounded to the precision of 1: equal returns differ by that much, and no more.
    if len(returns_T) < 2 or np.ptp(returns_T) <= 4 * np.finfo(np.float64).eps:
        return np.nan
    return float(returns_T.mean() / returns_T.std(ddof=1) * np.sqrt(bars_per_year))


def sortino(returns_T: Floats, bars_per_year: float) -> float:
    """Return mean over the root mean square of the losses, gains counting as zero, annualised; NaN without a loss."""
    losses_T = np.minimum(returns_T, 0)
    if not losses_T.any():
        return np.nan
    return float(returns_T.mean() / np.sqrt(np.mean(losses_T**2)) * np.sqrt(bars_per_year))


def calmar(annual: float, drawdown: float) -> float:
    """Return the annual return over the largest drawdown; NaN without a drawdown."""
    return annual / drawdown if drawdown > 0 else np.nan


def max_drawdown(equity_T: Floats) -> float:
    """Return the largest loss from a running peak, as a positive fraction of the peak."""
    return float(np.max(1 - equity_T / np.maximum.accumulate(equity_T)))


def max_drawdown_bars(equity_T: Floats) -> int:
    """Return the length of the longest unbroken stretch of bars with equity below its running peak."""
    at_peak_T = equity_T >= np.maximum.accumulate(equity_T)
    bounds = np.append(np.flatnonzero(at_peak_T), len(equity_T))
    return int(np.diff(bounds).max() - 1)


def hit_rate(returns_T: Floats) -> float:
    """Return the share of gains among the returns that are not zero; NaN where all are."""
    moves = np.count_nonzero(returns_T)
    return np.count_nonzero(returns_T > 0) / moves if moves else np.nan


def profit_factor(returns_T: Floats) -> float:
    """Return the sum of gains over the sum of losses; NaN without a loss."""
    losses = -returns_T[returns_T < 0].sum()
    return float(returns_T[returns_T > 0].sum() / losses) if losses > 0 else np.nan


def turnover(volume_T: Floats, equity_T: Floats, bars_per_year: float) -> float:
    """Return the value traded in a year, in multiples of equity."""
    return exposure(volume_T, equity_T) * bars_per_year


def exposure(gross_T: Floats, equity_T: Floats) -> float:
    """Return the mean of a value in multiples of equity; the step of ruin has no such multiple and is left out."""
    alive_T = equity_T > 0
    return float(np.mean(gross_T[alive_T] / equity_T[alive_T]))
