"""Bars and target weights to a backtest result, beside its references."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.backtest.costs import CostParts, CostRates, cost_rates
from flashtrader.backtest.engine import Simulation, simulate
from flashtrader.backtest.metrics import Metrics, measure
from flashtrader.backtest.prices import (
    FillPrices,
    constant_funding,
    extremes,
    fill_prices,
    settled_funding,
    union_clock,
)
from flashtrader.backtest.reference import buy_and_hold_weights
from flashtrader.backtest.signals import check_signals
from flashtrader.config import BacktestConfig
from flashtrader.errors import DataError
from flashtrader.interval import DAY_MS, Interval
from flashtrader.market.funding import FundingHistory
from flashtrader.market.spans import iso_time

COST_MULTIPLES = (0, 1, 2, 3)
_CALENDAR_TOLERANCE = 0.1


@dataclass(frozen=True)
class Reference:
    """What a plain alternative earned over the same bars with the same costs."""

    timestamps: NDArray[np.int64]
    """(R,) opening time of each bar."""
    equity: Floats
    """(R,) equity before trading. R exceeds the backtest's T where the backtest was ruined first."""
    metrics: Metrics
    """The same figures as the backtest's."""

    @property
    def time(self) -> pd.DatetimeIndex:
        """The bars' opening times, UTC."""
        return _time(self.timestamps)


@dataclass(frozen=True)
class BacktestResult:
    """A backtest, bar by bar: T bars, A symbols.

    A row is a decision bar, labelled with its opening time. Its money is counted when the decision is filled: at the
    next bar's open, or at this bar's close.
    """

    interval: Interval
    """Distance between bars."""
    config: BacktestConfig
    """Costs and rules."""
    symbols: tuple[str, ...]
    """Those with a column of weights, in the order of the bars."""
    timestamps: NDArray[np.int64]
    """(T,) opening time of each bar, UTC milliseconds."""
    weights: pd.DataFrame
    """Target weights as decided: index `time`, a column per symbol; the newest bar's, not yet filled, included."""
    prices: Floats
    """(T, A) fill prices; NaN where an asset could not be traded."""
    equity: Floats
    """(T,) equity before trading; the first is the initial equity."""
    cost: Floats
    """(T,) what trading cost."""
    cost_parts: CostParts
    """What `cost` consists of: fees, spread, slippage, impact; (T,) each."""
    rates: CostRates
    """The cost of a trade of each asset at each bar."""
    funding: Floats
    """(T,) funding paid on what was held before trading; negative where received."""
    liquidated: Floats
    """(T,) value that was liquidated since the bar before, or at this one before trading; 0 where nothing was."""
    liquidation_fees: Floats
    """(T,) what that cost, beside `cost` and `funding`."""
    held: Floats
    """(T, A) value held after trading."""
    traded: Floats
    """(T, A) value bought; negative where sold."""
    metrics: Metrics
    """What it comes to."""
    multiples: dict[int, Metrics]
    """What it would come to at 0, 1, 2 and 3 times the cost of trading; funding and liquidation fees stay."""
    references: dict[str, Reference]
    """`buy_and_hold`: equal parts of what has a price at the first bar, then no trade. `cash`: nothing at all."""
    plain: dict[str, Reference]
    """What plain models' forecasts would have earned by the same policy and rules; none for weights of no run."""
    ruined_at: int | None
    """Opening time of the last bar, where equity fell to zero or below and the backtest ended; None if it did not."""
    unfilled: int = 0
    """Orders that were not filled because their cost was not known: see `CostRates`."""

    @property
    def time(self) -> pd.DatetimeIndex:
        """The bars' opening times, UTC."""
        return _time(self.timestamps)

    @property
    def calendar_doubt(self) -> str | None:
        """Why the annual figures are wrong, where the bars of a month or more do not come as the calendar says."""
        years = float(self.timestamps[-1] - self.timestamps[0]) / (365.25 * DAY_MS)
        expected = self.interval.bars_per_year(self.config.calendar)
        if years < 1 / 12 or abs((len(self.timestamps) - 1) / years / expected - 1) < _CALENDAR_TOLERANCE:
            return None
        return (
            f"the bars come at {(len(self.timestamps) - 1) / years:,.0f} a year, and calendar {self.config.calendar} "
            f"counts {expected:,.0f}: annual figures are off; choose another backtest.calendar, or mind the gaps"
        )

    @property
    def unfilled_doubt(self) -> str | None:
        """Why orders were not filled though there was a price, where there are such."""
        if not self.unfilled:
            return None
        lacking = "volatility or volume" if self.config.impact_coefficient else "volatility"
        return (
            f"orders that were not filled: {self.unfilled:,}, whose cost is not known without the market's trailing "
            f"{lacking}"
        )


