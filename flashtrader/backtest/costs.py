"""What a trade costs: fees, half-spread, slippage and impact, and how volatile and liquid each market was before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.backtest.engine import Simulation
from flashtrader.config import BacktestConfig
from flashtrader.interval import Interval


@dataclass(frozen=True)
class CostParts:
    """What trading cost at each step, (T,) each, in currency; together they are the engine's cost."""

    fees: Floats
    """The exchange's, of maker and taker."""
    spread: Floats
    """Half of the distance between bid and ask."""
    slippage: Floats
    """The constant part, and the one in proportion to volatility."""
    impact: Floats
    """What grows with the trade's part in the market's volume."""


@dataclass(frozen=True)
class CostRates:
    """The cost of trading each asset at each step. None is nothing of that kind."""

    fee_bps: float
    half_spread_bps: float
    slippage_bps: float
    slippage_TA: Floats | None = None
    """Further slippage, as a fraction of traded value; NaN where it is not known, and nothing is traded."""
    impact_TA: Floats | None = None
    """A trade's impact is this times its value to the power 1 + impact_exponent; NaN as of `slippage_TA`."""
    impact_exponent: float = 0.5

    @property
    def rules(self) -> dict[str, Any]:
        """What the engine is told."""
        return dict(vars(self))

    def times(self, multiple: float) -> Self:
        """Return the rates of costs that are so many times these."""
        return replace(
            self,
            fee_bps=multiple * self.fee_bps,
            half_spread_bps=multiple * self.half_spread_bps,
            slippage_bps=multiple * self.slippage_bps,
            slippage_TA=None if self.slippage_TA is None else multiple * self.slippage_TA,
            impact_TA=None if self.impact_TA is None else multiple * self.impact_TA,
        )

    def rows(self, first: int, end: int) -> Self:
        """Return the rates of some of the steps."""
        slippage_TA, impact_TA = (
            None if rates_TA is None else rates_TA[first:end] for rates_TA in (self.slippage_TA, self.impact_TA)
        )
        return replace(self, slippage_TA=slippage_TA, impact_TA=impact_TA)

    def tradable(self, prices_TA: Floats) -> Floats:
        """Return the prices (T, A), NaN where the cost of a trade is not known and none is made."""
        known = [np.isfinite(rates_TA) for rates_TA in (self.slippage_TA, self.impact_TA) if rates_TA is not None]
        return np.where(np.logical_and.reduce(known), prices_TA, np.nan) if known else prices_TA

    def of_orders(self, traded_TA: Floats) -> Floats:
        """Return the cost of each order, (N,), in the order of `np.nonzero(traded_TA)`."""
        rows = np.nonzero(traded_TA)
        values = np.abs(traded_TA[rows])
        costs = values * (self.fee_bps + self.half_spread_bps + self.slippage_bps) / 1e4
        if self.slippage_TA is not None:
            costs += values * self.slippage_TA[rows]
        if self.impact_TA is not None:
            costs += self.impact_TA[rows] * values ** (1 + self.impact_exponent)
        return np.asarray(costs, np.float64)

    def parts(self, simulation: Simulation) -> CostParts:
        """Return what the costs of a simulation at these rates consist of."""
        volume_T = simulation.volume_T
        return CostParts(
            fees=volume_T * self.fee_bps / 1e4,
            spread=volume_T * self.half_spread_bps / 1e4,
            slippage=volume_T * self.slippage_bps / 1e4 + simulation.slippage_T,
            impact=simulation.impact_T,
        )


def cost_rates(
    config: BacktestConfig,
    bars: Mapping[str, pd.DataFrame],
    symbols: Sequence[str],
    clock_T: NDArray[np.int64],
    interval: Interval,
) -> CostRates:
    """Return the cost of a trade decided at each bar of the clock, from what that bar and those before it show.

    With σ the volatility of one bar's return, V the mean value that the market trades in a bar, both over the trailing
    `liquidity_bars` bars, m the maker's share, δ the exponent and Y the coefficient of impact:

        slippage = (1 − m) · |trade| · (slippage_bps / 10⁴ + volatility_slippage · σ)
        impact   = Y · σ · q · (q / V)^δ         q = (1 − m) · |trade|, what is taken from the book

    δ = ½ is the square-root law, in which the length of the bar cancels out (Tóth et al. 2011, Anomalous Price Impact
    and the Critical Nature of Liquidity in Financial Markets, with Y of order one); Almgren, Thum, Hauptmann and Li
    (2005), Direct Estimation of Equity Market Impact, find 3/5 for the temporary impact of stocks.
    """
    constant = CostRates(config.paid_fee_bps, config.paid_spread_bps, config.paid_slippage_bps)
    if not (config.volatility_slippage or config.impact_coefficient):
        return constant
    volatility_TA, value_TA = (np.full((len(clock_T), len(symbols)), np.nan) for _ in range(2))
    for a, symbol in enumerate(symbols):
        table = bars[symbol]
        # The newest bar of its own that the decision knows; an asset may lack the decision's.
        rows_T = np.searchsorted(table["timestamp"].to_numpy(np.int64), clock_T, side="right") - 1
        for trailing_TA, trailing_R in zip(
            (volatility_TA, value_TA), trailing_liquidity(table, interval, config.liquidity_bars), strict=True
        ):
            trailing_TA[rows_T >= 0, a] = trailing_R[rows_T[rows_T >= 0]]
    taken, exponent = 1 - config.maker_share, config.impact_exponent
    # Where the market trades nothing, no impact is known.
    traded_TA = np.where(value_TA > 0, value_TA, np.nan)
    impact_TA = config.impact_coefficient * volatility_TA * taken ** (1 + exponent) / traded_TA**exponent
    return replace(
        constant,
        slippage_TA=taken * config.volatility_slippage * volatility_TA,
        impact_TA=impact_TA if config.impact_coefficient else None,
        impact_exponent=exponent,
    )


def trailing_liquidity(table: pd.DataFrame, interval: Interval, num_bars: int) -> tuple[Floats, Floats]:
    """Return the volatility of one bar's return and the mean value traded in a bar, at each row of a bar table.

    Both over the last `num_bars` rows, as soon as two returns are known: a return is the change of the logarithm of the
    close over one bar, its volatility their root mean square. The value traded is the bar's turnover, or its volume
    times its close where that is not known.
    """
    closes = table["close"].to_numpy(np.float64)
    follows = np.diff(interval.index(table["timestamp"].to_numpy(np.int64)), prepend=-2) == 1
    returns = np.where(follows, np.diff(np.log(closes), prepend=np.nan), np.nan)
    variance = pd.Series(returns**2).rolling(num_bars, min_periods=2).mean()
    values = table["volume"] * table["close"]
    if "turnover" in table:
        values = table["turnover"].fillna(values)
    mean_value = values.reset_index(drop=True).rolling(num_bars, min_periods=2).mean()
    return np.sqrt(variance.to_numpy(np.float64)), mean_value.to_numpy(np.float64)
