"""One polite client: its limit holds, it asks again where that helps, and every cause has its own line."""

import errno
import gzip
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange_server import (
    Fault,
    ReplayServer,
    Reply,
    broken_off,
    cut_json,
    html,
    http_error,
    json_reply,
    reset,
    trickling,
)
from exchange_server import slow as slow_by
from flashtrader.errors import ConfigError, SourceError
from flashtrader.market import http
from flashtrader.market.http import HttpClient, RateLimitedError, RateLimiter, TransientError, server_time_ms

REFUSAL = "refused here; ask elsewhere"
GOOD = json_reply({"answer": 42})


def ask(client: HttpClient, read=lambda answer: answer.json["answer"]) -> int:
    return client.get("/path", {"key": "value"}, "BTCUSDT 60", read)


@given(
    requests=st.integers(1, 4),
    flights=st.lists(
        st.tuples(st.floats(0, 3, allow_subnormal=False), st.floats(0, 1), st.floats(0, 3, allow_subnormal=False)),
        max_size=30,
    ),
)
def test_no_window_of_the_server_holds_more_than_the_limit(requests, flights):
    """Whenever within its flight a request reaches the server, no 5 s there hold more than `requests` of them."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    limiter = RateLimiter(requests, 5.0, clock=lambda: now, sleep=sleep)
    arrived = []
    for duration, fraction, idle in flights:
        with limiter:
            arrived.append(now + fraction * duration)
            now += duration
        now += idle
    for first, last in zip(arrived, arrived[requests:], strict=False):
        assert last - first >= 5.0 - 1e-9


def test_threads_share_one_limit_as_the_server_sees_it():
    limiter = RateLimiter(10, 0.25)
    with ReplayServer(GOOD) as server, ThreadPoolExecutor(8) as pool:
        server.latency_s = 0.1
        client = HttpClient(server.url, limiter, REFUSAL)
        began = time.monotonic()
        answers = list(pool.map(lambda _: ask(client), range(35)))
        assert answers == [42] * 35
        assert server.busiest(0.25) <= 10
        assert server.max_in_flight > 2
        assert time.monotonic() - began >= 0.75


def test_processes_that_are_killed_one_after_another_send_no_more_than_one_that_lives(fake_time):
    """Each has a limiter of its own, and knows nothing of those before it."""
    arrived = []
    for life_s in (0.4, 1.3, 0.05, 2.0, 0.7, 5.0, 3.0):
        limiter = RateLimiter(600, 5.0, clock=fake_time, sleep=fake_time.sleep)
        dies_at = fake_time.now + life_s
        while fake_time.now < dies_at:
            with limiter:
                arrived.append(fake_time.now)
        fake_time.now += 0.02  # the next one has to start
    busiest = max(sum(first <= time < first + 5.0 for time in arrived) for first in arrived)
    assert 590 <= busiest <= 600


def test_a_pause_holds_everybody_up(fake_time):
    limiter = RateLimiter(2, 1.0, clock=fake_time, sleep=fake_time.sleep)
    limiter.pause(30.0)
    limiter.pause(10.0)
    with limiter:
        assert fake_time.now == 30.0


def unreachable_url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_an_unreachable_host(limiter, fake_time):
    url = unreachable_url()
    with pytest.raises(SourceError) as caught:
        ask(HttpClient(url, limiter, REFUSAL))
    assert type(caught.value) is SourceError
    assert str(caught.value) == (
        f"{url.removeprefix('http://')}: BTCUSDT 60: unreachable ([Errno {errno.ECONNREFUSED}] Connection refused); "
        "check the network, the proxy settings and --base-url (asked 5 times)"
    )
    assert len(fake_time.slept) == http.ATTEMPTS - 1


def test_a_trickle_ends(limiter, monkeypatch):
    """No silence is long enough to be a time-out, and the answer would take an hour."""
    monkeypatch.setattr(http, "ATTEMPTS", 2)
    with ReplayServer(json_reply({"answer": 42, "padding": "x" * 36_000})) as server:
        server.fail(trickling(0.1))
        assert ask(HttpClient(server.url, limiter, REFUSAL, timeout_s=0.2)) == 42
        server.fail(trickling(0.1), times=2)
        with pytest.raises(SourceError) as caught:
            ask(HttpClient(server.url, limiter, REFUSAL, timeout_s=0.2))
        assert str(caught.value) == (
            f"{server.host}: BTCUSDT 60: no whole answer within 0.6 s; the network is slow, fetch again (asked 2 times)"
        )


def test_backoff_doubles_within_its_jitter(limiter, fake_time):
    with pytest.raises(SourceError):
        ask(HttpClient(unreachable_url(), limiter, REFUSAL))
    for attempt, slept in enumerate(fake_time.slept):
        assert 0.5 <= slept / (http.FIRST_BACKOFF_S * 2**attempt) <= 1.5


@pytest.mark.parametrize(
    ("fault", "requests", "message"),
    [
        (
            slow_by(0.4),
            5,
            "BTCUSDT 60: no answer within 0.1 s; the host is slow or a firewall drops the request (asked 5 times)",
        ),
        (
            http_error(429, body=b"Edge: Too Many Requests"),
            5,
            "BTCUSDT 60: HTTP 429 'Edge: Too Many Requests': too many requests; wait a few minutes and fetch again "
            "(asked 5 times)",
        ),
        (
            http_error(429, {"Retry-After": "3600"}),
            1,
            "BTCUSDT 60: HTTP 429: too many requests; wait a few minutes and fetch again; "
            "it asks for 3600 s without requests, fetch again after that",
        ),
        (
            http_error(503, {"Retry-After": "9" * 400}),
            1,
            "BTCUSDT 60: HTTP 503: the server failed; fetch again later; "
            "it asks for 86400 s without requests, fetch again after that",
        ),
        (
            http_error(403, body=b"<html><body><h1>access too frequent</h1></body></html>"),
            1,
            "BTCUSDT 60: HTTP 403 'access too frequent': refused here; ask elsewhere",
        ),
        (http_error(503), 5, "BTCUSDT 60: HTTP 503: the server failed; fetch again later (asked 5 times)"),
        (
            http_error(404, body=b"404 page not found"),
            1,
            "BTCUSDT 60: HTTP 404 '404 page not found': not an answer that this API gives; check --base-url",
        ),
        (
            http_error(302, {"Location": "/"}),
            1,
            "BTCUSDT 60: HTTP 302: not an answer that this API gives; check --base-url",
        ),
        (
            html,
            5,
            "BTCUSDT 60: a web page came instead of data 'Sign in Welcome to the hotel network'; "
            "a proxy or login page in between? Check the proxy settings and --base-url (asked 5 times)",
        ),
        (
            cut_json,
            5,
            "BTCUSDT 60: the answer is cut off or not JSON (6 bytes '{\"answ'); fetch again (asked 5 times)",
        ),
        (
            broken_off,
            5,
            "BTCUSDT 60: the connection broke before the whole answer was there (peer closed connection without "
            "sending complete message body (received 6 bytes, expected 13)); fetch again (asked 5 times)",
        ),
        (
            http_error(200, {"Content-Encoding": "gzip"}, b'{"answer": 42}'),
            5,
            "BTCUSDT 60: the connection broke before the whole answer was there (Error -3 while decompressing data: "
            "incorrect header check); fetch again (asked 5 times)",
        ),
    ],
    ids=[
        "time-out",
        "429",
        "429-long",
        "for-ever",
        "403",
        "503",
        "404",
        "302",
        "html",
        "cut",
        "broken-off",
        "not-packed",
    ],
)
def test_every_cause_has_its_own_line(limiter, fault: Fault, requests: int, message: str):
    with ReplayServer(GOOD) as server:
        server.fail(fault, times=5)
        with pytest.raises(SourceError) as caught:
            ask(HttpClient(server.url, limiter, REFUSAL, timeout_s=0.1))
        assert type(caught.value) is SourceError
        assert str(caught.value) == f"{server.host}: {message}"
        assert len(server.requests) == requests


def test_a_reset_connection(limiter):
    with ReplayServer(GOOD) as server:
        server.fail(reset, times=5)
        with pytest.raises(SourceError) as caught:
            ask(HttpClient(server.url, limiter, REFUSAL))
        assert str(caught.value) in {
            f"{server.host}: BTCUSDT 60: the connection broke before the whole answer was there ({reason}); "
            "fetch again (asked 5 times)"
            for reason in (
                "Server disconnected without sending a response.",
                f"[Errno {errno.ECONNRESET}] Connection reset by peer",
            )
        }


def test_a_packed_answer_is_unpacked(limiter):
    with ReplayServer(Reply(gzip.compress(GOOD.body), headers={"Content-Encoding": "gzip"})) as server:
        assert ask(HttpClient(server.url, limiter, REFUSAL)) == 42
        assert server.requests[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    "fault",
    [
        http_error(200, {"Content-Length": str(2**40)}, b" " * 2**25),
        http_error(200, {"Content-Encoding": "gzip"}, gzip.compress(b" " * 2**26)),
    ],
    ids=["endless", "bomb"],
)
def test_what_would_fill_the_memory_is_left_at_once(limiter, fault):
    with ReplayServer(GOOD) as server:
        server.fail(fault)
        with pytest.raises(SourceError) as caught:
            ask(HttpClient(server.url, limiter, REFUSAL))
        assert str(caught.value) == (
            f"{server.host}: BTCUSDT 60: more than 16,777,216 bytes came, as no answer of this API has; "
            "check the proxy settings and --base-url"
        )
        assert len(server.requests) == 1


@pytest.mark.parametrize("fault", [http_error(500), http_error(429), html, cut_json, broken_off, reset])
def test_a_failure_that_passes_is_not_seen(limiter, fault):
    with ReplayServer(GOOD) as server:
        server.fail(fault, times=http.ATTEMPTS - 1)
        assert ask(HttpClient(server.url, limiter, REFUSAL)) == 42
        assert len(server.requests) == http.ATTEMPTS


DATE = "Thu, 20 Feb 2025 11:47:42 GMT"
DATE_MS = 1_740_052_062_000


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "Thu, 20 Feb 2025 11:47:50 GMT", "Date": DATE}, 8.0),
        (
            {"X-Bapi-Limit-Status": "0", "X-Bapi-Limit-Reset-Timestamp": str(DATE_MS + 2_500), "Date": DATE},
            2.5,
        ),
    ],
    ids=["seconds", "date", "bybit"],
)
def test_the_pause_that_the_server_names_is_kept(limiter, fake_time, headers, wait_s):
    with ReplayServer(GOOD) as server:
        server.fail(http_error(429, headers))
        assert ask(HttpClient(server.url, limiter, REFUSAL)) == 42
    assert sum(fake_time.slept) == pytest.approx(wait_s)


def test_a_used_up_limit_pauses_before_the_next_request(limiter, fake_time):
    headers = {"X-Bapi-Limit-Status": "0", "X-Bapi-Limit-Reset-Timestamp": str(DATE_MS + 1_000), "Date": DATE}
    with ReplayServer(json_reply({"answer": 1}, headers=headers), GOOD) as server:
        client = HttpClient(server.url, limiter, REFUSAL)
        assert ask(client) == 1
        assert fake_time.slept == []
        assert ask(client) == 42
    assert fake_time.slept == pytest.approx([1.0])


@pytest.mark.parametrize("headers", [{"Retry-After": "soon"}, {"X-Bapi-Limit-Status": "0"}, {"Date": "today"}])
def test_headers_that_make_no_sense_are_passed_over(limiter, headers):
    with ReplayServer(GOOD) as server:
        server.fail(http_error(429, headers))
        assert ask(HttpClient(server.url, limiter, REFUSAL)) == 42
    assert server_time_ms(headers) is None


def test_what_the_reader_finds_transient_is_asked_again(limiter):
    def read(answer):
        if len(server.requests) < 3:
            raise TransientError("nonsense")
        return answer.json["answer"]

    with ReplayServer(GOOD) as server:
        assert ask(HttpClient(server.url, limiter, REFUSAL), read) == 42


def test_what_the_reader_finds_too_often_pauses_every_thread(limiter, fake_time):
    def read(answer):
        if len(server.requests) < 2:
            raise RateLimitedError("slower")
        return answer.json["answer"]

    with ReplayServer(GOOD) as server:
        assert ask(HttpClient(server.url, limiter, REFUSAL), read) == 42
    assert len(fake_time.slept) == 1


def test_an_abandoned_request_is_not_asked_again(limiter):
    abandoned = threading.Event()
    abandoned.set()
    with ReplayServer(GOOD) as server:
        server.fail(http_error(500), times=5)
        with pytest.raises(SourceError) as caught:
            HttpClient(server.url, limiter, REFUSAL).get("/", {}, "BTCUSDT 60", id, abandoned=abandoned)
        assert str(caught.value) == (
            f"{server.host}: BTCUSDT 60: HTTP 500: the server failed; fetch again later (asked 1 time)"
        )
        assert len(server.requests) == 1


@pytest.mark.parametrize("fault", [slow_by(5.0), http_error(429, {"Retry-After": "50"}), http_error(500)])
def test_an_abandoned_client_waits_for_nothing(fault):
    """Not for an answer, nor for the pause that a server asks for, nor for the next attempt."""
    limiter = RateLimiter(10, 1.0)
    with ReplayServer(GOOD) as server:
        server.fail(fault, times=5)
        client = HttpClient(server.url, limiter, REFUSAL)
        threading.Timer(0.1, client.abandon).start()
        began_s = time.monotonic()
        for _ in range(2):
            with pytest.raises(SourceError) as caught:
                ask(client)
            assert str(caught.value) == (
                f"{server.host}: BTCUSDT 60: the fetch was stopped before the host answered; fetch again"
            )
            assert time.monotonic() - began_s < 2.0
        assert len(server.requests) == 1


@pytest.mark.parametrize("proxy", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_loopback_needs_no_proxy(limiter, monkeypatch, proxy):
    monkeypatch.setenv(proxy, unreachable_url())
    with ReplayServer(GOOD) as server:
        assert ask(HttpClient(server.url, limiter, REFUSAL)) == 42
        assert ask(HttpClient(server.url.replace("127.0.0.1", "localhost"), limiter, REFUSAL)) == 42


def test_other_hosts_are_asked_through_the_proxy_of_the_environment(limiter, monkeypatch):
    with ReplayServer(GOOD) as server:
        monkeypatch.setenv("HTTP_PROXY", server.url)
        assert ask(HttpClient("http://exchange.invalid", limiter, REFUSAL)) == 42
        assert server.requests[0].headers["host"] == "exchange.invalid"


def test_a_proxy_that_refuses(limiter, monkeypatch):
    with ReplayServer(GOOD) as server:
        monkeypatch.setenv("HTTPS_PROXY", server.url)
        with pytest.raises(SourceError) as caught:
            ask(HttpClient("https://exchange.invalid", limiter, REFUSAL))
    assert str(caught.value) == (
        "exchange.invalid: BTCUSDT 60: the proxy failed (501 Unsupported method ('CONNECT')); check HTTP_PROXY and "
        "HTTPS_PROXY (asked 5 times)"
    )


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("ALL_PROXY", "gopher://proxy", "Unknown scheme for proxy URL URL('gopher://proxy')"),
        ("HTTPS_PROXY", "http://proxy:port", "Invalid port: 'port'"),
        ("SSL_CERT_FILE", "/nowhere.pem", f"[Errno {errno.ENOENT}] No such file or directory"),
    ],
)
def test_an_environment_that_no_request_can_be_sent_from(limiter, monkeypatch, variable, value, reason):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        HttpClient("https://exchange.invalid", limiter, REFUSAL)
    assert str(caught.value) == (
        f"the environment's proxy or certificates can't be used ({reason}); "
        "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE"
    )


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://a..b", "encoding with 'idna' codec failed (UnicodeError: label empty or too long)"),
        (f"http://127.0.0.1:{10**20}", "Python int too large to convert to C long"),
    ],
)
def test_a_host_or_port_that_none_can_have(limiter, url, reason):
    with pytest.raises(SourceError) as caught:
        ask(HttpClient(url, limiter, REFUSAL))
    assert str(caught.value) == (
        f"{url.removeprefix('http://')}: BTCUSDT 60: unreachable ({reason}); "
        "check the network, the proxy settings and --base-url (asked 5 times)"
    )


@pytest.mark.parametrize("url", ["api.bybit.com", "ftp://api.bybit.com", "http://", "https://[::1", "localhost:8000"])
def test_a_base_url_that_is_none(limiter, url):
    with pytest.raises(ConfigError) as caught:
        HttpClient(url, limiter, REFUSAL)
    assert str(caught.value) == f"--base-url {url}: write it as https://host or http://host:port"
