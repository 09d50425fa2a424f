"""Bars on disk."""

from dataclasses import dataclass

from flashtrader.interval import Interval
from flashtrader.market.spans import Span

__all__ = ["Series", "Span"]


@dataclass(frozen=True)
class Series:
    """One history: the bars of one interval of one symbol from one source."""

    source: str
    """Stored name: bybit, bybit-spot, yahoo, file, simulated, simulated-noise."""
    symbol: str
    interval: Interval
