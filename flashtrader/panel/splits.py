"""Training, validation and test by time, with the rows purged whose target reaches into the next part."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import numpy as np

from flashtrader.config import SplitConfig
from flashtrader.errors import ConfigError, DataError
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
class Boundaries:
    """What divides any panel as the run's own was divided. Times in ms are opening times of bars."""

    validation_start_ms: int
    test_start_ms: int
    end_ms: int
    """Close of the newest bar, or the moment after the newest snapshot, when the split was made; the test part of a
    panel that goes on goes on with it."""
    horizon_bars: int
    embargo_bars: int

    @classmethod
    def read(cls, recorded: object) -> "Boundaries":
        """Return the boundaries in what `Split.describe` recorded. Raises DataError when one is missing."""
        if not isinstance(recorded, Mapping):
            raise DataError("manifest.json: split is missing; train the run again")
        names = [field.name for field in fields(cls)]
        broken = [name for name in names if not isinstance(recorded.get(name), int)]
        if broken:
            raise DataError(f"manifest.json: split.{broken[0]} is missing or no whole number; train the run again")
        return cls(**{name: recorded[name] for name in names})


@dataclass(frozen=True)
class Split:
    """The label rows of each part: those whose target stays within the part. The test part runs to the panel's end."""

    train: Rows
    validation: Rows
    test: Rows
    boundaries: Boundaries

    def describe(self) -> dict[str, Any]:
        """Return the split as JSON for the manifest: boundaries, and the rows of each part. `split_at` reads it."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return asdict(self.boundaries) | {f"{name}_rows": [rows.start, rows.stop] for name, rows in parts.items()}


def split_by_time(panel: Panel, config: SplitConfig, horizon_bars: int) -> Split:
    """Return the panel's split by fractions of its rows or by dates.

    Raises ConfigError when a part has no row whose target stays within it.
    """
    num_rows = len(panel.timestamps)
    test_row = _first_row(panel, config.test, num_rows)
    validation_row = _first_row(panel, config.validation, test_row)
    inside, across = horizon_bars, horizon_bars + config.embargo_bars
    for key, part, size, needed in (
        ("validation", "training", validation_row, across),
        ("validation", "validation", test_row - validation_row, across),
        ("test", "test", num_rows - test_row, inside),
    ):
        if size <= needed:
            raise ConfigError(
                f"split.{key}: the {part} part would hold {size} of the {num_rows} bars, but a target ends inside it "
                f"only with more than {needed} (panel.target.horizon_bars is {horizon_bars}, split.embargo_bars "
                f"{config.embargo_bars}); move the boundary or fetch more bars"
            )
    boundaries = Boundaries(
        validation_start_ms=int(panel.timestamps[validation_row]),
        test_start_ms=int(panel.timestamps[test_row]),
        end_ms=int(panel.known_ms[-1]) + (panel.interval is None),
        horizon_bars=horizon_bars,
        embargo_bars=config.embargo_bars,
    )
    return _divide(panel, boundaries)


def split_at(panel: Panel, recorded: object) -> Split:
    """Return the split of any panel at the times that `Split.describe` recorded; a part may be empty here.

    Raises DataError when the record is damaged.
    """
    return _divide(panel, Boundaries.read(recorded))


def _first_row(panel: Panel, start: float | datetime, stop_row: int) -> int:
    """Return the first row of a part that ends before `stop_row`: a fraction of all rows, or from a date on."""
    if isinstance(start, datetime):
        return _row_at(panel, round(start.timestamp() * 1000))
    return max(0, stop_row - round(start * len(panel.timestamps)))


def _divide(panel: Panel, boundaries: Boundaries) -> Split:
    """Purge: the target at row i ends with row i + horizon, so a part's labels stop horizon + embargo rows early."""
    validation_row = _row_at(panel, boundaries.validation_start_ms)
    test_row = _row_at(panel, boundaries.test_start_ms)
    purged = boundaries.horizon_bars + boundaries.embargo_bars
    return Split(
        train=Rows(0, max(0, validation_row - purged)),
        validation=Rows(validation_row, max(validation_row, test_row - purged)),
        test=Rows(test_row, len(panel.timestamps)),
        boundaries=boundaries,
    )


def _row_at(panel: Panel, time_ms: int) -> int:
    return int(np.searchsorted(panel.timestamps, time_ms))
