"""Why a bar is not there: every hole in a history, with a reason and the evidence for it.

Where the source did not answer, the hole is `fetch_failed`. A hole of n bars that it did answer is, in this order:

1. `no_trades`, closing hours. The market keeps trading hours (some times of the week never have a bar, others nearly
   always do), and the hole, five days long at most, holds times that are mostly empty in the four weeks either side.
2. `no_trades`, thin trading. Trades that arrive as a Poisson process leave a single trade, hence one price, in the
   share s = λ / (exp(λ) − 1) of the bars that exist, and no trade at all in q = exp(−λ) of all. s is counted over the
   60 bars either side; the history would then have about `slots · q**n` such holes by chance, and 0.01 of one is
   enough. A source that writes bars of zero volume leaves no hole where nothing was traded: q = 0. Another symbol's
   outage over the same bars overrules chance: then it is an `outage`.
3. `fetch_failed`, lost pages. Four or more holes in a row, none of them chance, have one length and one distance, which
   is 100 bars at least and not a whole number of days. No exchange fails so regularly: a download skipped a part of
   each page.
4. `outage`: what is left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.interval import DAY_MS, Interval
from flashtrader.market.profile import Profile
from flashtrader.market.spans import Span, minus

Reason = Literal["no_trades", "outage", "fetch_failed"]

_NEIGHBOURS = 60
_EXPECTED_AT_LEAST = 0.01
_LONGEST_CLOSING_MS = 5 * DAY_MS
_SHORTEST_PAGE = 100
_WEEK_MS = 7 * DAY_MS
_WEEKS_AROUND = np.array([-4, -3, -2, -1, 1, 2, 3, 4])
_TRADES_PER_BAR = np.linspace(1e-6, 50, 50_001)
_SINGLE_TRADE_SHARE = _TRADES_PER_BAR / np.expm1(_TRADES_PER_BAR)


@dataclass(frozen=True)
class Gap:
    """A hole between two stored bars: none opens in [`start_ms`, `end_ms`)."""

    start_ms: int
    end_ms: int
    bars: int
    reason: Reason
    evidence: str

    @property
    def span(self) -> Span:
        """The time without a bar."""
        return Span(self.start_ms, self.end_ms)


@dataclass(frozen=True)
class Failure:
    """A span that the source was asked for and did not deliver."""

    span: Span
    error: str


class _Holes(NamedTuple):
    """(H,) numbers of the first missing bar and of the bar after the last, and the row of the next bar that exists."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    next_row: NDArray[np.int64]

    @property
    def num_bars(self) -> NDArray[np.int64]:
        return self.end - self.start

    def spans(self, interval: Interval) -> list[Span]:
        starts, ends = interval.opening(self.start).tolist(), interval.opening(self.end).tolist()
        return [Span(start, end) for start, end in zip(starts, ends, strict=True)]


def find_gaps(
    profile: Profile,
    interval: Interval,
    answered: Sequence[Span],
    failed: Sequence[Failure],
    source: str,
    outages_elsewhere: Mapping[str, Sequence[Span]],
) -> tuple[Gap, ...]:
    """Return every hole between the first and the last bar of a whole history, in order of time.

    A hole that the source answered in part is cut where the answers end. outages_elsewhere: outages of the same
    source's other symbols, by symbol.
    """
    index = profile.index
    next_row = np.flatnonzero(np.diff(index) > 1) + 1
    holes = _Holes(index[next_row - 1] + 1, index[next_row], next_row)
    unanswered = minus(holes.spans(interval), answered)
    gaps = [_failed_gap(span, interval, failed) for span in unanswered]
    gaps += _explain(_without(holes, unanswered, interval), profile, interval, source, outages_elsewhere)
    return tuple(sorted(gaps, key=lambda gap: gap.start_ms))


def _failed_gap(span: Span, interval: Interval, failed: Sequence[Failure]) -> Gap:
    errors = [failure.error for failure in failed if failure.span & span]
    start, end = interval.index(np.array([span.start_ms, span.end_ms]))
    evidence = errors[-1] if errors else "not asked for yet, or the fetch was stopped"
    return Gap(span.start_ms, span.end_ms, int(end - start), "fetch_failed", evidence)


def _without(holes: _Holes, unanswered: Sequence[Span], interval: Interval) -> _Holes:
    """Return what the source did answer of the holes."""
    if not unanswered:
        return holes
    rest = minus(holes.spans(interval), unanswered)
    start = interval.index(np.array([span.start_ms for span in rest], dtype=np.int64))
    end = interval.index(np.array([span.end_ms for span in rest], dtype=np.int64))
    return _Holes(start, end, holes.next_row[np.searchsorted(holes.end, end)])


