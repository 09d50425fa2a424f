"""Bybit's stream of order books: what is no address, no stream and no message, each in its own words."""

import errno
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError

from exchange_server import ReplayServer, Reply
from flashtrader.errors import ConfigError, FlashtraderError, SourceError
from flashtrader.market.sources.bybit_books import BookStream, BrokenStreamError, BybitBooks


def refusal(kind: type[FlashtraderError], base_url: str) -> str:
    """Return why no connection is made."""
    with pytest.raises(kind) as refused, BybitBooks(base_url=base_url).connect():
        pass
    assert type(refused.value) is kind
    return str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "nonsense", "ws:", "ws://:80", "ws://h:port", "ws://h:65536", "ws://[::1", "ws://h#h"]
)
def test_an_address_that_is_none(url: str) -> None:
    assert refusal(ConfigError, url) == f"--base-url {url}: write it as wss://host or ws://host:port"


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1:9", f"[Errno {errno.ECONNREFUSED}] Connection refused"),
        ("a..b", "encoding with 'idna' codec failed (UnicodeError: label empty or too long)"),
    ],
)
def test_a_host_that_can_not_be_reached(host: str, reason: str) -> None:
    assert refusal(BrokenStreamError, f"ws://{host}") == (
        f"{host}: unreachable ({reason}); check the network, the proxy settings and --base-url"
    )


@pytest.mark.parametrize(
    ("proxy", "reason"),
    [
        ("socks5://127.0.0.1:9", "connecting through a SOCKS proxy requires python-socks"),
        ("http://proxy:port", "Port could not be cast to integer value as 'port'"),
    ],
)
def test_a_proxy_that_can_not_be_used(monkeypatch: pytest.MonkeyPatch, proxy: str, reason: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    assert refusal(BrokenStreamError, "wss://exchange.invalid") == (
        f"exchange.invalid: unreachable ({reason}); check the network, the proxy settings and --base-url"
    )


def test_loopback_needs_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy:port")
    for host in ("127.0.0.1:9", "localhost:9", "[::1]:9"):
        assert "Port could not be cast" not in refusal(BrokenStreamError, f"ws://{host}")


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (
            403,
            SourceError,
            "HTTP 403: this address sent more than 600 requests in 5 s, or your region is blocked; stop every client, "
            "wait at least 10 minutes and fetch again, or name another host with --base-url",
        ),
        (502, BrokenStreamError, "HTTP 502 instead of a stream; check --base-url"),
    ],
)
def test_a_server_that_refuses_to_stream(status: int, kind: type[FlashtraderError], message: str) -> None:
    with ReplayServer(Reply(status=status)) as server:
        assert refusal(kind, f"ws://{server.host}") == f"{server.host}: {message}"


class SpoiledConnection:
    """Has received what it is given, or raises it."""

    def __init__(self, received: str | Exception) -> None:
        self._received = received

    def recv(self, timeout: float) -> str:
        if isinstance(self._received, Exception):
            raise self._received
        return self._received

    def send(self, _: str) -> None:
        self.recv(0.0)


@pytest.mark.parametrize(
    ("received", "message"),
    [
        ("", "a message that can't be read (JSONDecodeError('Expecting value: line 1 column 1 (char 0)'))"),
        ('{"topic": "orderbook.50.X", "data": {}}', "a message that can't be read (KeyError('s'))"),
        (OSError("reset"), "the connection broke (reset)"),
        (ConnectionClosedError(None, None), "the connection broke (no close frame received or sent)"),
    ],
)
def test_what_ends_a_stream(received: str | Exception, message: str) -> None:
    connection: Any = SpoiledConnection(received)
    stream = BookStream(connection, "host", 50)
    with pytest.raises(BrokenStreamError) as broken:
        stream.receive(0.0)
    assert str(broken.value) == f"host: {message}"
    if isinstance(received, Exception):
        with pytest.raises(BrokenStreamError) as broken:
            stream.subscribe("BTCUSDT")
        assert str(broken.value) == f"host: {message}"


def test_levels_that_the_exchange_does_not_have() -> None:
    assert [BybitBooks(levels=levels).depth for levels in (1, 50, 51, 200)] == [50, 50, 200, 200]
    for levels in (0, 201):
        with pytest.raises(ConfigError) as refused:
            BybitBooks(levels=levels)
        assert str(refused.value) == f"--levels {levels}: Bybit's books have 1 to 200 levels"
