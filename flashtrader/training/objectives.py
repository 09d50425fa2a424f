"""What training minimises, and the skill that it reports. A target that is NaN does not count.

Shapes: B segments, T bars, K targets, P numbers that the model answers for each.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flashtrader.config import Experiment
from flashtrader.interval import Interval
from flashtrader.models.candles import NextShape
from flashtrader.panel.candles import CLOSE, NUM_COLUMNS, VOLUME
from flashtrader.training.correlation import mean_information_coefficient
from flashtrader.training.sharpe import negative_sharpe, net_returns, sharpe_ratio

Objective = Callable[[Tensor, Tensor], Tensor]
Loss = Callable[..., Tensor]
"""Of two tensors, one of torch.nn.functional's."""


def huber(outputs_BTKP: Tensor, targets_BTK: Tensor) -> Tensor:
    """Return the mean Huber loss of the first number, quadratic up to one deviation of the target (Huber 1964)."""
    known = ~targets_BTK.isnan()
    return nn.functional.huber_loss(outputs_BTKP[..., 0][known], targets_BTK[known])


def mse(outputs_BTKP: Tensor, targets_BTK: Tensor) -> Tensor:
    """Return the mean squared error of the first number."""
    known = ~targets_BTK.isnan()
    return nn.functional.mse_loss(outputs_BTKP[..., 0][known], targets_BTK[known])


def next_candle(outputs_BTKP: Tensor, targets_BTK: Tensor, loss: Loss, volume_weight: float) -> Tensor:
    """Return the mean loss of the candle's changes, in which a price weighs 1 and volume `volume_weight`.

    Where a distribution is learned, the mean negative log-likelihood of the next candle's shape comes on top.
    """
    changes_BTC = targets_BTK[..., :NUM_COLUMNS]
    known_BTC = ~changes_BTC.isnan()
    weights_C = torch.ones(NUM_COLUMNS, device=outputs_BTKP.device)
    weights_C[VOLUME] = volume_weight
    weights = weights_C.expand_as(changes_BTC)[known_BTC]
    losses = loss(outputs_BTKP[..., :NUM_COLUMNS, 0][known_BTC], changes_BTC[known_BTC], reduction="none")
    point = (weights * losses).sum() / weights.sum()
    if targets_BTK.shape[-1] == NUM_COLUMNS:
        return point
    shape_BTC = targets_BTK[..., NUM_COLUMNS:]
    known_BTC = ~shape_BTC.isnan()
    distribution = NextShape.of(outputs_BTKP[..., NUM_COLUMNS:, :][known_BTC])
    return point - distribution.log_likelihood(shape_BTC[known_BTC]).mean()


def cross_entropy(outputs_BTKP: Tensor, targets_BTK: Tensor, class_weights: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits for down, flat and up, each class weighted; targets are −1, 0, 1."""
    known = ~targets_BTK.isnan()
    classes = targets_BTK[known].long() + 1
    return nn.functional.cross_entropy(outputs_BTKP[known], classes, class_weights.to(outputs_BTKP))


def balanced_class_weights(targets_TK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the weights (3,) under which down, flat and up count alike over these targets; 1 for a class without any.

    King & Zeng (2001), Logistic Regression in Rare Events Data, section 4.2.
    """
    known = targets_TK[np.isfinite(targets_TK)]
    counts = np.array([(known == direction).sum() for direction in (-1, 0, 1)])
    return np.where(counts > 0, len(known) / (3 * np.maximum(counts, 1)), 1.0).astype(np.float32)


def build_objective(experiment: Experiment, targets_TK: NDArray[np.float32] | None = None) -> Objective:
    """Return what an experiment's training minimises: outputs (B, T, K, P) and standardised targets → a scalar.

    targets_TK: the training rows' own, for an objective that weighs by how often they come; None before they are known.
    """
    if experiment.panel.target.kind == "next_candle":
        loss = nn.functional.mse_loss if experiment.training.loss == "mse" else nn.functional.huber_loss
        return partial(next_candle, loss=loss, volume_weight=experiment.training.volume_weight)
    match experiment.training.loss:
        case "cross_entropy":
            class_weights = np.ones(3, np.float32) if targets_TK is None else balanced_class_weights(targets_TK)
            return partial(cross_entropy, class_weights=torch.from_numpy(class_weights))
        case "mse":
            return mse
        case "sharpe":
            return partial(negative_sharpe, cost_rate=experiment.backtest.cost_rate)
        case _:
            return huber


@dataclass(frozen=True)
class Skill:
    """What an evaluation reports beside the loss; more is better."""

    name: str
    score: Callable[[NDArray[np.floating], NDArray[np.floating]], float]
    """Of a model's answers (R, K, P) and the targets (R, K), in order of time; what is NaN in either does not count."""


def build_skill(experiment: Experiment) -> Skill:
    """Return the skill that an experiment's evaluations report."""
    if experiment.training.loss == "cross_entropy":
        return Skill("macro_f1", macro_f1)
    if experiment.training.loss == "sharpe":
        bars_per_year = Interval(experiment.data.interval).bars_per_year(experiment.backtest.calendar)
        return Skill(
            "sharpe", partial(net_sharpe, cost_rate=experiment.backtest.cost_rate, bars_per_year=bars_per_year)
        )
    if experiment.panel.target.kind == "next_candle":
        return Skill("ic", close_correlation)
    return Skill("ic", lambda outputs_RKP, targets_RK: mean_information_coefficient(outputs_RKP[..., 0], targets_RK))


def net_sharpe(
    outputs_RKP: NDArray[np.floating], targets_RK: NDArray[np.floating], cost_rate: float, bars_per_year: float
) -> float:
    """Return the annualised Sharpe ratio, net of costs, of weights held over the rows; NaN without a row."""
    weights_RK = outputs_RKP[..., 0]
    returns_RK = np.where(np.isfinite(weights_RK), targets_RK, np.nan)
    earned = net_returns(torch.from_numpy(weights_RK)[None], torch.from_numpy(returns_RK)[None], cost_rate)
    return float(sharpe_ratio(earned.net_BT[earned.labelled_BT])) * math.sqrt(bars_per_year)


def close_correlation(outputs_RKP: NDArray[np.floating], targets_RK: NDArray[np.floating]) -> float:
    """Return the information coefficient of the next candle's close, of its logarithm's change."""
    return mean_information_coefficient(outputs_RKP[:, CLOSE : CLOSE + 1, 0], targets_RK[:, CLOSE : CLOSE + 1])


def macro_f1(outputs_RKP: NDArray[np.floating], targets_RK: NDArray[np.floating]) -> float:
    """Return the mean F1 score of down, flat and up, the likeliest class being the answer; NaN without a row.

    A class that is neither answered nor there scores 0.
    """
    known_RK = np.isfinite(outputs_RKP).all(axis=2) & np.isfinite(targets_RK)
    answers, classes = outputs_RKP[known_RK].argmax(axis=-1) - 1, targets_RK[known_RK]
    if not classes.size:
        return math.nan
    scores = []
    for direction in (-1, 0, 1):
        right = ((answers == direction) & (classes == direction)).sum()
        named = (answers == direction).sum() + (classes == direction).sum()
        scores.append(2 * right / named if named else 0.0)
    return float(np.mean(scores))