def _explain(
    holes: _Holes,
    profile: Profile,
    interval: Interval,
    source: str,
    outages_elsewhere: Mapping[str, Sequence[Span]],
) -> list[Gap]:
    if not len(holes.start):
        return []
    index = profile.index
    single_share, q = _thinness(profile, holes.next_row)
    expected = (index[-1] - index[0] + 1) * q**holes.num_bars
    by_chance = expected >= _EXPECTED_AT_LEAST
    closing = _closing_hours(index, holes, interval)
    lost_page = _regular(holes, ~by_chance & ~closing, interval)
    from_files = "inferred from the bars of files (one joined from shorter bars is left out if any of them is missing)"
    seen = from_files if source == "file" else f"{source} answered"

    def reason(hole: int, span: Span) -> tuple[Reason, str]:
        if closing[hole]:
            return "no_trades", f"{seen}: outside the market's trading hours, or a holiday"
        if lost_page[hole]:
            return "fetch_failed", f"{seen}: equal holes at equal distances, as a download that loses pages leaves them"
        if q[hole] == 0:
            return "outage", f"{seen}: where nothing is traded, bars of zero volume are written"
        shared = [symbol for symbol, outages in outages_elsewhere.items() if any(out & span == span for out in outages)]
        if by_chance[hole] and shared:
            return "outage", f"{seen}: {shared[0]} has an outage over the same bars"
        odds = f"{single_share[hole]:.2g} of the bars around have a single price, so chance leaves {expected[hole]:.2g}"
        return "no_trades" if by_chance[hole] else "outage", f"{seen}: {odds} holes this long"

    return [
        Gap(span.start_ms, span.end_ms, num_bars, *reason(hole, span))
        for hole, (span, num_bars) in enumerate(zip(holes.spans(interval), holes.num_bars.tolist(), strict=True))
    ]


def _thinness(profile: Profile, next_row: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return around each hole the share of bars with a single price, and the probability q of a slot without a trade.

    The share in the whole history counts as one more bar: no bar of one price nearby is no proof that there never is.
    """
    traded = profile.traded
    rows = len(traded)
    single = profile.flat & (traded | ~traded.any())
    counts = np.concatenate([[0], np.cumsum(single)])
    first, last = np.maximum(next_row - _NEIGHBOURS, 0), np.minimum(next_row + _NEIGHBOURS, rows)
    share = (counts[last] - counts[first] + single.mean()) / (last - first + 1)
    trades_per_bar = np.interp(-share, -_SINGLE_TRADE_SHARE, _TRADES_PER_BAR)
    writes_empty_bars = bool(traded.any() and not traded.all())
    return share, np.zeros_like(share) if writes_empty_bars else np.exp(-trades_per_bar)


def _closing_hours(index: NDArray[np.int64], holes: _Holes, interval: Interval) -> NDArray[np.bool_]:
    """Return which holes are hours, or days, on which the market is closed."""
    closed = np.zeros(len(holes.start), dtype=bool)
    week = _WEEK_MS // interval.milliseconds
    if week < 2 or index[-1] - index[0] < 4 * week:
        return closed
    bars_per_slot = np.bincount(index % week, minlength=week)
    share = bars_per_slot * week / (index[-1] - index[0] + 1)
    if share.min() > 0.1 or np.quantile(share, 0.95) < 0.8:
        return closed
    for hole in np.flatnonzero(holes.num_bars * interval.milliseconds <= _LONGEST_CLOSING_MS):
        same_time = np.arange(holes.start[hole], holes.end[hole])[:, None] + week * _WEEKS_AROUND
        known = (same_time >= index[0]) & (same_time <= index[-1])
        there = index[np.minimum(np.searchsorted(index, same_time), len(index) - 1)] == same_time
        mostly_empty = there.sum(1) * 2 <= known.sum(1)
        closed[hole] = interval.code == "D" or mostly_empty.any()
    return closed


def _regular(holes: _Holes, candidates: NDArray[np.bool_], interval: Interval) -> NDArray[np.bool_]:
    """Return which candidates are in a row of four or more of one length and one distance, as lost pages are."""
    regular = np.zeros(len(holes.start), dtype=bool)
    rows = np.flatnonzero(candidates)
    distance = np.diff(holes.start[rows])
    pages = (distance >= _SHORTEST_PAGE) & (distance * interval.milliseconds % DAY_MS != 0)
    pages &= np.diff(holes.num_bars[rows]) == 0
    same = pages[:-1] & pages[1:] & (np.diff(distance) == 0)
    fours = np.flatnonzero(same[:-1] & same[1:])
    regular[rows[(fours[:, None] + np.arange(4)).ravel()]] = True
    return regular
