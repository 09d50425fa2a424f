"""Bars from CSV and Parquet files of the common shapes.

- One market: columns open, high, low, close, volume, perhaps turnover. The file's name holds the symbol.
- Long: the same with a column `symbol`; the rows of each market together or mixed.
- Wide: no such column, but one for each market with its closes. Only closes are known, so open, high and low repeat
  them and volume is zero.

Names may be capitalised. The first of _TIME_COLUMNS that is there holds opening times: dates or ISO 8601 text, UTC
unless it has an offset, or numbers since 1970 in s, ms, µs or ns, told apart by their size. A row without any price is
a bar that is not there. Bars shorter than those asked for are joined, where all of a longer bar is there.

Whether its last bar had closed, a file does not say. Bars that have not closed by now are left out, and so is a last
bar during which the file was last written. Any other file is trusted: a download that kept an open bar and was copied
later can't be told from a whole one, so leave the open bar out when you save it.
"""

import difflib
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.errors import ConfigError, DataError, SourceError, UnknownSymbolError, first_line
from flashtrader.interval import DAY_MS, Interval, IntervalCode
from flashtrader.market.bars import COLUMNS, PRICES, Bars, resample, validate_bars
from flashtrader.market.sources import Page, Span
from flashtrader.market.tables import refuse_absurd

_SUFFIXES = (".parquet", ".csv")
# The last two are what pandas makes of an index without a name, in Parquet and in CSV.
_UNNAMED = ("__index_level_0__", "")
_TIME_COLUMNS = ("timestamp", "open_time", "time", "datetime", "date", *_UNNAMED)
_NAMES_SHOWN = 12
# Times since 1970 below a limit are in a unit of so many ms: today's lie well inside each range.
_UNITS_MS = ((1e11, 1e3), (1e14, 1.0), (1e17, 1e-3), (1e20, 1e-6))
_FIRST_TIME_S = 1e8
_INTERVALS = {Interval(code).milliseconds: Interval(code) for code in get_args(IntervalCode) if code != "M"}
_FILE_NAME = re.compile(rf"(?P<symbol>.+)-(?P<interval>{'|'.join(get_args(IntervalCode))})")


class FileSource:
    """One file, or a directory of files named SYMBOL-INTERVAL or SYMBOL with `.parquet` or `.csv`."""

    name = "file"
    local = True
    readjusts = False

    def __init__(self, path: Path, *, now_ms: int | None = None) -> None:
        if not path.exists():
            raise ConfigError(f"{path}: no such file or directory; give --path a file of bars or their directory")
        self._path = path
        self._now_ms = now_ms
        self._reading = threading.Lock()
        self._table = lru_cache(maxsize=1)(_read)
        self._bars = lru_cache(maxsize=4)(self._load)

    def history(self, symbol: str, interval: Interval) -> Span:
        """Return from the first bar in the file to the end of the last.

        Raises UnknownSymbolError for a market or interval that is not there, DataError for bars that can't be used
        and SourceError for a file that can't be read.
        """
        timestamps = self._closed_bars(symbol, interval)["timestamp"].to_numpy()
        return Span(int(timestamps[0]), int(interval.close(timestamps[-1:])[0]))

    def pages(self, symbol: str, interval: Interval, span: Span) -> Iterator[Page]:
        """Yield what the file has of `span` as one page."""
        bars = self._closed_bars(symbol, interval)
        answered = span & self.history(symbol, interval)
        first, end = np.searchsorted(bars["timestamp"].to_numpy(), [answered.start_ms, answered.end_ms])
        if answered:
            yield Page(bars.iloc[first:end].reset_index(drop=True), answered)

    def abandon(self) -> None:
        """Do nothing: no call takes long."""

    def _closed_bars(self, symbol: str, interval: Interval) -> Bars:
        with self._reading:
            return self._bars(symbol, interval)

    def _load(self, symbol: str, interval: Interval) -> Bars:
        path = _file_of(self._path, symbol, interval) if self._path.is_dir() else self._path
        bars = self._table(path).market(symbol)
        where = f"{path}: {symbol}"
        shorter = _interval_of(bars["timestamp"].to_numpy(), interval, where)
        if not shorter.divides(interval):
            raise UnknownSymbolError(
                f"{where} has bars of interval {shorter.code}, which can't make those of {interval.code}; "
                f"ask for --interval {shorter.code} or whole multiples of it"
            )
        bars = validate_bars(bars, shorter, where)
        bars = bars[self._closed(path, bars["timestamp"].to_numpy(), shorter)]
        if bars.empty:
            raise DataError(f"{where} has no bar that has closed; check its times")
        longer = bars if shorter == interval else resample(bars, shorter, interval)
        if longer.empty:
            raise DataError(
                f"{where} has no bar of interval {interval.code} of which all bars of {shorter.code} are there; "
                "ask for a shorter --interval, or save more bars"
            )
        return longer.reset_index(drop=True)

    def _closed(self, path: Path, timestamps: NDArray[np.int64], interval: Interval) -> NDArray[np.bool_]:
        now_ms = time.time_ns() // 1_000_000 if self._now_ms is None else self._now_ms
        written_ms = path.stat().st_mtime_ns // 1_000_000
        closing = interval.close(timestamps)
        closed = closing <= now_ms
        closed[-1] &= not timestamps[-1] <= written_ms < closing[-1]
        return closed


