"""Anyone's forecasts or target weights: a table of a row per decision bar and a column per symbol, checked."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from warnings import catch_warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.errors import ConfigError, DataError, FlashtraderError, first_line
from flashtrader.interval import MINUTE_MS, Interval
from flashtrader.market.spans import iso_time
from flashtrader.market.tables import refuse_absurd


def read_signals(path: Path, clock_T: NDArray[np.int64], symbols: Sequence[str], interval: Interval) -> pd.DataFrame:
    """Return the forecasts or weights of a CSV or Parquet file, as `check_signals` does.

    The file has the decision bars' opening times as index or column `time` (UTC; ISO 8601 or milliseconds) and a
    column per symbol. Raises ConfigError for a file that can't be read as a table, DataError also for one that says
    that its bars are of another interval.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give a CSV or Parquet file of forecasts or weights")
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise ConfigError(f"{path}: forecasts and weights are read from .csv or .parquet files")
    signals = read_frame(path)
    made_for = signals.attrs.get("interval", interval.code)
    if made_for != interval.code:
        raise DataError(
            f"{path}: made for bars of interval {made_for}, and the data's is {interval.code}; set data.interval to "
            f"{made_for}"
        )
    return check_signals(signals, clock_T, symbols, interval, str(path))


def read_frame(path: Path) -> pd.DataFrame:
    """Return a CSV or Parquet file as pandas reads it. Raises DataError or SourceError when it is no table."""
    try:
        refuse_absurd(path)
        return _read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path)
    except FlashtraderError:
        raise
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: empty; expected a column `time` and a column per symbol") from None
    except Exception as error:  # pandas raises whatever the metadata lead it to
        raise DataError(f"{path}: damaged, not readable as a table ({first_line(error)}); make it again") from None


def _read_csv(path: Path) -> pd.DataFrame:
    """Return what pandas reads, but for what it would guess at: names that are there twice, cells without a name."""
    names = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0]
    if names.dropna().duplicated().any():
        raise DataError(f"{path}: column {names[names.duplicated()].iloc[0]}: there more than once; keep one")
    with catch_warnings(action="error", category=pd.errors.ParserWarning):
        try:
            return pd.read_csv(path, index_col=False)
        except pd.errors.ParserWarning:
            raise DataError(
                f"{path}: rows of more cells than the header's {len(names)}; name each column, `time` or a symbol"
            ) from None


def check_signals(
    signals: pd.DataFrame, clock_T: NDArray[np.int64], symbols: Sequence[str], interval: Interval, where: str
) -> pd.DataFrame:
    """Return forecasts or weights with index `time` (UTC) and float64 columns in the order of `symbols`.

    signals: `time` as index or column; times without a zone are UTC, whole numbers are milliseconds. NaN is no
        forecast, no order. Not every bar needs a row, not every symbol a column.
    clock_T: opening times of the bars of the data, sorted. symbols: what the data holds.
    Raises DataError that begins with `where` and names the first time, column or cell that can't be used.
    """
    if "time" in signals.columns:
        signals = signals.set_index("time")
    elif signals.index.name != "time" and not isinstance(signals.index, pd.DatetimeIndex):
        raise DataError(
            f"{where}: no column `time`, found {_listed(signals.columns)}; it holds the bars' opening times"
        )
    _check_columns(signals.columns, symbols, where)
    if signals.empty:
        raise DataError(f"{where}: empty; expected a row per decision bar and a column per symbol")
    times_T = _milliseconds(signals.index, where)
    _check_times(times_T, clock_T, interval, where)

    index = pd.to_datetime(times_T, unit="ms", utc=True).as_unit("ms").rename("time")
    columns = {
        symbol: _numbers(signals[symbol], times_T, where) for symbol in symbols if symbol in set(signals.columns)
    }
    checked = pd.DataFrame(columns, index=index)
    checked.attrs = signals.attrs
    if checked.isna().to_numpy().all():
        raise DataError(f"{where}: no number in any column; every cell is empty")
    return checked


def _check_columns(columns: pd.Index, symbols: Sequence[str], where: str) -> None:
    for column in columns:
        if column not in symbols:
            nearest = difflib.get_close_matches(str(column), symbols, n=1, cutoff=0.0)[0]
            raise DataError(
                f"{where}: column {column}: not a symbol of the data ({_listed(symbols)}); the nearest is {nearest}"
            )
    if not columns.is_unique:
        raise DataError(f"{where}: column {columns[columns.duplicated()][0]}: there more than once; keep one")


