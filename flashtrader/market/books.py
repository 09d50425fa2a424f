"""The order-book table: one snapshot a row, its columns, what makes it valid.

`timestamp` is when the snapshot was true at the exchange, UTC ms since the epoch, int64; of several events in one
millisecond the last is kept. For each level from 1, the best, follow `ask_price_i`, `ask_size_i`, `bid_price_i` and
`bid_size_i`, float64. A side with fewer levels has NaN prices and sizes of zero at its end; the best bid and ask are
always there. `gap_before` is true where nobody vouches for what the book did since the row before: rows from one such
row to the next are an unbroken run.
"""

import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.errors import DataError
from flashtrader.market.columns import CORRECT, typed_columns
from flashtrader.market.spans import iso_time

Books = pd.DataFrame

_PER_LEVEL = ("ask_price", "ask_size", "bid_price", "bid_size")


def book_columns(levels: int) -> list[str]:
    """Return the names of prices and sizes, level by level: ask price, ask size, bid price, bid size."""
    return [f"{name}_{level}" for level in range(1, levels + 1) for name in _PER_LEVEL]


def num_levels(books: Books) -> int:
    """Return how many levels of each side a table has columns for."""
    numbers = [re.fullmatch(r"(?:ask|bid)_(?:price|size)_([0-9]{1,4})", str(name)) for name in books.columns]
    return max((int(number[1]) for number in numbers if number), default=0)


def book_values(books: Books) -> Floats:
    """Return (N, L, 4): ask price, ask size, bid price and bid size of every level."""
    levels = num_levels(books)
    return books[book_columns(levels)].to_numpy(np.float64).reshape(len(books), levels, len(_PER_LEVEL))


def book_table(timestamps: NDArray[np.int64], values: Floats, gap_before: NDArray[np.bool_] | None = None) -> Books:
    """Return snapshots as a table; of rows with one timestamp the last, after a gap if any of them is.

    timestamps: (N,) ms. values: (N, L, 4) as `book_values` returns them. gap_before: (N,); None is one unbroken run.
    """
    rows, levels, _ = values.shape
    gaps = np.arange(rows) == 0 if gap_before is None else gap_before
    first = np.flatnonzero(np.diff(timestamps, prepend=timestamps[:1] - 1))
    last = np.append(first[1:], rows) - 1 if rows else first
    columns: dict[str, NDArray[Any]] = {"timestamp": timestamps[last].astype(np.int64)}
    columns |= zip(book_columns(levels), values.reshape(rows, levels * len(_PER_LEVEL))[last].T, strict=True)
    columns["gap_before"] = np.logical_or.reduceat(gaps, first) if rows else gaps
    return pd.DataFrame(columns)


def best_levels(books: Books, levels: int) -> Books:
    """Return the table with only the best levels of each side."""
    return books[["timestamp", *book_columns(levels), "gap_before"]]


def validate_books(books: Books, where: str, advice: str = CORRECT) -> Books:
    """Return the columns of a book table, in order and in their types, with a fresh index; others are left out.

    A table without `gap_before` is one run. `where` begins every message, and `advice` ends it. Raises DataError with
    the first offending snapshot's time and column for a missing or non-numeric column, a row out of order or twice
    there, a price or size that is not above zero, a level missing before one that is there, no best bid or ask, prices
    that don't move away from the best level by level, and a best bid not below the best ask.
    """
    table = _typed(books, where)
    timestamps, values = table["timestamp"].to_numpy(), book_values(table)

    def refuse(bad_NL: NDArray[np.bool_], column: str, problem: str) -> None:
        if bad_NL.any():
            row = int(bad_NL.any(axis=1).argmax())
            name = f"{column}_{int(bad_NL[row].argmax()) + 1}"
            at = iso_time(int(timestamps[row]), "ms")
            raise DataError(f"{where}: snapshot {at}: {name} {table[name].iloc[row]:g} {problem}; {advice}")

    steps = np.diff(timestamps, prepend=timestamps[:1] - 1)
    if (steps <= 0).any():
        row = int((steps <= 0).argmax())
        problem = "is there twice" if steps[row] == 0 else "is out of order: times must increase"
        raise DataError(f"{where}: snapshot {iso_time(int(timestamps[row]), 'ms')} {problem}; {advice}")
    for side, price_NL, size_NL, outwards in (
        ("ask", values[:, :, 0], values[:, :, 1], 1),
        ("bid", values[:, :, 2], values[:, :, 3], -1),
    ):
        absent = np.isnan(price_NL)
        refuse(absent[:, :1], f"{side}_price", f"says that there is no {side} at all")
        refuse(~absent & ~(np.isfinite(price_NL) & (price_NL > 0)), f"{side}_price", "is no price: it is above zero")
        refuse(~absent & ~(np.isfinite(size_NL) & (size_NL > 0)), f"{side}_size", "is no size: it is above zero")
        refuse(absent & (size_NL != 0), f"{side}_size", "is the size of a level without a price; write 0")
        refuse(absent[:, :-1] & ~absent[:, 1:], f"{side}_price", "is missing, but a worse level is there")
        inwards = ~((np.diff(price_NL, axis=1) * outwards > 0) | absent[:, 1:])
        refuse(
            np.pad(inwards, ((0, 0), (1, 0))),
            f"{side}_price",
            f"is not {'above' if outwards == 1 else 'below'} the level before it",
        )
    refuse((values[:, :1, 2] >= values[:, :1, 0]), "bid_price", "is not below the best ask: the book is crossed")
    return table


def _typed(books: Books, where: str) -> Books:
    names = ["timestamp", *book_columns(max(1, num_levels(books)))]
    missing = [name for name in names if name not in books.columns]
    if missing:
        raise DataError(
            f"{where}: no column {', '.join(missing[:4])}; a book has timestamp and, for each level i from 1, "
            f"{', '.join(f'{name}_i' for name in _PER_LEVEL)}"
        )
    columns = typed_columns(books, names[1:], where)
    if "gap_before" not in books.columns:
        columns["gap_before"] = np.arange(len(books)) == 0
    elif books["gap_before"].dtype != np.bool_:
        raise DataError(f"{where}: column gap_before holds {books['gap_before'].dtype}, not true and false")
    else:
        columns["gap_before"] = books["gap_before"].to_numpy()
    return pd.DataFrame(columns)
