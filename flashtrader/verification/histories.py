"""Histories to attack: a stretch of a run's own, damaged as markets are, and the same with another future.

A history is a table of bars, or of order-book snapshots, for each symbol, as the store holds them.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.config import DataConfig, Experiment
from flashtrader.interval import Interval
from flashtrader.market.bars import PRICES
from flashtrader.market.book_store import BookSeries, BookStore, load_books
from flashtrader.market.books import book_table, num_levels
from flashtrader.market.funding_store import FundingStore, load_funding
from flashtrader.market.spans import Span
from flashtrader.market.store import Series, Store, load_bars, stored_source
from flashtrader.models.stream import chunk_length
from flashtrader.run import Run
from flashtrader.verification.checks import Subject

Tables = Mapping[str, pd.DataFrame]

_LEAST_ROWS = 2_500
_HOLES = 8
_BROKEN_ROWS = 40
_OTHER_RATE = 0.00123
_LATE_ROWS = 10


def stored_tables(data: DataConfig, data_dir: Path) -> Tables:
    """Return what the store holds of every symbol of a config. Raises DataError where there is nothing."""
    return load_books(data, data_dir) if data.kind == "books" else load_bars(data, data_dir)


def store_tables(data: DataConfig, tables: Tables, data_dir: Path) -> None:
    """Store a history where a run of this config looks for it."""
    source = stored_source(data)
    for symbol, table in tables.items():
        if data.kind == "books":
            BookStore(data_dir).append(BookSeries(source, symbol, num_levels(table)), table)
        else:
            interval = Interval(data.interval)
            times = table["timestamp"].to_numpy()
            answered = Span(int(times[0]), int(interval.close(times[-1:])[0]))
            Store(data_dir).append(Series(source, symbol, interval), table, answered)


def store_funding(data: DataConfig, from_dir: Path, data_dir: Path, after_ms: int | None) -> None:
    """Copy the stored funding of every symbol; rates that are settled after `after_ms` become others."""
    source = stored_source(data)
    for symbol, history in load_funding(data, from_dir).items():
        for span in history.answered:
            settled = history.settlements
            settled = settled[settled["timestamp"].between(span.start_ms, span.end_ms, inclusive="left")]
            if after_ms is not None:
                settled = settled.assign(rate=settled["rate"].where(settled["timestamp"] <= after_ms, _OTHER_RATE))
            FundingStore(data_dir).append(source, symbol, settled, span)


def copy_of(subject: Subject, test_start_ms: int) -> Run:
    """Return a copy of the run, its members too, that takes everything from a time on for its test part."""
    path = subject.directory("run") / subject.run.name
    shutil.copytree(subject.run.path, path, ignore=shutil.ignore_patterns("*.parquet", "*.png", "*.html"))
    run = Run(path)
    manifest = run.manifest
    changes: dict[str, Any] = {"split": manifest["split"] | {"test_start_ms": test_start_ms}}
    if manifest.get("folds"):
        first, *later = manifest["folds"]
        changes["folds"] = [first | {"test_start_ms": min(test_start_ms, first["test_start_ms"])}, *later]
    run.write_manifest(manifest | changes)
    return run


def clock_of(tables: Tables) -> NDArray[np.int64]:
    """Return the union of all times, sorted (T,)."""
    return np.unique(np.concatenate([table["timestamp"].to_numpy() for table in tables.values()]))


def between(tables: Tables, first_ms: int, last_ms: int) -> dict[str, pd.DataFrame]:
    """Return the rows from `first_ms` to `last_ms`, both included."""
    return {
        symbol: table[table["timestamp"].between(first_ms, last_ms)].reset_index(drop=True)
        for symbol, table in tables.items()
    }


def rows_needed(experiment: Experiment) -> int:
    """Return how long a stretch shows all that a run does: its windows, warm-ups and chunks, a few times over."""
    windows = [int(number) for name in experiment.panel.features for number in re.findall(r"\d+", name)]
    longest = max([2, *windows])
    if experiment.panel.multiscale:
        bar_ms = Interval(experiment.data.interval).milliseconds
        longest *= max(Interval(code).milliseconds for code in experiment.panel.multiscale) // bar_ms
    return max(_LEAST_ROWS, 4 * (experiment.warmup_bars + chunk_length(experiment.context_bars) + longest))


def damaged(tables: Tables, experiment: Experiment, generator: np.random.Generator) -> dict[str, pd.DataFrame]:
    """Return the history with an outage of everything at two fifths, and holes of each market's own.

    Of several markets the last is listed late. A clean history would hide a join by row number, or a hole filled from
    the future.
    """
    clock = clock_of(tables)
    outage_row = 2 * len(clock) // 5
    books = experiment.data.kind == "books"
    outage = clock[outage_row : outage_row + (0 if books else experiment.panel.max_gap_bars + 2)]
    kept: dict[str, pd.DataFrame] = {}
    for number, (symbol, table) in enumerate(tables.items()):
        times = table["timestamp"].to_numpy()
        # All before the outage: where no hole is bridged, stretches must remain that fill windows and warm-ups.
        broken = times[3 * len(times) // 10 : 2 * len(times) // 5]
        missing = generator.choice(broken, size=min(_HOLES, len(broken) // 2), replace=False)
        keep = ~np.isin(times, outage) & ~np.isin(times, missing)
        if 0 < number == len(tables) - 1:
            keep &= times >= clock[_LATE_ROWS]
        rest = table[keep].reset_index(drop=True)
        if books:
            begins = int(np.searchsorted(rest["timestamp"].to_numpy(), clock[outage_row]))
            rest["gap_before"] |= np.arange(len(rest)) == begins
        kept[symbol] = rest
    return kept


def with_other_future(
    tables: Tables, after_ms: int, generator: np.random.Generator, *, holes: bool = True
) -> dict[str, pd.DataFrame]:
    """Return the history with every row later than `after_ms` replaced by a valid one of a very different market.

    holes: whether some of the next rows go missing, in each market others.
    """
    return {symbol: _with_other_future(table, after_ms, generator, holes=holes) for symbol, table in tables.items()}


def _with_other_future(
    table: pd.DataFrame, after_ms: int, generator: np.random.Generator, *, holes: bool
) -> pd.DataFrame:
    past, future = table[table["timestamp"] <= after_ms], table[table["timestamp"] > after_ms]
    if holes:
        kept = (generator.random(len(future)) >= 0.25) | (np.arange(len(future)) >= _BROKEN_ROWS)
        kept[-1:] = True  # or no bar would follow the cut, and at a history's last bar no order is placed
        future = future[kept]
    if future.empty:
        return past.reset_index(drop=True)
    invented = _books(future, generator) if "gap_before" in table.columns else _bars(future, generator)
    return pd.concat([past, invented], ignore_index=True)


def with_other_past(tables: Tables, until_ms: int, generator: np.random.Generator) -> dict[str, pd.DataFrame]:
    """Return the bars with all before the close at `until_ms` replaced: that bar's close alone stays."""
    return {symbol: _with_other_past(table, until_ms, generator) for symbol, table in tables.items()}


