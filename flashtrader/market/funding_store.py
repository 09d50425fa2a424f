"""Funding on disk: `<data_dir>/<source>/<symbol>/funding/` holds `funding.parquet` and `ledger.json`.

As of bars, one writer at a time holds the lock, readers take none, each file is replaced in one step, and what is
stored is never changed. Rows are written before the ledger says that their time is answered: a write that is killed in
between is asked for again.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from flashtrader.config import DataConfig
from flashtrader.errors import ConfigError, DataError
from flashtrader.files import write_json
from flashtrader.market.funding import FundingHistory, Settlements, no_settlements, validate_settlements
from flashtrader.market.parts import read_part, write_part, writing
from flashtrader.market.records import Record, SpanRecord, read_ledger_file
from flashtrader.market.spans import Span, iso_time, union
from flashtrader.market.store import check_symbol, stored_source

DAMAGED = "set it aside and fetch again with `flashtrader fetch --check --repair`"


class _Recorded(Record):
    answered: list[SpanRecord]


class FundingStore:
    """The funding of every market below one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    def directory(self, source: str, symbol: str) -> Path:
        """Return where a market's funding lies, or would."""
        check_symbol(symbol)
        return self.data_dir / source / symbol / "funding"

    def read(self, source: str, symbol: str) -> FundingHistory:
        """Return what is stored, maybe nothing. Raises DataError where it is damaged."""
        directory = self.directory(source, symbol)
        path = directory / "funding.parquet"
        table = read_part(path, DAMAGED) if path.exists() else no_settlements()
        settlements = validate_settlements(table, str(path), DAMAGED)
        path_option = " --path FILE" if source == "file" else ""
        command = f"flashtrader fetch --kind funding --source {source}{path_option} --symbols {symbol}"
        answered = read_answered(directory / "ledger.json") if path.exists() else ()
        return FundingHistory(settlements, answered, str(directory), command)

    def append(self, source: str, symbol: str, settlements: Settlements, answered: Span) -> int:
        """Store every settlement that the source has in `answered`; return how many are new.

        Raises DataError, and writes nothing, for settlements that are invalid, not in `answered`, or stored with
        another rate: a history is never made of two.
        """
        directory = self.directory(source, symbol)
        new = validate_settlements(settlements, f"funding of {symbol} from {source}")
        if not new["timestamp"].between(answered.start_ms, answered.end_ms, inclusive="left").all():
            raise DataError(
                f"funding of {symbol} from {source}: settlements outside {answered}; the source is at fault"
            )
        with writing(directory):
            stored = self.read(source, symbol)
            both = stored.settlements.merge(new, on="timestamp", suffixes=("", "_now"))
            differs = both[both["rate"] != both["rate_now"]]
            if len(differs):
                then = differs.iloc[-1]
                raise DataError(
                    f"{directory}: settlement {iso_time(int(then['timestamp']))} has rate {then['rate']:g}, at the "
                    f"source now {then['rate_now']:g}; give another market another --data-dir, or move or delete this "
                    "directory and fetch again"
                )
            added = new[~np.isin(new["timestamp"], stored.settlements["timestamp"])]
            table = (
                pd.concat([stored.settlements, added]).sort_values("timestamp") if len(added) else stored.settlements
            )
            write_part(directory / "funding.parquet", table)
            _write_answered(directory / "ledger.json", union([*stored.answered, answered]))
        return len(added)


def load_funding(data: DataConfig, data_dir: Path) -> dict[str, FundingHistory]:
    """Return the stored funding of every symbol of a config. Raises ConfigError for a source without perpetuals."""
    source = stored_source(data)
    if source not in ("bybit", "file"):
        raise ConfigError(
            f"backtest.funding_rate: {source} has no funding to be fetched; set it to a number, or null for none"
        )
    store = FundingStore(data_dir)
    return {symbol: store.read(source, symbol) for symbol in data.symbols}


def _write_answered(path: Path, answered: Iterable[Span]) -> None:
    spans = [{"start": iso_time(span.start_ms, "ms"), "end": iso_time(span.end_ms, "ms")} for span in answered]
    write_json(path, {"answered": spans})


def read_answered(path: Path) -> tuple[Span, ...]:
    """Return the time of which every settlement is there; without a file none. Raises DataError when it is damaged."""
    if not path.exists():
        return ()
    return tuple(item.span for item in read_ledger_file(path, _Recorded.model_validate, DAMAGED).answered)
