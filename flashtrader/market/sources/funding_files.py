"""Funding from a CSV or Parquet file: columns of times and rates, and one of symbols where it holds several markets.

The times are read as those of bars are, and rounded to the minute: exchanges record a settlement some milliseconds
after it. A file is trusted to hold every settlement from its first to its last, and none until its last interval passes
once more.
"""

from collections.abc import Iterator
from pathlib import Path

from flashtrader.errors import ConfigError, DataError
from flashtrader.market.fetch_funding import FundingPage
from flashtrader.market.funding import Settlements, validate_settlements
from flashtrader.market.sources.files import read_market
from flashtrader.market.spans import Span

_RATES = ("rate", "funding_rate", "fundingrate", "last_funding_rate")
_TIMES = ("calc_time", "fundingtime", "fundingratetimestamp", "funding_time")
_MINUTE_MS = 60_000


class FundingFile:
    """One file of settlements."""

    name = "file"
    local = True

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; give --path one file of settlements")
        self._path = path
        self._read: dict[str, Settlements] = {}

    def history(self, symbol: str) -> Span:
        """Return from the first settlement to one interval after the last."""
        times = self._settlements(symbol)["timestamp"].to_numpy()
        if len(times) < 2:
            raise DataError(f"{self._path}: {symbol} has a single settlement; give a history of them")
        return Span(int(times[0]), int(2 * times[-1] - times[-2]))

    def pages(self, symbol: str, span: Span) -> Iterator[FundingPage]:
        """Yield what the file has of `span` as one page."""
        table = self._settlements(symbol)
        inside = table["timestamp"].between(span.start_ms, span.end_ms, inclusive="left")
        yield FundingPage(table[inside].reset_index(drop=True), span)

    def _settlements(self, symbol: str) -> Settlements:
        if symbol not in self._read:
            table = read_market(self._path, symbol, _RATES, _TIMES).set_axis(["timestamp", "rate"], axis=1)
            table["timestamp"] = (table["timestamp"] + _MINUTE_MS // 2) // _MINUTE_MS * _MINUTE_MS
            self._read[symbol] = validate_settlements(table, f"{self._path}: {symbol}")
        return self._read[symbol]
