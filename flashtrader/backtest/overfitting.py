"""Whether choosing the best of many backtests chooses anything but luck."""

from itertools import combinations

import numpy as np

from flashtrader.arrays import Floats
from flashtrader.errors import DataError

NUM_BLOCKS = 16
_COMBINATIONS_AT_ONCE = 1_000


def probability_of_overfitting(returns_TN: Floats, num_blocks: int = NUM_BLOCKS) -> float:
    """Return how often the trial that is best in half of the time is below the median of trials in the other half.

    returns_TN: of a bar, for N trials over the same bars. The halves are all ways to choose half of `num_blocks` blocks
    of neighbouring bars, judged by Sharpe ratio; a trial at the median counts half. Near 0.5 where no trial is better
    than another. Raises DataError for fewer than two trials, or two bars a block.
    Bailey, Borwein, López de Prado & Zhu (2017), The Probability of Backtest Overfitting, section 2.
    """
    num_bars, num_trials = returns_TN.shape
    if num_trials < 2 or num_bars < 2 * num_blocks:
        raise DataError(f"{num_trials} trials of {num_bars} bars: needs 2 trials and {2 * num_blocks} bars")
    starts = np.linspace(0, num_bars, num_blocks, endpoint=False).astype(np.int64)
    bars_B1 = np.diff(starts, append=num_bars)[:, None]
    sums_BN, squares_BN = (np.add.reduceat(values_TN, starts, axis=0) for values_TN in (returns_TN, returns_TN**2))

    def ratios(chosen_CB: Floats) -> Floats:
        bars_C1 = chosen_CB @ bars_B1
        mean_CN = chosen_CB @ sums_BN / bars_C1
        variance_CN = chosen_CB @ squares_BN / bars_C1 - mean_CN**2
        varies_CN = variance_CN > 1e-12 * mean_CN**2
        deviation_CN = np.sqrt(np.maximum(variance_CN, 0))
        return np.divide(mean_CN, deviation_CN, out=np.zeros_like(mean_CN), where=varies_CN)

    halves = list(combinations(range(num_blocks), num_blocks // 2))
    overfitted = 0.0
    for first in range(0, len(halves), _COMBINATIONS_AT_ONCE):
        part = halves[first : first + _COMBINATIONS_AT_ONCE]
        chosen_CB = np.zeros((len(part), num_blocks))
        np.put_along_axis(chosen_CB, np.array(part), 1.0, axis=1)
        best_C1 = ratios(chosen_CB).argmax(axis=1)[:, None]
        beside_CN = ratios(1 - chosen_CB)
        own_C1 = np.take_along_axis(beside_CN, best_C1, axis=1)
        better_C = (beside_CN > own_C1).sum(axis=1)
        worse_C = (beside_CN < own_C1).sum(axis=1)
        overfitted += float((better_C > worse_C).sum() + 0.5 * (better_C == worse_C).sum())
    return overfitted / len(halves)
