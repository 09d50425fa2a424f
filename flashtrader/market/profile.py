"""What finding and explaining holes needs to know of a history: three bits a bar, kept beside it.

A history of years is extended by minutes; its profile is read in their stead, so that only the parts that changed are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from flashtrader.files import readable, replacing
from flashtrader.interval import Interval
from flashtrader.market.bars import Bars


@dataclass(frozen=True)
class Profile:
    """Which bars there are, and in which of them something was traded, or nothing at a second price."""

    index: NDArray[np.int64]
    """(N,) numbers of the bars, by `Interval.index`, increasing."""
    flat: NDArray[np.bool_]
    """(N,) whether the highest price is the lowest."""
    traded: NDArray[np.bool_]
    """(N,) whether the volume is above zero."""

    @classmethod
    def of(cls, bars: Bars, interval: Interval) -> Self:
        """Return the profile of valid bars."""
        flat = bars["high"].to_numpy() == bars["low"].to_numpy()
        return cls(interval.index(bars["timestamp"].to_numpy()), flat, bars["volume"].to_numpy() > 0)

    @classmethod
    def joined(cls, profiles: Sequence[Self]) -> Self:
        """Return one profile of several, in order of time."""
        nothing = [np.empty(0, np.int64), np.empty(0, bool), np.empty(0, bool)]
        columns = [[profile.index, profile.flat, profile.traded] for profile in profiles]
        return cls(*(np.concatenate(column) for column in zip(nothing, *columns, strict=True)))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what `write` wrote; of a file that is missing or damaged, an empty profile: it can be made anew.

        Raises UnreadableError.
        """
        if not path.exists():
            return cls.joined([])
        with readable(path):
            data = path.read_bytes()
        try:
            with np.load(BytesIO(data), allow_pickle=False) as stored:
                there, flat, traded = (np.unpackbits(stored[name]).astype(bool) for name in ("there", "flat", "traded"))
                slots = np.flatnonzero(there)
                return cls(slots + int(stored["first"]), flat[slots], traded[slots])
        except Exception:  # beside their own errors, whatever zipfile, zlib and numpy make of a flipped bit
            return cls.joined([])

    def write(self, path: Path) -> None:
        """Replace `path` by the profile: a bit for each bar that there could be between the first and the last."""
        first = int(self.index[0]) if len(self.index) else 0
        slots = self.index - first
        bits = np.zeros((3, int(slots[-1]) + 1 if len(slots) else 0), bool)
        for row, column in zip(bits, (True, self.flat, self.traded), strict=True):
            row[slots] = column
        there, flat, traded = np.packbits(bits, axis=1)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, first=first, there=there, flat=flat, traded=traded)

    def between(self, first: int, end: int) -> "Profile":
        """Return the bars numbered from `first` to before `end`."""
        rows = slice(*np.searchsorted(self.index, [first, end]))
        return Profile(self.index[rows], self.flat[rows], self.traded[rows])