def read_market(path: Path, symbol: str, values: Sequence[str], times: Sequence[str] = ()) -> pd.DataFrame:
    """Return the times, as `timestamp` in ms, and one column of numbers of a market's rows, as they are in a file.

    values, times: the names, in lower case, that this column and that of the times may have; those of bars will do too.
    Raises UnknownSymbolError, SourceError and DataError as the files of bars do.
    """
    table = _read(path)
    rows = table.rows_of(symbol)
    time_column = table.first_of((*times, *_TIME_COLUMNS), "times")
    value_column = table.first_of(values, values[0] + "s")
    return pd.DataFrame({"timestamp": rows.times(time_column), value_column: rows.numbers(value_column)})


@dataclass(frozen=True)
class _Table:
    """A file's columns as they are, and what they mean."""

    path: Path
    columns: pa.Table

    @property
    def _names(self) -> dict[str, str]:
        return {name.lower(): name for name in reversed(self.columns.column_names)}

    def first_of(self, choices: Sequence[str], what: str) -> str:
        """Return the first of some columns that is there. Raises DataError, which calls it `what`."""
        found = next((self._names[name] for name in choices if name in self._names), None)
        if found is None:
            known = ", ".join(name for name in choices if name not in _UNNAMED)
            raise DataError(f"{self.path}: no column of {what}; name it one of {known}; found {self._found}")
        return found

    def rows_of(self, symbol: str) -> "_Rows":
        """Return the rows of one market, by the column `symbol` or the name of the file. Raises UnknownSymbolError."""
        if "symbol" in self._names:
            return self._rows_of(symbol, self._names["symbol"])
        self._check_file_name(symbol)
        return _Rows(self.columns, f"{self.path}: {symbol}")

    def market(self, symbol: str) -> Bars:
        """Return the rows of one market that have a price, not validated. Raises UnknownSymbolError, DataError."""
        names = self._names
        time_column = self.first_of(_TIME_COLUMNS, "times")
        rows = _Rows(self.columns, f"{self.path}: {symbol}")
        if "symbol" in names:
            rows = self._rows_of(symbol, names["symbol"])
            values = self._bar_values(rows, names)
        elif names.keys() & set(PRICES):
            self._check_file_name(symbol)
            values = self._bar_values(rows, names)
        else:
            self._check_listed(symbol, [name for name in self.columns.column_names if name != time_column])
            values = dict.fromkeys(PRICES, rows.numbers(symbol)) | {"volume": np.zeros(self.columns.num_rows)}
        bars = pd.DataFrame({"timestamp": rows.times(time_column)} | values)
        bars = bars.dropna(subset=list(PRICES), how="all").reset_index(drop=True)
        if bars.empty:
            raise DataError(f"{self.path}: no row of {symbol} has a price; save it again")
        return bars

    @property
    def _found(self) -> str:
        names = self.columns.column_names
        return ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")

    def _rows_of(self, symbol: str, symbol_column: str) -> "_Rows":
        symbols = self.columns.column(symbol_column).cast(pa.string())
        self._check_listed(symbol, [name for name in pc.unique(symbols).to_pylist() if name])
        return _Rows(self.columns.filter(pc.equal(symbols, symbol)), f"{self.path}: {symbol}")

    def _check_listed(self, symbol: str, markets: list[str]) -> None:
        if symbol not in markets:
            raise _unknown_symbol(self.path, symbol, markets)

    def _check_file_name(self, symbol: str) -> None:
        """Refuse to take a file of one market for another: only its name says which it is."""
        named = _FILE_NAME.fullmatch(self.path.stem)
        if named and named["symbol"] != symbol:
            raise _unknown_symbol(self.path, symbol, [named["symbol"]])
        if not re.search(rf"(?<![A-Za-z0-9]){re.escape(symbol)}(?![A-Za-z0-9])", self.path.stem, re.IGNORECASE):
            raise UnknownSymbolError(
                f"{self.path}: holds one market, and its name does not say {symbol}; "
                f"rename it {symbol}{self.path.suffix} if it is that, or ask for the symbol in its name"
            )

    def _bar_values(self, rows: "_Rows", names: dict[str, str]) -> dict[str, Floats]:
        missing = [name for name in COLUMNS[1:] if name not in names]
        if missing:
            needed = f"bars need {', '.join(COLUMNS)}"
            raise DataError(f"{self.path}: no column {', '.join(missing)}; {needed}; found {self._found}")
        wanted = [*COLUMNS[1:], *(["turnover"] if "turnover" in names else [])]
        return {name: rows.numbers(names[name]) for name in wanted}


