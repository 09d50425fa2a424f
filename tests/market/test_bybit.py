"""Bybit: the whole history, closed bars only, and a clear line for everything the exchange can say."""

import email.utils
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange_server import (
    ExchangeServer,
    ReplayServer,
    Reply,
    broken_off,
    changed_rows,
    contradicting_rows,
    cut_json,
    duplicated_rows,
    five_columns,
    html,
    http_error,
    json_reply,
    missing_rows,
    outside_rows,
    random_bars,
    reordered_rows,
    reset,
    ret_code,
    worded_rows,
)
from flashtrader.errors import DataError, SourceError, UnknownSymbolError
from flashtrader.interval import Interval
from flashtrader.market.http import RateLimiter
from flashtrader.market.sources import Page, Span, bybit
from flashtrader.market.sources.bybit import BybitSource
from flashtrader.market.spans import iso_time

HOUR = Interval.parse("60")
HOUR_MS = HOUR.milliseconds


@pytest.fixture(scope="module")
def history() -> pd.DataFrame:
    return random_bars(2_345)


def source_of(server, limiter: RateLimiter, **options) -> BybitSource:
    return BybitSource(base_url=server.url, limiter=limiter, **options)


def joined(pages: list[Page]) -> pd.DataFrame:
    return pd.concat([page.bars for page in reversed(pages)], ignore_index=True)


def whole_history(source: BybitSource, symbol: str = "BTCUSDT", interval: Interval = HOUR) -> list[Page]:
    return list(source.pages(symbol, interval, source.history(symbol, interval)))


def test_the_history_is_the_servers_row_for_row(history, limiter):
    with ExchangeServer({"BTCUSDT": history}, latency_s=0.03) as server:
        source = source_of(server, limiter)
        closed = history.iloc[:-1]
        span = Span(int(closed["timestamp"].iloc[0]), int(closed["timestamp"].iloc[-1]) + HOUR_MS)
        assert source.history("BTCUSDT", HOUR) == span
        server.requests.clear()
        pages = list(source.pages("BTCUSDT", HOUR, span))
        pd.testing.assert_frame_equal(joined(pages), closed)
        assert [len(page.bars) for page in pages] == [1_000, 1_000, 344]
        assert [page.answered.end_ms for page in pages] == [
            span.end_ms,
            *(page.answered.start_ms for page in pages[:-1]),
        ]
        assert pages[-1].answered.start_ms == span.start_ms
        assert len(server.requests) == 3
        for request in server.requests:
            start_ms, end_ms, limit = (int(request.query[key]) for key in ("start", "end", "limit"))
            assert limit == 1_000
            assert (end_ms + 1 - start_ms) // HOUR_MS <= 1_000


def test_several_pages_are_in_flight_under_one_limit(monkeypatch, history):
    monkeypatch.setattr(bybit, "PAGE_BARS", 50)
    with ExchangeServer({"BTCUSDT": history}, latency_s=0.08) as server:
        pages = whole_history(source_of(server, RateLimiter(15, 0.25)))
        pd.testing.assert_frame_equal(joined(pages), history.iloc[:-1])
        assert 2 < server.max_in_flight <= bybit.IN_FLIGHT
        assert server.busiest(0.25) <= 15


def test_a_reader_that_stops_early_stops_the_requests(monkeypatch, history, limiter):
    monkeypatch.setattr(bybit, "PAGE_BARS", 10)
    with ExchangeServer({"BTCUSDT": history}) as server:
        source = source_of(server, limiter)
        pages = source.pages("BTCUSDT", HOUR, source.history("BTCUSDT", HOUR))
        assert next(pages).bars["timestamp"].iloc[-1] == history["timestamp"].iloc[-2]
        pages.close()
        assert len(server.requests) <= 2 + 2 * bybit.IN_FLIGHT


