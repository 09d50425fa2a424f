"""Stretches of time, and their union and difference."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

LAST_MS = 253_402_300_799_000
"""The last time, in ms, that every calendar can tell: the end of the year 9999."""


def iso_time(timestamp: int, unit: Literal["s", "ms"] = "s") -> str:
    """Return a time in ms as ISO 8601 text to the second or millisecond, UTC; any int64 is fine."""
    return f"{np.datetime64(timestamp, 'ms').astype(f'datetime64[{unit}]')}Z"


def from_iso(text: str) -> int:
    """Return in ms the time that `iso_time` wrote. Raises ValueError for other text."""
    return int(np.datetime64(text.removesuffix("Z"), "ms").astype(np.int64))


@dataclass(frozen=True, order=True)
class Span:
    """The bars that open in [`start_ms`, `end_ms`); both lie on the interval's grid."""

    start_ms: int
    end_ms: int

    def __bool__(self) -> bool:
        """Tell whether the span holds any time."""
        return self.start_ms < self.end_ms

    def __str__(self) -> str:
        return f"{iso_time(self.start_ms)} to {iso_time(self.end_ms)}"

    def __and__(self, other: "Span") -> "Span":
        """Return what both spans hold; maybe an empty span."""
        return Span(max(self.start_ms, other.start_ms), min(self.end_ms, other.end_ms))


def union(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Return the same times as the fewest spans, sorted: neighbours are joined, empty ones left out."""
    joined: list[Span] = []
    for span in sorted(filter(None, spans)):
        if joined and span.start_ms <= joined[-1].end_ms:
            joined[-1] = Span(joined[-1].start_ms, max(joined[-1].end_ms, span.end_ms))
        else:
            joined.append(span)
    return tuple(joined)


def minus(spans: Iterable[Span], taken: Iterable[Span]) -> tuple[Span, ...]:
    """Return what `spans` hold and `taken` do not, as the fewest spans, sorted."""
    rest: list[Span] = []
    taken = union(taken)
    for span in union(spans):
        start = span.start_ms
        for hole in taken:
            rest.append(Span(start, min(hole.start_ms, span.end_ms)))
            start = max(start, hole.end_ms)
        rest.append(Span(start, span.end_ms))
    return union(rest)
