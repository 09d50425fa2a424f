"""Ridge regression in closed form, from sums over rows that are accumulated chunk by chunk."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from flashtrader.arrays import Floats

PENALTIES = tuple(10.0**power for power in range(-3, 5))
"""Tried on the validation rows: a row's share of the penalty, in units of the inputs' mean variance."""


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """All that least squares needs to know of rows of inputs (R, I) and outcomes (R,)."""

    rows: int
    sums_I: Floats
    sum: float
    squares_II: Floats
    products_I: Floats
    square: float

    @classmethod
    def of(cls, chunks: Iterable[tuple[NDArray[np.floating], NDArray[np.floating]]], num_inputs: int) -> Self:
        """Return the sums over chunks of inputs (R, I) and outcomes (R,)."""
        rows, outcome_sum, square = 0, 0.0, 0.0
        sums_I, products_I, squares_II = np.zeros(num_inputs), np.zeros(num_inputs), np.zeros((num_inputs, num_inputs))
        for inputs, outcomes in chunks:
            inputs_RI, outcomes_R = inputs.astype(np.float64), outcomes.astype(np.float64)
            rows += len(outcomes_R)
            sums_I += inputs_RI.sum(axis=0)
            outcome_sum += float(outcomes_R.sum())
            squares_II += inputs_RI.T @ inputs_RI
            products_I += outcomes_R @ inputs_RI
            square += float(outcomes_R @ outcomes_R)
        return cls(rows, sums_I, outcome_sum, squares_II, products_I, square)

    def mapped(self, map_JI: Floats) -> "NormalEquations":
        """Return the equations of the inputs `map_JI @ inputs`."""
        return NormalEquations(
            self.rows,
            map_JI @ self.sums_I,
            self.sum,
            map_JI @ self.squares_II @ map_JI.T,
            map_JI @ self.products_I,
            self.square,
        )

    def solve(self, penalty: float) -> tuple[Floats, float]:
        """Return the weights (I,) and the intercept, which is not penalised, of the ridge regression.

        They minimise mean squared error + penalty · v · |weights|², v being the inputs' mean variance. Without a row
        both are 0: no change. Hoerl & Kennard (1970).
        """
        if not self.rows:
            return np.zeros_like(self.sums_I), 0.0
        means_I, mean = self.sums_I / self.rows, self.sum / self.rows
        covariance_II = self.squares_II / self.rows - np.outer(means_I, means_I)
        variance = float(np.trace(covariance_II)) / len(means_I) or 1.0
        penalised_II = covariance_II + penalty * variance * np.eye(len(means_I))
        weights_I = np.asarray(np.linalg.solve(penalised_II, self.products_I / self.rows - mean * means_I), np.float64)
        return weights_I, mean - float(means_I @ weights_I)

    def mean_squared_error(self, weights_I: Floats, intercept: float) -> float:
        """Return the mean squared error of a fit on these rows; 0 without one."""
        squared = (
            self.square
            + weights_I @ self.squares_II @ weights_I
            + self.rows * intercept**2
            + 2 * intercept * (weights_I @ self.sums_I)
            - 2 * (weights_I @ self.products_I + intercept * self.sum)
        )
        return float(squared) / max(1, self.rows)


@dataclass(frozen=True)
class LinearFit:
    """A ridge regression, and the penalty under which it was best on the validation rows."""

    weights_I: Floats
    intercept: float
    penalty: float


def fit_ridge(train: NormalEquations, validation: NormalEquations) -> LinearFit:
    """Return the fit on the training rows whose penalty, the strongest of equals, does best on the validation rows."""
    fits = [LinearFit(*train.solve(penalty), penalty) for penalty in reversed(PENALTIES)]
    return min(fits, key=lambda fit: validation.mean_squared_error(fit.weights_I, fit.intercept))


def smoothing(window_bars: int, kernel_bars: int = 25) -> Floats:
    """Return the matrix (W, W) that takes a window to its centred moving average, its ends repeated beyond it.

    Zeng et al. (2023), Are Transformers Effective for Time Series Forecasting?, section 4; 25 is theirs.
    """
    offsets_B = np.arange(kernel_bars) - kernel_bars // 2
    averaged_WB = np.clip(np.arange(window_bars)[:, None] + offsets_B, 0, window_bars - 1)
    matrix_WW = np.zeros((window_bars, window_bars))
    np.add.at(matrix_WW, (np.arange(window_bars)[:, None], averaged_WB), 1 / kernel_bars)
    return matrix_WW
