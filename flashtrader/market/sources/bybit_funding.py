"""Funding from Bybit's v5 API: `/v5/market/funding/history`, USDT perpetuals.

How the endpoint answers (https://bybit-exchange.github.io/docs/v5/market/history-fund-rate, and a recorded answer):
rows come newest first, at most 200; `startTime` alone is an error; of a window that holds more only the newest come, as
https://github.com/ccxt/ccxt/issues/27745 shows. So pages go backwards by `endTime`. How often a market settles changes
over time, and nothing here depends on it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from flashtrader.market.columns import AT_FAULT
from flashtrader.market.fetch_funding import FundingPage
from flashtrader.market.funding import Settlements, no_settlements, validate_settlements
from flashtrader.market.http import TIMEOUT_S, Answer, HttpClient, RateLimiter, TransientError
from flashtrader.market.sources.bybit import BASE_URL, REFUSAL, REQUESTS, REQUESTS_SECONDS, checked_envelope
from flashtrader.market.spans import Span

PAGE_ROWS = 200
_PATH = "/v5/market/funding/history"
# Older than any market, and not 0, which a server may take for "not given".
_BEFORE_HISTORY_MS = 9_999
# A settlement less than this ago may not be listed yet.
_SETTLE_MS = 600_000


class BybitFunding:
    """Every settlement of Bybit's USDT perpetuals."""

    name = "bybit"
    local = False

    def __init__(
        self, base_url: str | None = None, *, limiter: RateLimiter | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._client = HttpClient(
            base_url or BASE_URL, limiter or RateLimiter(REQUESTS, REQUESTS_SECONDS), REFUSAL, timeout_s=timeout_s
        )

    def history(self, symbol: str) -> Span:
        """Return the time before the server's clock: a market has no settlement before it was listed."""
        _, now_ms = self._ask(symbol, {"limit": 1})
        return Span(_BEFORE_HISTORY_MS, now_ms - _SETTLE_MS)

    def pages(self, symbol: str, span: Span) -> Iterator[FundingPage]:
        """Yield the settlements of `span`, newest page first; pages end where an empty one comes."""
        end_ms = span.end_ms
        while end_ms > span.start_ms:
            asked = {"startTime": span.start_ms, "endTime": end_ms - 1, "limit": PAGE_ROWS}
            settlements, _ = self._ask(symbol, asked)
            start_ms = span.start_ms if settlements.empty else int(settlements["timestamp"].iloc[0])
            yield FundingPage(settlements, Span(start_ms, end_ms))
            end_ms = start_ms

    def _ask(self, symbol: str, params: dict[str, int]) -> tuple[Settlements, int]:
        """Return the settlements of one answer, sorted, and the server's clock."""
        subject = f"funding of {symbol}"
        where = f"{self._client.host}: {subject}"

        def read(answer: Answer) -> tuple[Settlements, int]:
            result, now_ms = checked_envelope(answer, where, symbol, "linear")
            settlements = _settlements(result.get("list"), symbol, where)
            times = settlements["timestamp"]
            if not times.between(params.get("startTime", 0), params.get("endTime", now_ms)).all():
                raise TransientError(f"{where}: settlements came from outside the time asked for; fetch again")
            return settlements, now_ms

        return self._client.get(_PATH, {"category": "linear", "symbol": symbol, **params}, subject, read)


def _settlements(rows: Any, symbol: str, where: str) -> Settlements:
    """Return the rows of an answer, oldest first. Exact repetitions are dropped, contradictions refused."""
    if not isinstance(rows, list):
        raise TransientError(f"{where}: retCode 0, but no list of settlements in the answer; fetch again")
    if not rows:
        return no_settlements()
    try:
        if any(row["symbol"] != symbol for row in rows):
            raise TransientError(f"{where}: the answer is about another market; fetch again")
        times = np.array([int(row["fundingRateTimestamp"]) for row in rows], dtype=np.int64)
        rates = np.array([float(row["fundingRate"]) for row in rows])
    except (ArithmeticError, KeyError, TypeError, ValueError):
        raise TransientError(f"{where}: a settlement lacks its symbol, time or rate; fetch again") from None
    table = pd.DataFrame({"timestamp": times, "rate": rates}).drop_duplicates().sort_values("timestamp")
    return validate_settlements(table, where, AT_FAULT)
