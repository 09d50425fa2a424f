"""From a source of funding to the store: ask for what was never answered, keep what arrives, say what came of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from flashtrader.errors import ConfigError, DataError, SourceError
from flashtrader.interval import DAY_MS
from flashtrader.market.funding import Settlements
from flashtrader.market.funding_store import FundingStore
from flashtrader.market.spans import Span, iso_time, minus

_DEFAULT_MS = 2 * 365 * DAY_MS
# Stored settlements beside what is missing are asked for again, and first, to see that they are of the same market.
_COMPARED_MS = 3 * DAY_MS


class FundingPage(NamedTuple):
    """One answer: every settlement that the source has in `answered`, maybe none."""

    settlements: Settlements
    answered: Span


class FundingSource(Protocol):
    """Where funding comes from."""

    @property
    def name(self) -> str:
        """The name under which it is stored: bybit, file."""

    @property
    def local(self) -> bool:
        """Whether asking costs nothing: then all that it has is fetched by default."""

    def history(self, symbol: str) -> Span:
        """Return the time of which the source knows every settlement. Raises UnknownSymbolError."""

    def pages(self, symbol: str, span: Span) -> Iterator[FundingPage]:
        """Yield pages, newest first, that together answer all of `span`. Raises SourceError where it can't go on."""


@dataclass(frozen=True)
class FundingReport:
    """What is stored of one market after a fetch, and what the fetch did."""

    symbol: str
    rows: int
    added: int
    first_ms: int | None
    last_ms: int | None
    failed: str | None = None
    """Why not everything that was asked for is there."""


def fetch_funding(
    source: FundingSource,
    store: FundingStore,
    symbols: Sequence[str],
    start_ms: int | None = None,
    end_ms: int | None = None,
) -> list[FundingReport]:
    """Store the settlements in [`start_ms`, `end_ms`) that were never answered for; report on each symbol.

    start_ms None: of a file everything; else the oldest time answered, and where there is none, two years ago. end_ms
    None: all that is known. A symbol that fails keeps what arrived, and the next call goes on from there. Raises
    UnknownSymbolError, and ConfigError for a start that is not before the end.
    """
    if start_ms is not None and end_ms is not None and start_ms >= end_ms:
        raise ConfigError(f"start {iso_time(start_ms)} is not before end {iso_time(end_ms)}")
    histories = {symbol: source.history(symbol) for symbol in symbols}
    return [_fetch_symbol(source, store, symbol, known, start_ms, end_ms) for symbol, known in histories.items()]


def _fetch_symbol(
    source: FundingSource, store: FundingStore, symbol: str, known: Span, start_ms: int | None, end_ms: int | None
) -> FundingReport:
    added, failed = 0, None
    answered = store.read(source.name, symbol).answered
    if start_ms is None:
        oldest = answered[0].start_ms if answered else known.end_ms - _DEFAULT_MS
        start_ms = known.start_ms if source.local else oldest
    wanted = Span(start_ms, known.end_ms if end_ms is None else end_ms) & known
    try:
        if not wanted:
            raise DataError(f"no settlements in the time asked for: {source.name} has {symbol} from {known}")
        missing = minus([wanted], answered)[::-1]
        beside = [Span(span.start_ms - _COMPARED_MS, span.end_ms + _COMPARED_MS) & known for span in missing]
        stored = [wanted] if source.local else minus(beside, missing)
        for span in (*(stored if answered else ()), *missing):
            for page in source.pages(symbol, span):
                added += store.append(source.name, symbol, *page)
    except (SourceError, DataError) as error:
        failed = str(error)
    times = store.read(source.name, symbol).settlements["timestamp"]
    first_ms, last_ms = (int(times.iloc[0]), int(times.iloc[-1])) if len(times) else (None, None)
    if failed is None and not len(times):
        failed = f"{source.name} has no funding of {symbol} in the time asked for"
    return FundingReport(symbol, len(times), added, first_ms, last_ms, failed)
