"""Target weights and prices to money: one pass over the bars, in float64.

For assets a and steps i, with fill price P, target weight w decided at i, equity E before trading, V the value held:

    trade_i,a = w_i,a · E_i - V_i,a                      0 where |trade| < no_trade_band · E_i
    cost_i    = Σ_a |trade_i,a| · (fee_bps + slippage_bps) / 10⁴
    held_i,a  = V_i,a + trade_i,a                        cash_i = E_i - Σ_a held_i,a - cost_i
    V_i+1,a   = held_i,a · P_i+1,a / P_i,a
    E_i+1     = cash_i + Σ_a V_i+1,a - funding_i+1       funding_i = Σ_a V_i,a · rate_i,a
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from flashtrader.errors import DataError

Floats = NDArray[np.float64]


class Simulation(NamedTuple):
    """What became of the money, step by step. T counts the steps up to the last, or up to ruin."""

    equity_T: Floats
    """Equity before trading, valued at the step's prices; the first is the initial equity."""
    cost_T: Floats
    """Fees and slippage paid at the step."""
    funding_T: Floats
    """Funding paid at the step on what was held before trading; negative where it was received."""
    gross_T: Floats
    """Sum of absolute values held after trading."""
    volume_T: Floats
    """Sum of absolute values traded."""
    held_TA: Floats
    """Value held in each asset after trading; negative where short."""
    traded_TA: Floats
    """Value bought of each asset; negative where sold, 0 where left alone."""

    @property
    def ruined(self) -> bool:
        """Whether the last step is where equity fell to zero or below. Nothing is traded there."""
        return len(self.equity_T) > 0 and bool(self.equity_T[-1] <= 0)


def simulate(
    prices_TA: ArrayLike,
    weights_TA: ArrayLike,
    *,
    initial_equity: float,
    fee_bps: float,
    slippage_bps: float,
    no_trade_band: float,
    max_gross: float,
    funding_TA: ArrayLike | None = None,
) -> Simulation:
    """Trade towards target weights at given prices, and return equity, costs and holdings at every step.

    prices_TA: positive; NaN where an asset has none: it is not traded there and keeps its last value until it has one.
    weights_TA: fractions of equity, negative for short. NaN is no order: what is held drifts with its price. A step
        whose Σ|w| exceeds max_gross is scaled down to it.
    no_trade_band: trades smaller than this fraction of equity are left out.
    funding_TA: rate that longs pay and shorts receive at the step, on the value held before trading; None is none.
        Anything that broadcasts to (T, A).

    Equity at or below zero ends the simulation at that step. Raises DataError, naming the step, where a price is not
    positive or a price, weight or rate is infinite, and where the two shapes differ.
    """
    prices_TA = np.ascontiguousarray(prices_TA, dtype=np.float64)
    weights_TA = np.ascontiguousarray(weights_TA, dtype=np.float64)
    if prices_TA.ndim != 2 or prices_TA.shape != weights_TA.shape:
        raise DataError(f"prices {prices_TA.shape} and weights {weights_TA.shape} must be of one shape (steps, assets)")
    rates_TA = np.broadcast_to(np.asarray(0.0 if funding_TA is None else funding_TA, np.float64), prices_TA.shape)

    # numpy allocates large arrays in huge pages, numba does not: half of the time would go to page faults.
    outputs = Simulation._make([*np.empty((5, len(prices_TA))), *(np.empty_like(prices_TA) for _ in range(2))])
    cost_rate = (fee_bps + slippage_bps) / 1e4
    steps = _trade(
        prices_TA,
        weights_TA,
        rates_TA,
        float(initial_equity),
        cost_rate,
        float(no_trade_band),
        float(max_gross),
        outputs,
    )
    simulation = Simulation._make(values[:steps] for values in outputs)
    if not np.isfinite(simulation.equity_T).all():
        step = int(np.argmin(np.isfinite(simulation.equity_T)))
        raise DataError(f"step {step}: prices must be positive, and prices, weights and funding rates finite")
    return simulation


@njit(cache=True, error_model="numpy")
def _trade(
    prices_TA: Floats,
    weights_TA: Floats,
    rates_TA: Floats,
    initial_equity: float,
    cost_rate: float,
    no_trade_band: float,
    max_gross: float,
    outputs: Simulation,
) -> int:
    """Fill the outputs and return how many steps there are; equity is NaN at a step with an impossible input."""
    equity_T, cost_T, funding_T, gross_T, volume_T, held_TA, traded_TA = outputs
    num_steps, num_assets = len(prices_TA), prices_TA.shape[1]
    value_A = np.zeros(num_assets)
    # Nothing is held before an asset's first price, so the first ratio multiplies a zero.
    last_price_A = np.ones(num_assets)
    cash = initial_equity
    for i in range(num_steps):
        worth = 0.0
        funding = 0.0
        gross_weight = 0.0
        for a in range(num_assets):
            price = prices_TA[i, a]
            if price > 0:
                value_A[a] = value_A[a] * price / last_price_A[a]
                last_price_A[a] = price
            elif price <= 0:
                worth = np.nan
            worth += value_A[a]
            funding += value_A[a] * rates_TA[i, a]
            if not np.isnan(weights_TA[i, a]):
                gross_weight += abs(weights_TA[i, a])
        # A sum of infinite weights could be scaled down to nothing and pass unseen.
        equity = cash + worth - funding if gross_weight < np.inf else np.nan
        equity_T[i] = equity
        funding_T[i] = funding

        # Ruin, or NaN.
        stop = not equity > 0
        scale = max_gross / gross_weight if gross_weight > max_gross else 1.0
        invested = 0.0
        gross = 0.0
        volume = 0.0
        for a in range(num_assets):
            trade = weights_TA[i, a] * scale * equity - value_A[a]
            # A missing weight or price makes one of the comparisons false, as NaN always does.
            if stop or not (abs(trade) >= no_trade_band * equity and prices_TA[i, a] > 0):
                trade = 0.0
            value_A[a] += trade
            held_TA[i, a] = value_A[a]
            traded_TA[i, a] = trade
            invested += value_A[a]
            gross += abs(value_A[a])
            volume += abs(trade)
        cost_T[i] = volume * cost_rate
        gross_T[i] = gross
        volume_T[i] = volume
        cash = equity - invested - cost_T[i]
        if stop:
            return i + 1
    return num_steps
