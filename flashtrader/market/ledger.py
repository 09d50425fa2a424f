"""The ledger beside a stored history: what the source answered, what failed, and why each missing bar is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from flashtrader.interval import Interval
from flashtrader.market.gaps import Failure, Gap, Reason, find_gaps
from flashtrader.market.profile import Profile
from flashtrader.market.records import Count, Record, SpanRecord, Time, part_of
from flashtrader.market.spans import Span, iso_time, minus, union

__all__ = ["Failure", "Gap", "Ledger"]


class _GapRecord(SpanRecord):
    bars: Count
    reason: Reason
    evidence: str


class _FailureRecord(SpanRecord):
    error: str


class _Recorded(Record):
    """The JSON of a ledger; its names are a contract with users' scripts."""

    examined: bool
    rows: Count
    first: Time | None
    last: Time | None
    gaps: list[_GapRecord]
    failed: list[_FailureRecord]
    answered: list[SpanRecord]
    parts: list[Annotated[str, part_of("bars")]]
    changed: list[Annotated[str, part_of("bars")]]


@dataclass(frozen=True)
class Ledger:
    """What is known about a stored history beside its bars."""

    answered: tuple[Span, ...] = ()
    """What the source has answered; none of it is asked for again."""
    failed: tuple[Failure, ...] = ()
    """What it failed to answer, and why; the next fetch asks again."""
    parts: tuple[str, ...] = ()
    """The part files there were: when one is gone, its time is no longer answered."""
    changed: tuple[str, ...] = ()
    """Those that were written, or about to be, since the history's profile was."""
    examined: bool = False
    """Whether the rest describes the bars as they are. Only a fetch that was killed leaves this false."""
    rows: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    gaps: tuple[Gap, ...] = ()

    def unexamined(self) -> "Ledger":
        """Return the ledger without what describes the bars."""
        return Ledger(self.answered, self.failed, self.parts, self.changed)

    def with_change(self, parts: Sequence[str]) -> "Ledger":
        """Return the ledger with some parts about to be written."""
        return replace(self.unexamined(), changed=tuple(sorted({*self.changed, *parts})))

    def with_answer(self, span: Span) -> "Ledger":
        """Return the ledger with `span` answered, and no longer failed."""
        return replace(self.unexamined(), answered=union([*self.answered, span]), failed=self._failed_outside(span))

    def with_failure(self, span: Span, error: str) -> "Ledger":
        """Return the ledger with all of `span` that is not answered failed; older errors there are forgotten."""
        newer = tuple(Failure(rest, error) for rest in minus([span], self.answered))
        return replace(self.unexamined(), failed=(*self._failed_outside(span), *newer))

    def without(self, spans: Sequence[Span]) -> "Ledger":
        """Return the ledger with none of `spans` answered."""
        return replace(self.unexamined(), answered=minus(self.answered, spans))

    def examine(
        self, profile: Profile, interval: Interval, source: str, outages_elsewhere: Mapping[str, Sequence[Span]]
    ) -> "Ledger":
        """Return the ledger with rows, extent and gaps as the profile of the whole history shows them."""
        first_and_last = interval.opening(profile.index[[0, -1]]).tolist() if len(profile.index) else (None, None)
        return replace(
            self,
            changed=(),
            examined=True,
            rows=len(profile.index),
            first_ms=first_and_last[0],
            last_ms=first_and_last[1],
            gaps=find_gaps(profile, interval, self.answered, self.failed, source, outages_elsewhere),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the ledger as JSON values, times as ISO text."""
        return {
            "examined": self.examined,
            "rows": self.rows,
            "first": None if self.first_ms is None else iso_time(self.first_ms),
            "last": None if self.last_ms is None else iso_time(self.last_ms),
            "gaps": [
                _to_json(gap.span) | {"bars": gap.bars, "reason": gap.reason, "evidence": gap.evidence}
                for gap in self.gaps
            ],
            "failed": [_to_json(failure.span) | {"error": failure.error} for failure in self.failed],
            "answered": [_to_json(span) for span in self.answered],
            "parts": list(self.parts),
            "changed": list(self.changed),
        }

    @classmethod
    def from_json(cls, value: Any) -> "Ledger":
        """Return the ledger that `to_json` made. Raises ValidationError for anything else."""
        recorded = _Recorded.model_validate(value)
        return cls(
            answered=tuple(item.span for item in recorded.answered),
            failed=tuple(Failure(item.span, item.error) for item in recorded.failed),
            parts=tuple(recorded.parts),
            changed=tuple(recorded.changed),
            examined=recorded.examined,
            rows=recorded.rows,
            first_ms=recorded.first,
            last_ms=recorded.last,
            gaps=tuple(Gap(item.start, item.end, item.bars, item.reason, item.evidence) for item in recorded.gaps),
        )

    def _failed_outside(self, span: Span) -> tuple[Failure, ...]:
        return tuple(Failure(rest, old.error) for old in self.failed for rest in minus([old.span], [span]))


def _to_json(span: Span) -> dict[str, Any]:
    return {"start": iso_time(span.start_ms), "end": iso_time(span.end_ms)}
