"""Order books from files: the book table, LOBSTER, FI-2010.

- Book table: Parquet or CSV with the columns of `market/books.py`. Its name must hold the symbol.
- LOBSTER (https://lobsterdata.com/info/DataStructure.php): `TICKER_DATE_START_END_orderbook_LEVELS.csv`, without a
  header, ask price, ask size, bid price, bid size of each level; prices in dollars × 10,000; a price of ±9,999,999,999
  where there is no level. Beside it the same name with `message`, whose first two columns are the time of each row, in
  seconds after midnight in New York, and the kind of event; 7 is a trading halt.
- FI-2010 (Ntakaris et al. 2018, doi:10.1002/for.2543): text without a header, a column for each event; the first 40
  rows are ask price, ask size, bid price, bid size of ten levels. Only the decimal-precision variant (DecPre) keeps
  prices in order: z-score and min-max scale each row by itself. It says neither when an event happened nor which stock
  or day it belongs to: events are numbered, as ms since 1970, and where the mid-price jumps by more than 1 % another
  stock or day is taken to begin. Joints with smaller jumps can't be seen.
"""

import re
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.errors import ConfigError, DataError, SourceError, UnknownSymbolError, first_line
from flashtrader.market.book_ledger import Break, Reason
from flashtrader.market.books import Books, book_table, validate_books
from flashtrader.market.tables import refuse_absurd

_LOBSTER_NAME = re.compile(r"(?P<symbol>.+)_(?P<date>\d{4}-\d\d-\d\d)_\d+_\d+_orderbook_(?P<levels>\d+)\.csv")
_LOBSTER_ZONE = "America/New_York"
_LOBSTER_PRICE_UNIT = 10_000
_DAY_S = 86_400
_LOBSTER_NO_LEVEL = 9_999_999_999
_LOBSTER_HALT = 7
_FI2010_LEVELS = 10
_FI2010_JUMP = 0.01
# More of the events than this with prices out of order are no accident.
_FI2010_DISORDER = 0.01


class BookFile(NamedTuple):
    """Validated snapshots of one file."""

    books: Books
    breaks: dict[int, Break]
    """By the time of a row after a gap, why the book before it is not known."""


def read_book_file(path: Path, symbol: str) -> BookFile:
    """Return the snapshots of a file.

    Rows without a bid or an ask are left out, as are trading halts, and the next row is marked. Raises ConfigError for
    a path that is no file, UnknownSymbolError for a file of another market, SourceError for one that can't be read and
    DataError for one whose books can't be used.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give --path one file of order books")
    if path.suffix.lower() == ".txt":
        return _fi2010(path)
    lobster = _LOBSTER_NAME.fullmatch(path.name)
    if lobster:
        _check_symbol(path, symbol, lobster["symbol"])
        return _lobster(path, lobster["date"], int(lobster["levels"]))
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise SourceError(f"{path}: not a file of order books: .parquet or .csv with their columns, LOBSTER, FI-2010")
    _check_symbol(path, symbol, path.stem)
    table = pq.read_table if path.suffix.lower() == ".parquet" else pyarrow.csv.read_csv
    try:
        refuse_absurd(path)
        columns = table(path).to_pandas()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SourceError(f"{path}: can't be read ({first_line(error)}); save it again") from None
    return BookFile(validate_books(_some(columns, path), str(path)), {})


def _lobster(path: Path, date: str, levels: int) -> BookFile:
    message_path = path.with_name(path.name.replace("_orderbook_", "_message_"))
    if not message_path.is_file():
        raise SourceError(f"{message_path}: no such file; LOBSTER's order books have their times in it")
    cells, messages = _numbers(path), _numbers(message_path)
    if cells.shape[1] != 4 * levels or len(cells) != len(messages) or messages.shape[1] < 2:
        raise DataError(
            f"{path}: {cells.shape[0]:,} rows of {cells.shape[1]} columns beside {len(messages):,} messages; "
            f"{4 * levels} columns and a message for each row are expected"
        )
    try:
        midnight_ms = round(pd.Timestamp(date, tz=_LOBSTER_ZONE).timestamp() * 1000)
    except ValueError:
        raise SourceError(f"{path}: {date} in its name is no date; name it as LOBSTER does") from None
    seconds = messages[:, 0]
    no_time = ~((seconds >= 0) & (seconds < _DAY_S))
    if no_time.any():
        row = int(no_time.argmax())
        raise DataError(
            f"{message_path}: row {row + 1}: {seconds[row]:g} is no time in seconds after midnight; save it again"
        )
    timestamps = midnight_ms + np.rint(seconds * 1e9).astype(np.int64) // 1_000_000
    values = cells.reshape(-1, levels, 4)
    _without_levels(values, np.abs(values[:, :, ::2]) == _LOBSTER_NO_LEVEL)
    values[:, :, ::2] /= _LOBSTER_PRICE_UNIT
    return _book_file(path, timestamps, values, {"halted": messages[:, 1] == _LOBSTER_HALT})


def _fi2010(path: Path) -> BookFile:
    rows = 4 * _FI2010_LEVELS
    try:
        refuse_absurd(path)
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a file without numbers
            cells = np.loadtxt(path, dtype=np.float64, max_rows=rows, ndmin=2)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: can't be read as FI-2010 ({error}); it is numbers, divided by spaces") from None
    if len(cells) != rows or not np.isfinite(cells).all():
        raise DataError(
            f"{path}: {len(cells)} rows of numbers; FI-2010 has {rows} of prices and sizes at least, all of them finite"
        )
    values = np.ascontiguousarray(cells.T).reshape(-1, _FI2010_LEVELS, 4)
    _without_levels(values, (values[:, :, ::2] == 0) & (values[:, :, 1::2] == 0))
    inwards = (np.diff(values[:, :, 0], axis=1) <= 0) | (np.diff(values[:, :, 2], axis=1) >= 0)
    if (values[:, :, ::2] < 0).any() or inwards.any(axis=1).mean() > _FI2010_DISORDER:
        raise DataError(
            f"{path}: prices are not in order, as after z-score or min-max scaling; give the DecPre file of FI-2010"
        )
    mid = (values[:, 0, 0] + values[:, 0, 2]) / 2
    jumps = np.abs(np.diff(mid, prepend=mid[:1])) > _FI2010_JUMP * mid
    return _book_file(path, np.arange(len(values)), values, {}, {"joined": jumps})


def _without_levels(values: Floats, absent: NDArray[np.bool_]) -> None:
    """Write NaN prices and zero sizes for the levels that aren't there. absent: (N, L, 2), ask and bid."""
    values[:, :, ::2][absent] = np.nan
    values[:, :, 1::2][absent] = 0.0


