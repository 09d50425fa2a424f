"""From a source to the store: ask for what the ledger lacks, keep what arrives, say what came of it."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pandas as pd

from flashtrader.errors import ConfigError, DataError, SourceError, UnknownSymbolError
from flashtrader.interval import DAY_MS, Interval
from flashtrader.market.bars import PRICES, no_bars
from flashtrader.market.ledger import Ledger
from flashtrader.market.sources import Page, Source
from flashtrader.market.spans import Span, iso_time, minus, union
from flashtrader.market.store import Series, Store

Progress = Callable[[str, int, int], None]
T = TypeVar("T")

_DEFAULT_MS = 2 * 365 * DAY_MS
_SYMBOLS_AT_ONCE = 4
_FLUSH_BARS = 50_000
_FLUSH_SECONDS = 5.0
_WAKES_AFTER_S = 0.2
_STOPPED = "the fetch was stopped before the source answered"
# A bar alone may agree by chance: in a quiet minute two exchanges trade at the same prices.
_COMPARED_BARS = 10
# Yahoo's adjusted prices differ from call to call in the seventh digit, which no split or dividend is as small as:
# https://github.com/ranaroussi/yfinance/issues/1871
_SAME_PRICE = 1e-5
_REMEDY = "give another market another --data-dir, or move or delete this directory and fetch again"
_REMEDY_READJUSTED = (
    "its prices are readjusted after a split or dividend: move or delete this directory and fetch again"
)


@dataclass(frozen=True)
class FetchReport:
    """What is stored of one symbol after a fetch, and what the fetch did."""

    symbol: str
    rows: int = 0
    added: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    gaps: dict[str, int] = field(default_factory=dict)
    """Number of holes by reason."""
    failed: str | None = None
    """Why not everything that was asked for is there."""


def fetch(
    source: Source,
    store: Store,
    symbols: Sequence[str],
    interval: Interval,
    start_ms: int | None = None,
    end_ms: int | None = None,
    progress: Progress = lambda *_: None,
) -> list[FetchReport]:
    """Store the closed bars that open in [`start_ms`, `end_ms`) and were never answered for; report on each symbol.

    start_ms None: of files and the simulated exchange everything; else the oldest bar stored or left unanswered by an
    earlier fetch, and where there is none, two years before the last closed bar. end_ms None: the last closed bar.
    progress(symbol, bars_done, bars_total) is called from several threads.

    A symbol that fails keeps what arrived, has `failed` in its report, and leaves the others alone; the next call goes
    on from there, as it does after an interrupt or a kill. One whose stored bars have other prices at the source now
    fails before anything of it is written: a history is never made of two. Raises UnknownSymbolError before anything
    is written, and ConfigError for a start that is not before the end.
    """
    if start_ms is not None and end_ms is not None and start_ms >= end_ms:
        raise ConfigError(f"start {iso_time(start_ms)} is not before end {iso_time(end_ms)}")
    all_series = [Series(source.name, symbol, interval) for symbol in symbols]
    fetching = _Fetch(source, store, start_ms, end_ms, progress)
    with ThreadPoolExecutor(_SYMBOLS_AT_ONCE) as pool:
        try:
            histories = _results([pool.submit(fetching.history, series) for series in all_series])
            reports = _results([pool.submit(fetching.one, *known) for known in zip(all_series, histories, strict=True)])
        except BaseException:
            fetching.stop.set()  # the threads store what they have received, then end
            source.abandon()
            raise
    return _compared(store, all_series, reports)


def _results(futures: Sequence[Future[T]]) -> list[T]:
    """Return what comes of all; wakes often: Ctrl-C that the system told another thread of wakes no one that waits."""
    while wait(futures, _WAKES_AFTER_S).not_done:
        pass
    return [future.result() for future in futures]


@dataclass(frozen=True)
class _Fetch:
    """What is asked of which source, and where it is kept; several threads call it, each for a series of its own."""

    source: Source
    store: Store
    start_ms: int | None
    end_ms: int | None
    progress: Progress
    stop: threading.Event = field(default_factory=threading.Event)
    """Set where nothing more is to be asked for."""

    def history(self, series: Series) -> Span | str:
        """Return the time of which the source has bars, or why it can't be known."""
        try:
            return self.source.history(series.symbol, series.interval)
        except UnknownSymbolError:
            raise
        except (SourceError, DataError) as error:
            return str(error)

    def one(self, series: Series, history: Span | str) -> FetchReport:
        """Store what is missing of a series."""
        try:
            ledger = self.store.ledger(series)
        except DataError as error:
            return FetchReport(series.symbol, failed=str(error))
        if isinstance(history, str):
            return _report(series, ledger, failed=history)
        wanted = self._wanted(series, ledger, history)
        if not wanted:
            there = f"{self.source.name} has {series.symbol} from {history}"
            return _report(series, ledger, failed=f"no closed bars in the time asked for: {there}")
        missing = self._missing(ledger, wanted)
        try:
            if ledger.rows:
                self._refuse_other_prices(series, missing, history)
            return self._download(series, missing)
        except (SourceError, DataError) as error:
            now = ledger
            with suppress(DataError):
                now = self.store.ledger(series)  # what came before the disk was full, say
            return _report(series, now, now.rows - ledger.rows, str(error))

    def _wanted(self, series: Series, ledger: Ledger, history: Span) -> Span:
        """Return the span of bars to have, on the grid and within what the source has."""
        start_ms, interval = self.start_ms, series.interval
        if start_ms is None and self.source.local:
            start_ms = history.start_ms
        elif start_ms is None:
            known = [span.start_ms for span in (*ledger.answered, *(failure.span for failure in ledger.failed))]
            known += [] if ledger.first_ms is None else [ledger.first_ms]
            start_ms = min(known, default=history.end_ms - _DEFAULT_MS)
        end_ms = history.end_ms if self.end_ms is None else self.end_ms
        start, end = interval.opening(interval.index(np.array([start_ms - 1, end_ms - 1])) + 1).tolist()
        return Span(start, end) & history

    def _missing(self, ledger: Ledger, wanted: Span) -> tuple[Span, ...]:
        """Return what to ask for: what was never answered, and the holes that a better answer may fill.

        Of those an exchange has, pages lost by a download; of a history from files any hole, since the next file may be
        more complete than the last. Files are asked for everything, which costs one write instead of one for each hole.
        """
        if self.source.local and ledger.gaps:
            return (wanted,)
        lost = [gap.span for gap in ledger.gaps if gap.reason == "fetch_failed"]
        return minus([wanted], minus(ledger.answered, lost))

    def _refuse_other_prices(self, series: Series, missing: Sequence[Span], history: Span) -> None:
        """Raise DataError for a stored bar that has another price at the source now than when it was fetched.

        Looked at are the stored bars nearest to each missing span, and of a local source all that it has.
        """
        if not missing and not self.source.local:
            return
        if self.source.local:
            stretches = [self.store.read(series)]
        else:
            borders = sorted({time_ms for span in missing for time_ms in (span.start_ms, span.end_ms)})
            stretches = [bars for border in borders for bars in self.store.beside(series, border, _COMPARED_BARS)]
        times = [bars["timestamp"].to_numpy() for bars in stretches if len(bars)]
        spans = union(Span(int(run[0]), int(series.interval.close(run[-1:])[0])) & history for run in times)
        stored = pd.concat(stretches).drop_duplicates("timestamp").sort_values("timestamp")
        pages = [page.bars for span in spans for page in self.source.pages(series.symbol, series.interval, span)]
        both = stored.merge(pd.concat([no_bars(), *pages]), on="timestamp", suffixes=("", "_now"))
        then, now = both[[*PRICES]].to_numpy(), both[[f"{name}_now" for name in PRICES]].to_numpy()
        differs = np.abs(now - then) > _SAME_PRICE * then
        if differs.any():
            row, column = np.argwhere(differs)[-1]  # the newest such bar, and its close if that differs
            where = f"{series}: bar {iso_time(int(both['timestamp'].iloc[row]))} in {self.store.directory(series)}"
            prices = f"has {PRICES[column]} {then[row, column]:.10g}, at the source now {now[row, column]:.10g}"
            raise DataError(f"{where} {prices}; {_REMEDY_READJUSTED if self.source.readjusts else _REMEDY}")

    def _download(self, series: Series, missing: Sequence[Span]) -> FetchReport:
        """Ask for what is missing, newest first; what arrives before the source fails is stored."""
        recorded = self.store.recorded(series)
        if recorded.examined and not missing:
            return _report(series, recorded)
        for span in missing:  # so that a fetch that is killed knows later what it was after
            self.store.record_failure(series, span, _STOPPED)
        total = sum(_num_bars(span, series.interval) for span in missing)
        self.progress(series.symbol, 0, total)
        batch = _Batch(self.store, series)
        failed = None
        try:
            try:
                for span in reversed(missing):
                    for page in self.source.pages(series.symbol, series.interval, span):
                        batch.add(page, within=span)
                        self.progress(series.symbol, batch.bars_answered, total)
                        if self.stop.is_set():
                            return FetchReport(series.symbol, failed=_STOPPED)
            finally:
                batch.flush()
        except (SourceError, DataError) as error:
            failed = str(error)
        unanswered = minus(missing, self.store.recorded(series).answered)
        if unanswered and failed is None:
            failed = f"{self.source.name} left {unanswered[-1]} of {series.symbol} unanswered; fetch again"
        for span in unanswered:
            self.store.record_failure(series, span, failed or _STOPPED)
        return _report(series, self.store.examine(series), batch.rows_added, failed)


