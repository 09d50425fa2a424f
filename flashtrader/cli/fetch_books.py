"""`flashtrader fetch --kind orderbook`."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flashtrader.cli.console import EXIT_CODES, Table, fail_for, say, show

if TYPE_CHECKING:
    from flashtrader.config import DataConfig
    from flashtrader.market.book_store import BookStore
    from flashtrader.market.recorder import BookReport
    from flashtrader.market.sources.bybit_books import BybitBooks

_LEVELS = 20
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True)
class BookOptions:
    """The options of `fetch` that only order books take."""

    levels: int | None
    duration: str | None
    every: str | None
    once: bool

    @property
    def given(self) -> list[str]:
        """The names of those that were given."""
        values = {"--levels": self.levels, "--duration": self.duration, "--every": self.every, "--once": self.once}
        return [name for name, value in values.items() if value is not None and value is not False]


def fetch_books(
    data: "DataConfig", path: Path | None, base_url: str | None, options: BookOptions, data_dir: Path, as_json: bool
) -> None:
    """Record the order books of Bybit's markets, or read those of a file, into the store."""
    from flashtrader.errors import ConfigError
    from flashtrader.market.book_store import BookStore

    store = BookStore(data_dir)
    match data.source:
        case "bybit" if path is None:
            reports = _record(data, base_url, options, store)
        case "file" if base_url is None and data.category == "linear" and set(options.given) <= {"--levels"}:
            reports = [_read_file(data.symbols, path, options.levels, store)]
        case "file":
            raise ConfigError("--source file takes --path and --levels: its books are recorded already")
        case "bybit":
            raise ConfigError("--path goes with --source file, not bybit")
        case other:
            raise ConfigError(f"--kind orderbook goes with --source bybit or file, not {other}")
    _show(reports, data.source, store, as_json)
    fail_for(report.failed for report in reports)


def _record(data: "DataConfig", base_url: str | None, options: BookOptions, store: "BookStore") -> "list[BookReport]":
    from flashtrader.errors import ConfigError
    from flashtrader.market.recorder import record_once
    from flashtrader.market.sources.bybit_books import BybitBooks

    source = BybitBooks(data.category, _LEVELS if options.levels is None else options.levels, base_url)
    if options.once:
        if options.duration or options.every:
            raise ConfigError("--once is one snapshot: it takes neither --duration nor --every")
        return record_once(source, store, data.symbols)
    duration_ms = None if options.duration is None else _milliseconds("--duration", options.duration)
    every_ms = 1 if options.every is None else _milliseconds("--every", options.every)
    try:
        return _followed(source, store, data.symbols, duration_ms, every_ms)
    except KeyboardInterrupt:
        say(f"stopped: {_stored(source, store, data.symbols)}; the same command goes on, after a gap")
        sys.exit(EXIT_CODES["interrupted"])


def _followed(
    source: "BybitBooks", store: "BookStore", symbols: Sequence[str], duration_ms: int | None, every_ms: int
) -> "list[BookReport]":
    from rich.console import Console

    from flashtrader.market.recorder import record

    console = Console(stderr=True, highlight=False)
    counts = dict.fromkeys(symbols, 0)
    with console.status("connecting") as status:

        def progress(symbol: str, added: int) -> None:
            counts[symbol] = added
            status.update(", ".join(f"{name} {count:,}" for name, count in counts.items()) + " snapshots; Ctrl-C stops")

        duration_s = None if duration_ms is None else duration_ms / 1_000
        return record(source, store, symbols, duration_s, every_ms, progress, say)


def _stored(source: "BybitBooks", store: "BookStore", symbols: Sequence[str]) -> str:
    from flashtrader.market.book_store import BookSeries

    rows = (store.ledger(BookSeries(source.name, symbol, source.levels)).rows for symbol in symbols)
    counted = ", ".join(f"{count:,} of {symbol}" for count, symbol in zip(rows, symbols, strict=True))
    return f"{counted} snapshots are stored in {store.data_dir}"


def _read_file(symbols: Sequence[str], path: Path | None, levels: int | None, store: "BookStore") -> "BookReport":
    from flashtrader.errors import ConfigError
    from flashtrader.market.book_store import BookSeries
    from flashtrader.market.books import best_levels, num_levels
    from flashtrader.market.recorder import report
    from flashtrader.market.sources.book_files import read_book_file

    if path is None:
        raise ConfigError("--source file needs --path: one file of order books")
    if len(symbols) != 1:
        raise ConfigError(f"--symbols {','.join(symbols)}: a file of order books holds one market")
    books, breaks = read_book_file(path, symbols[0])
    there = num_levels(books)
    if levels is not None and not 1 <= levels <= there:
        raise ConfigError(f"--levels {levels}: the books of {path} have 1 to {there} levels")
    series = BookSeries("file", symbols[0], there if levels is None else levels)
    return report(store, series, store.append(series, best_levels(books, series.levels), breaks))


def _milliseconds(option: str, text: str) -> int:
    from flashtrader.errors import ConfigError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text.strip())
    milliseconds = round(float(match[1]) * _UNITS_MS[match[2]]) if match else 0
    if milliseconds < 1:
        raise ConfigError(f"{option} {text}: write a time such as 100ms, 60s, 10m, 2h or 1d")
    return milliseconds


def _show(reports: "list[BookReport]", source: str, store: "BookStore", as_json: bool) -> None:
    from flashtrader.market.spans import iso_time

    def moment(time_ms: int | None) -> str | None:
        return None if time_ms is None else iso_time(time_ms, "ms")

    rows = [
        (
            report.symbol,
            f"{report.rows:,}",
            f"{report.added:+,}",
            (moment(report.first_ms) or "–")[:16].replace("T", " "),
            (moment(report.last_ms) or "–")[:16].replace("T", " "),
            ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in report.gaps.items()) or "none",
        )
        for report in reports
        if report.rows
    ]
    payload = {
        "source": source,
        "data_dir": str(store.data_dir),
        "symbols": {
            report.symbol: {
                "levels": report.levels,
                "rows": report.rows,
                "added": report.added,
                "first": moment(report.first_ms),
                "last": moment(report.last_ms),
                "gaps": report.gaps,
                "failed": report.failed,
            }
            for report in reports
        },
    }
    columns = ("symbol", "snapshots", "new", "first", "last", "gaps")
    title = f"Order books of {reports[0].levels} levels stored from {source} in {store.data_dir}"
    table = Table(title, columns, rows)
    show([table] if rows else [], payload, as_json)
