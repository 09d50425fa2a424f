"""Fewer points for the same picture: what a long series looks like survives, what no pixel could show goes."""

import numpy as np
from numpy.typing import NDArray

from flashtrader.arrays import Floats

Rows = NDArray[np.int64]


def bucket_starts(num_rows: int, num_buckets: int) -> Rows:
    """Return the first row of each of at most `num_buckets` stretches of nearly equal length."""
    num_buckets = min(num_rows, num_buckets)
    return np.arange(num_buckets) * num_rows // max(1, num_buckets)


def bucket_means(values_T: Floats, starts_C: Rows) -> Floats:
    """Return the mean value of each stretch that begins at `starts_C`, shape (C,)."""
    return np.add.reduceat(values_T, starts_C) / np.diff(np.append(starts_C, len(values_T)))


def thin(values_T: Floats, num_buckets: int = 1_500) -> Rows:
    """Return the rows to draw: of every stretch the first, lowest, highest and last; all rows of a short series.

    A line through them covers the same pixels as the line through every row, so no extreme is lost. This is M4
    aggregation: Jugel, Jerzak, Hackenbroich & Markl (2014), "M4: a visualization-oriented time series data
    aggregation". NaN is no extreme.
    """
    num_rows = len(values_T)
    if num_rows <= 4 * num_buckets:
        return np.arange(num_rows)
    first = bucket_starts(num_rows, num_buckets)
    last = np.append(first[1:], num_rows) - 1
    rows = np.minimum(first[:, None] + np.arange((last - first).max() + 1), last[:, None])
    block = values_T[rows]
    unknown = np.isnan(block)
    lowest = first + np.where(unknown, np.inf, block).argmin(axis=1)
    highest = first + np.where(unknown, -np.inf, block).argmax(axis=1)
    return np.unique(np.concatenate([first, lowest, highest, last]))
