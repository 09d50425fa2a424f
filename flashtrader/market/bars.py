"""The bar table: its columns, what makes it valid, longer bars from shorter ones.

`timestamp` is a bar's opening time, UTC ms since the epoch, int64. Prices and volume are float64. `turnover`, the
traded value in the quote currency, is there only where the source gave it, and NaN in rows where it did not.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.errors import ConfigError, DataError
from flashtrader.interval import Interval
from flashtrader.market.columns import CORRECT, typed_columns
from flashtrader.market.spans import iso_time

Bars = pd.DataFrame

PRICES = ("open", "high", "low", "close")
COLUMNS = ("timestamp", *PRICES, "volume")


def no_bars() -> Bars:
    """Return a table of bars without a row."""
    return pd.DataFrame({name: np.empty(0, np.int64 if name == "timestamp" else np.float64) for name in COLUMNS})


def validate_bars(bars: Bars, interval: Interval, where: str, advice: str = CORRECT) -> Bars:
    """Return the bar columns of `bars`, in order and in their types, with a fresh index; other columns are left out.

    `where` begins every message, and `advice` ends it. Raises DataError with the first offending bar's opening
    time for a missing or non-numeric column, a bar out of order, twice there or off the interval's grid, a price that
    is not finite and above zero, an open or close outside [low, high], and a volume or turnover that is negative or
    not finite (a NaN turnover is unknown).
    """
    table = _typed(bars, where)
    timestamps = table["timestamp"].to_numpy()

    def refuse(bad: NDArray[np.bool_], problem: str, *columns: str) -> None:
        if bad.any():
            row = int(bad.argmax())
            values = ", ".join(f"{column} {table[column].iloc[row]:g}" for column in columns)
            at = iso_time(int(timestamps[row]))
            raise DataError(f"{where}: bar {at} {problem}{f' ({values})' if values else ''}; {advice}")

    steps = np.diff(timestamps, prepend=timestamps[:1] - 1)
    refuse(steps == 0, "is there twice")
    refuse(steps < 0, "is out of order: opening times must increase")
    refuse(interval.opening(interval.index(timestamps)) != timestamps, f"does not open on the {interval.code} grid")
    values = {name: table[name].to_numpy() for name in table.columns[1:]}
    for name in PRICES:
        refuse(~(np.isfinite(values[name]) & (values[name] > 0)), f"has no usable {name}: prices are above zero", name)
    low, high = values["low"], values["high"]
    refuse(high < low, "has high below low", "high", "low")
    for name in ("open", "close"):
        refuse((values[name] < low) | (values[name] > high), f"has {name} outside [low, high]", name, "low", "high")
    refuse(~(np.isfinite(values["volume"]) & (values["volume"] >= 0)), "has no usable volume: zero or more", "volume")
    if "turnover" in values:
        refuse((values["turnover"] < 0) | np.isinf(values["turnover"]), "has a turnover below zero", "turnover")
    return table


def _typed(bars: Bars, where: str) -> Bars:
    missing = [name for name in COLUMNS if name not in bars.columns]
    if missing:
        found = ", ".join(map(str, bars.columns))
        raise DataError(f"{where}: no column {', '.join(missing)}; bars need {', '.join(COLUMNS)}, found {found}")
    turnover = ["turnover"] if "turnover" in bars.columns else []
    return pd.DataFrame(typed_columns(bars, [*COLUMNS[1:], *turnover], where))


def resample(bars: Bars, interval: Interval, to: Interval, max_gap_bars: int = 0) -> Bars:
    """Return `bars` of `interval` as longer bars.

    A longer bar is there only when no more than `max_gap_bars` shorter ones in a row are missing in it, by default
    none: one made of fewer would pass for a quieter market. Whether it is there is known at its close.
    Raises ConfigError when bars of `to` don't consist of whole bars of `interval`.
    """
    if not interval.divides(to):
        raise ConfigError(
            f"bars of interval {to.code} don't consist of whole bars of interval {interval.code}; "
            "choose a whole multiple of it"
        )
    if bars.empty:
        return bars.copy()
    timestamps = bars["timestamp"].to_numpy()
    opening = to.opening(to.index(timestamps))
    first = np.flatnonzero(np.diff(opening, prepend=opening[:1] - 1))
    last = np.append(first[1:], len(bars)) - 1
    column = {name: bars[name].to_numpy() for name in bars.columns}
    longer = {
        "timestamp": opening[first],
        "open": column["open"][first],
        "high": np.maximum.reduceat(column["high"], first),
        "low": np.minimum.reduceat(column["low"], first),
        "close": column["close"][last],
    } | {name: np.add.reduceat(column[name], first) for name in ("volume", "turnover") if name in column}
    numbers = interval.index(timestamps)
    missing_before = np.diff(numbers, prepend=numbers[:1]) - 1
    missing_before[first] = numbers[first] - interval.index(opening[first])
    missing_after = interval.index(to.close(opening[first])) - 1 - numbers[last]
    complete = np.maximum(np.maximum.reduceat(missing_before, first), missing_after) <= max_gap_bars
    return pd.DataFrame({name: values[complete] for name, values in longer.items()})


def digests_between(bars: Mapping[str, Bars], first_ms: int, last_ms: int) -> dict[str, str]:
    """Return the sha256 of every symbol's bars that open from `first_ms` to `last_ms`, both included."""
    within = {symbol: table[table["timestamp"].between(first_ms, last_ms)] for symbol, table in bars.items()}
    return {symbol: fingerprint(table)["sha256"] for symbol, table in within.items()}


def fingerprint(bars: Bars) -> dict[str, Any]:
    """Return what identifies the bars: `rows`, `first` and `last` opening time (ISO), `sha256` of names and values."""
    digest = hashlib.sha256()
    for name in bars.columns:
        values = bars[name].to_numpy()
        digest.update(f"{name}:".encode())
        digest.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
    timestamps = bars["timestamp"]
    return {
        "rows": len(bars),
        "first": iso_time(int(timestamps.iloc[0])) if len(bars) else None,
        "last": iso_time(int(timestamps.iloc[-1])) if len(bars) else None,
        "sha256": digest.hexdigest(),
    }
