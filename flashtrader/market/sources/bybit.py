"""Bars from Bybit's v5 API: `/v5/market/kline`, USDT perpetuals (linear) and spot.

How the endpoint answers (https://bybit-exchange.github.io/docs/v5/market/kline, and recorded answers): rows come newest
first; `start` and `end` are inclusive opening times; of a window that holds more rows than `limit` only the newest
come, without a word about the others; with `start` alone the oldest come; the newest row of all is still open.
"""

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Literal

import numpy as np
import pandas as pd

from flashtrader.arrays import Floats
from flashtrader.errors import SourceError, UnknownSymbolError
from flashtrader.interval import Interval
from flashtrader.market.bars import Bars, validate_bars
from flashtrader.market.columns import AT_FAULT
from flashtrader.market.http import (
    TIMEOUT_S,
    Answer,
    HttpClient,
    RateLimitedError,
    RateLimiter,
    TransientError,
    server_time_ms,
)
from flashtrader.market.sources import Page, Span
from flashtrader.market.spans import LAST_MS, iso_time

BASE_URL = "https://api.bybit.com"
PAGE_BARS = 1_000
IN_FLIGHT = 8
# The limit for one IP address: https://bybit-exchange.github.io/docs/v5/rate-limit
REQUESTS = 600
REQUESTS_SECONDS = 5.0

_COLUMNS = ("timestamp", "open", "high", "low", "close", "volume", "turnover")
# Older than any market, and not 0, which a server may take for "not given":
# https://github.com/bybit-exchange/pybit/issues/186
_BEFORE_HISTORY_MS = 9_999
# A bar that closed less than this ago and is missing may still come.
_SETTLE_MS = 60_000
_CLOCKS_DIFFER_MS = 60_000
_RATE_LIMITED = 10006
_PASSING = {10000: "server time-out", 10002: "clocks differ", 10016: "server error", 5004: "server time-out"}
REFUSAL = (
    f"this address sent more than {REQUESTS} requests in {REQUESTS_SECONDS:g} s, or your region is blocked; "
    "stop every client, wait at least 10 minutes and fetch again, or name another host with --base-url"
)


