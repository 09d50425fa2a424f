"""Order books from Bybit's v5 API: the public WebSocket stream, and one snapshot by HTTP.

The stream (https://bybit-exchange.github.io/docs/v5/websocket/public/orderbook): after `subscribe` to
`orderbook.<depth>.<symbol>` comes a `snapshot`, then a `delta` whenever the book has changed, every 20 ms at 50 levels
and every 100 or 200 at 200. `u` numbers the messages of a topic one by one; 1 is the snapshot after a restart of the
service. `cts` is the matching engine's time, where it is given. A client must say `ping` every 20 seconds
(https://bybit-exchange.github.io/docs/v5/ws/connect).
"""

import json
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, cast

from websockets.exceptions import InvalidStatus, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.uri import parse_uri

from flashtrader.errors import ConfigError, SourceError, UnknownSymbolError
from flashtrader.market.http import TIMEOUT_S, Answer, HttpClient, RateLimiter, TransientError, is_loopback
from flashtrader.market.live_book import BookMessage, Level
from flashtrader.market.sources.bybit import BASE_URL, REFUSAL, REQUESTS, REQUESTS_SECONDS, checked_envelope

STREAM_URL = "wss://stream.bybit.com"
DEPTHS = (50, 200)
PING_S = 20.0
SILENT_S = 30.0


class BrokenStreamError(SourceError):
    """A connection that failed, fell silent or sent what can't be read: another one may do."""


class BybitBooks:
    """The books of one category."""

    def __init__(
        self, category: Literal["linear", "spot"] = "linear", levels: int = 20, base_url: str | None = None
    ) -> None:
        """Raise ConfigError for more levels than there are."""
        if not 1 <= levels <= DEPTHS[-1]:
            raise ConfigError(f"--levels {levels}: Bybit's books have 1 to {DEPTHS[-1]} levels")
        self.name = "bybit" if category == "linear" else "bybit-spot"
        self.levels = levels
        self.depth = next(depth for depth in DEPTHS if depth >= levels)
        self._category = category
        self._base_url = base_url

    @contextmanager
    def connect(self) -> Iterator["BookStream"]:
        """Yield a new connection. Raises BrokenStreamError, SourceError, and ConfigError for a URL that is none."""
        base_url = (self._base_url or STREAM_URL).rstrip("/")
        url = f"{base_url}/v5/public/{self._category}"
        host = base_url.partition("://")[2]
        try:
            # The environment's proxies are not for loopback.
            proxy: Literal[True] | None = None if is_loopback(parse_uri(url).host) else True
        except (InvalidURI, ValueError):
            raise ConfigError(f"--base-url {base_url}: write it as wss://host or ws://host:port") from None
        with ExitStack() as stack:
            try:
                # The exchange has pings of its own.
                client = connect(
                    url, proxy=proxy, open_timeout=TIMEOUT_S, close_timeout=1.0, ping_interval=None, max_size=2**24
                )
                connection = stack.enter_context(client)
            except InvalidStatus as error:
                status = error.response.status_code
                if status == 403:
                    raise SourceError(f"{host}: HTTP 403: {REFUSAL}") from None
                raise BrokenStreamError(f"{host}: HTTP {status} instead of a stream; check --base-url") from None
            # The last two tell of a proxy that can't be used, or of a host that none can be called.
            except (OSError, WebSocketException, ImportError, ValueError) as error:
                raise BrokenStreamError(
                    f"{host}: unreachable ({error}); check the network, the proxy settings and --base-url"
                ) from None
            yield BookStream(connection, host, self.depth)

    def snapshot(self, symbol: str) -> BookMessage:
        """Return the book as it is now, by HTTP. Raises UnknownSymbolError, SourceError.

        https://bybit-exchange.github.io/docs/v5/market/orderbook
        """
        limiter = RateLimiter(REQUESTS, REQUESTS_SECONDS)
        client = HttpClient(self._base_url or BASE_URL, limiter, REFUSAL)
        subject = f"{symbol} book ({self._category})"
        where = f"{client.host}: {subject}"

        def read(answer: Answer) -> BookMessage:
            result, _ = checked_envelope(answer, where, symbol, self._category)
            try:
                return _message(result, "snapshot", symbol, int(result.get("cts") or result["ts"]))
            except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
                raise TransientError(f"{where}: the answer is no order book ({error!r}); fetch again") from None

        params: dict[str, str | int] = {"category": self._category, "symbol": symbol, "limit": self.levels}
        return client.get("/v5/market/orderbook", params, subject, read)