def _with_other_past(bars: pd.DataFrame, until_ms: int, generator: np.random.Generator) -> pd.DataFrame:
    past = bars[bars["timestamp"] <= until_ms]
    if past.empty:
        return bars
    invented = _bars(past, generator)
    newest = past["timestamp"].to_numpy() == until_ms
    close = past["close"].to_numpy()
    # Scaled as a whole, a bar stays valid, and has the close that is wanted.
    for name in PRICES:
        invented.loc[newest, name] *= (close / invented["close"].to_numpy())[newest]
    invented.loc[newest, "close"] = close[newest]
    invented["high"] = invented[[*PRICES]].max(axis=1)
    invented["low"] = invented[[*PRICES]].min(axis=1)
    return pd.concat([invented, bars[bars["timestamp"] > until_ms]], ignore_index=True)


def _bars(bars: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """Return bars of a wild market at the same times."""
    rows = len(bars)
    level = bars["close"].to_numpy()[0] * 10 ** generator.uniform(-1, 1)
    close = level * np.exp(np.clip(generator.normal(scale=0.1, size=rows).cumsum(), -5, 5))
    open_ = close * np.exp(generator.normal(scale=0.05, size=rows))
    invented = {
        "timestamp": bars["timestamp"].to_numpy(),
        "open": open_,
        "high": np.maximum(open_, close) * np.exp(generator.exponential(0.05, rows)),
        "low": np.minimum(open_, close) * np.exp(-generator.exponential(0.05, rows)),
        "close": close,
        "volume": generator.lognormal(sigma=2, size=rows) * (1 + bars["volume"].to_numpy()[0]),
    }
    if "turnover" in bars.columns:
        invented["turnover"] = invented["volume"] * close
    return pd.DataFrame(invented)


def _books(books: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """Return snapshots of a wild market at the same times, a few of them after a gap."""
    rows, levels = len(books), num_levels(books)
    mid = books["ask_price_1"].to_numpy()[0] * np.exp(np.clip(generator.normal(scale=0.01, size=rows).cumsum(), -3, 3))
    steps = generator.exponential(1e-3, (rows, levels, 2)) + 1e-5
    away = steps.cumsum(axis=1) / (1 + steps.sum(axis=1, keepdims=True))
    values = np.empty((rows, levels, 4))
    values[:, :, 0], values[:, :, 2] = mid[:, None] * (1 + away[..., 0]), mid[:, None] * (1 - away[..., 1])
    values[:, :, 1::2] = generator.lognormal(sigma=2, size=(rows, levels, 2))
    return book_table(books["timestamp"].to_numpy(), values, generator.random(rows) < 0.02)


def cut_rows(
    tables: Tables,
    experiment: Experiment,
    boundaries_ms: Sequence[int],
    generator: np.random.Generator,
    num_random: int,
) -> list[int]:
    """Return rows of the clock (T,) behind which to replace everything: where mistakes live, and anywhere.

    The bars before and after the outage; those that a market lacks; the ends of the warm-up and of the chunks of a
    pass; the bars before and at each boundary; the first, and the one before the last.
    """
    clock = clock_of(tables)
    last = len(clock) - 2
    breaks = _breaks(tables, experiment, clock)
    lacking = [int(row) for table in tables.values() for row in np.flatnonzero(~np.isin(clock, table["timestamp"]))]
    chunk, warmup = chunk_length(experiment.context_bars), experiment.warmup_bars
    marks = [row + side for row in breaks for side in (-1, 0)]
    marks += generator.permutation(lacking)[: 2 if num_random < 20 else 20].tolist()
    for start in (0, *breaks):
        marks += [start + warmup, start + chunk - 1, start + chunk]
    marks += [int(np.searchsorted(clock, boundary)) + side for boundary in boundaries_ms for side in (-1, 0)]
    marks += [0, last, *generator.integers(0, last, num_random).tolist()]
    return list(dict.fromkeys(row for row in marks if 0 <= row <= last))


def _breaks(tables: Tables, experiment: Experiment, clock: NDArray[np.int64]) -> list[int]:
    """Return the rows of the clock before which there is the longest silence or, in a book, a mark in the middle."""
    if experiment.data.kind == "books":
        (book,) = tables.values()
        marked = np.flatnonzero(book["gap_before"].to_numpy())
        return [int(row) for row in marked[marked > 0][:2]]
    return [int(np.argmax(np.diff(clock))) + 1]