class BybitSource:
    """Closed bars of one category, several pages in flight under one rate limit."""

    local = False
    readjusts = False

    def __init__(
        self,
        category: Literal["linear", "spot"] = "linear",
        base_url: str | None = None,
        *,
        limiter: RateLimiter | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.name = "bybit" if category == "linear" else "bybit-spot"
        self._category = category
        self._client = HttpClient(
            base_url or BASE_URL, limiter or RateLimiter(REQUESTS, REQUESTS_SECONDS), REFUSAL, timeout_s=timeout_s
        )

    def history(self, symbol: str, interval: Interval) -> Span:
        """Return from the first bar that exists to the end of the last closed one, by the server's clock.

        Raises UnknownSymbolError, or SourceError when nothing has been traded yet or the server fails.
        """
        bars, now_ms = self._ask(symbol, interval, _BEFORE_HISTORY_MS, None, limit=1)
        if bars.empty:
            raise SourceError(f"{self._where(symbol, interval)}: the exchange has no bars of it yet; leave it out")
        first_ms = int(bars["timestamp"].iloc[0])
        return Span(first_ms, max(first_ms, interval.floor(now_ms)))

    def pages(self, symbol: str, interval: Interval, span: Span) -> Iterator[Page]:
        """Yield the closed bars of `span`, newest page first, each of at most PAGE_BARS bars.

        A page's bars are sorted and unique. What it has `answered` ends before the first bar that is not known yet.
        """
        windows = _windows(interval, span)
        abandoned = threading.Event()
        pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="bybit")

        def submit(num_windows: int) -> list[Future[Page]]:
            return [
                pool.submit(self._page, symbol, interval, window, abandoned) for window in islice(windows, num_windows)
            ]

        try:
            pending = deque(submit(2 * IN_FLIGHT))
            while pending:
                page = pending.popleft().result()
                pending.extend(submit(1))
                if page.answered:
                    yield page
        finally:
            abandoned.set()
            pool.shutdown(cancel_futures=True)

    def abandon(self) -> None:
        """Let every request, now and later, end in a SourceError."""
        self._client.abandon()

    def _page(self, symbol: str, interval: Interval, window: Span, abandoned: threading.Event) -> Page:
        """Return every closed bar in a window. A bar is believed to be missing once two answers agree on it."""
        bars, now_ms = self._window(symbol, interval, window, abandoned)
        known = window & Span(window.start_ms, interval.floor(now_ms))
        while known and len(bars) < np.diff(interval.index(np.array([known.start_ms, known.end_ms])))[0]:
            again, now_ms = self._window(symbol, interval, window, abandoned)
            both = pd.concat([bars, again]).drop_duplicates().sort_values("timestamp", ignore_index=True)
            both = validate_bars(both, interval, self._where(symbol, interval), AT_FAULT)
            if len(both) == len(bars):
                break
            bars = both
        newest_ms = interval.floor(min(window.end_ms, interval.floor(now_ms)) - 1)
        settled = not bars.empty and int(bars["timestamp"].iloc[-1]) == newest_ms
        known_ms = interval.floor(now_ms if settled else now_ms - _SETTLE_MS)
        return Page(bars, Span(window.start_ms, max(window.start_ms, min(window.end_ms, known_ms))))

    def _window(self, symbol: str, interval: Interval, window: Span, abandoned: threading.Event) -> tuple[Bars, int]:
        """Return the closed bars in a window, and the server's clock.

        A server that holds its answers shorter than asked leaves out the oldest bars: they are asked for until the
        window's first bar or an empty answer comes.
        """
        bars, now_ms = self._ask(symbol, interval, window.start_ms, window.end_ms - 1, PAGE_BARS, abandoned)
        older = bars
        while not older.empty and (oldest_ms := int(older["timestamp"].iloc[0])) > window.start_ms:
            older, _ = self._ask(symbol, interval, window.start_ms, oldest_ms - 1, PAGE_BARS, abandoned)
            if not older.empty:
                bars = pd.concat([older, bars], ignore_index=True)
        return bars, now_ms

    def _ask(
        self,
        symbol: str,
        interval: Interval,
        start_ms: int,
        end_ms: int | None,
        limit: int,
        abandoned: threading.Event | None = None,
    ) -> tuple[Bars, int]:
        """Return the closed bars that open in [start_ms, end_ms], sorted, and the server's clock."""
        where = self._where(symbol, interval)
        params: dict[str, str | int] = {
            "category": self._category,
            "symbol": symbol,
            "interval": interval.code,
            "start": start_ms,
            "limit": limit,
        }
        if end_ms is not None:
            params["end"] = end_ms

        def read(answer: Answer) -> tuple[Bars, int]:
            result, now_ms = self._result(answer, symbol, interval)
            rows = _rows(result, where)
            if len(rows) and (rows[0, 0] < start_ms or (end_ms is not None and rows[-1, 0] > end_ms)):
                raise TransientError(f"{where}: bars came that open outside the time asked for; fetch again")
            timestamps = rows[:, 0].astype(np.int64)
            bars = pd.DataFrame(rows[:, 1:], columns=list(_COLUMNS[1:]))
            bars.insert(0, "timestamp", timestamps)
            return validate_bars(bars[interval.close(timestamps) <= now_ms], interval, where, AT_FAULT), now_ms

        return self._client.get("/v5/market/kline", params, self._subject(symbol, interval), read, abandoned=abandoned)

    def _result(self, answer: Answer, symbol: str, interval: Interval) -> tuple[dict[str, Any], int]:
        """Return the result of a good answer and the server's clock; raise what a bad one means."""
        where = self._where(symbol, interval)
        result, now_ms = checked_envelope(answer, where, symbol, self._category, interval)
        if not isinstance(result.get("list"), list):
            raise TransientError(f"{where}: retCode 0, but no list of bars in the answer; fetch again")
        if result.get("symbol", symbol) != symbol or result.get("category", self._category) != self._category:
            raise TransientError(
                f"{where}: the answer is about {result.get('symbol')} {result.get('category')}; fetch again"
            )
        return result, now_ms

    def _subject(self, symbol: str, interval: Interval) -> str:
        return f"{symbol} {interval.code} ({self._category})"

    def _where(self, symbol: str, interval: Interval) -> str:
        return f"{self._client.host}: {self._subject(symbol, interval)}"


