"""The Sharpe ratio of target weights, net of what the backtest charges for trading them.

Shapes: B segments, T bars, A assets.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

_ROUNDS = 4
_LEAST_VARIANCE = 1e-12


class NetReturns(NamedTuple):
    """What equity returned, bar by bar."""

    net_BT: Tensor
    """Simple returns of equity after costs."""
    turnover_BT: Tensor
    """Σ|trade|, as a fraction of equity."""
    labelled_BT: Tensor
    """Whether any asset's return is known: other bars are no part of the history."""


def net_returns(weights_BTA: Tensor, returns_BTA: Tensor, cost_rate: float) -> NetReturns:
    """Return what holding target weights earns from each bar's fill to the next one's.

    weights_BTA: fractions of equity, Σ|w| at most max_gross. returns_BTA: simple, from fill to fill; an asset is not
    held over one that is unknown (NaN). cost_rate: of traded value. With w the weights, r the returns, R the result,
    and what is held drifting with its price:

        R_i = Σ_a w_i,a · r_i,a − cost_rate · Σ_a |w_i,a − w_i−1,a · (1 + r_i−1,a) / (1 + R_i−1)|

    which is `flashtrader.backtest.engine` with every price known and costs in proportion to what is traded: without
    slippage by volatility, impact, funding, liquidation, or a band within which trades are left out. A segment begins
    in cash, as a backtest does: its first labelled bar pays for its position.

    R_i−1 moves R_i by its cost's part in a cost, so the equation is solved for all bars at once by substitution: a
    round leaves an error of cost_rate · Σ|w| times the one before.
    """
    known_BTA = ~returns_BTA.isnan()
    weights_BTA = torch.where(known_BTA, weights_BTA, 0.0)
    returns_BTA = torch.where(known_BTA, returns_BTA, 0.0)
    gross_BT = (weights_BTA * returns_BTA).sum(dim=-1)
    grown_BTA = weights_BTA * (1 + returns_BTA)
    net_BT = gross_BT
    for _ in range(_ROUNDS):
        drifted_BTA = pad((grown_BTA / (1 + net_BT)[..., None])[:, :-1], (0, 0, 1, 0))
        turnover_BT = (weights_BTA - drifted_BTA).abs().sum(dim=-1)
        net_BT = gross_BT - cost_rate * turnover_BT
    return NetReturns(net_BT, turnover_BT, known_BTA.any(dim=-1))


def sharpe_ratio(net: Tensor) -> Tensor:
    """Return mean over standard deviation, per bar; 0 of returns that are all 0, and finite of any that are equal.

    Sharpe (1994), The Sharpe Ratio, without a riskless rate.
    """
    return net.mean() / (net.var(correction=0) + _LEAST_VARIANCE).sqrt()


def negative_sharpe(outputs_BTKP: Tensor, targets_BTK: Tensor, cost_rate: float) -> Tensor:
    """Return minus the Sharpe ratio per bar of the labelled bars of all segments together.

    Together, and not the mean of each segment's own: the deviation of a short or quiet segment is no measure of risk,
    and dividing by it would let that segment rule the batch.
    """
    earned = net_returns(outputs_BTKP[..., 0], targets_BTK, cost_rate)
    return -sharpe_ratio(earned.net_BT[earned.labelled_BT])
