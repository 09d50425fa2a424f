"""What target weights earned bar by bar, beside equal weights: of a portfolio that answers with weights."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from flashtrader.arrays import Floats
from flashtrader.config import Experiment
from flashtrader.interval import Interval
from flashtrader.training.sharpe import net_returns, sharpe_ratio


@dataclass(frozen=True)
class WeightScore:
    """What weights earned from fill to fill, net of costs; per bar but for `annual_sharpe`."""

    name: str
    """weights: the model's own. equal: as much of every asset that has one."""
    bars: int
    """Whose outcome is known."""
    gross: float
    """Mean of Σ|w|."""
    turnover: float
    """Mean of Σ|trade|, as a fraction of equity."""
    net_return: float
    """Mean return of equity after costs."""
    sharpe: float
    sharpe_error: float
    """Standard error of `sharpe` for independent returns: Lo (2002), The Statistics of Sharpe Ratios."""
    annual_sharpe: float


def score_weights(weights: pd.DataFrame, returns: pd.DataFrame, experiment: Experiment) -> list[WeightScore]:
    """Return the score of the weights and that of equal ones, held over the same bars at the experiment's costs.

    weights, returns: index `time`, a column per symbol: fractions of equity, and simple returns from fill to fill.
    Where either is missing, nothing is held. Every trade is made, whatever `backtest.no_trade_band` is.
    """
    own_TA, returns_TA = weights.to_numpy(), returns.to_numpy()
    there_TA = np.isfinite(own_TA)
    share_T1 = min(1.0, experiment.backtest.max_gross) / np.maximum(there_TA.sum(axis=1, keepdims=True), 1)
    returns_TA = np.where(there_TA, returns_TA, np.nan)
    return [
        _score("weights", own_TA, returns_TA, experiment),
        _score("equal", np.where(there_TA, share_T1, np.nan), returns_TA, experiment),
    ]


def _score(name: str, weights_TA: Floats, returns_TA: Floats, experiment: Experiment) -> WeightScore:
    costs = experiment.backtest
    earned = net_returns(torch.tensor(weights_TA)[None], torch.tensor(returns_TA)[None], costs.cost_rate)
    net_T = earned.net_BT[earned.labelled_BT]
    if not len(net_T):
        return WeightScore(name, 0, *[math.nan] * 6)
    labelled_T = earned.labelled_BT[0].numpy()
    sharpe = float(sharpe_ratio(net_T))
    return WeightScore(
        name=name,
        bars=len(net_T),
        gross=float(np.nansum(np.abs(weights_TA[labelled_T]), axis=1).mean()),
        turnover=float(earned.turnover_BT[earned.labelled_BT].mean()),
        net_return=float(net_T.mean()),
        sharpe=sharpe,
        sharpe_error=math.sqrt((1 + sharpe**2 / 2) / len(net_T)),
        annual_sharpe=sharpe * math.sqrt(Interval(experiment.data.interval).bars_per_year(costs.calendar)),
    )
