"""A kline endpoint on this machine, as slow to answer as an exchange across the world, to measure fetching with."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from flashtrader.interval import Interval
from flashtrader.market.sources import Span

HOURLY = Interval("60")


class LocalExchange:
    """Serves one history of hourly bars, whatever the symbol, at `/v5/market/kline` as Bybit does; a context.

    latency_s: between a request and its answer, for every request alone, however many come at once.
    """

    def __init__(self, num_bars: int, latency_s: float) -> None:
        hour_ms = HOURLY.milliseconds
        end_ms = HOURLY.floor(round(time.time() * 1000))
        self.span = Span(end_ms - num_bars * hour_ms, end_ms)
        opening_ms = np.arange(self.span.start_ms, end_ms, hour_ms)
        closes = 100 * np.exp(0.001 * np.random.default_rng(0).standard_normal(num_bars).cumsum())
        rows = [
            [str(opened), f"{close:.4f}", f"{close + 1:.4f}", f"{close - 1:.4f}", f"{close:.4f}", "10", "1000"]
            for opened, close in zip(opening_ms.tolist(), closes.tolist(), strict=True)
        ]

        def answer(query: dict[str, str]) -> bytes:
            """Return the newest `limit` bars of a window, newest first; with `start` alone, the oldest."""
            limit = int(query["limit"])
            first = max(0, -(-(int(query["start"]) - self.span.start_ms) // hour_ms))
            if "end" in query:
                stop = min(num_bars, (int(query["end"]) - self.span.start_ms) // hour_ms + 1)
                first = max(first, stop - limit)
            else:
                stop = min(num_bars, first + limit)
            envelope = {
                "retCode": 0,
                "retMsg": "OK",
                "result": {"category": query["category"], "symbol": query["symbol"], "list": rows[first:stop][::-1]},
                "time": round(time.time() * 1000),
            }
            return json.dumps(envelope).encode()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                time.sleep(latency_s)
                body = answer(dict(parse_qsl(urlsplit(self.path).query)))
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Keep the terminal for the figures."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
