"""Order books on disk: Parquet parts of runs of snapshots, and the ledger that says what broke between the runs.

`<data_dir>/<source>/<symbol>/book-<levels>/` holds `books-<time of its first row>.parquet` with up to 20,000 snapshots
each, and `ledger.json`. As of bars, one writer at a time holds the lock, readers take none, and what is stored is never
changed: snapshots are added after, before or between the runs that are there.

Each row says in `gap_before` whether the book is known between the row before and itself; the ledger says why not. A
write goes ledger (not examined) → parts → ledger, and a ledger that is not examined is made anew from the rows.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from flashtrader.config import DataConfig
from flashtrader.errors import DataError
from flashtrader.files import listed, write_json
from flashtrader.market.book_ledger import BookLedger, Break, Run, find_runs
from flashtrader.market.books import Books, best_levels, num_levels, validate_books
from flashtrader.market.parts import first_and_last, part_time, read_part, write_part, writing
from flashtrader.market.records import read_ledger_file
from flashtrader.market.spans import iso_time
from flashtrader.market.store import check_symbol, stored_source, time_asked

ROWS_PER_PART = 20_000
DAMAGED = "set it aside with `flashtrader fetch --check --repair`; the time it held is then marked as a gap"


@dataclass(frozen=True)
class BookSeries:
    """One history of snapshots: so many levels of one symbol from one source."""

    kind: ClassVar[Literal["orderbook"]] = "orderbook"
    """What --kind calls it."""
    source: str
    """Stored name: bybit, bybit-spot, file."""
    symbol: str
    levels: int

    def __post_init__(self) -> None:
        check_symbol(self.symbol)

    def __str__(self) -> str:
        return f"the book of {self.symbol}, {self.levels} levels, from {self.source}"

    @property
    def fetch_command(self) -> str:
        """The command that gets it."""
        source, _, variant = self.source.partition("-")
        options = " --category spot" if variant == "spot" else " --path FILE" if source == "file" else ""
        levels = "" if source == "file" else f" --levels {self.levels}"
        return f"flashtrader fetch --kind orderbook --source {source}{options} --symbols {self.symbol}{levels}"


class BookStore:
    """Every stored order book below one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    def directory(self, series: BookSeries) -> Path:
        """Return where a history lies, or would."""
        return self.data_dir / series.source / series.symbol / f"book-{series.levels}"

    def read(self, series: BookSeries, start_ms: int | None = None, end_ms: int | None = None) -> Books:
        """Return the snapshots in [`start_ms`, `end_ms`), validated, the first of them after a gap.

        None is everything stored. Raises DataError when there is none, and for a damaged part.
        """
        directory, ledger = self.directory(series), self.ledger(series)
        if not ledger.runs:
            raise DataError(f"{directory}: nothing of {series}; get it with `{series.fetch_command}`")
        start_ms = ledger.runs[0].first_ms if start_ms is None else start_ms
        end_ms = ledger.runs[-1].last_ms + 1 if end_ms is None else end_ms
        extents = {path: first_and_last(path, "timestamp", DAMAGED) for path in self.parts(series)}
        parts = [
            read_part(path, DAMAGED) for path, (first, last) in extents.items() if first < end_ms and start_ms <= last
        ]
        # A part that fills a gap begins within the time of another.
        books = pd.concat(parts).sort_values("timestamp", kind="stable") if parts else pd.DataFrame({"timestamp": []})
        books = books[books["timestamp"].between(start_ms, end_ms, inclusive="left")]
        if books.empty:
            stored = f"{iso_time(ledger.runs[0].first_ms)} to {iso_time(ledger.runs[-1].last_ms)}"
            raise DataError(f"{directory}: nothing of {series} in the time asked for; stored is {stored}")
        books = validate_books(books, str(directory), DAMAGED)
        begins = np.isin(books["timestamp"], [run.first_ms for run in ledger.runs])
        books["gap_before"] |= begins | (np.arange(len(books)) == 0)
        return books

    def append(
        self,
        series: BookSeries,
        books: Books,
        breaks: Mapping[int, Break] | None = None,
        follows_ms: int | None = None,
    ) -> int:
        """Store the snapshots that don't lie within a stored run; return how many.

        breaks: by the time of a row with `gap_before`, why. follows_ms: the stored snapshot from which the first row
        goes on without a gap; where that is not the newest one, as where anything else lies between two rows, the row
        is marked. Raises DataError for snapshots that are invalid, before anything is written.
        """
        books = validate_books(books, str(series))
        if num_levels(books) != series.levels:
            raise DataError(f"{series}: the snapshots have {num_levels(books)} levels")
        directory = self.directory(series)
        with writing(directory):
            ledger = self.ledger(series)
            timestamps = books["timestamp"].to_numpy()
            runs_before = np.searchsorted([run.first_ms for run in ledger.runs], timestamps, side="right")
            ends = np.array([-np.inf, *(run.last_ms for run in ledger.runs)])
            outside = timestamps > ends[runs_before]
            new, place = books[outside].reset_index(drop=True), runs_before[outside]
            if new.empty:
                if not ledger.examined:
                    self._write_ledger(series, replace(ledger, examined=True))
                return 0
            joint = np.diff(place, prepend=-1) != 0
            joint[0] = not (follows_ms is not None and follows_ms == ledger.last_ms and outside[0])
            new["gap_before"] |= joint
            self._write_ledger(series, replace(ledger, examined=False))
            self._write_rows(series, new, at_end=bool(place[0] == len(ledger.runs)))
            began = {
                int(time): Break("began", "a recording or a file begins here") for time in timestamps[outside][joint]
            }
            runs = _joined(ledger.runs, new, {**began, **(breaks or {})})
            self._write_ledger(series, BookLedger(runs))
        return len(new)

    def ledger(self, series: BookSeries) -> BookLedger:
        """Return the ledger as the rows are; of a history that isn't there, an empty one."""
        recorded = read_book_ledger(self.directory(series) / "ledger.json")
        known = {part.name for part in self.parts(series)} == set(recorded.parts)
        return recorded if recorded.examined and known else self._made_anew(series, recorded)

    def _made_anew(self, series: BookSeries, recorded: BookLedger) -> BookLedger:
        """Return a ledger of the runs that the rows show, broken also where one is recorded or a part is gone."""
        parts = self.parts(series)
        if not parts:
            return BookLedger()
        gone = sorted(set(recorded.parts) - {part.name for part in parts})
        columns = [read_part(part, DAMAGED, ["timestamp", "gap_before"]) for part in parts]
        rows = pd.concat(columns).sort_values("timestamp", kind="stable", ignore_index=True)
        timestamps = rows["timestamp"].to_numpy()
        known = [run.first_ms for run in recorded.runs]
        after_gone = [timestamps[timestamps >= part_time(name, "books")][:1] for name in gone]
        rows["gap_before"] |= np.isin(timestamps, np.concatenate([known, *after_gone]))
        return BookLedger(find_runs(rows, {run.first_ms: run.broken for run in recorded.runs}), examined=False)

    def serving(self, series: BookSeries) -> BookSeries:
        """Return the shallowest stored history with at least the levels of `series`. Raises DataError without one."""
        directory = self.directory(series).parent
        filled = [path for path in listed(directory, "book-*") if listed(path, "books-*.parquet")]
        depths = [int(name) for path in filled if (name := path.name.removeprefix("book-")).isdecimal()]
        enough = [depth for depth in depths if depth >= series.levels]
        if enough:
            return replace(series, levels=min(enough))
        if depths:
            raise DataError(
                f"{directory}: stored are books of {max(depths)} levels, and {series.levels} are asked for; "
                f"set data.levels to {max(depths)}, or get more with `{series.fetch_command}`"
            )
        raise DataError(f"{directory}: no order book of {series.symbol}; get it with `{series.fetch_command}`")

    def _write_rows(self, series: BookSeries, new: Books, *, at_end: bool) -> None:
        """Fill the newest part, then begin others."""
        directory, parts = self.directory(series), self.parts(series)
        room = 0
        if at_end and parts:
            stored = read_part(parts[-1], DAMAGED)
            room = max(0, ROWS_PER_PART - len(stored))
            if room:
                write_part(parts[-1], pd.concat([stored, new.iloc[:room]], ignore_index=True))
        for start in range(room, len(new), ROWS_PER_PART):
            part = new.iloc[start : start + ROWS_PER_PART]
            write_part(directory / part_name(int(part["timestamp"].iloc[0])), part)

    def examine(self, series: BookSeries) -> BookLedger:
        """Write down the runs as the rows now are, and return the ledger."""
        with writing(self.directory(series)):
            recorded = read_book_ledger(self.directory(series) / "ledger.json")
            ledger = replace(self._made_anew(series, recorded), examined=True)
            self._write_ledger(series, ledger)
        return ledger

    def parts(self, series: BookSeries) -> list[Path]:
        """Return the part files, in order of their first snapshots."""
        return sorted(listed(self.directory(series), "books-*.parquet"), key=_part_time)

    def _write_ledger(self, series: BookSeries, ledger: BookLedger) -> None:
        names = tuple(path.name for path in self.parts(series))
        write_json(self.directory(series) / "ledger.json", replace(ledger, parts=names).to_json())


