"""A source in memory whose answers and failures a test writes down."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from flashtrader.errors import SourceError, UnknownSymbolError
from flashtrader.interval import Interval
from flashtrader.market.bars import Bars
from flashtrader.market.sources import Page, Span

HOUR = Interval("60")
HOUR_MS = 3_600_000
FIRST_MS = 1_600_002_000_000


def hours(start: int, end: int) -> Span:
    """Return the span of hours from the `start`-th of the market's history to before the `end`-th."""
    return Span(FIRST_MS + start * HOUR_MS, FIRST_MS + end * HOUR_MS)


def market_bars(num_bars: int, seed: int = 0) -> Bars:
    random = np.random.default_rng(seed)
    close = 100 * np.exp(random.normal(scale=0.01, size=num_bars).cumsum())
    return pd.DataFrame(
        {
            "timestamp": FIRST_MS + np.arange(num_bars) * HOUR_MS,
            "open": close,
            "high": close * 1.01,
            "low": close * 0.99,
            "close": close,
            "volume": random.uniform(1, 2, num_bars),
        }
    )


class FakeSource:
    """Serves `bars` in pages, newest first. The last bar is still open, and is sent all the same."""

    page_bars = 10
    abandoned = False

    def __init__(self, bars: dict[str, Bars], before_page: Callable[[str, Span], None] = lambda *_: None) -> None:
        self.name = "bybit"
        self.asked: list[tuple[str, Span]] = []
        self._bars = bars
        self._before_page = before_page

    @property
    def local(self) -> bool:
        return self.name == "file"

    @property
    def readjusts(self) -> bool:
        return self.name == "yahoo"

    def abandon(self) -> None:
        self.abandoned = True

    def history(self, symbol: str, interval: Interval) -> Span:
        if symbol not in self._bars:
            raise UnknownSymbolError(f"fake: no symbol {symbol}")
        timestamps = self._bars[symbol]["timestamp"]
        return Span(int(timestamps.iloc[0]), int(timestamps.iloc[-1]))

    def pages(self, symbol: str, interval: Interval, span: Span) -> Iterator[Page]:
        bars = self._bars[symbol]
        end = span.end_ms
        while end > span.start_ms:
            page = Span(max(span.start_ms, end - self.page_bars * HOUR_MS), end)
            self.asked.append((symbol, page))
            self._before_page(symbol, page)
            inside = (bars["timestamp"] >= page.start_ms) & (bars["timestamp"] <= page.end_ms)
            yield Page(bars[inside], page)
            end = page.start_ms


def failing_at(page_number: int, error: BaseException | None = None) -> Callable[[str, Span], None]:
    """Return what makes the `page_number`-th page fail, once."""
    seen = 0

    def before_page(symbol: str, page: Span) -> None:
        nonlocal seen
        seen += 1
        if seen == page_number:
            raise error or SourceError("fake: timed out")

    return before_page
