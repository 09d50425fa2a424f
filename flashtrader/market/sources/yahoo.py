"""Bars from Yahoo's chart API, `/v8/finance/chart/SYMBOL`: stocks, funds, currencies, indices.

Daily, weekly and monthly prices are adjusted for splits and dividends: open, high, low and close are multiplied by
adjusted close / close. Intraday prices are adjusted for splits only, since Yahoo has no adjusted close for them. A bar
without a price is a hole, never filled in. A day, week or month is labelled with its date at the exchange, 00:00 UTC.

Yahoo appends the trading day in progress as a row of its own, stamped with the time of the last trade; of a week or
month in progress it holds a part, the rest being in the row before (https://github.com/ranaroussi/yfinance/pull/1070).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.errors import SourceError, UnknownSymbolError
from flashtrader.interval import DAY_MS, Interval
from flashtrader.market.bars import PRICES, Bars, no_bars, validate_bars
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

BASE_URL = "https://query2.finance.yahoo.com"
# Yahoo publishes no limit; users are refused after about two thousand requests an hour.
REQUESTS = 10
REQUESTS_SECONDS = 5.0
# Refuses clients that do not look like a browser with HTTP 429.
_USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
_REFUSAL = "Yahoo blocks some regions and data centres; fetch from another network, or later"
# The status of an answer whose body explains itself.
_EXPLAINED = (200, 400, 404, 422)
# Prices may come a quarter of an hour late, so the end of a session is waited for that much longer.
_DELAY_MS = 30 * 60_000


class _Granularity(NamedTuple):
    """What Yahoo calls an interval, how many days one request may ask for, and how many days back it reaches."""

    name: str
    page_days: int
    reach_days: int | None = None


_GRANULARITIES = {
    "1": _Granularity("1m", 7, 29),
    "5": _Granularity("5m", 59, 59),
    "15": _Granularity("15m", 59, 59),
    "30": _Granularity("30m", 59, 59),
    "60": _Granularity("1h", 365, 729),
    "D": _Granularity("1d", 3_650),
    "W": _Granularity("1wk", 36_500),
    "M": _Granularity("1mo", 36_500),
}


class YahooSource:
    """Closed bars of anything that Yahoo charts."""

    name = "yahoo"
    local = False
    readjusts = True

    def __init__(
        self, base_url: str | None = None, *, limiter: RateLimiter | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._client = HttpClient(
            base_url or BASE_URL,
            limiter or RateLimiter(REQUESTS, REQUESTS_SECONDS),
            _REFUSAL,
            headers={"User-Agent": _USER_AGENT},
            timeout_s=timeout_s,
        )

    def history(self, symbol: str, interval: Interval) -> Span:
        """Return from the first bar that Yahoo gives out, 1970 where it names none, to the end of the last closed one.

        Intraday bars reach back 29 days (one minute), 59 days (5 to 30 minutes) or 729 days (one hour).
        Raises UnknownSymbolError for a symbol or interval that Yahoo lacks.
        """
        granularity = self._granularity(symbol, interval)
        chart = self._ask(symbol, interval, {"interval": "1d", "range": "1d"})
        known_ms = chart.known_ms
        if interval.milliseconds > DAY_MS:
            # Until the next one is traded in, a week or month may still be split over two rows.
            known_ms = min(known_ms, chart.last_trade_ms or known_ms)
        if granularity.reach_days is None:
            first_day_ms = _local_dates(np.array([chart.first_trade_ms]), chart.timezone)[0]
            start_ms = interval.floor(int(first_day_ms))
        else:
            start_ms = interval.floor(max(chart.first_trade_ms, chart.now_ms - granularity.reach_days * DAY_MS))
        return Span(start_ms, max(start_ms, interval.floor(known_ms)))

    def pages(self, symbol: str, interval: Interval, span: Span) -> Iterator[Page]:
        """Yield the closed bars of `span`, newest page first.

        Raises SourceError when intraday bars are asked for from further back than Yahoo keeps them.
        """
        granularity = self._granularity(symbol, interval)
        page_bars = max(1, granularity.page_days * DAY_MS // interval.milliseconds)
        first, end = interval.index(np.array([span.start_ms, span.end_ms], dtype=np.int64)).tolist()
        while end > first:
            start = max(first, end - page_bars)
            page = self._page(
                symbol, interval, Span(*interval.opening(np.array([start, end], dtype=np.int64)).tolist())
            )
            if page.answered:
                yield page
            end = start

    def abandon(self) -> None:
        """Let every request, now and later, end in a SourceError."""
        self._client.abandon()

    def _page(self, symbol: str, interval: Interval, window: Span) -> Page:
        granularity = self._granularity(symbol, interval)
        # The date at the exchange begins up to 14 hours before or 12 after the date in UTC.
        margin_ms = DAY_MS if interval.milliseconds >= DAY_MS else 0
        chart = self._ask(
            symbol,
            interval,
            {
                "interval": granularity.name,
                "period1": (window.start_ms - margin_ms) // 1000,
                "period2": (window.end_ms + margin_ms) // 1000,
                "events": "div,split",
                "includePrePost": "false",
            },
        )
        bars, known_ms = _closed_bars(chart, interval, self._where(symbol, interval))
        inside = (bars["timestamp"] >= window.start_ms) & (bars["timestamp"] < window.end_ms)
        answered_end_ms = max(window.start_ms, min(window.end_ms, interval.floor(known_ms)))
        return Page(bars[inside].reset_index(drop=True), Span(window.start_ms, answered_end_ms))

    def _ask(self, symbol: str, interval: Interval, params: dict[str, str | int]) -> "_Chart":
        where = self._where(symbol, interval)

        def read(answer: Answer) -> _Chart:
            chart = answer.json.get("chart") if isinstance(answer.json, dict) else None
            if not isinstance(chart, dict):
                raise TransientError(f"{where}: the answer is not a Yahoo chart; check --base-url")
            error = chart.get("error")
            if error and "Data doesn't exist for startDate" not in str(error):
                self._refuse(error, answer.status, symbol, interval)
            results = chart.get("result") or [{}]
            try:
                return _Chart.read(results[0], server_time_ms(answer.headers))
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as problem:
                raise TransientError(
                    f"{where}: the chart lacks what every chart has ({type(problem).__name__}: {problem}); fetch again"
                ) from None

        path = f"/v8/finance/chart/{quote(symbol, safe='=')}"
        return self._client.get(path, params, self._subject(symbol, interval), read, statuses=_EXPLAINED)

    def _refuse(self, error: Any, status: int, symbol: str, interval: Interval) -> None:
        """Raise what an error in the chart means."""
        code, words = (
            (str(error.get(key, "")) for key in ("code", "description"))
            if isinstance(error, dict)
            else ("", str(error))
        )
        said = f"{self._where(symbol, interval)}: HTTP {status} {code} {words!r}"
        reach_days = self._granularity(symbol, interval).reach_days
        if reach_days and ("requested range" in words or "not available" in words):
            raise SourceError(
                f"{said}: Yahoo keeps bars of interval {interval.code} for {reach_days} days; "
                "give a later --start, or a longer --interval"
            )
        if status == 404 or code == "Not Found":
            raise UnknownSymbolError(f"{said}: Yahoo does not list {symbol}; look it up on finance.yahoo.com")
        if "too many requests" in f"{code} {words}".lower():
            raise RateLimitedError(f"{said}: too many requests; wait a few minutes and fetch again")
        if "internal" in code.lower():
            raise TransientError(f"{said}: the server failed; fetch again later")
        raise SourceError(f"{said}: Yahoo refuses the request; try another --start or --interval")

    def _granularity(self, symbol: str, interval: Interval) -> _Granularity:
        if interval.code not in _GRANULARITIES:
            raise UnknownSymbolError(
                f"{self._where(symbol, interval)}: Yahoo has no interval {interval.code}; "
                f"choose one of {', '.join(_GRANULARITIES)}"
            )
        return _GRANULARITIES[interval.code]

    def _subject(self, symbol: str, interval: Interval) -> str:
        return f"{symbol} {interval.code}"

    def _where(self, symbol: str, interval: Interval) -> str:
        return f"{self._client.host}: {self._subject(symbol, interval)}"


class _Chart(NamedTuple):
    """One answer: (n,) times in ms as Yahoo stamps them, (n, 5) adjusted prices and volume, NaN where it has none."""

    timestamps: NDArray[np.int64]
    rows: Floats
    timezone: ZoneInfo
    first_trade_ms: int
    """0 when Yahoo does not know."""
    last_trade_ms: int
    now_ms: int
    known_ms: int
    """Up to here everything has been traded and published: in a session, its last trade."""

    @classmethod
    def read(cls, result: dict[str, Any], clock_ms: int | None) -> "_Chart":
        """Return a result with its prices adjusted; without the server's clock, the last trade's time stands in."""
        meta = result.get("meta", {})
        last_trade_ms = 1000 * int(meta.get("regularMarketTime") or 0)
        known_ms = now_ms = clock_ms or last_trade_ms
        if session := meta.get("currentTradingPeriod", {}).get("regular"):
            start_ms, end_ms = 1000 * int(session["start"]), 1000 * int(session["end"])
            if start_ms <= now_ms < end_ms + _DELAY_MS:
                known_ms = max(last_trade_ms, start_ms)
        return cls(
            1000 * np.array(result.get("timestamp") or [], dtype=np.int64),
            _adjusted_rows(result["indicators"]) if result.get("timestamp") else np.empty((0, 5)),
            ZoneInfo(meta.get("exchangeTimezoneName", "UTC")),
            1000 * int(meta.get("firstTradeDate") or 0),
            last_trade_ms,
            now_ms,
            known_ms,
        )


def _adjusted_rows(indicators: dict[str, Any]) -> Floats:
    """Return (n, 5) open, high, low, close, volume; prices adjusted where Yahoo has an adjusted close."""
    quotes = indicators["quote"][0]
    rows = np.array([quotes[name] for name in (*PRICES, "volume")], dtype=np.float64).T
    # A null is no price; neither is 0.
    rows[(rows[:, :4] <= 0).any(axis=1)] = np.nan
    if adjusted := indicators.get("adjclose"):
        rows[:, :4] *= (np.array(adjusted[0]["adjclose"], dtype=np.float64) / rows[:, 3])[:, None]
    return rows


def _closed_bars(chart: _Chart, interval: Interval, where: str) -> tuple[Bars, int]:
    """Return the bars that are complete, and the time up to which they are."""
    timestamps, known_ms = chart.timestamps, chart.known_ms
    if not len(timestamps):
        return no_bars(), known_ms
    if interval.milliseconds >= DAY_MS:
        timestamps = _local_dates(timestamps, chart.timezone)
    on_grid = np.equal(interval.opening(interval.index(timestamps)), timestamps)
    keep: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(chart.rows), axis=1)
    if chart.timestamps[-1] == chart.last_trade_ms:
        if interval.code == "D":
            keep[:-1] &= timestamps[:-1] != timestamps[-1]
        elif interval.milliseconds > DAY_MS:
            keep[-1] = False
            known_ms = min(known_ms, interval.floor(int(timestamps[-1])))
        else:
            keep[-1] &= on_grid[-1]
    keep &= interval.close(timestamps) <= known_ms
    if not on_grid[keep].all():
        opening = pd.Timestamp(int(timestamps[keep & ~on_grid][0]), unit="ms")
        raise SourceError(
            f"{where}: Yahoo's bar of {opening:%Y-%m-%d %H:%M} UTC is off the {interval.code} grid, on which "
            "every bar has to open; choose a shorter --interval"
        )
    bars = pd.DataFrame(chart.rows[keep], columns=[*PRICES, "volume"])
    bars.insert(0, "timestamp", timestamps[keep])
    return validate_bars(bars, interval, where, AT_FAULT), known_ms


def _local_dates(timestamps: NDArray[np.int64], timezone: ZoneInfo) -> NDArray[np.int64]:
    """Return the date at the exchange of each time, as 00:00 UTC of that date, in ms."""
    local = pd.to_datetime(timestamps, unit="ms", utc=True).tz_convert(timezone).tz_localize(None).normalize()
    return local.as_unit("ms").asi8