def load_books(data: DataConfig, data_dir: Path) -> dict[str, Books]:
    """Return the stored snapshots of every symbol of a config, in [`start`, `end`), with its number of levels.

    Raises DataError where there is none, with the command that gets them.
    """
    store, source = BookStore(data_dir), stored_source(data)
    books = {}
    for symbol in data.symbols:
        series = store.serving(BookSeries(source, symbol, data.levels))
        books[symbol] = best_levels(store.read(series, *time_asked(data)), data.levels)
    return books


def _joined(runs: tuple[Run, ...], new: Books, breaks: Mapping[int, Break]) -> tuple[Run, ...]:
    """Return the runs with those of new rows, of which the first may go on with the newest run."""
    added = find_runs(new, breaks)
    if not new["gap_before"].iloc[0]:
        newest, more = runs[-1], added[0]
        grown = replace(newest, last_ms=more.last_ms, rows=newest.rows + more.rows)
        runs, added = (*runs[:-1], grown), added[1:]
    return tuple(sorted((*runs, *added), key=lambda run: run.first_ms))


def part_name(timestamp: int) -> str:
    """Return the name of the part whose first snapshot is of this time."""
    return f"books-{re.sub('[-:.]', '', iso_time(timestamp, 'ms'))}.parquet"


def _part_time(path: Path) -> int:
    try:
        return part_time(path.name, "books")
    except ValueError:
        raise DataError(f"{path}: not named as a part of stored books is; move it elsewhere") from None


def read_book_ledger(path: Path) -> BookLedger:
    """Return a ledger as it was written; without a file one not examined. Raises DataError for a damaged one."""
    if not path.exists():
        return BookLedger(examined=False)
    advice = "set it aside with `flashtrader fetch --check --repair`: it is made anew, without the reasons of gaps"
    return read_ledger_file(path, BookLedger.from_json, advice)
