"""Bar intervals by the exchange's codes: minutes as a number, D, W, M.

All times are UTC milliseconds since the epoch; a bar is labelled with its opening time.
"""

from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from flashtrader.errors import ConfigError

IntervalCode = Literal["1", "3", "5", "15", "30", "60", "120", "240", "360", "720", "D", "W", "M"]
CalendarName = Literal["24/7", "24/5", "us-equities"]

MINUTE_MS = 60_000
DAY_MS = 86_400_000
# Weeks open on Monday; the epoch was a Thursday.
_FIRST_MONDAY_MS = 4 * DAY_MS
_TRADING_TIME = {"24/7": (365, 1_440), "24/5": (260, 1_440), "us-equities": (252, 390)}


@dataclass(frozen=True)
class Interval:
    """The distance between the opening times of neighbouring bars."""

    code: IntervalCode

    @classmethod
    def parse(cls, code: str) -> "Interval":
        """Return the interval of a code. Raises ConfigError for an unknown one."""
        if code not in get_args(IntervalCode):
            raise ConfigError(f"unknown interval {code!r}: choose one of {', '.join(get_args(IntervalCode))}")
        return cls(cast("IntervalCode", code))

    @property
    def milliseconds(self) -> int:
        """Length of one bar; of a month, the average."""
        match self.code:
            case "D":
                return DAY_MS
            case "W":
                return 7 * DAY_MS
            case "M":
                return round(365.25 / 12 * DAY_MS)
            case minutes:
                return int(minutes) * MINUTE_MS

    def index(self, timestamps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of the bar that contains each time; neighbouring bars differ by one."""
        if self.code == "M":
            return timestamps.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
        offset = _FIRST_MONDAY_MS if self.code == "W" else 0
        return (timestamps - offset) // self.milliseconds

    def opening(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the opening time of each numbered bar: the inverse of `index`."""
        if self.code == "M":
            return indices.astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64)
        offset = _FIRST_MONDAY_MS if self.code == "W" else 0
        return indices * self.milliseconds + offset

    def floor(self, timestamp: int) -> int:
        """Return the opening time of the bar that contains `timestamp`."""
        return int(self.opening(self.index(np.array([timestamp], dtype=np.int64)))[0])

    def close(self, timestamps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return when the bars that open at `timestamps` close: from then on they are known."""
        return self.opening(self.index(timestamps) + 1)

    def divides(self, longer: "Interval") -> bool:
        """Tell whether every bar of `longer` consists of whole bars of this interval."""
        if self == longer:
            return True
        if longer.code == "M":
            return self.code != "W"
        return self.code != "M" and longer.milliseconds % self.milliseconds == 0

    def bars_per_year(self, calendar: CalendarName = "24/7") -> float:
        """Return how many bars a year of the calendar holds: 8,760 hourly ones around the clock."""
        days, minutes_per_day = _TRADING_TIME[calendar]
        match self.code:
            case "D":
                return float(days)
            case "W":
                return days / 7 if calendar == "24/7" else 52.0
            case "M":
                return 12.0
            case minutes:
                return days * minutes_per_day / int(minutes)
