"""Target weights and prices to money: one pass over the bars, in float64.

For assets a and steps i, with fill price P, target weight w decided at i, equity E before trading, V the value held:

    trade_i,a = w_i,a · E_i - V_i,a                      0 where |trade| < no_trade_band · E_i
    cost_i    = Σ_a |trade_i,a| · (fee_bps + half_spread_bps + slippage_bps) / 10⁴
              + Σ_a |trade_i,a| · slippage_i,a + Σ_a impact_i,a · |trade_i,a|^(1 + impact_exponent)
    held_i,a  = V_i,a + trade_i,a                        cash_i = E_i - Σ_a held_i,a - cost_i
    V_i+1,a   = held_i,a · P_i+1,a / P_i,a
    E_i+1     = cash_i + Σ_a V_i+1,a - funding_i+1       funding_i = Σ_a V_i,a · rate_i,a

With a maintenance margin m above zero, what was held over a bar is first valued at its worst prices, all at once: longs
at the low, shorts at the high. Where then, or at the step itself before trading,

    equity <= m · Σ_a |V_a|

everything is closed at those very prices, liquidation_fee_bps of the value closed is charged, the orders of that step
are cancelled, and the next step trades again with what is left.
"""

from typing import NamedTuple

import numpy as np
from numba import boolean, float64, njit
from numba.core.types import Array as ArrayType
from numba.core.types import NamedTuple as NamedTupleType
from numpy.typing import ArrayLike

from flashtrader.arrays import Floats
from flashtrader.compiled import compiled
from flashtrader.errors import DataError


class Simulation(NamedTuple):
    """What became of the money, step by step. T counts the steps up to the last, or up to ruin."""

    equity_T: Floats
    """Equity before trading, valued at the step's prices; the first is the initial equity."""
    cost_T: Floats
    """Fees, spread, slippage and impact paid at the step."""
    funding_T: Floats
    """Funding paid at the step on what was held before trading; negative where it was received."""
    gross_T: Floats
    """Sum of absolute values held after trading."""
    volume_T: Floats
    """Sum of absolute values traded."""
    slippage_T: Floats
    """The part of the cost that `slippage_TA` made."""
    impact_T: Floats
    """The part of the cost that `impact_TA` made."""
    liquidated_T: Floats
    """Value that was liquidated since the step before or at this one, before trading; 0 where nothing was."""
    held_TA: Floats
    """Value held in each asset after trading; negative where short."""
    traded_TA: Floats
    """Value bought of each asset; negative where sold, 0 where left alone. What is liquidated is not among it."""

    @property
    def ruined(self) -> bool:
        """Whether the last step is where equity fell to zero or below. Nothing is traded there."""
        return len(self.equity_T) > 0 and bool(self.equity_T[-1] <= 0)


class _Rules(NamedTuple):
    """The numbers that hold for every step."""

    initial_equity: float
    cost_rate: float
    impact_power: float
    no_trade_band: float
    max_gross: float
    maintenance_margin: float
    liquidation_rate: float
    costs_vary: bool


# One signature for arrays that are there and for those that are a single number: each pair would be compiled anew.
_TA = float64[:, ::1]
_GIVEN_TA = ArrayType(float64, 2, "A", readonly=True)
_RULES = NamedTupleType([*[float64] * 7, boolean], _Rules)  # type: ignore[no-untyped-call]
_OUTPUTS = NamedTupleType([*[float64[::1]] * 8, *[_TA] * 2], Simulation)  # type: ignore[no-untyped-call]


def simulate(
    prices_TA: ArrayLike,
    weights_TA: ArrayLike,
    *,
    initial_equity: float,
    fee_bps: float,
    slippage_bps: float,
    no_trade_band: float,
    max_gross: float,
    half_spread_bps: float = 0.0,
    slippage_TA: ArrayLike | None = None,
    impact_TA: ArrayLike | None = None,
    impact_exponent: float = 0.5,
    funding_TA: ArrayLike | None = None,
    maintenance_margin: float = 0.0,
    liquidation_fee_bps: float = 0.0,
    low_TA: ArrayLike | None = None,
    high_TA: ArrayLike | None = None,
) -> Simulation:
    """Trade towards target weights at given prices, and return equity, costs and holdings at every step.

    prices_TA: positive; NaN where an asset has none: it is not traded there and keeps its last value until it has one.
    weights_TA: fractions of equity, negative for short. NaN is no order: what is held drifts with its price. A step
        whose Σ|w| exceeds max_gross is scaled down to it.
    no_trade_band: trades smaller than this fraction of equity are left out.
    slippage_TA, impact_TA: further cost of a trade: a fraction of its value, and a multiple of that value to the power
        1 + impact_exponent. An order is not filled where one of them is NaN or infinite: its cost is not known.
    funding_TA: rate that longs pay and shorts receive at the step, on the value held before trading.
    low_TA, high_TA: extremes of the prices since the step before, looked at where maintenance_margin is above zero;
        NaN is an asset that did not trade.

    An array that is None is zero everywhere, or for the extremes not known; any that broadcasts to (T, A) will do.
    Equity at or below zero ends the simulation at that step. Raises DataError, naming the step, where a price is not
    positive or a price, weight or rate is infinite, and where the two shapes differ.
    """
    prices_TA = np.ascontiguousarray(prices_TA, dtype=np.float64)
    weights_TA = np.ascontiguousarray(weights_TA, dtype=np.float64)
    if prices_TA.ndim != 2 or prices_TA.shape != weights_TA.shape:
        raise DataError(f"prices {prices_TA.shape} and weights {weights_TA.shape} must be of one shape (steps, assets)")
    shape = prices_TA.shape

    def full(values: ArrayLike | None, missing: float) -> Floats:
        return np.broadcast_to(np.asarray(missing if values is None else values, np.float64), shape)

    # numpy allocates large arrays in huge pages, numba does not: half of the time would go to page faults. The zeros
    # are pages that nothing touches unless costs vary or positions are liquidated.
    every_step, where_asked = np.empty((5, len(prices_TA))), np.zeros((3, len(prices_TA)))
    outputs = Simulation._make([*every_step, *where_asked, *(np.empty_like(prices_TA) for _ in range(2))])
    rules = _Rules(
        initial_equity=float(initial_equity),
        cost_rate=(fee_bps + half_spread_bps + slippage_bps) / 1e4,
        impact_power=1 + float(impact_exponent),
        no_trade_band=float(no_trade_band),
        max_gross=float(max_gross),
        maintenance_margin=float(maintenance_margin),
        liquidation_rate=liquidation_fee_bps / 1e4,
        costs_vary=slippage_TA is not None or impact_TA is not None,
    )
    steps = _trade(
        prices_TA,
        weights_TA,
        full(funding_TA, 0.0),
        full(slippage_TA, 0.0),
        full(impact_TA, 0.0),
        full(low_TA, np.nan),
        full(high_TA, np.nan),
        rules,
        outputs,
    )
    simulation = Simulation._make(values[:steps] for values in outputs)
    if not np.isfinite(simulation.equity_T).all():
        step = int(np.argmin(np.isfinite(simulation.equity_T)))
        raise DataError(f"step {step}: prices must be positive, and prices, weights and funding rates finite")
    return simulation


