"""Means over the last bars, restarted at every stretch; compiled, for a history may hold thousands of stretches.

Each takes values (T,), the first rows `starts` (R,) of the stretches, and `unknown`: how many leading values of a
stretch don't exist (a return has no value at the first bar). Each returns float64 (T,), NaN where a window isn't full.
A value depends on no later one, to the last bit.
"""

import numpy as np
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.compiled import compiled


@compiled(nogil=True)
def rolling_mean(values: Floats, starts: NDArray[np.int64], unknown: int, window: int) -> Floats:
    """Return the mean of the last `window` values.

    A window is the tail of one block of `window` values and the head of the next (van Herk 1992). Only sums, nothing is
    taken off a running total: a large value leaves no rounding error behind, at the same cost for every window.
    """
    means = np.full(len(values), np.nan)
    if window > len(values):
        return means
    tails = np.zeros(window + 1)
    for stretch in range(len(starts)):
        first = starts[stretch] + unknown
        stop = starts[stretch + 1] if stretch + 1 < len(starts) else len(values)
        for block in range(first, stop, window):
            head = 0.0
            for row in range(block, min(block + window, stop)):
                head += values[row]
                taken = row - block + 1
                if block > first or taken == window:
                    means[row] = (tails[taken] + head) / window
            if block + window <= stop:
                for back in range(window - 1, -1, -1):
                    tails[back] = tails[back + 1] + values[block + back]
    return means


@compiled(nogil=True)
def wilder_mean(values: Floats, starts: NDArray[np.int64], unknown: int, window: int) -> Floats:
    """Return Wilder's smoothed mean: the mean of the first `window` values, then mean += (value − mean) / window.

    Wilder (1978), New Concepts in Technical Trading Systems, section VI.
    """
    means = np.full(len(values), np.nan)
    for stretch in range(len(starts)):
        first = starts[stretch] + unknown
        stop = starts[stretch + 1] if stretch + 1 < len(starts) else len(values)
        if stop - first < window:
            continue
        mean = values[first : first + window].mean()
        means[first + window - 1] = mean
        for row in range(first + window, stop):
            mean += (values[row] - mean) / window
            means[row] = mean
    return means
