"""How forecasts and outcomes go together. Nothing here loads torch."""

import math

import numpy as np
from numpy.typing import NDArray

from flashtrader.arrays import Floats


def information_coefficient(forecasts_TK: NDArray[np.floating], outcomes_TK: NDArray[np.floating]) -> Floats:
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


def _centred(values_TK: NDArray[np.floating], both_TK: NDArray[np.bool_]) -> Floats:
    """Return the known values less their mean, and exactly 0 where all are equal or unknown."""
    values = np.where(both_TK, values_TK, 0.0).astype(np.float64)
    mean = values.sum(axis=0) / np.maximum(both_TK.sum(axis=0), 1)
    lowest, highest = (
        values.min(axis=0, where=both_TK, initial=np.inf),
        values.max(axis=0, where=both_TK, initial=-np.inf),
    )
    return np.where(both_TK & (highest > lowest), values - mean, 0.0)