@dataclass(frozen=True)
class _Rows:
    """Rows of one market; `where` begins every message about them."""

    columns: pa.Table
    where: str

    def numbers(self, name: str) -> Floats:
        """Return a column as float64, NaN where it is empty."""
        column = self.columns.column(name)
        if _is_text(column.type):
            text = column.cast(pa.string()).to_pandas().str.strip()
            numbers = pd.to_numeric(text, errors="coerce").astype(np.float64)
            self._refuse((numbers.isna() & text.notna() & (text != "")).to_numpy(), name, "a number")
            return np.asarray(numbers, dtype=np.float64)
        if not (_is_number(column.type) or pa.types.is_null(column.type)):
            raise DataError(f"{self.where}: column {name} holds {column.type}, not numbers; save it as numbers")
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)

    def times(self, name: str) -> NDArray[np.int64]:
        """Return a column of times as ms since 1970, UTC."""
        column = self.columns.column(name)
        if not (_is_text(column.type) or pa.types.is_temporal(column.type)):
            return self._counted_times(name)
        if _is_text(column.type):
            text = column.cast(pa.string()).to_pandas()
            column = pa.chunked_array([pd.to_datetime(text, utc=True, format="ISO8601", errors="coerce")])
        if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
            raise DataError(
                f"{self.where}: column {name} holds {column.type}, which has no date; "
                "save it with dates, or as ISO 8601 text such as 2024-01-31T12:00Z"
            )
        self._refuse(column.is_null().to_numpy(), name, "a time")
        zone = column.type.tz if pa.types.is_timestamp(column.type) else None
        times = column.cast(pa.timestamp("ms", tz=zone), safe=False).cast(pa.int64())
        return np.asarray(times.to_numpy(), dtype=np.int64)

    def _counted_times(self, name: str) -> NDArray[np.int64]:
        counts = self.numbers(name)
        self._refuse(~np.isfinite(counts), name, "a time")
        largest = np.abs(counts).max()
        unit_ms = next((unit for limit, unit in _UNITS_MS if largest < limit), None)
        if unit_ms is None or largest < _FIRST_TIME_S:
            raise DataError(
                f"{self.where}: column {name} holds {largest:.17g}, which is no time; "
                "give s, ms, µs or ns since 1970, or ISO 8601 text such as 2024-01-31T12:00Z"
            )
        return np.rint(counts * unit_ms).astype(np.int64)

    def _refuse(self, bad: NDArray[np.bool_], name: str, wanted: str) -> None:
        if bad.any():
            row = int(bad.argmax())
            value = self.columns.column(name)[row].as_py()
            raise DataError(
                f"{self.where}: row {row + 1}: column {name} holds {str(value)!r}, not {wanted}; "
                "correct or remove this row"
            )