class BookStream:
    """One WebSocket connection, for any number of markets."""

    def __init__(self, connection: ClientConnection, host: str, depth: int) -> None:
        self._connection, self._host, self._depth = connection, host, depth
        self._heard_s = self._pinged_s = time.monotonic()

    def subscribe(self, symbol: str) -> None:
        """Ask for a market's book: a snapshot, then deltas."""
        self._send("subscribe", symbol)

    def resubscribe(self, symbol: str) -> None:
        """Ask for a snapshot of a market that is subscribed to."""
        self._send("unsubscribe", symbol)
        self._send("subscribe", symbol)

    def receive(self, timeout_s: float) -> BookMessage | None:
        """Return the next message about a book; None if none comes within `timeout_s`, or something else does.

        Raises BrokenStreamError, and UnknownSymbolError when the exchange refuses a subscription.
        """
        now_s = time.monotonic()
        if now_s - self._heard_s > SILENT_S:
            raise BrokenStreamError(f"{self._host}: not a word for {SILENT_S:g} s")
        if now_s - self._pinged_s > PING_S:
            self._send("ping")
            self._pinged_s = now_s
        try:
            text = self._connection.recv(timeout=timeout_s)
        except TimeoutError:
            return None
        except (OSError, WebSocketException) as error:
            raise BrokenStreamError(f"{self._host}: the connection broke ({error})") from None
        self._heard_s = time.monotonic()
        try:
            return read_message(text, self._depth, self._host)
        except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise BrokenStreamError(f"{self._host}: a message that can't be read ({error!r})") from None

    def _send(self, operation: str, symbol: str | None = None) -> None:
        request: dict[str, Any] = {"op": operation}
        if symbol is not None:
            request |= {"req_id": symbol, "args": [f"orderbook.{self._depth}.{symbol}"]}
        try:
            self._connection.send(json.dumps(request))
        except (OSError, WebSocketException) as error:
            raise BrokenStreamError(f"{self._host}: the connection broke ({error})") from None


def read_message(text: str | bytes, depth: int, host: str) -> BookMessage | None:
    """Return what a message of the stream says about a book; None for anything else.

    Raises UnknownSymbolError for a subscription that was refused, and for what is no message ArithmeticError,
    AttributeError, KeyError, RecursionError, TypeError or ValueError.
    """
    value = json.loads(text)
    if "topic" in value:
        prefix, topic_depth, symbol = value["topic"].split(".", 2)
        if (prefix, topic_depth, value["data"]["s"]) != ("orderbook", str(depth), symbol):
            raise ValueError(f"topic {value['topic']}")
        return _message(value["data"], value["type"], symbol, int(value.get("cts") or value["ts"]))
    if value.get("op") == "subscribe" and not value.get("success", True):
        symbol, words = value.get("req_id") or "a market", value.get("ret_msg")
        raise UnknownSymbolError(
            f"{host}: {words!r}: {symbol} has no book of {depth} levels there; "
            "check the spelling (upper case, such as BTCUSDT) and the category"
        )
    return None


def _message(data: dict[str, Any], kind: str, symbol: str, time_ms: int) -> BookMessage:
    if kind not in ("snapshot", "delta"):
        raise ValueError(f"type {kind}")
    update_id = data["u"]
    if not isinstance(update_id, int):
        raise TypeError(f"u {update_id!r}")
    return BookMessage(
        update_id, symbol, cast("Literal['snapshot', 'delta']", kind), time_ms, _levels(data["a"]), _levels(data["b"])
    )


def _levels(pairs: list[list[str]]) -> tuple[Level, ...]:
    levels = tuple((float(price), float(size)) for price, size in pairs)
    if not all(0 < price < math.inf and 0 <= size < math.inf for price, size in levels):
        raise ValueError(f"levels {pairs}")
    return levels