def _milliseconds(index: pd.Index, where: str) -> NDArray[np.int64]:
    """Return times as UTC milliseconds."""
    if index.hasnans:
        raise DataError(
            f"{where}: row {int(np.argmax(index.isna())) + 1}: no time; give each row its bar's opening time"
        )
    if pd.api.types.is_integer_dtype(index.dtype):
        return index.to_numpy(np.int64)
    expected = "expected ISO 8601 times or whole milliseconds"
    if pd.api.types.is_numeric_dtype(index.dtype):
        raise DataError(f"{where}: column time: {expected}, found {index.dtype}")
    known_form = None if isinstance(index, pd.DatetimeIndex) else "ISO8601"
    times = pd.to_datetime(index, utc=True, format=known_form, errors="coerce")
    if times.hasnans:
        row = int(np.argmax(times.isna()))
        raise DataError(f"{where}: row {row + 1}: column time: {expected}, found {index[row]!r}")
    return times.as_unit("ms").asi8


def _check_times(times_T: NDArray[np.int64], clock_T: NDArray[np.int64], interval: Interval, where: str) -> None:
    steps = np.diff(times_T)
    if (steps <= 0).any():
        row = int(np.argmax(steps <= 0)) + 1
        time, earlier = (iso_time(times_T.item(at)) for at in (row, row - 1))
        if steps[row - 1] == 0:
            raise DataError(f"{where}: time {time} is there more than once; keep one row")
        raise DataError(f"{where}: time {time} comes after {earlier}; sort the rows, one a bar")
    unknown_T = ~np.isin(times_T, clock_T)
    if unknown_T.any():
        first = iso_time(times_T[unknown_T].item(0))
        hint = _mismatch(times_T, unknown_T, clock_T, interval)
        raise DataError(f"{where}: time {first} is not the opening time of a bar of the data: {hint}")


def _mismatch(
    times_T: NDArray[np.int64], unknown_T: NDArray[np.bool_], clock_T: NDArray[np.int64], interval: Interval
) -> str:
    """Say what times that are not bars look like."""
    unknown = times_T[unknown_T]
    if np.isin(times_T * 1_000, clock_T).all():
        return "these look like seconds; write milliseconds"
    # Closing times are written as the next bar's opening, or the last second or millisecond before it.
    opened_T = interval.opening(interval.index(times_T - 1))
    lead_T = interval.close(opened_T) - times_T
    on_the_clock = np.isin(opened_T, clock_T).all() and np.isin(lead_T, (0, 1, 1_000)).all()
    if on_the_clock and (lead_T.all() or (unknown > clock_T[-1]).all()):
        return "these look like closing times; label a row with its bar's opening time"
    on_grid_T = interval.opening(interval.index(unknown)) == unknown
    if not on_grid_T.all():
        spacing_ms = int(np.diff(times_T).min()) if len(times_T) > 1 else 0
        if spacing_ms % interval.milliseconds:
            return f"rows are {spacing_ms / MINUTE_MS:g} minutes apart, the data's interval is {interval.code}"
        return f"it is not on the grid of interval {interval.code}"
    if clock_T[0] <= unknown[0] <= clock_T[-1]:
        return "the data has no bar there; leave the row out"
    first, last = iso_time(clock_T.item(0)), iso_time(clock_T.item(-1))
    return f"the data runs from {first} to {last}; cut the file, or widen data.start and data.end"


def _numbers(column: pd.Series, times_T: NDArray[np.int64], where: str) -> Floats:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong_T = np.isinf(numbers) | (np.isnan(numbers) & column.notna().to_numpy())
    if wrong_T.any():
        row = int(np.argmax(wrong_T))
        cell = f"column {column.name}, time {iso_time(times_T.item(row))}"
        raise DataError(f"{where}: {cell}: {column.iloc[row]} is not a finite number; leave a cell empty for none")
    return numbers


def _listed(names: Sequence[str] | pd.Index) -> str:
    return ", ".join(map(str, names[:8])) + (", …" if len(names) > 8 else "")
