"""From an exchange's streams of order books to the store: follow, reconnect, and say where the book was not known."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from flashtrader.arrays import Floats
from flashtrader.errors import SourceError
from flashtrader.market.book_ledger import Break
from flashtrader.market.book_store import BookSeries, BookStore
from flashtrader.market.books import book_table
from flashtrader.market.live_book import BookMessage, LiveBook
from flashtrader.market.sources.bybit_books import BookStream, BrokenStreamError, BybitBooks

Progress = Callable[[str, int], None]
Say = Callable[[str], None]

ATTEMPTS = 5
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
FLUSH_S = 5.0
# A book that is silent for so long is asked for anew: its stream may have ended while others go on.
QUIET_S = 60.0
SNAPSHOT_S = 10.0
RESUBSCRIBE_S = 1.0
_TICK_S = 0.2


@dataclass(frozen=True)
class BookReport:
    """What is stored of one market's book, and what was added."""

    symbol: str
    levels: int
    rows: int
    added: int
    first_ms: int | None
    last_ms: int | None
    gaps: dict[str, int] = field(default_factory=dict)
    """Number of gaps by reason."""
    failed: str | None = None
    """Why there is nothing new."""


def report(store: BookStore, series: BookSeries, added: int, failed: str | None = None) -> BookReport:
    """Return what is stored of a book."""
    ledger = store.ledger(series)
    first_ms = ledger.runs[0].first_ms if ledger.runs else None
    return BookReport(series.symbol, series.levels, ledger.rows, added, first_ms, ledger.last_ms, ledger.gaps, failed)


def record(
    source: BybitBooks,
    store: BookStore,
    symbols: Sequence[str],
    duration_s: float | None = None,
    every_ms: int = 1,
    progress: Progress = lambda *_: None,
    say: Say = lambda _: None,
) -> list[BookReport]:
    """Store the books of markets as they change, for `duration_s` or until interrupted; report on each.

    Of the changes within one stretch of `every_ms` (on the exchange's clock, from 1970 on) the last is stored. Every
    few seconds, at the end and on an interrupt, what has come is written. A connection that breaks is made again for
    as long as it takes; `say` hears of it. Raises SourceError when none could be made at all, and UnknownSymbolError.
    """
    recordings = {
        symbol: _Recording(BookSeries(source.name, symbol, source.levels), source.depth, every_ms) for symbol in symbols
    }
    deadline_s = None if duration_s is None else time.monotonic() + duration_s
    failures, trouble = 0, "ask for a longer --duration"
    try:
        while not _over(deadline_s):
            try:
                with source.connect() as stream:
                    for recording in recordings.values():
                        recording.subscribe(stream)
                    while not _over(deadline_s):
                        message = stream.receive(_TICK_S)
                        if message and message.symbol in recordings:
                            failures = 0
                            recordings[message.symbol].hear(message)
                        for recording in recordings.values():
                            recording.keep_up(stream)
                            if recording.flush_due:
                                progress(recording.series.symbol, recording.flush(store))
            except BrokenStreamError as error:
                failures, trouble = failures + 1, str(error)
                for recording in recordings.values():
                    recording.book.lose("disconnected", str(error))
                if failures == ATTEMPTS and not any(recording.heard for recording in recordings.values()):
                    raise SourceError(f"{error} (tried {failures} times)") from None
                backoff_s = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 10))
                say(f"{error}; connecting again")
                time.sleep(_within(deadline_s, backoff_s * random.uniform(0.5, 1.5)))
    finally:
        for recording in recordings.values():
            recording.flush(store, everything=True)
    return [
        report(
            store,
            recording.series,
            recording.added,
            None if recording.added else f"{recording.series}: no snapshot came; {trouble}",
        )
        for recording in recordings.values()
    ]


def record_once(source: BybitBooks, store: BookStore, symbols: Sequence[str]) -> list[BookReport]:
    """Store one snapshot of each market by HTTP. Raises UnknownSymbolError, SourceError."""
    messages = {symbol: source.snapshot(symbol) for symbol in symbols}
    reports = []
    for symbol, message in messages.items():
        recording = _Recording(BookSeries(source.name, symbol, source.levels), source.levels, every_ms=1)
        recording.hear(message)
        added = recording.flush(store, everything=True)
        failed = None if added else f"{recording.series}: the snapshot has no bid, no ask, or is stored already"
        reports.append(report(store, recording.series, added, failed))
    return reports


class _Recording:
    """One market: its live book, and the snapshots that are not stored yet."""

    def __init__(self, series: BookSeries, depth: int, every_ms: int) -> None:
        self.series = series
        self.book = LiveBook(depth)
        self.added = 0
        self.heard = False
        self._every_ms = every_ms
        self._rows: list[tuple[int, Floats, Break | None]] = []
        self._follows_ms: int | None = None
        self._flushed_s = self._heard_s = self._asked_s = time.monotonic()
        self._waiting = False

    def subscribe(self, stream: BookStream) -> None:
        stream.subscribe(self.series.symbol)
        self._asked_s, self._waiting = time.monotonic(), True

    def hear(self, message: BookMessage) -> None:
        """Apply a message, and keep the book that it makes."""
        self.heard, self._heard_s = True, time.monotonic()
        if self.book.apply(message):
            self._keep(message.time_ms)
        if self.book.following and message.kind == "snapshot":
            self._waiting = False

    def keep_up(self, stream: BookStream) -> None:
        """Ask for a snapshot once the book is lost, or after a long silence.

        Raises BrokenStreamError when the one that was asked for doesn't come.
        """
        now_s = time.monotonic()
        if self._waiting:
            if now_s - self._asked_s > SNAPSHOT_S:
                raise BrokenStreamError(f"no snapshot of {self.series.symbol} came within {SNAPSHOT_S:g} s")
            return
        quiet = now_s - self._heard_s > QUIET_S
        lost = not self.book.following and now_s - self._asked_s > RESUBSCRIBE_S
        if quiet or lost:
            stream.resubscribe(self.series.symbol)
            self._asked_s, self._waiting = now_s, True

    @property
    def flush_due(self) -> bool:
        return time.monotonic() - self._flushed_s > FLUSH_S

    def flush(self, store: BookStore, *, everything: bool = False) -> int:
        """Store what has come, and return how many snapshots were stored so far.

        The newest one waits, unless `everything` is stored: another may come in the same stretch of time.
        """
        self._flushed_s = time.monotonic()
        rows = self._rows if everything else self._rows[:-1]
        if rows:
            times, values, breaks = zip(*rows, strict=True)
            books = book_table(np.array(times), np.stack(values), np.array([item is not None for item in breaks]))
            reasons = {time_ms: item for time_ms, _, item in rows if item}
            self.added += store.append(self.series, books, reasons, self._follows_ms)
            self._follows_ms = times[-1]
            del self._rows[: len(rows)]
        return self.added

    def _keep(self, time_ms: int) -> None:
        broken = self.book.take_break()
        if self._rows and self._rows[-1][0] // self._every_ms == time_ms // self._every_ms:
            broken = self._rows.pop()[2] or broken
        self._rows.append((time_ms, self.book.best(self.series.levels), broken))


def _over(deadline_s: float | None) -> bool:
    return _within(deadline_s, 1.0) == 0


def _within(deadline_s: float | None, seconds: float) -> float:
    return seconds if deadline_s is None else max(0.0, min(seconds, deadline_s - time.monotonic()))
