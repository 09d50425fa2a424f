"""Long overlapping segments of a panel, as views: a window is copied only into the batch that asks for it."""

from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from flashtrader.errors import ConfigError
from flashtrader.panel.panel import Panel
from flashtrader.panel.splits import Rows


class Batch(NamedTuple):
    """B segments of S bars."""

    values: NDArray[np.float32]
    """(B, S, E, F) unscaled."""
    mask: NDArray[np.bool_]
    """(B, S, E)"""
    targets: NDArray[np.float32]
    """(B, S, K) NaN in the warm-up, outside the label rows, and where unknown."""


class Segments:
    """Every segment that trains on the label rows of a panel.

    A segment lies inside one run and ends before `rows.stop`. It may begin before `rows.start`, for context alone: rows
    outside `rows` carry no label, nor do its first `warmup_bars` rows. Each segment has at least one label.
    """

    starts: NDArray[np.int64]
    """First rows of all segments, increasing."""
    values: NDArray[np.float32]
    """(T − S + 1, S, E, F) a view of the panel: the window that begins at each row, be it a segment or not."""
    mask: NDArray[np.bool_]
    """(T − S + 1, S, E)"""
    targets: NDArray[np.float32]
    """(T − S + 1, S, K)"""

    def __init__(self, panel: Panel, rows: Rows, segment_bars: int, warmup_bars: int) -> None:
        """Find the segments. Raises ConfigError when no run is long enough for one, or none would have a label."""
        self.rows, self.segment_bars, self.warmup_bars = rows, segment_bars, warmup_bars
        self.starts = _starts(panel, rows, segment_bars, warmup_bars)
        self.values = _windows(panel.values, segment_bars)
        self.mask = _windows(panel.mask, segment_bars)
        self.targets = _windows(panel.targets, segment_bars)

    def __len__(self) -> int:
        """Return how many segments there are."""
        return len(self.starts)

    def batch(self, starts: NDArray[np.int64]) -> Batch:
        """Return the segments that begin at these of `self.starts`, copied into one batch."""
        return Batch(self.values[starts], self.mask[starts], self.labels(starts))

    def labels(self, starts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the targets of a batch alone (B, S, K)."""
        targets: NDArray[np.float32] = self.targets[starts]
        row_BS = starts[:, None] + np.arange(self.segment_bars)
        targets[(row_BS < self.rows.start) | (row_BS >= self.rows.stop)] = np.nan
        targets[:, : self.warmup_bars] = np.nan
        return targets


def _windows(array: NDArray[Any], segment_bars: int) -> NDArray[Any]:
    return np.moveaxis(sliding_window_view(array, segment_bars, axis=0), -1, 1)


def _starts(panel: Panel, rows: Rows, segment_bars: int, warmup_bars: int) -> NDArray[np.int64]:
    run_stops = np.minimum(panel.run_starts + panel.run_lengths, rows.stop)
    longest = (run_stops - panel.run_starts)[run_stops > rows.start].max(initial=0)
    if longest < segment_bars:
        raise ConfigError(
            f"training.segment_bars: a segment has {segment_bars} bars, but the longest stretch without an outage has "
            f"{longest} up to the end of this part; lower it, raise panel.max_gap_bars, or fetch more bars"
        )
    starts: NDArray[np.int64] = np.concatenate(
        [np.arange(start, stop - segment_bars + 1) for start, stop in zip(panel.run_starts, run_stops, strict=True)]
    )
    labels_before = np.zeros(rows.stop + 1, np.int64)
    np.cumsum(np.isfinite(panel.targets[rows.start : rows.stop]).any(axis=1), out=labels_before[rows.start + 1 :])
    labelled: NDArray[np.bool_] = labels_before[starts + segment_bars] > labels_before[starts + warmup_bars]
    if not labelled.any():
        raise ConfigError(
            f"training.warmup_bars: behind the {warmup_bars} warm-up bars of a segment of {segment_bars} no bar has a "
            "known target; lower it, shorten panel.target.horizon_bars, or fetch more bars"
        )
    return starts[labelled]
