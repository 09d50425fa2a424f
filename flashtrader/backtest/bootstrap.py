"""Histories that might as well have been: a stationary bootstrap of returns.

Politis & Romano (1994), The Stationary Bootstrap: a history is made of blocks of the one that was, each from a random
start, with a random length that is geometric around a mean; past the end a block goes on at the beginning.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.backtest.significance import tapered_autocovariances
from flashtrader.compiled import compiled

NUM_HISTORIES = 2_000
_TAIL = 0.025


class Histories(NamedTuple):
    """H histories drawn from the returns of C curves, the same bars for all curves."""

    sharpe_HC: Floats
    """Mean over sample standard deviation of the returns of a bar; 0 where they do not vary."""
    mean_HC: Floats
    """Mean return of a bar."""
    log_growth_HP: Floats
    """Of the first curve, log of equity over initial equity at each of the given bars."""


def block_bars(values_T: Floats) -> float:
    """Return the mean block length that makes the bootstrap's variance of the mean most exact; 1 is the least.

    Politis & White (2004), Automatic Block-Length Selection for the Dependent Bootstrap, with the correction of Patton,
    Politis & White (2009).
    """
    num_bars = len(values_T)
    covariance = tapered_autocovariances(values_T)
    spectrum = covariance[0] + 2 * covariance[1:].sum()
    slope = 2 * float(np.arange(len(covariance)) @ covariance)
    if spectrum <= 0:
        return 1.0
    best = ((slope / spectrum) ** 2 * num_bars) ** (1 / 3)
    return float(np.clip(best, 1.0, math.ceil(min(3 * math.sqrt(num_bars), num_bars / 3))))


def draw_histories(
    returns_TC: Floats,
    mean_block_bars: float,
    *,
    num_histories: int = NUM_HISTORIES,
    at_P: NDArray[np.int64],
    seed: int,
) -> Histories:
    """Return the figures of so many histories of the returns.

    at_P: ascending numbers of bars, up to T, after which the first curve's growth is wanted; NaN where it was ruined.
    """
    num_bars, num_curves = returns_TC.shape
    with np.errstate(divide="ignore", invalid="ignore"):
        growth_T1 = np.log1p(returns_TC[:, :1])
    columns_TK = np.hstack([returns_TC, returns_TC**2, growth_T1])
    sums_SK = np.vstack([np.zeros(columns_TK.shape[1]), columns_TK.cumsum(axis=0)])
    totals_HK = np.zeros((num_histories, columns_TK.shape[1]))
    log_growth_HP = np.zeros((num_histories, len(at_P)))
    _draw(sums_SK, mean_block_bars, at_P, np.random.default_rng(seed), totals_HK, log_growth_HP)
    mean_HC = totals_HK[:, :num_curves] / num_bars
    variance_HC = (totals_HK[:, num_curves:-1] - num_bars * mean_HC**2) / (num_bars - 1)
    # What is left of equal returns after rounding is no variance.
    varies_HC = variance_HC > 1e-12 * mean_HC**2
    sharpe_HC = np.divide(mean_HC, np.sqrt(np.maximum(variance_HC, 0)), out=np.zeros_like(mean_HC), where=varies_HC)
    return Histories(sharpe_HC, mean_HC, log_growth_HP)


def interval95(drawn: Floats) -> tuple[float, float]:
    """Return the bounds that leave out one history in forty at either end: Efron (1979), the percentile method."""
    low, high = np.quantile(drawn, [_TAIL, 1 - _TAIL])
    return float(low), float(high)


@compiled(error_model="numpy")
def _draw(
    sums_SK: Floats,
    mean_block_bars: float,
    at_P: NDArray[np.int64],
    generator: np.random.Generator,
    totals_HK: Floats,
    log_growth_HP: Floats,
) -> None:
    """Fill the totals over each history, and the last column's running total at the given bars.

    sums_SK: running sums, a row of zeros first, so that a block costs two rows however long it is.
    """
    num_bars = len(sums_SK) - 1
    last = sums_SK.shape[1] - 1
    log_survival = np.log1p(-1 / mean_block_bars)
    for h in range(len(totals_HK)):
        done = 0
        point = 0
        while done < num_bars:
            start = int(generator.random() * num_bars)
            length = 1
            if mean_block_bars > 1:
                length += int(np.log(1 - generator.random()) / log_survival)
            # A block that would wrap is drawn as two.
            left = num_bars - done
            while length > 0 and left > 0:
                size = min(length, left, num_bars - start)
                while point < len(at_P) and at_P[point] <= done + size:
                    inside = start + at_P[point] - done
                    log_growth_HP[h, point] = totals_HK[h, last] + sums_SK[inside, last] - sums_SK[start, last]
                    point += 1
                for k in range(sums_SK.shape[1]):
                    totals_HK[h, k] += sums_SK[start + size, k] - sums_SK[start, k]
                done += size
                left -= size
                length -= size
                start = 0