def test_once_the_reader_has_left_nothing_is_asked_again(monkeypatch, history, limiter):
    monkeypatch.setattr(bybit, "PAGE_BARS", 10)
    newest_ms = int(history["timestamp"].iloc[-11])
    with ExchangeServer({"BTCUSDT": history}, latency_s=0.03) as server:
        source = source_of(server, limiter)
        pages = source.pages("BTCUSDT", HOUR, source.history("BTCUSDT", HOUR))
        server.fail(http_error(500), times=1_000, when=lambda request: int(request.query["start"]) < newest_ms)
        next(pages)
        pages.close()
        # Each worker ends after the request that it has on its way.
        assert len(server.requests) <= 2 + 3 * bybit.IN_FLIGHT


@settings(max_examples=15, deadline=None)
@given(
    present=st.lists(st.booleans(), min_size=80, max_size=80),
    asked=st.tuples(st.integers(-5, 90), st.integers(-5, 90)).map(sorted),
    page_cap=st.sampled_from([3, 10, 1_000]),
    minutes=st.integers(0, 120),
)
def test_any_part_of_any_history_is_the_servers(present, asked, page_cap, minutes):
    """Whatever is missing, however short the pages, whatever the time: the closed bars, all of them."""
    everything = random_bars(80)
    history = everything[np.array(present)].reset_index(drop=True)
    first_ms = int(everything["timestamp"].iloc[0])
    start_ms, end_ms = (first_ms + number * HOUR_MS for number in asked)
    now_ms = first_ms + 75 * HOUR_MS + minutes * 60_000
    with (
        pytest.MonkeyPatch.context() as patch,
        ExchangeServer({"BTCUSDT": history}, now_ms=now_ms, page_cap=page_cap) as server,
    ):
        patch.setattr(bybit, "PAGE_BARS", 10)
        source = source_of(server, RateLimiter(10_000, 1.0))
        pages = list(source.pages("BTCUSDT", HOUR, Span(start_ms, end_ms)))
    answered_end_ms = pages[0].answered.end_ms if pages else start_ms
    inside = history[(history["timestamp"] >= start_ms) & (history["timestamp"] < answered_end_ms)]
    if pages:
        pd.testing.assert_frame_equal(joined(pages), inside.reset_index(drop=True), check_dtype=not inside.empty)
        assert pages[-1].answered.start_ms == start_ms
    known_ms = now_ms // HOUR_MS * HOUR_MS
    assert answered_end_ms <= max(start_ms, known_ms)
    # Only a bar that may still come is left open, and that one only in its first minute.
    assert answered_end_ms >= min(end_ms, HOUR.floor(now_ms - 60_000))


@pytest.mark.parametrize("after_close_ms", [-1, 0, 1])
def test_the_last_bar_is_there_once_the_servers_clock_says_it_has_closed(history, limiter, after_close_ms):
    close_ms = int(history["timestamp"].iloc[-1]) + HOUR_MS
    with ExchangeServer({"BTCUSDT": history}, now_ms=close_ms + after_close_ms) as server:
        source = source_of(server, limiter)
        # Asking for more than has closed changes nothing.
        pages = list(source.pages("BTCUSDT", HOUR, Span(close_ms - 3 * HOUR_MS, close_ms + 2 * HOUR_MS)))
    closed = 3 if after_close_ms >= 0 else 2
    expected = history.iloc[-3:].iloc[:closed].reset_index(drop=True)
    pd.testing.assert_frame_equal(joined(pages), expected)
    assert pages[0].answered.end_ms == close_ms - (3 - closed) * HOUR_MS


def test_a_bar_that_closed_a_moment_ago_may_still_come(history, limiter):
    close_ms = int(history["timestamp"].iloc[-1]) + HOUR_MS
    late = history.iloc[:-1]
    with ExchangeServer({"BTCUSDT": late}, now_ms=close_ms + 5_000) as server:
        source = source_of(server, limiter)
        (page,) = source.pages("BTCUSDT", HOUR, Span(close_ms - 3 * HOUR_MS, close_ms))
        assert page.answered.end_ms == close_ms - HOUR_MS
        server.now_ms = close_ms + 60_000
        (page,) = source.pages("BTCUSDT", HOUR, Span(close_ms - 3 * HOUR_MS, close_ms))
        assert page.answered.end_ms == close_ms


