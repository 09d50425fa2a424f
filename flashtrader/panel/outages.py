"""Where a history breaks: no window, target or segment may span an outage."""

import numpy as np
from numpy.typing import NDArray

from flashtrader.interval import Interval


def stretch_starts(timestamps: NDArray[np.int64], interval: Interval, max_gap_bars: int) -> NDArray[np.int64]:
    """Return the rows (R,) at which a stretch without an outage begins; the first is 0.

    timestamps: (T,) opening times, increasing, T ≥ 1. An outage is more than `max_gap_bars` missing bars in a row.
    """
    missing = np.diff(interval.index(timestamps)) - 1
    return np.concatenate([np.zeros(1, np.int64), np.flatnonzero(missing > max_gap_bars) + 1])


def stretch_lengths(starts: NDArray[np.int64], num_rows: int) -> NDArray[np.int64]:
    """Return the rows (R,) in each of the stretches that begin at `starts` and end with row `num_rows` − 1."""
    return np.diff(starts, append=num_rows)
