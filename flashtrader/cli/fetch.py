"""`flashtrader fetch`."""

import sys
import threading
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashtrader.cli import fetch_check
from flashtrader.cli.console import EXIT_CODES, AsJson, DataDir, Table, UnusedDir, fail_for, milliseconds, say, show
from flashtrader.cli.fetch_books import BookOptions, fetch_books
from flashtrader.cli.fetch_funding import fetch_funding

if TYPE_CHECKING:
    from flashtrader.interval import Interval
    from flashtrader.market.fetch import FetchReport
    from flashtrader.market.sources import Source
    from flashtrader.market.store import Store


class SourceChoice(StrEnum):
    """Where bars come from."""

    BYBIT = "bybit"
    YAHOO = "yahoo"
    FILE = "file"
    SIMULATED = "simulated"


class Kind(StrEnum):
    """What is fetched."""

    BARS = "bars"
    ORDERBOOK = "orderbook"
    FUNDING = "funding"


class Category(StrEnum):
    """Which of Bybit's markets."""

    LINEAR = "linear"
    SPOT = "spot"


def fetch(
    context: typer.Context,
    symbols: Annotated[
        list[str] | None,
        typer.Option("--symbols", "-s", help="Markets, separated by commas: BTCUSDT,ETHUSDT.", show_default=False),
    ] = None,
    source: Annotated[
        SourceChoice, typer.Option("--source", help="Where from: bybit, yahoo, file or simulated.", metavar="<name>")
    ] = SourceChoice.BYBIT,
    kind: Annotated[
        Kind, typer.Option("--kind", help="Bars, the order book (recorded live, or of a file), or perpetuals' funding.")
    ] = Kind.BARS,
    category: Annotated[
        Category, typer.Option("--category", help="Bybit's USDT perpetuals or its spot market.")
    ] = Category.LINEAR,
    interval: Annotated[
        str | None,
        typer.Option(
            "--interval",
            "-i",
            help="Minutes (1 3 5 15 30 60 120 240 360 720) or D, W, M; else 60.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--start", help="First bar, UTC; else what is stored, or two years.", show_default=False),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--end", help="Bars before this time; else all that have closed.", show_default=False)
    ] = None,
    path: Annotated[
        Path | None,
        typer.Option(
            "--path",
            help="A Parquet or CSV file, or of bars a directory; one --data-dir holds the files of one exchange.",
            show_default=False,
        ),
    ] = None,
    base_url: Annotated[
        str | None, typer.Option("--base-url", help="Another host that speaks the source's API.", show_default=False)
    ] = None,
    noise_only: Annotated[
        bool, typer.Option("--noise-only", help="Simulated: the twin market in which nothing can be forecast.")
    ] = False,
    levels: Annotated[
        int | None,
        typer.Option(
            "--levels", help="Order book: levels of each side; else 20, or all of a file.", show_default=False
        ),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option("--duration", help="Order book: record for 60s, 10m, 2h; else until Ctrl-C.", show_default=False),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option("--every", help="Order book: the last snapshot of every 100ms, 1s; else all.", show_default=False),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Order book: one snapshot, by HTTP.")] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Read and check what is stored: all, or of these --symbols, --source, --kind."),
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="After --check: set damaged files aside and fetch their time again.")
    ] = False,
    data_dir: DataDir = Path("data"),
    runs_dir: UnusedDir = Path("runs"),  # noqa: ARG001
    as_json: AsJson = False,
) -> None:
    """Store the bars, order books or funding of markets; a history that is there is only extended."""
    from flashtrader.config import DataConfig
    from flashtrader.errors import ConfigError
    from flashtrader.interval import Interval
    from flashtrader.market import fetch as market
    from flashtrader.market.sources.opening import open_source
    from flashtrader.market.store import Series, Store

    listed = ",".join(symbols or [])
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if (not names and not (check and not listed)) or len(set(names)) < len(names):
        raise ConfigError(f"--symbols{f' {listed}' if listed else ''}: name each market once, separated by commas")
    bar_interval = Interval.parse(interval or "60")
    if check:
        origins = {name: context.get_parameter_source(name) for name in context.params}
        given = {name for name, origin in origins.items() if origin and origin.name != "DEFAULT"}
        refused = [name for name in context.params if name in given - fetch_check.OPTIONS]
        if refused:
            raise ConfigError(f"--{refused[0].replace('_', '-')} does not go with --check")
        wanted = fetch_check.Wanted(
            names, source.value if "source" in given else None, kind.value if "kind" in given else None, interval
        )
        fetch_check.check_histories(data_dir, wanted, repair, path, base_url, as_json)
        return
    if repair:
        raise ConfigError("--repair goes with --check")
    data = DataConfig(symbols=tuple(names), source=source.value, category=category.value, noise_only=noise_only)
    book_options = BookOptions(levels, duration, every, once)
    if kind is Kind.ORDERBOOK:
        bar_options = {"--interval": interval, "--start": start, "--end": end, "--noise-only": noise_only}
        _refuse([name for name, value in bar_options.items() if value], "bars")
        fetch_books(data, path, base_url, book_options, data_dir, as_json)
        return
    _refuse(book_options.given, "orderbook")
    span_ms = milliseconds("--start", start), milliseconds("--end", end)
    if kind is Kind.FUNDING:
        _refuse([name for name, value in {"--interval": interval, "--noise-only": noise_only}.items() if value], "bars")
        fetch_funding(data, path, base_url, span_ms, data_dir, as_json)
        return
    store = Store(data_dir)
    from_source = open_source(data, path, base_url)
    try:
        with _Progress() as progress:
            reports = market.fetch(from_source, store, names, bar_interval, *span_ms, progress.update)
    except KeyboardInterrupt:
        rows = (store.ledger(Series(from_source.name, name, bar_interval)).rows for name in names)
        stored = ", ".join(f"{count:,} bars of {name}" for name, count in zip(names, rows, strict=True))
        say(f"stopped: {stored} are stored in {data_dir}; the same command goes on from there")
        sys.exit(EXIT_CODES["interrupted"])
    notes = _write_truth(
        from_source, store, [report.symbol for report in reports if report.failed is None], bar_interval
    )
    _show(reports, from_source.name, store, as_json, notes)
    fail_for(report.failed for report in reports)


