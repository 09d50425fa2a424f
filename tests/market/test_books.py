"""The order-book table: what is valid, and what the first offending row is called."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from flashtrader.errors import DataError
from flashtrader.market.books import (
    Books,
    best_levels,
    book_columns,
    book_table,
    book_values,
    num_levels,
    validate_books,
)

START_MS = 1_700_000_000_000


def a_book(rows: int = 4, levels: int = 3) -> Books:
    """Return valid snapshots a quarter of a second apart."""
    values = np.ones((rows, levels, 4))
    values[:, :, 0] = 101 + np.arange(levels)
    values[:, :, 2] = 100 - np.arange(levels)
    return book_table(START_MS + 250 * np.arange(rows), values)


def test_columns_are_level_by_level() -> None:
    assert book_columns(2) == [
        *("ask_price_1", "ask_size_1", "bid_price_1", "bid_size_1"),
        *("ask_price_2", "ask_size_2", "bid_price_2", "bid_size_2"),
    ]


def test_values_and_table_are_inverse() -> None:
    values = np.random.default_rng(0).random((5, 7, 4))
    table = book_table(np.arange(5), values, np.array([True, False, True, False, False]))
    np.testing.assert_array_equal(book_values(table), values)
    assert num_levels(table) == 7
    assert list(table.columns) == ["timestamp", *book_columns(7), "gap_before"]
    assert [str(kind) for kind in table.dtypes.unique()] == ["int64", "float64", "bool"]


def test_of_one_millisecond_the_last_row_stays_and_a_gap_is_kept() -> None:
    values = np.arange(5)[:, None, None] * np.ones((5, 1, 4))
    gaps = np.array([True, False, True, False, False])
    table = book_table(np.array([1, 2, 2, 2, 3]), values, gaps)
    assert table["timestamp"].tolist() == [1, 2, 3]
    assert table["ask_price_1"].tolist() == [0, 3, 4]
    assert table["gap_before"].tolist() == [True, True, False]


def test_a_valid_table_comes_back_in_order_and_types() -> None:
    book = a_book()
    shuffled = book.sample(axis=1, frac=1, random_state=1).assign(other=1).astype({"ask_size_1": np.float32})
    pd.testing.assert_frame_equal(validate_books(shuffled.set_index(np.arange(4)[::-1]), "here"), book)


def test_without_gap_before_it_is_one_run() -> None:
    assert validate_books(a_book().drop(columns="gap_before"), "here")["gap_before"].tolist() == [True] + 3 * [False]


def test_fewer_levels_are_at_the_end() -> None:
    book = a_book()
    book.loc[1, ["ask_price_3", "ask_size_3"]] = [np.nan, 0.0]
    pd.testing.assert_frame_equal(validate_books(book, "here"), book)


def test_the_best_levels() -> None:
    assert list(best_levels(a_book(), 1)) == ["timestamp", *book_columns(1), "gap_before"]


def put(row: int, **cells: float) -> Callable[[Books], Books]:
    return lambda book: book.assign(
        **{name: np.where(np.arange(len(book)) >= row, value, book[name]) for name, value in cells.items()}
    )


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (put(1, ask_price_1=np.nan), "ask_price_1 nan says that there is no ask at all"),
        (put(1, bid_price_1=np.nan), "bid_price_1 nan says that there is no bid at all"),
        (put(1, bid_price_2=-1), "bid_price_2 -1 is no price: it is above zero"),
        (put(1, ask_price_2=np.inf), "ask_price_2 inf is no price: it is above zero"),
        (put(1, ask_size_3=0), "ask_size_3 0 is no size: it is above zero"),
        (put(1, bid_size_1=np.nan), "bid_size_1 nan is no size: it is above zero"),
        (put(1, bid_price_3=np.nan), "bid_size_3 1 is the size of a level without a price; write 0"),
        (put(1, ask_price_2=np.nan, ask_size_2=0), "ask_price_2 nan is missing, but a worse level is there"),
        (put(1, ask_price_2=103), "ask_price_3 103 is not above the level before it"),
        (put(1, bid_price_2=100), "bid_price_2 100 is not below the level before it"),
        (put(1, bid_price_1=101), "bid_price_1 101 is not below the best ask: the book is crossed"),
        (put(1, bid_price_1=102), "bid_price_1 102 is not below the best ask: the book is crossed"),
    ],
)
def test_the_first_offending_row_is_named(spoil: Callable[[Books], Books], problem: str) -> None:
    with pytest.raises(DataError) as refused:
        validate_books(spoil(a_book()), "here")
    assert str(refused.value) == (f"here: snapshot 2023-11-14T22:13:20.250Z: {problem}; correct or remove this row")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            put(1, timestamp=START_MS),
            "here: snapshot 2023-11-14T22:13:20.000Z is there twice; correct or remove this row",
        ),
        (
            put(2, timestamp=START_MS - 1),
            "here: snapshot 2023-11-14T22:13:19.999Z is out of order: times must increase; correct or remove this row",
        ),
        (
            lambda book: book.drop(columns="bid_size_2"),
            "here: no column bid_size_2; a book has timestamp and, for each level i from 1, ask_price_i, ask_size_i, "
            "bid_price_i, bid_size_i",
        ),
        (
            lambda book: book[["timestamp"]],
            "here: no column ask_price_1, ask_size_1, bid_price_1, bid_size_1; a book has timestamp and, for each "
            "level i from 1, ask_price_i, ask_size_i, bid_price_i, bid_size_i",
        ),
        (
            lambda book: book.assign(timestamp=book["timestamp"] / 1e3),
            "here: column timestamp holds float64; give whole milliseconds since 1970, UTC",
        ),
        (
            lambda book: book.assign(ask_price_1="dear"),
            "here: column ask_price_1 holds something other than numbers (could not convert string to float: 'dear')",
        ),
        (lambda book: book.assign(gap_before=1), "here: column gap_before holds int64, not true and false"),
    ],
)
def test_what_is_no_table_of_books_is_refused(spoil: Callable[[Books], Books], message: str) -> None:
    with pytest.raises(DataError) as refused:
        validate_books(spoil(a_book()), "here")
    assert str(refused.value) == message