def _read(path: Path) -> _Table:
    """Return a CSV or Parquet file. Raises SourceError when it can't be read, DataError when it holds nothing."""
    if path.suffix.lower() not in _SUFFIXES or not path.is_file():
        raise SourceError(f"{path}: not a file that ends in {' or '.join(_SUFFIXES)}; save the bars as one")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: empty file; save it again")
    try:
        refuse_absurd(path)
        if path.suffix.lower() == ".parquet":
            columns = pq.read_table(path, partitioning=None)
        else:
            columns = pyarrow.csv.read_csv(path)
        names = columns.column_names
    except (pa.ArrowException, OSError, ValueError) as error:
        kind = "Parquet" if path.suffix.lower() == ".parquet" else "CSV"
        reason = first_line(error)
        raise SourceError(f"{path}: can't be read as {kind} ({reason}); save it again") from None
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise DataError(f"{path}: column {repeated} is there twice; keep one")
    if columns.num_rows == 0:
        raise DataError(f"{path}: no rows below the header; save it again")
    return _Table(path, columns)


def _file_of(directory: Path, symbol: str, interval: Interval) -> Path:
    """Return the file whose name has the symbol and the longest interval that makes the one asked for."""
    files: dict[str, dict[Interval | None, Path]] = {}
    for path in sorted(path for path in directory.iterdir() if path.suffix.lower() in _SUFFIXES):
        named = _FILE_NAME.fullmatch(path.stem)
        name, own = (named["symbol"], Interval.parse(named["interval"])) if named else (path.stem, None)
        twin = files.setdefault(name, {}).setdefault(own, path)
        if twin != path and name == symbol:
            raise ConfigError(
                f"{directory}: {twin.name} and {path.name} hold the same; keep one or give --path the file"
            )
    if symbol not in files:
        raise _unknown_symbol(directory, symbol, list(files))
    of_symbol = files[symbol]
    named_intervals = sorted((own for own in of_symbol if own), key=lambda own: own.milliseconds)
    fitting = [own for own in named_intervals if own.divides(interval)]
    if fitting:
        return of_symbol[fitting[-1]]
    return of_symbol[None] if None in of_symbol else of_symbol[named_intervals[0]]


def _interval_of(timestamps: NDArray[np.int64], asked: Interval, where: str) -> Interval:
    """Return the interval whose length is the most common step between bars; of a single bar, the one asked for."""
    steps = np.diff(timestamps)
    lengths, counts = np.unique(steps[steps > 0], return_counts=True)
    if not len(lengths):
        return asked
    length_ms = int(lengths[counts.argmax()])
    if 28 * DAY_MS <= length_ms <= 31 * DAY_MS:
        return Interval("M")
    if length_ms not in _INTERVALS:
        known = ", ".join(get_args(IntervalCode))
        raise DataError(
            f"{where} has bars {length_ms / 60_000:g} minutes apart, which is no interval; save bars of one of {known}"
        )
    return _INTERVALS[length_ms]


def _unknown_symbol(path: Path, symbol: str, markets: Iterable[str]) -> UnknownSymbolError:
    by_lower = {market.lower(): market for market in markets}
    nearest = [by_lower[name] for name in difflib.get_close_matches(symbol.lower(), by_lower, n=3, cutoff=0.0)]
    known = f"; the nearest of {len(by_lower)} there: {', '.join(nearest)}" if nearest else "; it holds none"
    return UnknownSymbolError(f"{path}: no market {symbol}{known}")


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