@pytest.mark.parametrize("code", ["1", "5", "240", "D", "W", "M"])
def test_every_interval(monkeypatch, limiter, code):
    monkeypatch.setattr(bybit, "PAGE_BARS", 7)
    interval = Interval.parse(code)
    history = random_bars(30, code)
    with ExchangeServer({"BTCUSDT": history}, code) as server:
        pages = whole_history(source_of(server, limiter), interval=interval)
    pd.testing.assert_frame_equal(joined(pages), history.iloc[:-1])


def test_the_spot_market_is_another_source(history, limiter):
    with ExchangeServer({"BTCUSDT": history}, category="spot") as server:
        spot = source_of(server, limiter, category="spot")
        assert (spot.name, source_of(server, limiter).name) == ("bybit-spot", "bybit")
        pd.testing.assert_frame_equal(joined(whole_history(spot)), history.iloc[:-1])
        with pytest.raises(UnknownSymbolError) as caught:
            source_of(server, limiter).history("BTCUSDT", HOUR)
        assert str(caught.value) == (
            f"{server.host}: BTCUSDT 60 (linear): retCode 10001 'Not supported symbols': BTCUSDT is not listed in "
            "category linear; check the spelling (upper case, such as BTCUSDT) and the category"
        )


@pytest.mark.parametrize("fault", [duplicated_rows, reordered_rows], ids=["duplicated", "reordered"])
def test_repeated_or_unsorted_rows_are_put_right(history, limiter, fault):
    with ExchangeServer({"BTCUSDT": history}) as server:
        server.fail(fault, times=10)
        pd.testing.assert_frame_equal(joined(whole_history(source_of(server, limiter))), history.iloc[:-1])


@pytest.mark.parametrize("rows", [(0, 1), (400, 500), (990, 1_000), (0, 1_000)])
def test_bars_that_one_answer_lost_are_found(history, limiter, rows):
    with ExchangeServer({"BTCUSDT": history}) as server:
        source = source_of(server, limiter)
        span = source.history("BTCUSDT", HOUR)
        server.fail(missing_rows(*rows))
        pd.testing.assert_frame_equal(joined(list(source.pages("BTCUSDT", HOUR, span))), history.iloc[:-1])