def run_backtest(
    bars: Mapping[str, pd.DataFrame],
    weights: pd.DataFrame,
    interval: Interval,
    config: BacktestConfig,
    plain: Mapping[str, pd.DataFrame] | None = None,
    funding: Mapping[str, FundingHistory] | None = None,
    where: str = "weights",
) -> BacktestResult:
    """Trade target weights on bars, from the first bar with a row of weights to the last that has a fill price.

    bars: a bar table per symbol. weights: index or column `time` (the decision bars' opening times), a column per
    symbol or for some of them; NaN is no order, and a bar without a row is one of NaN. plain: the weights of plain
    models, with the same rows and columns. funding: of each symbol, what is stored; for `funding_rate: fetched`.
    where: what messages call the weights, such as their file.
    At the last bar no order is placed: nothing that follows could tell what it earned.
    Raises DataError for weights that don't fit the bars, where no bar is left to fill them, and for fetched funding
    that does not cover the backtest.
    """
    clock_T = union_clock(bars.values())
    weights = check_signals(weights, clock_T, tuple(bars), interval, where)
    symbols = tuple(str(symbol) for symbol in weights.columns)
    decided_at = weights.index.as_unit("ms").asi8  # type: ignore[attr-defined]
    first = int(np.searchsorted(clock_T, decided_at[0]))

    prices_TA, times_T = fill_prices(bars, symbols, clock_T, interval, config.fill)
    prices_TA, times_T = prices_TA[first:], times_T[first:]
    if not len(times_T):
        raise DataError(
            f"{where}: the first decision, {iso_time(decided_at.item(0))}, is the newest bar's, and no bar follows to "
            "fill it; begin earlier, or fetch more bars"
        )
    rows = np.searchsorted(clock_T, decided_at) - first
    followed = rows < len(prices_TA) - 1

    def placed(weights: pd.DataFrame) -> Floats:
        weights_TA = np.full(prices_TA.shape, np.nan)
        weights_TA[rows[followed]] = weights.to_numpy()[followed]
        return weights_TA

    rates_TA: Floats | None = None
    if config.funding_rate == "fetched":
        if funding is None:
            raise DataError("backtest.funding_rate: fetched, and no funding was given")
        rates_TA = settled_funding(funding, symbols, FillPrices(prices_TA, times_T))
    elif config.funding_rate is not None:
        rates_TA = constant_funding(times_T, config.funding_rate)
    low_TA = high_TA = None
    if config.maintenance_margin:
        low_TA, high_TA = (values_TA[first:][: len(times_T)] for values_TA in extremes(bars, symbols, clock_T))
    costs = cost_rates(config, bars, symbols, clock_T, interval).rows(first, first + len(times_T))
    bars_per_year = interval.bars_per_year(config.calendar)
    timestamps = clock_T[first : first + len(prices_TA)]

    def trade(weights_TA: Floats, no_trade_band: float = config.no_trade_band, costs: CostRates = costs) -> Simulation:
        return simulate(
            prices_TA,
            weights_TA,
            initial_equity=config.initial_equity,
            no_trade_band=no_trade_band,
            max_gross=config.max_gross,
            funding_TA=rates_TA,
            maintenance_margin=config.maintenance_margin,
            liquidation_fee_bps=config.liquidation_fee_bps,
            low_TA=low_TA,
            high_TA=high_TA,
            **costs.rules,
        )

    def reference(simulation: Simulation) -> Reference:
        equity_T = simulation.equity_T
        return Reference(timestamps[: len(equity_T)], equity_T, measure(simulation, bars_per_year))

    weights_TA = placed(weights)
    simulation = trade(weights_TA)
    metrics = measure(simulation, bars_per_year)
    num_steps = len(simulation.equity_T)
    return BacktestResult(
        interval=interval,
        config=config,
        symbols=symbols,
        timestamps=timestamps[:num_steps],
        weights=weights,
        prices=prices_TA[:num_steps],
        equity=simulation.equity_T,
        cost=simulation.cost_T,
        cost_parts=costs.parts(simulation),
        rates=costs.rows(0, num_steps),
        funding=simulation.funding_T,
        liquidated=simulation.liquidated_T,
        liquidation_fees=simulation.liquidated_T * config.liquidation_fee_bps / 1e4,
        held=simulation.held_TA,
        traded=simulation.traded_TA,
        metrics=metrics,
        multiples={
            multiple: metrics
            if multiple == 1
            else measure(trade(weights_TA, costs=costs.times(multiple)), bars_per_year)
            for multiple in COST_MULTIPLES
        },
        # The band spares a strategy small trades; one that trades once must not lose its only one to it.
        references={
            "buy_and_hold": reference(
                trade(buy_and_hold_weights(costs.tradable(prices_TA), config.max_gross), no_trade_band=0.0)
            ),
            "cash": reference(trade(np.full_like(prices_TA, np.nan))),
        },
        plain={name: reference(trade(placed(beside))) for name, beside in (plain or {}).items()},
        ruined_at=int(timestamps[num_steps - 1]) if simulation.ruined else None,
        unfilled=_unfilled(weights_TA[:num_steps], prices_TA[:num_steps], costs, simulation),
    )


def _unfilled(weights_TA: Floats, prices_TA: Floats, costs: CostRates, simulation: Simulation) -> int:
    """Return how many orders had a price and no known cost; to hold none of what is not held is no order."""
    ordered_TA = ~np.isnan(weights_TA) & ((weights_TA != 0) | (simulation.held_TA != 0)) & np.isfinite(prices_TA)
    return int((ordered_TA & np.isnan(costs.rows(0, len(prices_TA)).tradable(prices_TA))).sum())


def _time(timestamps: NDArray[np.int64]) -> pd.DatetimeIndex:
    return pd.to_datetime(timestamps, unit="ms", utc=True).as_unit("ms").rename("time")
