"""`flashtrader fetch --kind funding`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flashtrader.cli.console import EXIT_CODES, Table, fail_for, say, show

if TYPE_CHECKING:
    from flashtrader.config import DataConfig
    from flashtrader.market.fetch_funding import FundingReport


def fetch_funding(
    data: "DataConfig",
    path: Path | None,
    base_url: str | None,
    span_ms: tuple[int | None, int | None],
    data_dir: Path,
    as_json: bool,
) -> None:
    """Store the funding of Bybit's perpetuals, or that of a file."""
    from flashtrader.market import fetch_funding as market
    from flashtrader.market.funding_store import FundingStore
    from flashtrader.market.sources.opening import open_funding

    source, store = open_funding(data, path, base_url), FundingStore(data_dir)
    try:
        reports = market.fetch_funding(source, store, data.symbols, *span_ms)
    except KeyboardInterrupt:
        rows = (len(store.read(source.name, symbol).settlements) for symbol in data.symbols)
        stored = ", ".join(f"{count:,} settlements of {name}" for name, count in zip(data.symbols, rows, strict=True))
        say(f"stopped: {stored} are stored in {data_dir}; the same command goes on from there")
        sys.exit(EXIT_CODES["interrupted"])
    _show(reports, source.name, data_dir, as_json)
    fail_for(report.failed for report in reports)


def _show(reports: "list[FundingReport]", source: str, data_dir: Path, as_json: bool) -> None:
    from flashtrader.market.spans import iso_time

    def moment(time_ms: int | None) -> str | None:
        return None if time_ms is None else iso_time(time_ms)

    rows = [
        (
            report.symbol,
            f"{report.rows:,}",
            f"{report.added:+,}",
            *((moment(time_ms) or "–")[:16].replace("T", " ") for time_ms in (report.first_ms, report.last_ms)),
        )
        for report in reports
        if report.rows
    ]
    payload = {
        "source": source,
        "data_dir": str(data_dir),
        "symbols": {
            report.symbol: {
                "rows": report.rows,
                "added": report.added,
                "first": moment(report.first_ms),
                "last": moment(report.last_ms),
                "failed": report.failed,
            }
            for report in reports
        },
    }
    columns = ("symbol", "settlements", "new", "first", "last")
    show([Table(f"Funding stored from {source} in {data_dir}", columns, rows)] if rows else [], payload, as_json)
