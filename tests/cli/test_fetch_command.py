"""`flashtrader fetch` as it is typed, against servers on this machine that answer like the exchanges."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from command import Command, Outcome
from exchange_server import (
    ExchangeServer,
    Fault,
    LocalServer,
    ReplayServer,
    Reply,
    Request,
    html,
    http_error,
    json_reply,
    random_bars,
    ret_code,
)
from flashtrader.interval import DAY_MS, Interval
from flashtrader.market import http
from flashtrader.market.bars import Bars
from flashtrader.market.store import Series, Store

HOUR_MS = 3_600_000
TWO_YEARS_HOURS = 2 * 365 * 24
HISTORY = random_bars(TWO_YEARS_HOURS + 2_000)
CLOSED = HISTORY.iloc[:-1]
FOR_EVER = 1_000


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_BACKOFF_S", 0.0)


@pytest.fixture
def exchange() -> Iterator[ExchangeServer]:
    """Bybit with one symbol, in the middle of its last hour."""
    with ExchangeServer({"BTCUSDT": HISTORY}) as server:
        yield server


class Fetching:
    """`flashtrader fetch --symbols BTCUSDT` into one directory."""

    def __init__(self, flashtrader: Command, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._flashtrader = flashtrader

    def __call__(self, server: LocalServer, *options: object, data_dir: Path | None = None) -> Any:
        """Return the JSON that is printed about BTCUSDT."""
        [report] = self.table(server, *options, "--json", data_dir=data_dir).json["symbols"].values()
        return report

    def table(self, server: LocalServer, *options: object, data_dir: Path | None = None) -> Outcome:
        return self._flashtrader.succeeds(*self._arguments(server, options, data_dir or self.data_dir))

    def fails(self, exit_code: int, server: LocalServer, *options: object) -> str:
        return self._flashtrader.fails(exit_code, *self._arguments(server, options, self.data_dir))

    def ends(self, server: LocalServer, *options: object) -> Outcome:
        return self._flashtrader(*self._arguments(server, options, self.data_dir))

    def _arguments(self, server: LocalServer, options: tuple[object, ...], data_dir: Path) -> list[object]:
        symbols = [] if "--symbols" in options else ["--symbols", "BTCUSDT"]
        host = () if "--base-url" in options else ("--base-url", server.url)
        return ["fetch", *symbols, *host, "--data-dir", data_dir, *options]


@pytest.fixture
def fetching(flashtrader: Command, tmp_path: Path) -> Fetching:
    return Fetching(flashtrader, tmp_path / "data")


def stored(data_dir: Path, source: str = "bybit", symbol: str = "BTCUSDT", code: str = "60") -> Bars:
    return Store(data_dir).read(Series(source, symbol, Interval.parse(code)))


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def iso(row: int) -> str:
    """Return the opening time of a bar of HISTORY as a user writes it."""
    return f"{pd.Timestamp(int(HISTORY['timestamp'].iloc[row]), unit='ms'):%Y-%m-%dT%H:%M}"


def test_by_default_the_last_two_years_of_hours(exchange: ExchangeServer, fetching: Fetching) -> None:
    table = fetching.table(exchange).out
    expected = CLOSED.iloc[-TWO_YEARS_HOURS:].reset_index(drop=True)
    pd.testing.assert_frame_equal(stored(fetching.data_dir), expected)
    assert "Stored from bybit" in table
    [line] = [line for line in table.splitlines() if "BTCUSDT" in line]
    first, last = (iso(row).split("T") for row in (-1 - TWO_YEARS_HOURS, -2))
    assert [cell for cell in line.split() if cell != "│"] == ["BTCUSDT", "17,520", "+17,520", *first, *last, "none"]


def test_json_is_one_object_and_nothing_else(exchange: ExchangeServer, fetching: Fetching) -> None:
    start, end = iso(100), iso(150)
    outcome = fetching.table(exchange, "--start", start, "--end", end, "--json")
    assert outcome.json == {
        "source": "bybit",
        "data_dir": str(fetching.data_dir),
        "symbols": {
            "BTCUSDT": {
                "rows": 50,
                "added": 50,
                "first": f"{iso(100)}:00Z",
                "last": f"{iso(149)}:00Z",
                "gaps": {},
                "failed": None,
            }
        },
    }
    assert outcome.err == ""


def test_a_second_call_asks_only_where_the_history_ends(exchange: ExchangeServer, fetching: Fetching) -> None:
    fetching(exchange)
    before = contents(fetching.data_dir)
    exchange.requests.clear()
    assert fetching(exchange)["added"] == 0
    assert len(exchange.requests) == 1
    assert contents(fetching.data_dir) == before


def test_the_open_bar_is_stored_once_it_has_closed(exchange: ExchangeServer, fetching: Fetching) -> None:
    start = ("--start", iso(-20))
    assert fetching(exchange, *start)["last"] == f"{iso(-2)}:00Z"
    exchange.now_ms += HOUR_MS
    exchange.requests.clear()
    assert fetching(exchange)["added"] == 1
    assert len(exchange.requests) == 3  # where it ends, do the stored bars still hold, and the new one
    pd.testing.assert_frame_equal(stored(fetching.data_dir), HISTORY.iloc[-20:].reset_index(drop=True))


def test_extending_at_either_end_equals_one_fetch(exchange: ExchangeServer, fetching: Fetching, tmp_path: Path) -> None:
    added = [
        fetching(exchange, *options)["added"]
        for options in (("--start", iso(9_000), "--end", iso(11_000)), ("--start", iso(100)), ())
    ]
    assert added == [2_000, len(CLOSED) - 2_100, 0]
    once = tmp_path / "once"
    fetching(exchange, "--start", iso(100), data_dir=once)
    pd.testing.assert_frame_equal(stored(fetching.data_dir), stored(once))
    assert read_ledger(fetching.data_dir) == read_ledger(once)


def read_ledger(data_dir: Path) -> Any:
    return json.loads((data_dir / "bybit" / "BTCUSDT" / "60" / "ledger.json").read_text())


def test_holes_are_in_the_table_and_explained_in_the_ledger(fetching: Fetching) -> None:
    holey = HISTORY.drop(index=[*range(500, 540), *range(700, 703)])
    with ExchangeServer({"BTCUSDT": holey}) as exchange:
        table = fetching.table(exchange, "--start", iso(0), "--end", iso(1_000)).out
    assert "2 outage" in " ".join(table.split())
    assert [(gap["bars"], gap["reason"]) for gap in read_ledger(fetching.data_dir)["gaps"]] == [
        (40, "outage"),
        (3, "outage"),
    ]


def test_spot_has_a_place_of_its_own(fetching: Fetching) -> None:
    with ExchangeServer({"BTCUSDT": HISTORY}, category="spot") as exchange:
        assert "not listed in category linear" in fetching.fails(2, exchange)
        fetching(exchange, "--category", "spot", "--start", iso(-50))
    assert len(stored(fetching.data_dir, "bybit-spot")) == 49


FIVE_TIMES = " (asked 5 times)"
WRONG_ANSWERS: dict[str, tuple[Fault, str]] = {
    "403": (
        http_error(403, body=b"access too frequent"),
        "HTTP 403 'access too frequent': this address sent more than 600 requests in 5 s, or your region is blocked; "
        "stop every client, wait at least 10 minutes and fetch again, or name another host with --base-url",
    ),
    "429": (http_error(429), "HTTP 429: too many requests; wait a few minutes and fetch again" + FIVE_TIMES),
    "10006": (
        ret_code(10006, "Too many visits!", {}),
        "retCode 10006 'Too many visits!': too many requests; wait a few minutes and fetch again" + FIVE_TIMES,
    ),
    "10016": (
        ret_code(10016, "Server error", {}),
        "retCode 10016 'Server error': server error; fetch again later" + FIVE_TIMES,
    ),
    "5004": (
        ret_code(5004, "Server Timeout", None),
        "retCode 5004 'Server Timeout': server time-out; fetch again later" + FIVE_TIMES,
    ),
    "null": (ret_code(0, "OK", None), "retCode 0, but no list of bars in the answer; fetch again" + FIVE_TIMES),
    "cut": (
        lambda _: Reply(b'{"retCode":0,"result":{"li'),
        """the answer is cut off or not JSON (26 bytes '{"retCode":0,"result":{"li'); fetch again""" + FIVE_TIMES,
    ),
    "html": (
        html,
        "a web page came instead of data 'Sign in Welcome to the hotel network'; a proxy or login page in between? "
        "Check the proxy settings and --base-url" + FIVE_TIMES,
    ),
}


@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_a_wrong_answer_is_one_line_and_nothing_is_written(
    exchange: ExchangeServer, fetching: Fetching, name: str
) -> None:
    fault, message = WRONG_ANSWERS[name]
    exchange.fail(fault, times=FOR_EVER)
    assert fetching.fails(1, exchange) == f"{exchange.host}: BTCUSDT 60 (linear): {message}"
    assert not fetching.data_dir.exists()


@pytest.mark.parametrize("name", ["403", "cut"])
def test_a_failure_on_the_way_keeps_what_came_before_it(
    exchange: ExchangeServer, fetching: Fetching, name: str
) -> None:
    fault, _ = WRONG_ANSWERS[name]
    exchange.fail(fault, times=FOR_EVER, when=older_than(10_000))
    outcome = fetching.ends(exchange, "--start", iso(5_000), "--json")
    report = outcome.json["symbols"]["BTCUSDT"]
    assert outcome.exit_code == 1
    assert outcome.err == f"error: {report['failed']}\n"
    kept = report["rows"]
    assert len(CLOSED) - 11_000 < kept < len(CLOSED) - 9_000
    pd.testing.assert_frame_equal(stored(fetching.data_dir), CLOSED.iloc[-kept:].reset_index(drop=True))
    with ExchangeServer({"BTCUSDT": HISTORY}) as recovered:
        assert fetching(recovered)["added"] == len(CLOSED) - 5_000 - kept
    assert read_ledger(fetching.data_dir)["failed"] == []


def older_than(row: int):
    """Return what tells a request for a page that begins before a bar of HISTORY."""
    limit_ms = int(HISTORY["timestamp"].iloc[row])

    def old(request: Request) -> bool:
        return request.query["limit"] == "1000" and int(request.query["start"]) < limit_ms

    return old


def test_an_unreachable_host(flashtrader: Command, tmp_path: Path) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # and never listens
        host = f"127.0.0.1:{unheard.getsockname()[1]}"
        options = ("--base-url", f"http://{host}", "--data-dir", tmp_path / "data")
        line = flashtrader.fails(1, "fetch", "--symbols", "BTCUSDT", *options)
    assert line.startswith(f"{host}: BTCUSDT 60 (linear): unreachable (")
    assert line.endswith("); check the network, the proxy settings and --base-url (asked 5 times)")
    assert not (tmp_path / "data").exists()


REQUESTS_THAT_ARE_WRONG = {
    "symbol": (
        ["--symbols", "BTCUSDT,DOGE"],
        "{host}: DOGE 60 (linear): retCode 10001 'Not supported symbols': DOGE is not listed in category linear; "
        "check the spelling (upper case, such as BTCUSDT) and the category",
    ),
    "interval": (
        ["--interval", "7"],
        "unknown interval '7': choose one of 1, 3, 5, 15, 30, 60, 120, 240, 360, 720, D, W, M",
    ),
    "interval-there": (
        ["--interval", "5"],
        "{host}: BTCUSDT 5 (linear): retCode 10001 'Invalid period!': the exchange has no interval 5; "
        "choose another --interval",
    ),
    "start": (["--start", "yesterday"], "--start: 'yesterday' is not a date such as 2024-01-31 or 2024-01-31T12:00"),
    "end": (["--end", "2024-13-01"], "--end: '2024-13-01' is not a date such as 2024-01-31 or 2024-01-31T12:00"),
    "start-after-end": (
        ["--start", "2024-02-01", "--end", "2024-01-01"],
        "start 2024-02-01T00:00:00Z is not before end 2024-01-01T00:00:00Z",
    ),
    "twice": (
        ["--symbols", "BTCUSDT,BTCUSDT"],
        "--symbols BTCUSDT,BTCUSDT: name each market once, separated by commas",
    ),
    "none": (["--symbols", " , "], "--symbols  , : name each market once, separated by commas"),
    "elsewhere": (
        ["--symbols", "../BTCUSDT"],
        "symbol '../BTCUSDT' can't name a directory: use letters, digits and ^ & = + : . - _",
    ),
    "base-url": (
        ["--base-url", "localhost:80"],
        "--base-url localhost:80: write it as https://host or http://host:port",
    ),
    "path": (["--path", "."], "--path goes with --source file, not bybit"),
    "noise": (["--noise-only"], "--noise-only goes with --source simulated, not bybit"),
    "category": (
        ["--source", "yahoo", "--category", "spot"],
        "--category spot goes with --source bybit, not yahoo",
    ),
    "url-of-file": (["--source", "file", "--path", "."], "--base-url goes with --source bybit or yahoo, not file"),
}


@pytest.mark.parametrize("name", REQUESTS_THAT_ARE_WRONG)
def test_a_wrong_request_is_one_line_and_nothing_is_written(
    exchange: ExchangeServer, fetching: Fetching, name: str
) -> None:
    options, message = REQUESTS_THAT_ARE_WRONG[name]
    line = fetching.fails(2, exchange, *options)
    assert line == " ".join(message.format(host=exchange.host).split())
    assert not fetching.data_dir.exists()


def test_an_unknown_source_is_told_the_known_ones(exchange: ExchangeServer, fetching: Fetching) -> None:
    line = fetching.fails(2, exchange, "--source", "kraken")
    assert line.endswith("'kraken' is not one of 'bybit', 'yahoo', 'file', 'simulated'.")


def test_files_need_a_path(flashtrader: Command, tmp_path: Path) -> None:
    options = ("--source", "file", "--data-dir", tmp_path / "data")
    line = flashtrader.fails(2, "fetch", "--symbols", "BTCUSDT", *options)
    assert line == "--source file needs --path: a Parquet or CSV file, or a directory of them"


def test_one_market_fails_and_the_others_are_stored(fetching: Fetching) -> None:
    with ExchangeServer({"BTCUSDT": HISTORY, "ETHUSDT": HISTORY}) as exchange:
        exchange.fail(http_error(403), times=FOR_EVER, when=lambda request: request.query["symbol"] == "ETHUSDT")
        outcome = fetching.ends(exchange, "--symbols", "BTCUSDT, ETHUSDT", "--start", iso(-100), "--json")
    assert outcome.exit_code == 1
    assert [report["rows"] for report in outcome.json["symbols"].values()] == [99, 0]
    assert outcome.err.count("error: ") == 1


# Two histories are never mixed.


def test_a_market_of_which_nothing_is_stored_is_not_in_the_table(fetching: Fetching) -> None:
    with ExchangeServer({"BTCUSDT": HISTORY, "ETHUSDT": HISTORY}) as exchange:
        exchange.fail(http_error(403), times=FOR_EVER, when=lambda request: request.query["symbol"] == "ETHUSDT")
        assert fetching.ends(exchange, "--symbols", "ETHUSDT").out == ""
        out = fetching.ends(exchange, "--symbols", "BTCUSDT,ETHUSDT", "--start", iso(-100)).out
    assert "BTCUSDT" in out
    assert "ETHUSDT" not in out


def test_another_exchanges_bars_do_not_extend_a_history(exchange: ExchangeServer, fetching: Fetching) -> None:
    fetching(exchange, "--start", iso(5_000), "--end", iso(6_000))
    before = contents(fetching.data_dir)
    with ExchangeServer({"BTCUSDT": random_bars(len(HISTORY), seed=1)}) as other:
        line = fetching.fails(1, other)
    assert line.startswith(f"BTCUSDT 60 from bybit: bar {iso(5_999)}:00Z in {fetching.data_dir}/bybit/BTCUSDT/60 has ")
    assert line.endswith("; give another market another --data-dir, or move or delete this directory and fetch again")
    assert f"close {HISTORY['close'].iloc[5_999]:g}, at the source now " in line
    assert contents(fetching.data_dir) == before


@pytest.mark.parametrize("shared", [slice(0, 150), slice(0, 50)])
def test_files_of_two_markets_are_not_joined(flashtrader: Command, tmp_path: Path, shared: slice) -> None:
    """Whether the second file is longer, or shorter and adds nothing."""
    for name, bars in (("one", HISTORY.iloc[:100]), ("other", random_bars(200, seed=1).iloc[shared])):
        (tmp_path / name).mkdir()
        bars.to_csv(tmp_path / name / "BTCUSDT-60.csv", index=False)

    def options(name: str) -> list[object]:
        return [
            "fetch",
            "-s",
            "BTCUSDT",
            "--source",
            "file",
            "--path",
            tmp_path / name,
            "--data-dir",
            tmp_path / "data",
        ]

    for _ in range(2):
        flashtrader.succeeds(*options("one"))
    before = contents(tmp_path / "data")
    assert "give another market another --data-dir" in flashtrader.fails(1, *options("other"))
    assert contents(tmp_path / "data") == before


def yahoo_days(days: int, adjustment: float = 1.0) -> Reply:
    """Return a chart of the first days of 2024, asked for in February; `adjustment` multiplies the adjusted prices."""
    closes = [100.0 + day for day in range(days)]
    opens_s = [1_704_067_200 + day * DAY_MS // 1_000 for day in range(days)]  # 2024-01-01
    quote = {"open": closes, "high": closes, "low": closes, "close": closes, "volume": [1_000] * days}
    indicators = {"quote": [quote], "adjclose": [{"adjclose": [close * adjustment for close in closes]}]}
    meta = {"exchangeTimezoneName": "UTC", "firstTradeDate": opens_s[0], "regularMarketTime": opens_s[-1] + 80_000}
    result = {"meta": meta, "timestamp": opens_s, "indicators": indicators}
    date = {"Date": "Thu, 01 Feb 2024 00:00:00 GMT"}
    return json_reply({"chart": {"result": [result], "error": None}}, headers=date)


YAHOO = ("--source", "yahoo", "--symbols", "AAPL", "--interval", "D")


def test_yahoos_adjusted_days(fetching: Fetching) -> None:
    with ReplayServer(yahoo_days(5, 0.5)) as yahoo:
        report = fetching(yahoo, *YAHOO)
    assert (report["rows"], report["last"], report["failed"]) == (5, "2024-01-05T00:00:00Z", None)
    assert stored(fetching.data_dir, "yahoo", "AAPL", "D")["close"].tolist() == [50.0, 50.5, 51.0, 51.5, 52.0]


def test_yahoos_prices_of_before_and_after_a_split_are_not_joined(fetching: Fetching) -> None:
    with ReplayServer(yahoo_days(5)) as yahoo:
        fetching(yahoo, *YAHOO, "--end", "2024-01-06")
    before = contents(fetching.data_dir)
    with ReplayServer(yahoo_days(8, 0.5)) as yahoo:
        line = fetching.fails(1, yahoo, *YAHOO)
    assert line == (
        f"AAPL D from yahoo: bar 2024-01-05T00:00:00Z in {fetching.data_dir}/yahoo/AAPL/D has close 104, at the source "
        "now 52; its prices are readjusted after a split or dividend: move or delete this directory and fetch again"
    )
    assert contents(fetching.data_dir) == before
    with ReplayServer(yahoo_days(8)) as yahoo:
        assert fetching(yahoo, *YAHOO)["added"] == 3


# Ctrl-C.


@pytest.mark.parametrize("delay_s", [5.0, 30.0])
def test_an_interrupt_keeps_what_arrived_and_says_how_to_go_on(
    exchange: ExchangeServer, fetching: Fetching, delay_s: float
) -> None:
    """It does not wait for an answer that is on its way, however slow the host."""
    interrupted_s = []

    def interrupting(reply: Reply) -> Reply:
        interrupted_s.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
        return replace(reply, delay_s=delay_s)

    # Further back than the pages in flight at the start: it is asked for only once newer ones have arrived.
    exchange.fail(interrupting, when=older_than(len(HISTORY) - 12_000))
    outcome = fetching.ends(exchange)
    assert time.monotonic() - interrupted_s[0] < 15.0
    assert outcome.exit_code == 130
    assert outcome.out == ""
    kept = len(stored(fetching.data_dir))
    assert 1_000 <= kept < TWO_YEARS_HOURS
    assert outcome.err == (
        f"stopped: {kept:,} bars of BTCUSDT are stored in {fetching.data_dir}; the same command goes on from there\n"
    )
    report = fetching(exchange)
    assert (report["rows"], report["added"]) == (TWO_YEARS_HOURS, TWO_YEARS_HOURS - kept)
    pd.testing.assert_frame_equal(stored(fetching.data_dir), CLOSED.iloc[-TWO_YEARS_HOURS:].reset_index(drop=True))
