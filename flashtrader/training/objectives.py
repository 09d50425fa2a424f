"""What training minimises, and the skill that it reports. A target that is NaN does not count."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Objective = Callable[[Tensor, Tensor], Tensor]


def huber(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean Huber loss, quadratic up to one standard deviation of the target (Huber 1964)."""
    known = ~targets.isnan()
    return nn.functional.huber_loss(outputs[known], targets[known])


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error."""
    known = ~targets.isnan()
    return nn.functional.mse_loss(outputs[known], targets[known])


OBJECTIVES: dict[str, Objective] = {"huber": huber, "mse": mse}


def information_coefficient(
    forecasts_TK: NDArray[np.floating], outcomes_TK: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return (K,): each column's Pearson correlation over time of forecast and outcome.

    Rows where either is NaN are left out; NaN for a column without two rows or without variation.
    """
    both = np.isfinite(forecasts_TK) & np.isfinite(outcomes_TK)
    forecasts, outcomes = _centred(forecasts_TK, both), _centred(outcomes_TK, both)
    covariance = (forecasts * outcomes).sum(axis=0)
    scale = np.sqrt((forecasts**2).sum(axis=0) * (outcomes**2).sum(axis=0))
    correlation = np.full(scale.shape, np.nan)
    np.divide(covariance, scale, out=correlation, where=scale > 0)
    return correlation


def mean_information_coefficient(forecasts_TK: NDArray[np.floating], outcomes_TK: NDArray[np.floating]) -> float:
    """Return the mean of the columns' coefficients; NaN where none has one."""
    coefficients = information_coefficient(forecasts_TK, outcomes_TK)
    known = coefficients[np.isfinite(coefficients)]
    return float(known.mean()) if known.size else math.nan


def _centred(values_TK: NDArray[np.floating], both_TK: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the known values less their mean, and exactly 0 where all are equal or unknown."""
    values = np.where(both_TK, values_TK, 0.0).astype(np.float64)
    mean = values.sum(axis=0) / np.maximum(both_TK.sum(axis=0), 1)
    lowest, highest = (
        values.min(axis=0, where=both_TK, initial=np.inf),
        values.max(axis=0, where=both_TK, initial=-np.inf),
    )
    return np.where(both_TK & (highest > lowest), values - mean, 0.0)