@pytest.mark.parametrize("hours_off", [-1, 1])
def test_a_clock_that_is_off_does_not_close_an_open_bar(history, limiter, hours_off):
    """One server behind the address has another time than the Date header of its own answer."""
    now_ms = int(history["timestamp"].iloc[-1]) + HOUR_MS // 2

    def off(reply):
        return json_reply(reply.json | {"time": now_ms + hours_off * HOUR_MS}, headers=dated)

    dated = {"Date": email.utils.formatdate(now_ms / 1000, usegmt=True)}
    with ExchangeServer({"BTCUSDT": history}, now_ms=now_ms) as server:
        server.fail(off, times=2)
        source = source_of(server, limiter)
        pages = list(source.pages("BTCUSDT", HOUR, Span(now_ms // HOUR_MS * HOUR_MS - 5 * HOUR_MS, now_ms + HOUR_MS)))
        pd.testing.assert_frame_equal(joined(pages), history.iloc[-6:-1].reset_index(drop=True))
        server.fail(off, times=5)
        with pytest.raises(SourceError) as caught:
            source.history("BTCUSDT", HOUR)
        assert str(caught.value) == (
            f"{server.host}: BTCUSDT 60 (linear): the answer's time {iso_time(now_ms + hours_off * HOUR_MS)} and its "
            f"Date {iso_time(now_ms)} differ, so open bars can't be told; fetch again (asked 5 times)"
        )


def test_bars_that_the_exchange_lacks_are_answered(history, limiter):
    """A hole in two answers is the exchange's word; nothing is made up for it."""
    holey = history.drop(index=range(1_500, 1_600)).reset_index(drop=True)
    with ExchangeServer({"BTCUSDT": history}) as server:
        in_the_hole = int(history["timestamp"][1_500])
        server.fail(
            missing_rows(744, 844), times=2, when=lambda request: int(request.query.get("end", 0)) > in_the_hole
        )
        source = source_of(server, limiter)
        pages = list(source.pages("BTCUSDT", HOUR, Span(int(history["timestamp"][0]), server.now_ms)))
    pd.testing.assert_frame_equal(joined(pages), holey.iloc[:-1])
    assert pages[-1].answered.start_ms == history["timestamp"][0]


PASSING_FAULTS = {
    "429": http_error(429, {"Retry-After": "2"}),
    "503": http_error(503),
    "10006": ret_code(10006, "Too many visits!", {}),
    "10016": ret_code(10016, "Request timeout, please try again later", {}),
    "10000": ret_code(10000, "Server Timeout", {}),
    "10002": ret_code(10002, "Request not within recv window", {}),
    "5004": ret_code(5004, "Server Timeout"),
    "null-result": ret_code(0, "OK"),
    "cut": cut_json,
    "broken-off": broken_off,
    "reset": reset,
    "html": html,
    "outside": outside_rows,
    "contradicting": contradicting_rows,
    "not-a-number": worded_rows,
}


@pytest.mark.parametrize("name", PASSING_FAULTS)
def test_a_failure_that_passes_leaves_no_trace(history, limiter, name):
    with ExchangeServer({"BTCUSDT": history}) as server:
        source = source_of(server, limiter)
        span = source.history("BTCUSDT", HOUR)
        server.fail(PASSING_FAULTS[name], times=3)
        pd.testing.assert_frame_equal(joined(list(source.pages("BTCUSDT", HOUR, span))), history.iloc[:-1])
        assert len(server.requests) == 1 + 3 + 3


FIVE_TIMES = "(asked 5 times)"


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (
            ret_code(10001, "Not supported symbols", {}),
            UnknownSymbolError,
            "retCode 10001 'Not supported symbols': BTCUSDT is not listed in category linear; "
            "check the spelling (upper case, such as BTCUSDT) and the category",
        ),
        (
            ret_code(10029, "Symbol is not whitelisted", {}),
            UnknownSymbolError,
            "retCode 10029 'Symbol is not whitelisted': BTCUSDT is not listed in category linear; "
            "check the spelling (upper case, such as BTCUSDT) and the category",
        ),
        (
            ret_code(10001, "Invalid period!", {}),
            UnknownSymbolError,
            "retCode 10001 'Invalid period!': the exchange has no interval 60; choose another --interval",
        ),
        (
            ret_code(10001, "params error", {}),
            SourceError,
            "retCode 10001 'params error': the exchange refuses; "
            "https://bybit-exchange.github.io/docs/v5/error says why",
        ),
        (
            ret_code(10006, "Too many visits!", {}),
            SourceError,
            f"retCode 10006 'Too many visits!': too many requests; wait a few minutes and fetch again {FIVE_TIMES}",
        ),
        (
            ret_code(10016, "Request timeout, please try again later", {}),
            SourceError,
            "retCode 10016 'Request timeout, please try again later': server error; fetch again later " + FIVE_TIMES,
        ),
        (
            ret_code(5004, "Server Timeout"),
            SourceError,
            f"retCode 5004 'Server Timeout': server time-out; fetch again later {FIVE_TIMES}",
        ),
        (
            ret_code(10000, "Server Timeout", {}),
            SourceError,
            f"retCode 10000 'Server Timeout': server time-out; fetch again later {FIVE_TIMES}",
        ),
        (
            ret_code(10002, "Request not within recv window", {}),
            SourceError,
            f"retCode 10002 'Request not within recv window': clocks differ; fetch again later {FIVE_TIMES}",
        ),
        (
            http_error(429, body=b"slow down"),
            SourceError,
            f"HTTP 429 'slow down': too many requests; wait a few minutes and fetch again {FIVE_TIMES}",
        ),
        (
            html,
            SourceError,
            "a web page came instead of data 'Sign in Welcome to the hotel network'; a proxy or login page in between? "
            f"Check the proxy settings and --base-url {FIVE_TIMES}",
        ),
        (ret_code(0, ""), SourceError, f"retCode 0, but no list of bars in the answer; fetch again {FIVE_TIMES}"),
        (
            http_error(403, body=b"access too frequent"),
            SourceError,
            "HTTP 403 'access too frequent': this address sent more than 600 requests in 5 s, or your region is "
            "blocked; stop every client, wait at least 10 minutes and fetch again, or name another host with "
            "--base-url",
        ),
        (
            five_columns,
            SourceError,
            "rows of 5 columns, a mark or index price without volume; --base-url must serve /v5/market/kline",
        ),
        (
            changed_rows(lambda rows: [row[:6] for row in rows]),
            SourceError,
            f"rows of [6] columns instead of 7; fetch again {FIVE_TIMES}",
        ),
        (worded_rows, SourceError, f"a bar holds something that is not a number; fetch again {FIVE_TIMES}"),
        (
            contradicting_rows,
            SourceError,
            f"the same bar came twice with different values; fetch again {FIVE_TIMES}",
        ),
        (
            changed_rows(lambda rows: [["1000", *rows[0][1:]]]),
            SourceError,
            f"bars came that open outside the time asked for; fetch again {FIVE_TIMES}",
        ),
        (
            changed_rows(lambda rows: [["1e300", *rows[0][1:]]]),
            SourceError,
            f"a bar's time is none; fetch again {FIVE_TIMES}",
        ),
        (
            lambda _: json_reply({"code": 7}),
            SourceError,
            f"the answer is not a Bybit v5 envelope; check --base-url {FIVE_TIMES}",
        ),
        (
            lambda reply: json_reply(reply.json | {"time": 0}),
            SourceError,
            f"the answer lacks the server's time, so open bars can't be told; fetch again {FIVE_TIMES}",
        ),
        (
            lambda reply: json_reply(reply.json | {"result": {"symbol": "ETHUSDT", "category": "linear", "list": []}}),
            SourceError,
            f"the answer is about ETHUSDT linear; fetch again {FIVE_TIMES}",
        ),
    ],
)
def test_every_answer_that_stays_wrong_has_its_own_line(history, limiter, fault, error, message):
    with ExchangeServer({"BTCUSDT": history}) as server:
        server.fail(fault, times=5)
        with pytest.raises(SourceError) as caught:
            source_of(server, limiter).history("BTCUSDT", HOUR)
        assert type(caught.value) is error
        assert str(caught.value) == f"{server.host}: BTCUSDT 60 (linear): {message}"


def test_a_bar_that_can_not_be_is_the_exchanges_to_correct(history, limiter):
    below_zero = changed_rows(lambda rows: [*rows[:-1], [*rows[-1][:5], "-1", rows[-1][6]]])
    with ExchangeServer({"BTCUSDT": history}) as server:
        source = source_of(server, limiter)
        span = source.history("BTCUSDT", HOUR)
        server.fail(below_zero, times=5)
        with pytest.raises(DataError) as caught:
            list(source.pages("BTCUSDT", HOUR, span))
        assert str(caught.value) == (
            f"{server.host}: BTCUSDT 60 (linear): bar 2020-11-08T12:00:00Z has no usable volume: zero or more "
            "(volume -1); the source is at fault; fetch again later"
        )


def test_a_symbol_that_has_not_traded_yet(limiter):
    with ExchangeServer({"NEWUSDT": random_bars(0)}, now_ms=1_700_000_000_000) as server:
        with pytest.raises(SourceError) as caught:
            source_of(server, limiter).history("NEWUSDT", HOUR)
        assert str(caught.value) == (
            f"{server.host}: NEWUSDT 60 (linear): the exchange has no bars of it yet; leave it out"
        )


def test_pages_that_came_before_a_failure_are_kept(monkeypatch, history, limiter):
    monkeypatch.setattr(bybit, "PAGE_BARS", 100)
    with ExchangeServer({"BTCUSDT": history}) as server:
        source = source_of(server, limiter)
        span = source.history("BTCUSDT", HOUR)
        too_old_ms = int(history["timestamp"].iloc[1_500])
        server.fail(http_error(500), times=1_000, when=lambda request: int(request.query["start"]) < too_old_ms)
        pages = []
        with pytest.raises(SourceError, match="HTTP 500"):
            pages.extend(source.pages("BTCUSDT", HOUR, span))
    kept = joined(pages)
    pd.testing.assert_frame_equal(kept, history.iloc[-1 - len(kept) : -1].reset_index(drop=True))
    assert pages[-1].answered.start_ms >= too_old_ms
    assert len(kept) >= 800


# What the exchange really answered.


def recorded(market_data: Path, name: str) -> Reply:
    return Reply((market_data / "api_samples" / "bybit" / name).read_bytes())


@pytest.mark.market_data
@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("error_10001_invalid_period.json", UnknownSymbolError, "no interval 60"),
        ("error_10001_not_supported_symbols.json", UnknownSymbolError, "BTCUSDT is not listed"),
        ("error_10006_rate_limit.json", SourceError, "too many requests"),
        ("error_10016_request_timeout.json", SourceError, "Request timeout, please try again later"),
        ("error_5004_server_timeout_null_result.json", SourceError, "server time-out"),
        ("mark_or_index_kline_linear_BTCUSDT_60_5cols.json", SourceError, "rows of 5 columns"),
        ("index_kline_linear_ETHUSDT_1_emptyRetMsg.json", SourceError, "the answer is about ETHUSDT linear"),
        ("docs_example_kline_inverse_BTCUSD_60.json", SourceError, "the answer is about BTCUSD inverse"),
        ("orderbook_linear_BTCUSDT_limit5.json", SourceError, "no list of bars"),
        ("tickers_linear_BTCUSDT.json", SourceError, "rows of [0] columns"),
    ],
)
def test_recorded_errors(market_data, limiter, name, error, words):
    with ReplayServer(recorded(market_data, name)) as server:
        with pytest.raises(SourceError) as caught:
            source_of(server, limiter).history("BTCUSDT", HOUR)
        assert type(caught.value) is error
        assert words in str(caught.value)