class _Batch:
    """Pages on their way to the store, written some at a time: a page a write would rewrite a part for each page."""

    def __init__(self, store: Store, series: Series) -> None:
        self.rows_added = 0
        self.bars_answered = 0
        self._store, self._series = store, series
        self._pages: list[Page] = []
        self._flushed_at = time.monotonic()

    def add(self, page: Page, within: Span) -> None:
        """Take a page, less what it holds beyond the span that was asked for: a bar that is still open, say."""
        answered = page.answered & within
        timestamps = page.bars["timestamp"]
        inside = (timestamps >= answered.start_ms) & (timestamps < answered.end_ms)
        self._pages.append(Page(page.bars[inside], answered))
        self.bars_answered += _num_bars(answered, self._series.interval)
        rows = sum(len(page.bars) for page in self._pages)
        if rows >= _FLUSH_BARS or time.monotonic() - self._flushed_at >= _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Store what has been taken."""
        pages, self._pages = self._pages, []
        for span in union(page.answered for page in pages):
            tables = [page.bars for page in sorted(pages, key=lambda page: page.answered) if page.answered & span]
            self.rows_added += self._store.append(self._series, pd.concat(tables, ignore_index=True), span)
        self._flushed_at = time.monotonic()


def _compared(store: Store, all_series: Sequence[Series], reports: list[FetchReport]) -> list[FetchReport]:
    """Return the reports after a second look at holes that an outage of another symbol, known only now, may explain."""
    if not any("outage" in report.gaps for report in reports):
        return reports
    return [
        _report(series, store.examine(series), report.added, report.failed) if "no_trades" in report.gaps else report
        for series, report in zip(all_series, reports, strict=True)
    ]


def _report(series: Series, ledger: Ledger, added: int = 0, failed: str | None = None) -> FetchReport:
    if not ledger.rows and failed is None:
        failed = f"{series.source} has no bar of {series.symbol} in the time asked for, though it lists the market"
    gaps = Counter[str](gap.reason for gap in ledger.gaps)
    return FetchReport(series.symbol, ledger.rows, added, ledger.first_ms, ledger.last_ms, dict(gaps), failed)


def _num_bars(span: Span, interval: Interval) -> int:
    start, end = interval.index(np.array([span.start_ms, span.end_ms]))
    return int(max(end - start, 0))
