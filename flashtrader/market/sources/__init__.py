"""What every source of bars answers; one module each for Bybit, Yahoo, files and the simulated exchange."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from flashtrader.interval import Interval
from flashtrader.market.bars import Bars
from flashtrader.market.spans import Span

__all__ = ["Page", "Source", "Span"]


class Page(NamedTuple):
    """One answer: every closed bar that the source has in `answered`, maybe none."""

    bars: Bars
    answered: Span


class Source(Protocol):
    """Where bars come from. Its methods are called from several threads at once, one symbol each."""

    @property
    def name(self) -> str:
        """The name under which its bars are stored: bybit, bybit-spot, yahoo, file, simulated."""

    @property
    def local(self) -> bool:
        """Whether asking costs nothing: then all that it has is fetched by default and compared with what is stored."""

    @property
    def readjusts(self) -> bool:
        """Whether a split or dividend changes all its prices of before."""

    def history(self, symbol: str, interval: Interval) -> Span:
        """Return from the first bar there is to the end of the last one that has closed, by the source's clock.

        Raises UnknownSymbolError for a symbol or interval that the source does not have.
        """

    def pages(self, symbol: str, interval: Interval, span: Span) -> Iterator[Page]:
        """Yield pages, newest first, that together answer all of `span`. Raises SourceError where it can't go on."""

    def abandon(self) -> None:
        """Let every call in progress, in any thread, end soon with a SourceError, and every later one at once."""