@pytest.mark.market_data
@pytest.mark.parametrize(
    ("name", "code", "rows", "closed"),
    [
        ("RECONSTRUCTED_page_linear_BTCUSDT_60_limit1000.json", "60", 1_000, 999),
        ("RECONSTRUCTED_page_linear_BTCUSDT_D_limit1000.json", "D", 1_000, 999),
        ("kline_linear_BTCUSDT_1_limit5_last_open.json", "1", 5, 4),
        ("kline_linear_BTCUSDT_60_limit2_last_open.json", "60", 2, 1),
        ("kline_linear_BTCUSDT_D_start_end_limit3.json", "D", 3, 3),
        ("kline_spot_BTCUSDT_1_start_not_aligned.json", "1", 2, 2),
    ],
)
def test_recorded_pages(market_data, limiter, name, code, rows, closed):
    """Values are the recorded text as numbers; the bar that was open when it was recorded is left out."""
    reply = recorded(market_data, name)
    recorded_rows = sorted(reply.json["result"]["list"], key=lambda row: int(row[0]))
    assert len(recorded_rows) == rows
    interval = Interval.parse(code)
    span = Span(int(recorded_rows[0][0]), int(recorded_rows[-1][0]) + interval.milliseconds)
    with ReplayServer(reply) as server:
        (page,) = source_of(server, limiter, category=reply.json["result"]["category"]).pages("BTCUSDT", interval, span)
    expected = [[int(row[0]), *(float(number) for number in row[1:])] for row in recorded_rows[:closed]]
    assert page.bars.to_numpy().tolist() == expected
    assert page.answered == Span(span.start_ms, expected[-1][0] + interval.milliseconds)


@pytest.mark.market_data
def test_a_real_history_of_five_years(market_data, limiter):
    history = pd.read_parquet(market_data / "bybit-linear" / "BTCUSDT-60.parquet")
    with ExchangeServer({"BTCUSDT": history}) as server:
        pages = whole_history(source_of(server, limiter))
    assert len(history) > 40_000
    pd.testing.assert_frame_equal(joined(pages)[history.columns], history.iloc[:-1])


@pytest.mark.network
def test_the_real_exchange():
    source = BybitSource()
    span = source.history("BTCUSDT", Interval.parse("D"))
    bars = joined(list(source.pages("BTCUSDT", Interval.parse("D"), span)))
    assert pd.Timestamp(span.start_ms, unit="ms") == pd.Timestamp("2020-03-25")
    assert len(bars) == (span.end_ms - span.start_ms) // Interval.parse("D").milliseconds
