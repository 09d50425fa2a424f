"""Training, validation and test by time, once or in walk-forward folds, with the rows purged that reach across.

What is known at row i is the bar i, closed. Its label is known at the close of row i + horizon; a position that is
filled at the open of bar i + 1, and held as long, ends at the open of bar i + horizon + 1. `Experiment.reach_bars` is
the farther of the two, in bars from i. A part's labels stop at the last row from which both stay within it:
stop − 1 + reach + embargo is the row before the next part. So nothing of a later part is in an earlier one's labels,
nor in what an earlier one's decisions earned.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from flashtrader.config import SplitConfig
from flashtrader.errors import ConfigError
from flashtrader.manifest import Boundaries
from flashtrader.panel.panel import Panel


@dataclass(frozen=True)
class Rows:
    """The rows [start, stop) of a panel."""

    start: int
    stop: int

    def __len__(self) -> int:
        """Return how many rows there are."""
        return self.stop - self.start


@dataclass(frozen=True)
class Split:
    """The label rows of each part: those whose outcome stays within the part.

    The test part runs to the panel's end, or, of a fold, to the end of what it forecasts.
    """

    train: Rows
    validation: Rows
    test: Rows
    boundaries: Boundaries

    def describe(self) -> dict[str, Any]:
        """Return the split as JSON for the manifest: boundaries, and the rows of each part."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return self.boundaries.model_dump() | {f"{name}_rows": [rows.start, rows.stop] for name, rows in parts.items()}


def split_by_time(panel: Panel, config: SplitConfig, reach_bars: int) -> Split:
    """Return the panel's split by fractions of its rows or by dates; walking forward, all that is forecast is its test.

    reach_bars: `Experiment.reach_bars`. Walking forward, training and validation are those of the first fold.
    Raises ConfigError when a part has no row whose outcome stays within it.
    """
    num_rows = len(panel.timestamps)
    if config.walk_forward is not None:
        first = split_into_folds(panel, config, reach_bars)[0]
        boundaries = first.boundaries.model_copy(update={"end_ms": _end_ms(panel, num_rows)})
        return replace(first, test=Rows(first.test.start, num_rows), boundaries=boundaries)
    test_row = _first_row(panel, config.test, num_rows)
    validation_row = _first_row(panel, config.validation, test_row)
    train_row = _row_at(panel, _milliseconds(config.train)) if config.train else 0
    inside, across = reach_bars, reach_bars + config.embargo_bars
    for key, part, size, needed in (
        ("validation", "training", validation_row - train_row, across),
        ("validation", "validation", test_row - validation_row, across),
        ("test", "test", num_rows - test_row, inside),
    ):
        if size <= needed:
            raise ConfigError(
                f"split.{key}: the {part} part would hold {max(0, size)} of the {num_rows} bars, but what comes of a "
                f"decision stays inside it only with more than {needed} ({_purge_of(config, reach_bars)}); move the "
                "boundary or fetch more bars"
            )
    return _split_rows(panel, (train_row, validation_row, test_row, num_rows), config, reach_bars)


def split_into_folds(panel: Panel, config: SplitConfig, reach_bars: int) -> list[Split]:
    """Return the walk-forward folds of a panel, oldest first; their test parts cover each row after the first's start.

    A fold's test part has `test` rows, and the next fold's begins `step` rows after it. There is a fold as long as one
    outcome would be known in its test part; the last one's runs to the panel's end. Raises ConfigError when the history
    is too short for a fold, or a part too short for an outcome.
    """
    walk, num_rows = config.walk_forward, len(panel.timestamps)
    assert walk is not None
    across = reach_bars + config.embargo_bars
    for key, size in (("train", walk.train), ("validation", walk.validation)):
        if size <= across:
            raise ConfigError(
                f"split.walk_forward.{key}: what comes of a decision stays inside {size} bars only with more than "
                f"{across} ({_purge_of(config, reach_bars)}); raise it"
            )
    seen = walk.train + walk.validation
    test_rows = range(seen, num_rows - reach_bars, walk.step_bars)
    if not test_rows:
        raise ConfigError(
            f"split.walk_forward: one fold takes {seen + reach_bars + 1} bars (train {walk.train}, validation "
            f"{walk.validation}, and {reach_bars + 1} until the first outcome of the test), and there are {num_rows}; "
            "shorten the parts or fetch more bars"
        )
    folds = []
    for test_row in test_rows:
        train_row = test_row - seen if walk.mode == "rolling" else 0
        stop_row = num_rows if test_row == test_rows[-1] else min(test_row + walk.test, num_rows)
        rows = (train_row, test_row - walk.validation, test_row, stop_row)
        folds.append(_split_rows(panel, rows, config, reach_bars))
    return folds


def split_at(panel: Panel, boundaries: Boundaries) -> Split:
    """Return the split of any panel at the times that divided another; a part may be empty here.

    Purges: what comes of a decision at row i ends with row i + reach, so labels stop reach + embargo rows early.
    """
    train_row = _row_at(panel, boundaries.train_start_ms)
    validation_row = _row_at(panel, boundaries.validation_start_ms)
    test_row = _row_at(panel, boundaries.test_start_ms)
    purged = boundaries.reach_bars + boundaries.embargo_bars
    return Split(
        train=Rows(train_row, max(train_row, validation_row - purged)),
        validation=Rows(validation_row, max(validation_row, test_row - purged)),
        test=Rows(test_row, len(panel.timestamps)),
        boundaries=boundaries,
    )


def _split_rows(panel: Panel, rows: tuple[int, int, int, int], config: SplitConfig, reach_bars: int) -> Split:
    """Return the split whose parts begin at the first three rows and end before the fourth."""
    train_row, validation_row, test_row, stop_row = rows
    boundaries = Boundaries(
        train_start_ms=int(panel.timestamps[train_row]),
        validation_start_ms=int(panel.timestamps[validation_row]),
        test_start_ms=int(panel.timestamps[test_row]),
        end_ms=_end_ms(panel, stop_row),
        reach_bars=reach_bars,
        embargo_bars=config.embargo_bars,
    )
    return replace(split_at(panel, boundaries), test=Rows(test_row, stop_row))


def _end_ms(panel: Panel, stop_row: int) -> int:
    """Return the close of the last bar before a row, or the moment after the last snapshot."""
    return int(panel.known_ms[stop_row - 1]) + (panel.interval is None)


def _purge_of(config: SplitConfig, reach_bars: int) -> str:
    return f"the target and the entry reach {reach_bars} bars ahead, split.embargo_bars is {config.embargo_bars}"


def _first_row(panel: Panel, start: float | datetime, stop_row: int) -> int:
    """Return the first row of a part that ends before `stop_row`: a fraction of all rows, or from a date on."""
    if isinstance(start, datetime):
        return _row_at(panel, _milliseconds(start))
    return max(0, stop_row - round(start * len(panel.timestamps)))


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _row_at(panel: Panel, time_ms: int) -> int:
    return int(np.searchsorted(panel.timestamps, time_ms))