def _refuse(options: list[str], kind: str) -> None:
    from flashtrader.errors import ConfigError

    if options:
        raise ConfigError(f"{options[0]} goes with --kind {kind}")


def _write_truth(source: "Source", store: "Store", symbols: list[str], interval: "Interval") -> list[str]:
    """Write what can at best be forecast of a simulated market beside its bars; return it in words."""
    from flashtrader.files import write_json
    from flashtrader.market.sources.simulated import SimulatedSource
    from flashtrader.market.store import Series

    if not isinstance(source, SimulatedSource) or not symbols:
        return []
    for symbol in symbols:
        path = store.directory(Series(source.name, symbol, interval)) / "truth.json"
        truth = source.truth(symbol, interval)
        write_json(path, truth)
    best = ", ".join(f"{ic:.3f} over {bars}" for bars, ic in truth["best_information_coefficient"].items())
    return [f"the best information coefficient that any forecast can have: {best} bars; {path}"]


def _show(reports: "list[FetchReport]", source: str, store: "Store", as_json: bool, notes: list[str]) -> None:
    from flashtrader.market.spans import iso_time

    def moment(milliseconds: int | None) -> str:
        return "–" if milliseconds is None else iso_time(milliseconds)[:16].replace("T", " ")

    rows = [
        (
            report.symbol,
            f"{report.rows:,}",
            f"{report.added:+,}",
            moment(report.first_ms),
            moment(report.last_ms),
            ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in report.gaps.items()) or "none",
        )
        for report in reports
        if report.rows or report.failed is None
    ]
    payload = {
        "source": source,
        "data_dir": str(store.data_dir),
        "symbols": {
            report.symbol: {
                "rows": report.rows,
                "added": report.added,
                "first": None if report.first_ms is None else iso_time(report.first_ms),
                "last": None if report.last_ms is None else iso_time(report.last_ms),
                "gaps": report.gaps,
                "failed": report.failed,
            }
            for report in reports
        },
    }
    columns = ("symbol", "bars", "new", "first", "last", "gaps")
    table = Table(f"Stored from {source} in {store.data_dir}", columns, rows)
    show([table] if rows else [], payload, as_json, notes)


class _Progress:
    """A bar for each market on standard error, where that is a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("bars"))
        self._bars = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
        self._tasks: dict[str, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "_Progress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, symbol: str, bars_done: int, bars_total: int) -> None:
        """Show how far a market is; called from several threads."""
        with self._lock:
            if symbol not in self._tasks:
                self._tasks[symbol] = self._bars.add_task(symbol)
            self._bars.update(self._bars.task_ids[self._tasks[symbol]], completed=bars_done, total=bars_total)
