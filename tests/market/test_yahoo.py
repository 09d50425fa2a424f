"""Yahoo: adjusted prices, dates at the exchange, no bar that is still open, holes left as holes."""

import email.utils
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from exchange_server import ReplayServer, Reply, html, http_error, json_reply
from flashtrader.errors import SourceError, UnknownSymbolError
from flashtrader.interval import Interval
from flashtrader.market.sources import Span
from flashtrader.market.sources.yahoo import YahooSource

DAY = Interval.parse("D")
NEW_YORK = {"exchangeTimezoneName": "America/New_York"}


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def chart(
    times: list[str],
    rows: list[list[float | None]],
    now: str,
    *,
    adjusted: list[float] | None = None,
    last_trade: str | None = None,
    session: tuple[str, str] | None = None,
    **meta: Any,
) -> Reply:
    """Return an answer: UTC times, rows of open, high, low, close, volume, and the server's clock."""
    names = ("open", "high", "low", "close", "volume")
    quote = {name: [row[column] for row in rows] for column, name in enumerate(names)}
    indicators: dict[str, Any] = {"quote": [quote]}
    if adjusted is not None:
        indicators["adjclose"] = [{"adjclose": adjusted}]
    if session:
        start, end = (ms(moment) // 1000 for moment in session)
        meta["currentTradingPeriod"] = {"regular": {"start": start, "end": end}}
    if last_trade:
        meta["regularMarketTime"] = ms(last_trade) // 1000
    result = {"meta": meta, "timestamp": [ms(moment) // 1000 for moment in times], "indicators": indicators}
    return json_reply(
        {"chart": {"result": [result], "error": None}},
        headers={"Date": email.utils.format_datetime(datetime.fromisoformat(now).replace(tzinfo=UTC), usegmt=True)},
    )


def chart_error(code: str, description: str, status: int) -> Reply:
    return json_reply({"chart": {"result": None, "error": {"code": code, "description": description}}}, status)


def span(start: str, end: str) -> Span:
    return Span(ms(start), ms(end))


def one_page(limiter, reply: Reply, code: str, asked: Span) -> tuple[pd.DataFrame, Span]:
    with ReplayServer(reply) as server:
        (page,) = YahooSource(server.url, limiter=limiter).pages("AAPL", Interval.parse(code), asked)
    return page.bars, page.answered


def dates(bars: pd.DataFrame) -> list[str]:
    return [
        f"{moment:%Y-%m-%d %H:%M}".removesuffix(" 00:00") for moment in pd.to_datetime(bars["timestamp"], unit="ms")
    ]


FLAT = [10.0, 11.0, 9.0, 10.0, 100]


def test_prices_are_adjusted_and_volume_is_not(limiter):
    reply = chart(
        ["2024-03-07T14:30", "2024-03-08T14:30", "2024-03-11T13:30"],
        [[10.0, 12.0, 8.0, 10.0, 100], [20.0, 24.0, 16.0, 20.0, 200], [30.0, 33.0, 27.0, 30.0, 300]],
        "2024-04-01",
        adjusted=[5.0, 19.0, 30.0],
        **NEW_YORK,
    )
    bars, answered = one_page(limiter, reply, "D", span("2024-03-07", "2024-03-12"))
    assert bars.drop(columns="timestamp").to_numpy().tolist() == [
        [5.0, 6.0, 4.0, 5.0, 100.0],
        [19.0, pytest.approx(22.8), pytest.approx(15.2), 19.0, 200.0],
        [30.0, 33.0, 27.0, 30.0, 300.0],
    ]
    # The clocks change on the 10th; the dates do not.
    assert dates(bars) == ["2024-03-07", "2024-03-08", "2024-03-11"]
    assert answered == span("2024-03-07", "2024-03-12")


@pytest.mark.parametrize(
    ("zone", "opening", "date"),
    [
        ("America/New_York", "2024-07-01T13:30", "2024-07-01"),
        ("Asia/Tokyo", "2024-07-01T00:00", "2024-07-01"),
        ("Australia/Sydney", "2024-01-01T23:00", "2024-01-02"),
        ("Pacific/Auckland", "2024-01-01T21:00", "2024-01-02"),
        ("Europe/London", "2024-06-30T23:00", "2024-07-01"),
        ("UTC", "2024-07-01T00:00", "2024-07-01"),
    ],
)
def test_a_day_is_the_exchanges(limiter, zone, opening, date):
    reply = chart([opening], [FLAT], "2024-09-01", exchangeTimezoneName=zone)
    with ReplayServer(reply) as server:
        source = YahooSource(server.url, limiter=limiter)
        (page,) = source.pages("AAPL", DAY, Span(ms(date), ms(date) + DAY.milliseconds))
        assert dates(page.bars) == [date]
        query = server.requests[0].query
    assert int(query["period1"]) * 1000 <= ms(opening) < int(query["period2"]) * 1000


def test_a_bar_without_a_price_is_a_hole(limiter):
    nothing = [None] * 5
    no_volume = [*FLAT[:4], None]
    zero = [0.0, 11.0, 0.0, 10.0, 5]
    times = [f"2024-03-0{day}T14:30" for day in (4, 5, 6, 7, 8)]
    reply = chart(times, [FLAT, nothing, no_volume, zero, FLAT], "2024-04-01", adjusted=[10.0, None, 10.0, 10.0, 10.0])
    bars, answered = one_page(limiter, reply, "D", span("2024-03-04", "2024-03-09"))
    assert dates(bars) == ["2024-03-04", "2024-03-08"]
    assert answered == span("2024-03-04", "2024-03-09")


SESSION = ("2024-03-08T14:30", "2024-03-08T21:00")


@pytest.mark.parametrize(
    ("now", "last_trade", "days", "answered_end"),
    [
        # In the session, and after it while UTC has the same date: the 8th is open, stamped with its last trade.
        ("2024-03-08T16:00", "2024-03-08T15:59:58", ["2024-03-06", "2024-03-07"], "2024-03-08"),
        ("2024-03-08T23:00", "2024-03-08T21:00:01", ["2024-03-06", "2024-03-07"], "2024-03-08"),
        ("2024-03-09T00:00", "2024-03-08T21:00:01", ["2024-03-06", "2024-03-07", "2024-03-08"], "2024-03-09"),
    ],
)
def test_a_day_is_there_once_it_has_ended(limiter, now, last_trade, days, answered_end):
    reply = chart(
        ["2024-03-06T14:30", "2024-03-07T14:30", last_trade],
        [FLAT, FLAT, FLAT],
        now,
        last_trade=last_trade,
        session=SESSION,
        **NEW_YORK,
    )
    bars, answered = one_page(limiter, reply, "D", span("2024-03-06", "2024-03-20"))
    assert dates(bars) == days
    assert answered == span("2024-03-06", answered_end)


def test_of_two_rows_of_the_last_day_the_later_one_holds(limiter):
    final = [10.0, 12.0, 9.0, 11.0, 120]
    reply = chart(
        ["2024-03-07T14:30", "2024-03-08T14:30", "2024-03-08T21:00:01"],
        [FLAT, FLAT, final],
        "2024-03-09T10:00",
        last_trade="2024-03-08T21:00:01",
        session=SESSION,
        **NEW_YORK,
    )
    bars, _ = one_page(limiter, reply, "D", span("2024-03-07", "2024-03-09"))
    assert dates(bars) == ["2024-03-07", "2024-03-08"]
    assert bars.iloc[-1, 1:].tolist() == final


@pytest.mark.parametrize(("code", "end"), [("W", "2024-03-04"), ("M", "2024-03-01")])
def test_of_a_week_or_month_split_over_two_rows_nothing_is_taken(limiter, code, end):
    openings = {"W": ["2024-02-26T05:00", "2024-03-04T05:00"], "M": ["2024-02-01T05:00", "2024-03-01T05:00"]}[code]
    reply = chart(
        [*openings, "2024-03-08T21:00:01"],
        [FLAT] * 3,
        "2024-04-02T10:00",
        last_trade="2024-03-08T21:00:01",
        **NEW_YORK,
    )
    start = openings[0][:10]
    with ReplayServer(reply) as server:
        history = YahooSource(server.url, limiter=limiter).history("AAPL", Interval.parse(code))
        assert history.end_ms == ms(end)
    bars, answered = one_page(limiter, reply, code, span(start, end[:5] + "05-01" if code == "M" else "2024-04-01"))
    assert dates(bars) == [start]
    assert answered == span(start, end)


def test_minutes_up_to_the_last_trade(limiter):
    """Within a session a bar is known when a later trade was; the live row, off the grid, is none."""
    times = ["2024-03-08T15:00", "2024-03-08T15:01", "2024-03-08T15:02", "2024-03-08T15:02:30"]
    reply = chart(
        times, [FLAT] * 4, "2024-03-08T15:17:30", last_trade="2024-03-08T15:02:30", session=SESSION, **NEW_YORK
    )
    bars, answered = one_page(limiter, reply, "1", span("2024-03-08T15:00", "2024-03-08T16:00"))
    assert dates(bars) == ["2024-03-08 15:00", "2024-03-08 15:01"]
    assert answered == span("2024-03-08T15:00", "2024-03-08T15:02")


def test_bars_off_the_grid_are_refused(limiter):
    reply = chart(["2024-03-08T14:30", "2024-03-08T15:30"], [FLAT, FLAT], "2024-03-09T12:00", **NEW_YORK)
    with ReplayServer(reply) as server, pytest.raises(SourceError) as caught:
        list(YahooSource(server.url, limiter=limiter).pages("AAPL", Interval.parse("60"), span(*SESSION_DAY)))
    assert str(caught.value) == (
        f"{server.host}: AAPL 60: Yahoo's bar of 2024-03-08 14:30 UTC is off the 60 grid, on which every bar has to "
        "open; choose a shorter --interval"
    )


SESSION_DAY = ("2024-03-08", "2024-03-09")


@pytest.mark.parametrize(
    ("code", "name", "days", "page_days"),
    [("1", "1m", 20, 7), ("5", "5m", 40, 59), ("30", "30m", 40, 59), ("60", "1h", 700, 365), ("D", "1d", 9_000, 3_652)],
)
def test_long_spans_are_asked_for_in_parts(limiter, code, name, days, page_days):
    interval = Interval.parse(code)
    end_ms = ms("2024-03-08")
    asked = Span(end_ms - days * DAY.milliseconds, end_ms)
    with ReplayServer(chart([], [], "2024-03-09")) as server:
        pages = list(YahooSource(server.url, limiter=limiter).pages("EURUSD=X", interval, asked))
    assert len(pages) == len(server.requests) == -(-days // page_days)
    assert [page.answered.end_ms for page in pages] == [asked.end_ms, *(page.answered.start_ms for page in pages[:-1])]
    assert pages[-1].answered.start_ms == asked.start_ms
    assert all(page.bars.empty for page in pages)
    for request in server.requests:
        assert request.path == "/v8/finance/chart/EURUSD=X"
        assert request.query["interval"] == name
        assert int(request.query["period2"]) - int(request.query["period1"]) <= page_days * 86_400
        assert request.headers["user-agent"].startswith("Mozilla/5.0")


@pytest.mark.parametrize(
    ("code", "first", "last"),
    [
        ("D", "1980-12-12", "2024-03-08"),
        ("W", "1980-12-08", "2024-03-04"),
        ("M", "1980-12-01", "2024-03-01"),
        ("1", "2024-02-08T16:00", "2024-03-08T15:59"),
        ("5", "2024-01-09T16:00", "2024-03-08T15:55"),
        ("60", "2022-03-10T16:00", "2024-03-08T15:00"),
    ],
)
def test_the_history_is_what_yahoo_gives_out(limiter, code, first, last):
    reply = chart(
        [],
        [],
        "2024-03-08T16:00",
        last_trade="2024-03-08T15:59:58",
        session=SESSION,
        firstTradeDate=345479400,
        **NEW_YORK,
    )
    with ReplayServer(reply) as server:
        assert YahooSource(server.url, limiter=limiter).history("AAPL", Interval.parse(code)) == span(first, last)


@pytest.mark.parametrize("code", ["3", "120", "240", "360", "720"])
def test_intervals_that_yahoo_lacks(limiter, code):
    with ReplayServer(Reply()) as server, pytest.raises(UnknownSymbolError) as caught:
        YahooSource(server.url, limiter=limiter).history("AAPL", Interval.parse(code))
    assert str(caught.value) == (
        f"{server.host}: AAPL {code}: Yahoo has no interval {code}; choose one of 1, 5, 15, 30, 60, D, W, M"
    )
    assert server.requests == []


@pytest.mark.parametrize(
    ("code", "reply", "error", "message"),
    [
        (
            "D",
            chart_error("Not Found", "No data found, symbol may be delisted", 404),
            UnknownSymbolError,
            "APPL D: HTTP 404 Not Found 'No data found, symbol may be delisted': Yahoo does not list APPL; "
            "look it up on finance.yahoo.com",
        ),
        (
            "1",
            chart_error(
                "Unprocessable Entity",
                "1m data not available for startTime=1577836800 and endTime=1578009600. "
                "The requested range must be within the last 30 days.",
                422,
            ),
            SourceError,
            "APPL 1: HTTP 422 Unprocessable Entity '1m data not available for startTime=1577836800 and "
            "endTime=1578009600. The requested range must be within the last 30 days.': "
            "Yahoo keeps bars of interval 1 for 29 days; give a later --start, or a longer --interval",
        ),
        (
            "D",
            chart_error("Too Many Requests", "Rate limited", 200),
            SourceError,
            "APPL D: HTTP 200 Too Many Requests 'Rate limited': too many requests; wait a few minutes and fetch again "
            "(asked 5 times)",
        ),
        (
            "D",
            http_error(429, body=b"Edge: Too Many Requests")(Reply()),
            SourceError,
            "APPL D: HTTP 429 'Edge: Too Many Requests': too many requests; wait a few minutes and fetch again "
            "(asked 5 times)",
        ),
        (
            "D",
            http_error(403)(Reply()),
            SourceError,
            "APPL D: HTTP 403: Yahoo blocks some regions and data centres; fetch from another network, or later",
        ),
        (
            "D",
            chart_error("Bad Request", "Invalid input - start date cannot be after end date", 400),
            SourceError,
            "APPL D: HTTP 400 Bad Request 'Invalid input - start date cannot be after end date': "
            "Yahoo refuses the request; try another --start or --interval",
        ),
        (
            "D",
            chart_error("internal-error", "Unable to serve", 200),
            SourceError,
            "APPL D: HTTP 200 internal-error 'Unable to serve': the server failed; fetch again later (asked 5 times)",
        ),
        (
            "D",
            json_reply({"finance": {"error": {"code": "Unauthorized"}}}),
            SourceError,
            "APPL D: the answer is not a Yahoo chart; check --base-url (asked 5 times)",
        ),
        (
            "D",
            json_reply({"chart": {"result": [{"meta": {}, "timestamp": [1, 2]}], "error": None}}),
            SourceError,
            "APPL D: the chart lacks what every chart has (KeyError: 'indicators'); fetch again (asked 5 times)",
        ),
        (
            "D",
            html(Reply()),
            SourceError,
            "APPL D: a web page came instead of data 'Sign in Welcome to the hotel network'; "
            "a proxy or login page in between? Check the proxy settings and --base-url (asked 5 times)",
        ),
    ],
)
def test_every_error_has_its_own_line(limiter, code, reply, error, message):
    with ReplayServer(reply) as server, pytest.raises(SourceError) as caught:
        YahooSource(server.url, limiter=limiter).history("APPL", Interval.parse(code))
    assert type(caught.value) is error
    assert str(caught.value) == f"{server.host}: {message}"


def test_a_span_without_any_bar_is_answered(limiter):
    error = chart_error("Bad Request", "Data doesn't exist for startDate = 1577836800, endDate = 1578009600", 400)
    reply = Reply(error.body, error.status, error.headers | {"Date": "Thu, 20 Feb 2025 11:47:42 GMT"})
    bars, answered = one_page(limiter, reply, "D", span("2020-01-01", "2020-01-03"))
    assert bars.empty
    assert answered == span("2020-01-01", "2020-01-03")


# What Yahoo really answered.


def recorded(market_data: Path, name: str) -> tuple[Reply, dict[str, Any]]:
    record = json.loads((market_data / "api_samples" / "yahoo" / name).read_text())["response"]
    reply = json_reply(record["bodyJson"], headers={"Date": record["headers"]["date"]})
    return reply, record["bodyJson"]["chart"]["result"][0]


@pytest.mark.market_data
@pytest.mark.parametrize(
    ("name", "first", "last", "num_bars"),
    [
        ("chart-AAPL-2020-08-31-to-2020-11-07.json", "2020-08-31", "2020-11-06", 49),
        ("chart-AAPL.json", "2022-02-22", "2022-02-22", 1),
        ("chart-BTC-USD-2020-01-01-to-2020-01-03.json", "2020-01-01", "2020-01-03", 3),
        ("chart-EURUSD=X-2020-01-01-to-2020-01-03.json", "2020-01-01", "2020-01-03", 3),
        ("chart-WSU.DE-2023-08-04-to-2023-08-09.json", "2023-08-04", "2023-08-08", 3),
        ("historical-via-chart-0P0000XTS7-2024-09-12-to-2024-09-16.json", "2024-09-12", "2024-09-13", 2),
        ("historical-via-chart-MSFT-dividends-2021-02-01-to-2022-01-31.csv.json", "2021-02-01", "2022-01-28", 252),
        ("historical-via-chart-NVDA-split-2021-02-01-to-2022-01-31.csv.json", "2021-02-01", "2022-01-28", 252),
    ],
)
def test_recorded_charts(market_data, limiter, name, first, last, num_bars):
    reply, result = recorded(market_data, name)
    bars, _ = one_page(limiter, reply, "D", Span(ms(first), ms(last) + DAY.milliseconds))
    assert len(bars) == num_bars
    assert [dates(bars)[0], dates(bars)[-1]] == [first, last]
    quote, adjusted = result["indicators"]["quote"][0], np.array(result["indicators"]["adjclose"][0]["adjclose"])
    np.testing.assert_allclose(bars["close"], adjusted, rtol=1e-12)
    np.testing.assert_array_equal(bars["volume"], quote["volume"])
    np.testing.assert_allclose(bars["high"] / bars["low"], np.array(quote["high"]) / quote["low"], rtol=1e-12)


@pytest.mark.market_data
def test_no_split_or_dividend_moves_the_adjusted_price(market_data, limiter):
    """NVIDIA split four for one in this record; no adjusted day moves by half."""
    reply, result = recorded(market_data, "historical-via-chart-NVDA-split-2021-02-01-to-2022-01-31.csv.json")
    assert result["events"]["splits"]
    bars, _ = one_page(limiter, reply, "D", span("2021-02-01", "2022-01-29"))
    assert np.abs(np.diff(np.log(bars["close"]))).max() < 0.2


@pytest.mark.market_data
def test_a_recorded_day_in_progress_is_dropped(market_data, limiter):
    """At 11:44 UTC of 2025-02-20 Bitcoin's day was under way: the history ends with the day before."""
    reply, _ = recorded(market_data, "chart-BTC-USD-2020-01-01-to-2020-01-03.json")
    with ReplayServer(reply) as server:
        history = YahooSource(server.url, limiter=limiter).history("BTC-USD", DAY)
    assert history == span("2014-09-17", "2025-02-20")


@pytest.mark.network
def test_the_real_yahoo():
    (page,) = YahooSource().pages("AAPL", DAY, span("2024-01-01", "2024-02-01"))
    assert len(page.bars) == 21