def _book_file(
    path: Path,
    timestamps: NDArray[np.int64],
    values: Floats,
    not_books: dict[Reason, NDArray[np.bool_]],
    begins: dict[Reason, NDArray[np.bool_]] | None = None,
) -> BookFile:
    """Return rows as a table. not_books: (N,) rows to leave out, by reason. begins: (N,) rows after a gap."""
    best_NS = values[:, 0, ::2]
    left_out: dict[Reason, NDArray[np.bool_]] = {**not_books, "one_sided": np.isnan(best_NS.min(axis=1))}
    keep = ~np.logical_or.reduce(list(left_out.values()))
    kept = np.flatnonzero(keep)
    gap_before = np.arange(len(values)) == 0
    breaks: dict[int, Break] = {}
    for reason, rows in {**left_out, **(begins or {})}.items():
        # A row that is left out breaks the book before the next one that is kept.
        places = np.searchsorted(kept, np.flatnonzero(rows))
        after = kept[places[places < len(kept)]]
        gap_before[after] = True
        breaks |= {int(timestamps[row]): Break(reason, f"{path.name}, before row {row + 1}") for row in after}
    books = book_table(timestamps[keep], values[keep], gap_before[keep])
    return BookFile(validate_books(_some(books, path), str(path)), breaks)


def _some(books: Books, path: Path) -> Books:
    if books.empty:
        raise DataError(f"{path}: holds no order book with a bid and an ask; save it again")
    return books


def _numbers(path: Path) -> Floats:
    """Return a CSV file without a header as (rows, columns)."""
    try:
        refuse_absurd(path)
        table = pd.read_csv(path, header=None, dtype=np.float64)
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise SourceError(f"{path}: can't be read as LOBSTER's CSV ({reason}); save it again") from None
    return table.to_numpy(np.float64, copy=True)


def _check_symbol(path: Path, symbol: str, named: str) -> None:
    if not re.search(rf"(?<![A-Za-z0-9]){re.escape(symbol)}(?![A-Za-z0-9])", named, re.IGNORECASE):
        raise UnknownSymbolError(
            f"{path}: its name does not say {symbol}; rename it if it is that, or ask for the symbol in its name"
        )
