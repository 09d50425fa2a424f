"""The ledger beside stored order books: their unbroken runs, and why nobody vouches for the time between two."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from flashtrader.market.books import Books
from flashtrader.market.records import Count, Record, Time, part_of
from flashtrader.market.spans import iso_time

Reason = Literal[
    "began",  # a recording or a file begins here
    "disconnected",  # the connection broke or fell silent
    "out_of_sequence",  # an update was skipped, or came late
    "restarted",  # the exchange started the book afresh
    "crossed",  # the best bid reached the best ask: an update must have been lost
    "one_sided",  # no bid or no ask: no snapshot to store
    "halted",  # trading was halted
    "joined",  # the file goes on with another day or market
    "unexplained",  # a part file, or the ledger that said why, is gone
]


class Break(NamedTuple):
    """Why the book is not known between two snapshots."""

    reason: Reason
    evidence: str


UNEXPLAINED = Break("unexplained", "the file that held more, or said why, is gone")


@dataclass(frozen=True)
class Run:
    """Snapshots of an unbroken book."""

    first_ms: int
    last_ms: int
    rows: int
    broken: Break
    """Why the book before the first of them is not known."""


class _RunRecord(Record):
    first: Time
    last: Time
    rows: Count
    gap_before: Reason
    evidence: str


class _Recorded(Record):
    """The JSON of a ledger; its names are a contract with users' scripts."""

    runs: list[_RunRecord]
    parts: list[Annotated[str, part_of("books")]]
    examined: bool


@dataclass(frozen=True)
class BookLedger:
    """What is known about stored books beside their rows."""

    runs: tuple[Run, ...] = ()
    """In order of time."""
    parts: tuple[str, ...] = ()
    """The part files there were."""
    examined: bool = True
    """Whether the runs describe the rows as they are. Only a writer that was killed leaves this false."""

    @property
    def rows(self) -> int:
        """Number of stored snapshots."""
        return sum(run.rows for run in self.runs)

    @property
    def last_ms(self) -> int | None:
        """Time of the newest snapshot."""
        return self.runs[-1].last_ms if self.runs else None

    @property
    def gaps(self) -> dict[str, int]:
        """Number of gaps between the runs, by reason."""
        return dict(Counter(run.broken.reason for run in self.runs[1:]))

    def to_json(self) -> dict[str, Any]:
        """Return the ledger as JSON values, times as ISO text."""
        return {
            "examined": self.examined,
            "rows": self.rows,
            "runs": [
                {
                    "first": iso_time(run.first_ms, "ms"),
                    "last": iso_time(run.last_ms, "ms"),
                    "rows": run.rows,
                    "gap_before": run.broken.reason,
                    "evidence": run.broken.evidence,
                }
                for run in self.runs
            ],
            "parts": list(self.parts),
        }

    @classmethod
    def from_json(cls, value: Any) -> "BookLedger":
        """Return the ledger that `to_json` made. Raises ValidationError for anything else."""
        recorded = _Recorded.model_validate(value)
        runs = (Run(run.first, run.last, run.rows, Break(run.gap_before, run.evidence)) for run in recorded.runs)
        return cls(tuple(runs), tuple(recorded.parts), recorded.examined)


def find_runs(books: Books, breaks: Mapping[int, Break]) -> tuple[Run, ...]:
    """Return the runs that `gap_before` and the first row begin.

    breaks: by the time of a run's first snapshot, why the book before it is not known.
    """
    timestamps = books["timestamp"].to_numpy()
    first = np.flatnonzero(books["gap_before"].to_numpy() | (np.arange(len(books)) == 0))
    last = np.append(first[1:], len(books)) - 1 if len(books) else first
    extents = zip(timestamps[first].tolist(), timestamps[last].tolist(), (last - first + 1).tolist(), strict=True)
    return tuple(Run(*extent, breaks.get(extent[0], UNEXPLAINED)) for extent in extents)