def checked_envelope(
    answer: Answer, where: str, symbol: str, category: str, interval: Interval | None = None
) -> tuple[dict[str, Any], int]:
    """Return the result in a good v5 answer, maybe empty, and the server's clock; raise what a bad one means.

    A clock that runs ahead would pass an open bar for a closed one: it must agree with a Date header.
    """
    envelope = answer.json
    if not isinstance(envelope, dict) or not isinstance(envelope.get("retCode"), int):
        raise TransientError(f"{where}: the answer is not a Bybit v5 envelope; check --base-url")
    code, words = envelope["retCode"], str(envelope.get("retMsg", ""))
    said = f"{where}: retCode {code} {words!r}"
    if code == _RATE_LIMITED:
        raise RateLimitedError(f"{said}: too many requests; wait a few minutes and fetch again")
    if code in _PASSING:
        raise TransientError(f"{said}: {_PASSING[code]}; fetch again later")
    if interval and code == 10001 and "period" in words.lower():
        raise UnknownSymbolError(f"{said}: the exchange has no interval {interval.code}; choose another --interval")
    if code == 10029 or (code == 10001 and "symbol" in words.lower()):
        raise UnknownSymbolError(
            f"{said}: {symbol} is not listed in category {category}; "
            "check the spelling (upper case, such as BTCUSDT) and the category"
        )
    if code != 0:
        raise SourceError(f"{said}: the exchange refuses; https://bybit-exchange.github.io/docs/v5/error says why")
    result, now_ms = envelope.get("result"), envelope.get("time")
    if not isinstance(now_ms, int) or not 0 < now_ms <= LAST_MS:
        raise TransientError(f"{where}: the answer lacks the server's time, so open bars can't be told; fetch again")
    date_ms = server_time_ms(answer.headers)
    if date_ms is not None and abs(now_ms - date_ms) > _CLOCKS_DIFFER_MS:
        raise TransientError(
            f"{where}: the answer's time {iso_time(now_ms)} and its Date {iso_time(date_ms)} differ, so open bars "
            "can't be told; fetch again"
        )
    return result if isinstance(result, dict) else {}, now_ms


def _windows(interval: Interval, span: Span) -> Iterator[Span]:
    """Yield spans of at most PAGE_BARS bars that cover `span`, newest first."""
    first, end = interval.index(np.array([span.start_ms, span.end_ms], dtype=np.int64)).tolist()
    while end > first:
        start = max(first, end - PAGE_BARS)
        yield Span(*interval.opening(np.array([start, end], dtype=np.int64)).tolist())
        end = start


def _rows(result: dict[str, Any], where: str) -> Floats:
    """Return (n, 7) numbers, oldest first, each bar once: exact repetitions are dropped, contradictions refused."""
    rows = result["list"]
    if not rows:
        return np.empty((0, len(_COLUMNS)))
    widths = {len(row) if isinstance(row, list) else 0 for row in rows}
    if widths == {5}:
        raise SourceError(
            f"{where}: rows of 5 columns, a mark or index price without volume; --base-url must serve /v5/market/kline"
        )
    if widths != {len(_COLUMNS)}:
        raise TransientError(f"{where}: rows of {sorted(widths)} columns instead of {len(_COLUMNS)}; fetch again")
    try:
        numbers: Floats = np.array([[float(text) for text in row] for row in rows])
    except (ArithmeticError, TypeError, ValueError):
        raise TransientError(f"{where}: a bar holds something that is not a number; fetch again") from None
    if not ((numbers[:, 0] >= 0) & (numbers[:, 0] <= LAST_MS)).all():
        raise TransientError(f"{where}: a bar's time is none; fetch again")
    numbers = numbers[np.argsort(numbers[:, 0], kind="stable")]
    changes = (numbers[1:] != numbers[:-1]).any(axis=1)
    numbers = numbers[np.append(changes, True)]
    if (numbers[1:, 0] == numbers[:-1, 0]).any():
        raise TransientError(f"{where}: the same bar came twice with different values; fetch again")
    return numbers
