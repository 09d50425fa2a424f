"""One polite HTTP client: a rate limit shared by all threads, retries with backoff, a different line for every cause.

A message reads `host: subject: what happened; what to do`.
"""

import email.utils
import ipaddress
import json
import random
import re
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self, TypeVar
from weakref import finalize

import httpx

from flashtrader.errors import ConfigError, SourceError

ATTEMPTS = 5
TIMEOUT_S = 20.0
FIRST_BACKOFF_S = 0.5
# Longer than this is for the user to wait, not for the program.
LONGEST_WAIT_S = 60.0
# Who asks for more, in however many digits, is asked again tomorrow.
_LONGEST_ASKED_WAIT_S = 86_400.0
# Of an answer, unpacked: ten times the longest page of bars.
_MOST_BYTES = 2**24
_WHOLE_ANSWER_TIMEOUTS = 3
_ABANDONED_WITHIN_S = 0.2

T = TypeVar("T")


class TransientError(SourceError):
    """A failure that may pass: the client asks again, and gives up after a few times."""


class RateLimitedError(TransientError):
    """The server wants fewer requests: every thread pauses before the next one."""


class RateLimiter:
    """At most `requests` in any `seconds`, over all the threads that share it, as the server counts them.

    Used as `with limiter: send()`. A slot is free again `seconds` after its request was *answered*: the server saw
    the request at some moment in between, so no delay on the way can squeeze more than `requests` into its window.
    The first slots come one by one, `seconds / requests` apart: of processes that are killed and started again, each
    with a limiter of its own, the server sees no more than of one that lives on. Once `abandoned` is set, nobody waits.
    """

    def __init__(
        self,
        requests: int,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.abandoned = threading.Event()
        self.sleep = sleep or self.abandoned.wait
        self._clock = clock
        self._seconds = seconds
        self._idle = threading.Semaphore(requests)
        self._lock = threading.Lock()
        began = clock()
        self._free_at = deque(began + seconds * slot / requests for slot in range(requests))
        self._paused_until = -float("inf")

    def __enter__(self) -> Self:
        self._idle.acquire()
        with self._lock:
            free_at = self._free_at.popleft()
        try:
            while (wait_s := max(free_at, self._paused_until) - self._clock()) > 0 and not self.abandoned.is_set():
                self.sleep(wait_s)
        except BaseException:
            self._give_back(free_at)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back(self._clock() + self._seconds)

    def pause(self, seconds: float) -> None:
        """Let no thread send anything for this long."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock() + seconds)

    def _give_back(self, free_at: float) -> None:
        with self._lock:
            self._free_at.append(free_at)
        self._idle.release()


class _Reply(NamedTuple):
    """A whole answer, unpacked."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace").strip()


class Answer(NamedTuple):
    """A decoded JSON answer."""

    status: int
    json: Any
    headers: Mapping[str, str]