@njit(error_model="numpy")
def _worst(value_A: Floats, last_price_A: Floats, low_A: Floats, high_A: Floats) -> tuple[float, float]:
    """Return the sum of what is held, and of its absolute values, with longs at the low and shorts at the high."""
    worth = 0.0
    gross = 0.0
    for a in range(len(value_A)):
        extreme = low_A[a] if value_A[a] > 0 else high_A[a]
        value = value_A[a] * extreme / last_price_A[a] if extreme > 0 else value_A[a]
        worth += value
        gross += abs(value)
    return worth, gross


@compiled((_TA, _TA, *[_GIVEN_TA] * 5, _RULES, _OUTPUTS), error_model="numpy")
def _trade(
    prices_TA: Floats,
    weights_TA: Floats,
    rates_TA: Floats,
    slippage_TA: Floats,
    impact_TA: Floats,
    low_TA: Floats,
    high_TA: Floats,
    rules: _Rules,
    outputs: Simulation,
) -> int:
    """Fill the outputs and return how many steps there are; equity is NaN at a step with an impossible input."""
    equity_T, cost_T, funding_T, gross_T, volume_T, slippage_T, impact_T, liquidated_T, held_TA, traded_TA = outputs
    cost_rate, no_trade_band, max_gross = rules.cost_rate, rules.no_trade_band, rules.max_gross
    margin, costs_vary = rules.maintenance_margin, rules.costs_vary
    num_steps, num_assets = len(prices_TA), prices_TA.shape[1]
    value_A = np.zeros(num_assets)
    # Nothing is held before an asset's first price, so the first ratio multiplies a zero.
    last_price_A = np.ones(num_assets)
    cash = rules.initial_equity
    for i in range(num_steps):
        liquidated = 0.0
        if margin > 0:
            worst, gross = _worst(value_A, last_price_A, low_TA[i], high_TA[i])
            if gross > 0 and cash + worst <= margin * gross:
                cash += worst - gross * rules.liquidation_rate
                liquidated = gross
                value_A[:] = 0.0
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
        if margin > 0:
            gross = np.abs(value_A).sum()
            if gross > 0 and equity <= margin * gross:
                equity -= gross * rules.liquidation_rate
                liquidated = gross
                value_A[:] = 0.0
            liquidated_T[i] = liquidated
        equity_T[i] = equity
        funding_T[i] = funding

        # Ruin, or NaN.
        stop = not equity > 0
        closed = stop or liquidated > 0
        scale = max_gross / gross_weight if gross_weight > max_gross else 1.0
        invested = 0.0
        gross = 0.0
        volume = 0.0
        slippage = 0.0
        impact = 0.0
        for a in range(num_assets):
            trade = weights_TA[i, a] * scale * equity - value_A[a]
            # A missing weight or price makes one of the comparisons false, as NaN always does.
            if closed or not (abs(trade) >= no_trade_band * equity and prices_TA[i, a] > 0):
                trade = 0.0
            elif costs_vary:
                if slippage_TA[i, a] + impact_TA[i, a] < np.inf:
                    slippage += abs(trade) * slippage_TA[i, a]
                    impact += impact_TA[i, a] * abs(trade) ** rules.impact_power
                else:
                    trade = 0.0
            value_A[a] += trade
            held_TA[i, a] = value_A[a]
            traded_TA[i, a] = trade
            invested += value_A[a]
            gross += abs(value_A[a])
            volume += abs(trade)
        if costs_vary:
            slippage_T[i] = slippage
            impact_T[i] = impact
        cost_T[i] = volume * cost_rate + slippage + impact
        gross_T[i] = gross
        volume_T[i] = volume
        cash = equity - invested - cost_T[i]
        if stop:
            return i + 1
    return num_steps
