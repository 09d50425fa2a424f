"""Local HTTP servers that behave like the exchanges: real sockets, a request log, faults on demand.

    with ExchangeServer({"BTCUSDT": bars}, interval="60", now_ms=...) as server:
        source = BybitSource(base_url=server.url)

`ExchangeServer` serves Bybit's `/v5/market/kline` from a table of bars per symbol, and `/v5/market/funding/history`
from a table of settlements, with the window semantics of the exchange. `ReplayServer` answers with given replies. Both
take faults: functions from the right reply to a wrong one.
"""

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np
import pandas as pd

from flashtrader.interval import Interval

VALUE_COLUMNS = ("open", "high", "low", "close", "volume", "turnover")


@dataclass(frozen=True)
class Request:
    """What a client asked for, and when it arrived (time.monotonic)."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    arrived_s: float


@dataclass(frozen=True)
class Reply:
    """An HTTP answer. `sent_bytes` below the body's length breaks the connection there; 0 sends not even a status.

    trickle_s: the wait after each of the body's bytes.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    sent_bytes: int | None = None
    trickle_s: float = 0.0

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Fault = Callable[[Reply], Reply]


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Return a value as a JSON answer."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return Reply(body, status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})


# Faults: each turns the right reply into the one that is sent.


def http_error(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Fault:
    return lambda _: Reply(body, status, dict(headers or {}))


def ret_code(code: int, message: str, result: Any = None, headers: Mapping[str, str] | None = None) -> Fault:
    """Bybit's own errors: HTTP 200, `retCode` not zero."""
    return lambda reply: json_reply(
        {"retCode": code, "retMsg": message, "result": result, "retExtInfo": {}, "time": reply.json["time"]},
        headers=headers,
    )


def slow(seconds: float) -> Fault:
    return lambda reply: replace(reply, delay_s=seconds)


def trickling(seconds: float) -> Fault:
    """The body comes byte by byte: never silent for long, never done."""
    return lambda reply: replace(reply, trickle_s=seconds)


def html(reply: Reply) -> Reply:
    body = b"<html><head><title>Sign in</title></head><body>Welcome to the hotel network</body></html>"
    return Reply(body, headers={"Content-Type": "text/html"})


def cut_json(reply: Reply) -> Reply:
    """A complete HTTP answer that holds half of the JSON."""
    return replace(reply, body=reply.body[: len(reply.body) // 2])


def broken_off(reply: Reply) -> Reply:
    """The connection ends before Content-Length bytes are there."""
    return replace(reply, sent_bytes=len(reply.body) // 2)


def reset(reply: Reply) -> Reply:
    """The connection is reset without an answer."""
    return replace(reply, sent_bytes=0)


def changed_rows(change: Callable[[list[list[str]]], list[list[str]]]) -> Fault:
    """Serve other rows than the right ones."""

    def fault(reply: Reply) -> Reply:
        envelope = reply.json
        envelope["result"]["list"] = change(envelope["result"]["list"])
        return json_reply(envelope)

    return fault


duplicated_rows = changed_rows(lambda rows: rows[:2] + rows)
reordered_rows = changed_rows(lambda rows: rows[1::2] + rows[::2])
five_columns = changed_rows(lambda rows: [row[:5] for row in rows])
outside_rows = changed_rows(lambda rows: [*rows, [str(int(rows[-1][0]) - 10**9), *rows[-1][1:]]])
contradicting_rows = changed_rows(lambda rows: [[*rows[0][:5], "12345", rows[0][6]], *rows])
worded_rows = changed_rows(lambda rows: [[rows[0][0], "n/a", *rows[0][2:]], *rows[1:]])


def missing_rows(first: int, last: int) -> Fault:
    """Leave out some rows, counted from the newest."""
    return changed_rows(lambda rows: rows[:first] + rows[last:])


class LocalServer:
    """A context manager around a threading HTTP server on a free port of 127.0.0.1."""

    def __init__(self, latency_s: float = 0.0) -> None:
        self.latency_s = latency_s
        self.requests: list[Request] = []
        self.max_in_flight = 0
        self._faults: list[tuple[Fault, Callable[[Request], bool]]] = []
        self._in_flight = 0
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Reply:
        """Return the right reply."""
        raise NotImplementedError

    def fail(self, *faults: Fault, times: int = 1, when: Callable[[Request], bool] = lambda _: True) -> None:
        """Let the next requests for which `when` holds meet these faults, one each, the whole list `times` over."""
        with self._lock:
            self._faults.extend((fault, when) for fault in faults * times)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def busiest(self, seconds: float) -> int:
        """Return the most requests that arrived within any stretch of `seconds`."""
        arrived = np.sort([request.arrived_s for request in self.requests])
        return int((np.searchsorted(arrived, arrived + seconds) - np.arange(len(arrived))).max(initial=0))

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _reply(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            self._in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self._in_flight)
            found = next((place for place, (_, when) in enumerate(self._faults) if when(request)), None)
            fault = self._faults.pop(found)[0] if found is not None else None
        try:
            reply = self.answer(request)
            reply = fault(reply) if fault else reply
            time.sleep(self.latency_s + reply.delay_s)
            return reply
        finally:
            with self._lock:
                self._in_flight -= 1


class ReplayServer(LocalServer):
    """Answers each request with the next of the given replies; the last one for ever."""

    def __init__(self, *replies: Reply) -> None:
        super().__init__()
        self._replies = list(replies)

    def answer(self, request: Request) -> Reply:
        with self._lock:
            return self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]


class ExchangeServer(LocalServer):
    """Bybit's kline endpoint over a table of bars per symbol, and its funding history over one of settlements.

    histories: by symbol, bars with int64 `timestamp` (ms), prices and volume; `turnover` is volume · close where it is
    missing. now_ms: the exchange's clock, which a test may move; the bar it lies in is served half-made, later ones
    not at all. Its default is the end of the longest history, in the middle of the last bar. category: the only one it
    lists its symbols in. funding: by symbol, settlements with `timestamp` (ms) and `rate`.
    """

    def __init__(
        self,
        histories: Mapping[str, pd.DataFrame],
        interval: str = "60",
        now_ms: int | None = None,
        *,
        category: str = "linear",
        page_cap: int = 1_000,
        latency_s: float = 0.0,
        funding: Mapping[str, pd.DataFrame] | None = None,
    ) -> None:
        super().__init__(latency_s)
        self.funding = funding or {}
        self.interval = Interval.parse(interval)
        self.category = category
        self.page_cap = page_cap
        self._timestamps = {symbol: bars["timestamp"].to_numpy(np.int64) for symbol, bars in histories.items()}
        self._values = {symbol: _values(bars) for symbol, bars in histories.items()}
        last_ms = max((int(timestamps[-1]) for timestamps in self._timestamps.values() if len(timestamps)), default=0)
        self.now_ms = now_ms if now_ms is not None else last_ms + self.interval.milliseconds // 2

    def answer(self, request: Request) -> Reply:
        if request.path == "/v5/market/funding/history":
            return self._funding(request.query)
        if request.path != "/v5/market/kline":
            return Reply(b"404 page not found", 404)
        query = request.query
        if query.get("interval") != self.interval.code:
            return self._envelope(10001, "Invalid period!", {})
        symbol = query.get("symbol", "")
        if symbol not in self._timestamps or query.get("category", "linear") != self.category:
            return self._envelope(10001, "Not supported symbols", {})
        rows = self._window(symbol, query)
        return self._envelope(0, "OK", {"symbol": symbol, "category": self.category, "list": rows})

    def _funding(self, query: Mapping[str, str]) -> Reply:
        """Answer with the newest settlements of a window; `startTime` alone is refused."""
        symbol = query.get("symbol", "")
        if symbol not in self.funding or query.get("category") != "linear":
            return self._envelope(10001, "symbol invalid", {})
        if "startTime" in query and "endTime" not in query:
            return self._envelope(10001, "params error: endTime is required with startTime", {})
        table = self.funding[symbol]
        end_ms = min(int(query.get("endTime", self.now_ms)), self.now_ms)
        window = table[table["timestamp"].between(int(query.get("startTime", 0)), end_ms)]
        newest = window.iloc[::-1].head(min(int(query.get("limit", 200)), 200))
        rows = [
            {"symbol": symbol, "fundingRate": _decimal(float(rate)), "fundingRateTimestamp": str(timestamp)}
            for timestamp, rate in zip(newest["timestamp"], newest["rate"], strict=True)
        ]
        return self._envelope(0, "OK", {"category": "linear", "list": rows})

    def _window(self, symbol: str, query: Mapping[str, str]) -> list[list[str]]:
        """Return rows newest first: the oldest of the window with `start` alone, else the newest."""
        timestamps = self._timestamps[symbol]
        limit = min(int(query.get("limit", 200)), self.page_cap)
        start_ms = self.interval.floor(int(query["start"])) if "start" in query else 0
        end_ms = min(int(query.get("end", self.now_ms)), self.now_ms)
        first, end = np.searchsorted(timestamps, [start_ms, end_ms + 1])
        if "start" in query and "end" not in query:
            end = min(end, first + limit)
        else:
            first = max(first, end - limit)
        return [self._row(symbol, place) for place in range(end - 1, first - 1, -1)]

    def _row(self, symbol: str, place: int) -> list[str]:
        timestamp = int(self._timestamps[symbol][place])
        values = self._values[symbol][place]
        if self.now_ms < self.interval.close(np.array([timestamp]))[0]:
            values = _half_made(values)
        return [str(timestamp), *map(_decimal, values.tolist())]

    def _envelope(self, code: int, message: str, result: Any) -> Reply:
        return json_reply({"retCode": code, "retMsg": message, "result": result, "retExtInfo": {}, "time": self.now_ms})


def random_bars(num_bars: int, interval: str = "60", start_ms: int = 1_600_000_000_000, seed: int = 0) -> pd.DataFrame:
    """Return a deterministic random walk as valid bars with turnover; `start_ms` is rounded down to the grid."""
    rng = np.random.default_rng(seed)
    grid = Interval.parse(interval)
    first = grid.index(np.array([start_ms], dtype=np.int64))[0]
    close = np.round(100 * np.exp(np.cumsum(rng.normal(0, 0.01, num_bars))), 2)
    opening = np.append(100.0, close)[:num_bars]
    volume = np.round(rng.gamma(2.0, 50.0, num_bars), 3)
    spread = rng.uniform(0, 0.01, (2, num_bars))
    return pd.DataFrame(
        {
            "timestamp": grid.opening(np.arange(first, first + num_bars)),
            "open": opening,
            "high": np.round(np.maximum(opening, close) * (1 + spread[0]) + 0.005, 2),
            "low": np.round(np.minimum(opening, close) * (1 - spread[1]) - 0.005, 2),
            "close": close,
            "volume": volume,
            "turnover": np.round(volume * close, 4),
        }
    )


def _values(bars: pd.DataFrame) -> np.ndarray:
    if "turnover" not in bars.columns:
        bars = bars.assign(turnover=bars["volume"] * bars["close"])
    return bars[list(VALUE_COLUMNS)].to_numpy(np.float64)


def _half_made(values: np.ndarray) -> np.ndarray:
    """Return the bar as it stands before it has closed: another close, part of the volume."""
    opening, high, low, close, volume, turnover = values.tolist()
    price = (opening + close) / 2
    return np.array([opening, max(opening, (high + price) / 2), low, price, volume / 2, turnover / 2])


def _decimal(number: float) -> str:
    """Return the shortest decimal text of a number, without an exponent, as the exchange writes it."""
    text = repr(number).removesuffix(".0")
    return np.format_float_positional(number, trim="-") if "e" in text else text


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has gone, killed perhaps."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(server: LocalServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            query = dict(parse_qsl(parts.query))
            reply = server._reply(Request(unquote(parts.path), query, headers, time.monotonic()))
            try:
                self._send(reply)
            except OSError:  # the client has gone
                self.close_connection = True

        def _send(self, reply: Reply) -> None:
            if reply.sent_bytes == 0:
                # An abortive close: the client sees a reset instead of an end.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in ({"Content-Length": str(len(reply.body))} | reply.headers).items():
                self.send_header(name, value)
            self.end_headers()
            if reply.trickle_s:
                for place in range(len(reply.body)):
                    self.wfile.write(reply.body[place : place + 1])
                    time.sleep(reply.trickle_s)
                return
            self.wfile.write(reply.body[: reply.sent_bytes])
            self.close_connection |= reply.sent_bytes is not None

        def send_response(self, code: int, message: str | None = None) -> None:
            """Send the status line and Date, which a reply's own headers may replace."""
            super().send_response_only(code, message)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
            """Keep the tests' output to themselves."""

    return Handler
