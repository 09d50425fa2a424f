"""Funding of perpetuals: when it was settled, and at which rate.

A table of settlements has `timestamp`, UTC ms since the epoch, int64, and `rate`, float64: the part of a position's
value that longs paid to shorts. Exchanges settle every 8, 4, 2 or 1 hours, and change that from market to market and
from time to time.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.errors import DataError
from flashtrader.market.columns import CORRECT, typed_columns
from flashtrader.market.spans import Span, iso_time, minus

Settlements = pd.DataFrame

COLUMNS = ("timestamp", "rate")
LONGEST_INTERVAL_MS = 8 * 3_600_000
_LARGEST_RATE = 1.0


def no_settlements() -> Settlements:
    """Return a table of settlements without a row."""
    return pd.DataFrame({"timestamp": np.empty(0, np.int64), "rate": np.empty(0, np.float64)})


def validate_settlements(table: pd.DataFrame, where: str, advice: str = CORRECT) -> Settlements:
    """Return `timestamp` and `rate`, in their types, with a fresh index; other columns are left out.

    `where` begins every message, and `advice` ends it. Raises DataError for a missing or non-numeric column, for
    settlements out of order or twice there, and for a rate that is not finite or as large as the position itself.
    """
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise DataError(f"{where}: no column {missing[0]}; settlements have {' and '.join(COLUMNS)}")
    columns = typed_columns(table, ["rate"], where)
    timestamps, rates = columns["timestamp"], columns["rate"]

    def refuse(bad: NDArray[np.bool_], problem: str) -> None:
        if bad.any():
            row = int(bad.argmax())
            at = iso_time(int(timestamps[row]))
            raise DataError(f"{where}: settlement {at} {problem} (rate {rates[row]:g}); {advice}")

    steps = np.diff(timestamps, prepend=timestamps[:1] - 1)
    refuse(steps == 0, "is there twice")
    refuse(steps < 0, "is out of order: times must increase")
    refuse(~(np.abs(rates) < _LARGEST_RATE), "has no usable rate: a fraction of the position's value")
    return pd.DataFrame(columns)


@dataclass(frozen=True)
class FundingHistory:
    """What is stored of one market's funding."""

    settlements: Settlements
    answered: tuple[Span, ...]
    """The time of which every settlement is there."""
    where: str
    """Its directory, which begins every message."""
    fetch_command: str
    """The command that extends it."""

    def during(self, start_ms: int, end_ms: int) -> Settlements:
        """Return the settlements after `start_ms`, up to `end_ms` itself.

        Raises DataError where any of that time is not covered: funding that is missing is not zero funding. So it does
        where 8 hours pass without a settlement, longer than any exchange waits.
        """
        missing = minus([Span(start_ms + 1, end_ms + 1)], self.answered)
        timestamps = self.settlements["timestamp"].to_numpy()
        if not missing:
            inside = timestamps[(timestamps > start_ms) & (timestamps <= end_ms)]
            known = np.concatenate([[start_ms], inside, [end_ms]])
            silent = np.flatnonzero(np.diff(known) > LONGEST_INTERVAL_MS)
            missing = tuple(Span(int(known[place]), int(known[place + 1])) for place in silent)
        if missing:
            raise DataError(
                f"{self.where}: no funding from {missing[0]}, which the backtest covers; get it with "
                f"`{self.fetch_command} --start {iso_time(start_ms)[:16]}`, or set backtest.funding_rate to a number "
                "or null"
            )
        return self.settlements[(timestamps > start_ms) & (timestamps <= end_ms)].reset_index(drop=True)