class HttpClient:
    """GET requests for JSON from one host; safe to share between threads.

    Proxies come from the environment, except for loopback addresses. `refusal` says what HTTP 403 means here.
    timeout_s: the longest silence; a whole answer may take three times as long, however it trickles in.
    Raises ConfigError when `base_url` is not an http(s) URL, or the environment's proxy or certificates can't be used.
    """

    def __init__(
        self,
        base_url: str,
        limiter: RateLimiter,
        refusal: str,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        url = _parse_url(base_url)
        self.host = url.netloc.decode("ascii")
        self._limiter = limiter
        self._refusal = refusal
        self._timeout_s = timeout_s
        try:
            self._client = httpx.Client(
                base_url=url,
                headers={"Accept-Encoding": "gzip", **(headers or {})},
                timeout=timeout_s,
                trust_env=not is_loopback(url.host),
                # Without TLS there is nothing to verify, and the certificates take a tenth of a second to load.
                verify=url.scheme == "https",
            )
        except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
            raise ConfigError(
                f"the environment's proxy or certificates can't be used ({error}); "
                "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE"
            ) from None
        finalize(self, self._client.close)

    def abandon(self) -> None:
        """Let every request, in progress or to come, raise SourceError."""
        self._limiter.abandoned.set()

    def get(
        self,
        path: str,
        params: Mapping[str, str | int],
        subject: str,
        read: Callable[[Answer], T],
        statuses: tuple[int, ...] = (200,),
        abandoned: threading.Event | None = None,
    ) -> T:
        """Return what `read` makes of the answer to a GET request.

        subject: what is asked for, in the words of a message. statuses: those whose body `read` understands.
        Whatever raises TransientError, `read` included, is asked again with exponential backoff, or after the pause
        that the server names, unless `abandoned` is set. Raises SourceError with the last cause.
        """
        where = f"{self.host}: {subject}"
        for attempt in range(1, ATTEMPTS + 1):
            backoff_s = FIRST_BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
            asked_wait_s = 0.0
            try:
                reply = self._send(path, params, where)
                asked_wait_s = _asked_wait_s(reply.headers)
                self._limiter.pause(min(asked_wait_s, LONGEST_WAIT_S))
                return read(self._decode(reply, where, statuses))
            except TransientError as error:
                if asked_wait_s > LONGEST_WAIT_S:
                    raise SourceError(
                        f"{error}; it asks for {asked_wait_s:.0f} s without requests, fetch again after that"
                    ) from None
                if attempt == ATTEMPTS or (abandoned and abandoned.is_set()):
                    raise SourceError(f"{error} (asked {attempt} time{'s' if attempt > 1 else ''})") from None
                if isinstance(error, RateLimitedError):
                    self._limiter.pause(asked_wait_s or backoff_s)
                elif not asked_wait_s:
                    self._limiter.sleep(backoff_s)
        raise AssertionError("the last attempt returns or raises")

    def _send(self, path: str, params: Mapping[str, str | int], where: str) -> _Reply:
        try:
            with self._limiter:
                return self._awaited(path, params, where)
        except httpx.TimeoutException:
            raise TransientError(
                f"{where}: no answer within {self._timeout_s:g} s; the host is slow or a firewall drops the request"
            ) from None
        except httpx.ProxyError as error:
            raise TransientError(f"{where}: the proxy failed ({error}); check HTTP_PROXY and HTTPS_PROXY") from None
        # Python tells of a host or a port that none can have in its own way.
        except (httpx.ConnectError, OverflowError, UnicodeError) as error:
            raise TransientError(
                f"{where}: unreachable ({error}); check the network, the proxy settings and --base-url"
            ) from None
        except (httpx.RequestError, zlib.error) as error:
            raise TransientError(
                f"{where}: the connection broke before the whole answer was there ({error}); fetch again"
            ) from None

    def _awaited(self, path: str, params: Mapping[str, str | int], where: str) -> _Reply:
        """Return the answer, or raise SourceError once abandoned: nothing wakes a thread that waits for a server.

        httpx limits each silence, not their sum: a server that trickles would hold the thread for ever.
        """
        reply: Future[_Reply] = Future()

        def ask() -> None:
            try:
                reply.set_result(self._whole(path, params, where))
            except Exception as error:
                reply.set_exception(error)

        longest_s = _WHOLE_ANSWER_TIMEOUTS * self._timeout_s
        deadline_s = time.monotonic() + longest_s
        if not self._limiter.abandoned.is_set():
            threading.Thread(target=ask, name="http", daemon=True).start()
        while not wait([reply], _ABANDONED_WITHIN_S).done:
            if self._limiter.abandoned.is_set():
                raise SourceError(f"{where}: the fetch was stopped before the host answered; fetch again")
            if time.monotonic() > deadline_s:
                raise TransientError(
                    f"{where}: no whole answer within {longest_s:g} s; the network is slow, fetch again"
                )
        return reply.result()

    def _whole(self, path: str, params: Mapping[str, str | int], where: str) -> _Reply:
        """Return the answer, or raise SourceError for one that is too long before it fills the memory.

        httpx would unpack whatever comes, to any size, and as many times over as the server says it is packed.
        """
        came = bytearray()
        with self._client.stream("GET", path, params=params) as response:
            for piece in response.iter_raw():
                came += piece
                if len(came) > _MOST_BYTES:
                    break
        body = bytes(came)
        if response.headers.get("Content-Encoding", "").lower() == "gzip":
            body = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(body, _MOST_BYTES + 1)
        if len(body) > _MOST_BYTES:
            raise SourceError(
                f"{where}: more than {_MOST_BYTES:,} bytes came, as no answer of this API has; "
                "check the proxy settings and --base-url"
            )
        return _Reply(response.status_code, body, response.headers)

    def _decode(self, reply: _Reply, where: str, statuses: tuple[int, ...]) -> Answer:
        if reply.status not in statuses:
            self._refuse(reply, where)
        try:
            return Answer(reply.status, json.loads(reply.body), reply.headers)
        except (ValueError, RecursionError):
            text = reply.text
        if text.startswith("<"):
            raise TransientError(
                f"{where}: a web page came instead of data{_quoted(text)}; a proxy or login page in between? "
                "Check the proxy settings and --base-url"
            )
        raise TransientError(
            f"{where}: the answer is cut off or not JSON ({len(reply.body)} bytes{_quoted(text)}); fetch again"
        )

    def _refuse(self, reply: _Reply, where: str) -> NoReturn:
        what = f"{where}: HTTP {reply.status}{_quoted(reply.text)}"
        match reply.status:
            case 429:
                raise RateLimitedError(f"{what}: too many requests; wait a few minutes and fetch again")
            case 403:
                raise SourceError(f"{what}: {self._refusal}")
            case status if status >= 500:
                raise TransientError(f"{what}: the server failed; fetch again later")
            case _:
                raise SourceError(f"{what}: not an answer that this API gives; check --base-url")


def server_time_ms(headers: Mapping[str, str]) -> int | None:
    """Return the server's clock by its Date header, in whole seconds rounded down; None without one."""
    with suppress(OverflowError, TypeError, ValueError):
        return (
            round(email.utils.parsedate_to_datetime(headers["Date"]).timestamp() * 1000) if "Date" in headers else None
        )
    return None


def _asked_wait_s(headers: Mapping[str, str]) -> float:
    """Return how long the server asks to send nothing: Retry-After, or Bybit's limit when it is used up."""
    now_ms = server_time_ms(headers) or round(time.time() * 1000)
    wait_s = 0.0
    with suppress(OverflowError, ValueError):
        if after := headers.get("Retry-After"):
            on_date = not after.isdigit()
            wait_s = email.utils.parsedate_to_datetime(after).timestamp() - now_ms / 1000 if on_date else float(after)
        elif headers.get("X-Bapi-Limit-Status") == "0":
            wait_s = (int(headers.get("X-Bapi-Limit-Reset-Timestamp", "0")) - now_ms) / 1000
    return min(max(0.0, wait_s), _LONGEST_ASKED_WAIT_S)


def _quoted(text: str, length: int = 80) -> str:
    """Return the beginning of a body, tags taken out, as ` 'text'`; nothing of an empty one."""
    words = " ".join(re.sub(r"<[^>]*>", " ", text).split())
    return f" {words[:length]!r}" if words else ""


def _parse_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"--base-url {base_url}: write it as https://host or http://host:port")
    return url


def is_loopback(host: str) -> bool:
    """Tell whether a host name is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
